/* SPDX-License-Identifier: MIT */
/*
 * An export of an NBD server as a store. All of it belongs to the reactor's thread, but for what is
 * inside the links.
 *
 *	RUNNING		requests go to the links	ox_nbd_lost: LOST
 *	LOST		a link is gone			the next request: RECOVERING
 *	RECOVERING	one task looks for the server and sends again what is kept, all others
 *			wait				ox_nbd_recover_co: RUNNING or DEAD
 *	DEAD		everything fails, until the store is closed
 *
 * N1: after RECOVERING nothing is sent before all that was kept has been answered again.
 * N2: a write, zeroing or trim holds its range of `order` until it has been answered or has failed,
 *     so that the server's order of those that overlap is ours (K2).
 * N3: after a flush has failed, all flushes and changes fail (M3).
 */
#ifndef OX_IO_NBD_NBD_H
#define OX_IO_NBD_NBD_H

#include "io/io.h"
#include "io/nbd/address.h"
#include "io/nbd/keep.h"
#include "io/nbd/link.h"
#include "rt/sync.h"

/* What is kept at the most, and from when on it is flushed for its size alone. */
#define OX_NBD_KEPT_BYTES (64u << 20)
#define OX_NBD_KEPT_FLUSH_BYTES (OX_NBD_KEPT_BYTES / 2)

enum ox_nbd_state {
	OX_NBD_RUNNING,
	OX_NBD_LOST,
	OX_NBD_RECOVERING,
	OX_NBD_DEAD,
};

struct ox_nbd_links {
	struct ox_nbd_link *link[OX_NBD_LINKS_MAX];
	unsigned calls[OX_NBD_LINKS_MAX]; /* under way on each */
	unsigned count;
};

/* The extents of one answer, each of which is told once, in ascending order. */
struct ox_nbd_seen {
	struct ox_nbd_extents *extents;
	unsigned next;
	uint64_t at;	 /* where that one begins */
	uint64_t change; /* ox_nbd_store.changes when it was asked for */
};

struct ox_nbd_store {
	struct ox_io io;
	const struct ox_nbd_api *api;
	struct ox_nbd_address address;
	struct ox_nbd_connector connector;
	struct ox_nbd_facts facts;
	struct ox_nbd_links links;
	enum ox_nbd_state state;
	int poison;	    /* of a flush that failed (N3) */
	unsigned calls;	    /* requests that the links have */
	uint64_t outage_ns; /* since when nothing was answered; 0: something was */
	struct ox_waitq recovered;
	struct ox_nbd_keep keep;
	struct ox_rangelock order;
	struct ox_waitq room; /* a flush or a request has ended */
	bool flushing;
	uint64_t changes; /* of the bytes, by this store */
	struct ox_nbd_seen seen;
};

/* ---- links.c: the links as a whole, without a reactor ---- */

/* Opens as many links as are worth having; the others' failures are nobody's concern. Blocks.
 * *ret_known: the server has answered, and asking again is of no use. */
int ox_nbd_links_open(struct ox_nbd_store *s, uint64_t limit_ms, struct ox_nbd_facts *ret_facts,
		      bool *ret_known, struct ox_error **err) __attribute__((warn_unused_result));
/* Blocks. */
void ox_nbd_links_close(struct ox_nbd_store *s);

/* ---- recover.c ---- */

/* A request on the least busy link. -ENOTCONN: it is gone, and the store is LOST. */
int ox_nbd_try_co(struct ox_nbd_store *s, struct ox_nbd_request *req);
/* Until the store is RUNNING. -EIO: it is DEAD. */
int ox_nbd_recover_co(struct ox_nbd_store *s);

#endif
