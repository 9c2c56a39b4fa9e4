/* SPDX-License-Identifier: MIT */
/*
 * The extents of a source, in ascending order: what a job asks before it reads. Neighbours that are
 * alike are one extent, wherever they lie on the host. What lies past the image's end reads as
 * zeroes, so that images of different sizes can be walked side by side.
 */
#ifndef OX_JOB_WALK_H
#define OX_JOB_WALK_H

#include "img/img.h"

#define OX_WALK_AHEAD 64

struct ox_walk {
	struct ox_image *image;
	unsigned kinds; /* of enum ox_extent_flags: those in which unlike neighbours differ */
	bool as_told;	/* what the image tells others: else holes are looked for everywhere */
	/* The walk's: what was asked for last, from the extent on that was looked at. A question to
	 * a file goes to a worker thread, and takes longer than many answers. */
	struct ox_extent seen[OX_WALK_AHEAD];
	int count;
	int next;
};

static inline struct ox_walk ox_walk_over(struct ox_image *image, unsigned kinds)
{
	return (struct ox_walk){.image = image, .kinds = kinds};
}

/* The extent at offset, at most so many bytes, as far as a bounded number of looks goes: so many
 * that a fragmented image is told in large pieces, so few that progress is seen. flags: those of
 * kinds. By one task at a time. */
int ox_walk_at_co(struct ox_walk *w, uint64_t offset, uint64_t most, uint64_t *ret_length,
		  unsigned *ret_flags) __attribute__((warn_unused_result));

#endif
