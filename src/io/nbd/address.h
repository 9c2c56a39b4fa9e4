/* SPDX-License-Identifier: MIT */
/* Where an export is, and how it is to be reached: what a URI says. */
#ifndef OX_IO_NBD_ADDRESS_H
#define OX_IO_NBD_ADDRESS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

#define OX_NBD_LINKS_MAX 16
#define OX_NBD_LINKS_DEFAULT 4
#define OX_NBD_RECONNECT_SECONDS 10
#define OX_NBD_OPEN_SECONDS 30

struct ox_nbd_address {
	char *socket; /* path of a unix socket; NULL: host and port */
	char *host;
	char *port;
	char *export_name;
	bool tls;
	bool tls_unverified; /* the server's certificate is taken as it is */
	char *tls_certificates;
	char *tls_psk_file;
	char *tls_username;
	char *tls_hostname;    /* that the server's certificate is to name; NULL: host */
	uint64_t reconnect_ms; /* how long a lost server is looked for; 0: not at all */
	uint64_t open_ms;      /* how long one that cannot be reached is tried again; 0: not */
	uint64_t answer_ms;    /* how long a server may take to answer at the opening; > 0 */
	unsigned connections;  /* at the most */
};

/* What connects in the place of the library, in a process that may not. A connected socket, or a
 * negative errno, within limit_ms. From any thread. */
struct ox_nbd_connector {
	int (*connect)(void *opaque, unsigned limit_ms); /* NULL: the library connects */
	void *opaque;
};

/*
 *	nbd://HOST[:PORT]/EXPORT	nbd+unix:///EXPORT?socket=PATH
 *	nbds://...			nbds+unix://...			by TLS
 *	nbd:HOST:PORT[:exportname=EXPORT]	nbd:unix:PATH[:exportname=EXPORT]
 *
 * Parameters behind the '?': socket, tls-certificates, tls-psk-file, tls-username, tls-hostname,
 * tls-verify-peer, reconnect-delay and open-timeout (seconds), connections.
 */
int ox_nbd_address_parse(const char *text, struct ox_nbd_address *ret, struct ox_error **err)
	__attribute__((warn_unused_result));
/* connect.c: a connected socket, or a negative errno. Blocks, for limit_ms a host's address. */
int ox_nbd_address_connect(const struct ox_nbd_address *address, unsigned limit_ms)
	__attribute__((warn_unused_result));
/* What was parsed, or is all zero. */
void ox_nbd_address_free(struct ox_nbd_address *address);

#endif
