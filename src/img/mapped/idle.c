/* SPDX-License-Identifier: MIT */
/*
 * The bounded dirty window: once nothing has been allocated for a while, what the dirty bit covers
 * is settled and the bit is cleared, beside the guest's requests, so that a crash of an idle guest
 * leaves a clean image. In an image whose refcounts are kept there is no bit, and the reserve alone
 * is given back: no entry names it, so its counts may reach the disk at any time (D3). There a
 * guest that allocates little after it has allocated much gives it back as well.
 *
 * The allocator's lock is held from the moment the reserve is given back until the bit is cleared:
 * no refill comes between, so every cluster that an entry names, or that a request under way is
 * about to name, has its count on disk, where there are counts (D3, D6). Requests that need no new
 * cluster go on; the next refill sets the bit again first (D5).
 */
#include "img/mapped/mapped.h"

/* Quiet steps that make the idle time. */
#define IDLE_STEPS 4u
/* A reserve that would last longer than so many steps is too large. */
#define RESERVE_STEPS 16u

static int clear_bit_locked_co(struct ox_mapped *m)
{
	int r = ox_order_sync_always_co(&m->order);

	return r < 0 ? r : ox_dirty_clear_co(m);
}

int ox_idle_settle_co(struct ox_mapped *m, uint64_t takes)
{
	int r = 0;

	ox_mutex_lock_co(&m->alloc.lock);
	if (m->alloc.takes == takes && !ox_recover_active(m)) {
		ox_alloc_calm(m);
		r = ox_alloc_return_reserve_locked_co(m);
		if (r == 0)
			r = m->ops->settle_locked_co(m);
		if (r == 0 && m->dirty.state == OX_DIRTY_SET && !m->damaged)
			r = clear_bit_locked_co(m);
	}
	ox_mutex_unlock(&m->alloc.lock);
	return r;
}

/* What a guest has taken in a step says how long the reserve would last. A recovery finds a lazy
 * image's. */
static int give_back_excess_co(struct ox_mapped *m, uint64_t taken)
{
	int r = 0;

	ox_mutex_lock_co(&m->alloc.lock);
	if (m->dirty.state == OX_DIRTY_CLEAN &&
	    ox_alloc_reserved(&m->alloc) > RESERVE_STEPS * (m->alloc.taken - taken)) {
		ox_alloc_calm(m);
		r = ox_alloc_return_reserve_locked_co(m);
		if (r == 0)
			r = m->ops->settle_locked_co(m);
	}
	ox_mutex_unlock(&m->alloc.lock);
	return r;
}

/* Whether the guest's quiet has nothing left to do. */
static bool is_settled(const struct ox_mapped *m)
{
	/* Nothing is given back, as it is not known what is free. */
	if (m->recover.state == OX_RECOVERY_FAILED)
		return true;
	return (m->dirty.state == OX_DIRTY_CLEAN || m->damaged) && m->alloc.reserve_count == 0;
}

/* True when all is settled, or cannot be: then it stays so until the image is closed. */
static bool settle_when_quiet_co(struct ox_mapped *m)
{
	uint64_t takes = m->alloc.takes;
	uint64_t taken;
	int r;

	for (unsigned i = 0; i < IDLE_STEPS; i++) {
		taken = m->alloc.taken;
		/* A close commits as well. */
		if (m->idle.stopping ||
		    !ox_timer_sleep_co(&m->idle.timer, m->idle.after_ns / IDLE_STEPS))
			return true;
		if (m->alloc.takes != takes)
			return give_back_excess_co(m, taken) < 0;
	}
	if (m->recover.state == OX_RECOVERY_FAILED) /* until the next refill */
		return true;
	if (m->allocating > 0) /* it may be about to name what it took before */
		return false;
	r = m->dirty.state == OX_DIRTY_SET ? ox_commit_co(m) : 0;
	if (r == 0)
		r = ox_idle_settle_co(m, takes);
	return r < 0 || is_settled(m);
}

static void idle_task_co(void *arg)
{
	struct ox_mapped *m = arg;

	while (!m->idle.stopping && !settle_when_quiet_co(m))
		continue;
	m->idle.running = false;
	ox_latch_done(&m->background);
}

void ox_idle_init(struct ox_mapped *m, uint32_t lazy_idle_ms)
{
	uint32_t ms = lazy_idle_ms ? lazy_idle_ms : OX_LAZY_IDLE_DEFAULT_MS;

	m->idle = (struct ox_idle){0};
	ox_timer_init(&m->idle.timer);
	m->idle.after_ns = ms == UINT32_MAX ? 0 : (uint64_t)ms * 1000000;
}

void ox_idle_start(struct ox_mapped *m)
{
	if (m->idle.running || m->idle.stopping || m->idle.after_ns == 0)
		return;
	ox_latch_add(&m->background);
	m->idle.running = true;
	if (ox_co_spawn(m->img->reactor, idle_task_co, m) < 0) {
		m->idle.running = false; /* dirty until the next allocation, or the close */
		ox_latch_done(&m->background);
	}
}

void ox_idle_stop(struct ox_mapped *m)
{
	m->idle.stopping = true;
	ox_timer_end(&m->idle.timer);
}

void ox_idle_allow(struct ox_mapped *m)
{
	m->idle.stopping = false;
}
