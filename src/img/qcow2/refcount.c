/* SPDX-License-Identifier: MIT */
/* Refcounts through the cache: look up, set, find free clusters. */
#include <errno.h>

#include "img/qcow2/qcow2.h"

/* Where one cluster's refcount lies. */
struct place {
	struct ox_host block; /* bytes == 0: no block describes the cluster */
	uint64_t slice;	      /* host offset of the slice that holds it */
	uint64_t index;	      /* entry in the slice */
	uint64_t slice_left;  /* entries from index to the slice's end */
	uint64_t block_left;  /* entries from index to the block's end */
};

uint64_t ox_refcount_table_entries(const struct ox_qcow2 *q)
{
	return (uint64_t)ox_qcow2_hdr(q)->reftable_clusters * (q->m.cluster_bytes / 8);
}

static int table_read_co(struct ox_qcow2 *q, uint64_t index, struct ox_host *ret)
{
	uint64_t at = ox_qcow2_hdr(q)->reftable_offset + index * 8;
	uint64_t slice = ox_align_down(at, q->m.slice_bytes);
	struct ox_block *b;
	uint64_t raw;
	int r;

	r = ox_cache_get_co(&q->counts, slice, &b);
	if (r < 0)
		return r;
	raw = ox_be64_get(((struct ox_be64 *)(void *)b->data)[(at - slice) / 8]);
	ox_cache_put(&q->counts, b);
	if (!ox_qcow2_reftable_decode(ox_qcow2_hdr(q), raw, ret)) {
		ox_corrupt_counts(q, "refcount-block-reserved-bits", ox_host(at), 8);
		return -EIO;
	}
	if (ret->bytes != 0 && (!ox_mapped_host_ok(&q->m, *ret, q->m.cluster_bytes) ||
				!ox_tables_unique(&q->m, *ret))) {
		ox_corrupt_counts(q, "refcount-block-overlap", ox_host(at), 8);
		return -EIO;
	}
	return 0;
}

static int find_place_co(struct ox_qcow2 *q, uint64_t cluster, struct place *ret)
{
	const struct ox_qcow2_header *h = ox_qcow2_hdr(q);
	uint64_t per_block = ox_qcow2_refblock_entries(h);
	uint64_t per_slice = q->m.slice_bytes * 8 >> h->refcount_order;
	uint64_t in_block = cluster % per_block;
	struct ox_host block = ox_host(0);
	int r;

	if (cluster / per_block < ox_refcount_table_entries(q)) {
		r = table_read_co(q, cluster / per_block, &block);
		if (r < 0)
			return r;
	}
	*ret = (struct place){
		.block = block,
		.slice = block.bytes + in_block / per_slice * q->m.slice_bytes,
		.index = in_block % per_slice,
		.slice_left = per_slice - in_block % per_slice,
		.block_left = per_block - in_block,
	};
	return 0;
}

int ox_refcount_get_co(struct ox_qcow2 *q, uint64_t cluster, uint64_t *ret)
{
	struct ox_block *b;
	struct place p;
	int r;

	r = find_place_co(q, cluster, &p);
	if (r < 0)
		return r;
	if (p.block.bytes == 0) {
		*ret = 0;
		return 0;
	}
	r = ox_cache_get_co(&q->counts, p.slice, &b);
	if (r < 0)
		return r;
	*ret = ox_qcow2_refcount_get(b->data, ox_qcow2_hdr(q)->refcount_order, p.index);
	ox_cache_put(&q->counts, b);
	return 0;
}

int ox_refcount_set_co(struct ox_qcow2 *q, uint64_t cluster, uint64_t count, uint64_t value)
{
	unsigned order = ox_qcow2_hdr(q)->refcount_order;
	struct ox_block *b;
	struct place p;
	uint64_t n;
	int r;

	ox_assert(value <= ox_qcow2_refcount_max(order));
	while (count > 0) {
		r = find_place_co(q, cluster, &p);
		if (r < 0)
			return r;
		if (p.block.bytes == 0)
			return -EIO;
		r = ox_cache_edit_co(&q->counts, p.slice, &b);
		if (r < 0)
			return r;
		n = ox_min_u64(count, p.slice_left);
		for (uint64_t i = 0; i < n; i++)
			ox_qcow2_refcount_set(b->data, order, p.index + i, value);
		ox_cache_dirty(&q->counts, b, OX_TICKET_NONE);
		ox_cache_put(&q->counts, b);
		cluster += n;
		count -= n;
	}
	return 0;
}

