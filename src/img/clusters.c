/* SPDX-License-Identifier: MIT */
#include "img/clusters.h"

#include "base/arith.h"

#define CACHE_MAX_BYTES (UINT64_C(32) << 20)
#define CACHE_MIN_BYTES (UINT64_C(256) << 10)

/* Runs looked at for one answer: an answer is bounded work, the caller asks again for the rest. */
#define RUNS_MAX 64u

bool ox_clusters_are_backed(const struct ox_image *img, uint64_t offset)
{
	/* An image whose chain was left closed must not read as if it had none. */
	if (!img->backing)
		return img->backing_name;
	return offset < img->backing->size_bytes;
}

uint64_t ox_clusters_cache_bytes(uint64_t disk_bytes, uint64_t cluster_bytes, size_t slice_bytes)
{
	uint64_t clusters = ox_div_up(disk_bytes, cluster_bytes);
	uint64_t slices = ox_div_up(clusters * 8, slice_bytes) + 1;

	return ox_max_u64(CACHE_MIN_BYTES, ox_min_u64(CACHE_MAX_BYTES, slices * slice_bytes * 2));
}

/* Whether the next run can be told together with the one before it. */
static bool joins(const struct ox_extent *have, const struct ox_run *next)
{
	if (next->flags != have->flags)
		return false;
	return !(next->flags & OX_EXTENT_HAS_OFFSET) ||
	       next->host_offset == have->host_offset + have->length;
}

int ox_clusters_extent_co(struct ox_image *img, ox_run_lookup lookup_co, uint64_t offset,
			  uint64_t length, struct ox_extent *ret)
{
	struct ox_extent e = {.offset = offset};
	struct ox_run run;
	int r;

	for (unsigned i = 0; i < RUNS_MAX && e.length < length; i++) {
		uint64_t at = offset + e.length;

		r = lookup_co(img, at, length - e.length, &run);
		if (r < 0 && e.length > 0)
			break; /* what came before is known; the next request gets the error */
		if (r < 0)
			return r;
		if (run.flags == 0 && !ox_clusters_are_backed(img, at))
			run.flags = OX_EXTENT_ZERO;
		if (run.flags == 0 && img->backing) /* zero from the backing file's end on */
			run.length = ox_min_u64(run.length, img->backing->size_bytes - at);
		if (e.length == 0) {
			e.flags = run.flags;
			e.host_offset = run.flags & OX_EXTENT_HAS_OFFSET ? run.host_offset : 0;
			e.filename = img->filename;
		} else if (!joins(&e, &run)) {
			break;
		}
		e.length += run.length;
	}
	*ret = e;
	return 0;
}
