/* SPDX-License-Identifier: MIT */
/*
 * The metadata cache: slices of tables, each with the write order that it owes. The cache knows
 * bytes and barriers, not what the tables mean.
 *
 * A block's life, and the function that makes each transition:
 *
 *   absent --get--> loading --> clean --ox_cache_dirty--> dirty --write_run--> writing --> clean
 *                                 ^                         ^                      |
 *                                 +-------- evict --> absent +--- ox_cache_dirty ---+
 *
 * Invariants (cache_assert_consistent):
 *  C1 A dirty block is written only once its barrier, the ticket in `after`, is reached (D1).
 *  C2 A write carries a private copy: what changes meanwhile stays dirty (H3). One block is
 *     never written by two tasks at a time.
 *  C3 Eviction writes obey C1 and C2 as flushes do (H10); a pinned block is never evicted.
 *  C4 A failed write leaves the block dirty.
 *  C5 A block is changed only once the store has space for it (S1). A flush of it can then not
 *     fail for want of room where the store overwrites in place.
 *  C6 With a shelf (D10) a changed block lies in a slot of it, which says so from its first change
 *     until a write that has all changes has completed.
 *
 * A task holds at most one pin of a cache while it suspends, so that a cache of two blocks cannot
 * deadlock. Contents may be changed between ox_cache_edit_co and ox_cache_put without suspending,
 * followed by ox_cache_dirty.
 */
#ifndef OX_META_CACHE_H
#define OX_META_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "io/io.h"
#include "meta/order.h"
#include "meta/slab.h"
#include "meta/state.h"

struct ox_block {
	struct ox_list lru;	 /* in cache->lru, least recently used first */
	struct ox_list dirty_at; /* in cache->dirty while dirty, oldest change first */
	struct ox_list hashed;
	uint64_t offset; /* bytes in the store, slice-aligned */
	uint8_t *data;
	uint32_t slot; /* of the shelf; OX_SHELF_NONE: the data is in this process alone */
	unsigned pins;
	bool loading;
	bool dirty;
	bool writing;
	bool placing;	      /* written as it is, so that the store takes space for it (C5) */
	bool has_space;	      /* C5; set when a change needs it */
	int error;	      /* of the last write that failed */
	uint64_t failed_at;   /* that failure's number */
	uint64_t dirty_seq;   /* number of the oldest change that is not in a write yet */
	uint64_t writing_seq; /* the same of the version being written */
	uint64_t after;	      /* C1: ticket to be reached before this version may be written */
	uint64_t durable_at;  /* ticket that makes the last completed write durable */
};

struct ox_cache {
	struct ox_io *io;
	struct ox_order *order;
	size_t slice_bytes;
	size_t max_blocks;
	size_t block_count;
	struct ox_slabs slices; /* the blocks' data */
	struct ox_shelf *shelf; /* C6; NULL: a death of the process takes all changes with it */
	struct ox_slabs blocks;
	struct ox_list *buckets;
	size_t bucket_mask;
	struct ox_list lru;
	struct ox_list dirty;
	size_t writing_count;	 /* blocks being written */
	uint64_t seq;		 /* numbers changes */
	uint64_t failures;	 /* numbers writes that failed */
	uint64_t evicted_at;	 /* ticket that covers the last write of every evicted block */
	struct ox_waitq changed; /* loads, writes, unpinnings */
	unsigned forgetting;	 /* tasks that wait for the last pin of a block */
	uint64_t hits;
	uint64_t misses;
};

/* max_bytes bounds all that the cache takes for its blocks, data and bookkeeping; two blocks it has
 * at the least. Memory is taken as blocks come, and given back when the last one goes. 0 or
 * -ENOMEM. */
int ox_cache_init(struct ox_cache *c, struct ox_io *io, struct ox_order *order, size_t slice_bytes,
		  uint64_t max_bytes);
/* Keeps what is changed on the shelf, from now on; there are no blocks yet. */
void ox_cache_put_on(struct ox_cache *c, struct ox_shelf *shelf);
/* Takes over what a process that died has left there: changed, and behind the barrier of the sync
 * that is still to come (H1). -EINVAL: two slots have one slice, or a slot has none that there can
 * be; then nothing was taken over. */
int ox_cache_adopt(struct ox_cache *c, uint64_t end_bytes) __attribute__((warn_unused_result));
/* Puts over count bytes that were read from the store at offset what was changed since. */
void ox_cache_overlay(struct ox_cache *c, uint64_t offset, void *buf, uint64_t count);
/* Drops every block, dirty ones as well (the owner has flushed, or gives up); what lies on a shelf
 * stays there. */
void ox_cache_fini(struct ox_cache *c);

/* Pins the slice at offset for reading, loading it if need be. Every byte of the store past its end
 * reads as zero. Where no room can be made, because changed blocks cannot be written, the cache
 * grows beyond its bound: reads go on. 0 or a negative errno. */
int ox_cache_get_co(struct ox_cache *c, uint64_t offset, struct ox_block **ret)
	__attribute__((warn_unused_result));
/* Pins the slice for a change: the store has space for it (C5). -ENOSPC and the like leave cache
 * and store as they were. */
int ox_cache_edit_co(struct ox_cache *c, uint64_t offset, struct ox_block **ret)
	__attribute__((warn_unused_result));
/* The same without loading: the caller knows that the store holds zeroes there. */
int ox_cache_edit_zero_co(struct ox_cache *c, uint64_t offset, struct ox_block **ret)
	__attribute__((warn_unused_result));
void ox_cache_put(struct ox_cache *c, struct ox_block *b);

/* The pinned block was changed. after: barrier that this change owes, or OX_TICKET_NONE. */
void ox_cache_dirty(struct ox_cache *c, struct ox_block *b, uint64_t after);

/* Whether the block's bytes, as they are now, are durable on the store. */
bool ox_cache_is_durable(const struct ox_cache *c, const struct ox_block *b);

/* Writes every change made before the call, each behind its barrier. The writes are complete, not
 * durable, on return: wait for ox_order_ticket() next. 0 or the first error, and then every block
 * that could be written has been. */
int ox_cache_flush_co(struct ox_cache *c) __attribute__((warn_unused_result));

/* Whether any block is dirty or being written. */
bool ox_cache_is_busy(const struct ox_cache *c);

/* Drops the blocks of [offset, offset + length), whose table is gone: changes to them are not
 * written any more. Waits for loads and writes in flight. */
void ox_cache_forget_co(struct ox_cache *c, uint64_t offset, uint64_t length);

/* Drops every block, dirty ones as well, of which none is pinned or being written. */
void ox_cache_abandon(struct ox_cache *c);

/* Drops every block; none is dirty or pinned. */
void ox_cache_clear(struct ox_cache *c);

/* Writes one run of dirty blocks that are neighbours, starting with b: for eviction. */
int ox_cache_write_run_co(struct ox_cache *c, struct ox_block *b);

struct ox_block *ox_cache_find(struct ox_cache *c, uint64_t offset);

#endif
