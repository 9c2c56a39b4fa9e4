/* SPDX-License-Identifier: MIT */
/* Where the L1 tables of snapshots are that no snapshot table names. */
#ifndef OX_CHECK_LOST_L1_H
#define OX_CHECK_LOST_L1_H

#include "check/walk/walk.h"

struct ox_lost_l1 {
	uint64_t offset;
	uint32_t entries;
};

struct ox_lost_l1s {
	struct ox_lost_l1 *items; /* for free(), also after an error */
	size_t count;
	size_t room;
};

/* Looks through the file, after a count and a comparison. Where there are more than most, some are
 * left out, but not all that are too many. 0 or a negative errno. */
int ox_lost_l1_find_co(struct ox_walk *w, size_t most, struct ox_lost_l1s *ret);
/* Adds what a damaged record says of its table, if it can be one of the disk's size that nobody
 * else names. 0 or a negative errno. */
int ox_lost_l1_trust_co(struct ox_walk *w, uint64_t offset, uint32_t entries,
			struct ox_lost_l1s *list);

#endif
