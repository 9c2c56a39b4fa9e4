/* SPDX-License-Identifier: MIT */
/* A list of clusters, in ascending order once it was sorted. All-zero: empty. */
#ifndef OX_CHECK_CLUSTERS_H
#define OX_CHECK_CLUSTERS_H

#include <stdbool.h>
#include <stdint.h>

struct ox_clusters {
	uint64_t *items;
	uint64_t count;
	uint64_t room;
};

/* At the end. 0 or -ENOMEM. */
int ox_clusters_add(struct ox_clusters *list, uint64_t cluster);
void ox_clusters_sort(struct ox_clusters *list);
/* Of a sorted list: the index of the first one at or after a cluster; count if there is none. */
uint64_t ox_clusters_from(const struct ox_clusters *list, uint64_t cluster);
/* The index of a cluster; count where it is not listed. */
uint64_t ox_clusters_find(const struct ox_clusters *list, uint64_t cluster);
void ox_clusters_free(struct ox_clusters *list);

#endif
