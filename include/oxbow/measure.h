/* SPDX-License-Identifier: MIT */
/* How large an image would be: a part of oxbow.h, which is what programs include. */
#ifndef OXBOW_MEASURE_H
#define OXBOW_MEASURE_H

/* ---- measuring ---- */

struct ox_measure_result {
	/*
	 * Bytes of the file of a new image with what the source's map calls data, or of an empty
	 * one. A copy that looks for zeroes in the data, or compresses it, makes no larger one, if
	 * the image is created to become so long (expected_bytes). One with clusters of less than
	 * 4 KiB that is not may move its refcount table, and leave gaps.
	 */
	uint64_t required;
	uint64_t fully_allocated; /* with all of the disk in it */
	bool has_bitmaps;	  /* both formats have bitmaps: */
	uint64_t bitmaps;	  /* what those of the source would take besides */
};

/*
 * Says how large a new image would be that target describes, of source's data and of target's
 * virtual_bytes, or of source's size where that is 0; source NULL: empty. With a backing file in
 * target all of the source's data counts, as any of it may differ, and a table for each range.
 * -ENOTSUP: not known of this format (QED).
 */
int ox_measure(struct ox_image *source, const struct ox_create_options *target,
	       struct ox_measure_result *ret_result, struct ox_error **err) OX_CHECKED;

#endif
