/* SPDX-License-Identifier: MIT */
/*
 * Copying from images to an image: extents of the source first, many pieces at once, zeroes by
 * metadata (docs/jobs.md).
 *
 *   joined.c   what the joined sources hold, and where: extents as data, zeroes, or passed over
 *   copy.c     pieces: read, looked through for zeroes, written in the order that is asked for
 *   behind.c   what is done with leaves the page cache, on both sides
 *   verify.c   both sides read back, no extent trusted
 */
#ifndef OX_JOB_COPY_H
#define OX_JOB_COPY_H

#include "img/img.h"
#include "oxbow.h"

/* Images, one behind the other. */
struct ox_joined {
	struct ox_image *first;
	struct ox_image *const *more;
	size_t more_count;
	uint64_t offset; /* what counts begins there, */
	uint64_t length; /* and is so long; 0: up to the end */
};

#define OX_JOINED_AHEAD 128

/* Extents of one image that were read ahead. */
struct ox_joined_ahead {
	struct ox_image *image;
	struct ox_extent extents[OX_JOINED_AHEAD];
	int count;
	int next;
};

enum ox_joined_kind {
	OX_JOINED_DATA,
	OX_JOINED_ZERO,
	OX_JOINED_BELOW, /* with top_only: the backing file's */
};

struct ox_joined_extent {
	enum ox_joined_kind kind;
	uint64_t length; /* > 0 */
};

/* All that the images have, whatever part of it counts. */
uint64_t ox_joined_all_bytes(const struct ox_joined *j);
/* Of the part that counts. */
uint64_t ox_joined_bytes(const struct ox_joined *j);
/* What lies at offset, at most limit bytes of it; it goes on to where another kind begins, or
 * nearly so. For one who asks in ascending order; ahead is zeroed at first. */
int ox_joined_extent_co(const struct ox_joined *j, struct ox_joined_ahead *ahead, uint64_t offset,
			uint64_t limit, bool top_only, struct ox_joined_extent *ret) OX_CHECKED;
int ox_joined_read_co(const struct ox_joined *j, uint8_t *buf, uint64_t length,
		      uint64_t offset) OX_CHECKED;
int ox_copy_run_co(const struct ox_joined *source, struct ox_image *target,
		   const struct ox_copy_options *opts, struct ox_copy_result *ret,
		   struct ox_error **err) OX_CHECKED;
/* Around a copy: the pages that it touched do not stay in the page cache, but those of the target
 * with OX_COPY_KEEP_PAGES. The second after each piece. An error is one of writing the target out.
 */
void ox_copy_behind_begin(const struct ox_joined *source, struct ox_image *target, unsigned flags);
int ox_copy_behind_co(const struct ox_joined *source, struct ox_image *target) OX_CHECKED;
int ox_copy_behind_end_co(const struct ox_joined *source, struct ox_image *target) OX_CHECKED;
int ox_copy_verify_co(const struct ox_joined *source, struct ox_image *target,
		      const struct ox_copy_options *opts, uint64_t *ret_offset,
		      struct ox_error **err) OX_CHECKED;

#endif
