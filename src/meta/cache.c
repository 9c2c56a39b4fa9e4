/* SPDX-License-Identifier: MIT */
#include "meta/cache.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/assert.h"

static void assert_block_consistent(const struct ox_cache *c, const struct ox_block *b)
{
	ox_assert(ox_is_aligned(b->offset, c->slice_bytes));
	ox_assert(!b->loading || (!b->dirty && !b->writing));
	ox_assert(b->dirty == !ox_list_empty(&b->dirty_at));
	ox_assert(!b->dirty || b->dirty_seq > 0);
}

#define BLOCKS_MIN 2u
#define BUCKETS_MIN 8u
#define BUCKETS_MAX 65536u

static size_t buckets_for(size_t blocks)
{
	size_t buckets = BUCKETS_MIN;

	while (buckets < blocks && buckets < BUCKETS_MAX)
		buckets *= 2;
	return buckets;
}

/* All that a cache of so many blocks takes. */
static uint64_t bytes_for(size_t slice_bytes, size_t blocks)
{
	return ox_slabs_bytes(slice_bytes, blocks) +
	       ox_slabs_bytes(sizeof(struct ox_block), blocks) +
	       buckets_for(blocks) * sizeof(struct ox_list);
}

/* The most blocks that max_bytes hold, by halving what is between too few and too many. */
static size_t blocks_within(size_t slice_bytes, uint64_t max_bytes)
{
	size_t few = BLOCKS_MIN;
	size_t many = (size_t)ox_min_u64(max_bytes / slice_bytes, SIZE_MAX / 4 / slice_bytes) + 1;

	while (few + 1 < many) {
		size_t middle = few + (many - few) / 2;

		if (bytes_for(slice_bytes, middle) <= max_bytes)
			few = middle;
		else
			many = middle;
	}
	return few;
}

int ox_cache_init(struct ox_cache *c, struct ox_io *io, struct ox_order *order, size_t slice_bytes,
		  uint64_t max_bytes)
{
	size_t blocks = blocks_within(slice_bytes, max_bytes);
	size_t buckets = buckets_for(blocks);

	ox_assert(ox_is_pow2(slice_bytes));
	*c = (struct ox_cache){
		.io = io,
		.order = order,
		.slice_bytes = slice_bytes,
		.max_blocks = blocks,
	};
	ox_slabs_init(&c->slices, slice_bytes, blocks);
	ox_slabs_init(&c->blocks, sizeof(struct ox_block), blocks);
	c->buckets = malloc(buckets * sizeof(*c->buckets));
	if (!c->buckets)
		return -ENOMEM;
	c->bucket_mask = buckets - 1;
	for (size_t i = 0; i < buckets; i++)
		ox_list_init(&c->buckets[i]);
	ox_list_init(&c->lru);
	ox_list_init(&c->dirty);
	ox_waitq_init(&c->changed);
	return 0;
}

/* On the shelf where it has a slot, so that a change finds it there. */
static bool data_new(struct ox_cache *c, struct ox_block *b)
{
	b->slot = c->shelf ? ox_shelf_take(c->shelf) : OX_SHELF_NONE;
	b->data = b->slot != OX_SHELF_NONE ? ox_shelf_at(c->shelf, b->slot)
					   : ox_slabs_take(&c->slices);
	return b->data;
}

static void data_free(struct ox_cache *c, struct ox_block *b, bool keep)
{
	if (b->slot != OX_SHELF_NONE)
		ox_shelf_give(c->shelf, b->slot, keep);
	else
		ox_slabs_give(&c->slices, b->data);
}

/* keep: what was changed stays on the shelf, for another process (C6). */
static void block_leave(struct ox_cache *c, struct ox_block *b, bool keep)
{
	ox_list_del(&b->lru);
	ox_list_del(&b->dirty_at);
	ox_list_del(&b->hashed);
	c->block_count--;
	c->evicted_at = ox_max_u64(c->evicted_at, b->durable_at);
	data_free(c, b, keep);
	ox_slabs_give(&c->blocks, b);
}

