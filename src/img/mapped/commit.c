/* SPDX-License-Identifier: MIT */
/*
 * Group commit of the mapping tables (D7). Rounds are numbered like syncs: a task that needs its
 * entries durable waits for the next round to begin; whoever finds none running carries it out.
 * A round writes every dirty L1 and L2 slice behind its barrier, then syncs once.
 *
 * What was freed before a round began is released after it: the entry that named it is then durably
 * gone (D4).
 */
#include "img/mapped/mapped.h"

void ox_commit_init(struct ox_mapped *m)
{
	m->commit = (struct ox_commit){0};
	ox_waitq_init(&m->commit.waiters);
	ox_waitq_init(&m->commit.leaving);
}

void ox_commit_enter(struct ox_mapped *m)
{
	m->commit.entered++;
}

void ox_commit_leave(struct ox_mapped *m)
{
	m->commit.left++;
	ox_waitq_wake_all(&m->commit.leaving);
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
	struct ox_mapped *m = arg;

	/* What failed is dirty still: the round that follows meets the error and reports it. */
	int r = ox_cache_flush_co(&m->map);

	(void)r;
	ox_latch_done(&m->background);
}

void ox_commit_start_tables(struct ox_mapped *m)
{
	if (m->commit.entered - m->commit.left > 1 || m->commit.running)
		return; /* in company, one write of the tables serves all */
	ox_latch_add(&m->background);
	if (ox_co_spawn(m->img->reactor, tables_task_co, m) < 0)
		ox_latch_done(&m->background);
}

static void lead_round_co(struct ox_mapped *m)
{
	struct ox_commit *c = &m->commit;
	struct ox_list freed;
	uint64_t number;
	uint64_t ticket;
	int r;

	c->running = true;
	gather_co(c);
	number = ++c->started;
	ox_freed_begin_round(m, &freed);
	r = ox_cache_flush_co(&m->map);
	ticket = ox_order_ticket(&m->order);
	if (r == 0)
		r = ox_order_wait_co(&m->order, ticket);
	ox_assert(r < 0 || ox_order_reached(&m->order, ticket)); /* D7 */
	c->running = false;
	if (r < 0) {
		c->failed = number;
		c->error = r;
	} else {
		c->done = number;
	}
	ox_freed_end_round(m, &freed, r == 0);
	ox_waitq_wake_all(&c->waiters);
}

int ox_commit_co(struct ox_mapped *m)
{
	struct ox_commit *c = &m->commit;
	uint64_t want = c->started + 1;

	while (c->done < want) {
		if (c->failed >= want)
			return c->error;
		if (ox_order_error(&m->order))
			return ox_order_error(&m->order);
		if (c->running)
			ox_waitq_wait_co(&c->waiters);
		else
			lead_round_co(m);
	}
	return 0;
}

static void commit_task_co(void *arg)
{
	struct ox_mapped *m = arg;

	/* A failure poisons the order or leaves the frees pending; the next flush reports it. */
	if (ox_commit_co(m) < 0)
		m->freed.pending_count = 0;
	m->commit.soon = false;
	ox_latch_done(&m->background);
}

void ox_commit_soon(struct ox_mapped *m)
{
	if (m->commit.soon)
		return;
	ox_latch_add(&m->background);
	m->commit.soon = true;
	if (ox_co_spawn(m->img->reactor, commit_task_co, m) < 0) {
		m->commit.soon = false;
		ox_latch_done(&m->background);
	}
}
