/* SPDX-License-Identifier: MIT */
/*
 * TLS of the client's side: credentials by the names that libnbd gives their files, and sessions as
 * a server has them (tls.h). For a process that connects for another one.
 */
#ifndef OX_SERVE_TLS_CLIENT_H
#define OX_SERVE_TLS_CLIENT_H

#include "serve/tls/tls.h"

struct ox_tls_client_options {
	/* A folder with ca-cert.pem, and perhaps client-cert.pem, client-key.pem and ca-crl.pem.
	 * NULL: libnbd's, or else the authorities that the system trusts. */
	const char *certificates;
	const char *psk_file; /* of lines USER:KEY; certificates then do not matter. NULL: none */
	const char *username; /* of psk_file; NULL: the login name */
	const char *hostname; /* that the server's certificate is to name */
	bool is_unverified;   /* the server's certificate is taken as it is */
};

struct ox_tls_client;

/* After ox_serve_tls_prepare; opens files. The options' strings are to outlive it. -errno, and
 * *ret_error. */
int ox_tls_client_new(const struct ox_tls_client_options *options, struct ox_tls_client **ret,
		      struct ox_serve_error *ret_error) OX_CHECKED;
/* After its sessions. NULL is allowed. */
void ox_tls_client_free(struct ox_tls_client *client);

/* fd: a socket of which the server waits for a handshake. -errno. */
int ox_tls_client_begin(struct ox_tls_client *client, int fd,
			struct ox_tls_session **ret) OX_CHECKED;
/* After -EPROTO of the handshake: why, as text of so many bytes. */
void ox_tls_client_why(const struct ox_tls_session *session, char *text, size_t size);

#endif
