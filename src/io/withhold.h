/* SPDX-License-Identifier: MIT */
/*
 * A store whose first bytes stay in memory until the image that is built on it is whole: nobody
 * takes the file below for an image before (docs/jobs.md, J2).
 *
 * Reads, writes and zeroes of the first bytes meet memory, all others the store below. A sync may
 * be left out, as long as nobody could make use of what it would save; or it hands the first bytes
 * to whoever keeps them for a later process, after which they are as durable as all else.
 */
#ifndef OX_IO_WITHHOLD_H
#define OX_IO_WITHHOLD_H

#include "io/io.h"

/* What the magic of every format lies in; a multiple of each store's alignment up to it. */
#define OX_WITHHOLD_BYTES 4096u

/* Outlives the store that is opened over it. */
struct ox_withheld {
	struct ox_io *below; /* the owner's: the store's closing leaves it open */
	uint8_t bytes[OX_WITHHOLD_BYTES];
	uint32_t length; /* of them; 0: nothing is held back */
	bool skip_syncs;
	bool changed; /* since they were kept */
	/* Keeps the bytes, durably. NULL: nobody does. */
	int (*keep_co)(void *opaque);
	void *opaque;
};

/* The store over w->below. */
int ox_withhold_open(struct ox_withheld *w, struct ox_io **ret) __attribute__((warn_unused_result));
/* Once that store is closed: makes all of it durable, then the first bytes, their first sector
 * last and synced. 0 or -errno. */
int ox_withhold_publish_co(struct ox_withheld *w) __attribute__((warn_unused_result));

#endif
