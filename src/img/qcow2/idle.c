/* SPDX-License-Identifier: MIT */
/*
 * The bounded dirty window: once nothing has been allocated for a while, the refcounts are
 * committed and the dirty bit is cleared, beside the guest's requests, so that a crash of an idle
 * guest leaves a clean image. In an image whose refcounts are kept there is no bit, and the reserve
 * alone is given back: no entry names it, so its counts may reach the disk at any time (D3). There
 * a guest that allocates little after it has allocated much gives it back as well.
 *
 * The allocator's lock is held from the moment the reserve is given back until the bit is cleared:
 * no refill comes between, so every cluster that an entry names, or that a request under way is
 * about to name, has its count on disk (D3, D6). Requests that need no new cluster go on; the next
 * refill sets the bit again first (D5).
 */
#include "img/qcow2/qcow2.h"

/* Quiet steps that make the idle time. */
#define IDLE_STEPS 4u
/* A reserve that would last longer than so many steps is too large. */
#define RESERVE_STEPS 16u

static int clear_bit_locked_co(struct ox_qcow2 *q)
{
	int r = ox_order_sync_always_co(&q->order);

	return r < 0 ? r : ox_lazy_clear_co(q);
}

int ox_idle_commit_counts_co(struct ox_qcow2 *q, uint64_t takes)
{
	int r = 0;

	ox_mutex_lock_co(&q->alloc.lock);
	if (q->alloc.takes == takes && !ox_recover_active(q)) {
		ox_alloc_calm(q);
		r = ox_alloc_return_reserve_co(q);
		if (r == 0)
			r = ox_cache_flush_co(&q->counts);
		if (r == 0 && q->lazy.state == OX_LAZY_DIRTY)
			r = clear_bit_locked_co(q);
	}
	ox_mutex_unlock(&q->alloc.lock);
	return r;
}

/* What a guest has taken in a step says how long the reserve would last. A recovery finds a lazy
 * image's. */
static int give_back_excess_co(struct ox_qcow2 *q, uint64_t taken)
{
	int r = 0;

	ox_mutex_lock_co(&q->alloc.lock);
	if (q->lazy.state == OX_LAZY_CLEAN &&
	    ox_alloc_reserved(&q->alloc) > RESERVE_STEPS * (q->alloc.taken - taken)) {
		ox_alloc_calm(q);
		r = ox_alloc_return_reserve_co(q);
		if (r == 0)
			r = ox_cache_flush_co(&q->counts);
	}
	ox_mutex_unlock(&q->alloc.lock);
	return r;
}

/* Whether the guest's quiet has nothing left to do. */
static bool is_settled(const struct ox_qcow2 *q)
{
	return q->lazy.state == OX_LAZY_CLEAN && q->alloc.reserve_count == 0;
}

/* True when all is settled, or cannot be: then it stays so until the image is closed. */
static bool settle_when_quiet_co(struct ox_qcow2 *q)
{
	uint64_t takes = q->alloc.takes;
	uint64_t taken;
	int r;

	for (unsigned i = 0; i < IDLE_STEPS; i++) {
		taken = q->alloc.taken;
		/* A close commits as well. */
		if (q->idle.stopping ||
		    !ox_timer_sleep_co(&q->idle.timer, q->idle.after_ns / IDLE_STEPS))
			return true;
		if (q->alloc.takes != takes)
			return give_back_excess_co(q, taken) < 0;
	}
	r = q->lazy.state == OX_LAZY_DIRTY ? ox_commit_co(q) : 0;
	if (r == 0)
		r = ox_idle_commit_counts_co(q, takes);
	return r < 0 || is_settled(q);
}

static void idle_task_co(void *arg)
{
	struct ox_qcow2 *q = arg;

	while (!q->idle.stopping && !settle_when_quiet_co(q))
		continue;
	q->idle.running = false;
	ox_latch_done(&q->background);
}

void ox_idle_init(struct ox_qcow2 *q, uint32_t lazy_idle_ms)
{
	uint32_t ms = lazy_idle_ms ? lazy_idle_ms : OX_LAZY_IDLE_DEFAULT_MS;

	q->idle = (struct ox_idle){0};
	ox_timer_init(&q->idle.timer);
	q->idle.after_ns = ms == UINT32_MAX ? 0 : (uint64_t)ms * 1000000;
}

void ox_idle_start(struct ox_qcow2 *q)
{
	if (q->idle.running || q->idle.stopping || q->idle.after_ns == 0)
		return;
	ox_latch_add(&q->background);
	q->idle.running = true;
	if (ox_co_spawn(q->img->reactor, idle_task_co, q) < 0) {
		q->idle.running = false; /* dirty until the next allocation, or the close */
		ox_latch_done(&q->background);
	}
}

void ox_idle_stop(struct ox_qcow2 *q)
{
	q->idle.stopping = true;
	ox_timer_end(&q->idle.timer);
}

void ox_idle_allow(struct ox_qcow2 *q)
{
	q->idle.stopping = false;
}
