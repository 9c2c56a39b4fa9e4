/* SPDX-License-Identifier: MIT */
/*
 * One client: a socket and its connection. The server's loop learns of readiness from epoll
 * (edge-triggered), notes it here, and then serves each client that is marked.
 */
#ifndef OX_SERVE_NBD_CLIENT_H
#define OX_SERVE_NBD_CLIENT_H

#include "serve/loop.h"
#include "serve/nbd/conn.h"
#include "serve/nbd/peer.h"
#include "serve/tls/tls.h"

struct server;

struct ox_nbd_client {
	struct ox_watched watched; /* first */
	struct ox_serve_loop *loop;
	struct server *server;
	struct ox_nbd_conn conn;
	struct ox_nbd_client *next; /* in the server's list */
	struct ox_nbd_client *next_marked;
	bool marked;
	int fd; /* -1: closed; waits for the library to be done with its requests */
	unsigned number;
	bool readable; /* there may be more to read */
	bool hung_up;  /* the end of the stream is near: a short read does not mean "no more" */
	bool blocked;  /* the socket's send buffer is full: EPOLLOUT is asked for */
	struct ox_tls_session *tls; /* between the socket and conn; NULL: nothing is */
	bool is_tcp;
	bool to_linger;	     /* once all is sent */
	bool lingering;	     /* what the client still sends is thrown away */
	int64_t deadline_ms; /* of the handshake, then of lingering; INT64_MAX: none */

	/* How it uses memory that others wait for: how often it was found to keep them waiting, and
	 * what has moved since the first time. */
	unsigned times_in_the_way;
	uint64_t moved_bytes;

	const char *why; /* it left, or will have; NULL: no reason yet */
	char peer[NBD_PEER_MAX];
};

/* A client that in this time moves less than one part in so many of the memory that it holds, and
 * others wait for, is let go. The time is measured by looks, of which only those count that find
 * somebody waiting. */
#define NBD_PATIENCE_MS 60000
#define NBD_PATIENCE_LOOKS 16
#define NBD_PATIENCE_PARTS 32

/* The credentials for those who come now. */
struct ox_tls *ox_nbd_server_tls(const struct server *server);

/* fd is the client's from here on, also on failure (-errno). */
int ox_nbd_client_new(struct ox_nbd_export *export, struct ox_serve_loop *loop, int fd, bool is_tcp,
		      struct ox_nbd_client **ret_client) OX_CHECKED;
/* The library must have nothing of it. */
void ox_nbd_client_free(struct ox_nbd_client *client);

/* Notes what epoll says. */
void ox_nbd_client_event(struct ox_nbd_client *client, uint32_t events);
/* Reads and sends what can be, within bounds that keep one client from holding up the others.
 * Closes the socket once the connection is over. True: there is more to do at once. */
bool ox_nbd_client_serve(struct ox_nbd_client *client);
/* Nothing new is read from it; closed when all is answered. */
void ox_nbd_client_drain(struct ox_nbd_client *client);
/* Sends nothing more. why: a literal, for the log; an earlier reason stands. */
void ox_nbd_client_close(struct ox_nbd_client *client, const char *why);
/* One look, while anybody waits for memory. True: it has kept others waiting beyond patience. */
bool ox_nbd_client_is_in_the_way(struct ox_nbd_client *client);

#endif
