/* SPDX-License-Identifier: MIT */
/* The collection of an image's layout: what its parts share. */
#ifndef OX_CHECK_LAYOUT_H
#define OX_CHECK_LAYOUT_H

#include "check/judge/judge.h"
#include "oxbow.h"

/* Clusters of one kind of exclusive metadata. */
struct ox_layout_range {
	uint64_t first;
	uint64_t end;
	enum ox_layout_kind kind;
};

struct ox_layout {
	struct ox_journal j;
	struct ox_walk w;
	struct ox_judge g;
	const struct ox_layout_options *opts;

	/* What each META cell is; disjoint, sorted once counting is done. Bounded by the file's
	 * metadata, since no cluster is claimed twice. */
	struct ox_layout_range *ranges;
	size_t range_count;
	size_t range_room;

	struct ox_image_layout *result;
	struct ox_layout_bin *bins;
	uint64_t bin_clusters;
	struct ox_layout_guest_bin *guest_bins;
	uint64_t guest_bin_clusters;
	uint64_t *guest_first; /* of guest_bins: the guest cluster that host_offset is of */
};

/* A check finds something in this cluster; nothing where the file does not have it. */
void ox_layout_mark(struct ox_layout *l, uint64_t cluster);

/* Fills the guest's bins, and marks the tables that hold entries which cannot be followed. */
int ox_layout_guest_co(struct ox_layout *l);

#endif
