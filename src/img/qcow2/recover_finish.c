/* SPDX-License-Identifier: MIT */
/* The end of a recovery beside the guest: steps 4 to 8 of docs/recovery.md. */
#include <errno.h>
#include <stdlib.h>

#include "img/qcow2/qcow2.h"

/* ---- refcount blocks ---- */

static const struct ox_recovery *ops_of(const struct ox_qcow2 *q)
{
	return q->m.img->recovery;
}

/* Entries of the refcount table that are no blocks (and that the walk did not count). */
static int cut_broken_co(struct ox_qcow2 *q)
{
	uint64_t entries = ox_refcount_table_entries(q);
	int r = 0;

	for (uint64_t i = 0; r == 0 && i < entries; i++) {
		if (!ops_of(q)->has_block(q->rebuild.walk, i))
			r = ox_refcount_cut_entry_co(q, i);
	}
	return r;
}

/* The first block at or after index that some count needs. */
static uint64_t next_needed(const struct ox_qcow2 *q, uint64_t index)
{
	uint64_t per_block = ox_qcow2_refblock_entries(ox_qcow2_hdr(q));
	uint64_t from = index * per_block;
	uint64_t cluster = ops_of(q)->next_counted(q->rebuild.walk, from, UINT64_MAX);

	for (unsigned i = 0; i < q->rebuild.own_count; i++) {
		const struct ox_alloc_range *own = &q->rebuild.own[i];

		if (own->start + own->count > from && own->count > 0)
			cluster = ox_min_u64(cluster, ox_max_u64(own->start, from));
	}
	return cluster == UINT64_MAX ? UINT64_MAX : cluster / per_block;
}

/* A larger table, past everything that is counted. Where the file grows it grows for that: what is
 * allocated from now on lies behind it, whether all went well or not. */
static int grow_table_co(struct ox_qcow2 *q, uint64_t blocks)
{
	struct ox_rebuilding *rec = &q->rebuild;
	uint64_t length = q->m.io->length;
	struct ox_alloc_range area;
	int r;

	if (rec->own_count == OX_RECOVER_OWN_RANGES)
		return -EFBIG;
	r = ox_refcount_grow_table_co(q, blocks, ops_of(q)->end_counted(rec->walk), &area);
	/* The area is ours to count, also where a later step finds no room and all is tried again;
	 * it ends where the file does. */
	if (q->m.io->length > length)
		rec->own[rec->own_count++] =
			r == 0 ? area
			       : (struct ox_alloc_range){
					 .start = ox_div_up(q->m.io->length, q->m.cluster_bytes),
				 };
	/* Within the file its own blocks count it; nobody shall find it free meanwhile. */
	for (uint64_t i = 0; r == 0 && !q->m.io->can_grow && i < area.count; i++)
		r = ops_of(q)->take(rec->walk, area.start + i);
	return r;
}

/* A block for the clusters of index, with the counts of the walk. */
static int make_block_co(struct ox_qcow2 *q, uint64_t index)
{
	uint64_t per_block = ox_qcow2_refblock_entries(ox_qcow2_hdr(q));
	uint64_t c = index * per_block;
	uint64_t end = c + per_block;
	bool has;
	int r;

	/* A table that grew came with blocks. */
	r = ox_refcount_has_block_co(q, c, &has);
	if (r == 0 && !has)
		r = ox_alloc_make_block_co(q, c);
	while (r == 0 && (c = ops_of(q)->next_counted(q->rebuild.walk, c, end)) < end) {
		uint64_t count = ops_of(q)->count(q->rebuild.walk, c);

		r = count > ox_qcow2_refcount_max(ox_qcow2_hdr(q)->refcount_order)
			    ? -EOVERFLOW
			    : ox_refcount_set_co(q, c, 1, count);
		c++;
	}
	return r;
}

/* Every count that is not zero gets a block. Making one may take another cluster. */
static int make_blocks_co(struct ox_qcow2 *q)
{
	uint64_t i;
	int r = 0;

	for (i = next_needed(q, 0); r == 0 && i != UINT64_MAX; i = next_needed(q, i + 1)) {
		if (i >= ox_refcount_table_entries(q))
			r = grow_table_co(q, i + 1);
		if (r == 0 && !ops_of(q)->has_block(q->rebuild.walk, i))
			r = make_block_co(q, i);
	}
	return r;
}

static int count_own_clusters_co(struct ox_qcow2 *q)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < q->rebuild.own_count; i++)
		r = ox_refcount_set_co(q, q->rebuild.own[i].start, q->rebuild.own[i].count, 1);
	return r;
}

/* ---- stale entries ---- */

