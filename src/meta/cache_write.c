/* SPDX-License-Identifier: MIT */
/* The cache's way to the disk: runs of dirty neighbours, each behind its barrier (C1, C2, C4). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/assert.h"
#include "meta/cache.h"

#define RUN_MAX_BYTES (256u * 1024u)
#define FLUSH_MAX_TASKS 32u

/* The dirty blocks that follow b on disk, in one piece. They stay in the cache: nothing suspends
 * between the choice and the copy. */
static size_t run_length(struct ox_cache *c, const struct ox_block *b)
{
	size_t most = ox_max_u64(RUN_MAX_BYTES / c->slice_bytes, 1);
	size_t n = 1;

	while (n < most) {
		struct ox_block *next = ox_cache_find(c, b->offset + n * c->slice_bytes);

		if (!next || !next->dirty || next->writing ||
		    !ox_order_reached(c->order, next->after))
			break;
		n++;
	}
	return n;
}

/* dirty -> writing, with a copy of the bytes as they are now (C2). */
static void run_begin(struct ox_cache *c, uint64_t offset, size_t n, uint8_t *copy)
{
	for (size_t i = 0; i < n; i++) {
		struct ox_block *b = ox_cache_find(c, offset + i * c->slice_bytes);

		ox_assert(b && b->dirty && !b->writing);
		ox_assert(ox_order_reached(c->order, b->after)); /* C1 */
		memcpy(copy + i * c->slice_bytes, b->data, c->slice_bytes);
		b->dirty = false;
		b->writing = true;
		c->writing_count++;
		b->writing_seq = b->dirty_seq;
		ox_list_del(&b->dirty_at);
	}
}

static void note_failure(struct ox_cache *c, struct ox_block *b, int error)
{
	b->error = error;
	b->failed_at = ++c->failures;
}

/* writing -> clean, or dirty again after a failure (C4). */
static void run_end(struct ox_cache *c, uint64_t offset, size_t n, int error)
{
	for (size_t i = 0; i < n; i++) {
		struct ox_block *b = ox_cache_find(c, offset + i * c->slice_bytes);

		ox_assert(b && b->writing);
		b->writing = false;
		c->writing_count--;
		b->durable_at = ox_order_ticket(c->order);
		if (error < 0) {
			if (!b->dirty)
				ox_list_push_front(&c->dirty, &b->dirty_at);
			b->dirty = true;
			b->dirty_seq = b->writing_seq;
			note_failure(c, b, error);
		}
		if (c->shelf && !b->dirty)
			ox_state_store(&c->shelf->names[b->slot], 0);
	}
	ox_waitq_wake_all(&c->changed);
}

int ox_cache_write_run_co(struct ox_cache *c, struct ox_block *b)
{
	uint64_t offset = b->offset;
	uint8_t *copy;
	size_t n;
	int r;

	if (!ox_order_reached(c->order, b->after)) {
		r = ox_order_wait_co(c->order, b->after);
		b = ox_cache_find(c, offset); /* it may be gone, or another's by now */
		if (r < 0 && b && b->dirty)
			note_failure(c, b, r);
		if (r < 0)
			return r;
		if (!b || !b->dirty || b->writing || !ox_order_reached(c->order, b->after))
			return 0;
	}
	n = run_length(c, b);
	copy = ox_io_buffer(n * c->slice_bytes);
	if (!copy) {
		note_failure(c, b, -ENOMEM);
		return -ENOMEM;
	}
	run_begin(c, offset, n, copy);
	r = ox_io_pwrite_co(c->io, copy, n * c->slice_bytes, offset, 0);
	run_end(c, offset, n, r);
	free(copy);
	return r;
}

struct flush {
	struct ox_cache *c;
	uint64_t upto;	 /* changes with a number up to this one are to be written */
	uint64_t failed; /* blocks that failed later than this are not tried again */
	int error;
	struct ox_latch children;
};

/* A block whose change is to be written and that no task is writing now. Blocks whose barrier is
 * reached come first, so that the others' barrier is waited for but once. */
static struct ox_block *flush_pick(struct flush *f)
{
	struct ox_block *held = NULL;
	struct ox_list *it;

	ox_list_for_each (it, &f->c->dirty) {
		struct ox_block *b = ox_list_entry(it, struct ox_block, dirty_at);

		if (b->dirty_seq > f->upto || b->writing)
			continue;
		if (b->failed_at > f->failed) {
			f->error = f->error ? f->error : b->error;
			continue;
		}
		if (ox_order_reached(f->c->order, b->after))
			return b;
		if (!held)
			held = b;
	}
	return held;
}

/* Whether a version that counts for this flush is still on its way. */
static bool flush_in_flight(const struct flush *f)
{
	struct ox_list *it;

	if (f->c->writing_count == 0)
		return false;
	ox_list_for_each (it, &f->c->lru) {
		struct ox_block *b = ox_list_entry(it, struct ox_block, lru);

		if (b->writing && b->writing_seq <= f->upto)
			return true;
	}
	return false;
}

static void flush_work_co(struct flush *f)
{
	struct ox_block *b;

	while ((b = flush_pick(f)) != NULL) {
		int r = ox_cache_write_run_co(f->c, b);

		if (r < 0 && f->error == 0)
			f->error = r;
	}
}

static void flush_child_co(void *arg)
{
	struct flush *f = arg;

	flush_work_co(f);
	ox_latch_done(&f->children);
}

/* How many dirty blocks there are, counted no further than is of use. */
static unsigned count_dirty(const struct ox_cache *c, unsigned most)
{
	struct ox_list *it;
	unsigned n = 0;

	ox_list_for_each (it, &c->dirty) {
		if (++n == most)
			break;
	}
	return n;
}

int ox_cache_flush_co(struct ox_cache *c)
{
	struct flush f = {.c = c, .upto = c->seq, .failed = c->failures};
	unsigned tasks = count_dirty(c, FLUSH_MAX_TASKS);

	ox_latch_init(&f.children);
	for (unsigned i = 1; i < tasks; i++) {
		ox_latch_add(&f.children);
		if (ox_co_spawn(ox_co_reactor(), flush_child_co, &f) < 0) {
			ox_latch_done(&f.children); /* fewer hands, the same work */
			break;
		}
	}
	flush_work_co(&f);
	ox_latch_wait_co(&f.children);
	while (flush_pick(&f) || (f.error == 0 && flush_in_flight(&f))) {
		if (flush_pick(&f))
			flush_work_co(&f);
		else
			ox_waitq_wait_co(&c->changed);
	}
	return f.error;
}
