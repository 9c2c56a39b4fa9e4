/* SPDX-License-Identifier: MIT */
#include "check/counts/clusters.h"

#include <errno.h>
#include <stdlib.h>

#include "base/grow.h"
#include "base/sorted.h"

int ox_clusters_add(struct ox_clusters *list, uint64_t cluster)
{
	if (ox_grow(list->items, list->count, list->room, 64) < 0)
		return -ENOMEM;
	list->items[list->count++] = cluster;
	return 0;
}

void ox_clusters_sort(struct ox_clusters *list)
{
	uint64_t i = 1;

	while (i < list->count && list->items[i - 1] < list->items[i])
		i++;
	if (i < list->count)
		qsort(list->items, list->count, sizeof(*list->items), ox_sorted_compare);
}

uint64_t ox_clusters_from(const struct ox_clusters *list, uint64_t cluster)
{
	return ox_sorted_from(list->items, list->count, sizeof(*list->items), cluster);
}

uint64_t ox_clusters_find(const struct ox_clusters *list, uint64_t cluster)
{
	uint64_t at = ox_clusters_from(list, cluster);

	return at < list->count && list->items[at] == cluster ? at : list->count;
}

void ox_clusters_free(struct ox_clusters *list)
{
	free(list->items);
	*list = (struct ox_clusters){0};
}
