/* SPDX-License-Identifier: MIT */
#include <errno.h>

#include "img/qcow2/qcow2.h"

static unsigned flags_of(const struct ox_qcow2 *q, const struct ox_map_run *run, uint64_t offset)
{
	switch (run->kind) {
	case OX_QCOW2_ENTRY_DATA:
		return OX_EXTENT_DATA | OX_EXTENT_PRESENT | OX_EXTENT_HAS_OFFSET;
	case OX_QCOW2_ENTRY_COMPRESSED:
		return OX_EXTENT_DATA | OX_EXTENT_PRESENT | OX_EXTENT_COMPRESSED;
	case OX_QCOW2_ENTRY_ZERO:
		return OX_EXTENT_ZERO | OX_EXTENT_PRESENT;
	case OX_QCOW2_ENTRY_ZERO_ALLOC:
		return OX_EXTENT_ZERO | OX_EXTENT_PRESENT | OX_EXTENT_HAS_OFFSET;
	default:
		return ox_qcow2_backing_covers(q, offset) ? 0 : OX_EXTENT_ZERO;
	}
}

/* Whether the next run can be told together with the one before it. */
static bool joins(const struct ox_extent *have, unsigned flags, const struct ox_map_run *next)
{
	if (flags != have->flags)
		return false;
	return !(flags & OX_EXTENT_HAS_OFFSET) ||
	       next->host.bytes == have->host_offset + have->length;
}

/* Runs looked at for one answer: an answer is bounded work, the caller asks again for the rest. */
#define RUNS_MAX 64u

static int extent_locked_co(struct ox_qcow2 *q, uint64_t offset, uint64_t length,
			    struct ox_extent *ret)
{
	struct ox_extent e = {.offset = offset};
	struct ox_map_run run;
	unsigned flags;
	int r;

	for (unsigned i = 0; i < RUNS_MAX && e.length < length; i++) {
		uint64_t at = offset + e.length;

		r = ox_map_lookup_co(q, ox_guest(at), length - e.length, &run);
		if (r < 0 && e.length > 0)
			break; /* what came before is known; the next request gets the error */
		if (r < 0)
			return r;
		flags = flags_of(q, &run, at);
		if (flags == 0 && q->img->backing) /* zero from the backing file's end on */
			run.length = ox_min_u64(run.length, q->img->backing->size_bytes - at);
		if (e.length == 0) {
			e.flags = flags;
			e.host_offset = flags & OX_EXTENT_HAS_OFFSET ? run.host.bytes : 0;
			e.filename = q->img->filename;
		} else if (!joins(&e, flags, &run)) {
			break;
		}
		e.length += run.length;
	}
	*ret = e;
	return 0;
}

int ox_qcow2_extent_co(struct ox_image *img, uint64_t offset, uint64_t length,
		       struct ox_extent *ret)
{
	struct ox_qcow2 *q = ox_qcow2_of(img);
	struct ox_range range;
	int r;

	ox_qcow2_lock_co(q, &range, offset, length, false);
	r = extent_locked_co(q, offset, length, ret);
	ox_rangelock_release(&q->guest, &range);
	return r;
}
