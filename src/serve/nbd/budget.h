/* SPDX-License-Identifier: MIT */
/*
 * The memory that all connections together may take (docs/serving.md, "Memory"). It has two parts:
 *
 *   shares   one a connection, of the same size, that nobody else can take
 *   common   what a connection takes beyond its share comes from here, and may have to wait
 *
 * Whoever waits is served by rank: who holds least of the common part comes first, and among equals
 * who came first. A request that goes beyond its share never passes one of a better rank, however
 * small it is, so that large ones are not starved. Who holds something of the common part already
 * gets more only as long as that leaves room for somebody's largest request.
 *
 * Invariants: the shares of all connections and the common part are the limit; common_used_bytes is
 * the sum of what connections hold beyond their shares, and at most common_bytes.
 */
#ifndef OX_SERVE_NBD_BUDGET_H
#define OX_SERVE_NBD_BUDGET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The common part always has room for one largest request, and each share for a connection and a
 * few small ones. */
#define NBD_COMMON_MIN_BYTES ((size_t)36 << 20)
#define NBD_COMMON_SPARED_BYTES ((size_t)33 << 20)
#define NBD_SHARE_MIN_BYTES ((size_t)256 << 10)

struct ox_nbd_share {
	size_t held_bytes;
	size_t wanted_bytes; /* > 0: it waits for so many */
	struct ox_nbd_share *next_waiting;
	uint64_t ticket; /* smaller: has waited longer */
};

struct ox_nbd_budget {
	size_t limit_bytes;
	size_t share_bytes;
	size_t common_bytes;
	size_t common_used_bytes;
	size_t used_bytes;
	struct ox_nbd_share *waiting; /* by ticket, descending */
	uint64_t next_ticket;
	bool eased; /* since ox_nbd_budget_next last found nobody */
};

/* The least limit for so many connections. */
size_t ox_nbd_budget_min_bytes(unsigned connections);
/* limit_bytes is at least that. */
void ox_nbd_budget_init(struct ox_nbd_budget *budget, size_t limit_bytes, unsigned connections);

/* False: share now waits for bytes (> 0), and is to ask again when ox_nbd_budget_next says so. What
 * it waited for before, it waits for no longer. */
bool ox_nbd_budget_take(struct ox_nbd_budget *budget, struct ox_nbd_share *share, size_t bytes);
void ox_nbd_budget_give(struct ox_nbd_budget *budget, struct ox_nbd_share *share, size_t bytes);
/* It does not wait any more. */
void ox_nbd_budget_leave(struct ox_nbd_budget *budget, struct ox_nbd_share *share);
/* Who can have what it waits for; NULL: nobody. */
struct ox_nbd_share *ox_nbd_budget_next(struct ox_nbd_budget *budget);

/* What it holds of the common part. */
size_t ox_nbd_budget_beyond(const struct ox_nbd_budget *budget, const struct ox_nbd_share *share);
/* Whether anybody else waits. */
bool ox_nbd_budget_others_wait(const struct ox_nbd_budget *budget,
			       const struct ox_nbd_share *share);

#endif
