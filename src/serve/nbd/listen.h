/* SPDX-License-Identifier: MIT */
/* The sockets that a server listens on. */
#ifndef OX_SERVE_NBD_LISTEN_H
#define OX_SERVE_NBD_LISTEN_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "serve/serve.h"

#define NBD_LISTEN_MAX 8

struct ox_nbd_listeners {
	int fds[NBD_LISTEN_MAX]; /* non-blocking */
	int count;
	bool is_unix;
	char *path; /* of a unix socket, absolute */
	dev_t path_dev;
	ino_t path_ino;
	char *host; /* as it stands in a URI; TCP */
	unsigned port;
};

/* address as ox_serve_nbd_options has it. A unix socket that nobody listens on is replaced. On
 * failure a negative errno, *ret_error, and nothing is left open. */
int ox_nbd_listen(const char *address, struct ox_nbd_listeners *ret_listeners,
		  struct ox_serve_error *ret_error) OX_CHECKED;
/* Closes them, and removes the unix socket if it is still the one that was made. */
void ox_nbd_listeners_close(struct ox_nbd_listeners *listeners);
/* The URI for clients, to be freed; NULL when memory is short. */
char *ox_nbd_listeners_uri(const struct ox_nbd_listeners *listeners, const char *export_name);

/* ---- listen_unix.c, listen_tcp.c: one kind of address each. On failure the caller closes what is
 * in *listeners ---- */

int ox_nbd_listen_unix(const char *path, struct ox_nbd_listeners *listeners,
		       struct ox_serve_error *error) OX_CHECKED;
/* text has a colon. */
int ox_nbd_listen_tcp(const char *text, struct ox_nbd_listeners *listeners,
		      struct ox_serve_error *error) OX_CHECKED;
/* Returns code, having put the words into *error. */
int ox_nbd_listen_fail(struct ox_serve_error *error, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

#endif
