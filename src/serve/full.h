/* SPDX-License-Identifier: MIT */
/*
 * Requests that found no room on the host, and wait for it (--on-full=pause).
 *
 *	ANSWERED  -- a change fails with ENOSPC or EDQUOT -->   WAITS
 *	WAITS     -- tried again -->                            TRIED
 *	TRIED     -- the same error -->                         WAITS, behind the others
 *	TRIED     -- anything else -->                          ANSWERED; all others are tried too
 *	WAITS     -- whoever has it stops -->                   ANSWERED, as it failed, or left
 *
 * One that waits is with nobody: it holds no lock of the image, and a worker's death is not blamed
 * on it. Once a second the one that waits longest is tried. Reads, flushes and other changes are
 * served meanwhile; a change that finds no room waits as well.
 *
 * No order is promised between requests that a client has in flight together, so they may be tried
 * in any.
 */
#ifndef OX_SERVE_FULL_H
#define OX_SERVE_FULL_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "oxbow.h"

#define OX_FULL_RETRY_MS 1000

enum ox_full_news {
	OX_FULL_BEGINS, /* the first one waits */
	OX_FULL_ROOM,	/* what waited was carried out */
	OX_FULL_ENDS,	/* nothing waits any more, because it was given up */
};

enum ox_full_state {
	OX_FULL_ANSWERED,
	OX_FULL_WAITS,
	OX_FULL_TRIED,
};

/* Of a request, zeroed at first. */
struct ox_full_waiter {
	struct ox_full_waiter *next;
	void *owner; /* a connection, a ring: by which it is given up */
	enum ox_full_state state;
	/* Hands it to the library again, or answers it. */
	void (*retry)(struct ox_full_waiter *waiter);
};

struct ox_full {
	bool pauses; /* else every error is answered */
	void (*tell)(void *opaque, enum ox_full_news news);
	void *opaque;
	int64_t since_ms; /* something waits; 0: nothing does */
	size_t waiting;
	size_t tried;
	struct ox_full_waiter *first; /* waits longest */
	struct ox_full_waiter *last;
	bool any_was_done; /* since since_ms */
	bool all;	   /* are to be tried, and not one alone */
	int64_t retry_ms;
};

static inline bool ox_full_is_full(int result)
{
	return result == -ENOSPC || result == -EDQUOT;
}

/*
 * A change of the owner's has completed. True: it waits, and is not to be answered. may_wait: its
 * owner is not about to stop. waiter->retry is set.
 */
bool ox_full_completed(struct ox_full *full, struct ox_full_waiter *waiter, void *owner, int result,
		       bool may_wait, int64_t now_ms) OX_CHECKED;
/* Whether ox_full_completed needs to hear of this result. */
static inline bool ox_full_concerns(const struct ox_full_waiter *waiter, int result)
{
	return result < 0 || waiter->state != OX_FULL_ANSWERED;
}

/* The request is answered or gone, whatever became of it. */
void ox_full_forget(struct ox_full *full, struct ox_full_waiter *waiter);
/* Ends the wait of all that the owner has: each is handed to end, and is its own again. */
void ox_full_give_up(struct ox_full *full, const void *owner,
		     void (*end)(struct ox_full_waiter *waiter));

/* Tries again what is due. */
void ox_full_try(struct ox_full *full, int64_t now_ms);
/* When that is; INT64_MAX: nothing waits. */
int64_t ox_full_due_ms(const struct ox_full *full);
/* All are due now. */
void ox_full_resume(struct ox_full *full);

#endif
