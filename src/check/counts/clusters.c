/* SPDX-License-Identifier: MIT */
#include "check/counts/clusters.h"

#include <errno.h>
#include <stdlib.h>

#include "base/grow.h"

int ox_clusters_add(struct ox_clusters *list, uint64_t cluster)
{
	if (ox_grow(list->items, list->count, list->room, 64) < 0)
		return -ENOMEM;
	list->items[list->count++] = cluster;
	return 0;
}

static int compare(const void *a, const void *b)
{
	const uint64_t *x = a;
	const uint64_t *y = b;

	return (*x > *y) - (*x < *y);
}

void ox_clusters_sort(struct ox_clusters *list)
{
	uint64_t i = 1;

	while (i < list->count && list->items[i - 1] < list->items[i])
		i++;
	if (i < list->count)
		qsort(list->items, list->count, sizeof(*list->items), compare);
}

uint64_t ox_clusters_from(const struct ox_clusters *list, uint64_t cluster)
{
	uint64_t low = 0;
	uint64_t high = list->count;

	while (low < high) {
		uint64_t mid = low + (high - low) / 2;

		if (list->items[mid] < cluster)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
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
