/* SPDX-License-Identifier: MIT */
/*
 * Resizing, one at a time. Every guest range is locked while the L1 table moves and while the size
 * changes; what is past the smaller of the two sizes, which no guest sees meanwhile, is worked off
 * in pieces without that lock.
 *
 * A larger L1 table moves as H7 demands: written and durable at its new place, then the header's
 * fields in one sector, then the old one is freed.
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
	r = ox_cache_flush_co(&q->map);
	if (r == 0)
		r = ox_io_pread_co(q->io, buf, (uint64_t)h->l1_entries * 8, h->l1_offset);
	if (r == 0)
		r = ox_io_pwrite_co(q->io, buf, bytes, to, 0);
	if (r == 0)
		r = ox_order_wait_co(&q->order, ox_order_ticket(&q->order));
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
		ox_order_poison(&q->order, r);
	ox_header_unlock(q);
	if (r < 0)
		return r;
	/* The header says so durably: from now on the guest must not be told otherwise. */
	q->img->size_bytes = new_bytes;
	q->fixed[1] = (struct ox_metadata_range){l1_offset, l1_offset + l1_entries * 8};
	return 0;
}

/* No request is under way while the size changes. */
static int change_size_co(struct ox_qcow2 *q, uint64_t new_bytes)
{
	const struct ox_qcow2_header *h = ox_qcow2_hdr(q);
	struct ox_range all;
	int r;

	ox_rangelock_acquire_co(&q->guest, &all, 0, UINT64_MAX, true);
	r = write_size_co(q, new_bytes, h->l1_offset, h->l1_entries);
	ox_rangelock_release(&q->guest, &all);
	return r;
}

static int move_l1_co(struct ox_qcow2 *q, uint64_t new_bytes, uint64_t entries)
{
	uint64_t clusters = ox_div_up(entries * 8, q->cluster_bytes);
	uint64_t old_offset = ox_qcow2_hdr(q)->l1_offset;
	uint64_t old_bytes = (uint64_t)ox_qcow2_hdr(q)->l1_entries * 8;
	struct ox_alloc_range range;
	uint64_t to;
	int r;

	r = ox_alloc_take_contiguous_co(q, clusters, &range);
	if (r < 0)
		return r;
	to = range.start * q->cluster_bytes;
	/* On a store that cannot grow the clusters may have held an L2 table before. */
	ox_cache_forget_co(&q->map, to, clusters * q->cluster_bytes);
	r = copy_l1_co(q, to, clusters * q->cluster_bytes);
	if (r < 0) {
		ox_alloc_free_later(q, ox_host(to), clusters * q->cluster_bytes);
		return r;
	}
	r = write_size_co(q, new_bytes, to, entries);
	if (r < 0) /* nobody knows which table the header names: leak */
		return r;
	ox_cache_forget_co(&q->map, ox_align_down(old_offset, q->slice_bytes), old_bytes);
	if (old_bytes > 0)
		ox_alloc_free_later(q, ox_host(old_offset), old_bytes);
	return 0;
}

static int grow_l1_co(struct ox_qcow2 *q, uint64_t new_bytes, uint64_t entries)
{
	struct ox_range all;
	int r;

	ox_rangelock_acquire_co(&q->guest, &all, 0, UINT64_MAX, true);
	r = move_l1_co(q, new_bytes, entries);
	ox_rangelock_release(&q->guest, &all);
	return r;
}

static int grow_co(struct ox_qcow2 *q, uint64_t new_bytes, struct ox_error **err)
{
	const struct ox_qcow2_header *h = ox_qcow2_hdr(q);
	uint64_t need = ox_qcow2_l1_needed(h, new_bytes);
	uint64_t old_bytes = h->size_bytes;
	int r;

	if (h->backing_offset != 0 && !q->img->backing)
		return ox_error_set(err, -ENOTSUP,
				    "Cannot grow the image while its backing file is not open");
	if (need * 8 > OX_QCOW2_MAX_L1_BYTES)
		return ox_error_set(err, -EFBIG, "Image size too big for this cluster size");
	r = need > h->l1_entries ? grow_l1_co(q, old_bytes, need) : 0;
	if (r < 0)
		return ox_error_set_errno(err, r, "Could not grow the L1 table");
	/*
	 * What the guest will see beyond the old end must be zeroes: neither a larger backing
	 * file's bytes, nor the rest of the last cluster, nor what a shrinking that was cut short
	 * left in the tables. The size is what makes it visible.
	 */
	r = ox_qcow2_zero_new_co(q, old_bytes, new_bytes);
	if (r == 0)
		r = ox_commit_co(q);
	if (r == 0)
		r = change_size_co(q, new_bytes);
	if (r < 0)
		return ox_error_set_errno(err, r, "Could not resize the image");
	return 0;
}

static int shrink_co(struct ox_qcow2 *q, uint64_t new_bytes, struct ox_error **err)
{
	uint64_t old_bytes = ox_qcow2_hdr(q)->size_bytes;
	int r;

	r = change_size_co(q, new_bytes);
	if (r == 0) /* discarded after the guest has lost sight of it: a crash between leaks */
		r = ox_qcow2_drop_co(q, new_bytes, old_bytes);
	if (r == 0)
		r = ox_commit_co(q);
	if (r < 0)
		return ox_error_set_errno(err, r, "Could not resize the image");
	return 0;
}

int ox_qcow2_resize_co(struct ox_image *img, uint64_t new_bytes, struct ox_error **err)
{
	struct ox_qcow2 *q = ox_qcow2_of(img);
	const struct ox_qcow2_header *h = ox_qcow2_hdr(q);
	int r;

	if (h->version < 3 && h->snapshot_count > 0)
		return ox_error_set(err, -ENOTSUP, "Can't resize a v2 image which has snapshots");
	r = ox_qcow2_prepare_write_co(q);
	if (r < 0)
		return ox_error_set_errno(err, r, "Could not resize the image");
	ox_recover_wait_co(q); /* tables that move need counts */
	if (q->recover.lacks_room)
		return ox_error_set(err, -ENOSPC,
				    "The host has no room for the recovery that is under way");
	if (ox_recover_active(q))
		return ox_error_set(err, -EIO,
				    "Cannot resize an image that could not be recovered");
	ox_mutex_lock_co(&q->resize_lock);
	if (new_bytes > h->size_bytes)
		r = grow_co(q, new_bytes, err);
	else if (new_bytes < h->size_bytes)
		r = shrink_co(q, new_bytes, err);
	ox_mutex_unlock(&q->resize_lock);
	return r;
}
