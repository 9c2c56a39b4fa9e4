/* SPDX-License-Identifier: MIT */
/*
 * How long the file of a new image would be. Clusters are counted as the allocator takes them: an
 * image that is written once, and closed, has no gaps but those that a moving refcount table
 * leaves.
 */
#ifndef OX_JOB_MEASURE_H
#define OX_JOB_MEASURE_H

#include "img/img.h"

/* What a target's clusters would hold. */
struct ox_measured {
	uint64_t data_clusters;
	uint64_t l2_tables;
};

/* Whether target can be measured, and what of it counts. bytes is the disk's size. */
int ox_measure_check(const struct ox_create_options *target, uint64_t bytes,
		     struct ox_error **err) OX_CHECKED;
/* What the source's map calls data, in the target's clusters. */
int ox_measure_count_co(struct ox_image *source, const struct ox_create_options *target,
			struct ox_measured *ret, struct ox_error **err) OX_CHECKED;
/* found NULL: an empty image. */
void ox_measure_add_up(const struct ox_create_options *target, uint64_t bytes,
		       const struct ox_measured *found, struct ox_measure_result *ret);
/* A bitmap's table and its clusters, all of them allocated, in an image of target's clusters; the
 * directory's part is added to *directory_bytes. */
uint64_t ox_measure_bitmap(const struct ox_create_options *target, uint64_t disk_bytes,
			   const struct ox_bitmap_info *bitmap, uint64_t *directory_bytes);

#endif
