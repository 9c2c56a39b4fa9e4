/* SPDX-License-Identifier: MIT */
#include "job/pump.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/assert.h"
#include "io/arena.h"
#include "rt/co.h"
#include "rt/reactor.h"

#define DEFAULT_TASKS 16u
#define DEFAULT_MEMORY_BYTES (UINT64_C(64) << 20)
/* Sleeps for the rate are cut, so that giving up is noticed. */
#define SLEEP_MAX_NS UINT64_C(100000000)
#define NS_PER_S UINT64_C(1000000000)

void ox_pump_init(struct ox_pump *pump, const struct ox_pump_ops *ops, void *arg)
{
	*pump = (struct ox_pump){.tasks = DEFAULT_TASKS, .memory_bytes = DEFAULT_MEMORY_BYTES};
	pump->ops = ops;
	pump->arg = arg;
	ox_mutex_init(&pump->taking);
	ox_list_init(&pump->pieces);
	ox_waitq_init(&pump->room);
	ox_waitq_init(&pump->turn);
	ox_latch_init(&pump->running);
}

uint64_t ox_pump_half_bytes(const struct ox_pump *pump)
{
	return pump->memory_bytes / 2;
}

/* Nothing new begins; whoever waits looks at the result. */
void ox_pump_stop(struct ox_pump *pump, int error)
{
	if (pump->result == 0)
		pump->result = error;
	pump->exhausted = true;
	ox_waitq_wake_all(&pump->room);
	ox_waitq_wake_all(&pump->turn);
}

bool ox_pump_is_interrupted(const struct ox_pump *pump)
{
	return ox_co_is_cancelled() || (pump->interrupted && pump->interrupted(pump->opaque));
}

static void wait_for_rate_co(struct ox_pump *pump, uint64_t cost_bytes)
{
	struct ox_reactor *r = ox_co_reactor();
	uint64_t now = ox_reactor_now_ns(r);

	if (pump->rate_bytes == 0)
		return;
	while (pump->paid_ns > now && pump->result == 0) {
		ox_reactor_sleep_co(ox_min_u64(pump->paid_ns - now, SLEEP_MAX_NS));
		now = ox_reactor_now_ns(r);
		if (ox_pump_is_interrupted(pump))
			ox_pump_stop(pump, -ECANCELED);
	}
	pump->paid_ns = ox_max_u64(pump->paid_ns, now) +
			(uint64_t)((double)cost_bytes / (double)pump->rate_bytes * NS_PER_S);
}

/* A piece alone always has room: half of the bound is the most that it may ask for. */
static int wait_for_memory_co(struct ox_pump *pump, struct ox_piece *piece)
{
	ox_assert(piece->memory_bytes <= ox_pump_half_bytes(pump));
	while (pump->result == 0 && pump->used_bytes + piece->memory_bytes > pump->memory_bytes)
		ox_waitq_wait_co(&pump->room);
	if (pump->result < 0)
		return pump->result;
	if (piece->memory_bytes > 0) {
		piece->buffer = ox_arena_take(pump->arena, piece->memory_bytes);
		if (!piece->buffer)
			return -ENOMEM;
	}
	pump->used_bytes += piece->memory_bytes;
	return 0;
}

static void give_memory(struct ox_pump *pump, struct ox_piece *piece)
{
	ox_arena_give(pump->arena, piece->buffer);
	piece->buffer = NULL;
	pump->used_bytes -= piece->memory_bytes;
}

/* NULL: there is none, or the work has ended. */
static struct ox_piece *take_co(struct ox_pump *pump)
{
	struct ox_piece *piece = NULL;
	int r;

	ox_mutex_lock_co(&pump->taking);
	if (!pump->exhausted && ox_pump_is_interrupted(pump))
		ox_pump_stop(pump, -ECANCELED);
	if (pump->exhausted)
		goto out;
	piece = calloc(1, sizeof(*piece));
	r = piece ? pump->ops->next_co(pump->arg, piece) : -ENOMEM;
	if (r > 0) {
		ox_assert(piece->length > 0);
		wait_for_rate_co(pump, piece->cost_bytes);
		r = wait_for_memory_co(pump, piece);
		r = r == 0 ? 1 : r;
	}
	if (r <= 0) {
		free(piece);
		piece = NULL;
		ox_pump_stop(pump, r);
		goto out;
	}
	piece->number = pump->taken++;
	ox_list_push_back(&pump->pieces, &piece->link);
out:
	ox_mutex_unlock(&pump->taking);
	return piece;
}

int ox_pump_turn_co(struct ox_pump *pump, struct ox_piece *piece)
{
	while (pump->passed < piece->number && pump->result == 0)
		ox_waitq_wait_co(&pump->turn);
	return pump->passed < piece->number ? -ECANCELED : 0;
}

void ox_pump_pass(struct ox_pump *pump, struct ox_piece *piece)
{
	struct ox_list *at = &piece->link;

	if (piece->passed)
		return;
	piece->passed = true;
	if (piece->number != pump->passed)
		return;
	for (; at != &pump->pieces; at = at->next) {
		if (!ox_container_of(at, struct ox_piece, link)->passed)
			break;
		pump->passed++;
	}
	ox_waitq_wake_all(&pump->turn);
}

static void retire(struct ox_pump *pump)
{
	while (!ox_list_empty(&pump->pieces)) {
		struct ox_piece *piece = ox_container_of(pump->pieces.next, struct ox_piece, link);

		if (!piece->done)
			break;
		pump->done_below = piece->offset + piece->length;
		ox_list_del(&piece->link);
		free(piece);
	}
}

static void finish(struct ox_pump *pump, struct ox_piece *piece)
{
	give_memory(pump, piece);
	pump->done += pump->counts_cost ? piece->cost_bytes : piece->length;
	piece->done = true;
	ox_pump_pass(pump, piece);
	retire(pump);
	ox_waitq_wake_all(&pump->room);
	if (pump->progress)
		pump->progress(pump->opaque, pump->done, pump->total);
}

/* A piece that failed stays in the list: what comes after it is not done without a gap. */
static void abandon(struct ox_pump *pump, struct ox_piece *piece, int error)
{
	give_memory(pump, piece);
	ox_pump_stop(pump, error);
}

static void task_co(void *arg)
{
	struct ox_pump *pump = arg;
	struct ox_piece *piece;

	ox_co_watch_cancel(pump->cancelled);
	while ((piece = take_co(pump))) {
		int r = pump->ops->work_co(pump->arg, piece);

		if (r < 0)
			abandon(pump, piece, r);
		else
			finish(pump, piece);
	}
	ox_latch_done(&pump->running);
}

static void free_pieces(struct ox_pump *pump)
{
	while (!ox_list_empty(&pump->pieces)) {
		struct ox_list *first = pump->pieces.next;

		ox_list_del(first);
		free(ox_container_of(first, struct ox_piece, link));
	}
}

int ox_pump_run_co(struct ox_pump *pump)
{
	unsigned started = 0;
	int r = 0;

	ox_assert(pump->tasks > 0 && pump->memory_bytes > 0);
	pump->arena = ox_arena_new(pump->memory_bytes);
	if (!pump->arena)
		return -ENOMEM;
	pump->cancelled = ox_co_cancel_flag();
	while (started < pump->tasks && r == 0) {
		ox_latch_add(&pump->running);
		r = ox_co_spawn(ox_co_reactor(), task_co, pump);
		if (r < 0)
			ox_latch_done(&pump->running);
		else
			started++;
	}
	ox_latch_wait_co(&pump->running);
	free_pieces(pump);
	ox_arena_free(pump->arena);
	return started == 0 ? r : pump->result;
}
