/* SPDX-License-Identifier: MIT */
/*
 * Servers: an open image, offered to clients of a block protocol. A server runs in the thread of
 * the image's context and returns when it is told to stop by SIGTERM, SIGINT or SIGHUP, which the
 * caller has blocked (ox_serve_block_signals) before any thread was started.
 */
#ifndef OX_SERVE_SERVE_H
#define OX_SERVE_SERVE_H

#include "oxbow.h"

/* What a server has from a process that outlives it, instead of making it. */
struct ox_serve_handed {
	const int *listeners; /* listening and non-blocking; closed by the server, not removed */
	int listener_count;
	bool listeners_are_unix;
	/* Non-blocking; closed by the server. Each message stands for a signal; signals themselves
	 * are not looked at. */
	int stop_fd;
};

struct ox_serve_nbd_options {
	/* unix:PATH; HOST:PORT, [ADDRESS]:PORT, *:PORT (all addresses) or :PORT (the loopback),
	 * with port 0 for any free one; else a path. */
	const char *address;
	const char *export_name; /* "" is the default export */
	const char *description; /* NULL: none */
	unsigned max_clients;	 /* > 0; further ones wait in the listen queue */
	/* For requests in flight, buffers and connections together; 0: the default. At least
	 * ox_serve_nbd_memory_min(max_clients). */
	uint64_t memory_bytes;
	/* How long a client may keep memory that others wait for without reading or sending on,
	 * in ms; 0: a minute. */
	unsigned patience_ms;
	/* How long the end waits for the library without any request being completed, in ms; 0: a
	 * minute. */
	unsigned drain_ms;
	const struct ox_serve_handed *handed; /* NULL: address and signals */
	/* Called once, when clients can connect, with the URI for them (NULL with handed). A
	 * negative errno ends the server, which returns it; the callee has said why. */
	int (*ready)(void *opaque, const char *uri);
	/* Called with one line for each thing that the user should know. */
	void (*warn)(void *opaque, const char *message);
	/* Called with one line for each connection that comes or goes. NULL: not told. */
	void (*log)(void *opaque, const char *message);
	void *opaque;
};

/* What went wrong, in words. */
struct ox_serve_error {
	char message[512];
	/* Requests will never complete, or did not in time: the image cannot be closed any more. */
	bool requests_lost;
};

/* Blocks the signals that stop a server, so that it can take them from a descriptor. */
void ox_serve_block_signals(void);

/* The least memory for so many clients. */
uint64_t ox_serve_nbd_memory_min(unsigned max_clients);
/* What is taken where none is stated: 256 MiB, or more if so many clients need it. */
uint64_t ox_serve_nbd_memory_default(unsigned max_clients);

/*
 * Serves image until told to stop; then finishes what it has accepted, sends the replies (waiting a
 * bounded time for clients that do not read) and returns 0. The image stays open. On failure, also
 * of the library's I/O engine, or of a store that answers no more, returns a negative errno and
 * fills *ret_error.
 */
int ox_serve_nbd(struct ox_context *ctx, struct ox_image *image,
		 const struct ox_serve_nbd_options *options,
		 struct ox_serve_error *ret_error) OX_CHECKED;

#endif
