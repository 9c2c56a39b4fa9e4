/* SPDX-License-Identifier: MIT */
/*
 * Group commit of the mapping tables (D7). Rounds are numbered like syncs: a task that needs its
 * entries durable waits for the next round to begin; whoever finds none running carries it out.
 * A round writes every dirty L1 and L2 slice behind its barrier, then syncs once.
 *
 * What was freed before a round began is released after it: the entry that named it is then durably
 * gone (D4).
 */
#include "img/qcow2/qcow2.h"

void ox_commit_init(struct ox_qcow2 *q)
{
	q->commit = (struct ox_commit){0};
	ox_waitq_init(&q->commit.waiters);
	ox_waitq_init(&q->commit.leaving);
}

void ox_commit_enter(struct ox_qcow2 *q)
{
	q->commit.entered++;
}

void ox_commit_leave(struct ox_qcow2 *q)
{
	q->commit.left++;
	ox_waitq_wake_all(&q->commit.leaving);
}

/* Writers end in any order, so that counts can only be compared; those that began later may stand
 * in for some that began before. Either way as many have joined as were on their way. */
static void gather_co(struct ox_commit *c)
{
	uint64_t upto = c->entered;

	while (c->left < upto)
		ox_waitq_wait_co(&c->leaving);
	ox_co_yield_co(); /* they run, and join */
}

static void tables_task_co(void *arg)
{
	struct ox_qcow2 *q = arg;

	/* What failed is dirty still: the round that follows meets the error and reports it. */
	int r = ox_cache_flush_co(&q->map);

	(void)r;
	ox_latch_done(&q->background);
}

void ox_commit_start_tables(struct ox_qcow2 *q)
{
	if (q->commit.entered - q->commit.left > 1 || q->commit.running)
		return; /* in company, one write of the tables serves all */
	ox_latch_add(&q->background);
	if (ox_co_spawn(q->img->reactor, tables_task_co, q) < 0)
		ox_latch_done(&q->background);
}

static void lead_round_co(struct ox_qcow2 *q)
{
	struct ox_commit *c = &q->commit;
	struct ox_list freed;
	uint64_t number;
	uint64_t ticket;
	int r;

	c->running = true;
	gather_co(c);
	number = ++c->started;
	ox_list_init(&freed);
	ox_list_splice_back(&freed, &q->alloc.pending);
	q->alloc.pending_count = 0;

	r = ox_cache_flush_co(&q->map);
	ticket = ox_order_ticket(&q->order);
	if (r == 0)
		r = ox_order_wait_co(&q->order, ticket);
	ox_assert(r < 0 || ox_order_reached(&q->order, ticket)); /* D7 */
	c->running = false;
	if (r < 0) {
		c->failed = number;
		c->error = r;
		ox_list_splice_back(&q->alloc.pending, &freed);
	} else {
		c->done = number;
		ox_list_splice_back(&q->alloc.ready, &freed);
		ox_alloc_start_release(q);
	}
	ox_waitq_wake_all(&c->waiters);
}

int ox_commit_co(struct ox_qcow2 *q)
{
	struct ox_commit *c = &q->commit;
	uint64_t want = c->started + 1;

	while (c->done < want) {
		if (c->failed >= want)
			return c->error;
		if (ox_order_error(&q->order))
			return ox_order_error(&q->order);
		if (c->running)
			ox_waitq_wait_co(&c->waiters);
		else
			lead_round_co(q);
	}
	return 0;
}

static void commit_task_co(void *arg)
{
	struct ox_qcow2 *q = arg;

	/* A failure poisons the order or leaves the frees pending; the next flush reports it. */
	if (ox_commit_co(q) < 0)
		q->alloc.pending_count = 0;
	q->commit.soon = false;
	ox_latch_done(&q->background);
}

void ox_commit_soon(struct ox_qcow2 *q)
{
	if (q->commit.soon)
		return;
	ox_latch_add(&q->background);
	q->commit.soon = true;
	if (ox_co_spawn(q->img->reactor, commit_task_co, q) < 0) {
		q->commit.soon = false;
		ox_latch_done(&q->background);
	}
}
