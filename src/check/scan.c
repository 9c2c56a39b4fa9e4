/* SPDX-License-Identifier: MIT */
#include "check/scan.h"

#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "rt/co.h"
#include "rt/sync.h"

#define ITEM_BYTES (UINT64_C(256) << 10)
#define IN_FLIGHT_BYTES (UINT64_C(4) << 20)
#define MIN_DEPTH UINT64_C(4)
#define MAX_DEPTH UINT64_C(16)

struct slot {
	struct ox_scan_item item;
	uint8_t *bytes; /* of room_bytes: most scans are short, and take no more than they need */
	size_t room_bytes;
	int error;
	bool ready;
};

/* A ring: readers fill the slots of items [visited, taken), the caller visits them in order. */
struct scan {
	struct ox_io *io;
	const struct ox_scan_ops *ops;
	void *arg;
	struct slot slots[MAX_DEPTH];
	uint64_t depth;
	uint64_t taken;
	uint64_t visited;
	bool exhausted;
	bool stop;
	struct ox_waitq room;
	struct ox_waitq filled;
	struct ox_latch readers;
};

size_t ox_scan_item_max(uint64_t cluster_bytes)
{
	return ox_max_u64(cluster_bytes, ITEM_BYTES);
}

/* Takes the next item for the running reader; NULL when there is none left. */
static struct slot *take_item_co(struct scan *s)
{
	struct slot *slot;

	while (!s->stop && !s->exhausted && s->taken - s->visited >= s->depth)
		ox_waitq_wait_co(&s->room);
	if (s->stop || s->exhausted)
		return NULL;
	slot = &s->slots[s->taken % s->depth];
	if (!s->ops->next(s->arg, &slot->item)) {
		s->exhausted = true;
		ox_waitq_wake_all(&s->filled);
		ox_waitq_wake_all(&s->room);
		return NULL;
	}
	slot->ready = false;
	s->taken++;
	return slot;
}

static int fill_slot_co(struct scan *s, struct slot *slot)
{
	size_t size = slot->item.size_bytes;

	if (slot->room_bytes < size) {
		free(slot->bytes);
		slot->bytes = ox_io_buffer(size);
		slot->room_bytes = slot->bytes ? size : 0;
	}
	if (!slot->bytes)
		return -ENOMEM;
	return ox_io_pread_co(s->io, slot->bytes, size, slot->item.offset);
}

static void reader_co(void *arg)
{
	struct scan *s = arg;
	struct slot *slot;

	while ((slot = take_item_co(s))) {
		slot->error = fill_slot_co(s, slot);
		slot->ready = true;
		ox_waitq_wake_all(&s->filled);
	}
	ox_latch_done(&s->readers);
}

static int visit_all_co(struct scan *s)
{
	for (;;) {
		struct slot *slot = &s->slots[s->visited % s->depth];
		int r;

		while (s->visited == s->taken ? !s->exhausted : !slot->ready)
			ox_waitq_wait_co(&s->filled);
		if (s->visited == s->taken)
			return 0;
		if (slot->error == -ENOMEM)
			return -ENOMEM;
		r = s->ops->visit_co(s->arg, &slot->item, slot->bytes, slot->error);
		if (r < 0)
			return r;
		s->visited++;
		ox_waitq_wake_one(&s->room);
	}
}

static int start_readers(struct scan *s)
{
	for (uint64_t i = 0; i < s->depth; i++) {
		ox_latch_add(&s->readers);
		if (ox_co_spawn(ox_co_reactor(), reader_co, s) < 0) {
			ox_latch_done(&s->readers);
			return i == 0 ? -ENOMEM : 0;
		}
	}
	return 0;
}

int ox_scan_co(struct ox_io *io, uint64_t cluster_bytes, const struct ox_scan_ops *ops, void *arg)
{
	size_t max = ox_scan_item_max(cluster_bytes);
	struct scan *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return -ENOMEM;
	s->io = io;
	s->ops = ops;
	s->arg = arg;
	s->depth = ox_min_u64(MAX_DEPTH, ox_max_u64(MIN_DEPTH, IN_FLIGHT_BYTES / max));
	ox_waitq_init(&s->room);
	ox_waitq_init(&s->filled);
	ox_latch_init(&s->readers);
	r = start_readers(s);
	if (r == 0)
		r = visit_all_co(s);
	s->stop = true;
	ox_waitq_wake_all(&s->room);
	ox_latch_wait_co(&s->readers);
	for (uint64_t i = 0; i < s->depth; i++)
		free(s->slots[i].bytes);
	free(s);
	return r;
}
