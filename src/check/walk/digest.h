/* SPDX-License-Identifier: MIT */
/*
 * What an L2 table names, as far as its bytes alone tell it: that can be found out on any thread.
 * Runs of data clusters of the file, which is nearly all there is, are parted from the odd entries,
 * which are to be looked at one by one.
 */
#ifndef OX_CHECK_DIGEST_H
#define OX_CHECK_DIGEST_H

#include <stdint.h>

#include "base/endian.h"
#include "check/view/view.h"

/* Entries that name one data cluster after the other. */
struct ox_run {
	uint64_t cluster;
	uint32_t index; /* of the first */
	uint32_t length : 31;
	uint32_t copied : 1;
};

struct ox_odd_entry {
	uint64_t raw;
	uint64_t subclusters;
	uint32_t index;
};

/* All-zero at first; the arrays stay from table to table. */
struct ox_digest {
	struct ox_run *runs;
	uint32_t run_count;
	uint32_t run_room;
	uint32_t left;		  /* runs that could not be counted to their end */
	struct ox_odd_entry *odd; /* by index */
	uint32_t odd_count;
	uint32_t odd_room;
	uint32_t used; /* entries that are not zero */
	/* Clusters, as a check's result has them. */
	uint32_t allocated;
	uint32_t fragmented;
	uint32_t compressed;
};

/* 0 or -ENOMEM. */
int ox_digest_table(struct ox_digest *d, const struct ox_view *v, uint64_t cluster,
		    const struct ox_be64 *entries);
void ox_digest_clear(struct ox_digest *d);

/* Counts the runs, for a table that L1 names as the cell says, as far as nothing but data and
 * compressed entries name their clusters. The rest stays in the runs: nothing is judged here.
 * 0 or -ENOMEM. */
int ox_digest_count(struct ox_digest *d, struct ox_counts *k, struct ox_cell table_cell);
/* Makes odd entries of what is left of the runs. 0 or -ENOMEM. */
int ox_digest_leave(struct ox_digest *d, const struct ox_view *v);

#endif
