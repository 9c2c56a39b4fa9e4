/* SPDX-License-Identifier: MIT */
/*
 * The fence of a recovery (docs/recovery.md): the old end, durable in the header before the file
 * grows past it, and gone before the dirty bit is.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "img/qcow2/qcow2.h"

#define SECTOR_BYTES 512u

/* Where the extensions' area ends. */
static uint64_t area_end(const struct ox_qcow2 *q)
{
	uint64_t backing = ox_qcow2_hdr(q)->backing_offset;

	return backing ? backing : q->m.cluster_bytes;
}

/* Changes bytes of the header's cluster, durably, for a caller that holds the header's lock. */
static int patch_co(struct ox_qcow2 *q, uint64_t offset, const void *bytes, size_t count)
{
	uint64_t start = ox_align_down(offset, SECTOR_BYTES);
	uint64_t end = ox_align_up(offset + count, SECTOR_BYTES);
	uint8_t *buf = ox_io_buffer(end - start);
	int r;

	ox_assert(q->header.lock.owner == ox_co_self());
	if (!buf)
		return -ENOMEM;
	r = ox_io_pread_co(q->m.io, buf, end - start, start);
	if (r < 0) {
		free(buf);
		return r;
	}
	if (start == 0)
		memcpy(buf, q->header.sector, SECTOR_BYTES);
	/* Space first (S1): a write that fails for want of it changes nothing. */
	if (end > SECTOR_BYTES)
		r = ox_io_pwrite_co(q->m.io, buf, end - start, start, 0);
	if (r < 0) {
		free(buf);
		return r;
	}
	memcpy(buf + (offset - start), bytes, count);
	r = ox_io_pwrite_co(q->m.io, buf, end - start, start, 0);
	if (r == 0)
		r = ox_order_sync_always_co(&q->m.order);
	else /* as after any header write that failed */
		ox_order_poison(&q->m.order, r);
	if (r == 0 && start == 0)
		memcpy(q->header.sector, buf, SECTOR_BYTES);
	free(buf);
	return r;
}

static bool fits(const struct ox_qcow2 *q)
{
	return area_end(q) - q->ext.end_offset >= OX_QCOW2_FENCE_BYTES;
}

/* Where the backing file's name can go: behind the fence and itself, and not in the sector that is
 * to name it. 0: nowhere. */
static uint64_t place_for_name(const struct ox_qcow2 *q)
{
	const struct ox_qcow2_header *h = ox_qcow2_hdr(q);
	uint64_t to = ox_max_u64(h->backing_offset + h->backing_size,
				 q->ext.end_offset + OX_QCOW2_FENCE_BYTES);

	to = ox_align_up(ox_max_u64(to, SECTOR_BYTES), 8);
	return h->backing_offset && to + h->backing_size <= q->m.cluster_bytes ? to : 0;
}

bool ox_fence_has_room(const struct ox_qcow2 *q)
{
	/* Without an end_offset the list ends with its area. */
	return q->ext.end_offset != 0 && (fits(q) || place_for_name(q) != 0);
}

/* Moves the backing file's name out of the way: copied, durable, and only then named. */
static int move_name_co(struct ox_qcow2 *q)
{
	struct ox_qcow2_header fields = *ox_qcow2_hdr(q);
	uint64_t to = place_for_name(q);
	uint8_t *name;
	int r;

	ox_assert(to != 0);
	name = malloc(ox_max_u64(fields.backing_size, 1));
	if (!name)
		return -ENOMEM;
	r = ox_io_pread_co(q->m.io, name, fields.backing_size, fields.backing_offset);
	if (r == 0 && fields.backing_size > 0)
		r = patch_co(q, to, name, fields.backing_size);
	free(name);
	if (r < 0)
		return r;
	fields.backing_offset = to;
	return ox_header_write_co(q, &fields);
}

static int set_locked_co(struct ox_qcow2 *q, uint64_t old_end_bytes)
{
	uint8_t disk[OX_QCOW2_FENCE_BYTES];
	int r = fits(q) ? 0 : move_name_co(q);

	if (r < 0)
		return r;
	ox_qcow2_fence_encode(old_end_bytes, disk);
	/* The data before the length that makes it count: over two sectors, a new length would call
	 * the data of an earlier fence back. */
	r = patch_co(q, q->ext.end_offset + 8, disk + 8, sizeof(disk) - 8);
	if (r == 0)
		r = patch_co(q, q->ext.end_offset, disk, 8);
	if (r == 0)
		q->ext.fence_bytes = old_end_bytes;
	return r;
}

int ox_fence_set_co(struct ox_qcow2 *q, uint64_t old_end_bytes)
{
	int r;

	ox_assert(old_end_bytes > 0 && ox_fence_has_room(q));
	ox_header_lock_co(q);
	r = set_locked_co(q, old_end_bytes);
	ox_header_unlock(q);
	return r;
}

int ox_fence_remove_co(struct ox_qcow2 *q)
{
	uint8_t disk[OX_QCOW2_FENCE_BYTES];
	int r = 0;

	ox_header_lock_co(q);
	if (q->ext.fence_bytes != 0) {
		ox_qcow2_fence_encode(0, disk);
		/* Type and length lie in one sector: without the length the rest is nothing. */
		r = patch_co(q, q->ext.end_offset, disk, 8);
	}
	if (r == 0)
		q->ext.fence_bytes = 0;
	ox_header_unlock(q);
	return r;
}