static void block_free(struct ox_cache *c, struct ox_block *b)
{
	block_leave(c, b, false);
}

static void leave_all(struct ox_cache *c, bool keep)
{
	struct ox_list *it;
	struct ox_list *tmp;

	ox_list_for_each_safe (it, tmp, &c->lru) {
		struct ox_block *b = ox_list_entry(it, struct ox_block, lru);

		ox_assert(b->pins == 0 && !b->loading && !b->writing);
		block_leave(c, b, keep);
	}
}

void ox_cache_abandon(struct ox_cache *c)
{
	leave_all(c, false);
}

void ox_cache_fini(struct ox_cache *c)
{
	if (!c->buckets)
		return;
	leave_all(c, true);
	ox_slabs_fini(&c->slices);
	ox_slabs_fini(&c->blocks);
	free(c->buckets);
	c->buckets = NULL;
}

static struct ox_list *bucket_of(struct ox_cache *c, uint64_t offset)
{
	uint64_t h = (offset / c->slice_bytes) * UINT64_C(0x9e3779b97f4a7c15);

	return &c->buckets[(h >> 40) & c->bucket_mask];
}

struct ox_block *ox_cache_find(struct ox_cache *c, uint64_t offset)
{
	struct ox_list *head = bucket_of(c, offset);
	struct ox_list *it;

	ox_list_for_each (it, head) {
		struct ox_block *b = ox_list_entry(it, struct ox_block, hashed);

		if (b->offset == offset)
			return b;
	}
	return NULL;
}

static void block_enter(struct ox_cache *c, struct ox_block *b)
{
	/* An earlier life of this block may have been written and not synced yet. */
	b->durable_at = c->evicted_at;
	ox_list_push_back(&c->lru, &b->lru);
	ox_list_init(&b->dirty_at);
	ox_list_push_front(bucket_of(c, b->offset), &b->hashed);
	c->block_count++;
}

static int block_new(struct ox_cache *c, uint64_t offset, struct ox_block **ret)
{
	struct ox_block *b = ox_slabs_take(&c->blocks);

	if (!b)
		return -ENOMEM;
	*b = (struct ox_block){.offset = offset};
	if (!data_new(c, b)) {
		ox_slabs_give(&c->blocks, b);
		return -ENOMEM;
	}
	block_enter(c, b);
	*ret = b;
	return 0;
}

void ox_cache_put_on(struct ox_cache *c, struct ox_shelf *shelf)
{
	ox_assert(c->block_count == 0);
	ox_assert(!shelf || shelf->slice_bytes == c->slice_bytes);
	c->shelf = shelf;
}

static int by_value(const void *one, const void *other)
{
	uint64_t a = *(const uint64_t *)one;
	uint64_t b = *(const uint64_t *)other;

	return (a > b) - (a < b);
}

/* Whether the names are of slices that there can be, each once. */
static int judge_names(const struct ox_cache *c, uint64_t end_bytes)
{
	const struct ox_shelf *s = c->shelf;
	uint64_t *names = reallocarray(NULL, s->slots, sizeof(*names));
	size_t count = 0;
	int r = 0;

	if (!names)
		return -ENOMEM;
	for (uint32_t slot = 0; slot < s->slots; slot++) {
		if (s->names[slot] != 0)
			names[count++] = s->names[slot];
	}
	if (count > 0)
		qsort(names, count, sizeof(*names), by_value);
	for (size_t i = 0; i < count && r == 0; i++) {
		uint64_t offset = names[i] - OX_SHELF_CHANGED;

		if (!ox_is_aligned(offset, c->slice_bytes) || offset >= end_bytes ||
		    (i > 0 && names[i] == names[i - 1]))
			r = -EINVAL;
	}
	free(names);
	return r;
}