/* Entries from first on that are zero (or not, with zero false), up to most. */
static uint64_t run_of(const void *slice, unsigned order, uint64_t first, uint64_t most, bool zero)
{
	uint64_t n = 0;

	while (n < most && (ox_qcow2_refcount_get(slice, order, first + n) == 0) == zero)
		n++;
	return n;
}

int ox_refcount_find_free_co(struct ox_qcow2 *q, uint64_t from, uint64_t most, uint64_t *ret_start,
			     uint64_t *ret_count)
{
	unsigned order = ox_qcow2_hdr(q)->refcount_order;
	uint64_t skip;
	uint64_t n;
	struct ox_block *b;
	struct place p;
	int r;

	for (;;) {
		r = find_place_co(q, from, &p);
		if (r < 0)
			return r;
		if (p.block.bytes == 0) {
			*ret_start = from;
			*ret_count = ox_min_u64(most, p.block_left);
			return 0;
		}
		r = ox_cache_get_co(&q->counts, p.slice, &b);
		if (r < 0)
			return r;
		skip = run_of(b->data, order, p.index, p.slice_left, false);
		n = run_of(b->data, order, p.index + skip, ox_min_u64(most, p.slice_left - skip),
			   true);
		ox_cache_put(&q->counts, b);
		if (n > 0) {
			*ret_start = from + skip;
			*ret_count = n;
			return 0;
		}
		from += p.slice_left;
	}
}

int ox_refcount_check_table_co(struct ox_qcow2 *q)
{
	uint64_t entries = ox_refcount_table_entries(q);
	struct ox_host block;
	int r = 0;

	for (uint64_t i = 0; r == 0 && i < entries; i++)
		r = table_read_co(q, i, &block);
	return r;
}

/* Writes the fresh block's one used slice, which counts the block itself, and waits until block
 * and file length are durable (D1, D8). */
static int write_block_co(struct ox_qcow2 *q, struct ox_host host, const struct place *p)
{
	struct ox_block *b;
	int r;

	r = ox_cache_edit_zero_co(&q->counts, host.bytes + p->slice, &b);
	if (r < 0)
		return r;
	ox_qcow2_refcount_set(b->data, ox_qcow2_hdr(q)->refcount_order, p->index, 1);
	ox_cache_dirty(&q->counts, b, OX_TICKET_NONE);
	ox_cache_put(&q->counts, b);
	r = ox_cache_flush_co(&q->counts);
	if (r < 0)
		return r;
	return ox_order_wait_co(&q->m.order, ox_order_ticket(&q->m.order));
}

/* Sets the refcount table's entry for a block that is durable. */
static int name_block_co(struct ox_qcow2 *q, uint64_t index, struct ox_host host)
{
	uint64_t at = ox_qcow2_hdr(q)->reftable_offset + index * 8;
	struct ox_block *b;
	int r = ox_tables_add(&q->m, host);

	if (r < 0)
		return r;
	r = ox_cache_edit_co(&q->counts, ox_align_down(at, q->m.slice_bytes), &b);
	if (r < 0) {
		ox_tables_remove(&q->m, host);
		return r;
	}
	((struct ox_be64 *)(void *)b->data)[at % q->m.slice_bytes / 8] = ox_be64(host.bytes);
	ox_cache_dirty(&q->counts, b, OX_TICKET_NONE);
	ox_cache_put(&q->counts, b);
	return 0;
}

int ox_refcount_ensure_co(struct ox_qcow2 *q, uint64_t cluster, bool *ret_used)
{
	uint64_t index = cluster / ox_qcow2_refblock_entries(ox_qcow2_hdr(q));
	struct ox_host host = ox_host(cluster * q->m.cluster_bytes);
	struct place p;
	bool zero;
	int r;

	*ret_used = false;
	if (index >=
	    ox_refcount_table_entries(q)) { /* the larger table may lie on this very cluster */
		r = ox_refcount_grow_table_co(q, index + 1, 0, NULL);
		*ret_used = r == 0;
		return r;
	}
	r = find_place_co(q, cluster, &p);
	if (r < 0 || p.block.bytes != 0)
		return r;
	r = ox_alloc_make_zero_co(&q->m, cluster, 1, &zero);
	if (r == 0 && !zero)
		r = ox_io_fill_zero_co(q->m.io, host.bytes, q->m.cluster_bytes);
	if (r == 0)
		r = write_block_co(q, host, &p);
	if (r < 0) {
		ox_cache_forget_co(&q->counts, host.bytes, q->m.cluster_bytes);
		return r;
	}
	r = name_block_co(q, index, host);
	*ret_used = r == 0;
	return r;
}

