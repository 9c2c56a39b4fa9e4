/* SPDX-License-Identifier: MIT */
#include "check/scan/scan.h"

#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "base/assert.h"
#include "rt/co.h"
#include "rt/sync.h"

#define ITEM_BYTES (UINT64_C(256) << 10)
/* What is in flight stays in the CPU's cache as long as reads come from the page cache, and doubles
 * where they are waited for. */
#define IN_FLIGHT_BYTES_MIN (UINT64_C(1) << 20)
#define IN_FLIGHT_BYTES_MAX (UINT64_C(2) << 20)
#define MIN_DEPTH 4u
#define MAX_DEPTH 32u

struct buffer {
	uint8_t *bytes;
	size_t room_bytes;
};

struct slot {
	struct ox_scan_item item;
	struct buffer buffer; /* all-zero before it is taken and after it was visited */
	int error;
	bool ready;
};

/* A ring: readers fill the slots of items [visited, taken), the caller visits them in order. */
struct scan {
	struct ox_io *io;
	const struct ox_scan_ops *ops;
	void *arg;
	struct slot slots[MAX_DEPTH];
	struct buffer spare[MAX_DEPTH];
	unsigned spare_count;
	size_t room_bytes; /* of all buffers */
	size_t item_max;
	uint64_t taken;
	uint64_t visited;
	uint64_t in_flight_bytes; /* of items [visited, taken) */
	uint64_t in_flight_limit;
	uint64_t waited_at; /* the item that was waited for last */
	unsigned reader_count;
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

static bool has_room(const struct scan *s)
{
	return s->taken - s->visited < MAX_DEPTH && s->in_flight_bytes < s->in_flight_limit;
}

/* Takes the next item for the running reader; NULL when there is none left. */
static struct slot *take_item_co(struct scan *s)
{
	struct slot *slot;

	while (!s->stop && !s->exhausted && !has_room(s))
		ox_waitq_wait_co(&s->room);
	if (s->stop || s->exhausted)
		return NULL;
	slot = &s->slots[s->taken % MAX_DEPTH];
	if (!s->ops->next(s->arg, &slot->item)) {
		s->exhausted = true;
		ox_waitq_wake_all(&s->filled);
		ox_waitq_wake_all(&s->room);
		return NULL;
	}
	ox_assert(slot->item.size_bytes > 0 && slot->item.size_bytes <= s->item_max);
	slot->ready = false;
	s->taken++;
	s->in_flight_bytes += slot->item.size_bytes;
	return slot;
}

/* The buffer that was read into last is the one that the CPU's caches hold. */
static int take_buffer(struct scan *s, struct slot *slot)
{
	if (s->spare_count > 0)
		slot->buffer = s->spare[--s->spare_count];
	if (slot->buffer.room_bytes >= slot->item.size_bytes)
		return 0;
	free(slot->buffer.bytes);
	s->room_bytes -= slot->buffer.room_bytes;
	slot->buffer = (struct buffer){.bytes = ox_io_buffer(slot->item.size_bytes)};
	if (!slot->buffer.bytes)
		return -ENOMEM;
	slot->buffer.room_bytes = slot->item.size_bytes;
	s->room_bytes += slot->item.size_bytes;
	return 0;
}

/* Spares that have grown are not kept beyond what the items in flight need. */
static void give_back_buffer(struct scan *s, struct slot *slot)
{
	if (s->room_bytes > s->in_flight_limit) {
		free(slot->buffer.bytes);
		s->room_bytes -= slot->buffer.room_bytes;
	} else {
		s->spare[s->spare_count++] = slot->buffer;
	}
	slot->buffer = (struct buffer){0};
}

static int fill_slot_co(struct scan *s, struct slot *slot)
{
	int r = take_buffer(s, slot);

	if (r < 0)
		return r;
	return ox_io_pread_co(s->io, slot->buffer.bytes, slot->item.size_bytes, slot->item.offset);
}

static int start_reader(struct scan *s);

/* One more, while there is room for what it reads: most scans are short. Where none can be had,
 * those that there are will do. */
static void more_readers(struct scan *s)
{
	if (!has_room(s))
		return;
	if (!ox_list_empty(&s->room.waiters))
		ox_waitq_wake_one(&s->room);
	else if (s->reader_count < MAX_DEPTH)
		(void)start_reader(s);
}

static void reader_co(void *arg)
{
	struct scan *s = arg;
	struct slot *slot;

	while ((slot = take_item_co(s))) {
		more_readers(s);
		slot->error = fill_slot_co(s, slot);
		slot->ready = true;
		ox_waitq_wake_all(&s->filled);
	}
	ox_latch_done(&s->readers);
}

static int start_reader(struct scan *s)
{
	int r;

	ox_latch_add(&s->readers);
	r = ox_co_spawn(ox_co_reactor(), reader_co, s);
	if (r < 0)
		ox_latch_done(&s->readers);
	else
		s->reader_count++;
	return r;
}

/* Reads from the page cache are complete as soon as they are handed over, a whole flight at once.
 * Where not even half a flight is, the disk can do with a deeper queue. */
static void wait_for_item_co(struct scan *s)
{
	uint64_t since = s->visited - s->waited_at;

	if (since > 0 && since < (s->taken - s->visited) / 2)
		s->in_flight_limit = ox_max_u64(s->in_flight_limit, IN_FLIGHT_BYTES_MAX);
	s->waited_at = s->visited;
	ox_waitq_wait_co(&s->filled);
}

static int visit_all_co(struct scan *s)
{
	for (;;) {
		struct slot *slot = &s->slots[s->visited % MAX_DEPTH];
		int r;

		while (s->visited == s->taken ? !s->exhausted : !slot->ready)
			wait_for_item_co(s);
		if (s->visited == s->taken)
			return 0;
		if (slot->error == -ENOMEM)
			return -ENOMEM;
		r = s->ops->visit_co(s->arg, &slot->item, slot->buffer.bytes, slot->error);
		if (r < 0)
			return r;
		give_back_buffer(s, slot);
		s->in_flight_bytes -= slot->item.size_bytes;
		s->visited++;
		ox_waitq_wake_one(&s->room);
	}
}

int ox_scan_co(struct ox_io *io, uint64_t cluster_bytes, const struct ox_scan_ops *ops, void *arg)
{
	struct scan *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return -ENOMEM;
	s->io = io;
	s->ops = ops;
	s->arg = arg;
	s->in_flight_limit = ox_max_u64(IN_FLIGHT_BYTES_MIN, MIN_DEPTH * cluster_bytes);
	s->item_max = ox_scan_item_max(cluster_bytes);
	ox_waitq_init(&s->room);
	ox_waitq_init(&s->filled);
	ox_latch_init(&s->readers);
	r = start_reader(s);
	if (r == 0)
		r = visit_all_co(s);
	s->stop = true;
	ox_waitq_wake_all(&s->room);
	ox_latch_wait_co(&s->readers);
	for (unsigned i = 0; i < MAX_DEPTH; i++)
		free(s->slots[i].buffer.bytes);
	while (s->spare_count > 0)
		free(s->spare[--s->spare_count].bytes);
	free(s);
	return r;
}
