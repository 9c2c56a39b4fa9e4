/* SPDX-License-Identifier: MIT */
/*
 * One client: a socket and its connection. The server's loop learns of readiness from epoll
 * (edge-triggered), notes it here, and then serves each client that is marked.
 */
#ifndef OX_SERVE_NBD_CLIENT_H
#define OX_SERVE_NBD_CLIENT_H

#include "serve/nbd/conn.h"
#include "serve/nbd/peer.h"

/* What an epoll event is about; the first member of whatever is watched. */
enum ox_nbd_watch {
	NBD_WATCH_LISTENER,
	NBD_WATCH_SIGNALS,
	NBD_WATCH_LIBRARY,
	NBD_WATCH_CLIENT,
};

struct ox_nbd_client {
	enum ox_nbd_watch watch;
	struct ox_nbd_conn conn;
	struct ox_nbd_client *next; /* in the server's list */
	struct ox_nbd_client *next_marked;
	bool marked;
	int fd; /* -1: closed; waits for the library to be done with its requests */
	int epoll_fd;
	unsigned number;
	bool readable; /* there may be more to read */
	bool hung_up;  /* the end of the stream is near: a short read does not mean "no more" */
	bool blocked;  /* the socket's send buffer is full: EPOLLOUT is asked for */
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

int64_t ox_nbd_now_ms(void);

/* fd is the client's from here on, also on failure (-errno). */
int ox_nbd_client_new(struct ox_nbd_export *export, int epoll_fd, int fd, bool is_tcp,
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