static int scrub_table_co(struct ox_qcow2 *q, struct ox_host table)
{
	uint64_t count = q->m.slice_bytes / 8;
	struct ox_block *b;
	uint64_t stale;
	int r;

	for (uint64_t at = 0; at < q->m.cluster_bytes; at += q->m.slice_bytes) {
		r = ox_cache_get_co(&q->m.map, table.bytes + at, &b);
		if (r < 0)
			return r;
		stale = ox_recover_stale_in(q, table, (struct ox_be64 *)(void *)b->data, count);
		ox_cache_put(&q->m.map, b);
		if (stale == 0) /* perhaps a hole: it needs no space */
			continue;
		r = ox_cache_edit_co(&q->m.map, table.bytes + at, &b);
		if (r < 0)
			return r;
		(void)ox_recover_scrub(q, table, (struct ox_be64 *)(void *)b->data, count);
		ox_cache_dirty(&q->m.map, b, OX_TICKET_NONE);
		ox_cache_put(&q->m.map, b);
	}
	return 0;
}

/* In the tables that are still named; copies have none. */
static int drop_stale_co(struct ox_qcow2 *q)
{
	uint64_t c = 0;
	int r = 0;

	q->rebuild.scrubs = true;
	while (r == 0 && (c = ops_of(q)->next_stale(q->rebuild.walk, c)) != UINT64_MAX) {
		struct ox_host table = ox_host(c << q->m.cluster_bits);

		ox_mutex_lock_co(&q->m.table_lock); /* nobody copies it meanwhile */
		if (ox_tables_overlap(&q->m, table, 1))
			r = scrub_table_co(q, table);
		ox_mutex_unlock(&q->m.table_lock);
		c++;
	}
	if (r == 0)
		r = ox_cache_flush_co(&q->m.map);
	/* No round of the group commit: it gathers writers, and they may be waiting for us. */
	return r == 0 ? ox_order_sync_always_co(&q->m.order) : r;
}

/* ---- the order ---- */

/* The counts of everything, durable. Nothing is allocated meanwhile but out of the reserve. */
static int settle_counts_co(struct ox_qcow2 *q)
{
	int r;

	r = cut_broken_co(q);
	if (r == 0)
		r = make_blocks_co(q);
	if (r == 0)
		r = count_own_clusters_co(q);
	if (r == 0)
		r = ox_cache_flush_co(&q->counts);
	return r == 0 ? ox_order_sync_always_co(&q->m.order) : r;
}

static int end_locked_co(struct ox_qcow2 *q)
{
	int r;

	ox_cache_abandon(&q->counts); /* of an attempt that found no room, too */
	r = settle_counts_co(q);
	if (r == 0)
		r = ox_qcow2_check_refcounts_co(q, NULL);
	return r == 0 ? ox_fence_remove_co(q) : r;
}

/* What was freed meanwhile is released before the bit goes, so that a crash right after leaves no
 * leak. What fails here is done again when the guest is idle, or at the close. */
static void clear_bit_co(struct ox_qcow2 *q)
{
	uint64_t takes = q->m.alloc.takes;
	int r = ox_commit_co(&q->m);

	if (r == 0)
		r = ox_alloc_release_co(&q->m);
	if (r == 0 && q->m.allocating == 0)
		r = ox_idle_settle_co(&q->m, takes);
	if (r < 0 || q->m.dirty.state != OX_DIRTY_CLEAN)
		ox_idle_start(&q->m);
}

/* Steps 6 and 7. */
static int end_co(struct ox_qcow2 *q)
{
	int r;

	/* Both at once: a table is frozen for whoever copies it, until the allocator is as ever. */
	q->rebuild.may_grow = q->m.io->can_grow; /* a longer file hides nothing any more */
	ox_mutex_lock_co(&q->m.table_lock);
	ox_mutex_lock_co(&q->m.alloc.lock);
	r = end_locked_co(q);
	if (r == 0) {
		/* Every reference is counted: what is free at the end may go. */
		ox_space_set_floor(q, 0);
		q->space.cursor =
			ops_of(q)->next_free(q->rebuild.walk, 1, q->rebuild.limit_clusters);
		q->rebuild.fence = 0;
		q->rebuild.frozen_end = 0;
		ox_recover_done(&q->m);
	}
	ox_mutex_unlock(&q->m.alloc.lock);
	ox_mutex_unlock(&q->m.table_lock);
	return r;
}

int ox_recover_finish_co(struct ox_qcow2 *q)
{
	uint64_t kept;
	int r;

	r = ops_of(q)->judge_co(q->rebuild.walk);
	if (r != 0)
		return r;
	if (ops_of(q)->obstacle(q->rebuild.walk))
		return -EIO;
	if (q->m.recover.leaves)
		return -ECANCELED;
	kept = ops_of(q)->kept(q->rebuild.walk);
	ox_recover_is_past_resuming(q);
	do {
		r = ops_of(q)->write_counts_co(q->rebuild.walk);
		if (r == 0)
			r = drop_stale_co(q);
		if (r == 0)
			r = end_co(q);
	} while (ox_io_is_full(r) && ox_recover_await_room_co(&q->m));
	if (r == 0) {
		ox_recover_tell_kept(q, kept);
		clear_bit_co(q);
	}
	return r;
}
