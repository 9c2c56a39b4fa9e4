/* SPDX-License-Identifier: MIT */
/*
 * The size in the header, and an L1 table for a larger disk. The table moves as H7 demands, with
 * every guest range locked: written and durable at its new place, then the header's fields in one
 * sector, then the old one is freed.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "img/qcow2/qcow2.h"

static int copy_l1_co(struct ox_qcow2 *q, uint64_t to, uint64_t bytes)
{
	const struct ox_qcow2_header *h = ox_qcow2_hdr(q);
	uint8_t *buf = ox_io_buffer(bytes);
	int r;

	if (!buf)
		return -ENOMEM;
	memset(buf, 0, bytes);
	r = ox_cache_flush_co(&q->m.map);
	if (r == 0)
		r = ox_io_pread_co(q->m.io, buf, (uint64_t)h->l1_entries * 8, h->l1_offset);
	if (r == 0)
		r = ox_io_pwrite_co(q->m.io, buf, bytes, to, 0);
	if (r == 0)
		r = ox_order_wait_co(&q->m.order, ox_order_ticket(&q->m.order));
	free(buf);
	return r;
}

static int write_size_co(struct ox_qcow2 *q, uint64_t new_bytes, uint64_t l1_offset,
			 uint64_t l1_entries)
{
	struct ox_qcow2_header fields;
	int r;

	ox_header_lock_co(q);
	fields = *ox_qcow2_hdr(q);
	fields.size_bytes = new_bytes;
	fields.l1_offset = l1_offset;
	fields.l1_entries = (uint32_t)l1_entries;
	r = ox_header_write_co(q, &fields);
	if (r < 0) /* for want of room too: nobody knows which size and table it names */
		ox_order_poison(&q->m.order, r);
	ox_header_unlock(q);
	if (r < 0)
		return r;
	/* The header says so durably: from now on the guest must not be told otherwise. */
	q->m.img->size_bytes = new_bytes;
	q->m.fixed[1] = (struct ox_metadata_range){l1_offset, l1_offset + l1_entries * 8};
	return 0;
}

static int move_l1_co(struct ox_qcow2 *q, uint64_t new_bytes, uint64_t entries)
{
	uint64_t clusters = ox_div_up(entries * 8, q->m.cluster_bytes);
	uint64_t old_offset = ox_qcow2_hdr(q)->l1_offset;
	uint64_t old_bytes = (uint64_t)ox_qcow2_hdr(q)->l1_entries * 8;
	struct ox_alloc_range old = {
		.start = old_offset / q->m.cluster_bytes,
		.count = ox_div_up(old_bytes, q->m.cluster_bytes),
	};
	struct ox_alloc_range range;
	uint64_t to;
	int r;

	r = ox_alloc_take_contiguous_co(q, clusters, &range);
	if (r < 0)
		return r;
	ox_note_turn(q->m.notes, range.note, OX_NOTE_TAKEN_TABLE);
	to = range.start * q->m.cluster_bytes;
	/* On a store that cannot grow the clusters may have held an L2 table before. */
	ox_cache_forget_co(&q->m.map, to, clusters * q->m.cluster_bytes);
	r = copy_l1_co(q, to, clusters * q->m.cluster_bytes);
	if (r < 0) {
		ox_alloc_named(&q->m, &range, clusters);
		ox_alloc_free_later(&q->m, ox_host(to), clusters * q->m.cluster_bytes);
		return r;
	}
	if (old_bytes > 0) /* a death finds which of both the header names */
		ox_alloc_note_table(&q->m, &old);
	r = write_size_co(q, new_bytes, to, entries);
	ox_alloc_named(&q->m, &range, clusters);
	ox_alloc_named(&q->m, &old, old.count);
	if (r < 0) /* nobody knows which table the header names: leak */
		return r;
	ox_cache_forget_co(&q->m.map, ox_align_down(old_offset, q->m.slice_bytes), old_bytes);
	if (old_bytes > 0)
		ox_alloc_free_later(&q->m, ox_host(old_offset), old_bytes);
	return 0;
}

static int grow_l1_co(struct ox_qcow2 *q, uint64_t new_bytes, uint64_t entries)
{
	struct ox_range all;
	int r;

	ox_rangelock_acquire_co(&q->m.guest, &all, 0, UINT64_MAX, true);
	r = move_l1_co(q, new_bytes, entries);
	ox_rangelock_release(&q->m.guest, &all);
	return r;
}

int ox_qcow2_write_size_co(struct ox_mapped *m, uint64_t new_bytes)
{
	struct ox_qcow2 *q = ox_qcow2_of_mapped(m);
	const struct ox_qcow2_header *h = ox_qcow2_hdr(q);

	return write_size_co(q, new_bytes, h->l1_offset, h->l1_entries);
}

int ox_qcow2_grow_tables_co(struct ox_mapped *m, uint64_t new_bytes, struct ox_error **err)
{
	struct ox_qcow2 *q = ox_qcow2_of_mapped(m);
	const struct ox_qcow2_header *h = ox_qcow2_hdr(q);
	uint64_t need = ox_qcow2_l1_needed(h, new_bytes);
	int r;

	if (need * 8 > OX_QCOW2_MAX_L1_BYTES)
		return ox_error_set(err, -EFBIG, "Image size too big for this cluster size");
	r = need > h->l1_entries ? grow_l1_co(q, h->size_bytes, need) : 0;
	return r < 0 ? ox_error_set_errno(err, r, "Could not grow the L1 table") : 0;
}

int ox_qcow2_resize_co(struct ox_image *img, uint64_t new_bytes,
		       const struct ox_resize_options *how, struct ox_error **err)
{
	const struct ox_qcow2_header *h = ox_qcow2_hdr(ox_qcow2_of(img));

	if (h->version < 3 && h->snapshot_count > 0)
		return ox_error_set(err, -ENOTSUP, "Can't resize a v2 image which has snapshots");
	return ox_mapped_resize_co(img, new_bytes, how, err);
}
