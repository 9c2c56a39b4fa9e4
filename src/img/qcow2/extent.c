/* SPDX-License-Identifier: MIT */
#include "img/clusters.h"
#include "img/qcow2/qcow2.h"

static unsigned flags_of(const struct ox_map_run *run)
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
		return 0;
	}
}

static int lookup_co(struct ox_image *img, uint64_t offset, uint64_t length, struct ox_run *ret)
{
	struct ox_map_run run;
	int r = ox_map_lookup_co(ox_qcow2_of(img), ox_guest(offset), length, &run);

	if (r == 0)
		*ret = (struct ox_run){flags_of(&run), run.host.bytes, run.length};
	return r;
}

int ox_qcow2_extent_co(struct ox_image *img, uint64_t offset, uint64_t length,
		       struct ox_extent *ret)
{
	struct ox_qcow2 *q = ox_qcow2_of(img);
	struct ox_range range;
	int r;

	ox_qcow2_lock_co(q, &range, offset, length, false);
	r = ox_clusters_extent_co(img, lookup_co, offset, length, ret);
	ox_rangelock_release(&q->guest, &range);
	return r;
}