int ox_refcount_make_block_co(struct ox_qcow2 *q, uint64_t cluster,
			      const struct ox_alloc_range *range)
{
	struct ox_host host = ox_host(range->start * q->m.cluster_bytes);
	int r = 0;

	ox_cache_forget_co(&q->counts, host.bytes, q->m.cluster_bytes);
	if (!range->zero) {
		r = ox_io_fill_zero_co(q->m.io, host.bytes, q->m.cluster_bytes);
		if (r == 0)
			r = ox_order_wait_co(&q->m.order, ox_order_ticket(&q->m.order));
	}
	if (r < 0)
		return r;
	return name_block_co(q, cluster / ox_qcow2_refblock_entries(ox_qcow2_hdr(q)), host);
}

int ox_refcount_cut_entry_co(struct ox_qcow2 *q, uint64_t index)
{
	uint64_t at = ox_qcow2_hdr(q)->reftable_offset + index * 8;
	uint64_t slice = ox_align_down(at, q->m.slice_bytes);
	struct ox_be64 *entry;
	struct ox_block *b;
	uint64_t named;
	int r = ox_cache_edit_co(&q->counts, slice, &b);

	if (r < 0)
		return r;
	entry = (struct ox_be64 *)(void *)b->data + (at - slice) / 8;
	named = ox_be64_get(*entry) & OX_QCOW2_OFFSET_MASK;
	if (entry->raw != 0) {
		/* As it was noted when the table was loaded. */
		if (named >= q->m.cluster_bytes && named < q->m.tables.file_bytes)
			ox_tables_remove(&q->m, ox_host(named));
		*entry = ox_be64(0);
		ox_cache_dirty(&q->counts, b, OX_TICKET_NONE);
	}
	ox_cache_put(&q->counts, b);
	return 0;
}

/* Whether the block says 1 of its entry own, and 0 of all others. */
static int says_alone_co(struct ox_qcow2 *q, struct ox_host block, uint64_t own, bool *ret)
{
	unsigned order = ox_qcow2_hdr(q)->refcount_order;
	uint64_t per_slice = q->m.slice_bytes * 8 >> order;
	uint64_t zeroes = 0;
	bool is_one = false;
	struct ox_block *b;
	int r;

	for (uint64_t at = 0; at < q->m.cluster_bytes; at += q->m.slice_bytes) {
		r = ox_cache_get_co(&q->counts, block.bytes + at, &b);
		if (r < 0)
			return r;
		for (uint64_t i = 0; i < per_slice; i++)
			zeroes += ox_qcow2_refcount_get(b->data, order, i) == 0;
		if (own / per_slice == at / q->m.slice_bytes)
			is_one = ox_qcow2_refcount_get(b->data, order, own % per_slice) == 1;
		ox_cache_put(&q->counts, b);
	}
	*ret = is_one && zeroes == ox_qcow2_refblock_entries(ox_qcow2_hdr(q)) - 1;
	return 0;
}

int ox_refcount_drop_lone_block_co(struct ox_qcow2 *q, uint64_t cluster, bool *ret_dropped)
{
	uint64_t per_block = ox_qcow2_refblock_entries(ox_qcow2_hdr(q));
	struct ox_host block;
	bool alone = false;
	int r;

	*ret_dropped = false;
	r = table_read_co(q, cluster / per_block, &block);
	if (r < 0 || block.bytes != cluster * q->m.cluster_bytes)
		return r;
	r = says_alone_co(q, block, cluster % per_block, &alone);
	if (r < 0 || !alone)
		return r;
	r = ox_refcount_cut_entry_co(q, cluster / per_block);
	if (r < 0)
		return r;
	ox_cache_forget_co(&q->counts, block.bytes, q->m.cluster_bytes);
	*ret_dropped = true;
	return 0;
}

int ox_refcount_has_block_co(struct ox_qcow2 *q, uint64_t cluster, bool *ret)
{
	struct place p;
	int r = find_place_co(q, cluster, &p);

	if (r == 0)
		*ret = p.block.bytes != 0;
	return r;
}
