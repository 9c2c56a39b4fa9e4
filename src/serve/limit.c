/* SPDX-License-Identifier: MIT */
#include "serve/limit.h"

#include <assert.h>

#define SECOND_NS 1000000000
/* Whoever has requests without end that cost next to nothing does not keep a turn from ending. */
#define RESUMES_A_CALL 256

/* ---- a bucket ---- */

static int64_t time_of(uint64_t units, uint64_t rate)
{
	const double ns = (double)units * SECOND_NS / (double)rate;

	return ns < (double)OX_LIMIT_SAVED_MAX_NS ? (int64_t)ns : OX_LIMIT_SAVED_MAX_NS;
}

static void set_bucket(struct ox_limit_bucket *bucket, uint64_t rate, uint64_t burst,
		       int64_t now_ns)
{
	*bucket = (struct ox_limit_bucket){.rate = rate, .due_ns = now_ns};
	if (rate == 0)
		return;
	/* One unit of a full bucket is due, the others are saved up. */
	bucket->saved_ns = burst ? time_of(burst - 1, rate) : OX_LIMIT_BURST_NS - time_of(1, rate);
	if (bucket->saved_ns < OX_LIMIT_GRAIN_NS)
		bucket->saved_ns = OX_LIMIT_GRAIN_NS;
}

static bool is_due(const struct ox_limit_bucket *bucket, int64_t now_ns)
{
	return bucket->rate == 0 || bucket->due_ns <= now_ns;
}

static void charge(struct ox_limit_bucket *bucket, uint64_t units, int64_t now_ns)
{
	uint64_t parts;

	if (bucket->rate == 0)
		return;
	if (bucket->due_ns < now_ns - bucket->saved_ns) {
		bucket->due_ns = now_ns - bucket->saved_ns;
		bucket->rest = 0;
	}
	assert(units <= UINT32_MAX && bucket->rate <= OX_SERVE_LIMIT_MAX);
	parts = units * SECOND_NS + bucket->rest;
	bucket->due_ns += (int64_t)(parts / bucket->rate);
	bucket->rest = parts % bucket->rate;
}

/* ---- those who share it ---- */

void ox_limit_set(struct ox_limit *limit, const struct ox_serve_limits *limits, int64_t now_ns)
{
	limit->limits = *limits;
	limit->is_on = limits->iops > 0 || limits->bandwidth > 0;
	set_bucket(&limit->iops, limits->iops, limits->iops_burst, now_ns);
	set_bucket(&limit->bandwidth, limits->bandwidth, limits->bandwidth_burst, now_ns);
}

static bool may_take(const struct ox_limit *limit, int64_t now_ns)
{
	return is_due(&limit->iops, now_ns) && is_due(&limit->bandwidth, now_ns);
}

static void enqueue(struct ox_limit *limit, struct ox_limit_waiter *waiter)
{
	waiter->waits = true;
	waiter->next = NULL;
	if (limit->first)
		limit->last->next = waiter;
	else
		limit->first = waiter;
	limit->last = waiter;
}

bool ox_limit_ask_at(struct ox_limit *limit, struct ox_limit_waiter *waiter, int64_t now_ns)
{
	const bool is_its_turn = limit->resumed == waiter || !limit->first;

	if (waiter->waits)
		return false;
	limit->resumed = NULL;
	if (is_its_turn && may_take(limit, now_ns))
		return true;
	enqueue(limit, waiter);
	return false;
}

void ox_limit_charge_at(struct ox_limit *limit, uint64_t ios, uint64_t bytes, int64_t now_ns)
{
	charge(&limit->iops, ios, now_ns);
	charge(&limit->bandwidth, bytes, now_ns);
}

void ox_limit_leave(struct ox_limit *limit, struct ox_limit_waiter *waiter)
{
	struct ox_limit_waiter *before = NULL;

	if (!waiter->waits)
		return;
	waiter->waits = false;
	if (limit->first == waiter) {
		limit->first = waiter->next;
		return;
	}
	for (before = limit->first; before->next != waiter; before = before->next)
		;
	before->next = waiter->next;
	if (limit->last == waiter)
		limit->last = before;
}

void ox_limit_release(struct ox_limit *limit, int64_t now_ns)
{
	for (int i = 0; i < RESUMES_A_CALL && limit->first && may_take(limit, now_ns); i++) {
		struct ox_limit_waiter *waiter = limit->first;

		ox_limit_leave(limit, waiter);
		limit->resumed = waiter;
		waiter->resume(waiter);
		limit->resumed = NULL;
	}
}

int64_t ox_limit_due_ns(const struct ox_limit *limit)
{
	int64_t due_ns = 0;

	if (!limit->first)
		return INT64_MAX;
	if (limit->iops.rate > 0)
		due_ns = limit->iops.due_ns;
	if (limit->bandwidth.rate > 0 && limit->bandwidth.due_ns > due_ns)
		due_ns = limit->bandwidth.due_ns;
	return due_ns;
}
