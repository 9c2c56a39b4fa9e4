/* SPDX-License-Identifier: MIT */
#include "check/counts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/assert.h"

#define REGION_CELLS UINT64_C(4096)
#define TABLE_REGIONS UINT64_C(8192)
#define TABLE_CELLS (REGION_CELLS * TABLE_REGIONS)
#define NARROW_COUNT_MAX 15u
#define WIDE_STATE_SHIFT 28

struct ox_counts_region {
	uint32_t *wide; /* NULL: narrow holds the cells. State in the upper 4 bits of either */
	uint8_t narrow[];
};

int ox_counts_init(struct ox_counts *k, uint64_t limit_clusters)
{
	*k = (struct ox_counts){0};
	return ox_counts_extend(k, limit_clusters);
}

void ox_counts_free(struct ox_counts *k)
{
	for (uint64_t t = 0; t < k->top_count; t++) {
		for (uint64_t r = 0; k->top[t] && r < TABLE_REGIONS; r++) {
			if (!k->top[t][r])
				continue;
			free(k->top[t][r]->wide);
			free(k->top[t][r]);
		}
		free(k->top[t]);
	}
	free(k->top);
	*k = (struct ox_counts){0};
}

int ox_counts_extend(struct ox_counts *k, uint64_t limit_clusters)
{
	uint64_t wanted = ox_div_up(limit_clusters, TABLE_CELLS);
	struct ox_counts_region ***top;

	ox_assert(limit_clusters >= k->limit);
	if (wanted > k->top_count) {
		top = reallocarray(k->top, wanted, sizeof(struct ox_counts_region **));
		if (!top)
			return -ENOMEM;
		memset(top + k->top_count, 0, (wanted - k->top_count) * sizeof(*top));
		k->top = top;
		k->top_count = wanted;
	}
	k->limit = limit_clusters;
	return 0;
}

static struct ox_counts_region *region_of(const struct ox_counts *k, uint64_t cluster)
{
	struct ox_counts_region **table;

	if (cluster >= k->limit)
		return NULL;
	table = k->top[cluster / TABLE_CELLS];
	return table ? table[cluster % TABLE_CELLS / REGION_CELLS] : NULL;
}

static struct ox_counts_region *region_make(struct ox_counts *k, uint64_t cluster)
{
	struct ox_counts_region ***table = &k->top[cluster / TABLE_CELLS];
	struct ox_counts_region **region;

	if (!*table)
		*table = calloc(TABLE_REGIONS, sizeof(struct ox_counts_region *));
	if (!*table)
		return NULL;
	region = &(*table)[cluster % TABLE_CELLS / REGION_CELLS];
	if (!*region)
		*region = calloc(1, sizeof(**region) + REGION_CELLS);
	return *region;
}

static struct ox_cell cell_in(const struct ox_counts_region *region, uint64_t i)
{
	if (region->wide)
		return (struct ox_cell){
			.state = region->wide[i] >> WIDE_STATE_SHIFT,
			.count = region->wide[i] & OX_COUNT_MAX,
		};
	return (struct ox_cell){
		.state = region->narrow[i] >> 4,
		.count = region->narrow[i] & NARROW_COUNT_MAX,
	};
}

static int widen(struct ox_counts_region **slot)
{
	struct ox_counts_region *region = *slot;
	uint32_t *wide = malloc(REGION_CELLS * sizeof(*wide));

	if (!wide)
		return -ENOMEM;
	for (uint64_t i = 0; i < REGION_CELLS; i++)
		wide[i] = (uint32_t)(region->narrow[i] >> 4) << WIDE_STATE_SHIFT |
			  (region->narrow[i] & NARROW_COUNT_MAX);
	/* The narrow cells go back to the heap. */
	region = realloc(region, sizeof(*region));
	if (region)
		*slot = region;
	(*slot)->wide = wide;
	return 0;
}

struct ox_cell ox_counts_get(const struct ox_counts *k, uint64_t cluster)
{
	const struct ox_counts_region *region = region_of(k, cluster);

	return region ? cell_in(region, cluster % REGION_CELLS) : (struct ox_cell){0};
}

int ox_counts_set(struct ox_counts *k, uint64_t cluster, struct ox_cell cell)
{
	struct ox_counts_region *region;
	uint64_t i = cluster % REGION_CELLS;
	uint32_t count = (uint32_t)ox_min_u64(cell.count, OX_COUNT_MAX);

	ox_assert(cluster < k->limit);
	region = region_make(k, cluster);
	if (!region)
		return -ENOMEM;
	if (count > NARROW_COUNT_MAX && !region->wide) {
		if (widen(&k->top[cluster / TABLE_CELLS][cluster % TABLE_CELLS / REGION_CELLS]) < 0)
			return -ENOMEM;
		region = region_of(k, cluster);
	}
	if (region->wide)
		region->wide[i] = cell.state << WIDE_STATE_SHIFT | count;
	else
		region->narrow[i] = (uint8_t)(cell.state << 4 | count);
	k->end = ox_max_u64(k->end, cluster + 1);
	return 0;
}

/* How far from is from the end of what does not exist around it; 0 if its region exists. */
static uint64_t gap_at(const struct ox_counts *k, uint64_t from)
{
	if (!k->top[from / TABLE_CELLS])
		return TABLE_CELLS - from % TABLE_CELLS;
	if (!region_of(k, from))
		return REGION_CELLS - from % REGION_CELLS;
	return 0;
}

uint64_t ox_counts_next(const struct ox_counts *k, uint64_t from, uint64_t end)
{
	uint64_t stop = ox_min_u64(end, k->end);

	while (from < stop) {
		const struct ox_counts_region *region;
		uint64_t gap = gap_at(k, from);

		if (gap > 0) {
			from += gap;
			continue;
		}
		region = region_of(k, from);
		do {
			if (cell_in(region, from % REGION_CELLS).state != OX_CELL_NONE)
				return from;
			from++;
		} while (from < stop && from % REGION_CELLS != 0);
	}
	return end;
}