static int adopt_slot(struct ox_cache *c, uint32_t slot)
{
	struct ox_block *b = ox_slabs_take(&c->blocks);

	if (!b)
		return -ENOMEM;
	*b = (struct ox_block){
		.offset = c->shelf->names[slot] - OX_SHELF_CHANGED,
		.data = ox_shelf_at(c->shelf, slot),
		.slot = slot,
		.has_space = true, /* C5 held when it was changed */
		.dirty = true,
		.dirty_seq = ++c->seq,
		.after = ox_order_ticket(c->order),
	};
	block_enter(c, b);
	ox_list_push_back(&c->dirty, &b->dirty_at);
	return 0;
}

int ox_cache_adopt(struct ox_cache *c, uint64_t end_bytes)
{
	int r = judge_names(c, end_bytes);

	ox_assert(c->shelf && c->block_count == 0);
	/* What is read from the store may be what the dead process wrote and nobody has synced. */
	c->evicted_at = ox_order_ticket(c->order);
	for (uint32_t slot = 0; slot < c->shelf->slots && r == 0; slot++) {
		if (c->shelf->names[slot] != 0)
			r = adopt_slot(c, slot);
	}
	if (r < 0)
		leave_all(c, true);
	return r;
}

void ox_cache_overlay(struct ox_cache *c, uint64_t offset, void *buf, uint64_t count)
{
	uint64_t end = offset + count;

	for (uint64_t at = ox_align_down(offset, c->slice_bytes); at < end; at += c->slice_bytes) {
		const struct ox_block *b = ox_cache_find(c, at);
		uint64_t from = ox_max_u64(at, offset);
		uint64_t to = ox_min_u64(at + c->slice_bytes, end);

		if (b && b->dirty)
			memcpy((uint8_t *)buf + (from - offset), b->data + (from - at), to - from);
	}
}

/* Gives up the least recently used clean block, wherever it stands, if there is one. */
static void drop_clean(struct ox_cache *c)
{
	struct ox_list *it;

	ox_list_for_each (it, &c->lru) {
		struct ox_block *b = ox_list_entry(it, struct ox_block, lru);

		if (b->pins == 0 && !b->loading && !b->writing && !b->dirty) {
			block_free(c, b);
			return;
		}
	}
}

/* The block that is best given up: the least recently used clean one, else a dirty one. */
static struct ox_block *pick_victim(struct ox_cache *c)
{
	struct ox_block *dirty = NULL;
	struct ox_list *it;
	unsigned looked = 0;

	ox_list_for_each (it, &c->lru) {
		struct ox_block *b = ox_list_entry(it, struct ox_block, lru);

		if (b->pins > 0 || b->loading || b->writing)
			continue;
		if (!b->dirty)
			return b;
		if (!dirty)
			dirty = b;
		if (++looked == 64)
			break;
	}
	return dirty;
}

/* Makes room for one more block. May suspend; returns -EAGAIN if it did, as anything may have
 * changed since. */
static int make_room_co(struct ox_cache *c)
{
	struct ox_block *b = NULL;
	int r;

	while (c->block_count >= c->max_blocks) {
		b = pick_victim(c);
		if (!b || b->dirty)
			break;
		block_free(c, b);
	}
	if (c->block_count < c->max_blocks)
		return 0;
	if (!b) {
		ox_waitq_wait_co(&c->changed);
		return -EAGAIN;
	}
	r = ox_cache_write_run_co(c, b);
	return r < 0 ? r : -EAGAIN;
}

static int block_load_co(struct ox_cache *c, struct ox_block *b)
{
	int r;

	b->loading = true;
	r = ox_io_pread_co(c->io, b->data, c->slice_bytes, b->offset);
	b->loading = false;
	ox_waitq_wake_all(&c->changed);
	return r;
}

enum intent { TO_READ, TO_CHANGE, TO_CHANGE_ZEROES };

