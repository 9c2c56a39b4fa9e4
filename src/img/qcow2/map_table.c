/* SPDX-License-Identifier: MIT */
/*
 * L2 tables for writing: made where there is none, copied where a snapshot shares them.
 *
 * D1: a table's bytes are durable before the L1 entry that names it. A table out of a zeroed
 * reserve needs nothing for that: the zeroes are durable and say "unallocated". A copy, or a table
 * on bytes that are not known to be zero, is written in full first, and the L1 slice carries the
 * barrier.
 */
#include <errno.h>
#include <stdlib.h>

#include "img/qcow2/qcow2.h"

static int l1_store_co(struct ox_qcow2 *q, uint64_t index, struct ox_host table, uint64_t after)
{
	uint64_t at = ox_qcow2_hdr(q)->l1_offset + index * 8;
	uint64_t slice = ox_align_down(at, q->m.slice_bytes);
	struct ox_qcow2_l1_entry e = {.copied = true, .l2 = table};
	struct ox_block *b;
	int r;

	r = ox_cache_edit_co(&q->m.map, slice, &b);
	if (r < 0)
		return r;
	((struct ox_be64 *)(void *)b->data)[(at - slice) / 8] = ox_be64(ox_qcow2_l1_encode(&e));
	ox_cache_dirty(&q->m.map, b, after);
	ox_cache_put(&q->m.map, b);
	return 0;
}

/* Whether the store has the table's bytes, but for what a recovery takes out, and a copy does not
 * take over. Only a state that is not ours has such a table changed. */
static bool is_clean(struct ox_qcow2 *q, struct ox_host table)
{
	bool changed = false;

	for (uint64_t at = 0; at < q->m.cluster_bytes; at += q->m.slice_bytes) {
		struct ox_block *b = ox_cache_find(&q->m.map, table.bytes + at);

		changed = changed || (b && (b->dirty || b->writing));
	}
	ox_assert(!changed || q->rebuild.scrubs || q->m.state);
	return !changed || q->rebuild.scrubs;
}

/* The new table's bytes: those of the table that is not to change, or zeroes. */
static int fill_table_co(struct ox_qcow2 *q, struct ox_host to,
			 const struct ox_qcow2_l1_entry *from)
{
	uint64_t stale = 0;
	struct ox_be64 *buf;
	int r;

	if (from->l2.bytes == 0)
		return ox_io_fill_zero_co(q->m.io, to.bytes, q->m.cluster_bytes);
	/* A shared table, or a frozen one (R1), is never changed in the cache. */
	if (!is_clean(q, from->l2))
		return -EIO;
	buf = ox_io_buffer(q->m.cluster_bytes);
	if (!buf)
		return -ENOMEM;
	/* A copy is not below the fence: what is stale in it would be taken for ours. */
	r = ox_io_pread_co(q->m.io, buf, q->m.cluster_bytes, from->l2.bytes);
	if (r == 0)
		stale = ox_recover_scrub(q, from->l2, buf, q->m.cluster_bytes / 8);
	if (stale > 0 && !from->copied)
		r = -EIO;
	if (r == 0)
		r = ox_io_pwrite_co(q->m.io, buf, q->m.cluster_bytes, to.bytes, 0);
	free(buf);
	return r;
}

static int make_table_co(struct ox_qcow2 *q, uint64_t index, const struct ox_qcow2_l1_entry *l1,
			 struct ox_host *ret)
{
	struct ox_host old = l1->l2;
	struct ox_alloc_range range;
	uint64_t after = OX_TICKET_NONE;
	struct ox_host table;
	int r;

	r = ox_alloc_take_co(&q->m, 1, &range);
	if (r < 0)
		return r;
	ox_alloc_note_table(&q->m, &range);
	table = ox_host(range.start * q->m.cluster_bytes);
	if (old.bytes != 0 || !range.zero) {
		r = fill_table_co(q, table, l1);
		after = ox_order_ticket(&q->m.order);
	}
	/* Slices of an earlier life of this cluster, which a late lookup may have loaded even while
	 * it was filled. */
	ox_cache_forget_co(&q->m.map, table.bytes, q->m.cluster_bytes);
	if (r == 0)
		r = ox_tables_add(&q->m, table);
	if (r == 0) {
		r = l1_store_co(q, index, table, after);
		if (r < 0)
			ox_tables_remove(&q->m, table);
	}
	if (r < 0) {
		range.zero = range.zero && old.bytes == 0;
		ox_alloc_give_back(&q->m, &range);
		return r;
	}
	ox_alloc_named(&q->m, &range, 1);
	if (old.bytes != 0) {
		q->tables_left++;
		ox_tables_remove(&q->m, old);
		ox_alloc_free_later(&q->m, old, q->m.cluster_bytes);
	}
	*ret = table;
	return 0;
}

/* Whether entries of the L1 entry's table may be changed where they are. */
static bool is_own(const struct ox_qcow2 *q, const struct ox_qcow2_l1_entry *l1)
{
	return l1->copied && !ox_recover_is_frozen(q, l1->l2);
}

static int own_table_co(struct ox_qcow2 *q, uint64_t index, struct ox_host *ret)
{
	struct ox_qcow2_l1_entry l1;
	bool durable;
	int r;

	ox_mutex_lock_co(&q->m.table_lock);
	r = ox_map_l1_co(q, index, &l1, &durable); /* another task may have made it meanwhile */
	if (r == 0 && is_own(q, &l1))
		*ret = l1.l2;
	else if (r == 0)
		r = make_table_co(q, index, &l1, ret);
	ox_mutex_unlock(&q->m.table_lock);
	return r;
}

int ox_map_table_co(struct ox_qcow2 *q, struct ox_guest guest, struct ox_host *ret)
{
	uint64_t index = guest.bytes >> q->m.cluster_bits >> (q->m.cluster_bits - 3);
	struct ox_qcow2_l1_entry l1;
	bool durable;
	int r;

	r = ox_map_l1_co(q, index, &l1, &durable);
	if (r < 0)
		return r;
	if (is_own(q, &l1)) {
		*ret = l1.l2;
		return 0;
	}
	return own_table_co(q, index, ret);
}
