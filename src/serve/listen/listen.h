/* SPDX-License-Identifier: MIT */
/* The sockets that a server listens on. */
#ifndef OX_SERVE_LISTEN_LISTEN_H
#define OX_SERVE_LISTEN_LISTEN_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "serve/serve.h"

#define OX_LISTEN_MAX 8

struct ox_listeners {
	int fds[OX_LISTEN_MAX]; /* non-blocking */
	int count;
	bool is_unix;
	char *path; /* of a unix socket, absolute */
	dev_t path_dev;
	ino_t path_ino;
	char *host; /* as it stands in a URI; TCP */
	unsigned port;
};

/* address as struct ox_serve_nbd_options has it. A unix socket that nobody listens on is replaced.
 * On failure a negative errno, *ret_error, and nothing is left open. */
int ox_listen(const char *address, const struct ox_serve_socket_rights *rights,
	      struct ox_listeners *ret_listeners, struct ox_serve_error *ret_error) OX_CHECKED;
/* The same for a unix socket alone; "fd:N" is one that listens already, the descriptor N. */
int ox_listen_path(const char *path, const struct ox_serve_socket_rights *rights,
		   struct ox_listeners *ret_listeners, struct ox_serve_error *ret_error) OX_CHECKED;
/* A duplicate of a socket that somebody else has made and listens on. name: for messages. */
int ox_listen_adopt(int fd, const char *name, struct ox_listeners *ret_listeners,
		    struct ox_serve_error *ret_error) OX_CHECKED;
/* Of "fd:N", where N is a connected unix socket: 1, and a duplicate of it; 0: it is none; -errno,
 * and *ret_error. */
int ox_listen_connected(const char *address, int *ret_fd,
			struct ox_serve_error *ret_error) OX_CHECKED;
/* Closes them, and removes the unix socket if it is still the one that was made. */
void ox_listeners_close(struct ox_listeners *listeners);
/* Whether other hosts can reach them only by TLS, or options say that this is meant; -EACCES. */
int ox_listen_check(const struct ox_listeners *listeners,
		    const struct ox_serve_nbd_options *options,
		    struct ox_serve_error *ret_error) OX_CHECKED;
/* The URI for clients, to be freed; NULL when memory is short. */
char *ox_listeners_uri(const struct ox_listeners *listeners, const char *export_name, bool tls);

/* ---- unix.c, tcp.c: one kind of address each. On failure the caller closes what is
 * in *listeners ---- */

int ox_listen_unix(const char *path, const struct ox_serve_socket_rights *rights,
		   struct ox_listeners *listeners, struct ox_serve_error *error) OX_CHECKED;
/* -1: the address is no "fd:N". */
int ox_listen_fd_of(const char *address);
int ox_listen_inherited(const char *address, int fd, struct ox_listeners *listeners,
			struct ox_serve_error *error) OX_CHECKED;
/* text has a colon. */
int ox_listen_tcp(const char *text, struct ox_listeners *listeners,
		  struct ox_serve_error *error) OX_CHECKED;
/* Returns code, having put the words into *error. */
int ox_listen_fail(struct ox_serve_error *error, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

#endif
