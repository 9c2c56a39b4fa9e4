/* SPDX-License-Identifier: MIT */
/*
 * Moving the refcount table to a larger place (H7). On-disk order:
 *  1. every dirty refcount slice, so that the old table on disk is the current one;
 *  2. the new area, behind everything the old table could describe: the new table, followed by
 *     the refcount blocks that describe the area itself; synced with the file's new length (D8);
 *  3. the header's two fields, in one sector, synced;
 *  4. only then the old table's clusters lose their refcounts.
 * A crash before 3 leaks the area (it lies past all counted clusters); one after 3 leaks the old
 * table.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "img/qcow2/qcow2.h"

struct area {
	uint64_t start;		 /* cluster */
	uint64_t table_clusters; /* the new table */
	uint64_t blocks;	 /* refcount blocks behind it */
};

/* Smallest area from start on whose blocks describe all of it, with room to grow. */
static int plan_area(const struct ox_qcow2 *q, uint64_t start, uint64_t need_blocks,
		     struct area *ret)
{
	uint64_t per_block = ox_qcow2_refblock_entries(ox_qcow2_hdr(q));
	uint64_t per_cluster = q->m.cluster_bytes / 8;
	uint64_t blocks = 1;
	uint64_t table = 0;

	for (;;) {
		uint64_t last = start / per_block + blocks;
		uint64_t entries = ox_max_u64(need_blocks, last);

		table = ox_div_up(entries + entries / 2, per_cluster);
		if (ox_div_up(table + blocks, per_block) <= blocks)
			break;
		blocks++;
	}
	if (table * q->m.cluster_bytes > OX_QCOW2_MAX_REFTABLE_BYTES) {
		uint64_t most = OX_QCOW2_MAX_REFTABLE_BYTES / q->m.cluster_bytes;

		if (start / per_block + blocks > most * per_cluster)
			return -EFBIG;
		table = most;
	}
	*ret = (struct area){start, table, blocks};
	return 0;
}

static int fill_table_co(struct ox_qcow2 *q, const struct area *a, uint8_t *table)
{
	const struct ox_qcow2_header *h = ox_qcow2_hdr(q);
	uint64_t first = a->start / ox_qcow2_refblock_entries(h);
	int r;

	r = ox_io_pread_co(q->m.io, table, (uint64_t)h->reftable_clusters * q->m.cluster_bytes,
			   h->reftable_offset);
	if (r < 0)
		return r;
	for (uint64_t i = 0; i < a->blocks; i++)
		((struct ox_be64 *)(void *)table)[first + i] =
			ox_be64((a->start + a->table_clusters + i) * q->m.cluster_bytes);
	return 0;
}

static void fill_blocks(const struct ox_qcow2 *q, const struct area *a, uint8_t *blocks)
{
	unsigned order = ox_qcow2_hdr(q)->refcount_order;
	uint64_t per_block = ox_qcow2_refblock_entries(ox_qcow2_hdr(q));

	for (uint64_t i = 0; i < a->table_clusters + a->blocks; i++)
		ox_qcow2_refcount_set(blocks + i / per_block * q->m.cluster_bytes, order,
				      i % per_block, 1);
}

/* A file that has no room for the area stays as long as it was: a second attempt would lie behind
 * what the first has left, and take more of what room there is. */
static int give_length_back_co(struct ox_qcow2 *q, uint64_t old_bytes, int error)
{
	int r = 0;

	if (q->m.io->can_grow && q->m.io->length > old_bytes)
		r = ox_mapped_set_length_co(&q->m, old_bytes);
	(void)r; /* leaked: nothing names it */
	return error;
}

static int write_area_co(struct ox_qcow2 *q, const struct area *a)
{
	uint64_t bytes = (a->table_clusters + a->blocks) * q->m.cluster_bytes;
	uint64_t end = a->start * q->m.cluster_bytes + bytes;
	uint64_t old_bytes = q->m.io->length;
	uint8_t *buf;
	int r;

	buf = ox_io_buffer(bytes);
	if (!buf)
		return -ENOMEM;
	memset(buf, 0, bytes);
	r = fill_table_co(q, a, buf);
	if (r == 0) {
		fill_blocks(q, a, buf + a->table_clusters * q->m.cluster_bytes);
		r = end > q->m.io->length && !q->m.io->can_grow ? -ENOSPC : 0;
	}
	if (r == 0)
		r = ox_io_pwrite_co(q->m.io, buf, bytes, a->start * q->m.cluster_bytes, 0);
	if (r < 0)
		r = give_length_back_co(q, old_bytes, r);
	else
		r = ox_order_wait_co(&q->m.order, ox_order_ticket(&q->m.order));
	free(buf);
	return r;
}

int ox_refcount_grow_table_co(struct ox_qcow2 *q, uint64_t need_blocks, uint64_t from,
			      struct ox_alloc_range *ret_area)
{
	struct ox_qcow2_header fields = *ox_qcow2_hdr(q);
	uint64_t per_block = ox_qcow2_refblock_entries(&fields);
	uint64_t old_offset = fields.reftable_offset;
	uint64_t old_clusters = fields.reftable_clusters;
	uint64_t covered = old_clusters * (q->m.cluster_bytes / 8) * per_block;
	/* A store that cannot grow has room only inside; past the old table all of it is free. */
	uint64_t file_end = q->m.io->can_grow ? ox_div_up(q->m.io->length, q->m.cluster_bytes) : 0;
	struct ox_alloc_range old = {
		.start = old_offset / q->m.cluster_bytes,
		.count = old_clusters,
	};
	struct area a;
	int r;

	from = ox_max_u64(from, ox_max_u64(covered, file_end));
	r = plan_area(q, ox_align_up(from, per_block), need_blocks, &a);
	if (r < 0)
		return r;
	r = ox_cache_flush_co(&q->counts); /* 1 */
	if (r == 0)
		r = write_area_co(q, &a); /* 2 */
	if (r < 0)
		return r;
	ox_alloc_note_table(&q->m, &old);
	ox_header_lock_co(q);
	fields = *ox_qcow2_hdr(q);
	fields.reftable_offset = a.start * q->m.cluster_bytes;
	fields.reftable_clusters = (uint32_t)a.table_clusters;
	r = ox_header_write_co(q, &fields); /* 3 */
	if (r < 0) /* for want of room too: nobody knows which table it is */
		ox_order_poison(&q->m.order, r);
	ox_header_unlock(q);
	if (r < 0) {
		ox_alloc_named(&q->m, &old, old_clusters);
		return r;
	}
	q->m.fixed[2] = (struct ox_metadata_range){fields.reftable_offset,
						   fields.reftable_offset +
							   a.table_clusters * q->m.cluster_bytes};
	ox_note_turn(q->m.notes, old.note, OX_NOTE_RELEASING); /* the header durably says so */
	for (uint64_t i = 0; r == 0 && i < a.blocks; i++)
		r = ox_tables_add(&q->m,
				  ox_host((a.start + a.table_clusters + i) * q->m.cluster_bytes));
	if (r < 0) {
		ox_alloc_named(&q->m, &old, old_clusters);
		return r;
	}
	ox_cache_forget_co(&q->counts, old_offset, old_clusters * q->m.cluster_bytes);
	/* 4. The table has grown, whatever becomes of the old one: a failure leaks it. */
	r = ox_refcount_set_co(q, old_offset / q->m.cluster_bytes, old_clusters, 0);
	(void)r;
	ox_alloc_named(&q->m, &old, old_clusters);
	if (ret_area)
		*ret_area = (struct ox_alloc_range){.start = a.start,
						    .count = a.table_clusters + a.blocks};
	return 0;
}
