/* SPDX-License-Identifier: MIT */
/*
 * Limits of I/Os and of bytes a second, which all clients of a disk share.
 *
 * A bucket holds what was saved up in idle time, up to its burst, and each request takes out what
 *it costs. A request is taken while something is left, so that one which is larger than the bucket
 *is served too: it leaves a debt, and nothing is taken until time has paid that.
 *
 *	ask      before a request is read or taken. No: whoever asked is queued
 *	charge   for what was taken
 *	release  once something is left: whoever waits longest is resumed, takes one request and,
 *		 if it has more, asks again, behind all others
 *
 * So clients and rings that wait take turns, a request each, and none starves. What is not taken
 * stays in the client's socket or in the guest's ring. Nothing that ends ever waits here.
 *
 * The clock is an argument: nanoseconds of one that never goes back.
 */
#ifndef OX_SERVE_LIMIT_H
#define OX_SERVE_LIMIT_H

#include <stdbool.h>
#include <stdint.h>

#include "serve/clock.h"
#include "serve/serve.h"

/* What a bucket holds where no burst is stated, in time. */
#define OX_LIMIT_BURST_NS INT64_C(100000000)
/* It always holds as much, so that no time is lost to a timer that comes late. */
#define OX_LIMIT_GRAIN_NS INT64_C(10000000)
/* And no more than a day's worth. */
#define OX_LIMIT_SAVED_MAX_NS INT64_C(86400000000000)

/* A moment in place of a level: that from which on the next request is due. It lies in the past by
 * what is saved up, or ahead by what is owed. */
struct ox_limit_bucket {
	uint64_t rate;	  /* units a second; 0: no limit */
	int64_t saved_ns; /* the most that can be saved up, beyond the unit that is due */
	int64_t due_ns;
	uint64_t rest; /* of a nanosecond, in parts of rate */
};

/* Whoever takes requests: a connection, a ring. */
struct ox_limit_waiter {
	struct ox_limit_waiter *next;
	bool waits;
	void (*resume)(struct ox_limit_waiter *waiter);
};

struct ox_limit {
	struct ox_serve_limits limits;
	bool is_on;
	struct ox_limit_bucket iops;
	struct ox_limit_bucket bandwidth;
	struct ox_limit_waiter *first; /* waits longest */
	struct ox_limit_waiter *last;
	const struct ox_limit_waiter *resumed; /* it is its turn */
};

/* What was saved up and what was owed is forgotten; whoever waits stays queued. */
void ox_limit_set(struct ox_limit *limit, const struct ox_serve_limits *limits, int64_t now_ns);

/* Whether the waiter may take a request, for which it is to be charged; false: it is queued. */
bool ox_limit_ask_at(struct ox_limit *limit, struct ox_limit_waiter *waiter,
		     int64_t now_ns) OX_CHECKED;
void ox_limit_charge_at(struct ox_limit *limit, uint64_t ios, uint64_t bytes, int64_t now_ns);
/* It waits no longer, whether it did or not. */
void ox_limit_leave(struct ox_limit *limit, struct ox_limit_waiter *waiter);
/* Resumes who waits, as far as the limits go. */
void ox_limit_release(struct ox_limit *limit, int64_t now_ns);
/* When release has something to do; INT64_MAX: nobody waits. */
int64_t ox_limit_due_ns(const struct ox_limit *limit);

/* ---- with the clock of the server; a limit that is NULL or off costs a look ---- */

static inline bool ox_limit_ask(struct ox_limit *limit, struct ox_limit_waiter *waiter)
{
	return !limit || !limit->is_on || ox_limit_ask_at(limit, waiter, ox_serve_now_ns());
}

static inline void ox_limit_charge(struct ox_limit *limit, uint64_t ios, uint64_t bytes)
{
	if (limit && limit->is_on)
		ox_limit_charge_at(limit, ios, bytes, ox_serve_now_ns());
}

#endif