static int get_co(struct ox_cache *c, uint64_t offset, enum intent intent, struct ox_block **ret)
{
	bool zero = intent == TO_CHANGE_ZEROES;
	bool crowded = false;
	struct ox_block *b;
	int r;

	ox_assert(ox_is_aligned(offset, c->slice_bytes));
	for (;;) {
		b = ox_cache_find(c, offset);
		if (b && b->loading) {
			ox_waitq_wait_co(&c->changed);
			continue;
		}
		if (b)
			break;
		r = crowded ? 0 : make_room_co(c);
		crowded = r < 0 && r != -EAGAIN && intent == TO_READ;
		if (crowded || r == -EAGAIN)
			continue;
		if (r < 0)
			return r;
		if (c->block_count >= c->max_blocks)
			drop_clean(c);
		r = block_new(c, offset, &b);
		if (r < 0)
			return r;
		c->misses++;
		b->pins = 1;
		if (zero)
			memset(b->data, 0, c->slice_bytes);
		else
			r = block_load_co(c, b);
		b->pins--;
		if (r < 0) {
			ox_assert(b->pins == 0);
			block_free(c, b);
			return r;
		}
		b->pins++;
		*ret = b;
		return 0;
	}
	c->hits++;
	if (zero) { /* an earlier life of the cluster: its bytes are void, and so is its space */
		memset(b->data, 0, c->slice_bytes);
		b->has_space = b->dirty;
	}
	b->pins++;
	ox_list_del(&b->lru);
	ox_list_push_back(&c->lru, &b->lru);
	*ret = b;
	return 0;
}

int ox_cache_get_co(struct ox_cache *c, uint64_t offset, struct ox_block **ret)
{
	return get_co(c, offset, TO_READ, ret);
}

static bool is_zero(const uint8_t *bytes, size_t count)
{
	return bytes[0] == 0 && memcmp(bytes, bytes + 1, count - 1) == 0;
}

/* Whether the bytes themselves show that no part of them lies in a hole of the store. */
static bool bytes_prove_space(const struct ox_cache *c, const uint8_t *bytes)
{
	size_t piece = ox_min_u64(c->io->space_bytes, c->slice_bytes);

	for (size_t at = 0; piece > 0 && at < c->slice_bytes; at += piece) {
		if (is_zero(bytes + at, piece))
			return false;
	}
	return true;
}

/*
 * Writes the pinned block as the store has it, so that the store takes space for it. Nobody changes
 * it meanwhile: whoever wants to waits here. The bytes on the store stay the same whatever becomes
 * of the write, so that no barrier is owed and what was durable stays so.
 */
static int take_space_co(struct ox_cache *c, struct ox_block *b)
{
	int r = 0;

	while (r == 0 && !b->has_space) {
		if (b->placing || b->writing) {
			ox_waitq_wait_co(&c->changed);
			continue;
		}
		if (bytes_prove_space(c, b->data)) {
			b->has_space = true;
			continue;
		}
		ox_assert(!b->dirty);
		b->placing = true;
		r = ox_io_pwrite_co(c->io, b->data, c->slice_bytes, b->offset, 0);
		b->placing = false;
		b->has_space = r == 0;
		ox_waitq_wake_all(&c->changed);
	}
	return r;
}

/* A block with a slot that nobody is using: a clean one if there is one. */
static struct ox_block *pick_slot(struct ox_cache *c)
{
	struct ox_block *dirty = NULL;
	struct ox_list *it;

	ox_list_for_each (it, &c->lru) {
		struct ox_block *b = ox_list_entry(it, struct ox_block, lru);

		if (b->slot == OX_SHELF_NONE || b->pins > 0 || b->loading || b->writing)
			continue;
		if (!b->dirty)
			return b;
		if (!dirty)
			dirty = b;
	}
	return dirty;
}

/* Where the cache has grown beyond its bound a block may have none. It is pinned: others may read
 * it meanwhile, and nobody writes it. */
