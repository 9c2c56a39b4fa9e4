/* SPDX-License-Identifier: MIT */
/* Another backing file in the header, as docs/chain.md has it, and tables that leave the L1 table
 * of an image that is emptied. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fmt/formats.h"
#include "img/qed/qed.h"

/* Where a name of so many bytes lies, which is in the one sector that names it, or where the old
 * header names nothing. */
static uint64_t place_for_name(const struct ox_qed_header *h, size_t bytes)
{
	uint64_t old_end = (uint64_t)h->backing_offset + h->backing_bytes;

	if (OX_QED_HEADER_BYTES + bytes <= OX_QED_SECTOR_BYTES)
		return OX_QED_HEADER_BYTES;
	if (!(h->features & OX_QED_BACKING) || h->backing_bytes == 0 ||
	    old_end <= OX_QED_SECTOR_BYTES || h->backing_offset >= OX_QED_SECTOR_BYTES + bytes)
		return OX_QED_SECTOR_BYTES;
	return ox_align_up(old_end, 8);
}

/* What the old header names stays, durably, until the first sector says otherwise. */
static int write_name_co(struct ox_qed_image *q, uint64_t at, const char *name)
{
	int r;

	if (at < OX_QED_SECTOR_BYTES)
		return 0;
	r = ox_io_pwrite_co(q->m.io, name, strlen(name), at, 0);
	return r < 0 ? r : ox_order_sync_always_co(&q->m.order);
}

static int change_co(struct ox_qed_image *q, struct ox_qed_header *h, const char *name)
{
	uint64_t at = h->features & OX_QED_BACKING ? h->backing_offset : 0;
	int r = 0;

	if (at > 0)
		r = write_name_co(q, at, name);
	if (r < 0)
		return r;
	r = ox_qed_write_header_co(q, h, at < OX_QED_SECTOR_BYTES ? name : NULL);
	if (r < 0) /* for want of room too: nobody knows which file it names */
		ox_order_poison(&q->m.order, r);
	return r;
}

int ox_qed_write_backing_co(struct ox_mapped *m, const char *name, const char *format,
			    struct ox_error **err)
{
	struct ox_qed_image *q = ox_qed_of(m);
	size_t bytes = name ? strlen(name) : 0;
	struct ox_qed_header h;
	int r = 0;

	if (bytes > OX_QED_BACKING_BYTES_MAX)
		return ox_error_set(err, -EINVAL, "Backing file name too long");
	ox_mutex_lock_co(&q->header_lock);
	h = q->h;
	h.autoclear = 0;
	h.features &= ~(uint64_t)(OX_QED_BACKING | OX_QED_BACKING_RAW);
	h.backing_offset = name ? (uint32_t)place_for_name(&q->h, bytes) : 0;
	h.backing_bytes = (uint32_t)bytes;
	if (name)
		h.features |= OX_QED_BACKING;
	if (name && format && ox_formats_is_raw(format))
		h.features |= OX_QED_BACKING_RAW;
	if (name && ox_qed_judge_backing(&h))
		r = ox_error_set(err, -ENOSPC, "No space left in the file header");
	if (r == 0) {
		r = change_co(q, &h, name);
		if (r < 0)
			ox_error_set_errno(err, r, "Could not write the header");
	}
	ox_mutex_unlock(&q->header_lock);
	if (r == 0)
		m->img->backing_format_unsayable = name && !(h.features & OX_QED_BACKING_RAW);
	return r;
}
