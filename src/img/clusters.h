/* SPDX-License-Identifier: MIT */
/* What the formats share that map a disk's clusters through tables: qcow2 and QED. */
#ifndef OX_IMG_CLUSTERS_H
#define OX_IMG_CLUSTERS_H

#include "img/img.h"

/* A stretch of the guest's bytes whose entries are alike and, where they name host clusters, follow
 * each other on the host. */
struct ox_run {
	unsigned flags;	      /* enum ox_extent_flags; 0: the image has nothing there */
	uint64_t host_offset; /* with OX_EXTENT_HAS_OFFSET */
	uint64_t length;
};

/* The run that begins at offset, at most length bytes of it. */
typedef int (*ox_run_lookup)(struct ox_image *img, uint64_t offset, uint64_t length,
			     struct ox_run *ret);

/* The extent_co of such a format: neighbouring runs that can be told together are. */
int ox_clusters_extent_co(struct ox_image *img, ox_run_lookup lookup_co, uint64_t offset,
			  uint64_t length, struct ox_extent *ret);

/* Whether the bytes from offset on to the cluster's end, or the whole disk's end, come from the
 * backing file where the image has none of its own. */
bool ox_clusters_are_backed(const struct ox_image *img, uint64_t offset);

/* The size of a cache of L2 entries, in slices, where the user states none: enough to map the whole
 * disk, within bounds. */
uint64_t ox_clusters_cache_bytes(uint64_t disk_bytes, uint64_t cluster_bytes, size_t slice_bytes);

#endif