static int take_slot_co(struct ox_cache *c, struct ox_block *b)
{
	int r = 0;

	while (r == 0 && c->shelf && b->slot == OX_SHELF_NONE) {
		struct ox_block *other = NULL;
		uint32_t slot = b->placing ? OX_SHELF_NONE : ox_shelf_take(c->shelf);

		if (slot != OX_SHELF_NONE) {
			memcpy(ox_shelf_at(c->shelf, slot), b->data, c->slice_bytes);
			ox_slabs_give(&c->slices, b->data);
			b->slot = slot;
			b->data = ox_shelf_at(c->shelf, slot);
			break;
		}
		if (!b->placing)
			other = pick_slot(c);
		if (!other)
			ox_waitq_wait_co(&c->changed);
		else if (other->dirty)
			r = ox_cache_write_run_co(c, other);
		else
			block_free(c, other);
	}
	return r;
}

static int edit_co(struct ox_cache *c, uint64_t offset, enum intent intent, struct ox_block **ret)
{
	struct ox_block *b;
	int r = get_co(c, offset, intent, &b);

	if (r < 0)
		return r;
	r = take_slot_co(c, b);
	if (r == 0)
		r = take_space_co(c, b);
	if (r < 0) {
		ox_cache_put(c, b);
		return r;
	}
	*ret = b;
	return 0;
}

int ox_cache_edit_co(struct ox_cache *c, uint64_t offset, struct ox_block **ret)
{
	return edit_co(c, offset, TO_CHANGE, ret);
}

int ox_cache_edit_zero_co(struct ox_cache *c, uint64_t offset, struct ox_block **ret)
{
	return edit_co(c, offset, TO_CHANGE_ZEROES, ret);
}

void ox_cache_put(struct ox_cache *c, struct ox_block *b)
{
	ox_assert(b->pins > 0);
	assert_block_consistent(c, b);
	b->pins--;
	if (b->pins == 0 && (c->block_count >= c->max_blocks || c->forgetting > 0))
		ox_waitq_wake_all(&c->changed);
}

void ox_cache_dirty(struct ox_cache *c, struct ox_block *b, uint64_t after)
{
	ox_assert(b->pins > 0 && !b->loading);
	ox_assert(b->has_space);			  /* C5, S1 */
	ox_assert(!c->shelf || b->slot != OX_SHELF_NONE); /* C6, D10 */
	b->after = ox_max_u64(b->after, after);
	if (b->dirty)
		return;
	b->dirty = true;
	b->dirty_seq = ++c->seq;
	ox_list_push_back(&c->dirty, &b->dirty_at);
	if (c->shelf)
		ox_state_store(&c->shelf->names[b->slot], b->offset | OX_SHELF_CHANGED);
}

bool ox_cache_is_durable(const struct ox_cache *c, const struct ox_block *b)
{
	return !b->dirty && !b->writing && ox_order_reached(c->order, b->durable_at);
}

bool ox_cache_is_busy(const struct ox_cache *c)
{
	return !ox_list_empty(&c->dirty) || c->writing_count > 0;
}

void ox_cache_forget_co(struct ox_cache *c, uint64_t offset, uint64_t length)
{
	c->forgetting++;
	for (uint64_t at = offset; at < offset + length; at += c->slice_bytes) {
		struct ox_block *b = ox_cache_find(c, at);

		while (b && (b->loading || b->writing || b->pins > 0)) {
			ox_waitq_wait_co(&c->changed);
			b = ox_cache_find(c, at);
		}
		if (b)
			block_free(c, b);
	}
	c->forgetting--;
}

void ox_cache_clear(struct ox_cache *c)
{
	struct ox_list *it;
	struct ox_list *tmp;

	ox_list_for_each_safe (it, tmp, &c->lru) {
		struct ox_block *b = ox_list_entry(it, struct ox_block, lru);

		ox_assert(b->pins == 0 && !b->loading && !b->writing && !b->dirty);
		block_free(c, b);
	}
}
