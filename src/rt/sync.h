/* SPDX-License-Identifier: MIT */
/*
 * Task-level synchronisation within one reactor. None of it guards against threads. All queues
 * are first come, first served.
 */
#ifndef OX_RT_SYNC_H
#define OX_RT_SYNC_H

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "rt/co.h"

/* Tasks that wait for a condition. The waiter tests the condition again after each wait. */
struct ox_waitq {
	struct ox_list waiters;
};

void ox_waitq_init(struct ox_waitq *q);
void ox_waitq_wait_co(struct ox_waitq *q);
void ox_waitq_wake_one(struct ox_waitq *q);
void ox_waitq_wake_all(struct ox_waitq *q);

struct ox_mutex {
	struct ox_co *owner;
	struct ox_waitq q;
};

void ox_mutex_init(struct ox_mutex *m);
void ox_mutex_lock_co(struct ox_mutex *m);
void ox_mutex_unlock(struct ox_mutex *m); /* asserts that the running task is the owner */

/* Counts children down: add before spawning each, done at the end of each, wait for zero. */
struct ox_latch {
	unsigned count;
	struct ox_waitq q;
};

void ox_latch_init(struct ox_latch *l);
void ox_latch_add(struct ox_latch *l);
void ox_latch_done(struct ox_latch *l);
void ox_latch_wait_co(struct ox_latch *l);

/*
 * Locks on ranges of a 64-bit space, shared or exclusive. A request waits for every conflicting
 * range that is held or was asked for before it (so that no request starves). The caller owns
 * the struct ox_range, which stays linked in until ox_rangelock_release.
 */
struct ox_rangelock {
	struct ox_list ranges; /* struct ox_range by arrival; held and waiting */
	unsigned exclusive;    /* of them; with none, shared ranges need not be looked through */
	unsigned waiting;
};

struct ox_range {
	struct ox_list link;
	uint64_t start;
	uint64_t end; /* exclusive */
	bool exclusive;
	bool held;
	struct ox_co *waiter;
};

void ox_rangelock_init(struct ox_rangelock *l);
/* [start, start + len), len > 0. A length that overflows is cut at UINT64_MAX. */
void ox_rangelock_acquire_co(struct ox_rangelock *l, struct ox_range *range, uint64_t start,
			     uint64_t len, bool exclusive);
/* True and held where it could be had at once; false and untouched otherwise. */
bool ox_rangelock_try_acquire(struct ox_rangelock *l, struct ox_range *range, uint64_t start,
			      uint64_t len, bool exclusive);
void ox_rangelock_release(struct ox_rangelock *l, struct ox_range *range);
/* Turns a held exclusive range into a shared one and wakes whom that frees. */
void ox_rangelock_downgrade(struct ox_rangelock *l, struct ox_range *range);
bool ox_rangelock_idle(const struct ox_rangelock *l);

#endif
