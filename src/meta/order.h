/* SPDX-License-Identifier: MIT */
/*
 * Write-order barriers and group commit, over one byte store.
 *
 * Syncs are numbered. A *ticket* is the number of a sync: "what had completed when the ticket was
 * drawn is durable once that sync is done" (M1). Tasks that need durability wait for a ticket;
 * whoever finds no sync running carries out the next one, and one sync serves all who wait.
 *
 * A sync that fails poisons the order for good (M3): nothing is known of the writes before it, so
 * every later wait fails, and the image refuses every later write and flush.
 */
#ifndef OX_META_ORDER_H
#define OX_META_ORDER_H

#include <stdbool.h>
#include <stdint.h>

#include "io/io.h"
#include "meta/state.h"
#include "rt/sync.h"

struct ox_order {
	struct ox_io *io;
	uint64_t started; /* number of the last sync begun */
	uint64_t done;	  /* number of the last sync that succeeded */
	bool running;
	bool skip_syncs;	/* cache mode unsafe: syncs are counted, not carried out */
	unsigned forced;	/* waiters for whom they are carried out all the same */
	int error;		/* negative once poisoned */
	struct ox_state *state; /* that outlives the process, and the poison with it; NULL: none */
	struct ox_waitq waiters;
};

/* A ticket that has always been reached: "no order is owed". */
#define OX_TICKET_NONE UINT64_C(0)

void ox_order_init(struct ox_order *o, struct ox_io *io, bool skip_syncs);

/* The ticket for everything that has completed up to now. */
static inline uint64_t ox_order_ticket(const struct ox_order *o)
{
	return o->started + 1;
}

static inline bool ox_order_reached(const struct ox_order *o, uint64_t ticket)
{
	return o->done >= ticket;
}

/* Waits until the ticket's sync is done, carrying it out if nobody else does. 0 or the error that
 * poisoned the order. */
int ox_order_wait_co(struct ox_order *o, uint64_t ticket) __attribute__((warn_unused_result));

/* Makes everything that has completed up to now durable, also in a mode that skips syncs. */
int ox_order_sync_always_co(struct ox_order *o) __attribute__((warn_unused_result));

/* What is on the disk is not known any more (a header write failed): as after a failed sync. */
void ox_order_poison(struct ox_order *o, int error);

/* 0, or the error that poisoned the order. */
static inline int ox_order_error(const struct ox_order *o)
{
	return o->error;
}

#endif
