/* SPDX-License-Identifier: MIT */
#include "meta/ranges.h"

#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/assert.h"
#include "base/grow.h"

void ox_ranges_free(struct ox_ranges *r)
{
	free(r->list);
	*r = (struct ox_ranges){.most = r->most};
}

/* The first range that ends at or after the number. */
static size_t find(const struct ox_ranges *r, uint64_t number)
{
	size_t low = 0;
	size_t high = r->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (r->list[middle].end < number)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* Puts one range in the place of those from first to behind last. */
static void replace(struct ox_ranges *r, size_t first, size_t last, const struct ox_span *with)
{
	size_t kept = with ? 1 : 0;

	memmove(r->list + first + kept, r->list + last, (r->count - last) * sizeof(*r->list));
	if (with)
		r->list[first] = *with;
	r->count -= last - first - kept;
}

bool ox_ranges_add(struct ox_ranges *r, uint64_t start, uint64_t end)
{
	struct ox_span sum = {start, end};
	size_t first = find(r, start);
	size_t last = first;

	ox_assert(start < end);
	while (last < r->count && r->list[last].start <= end) {
		sum.start = ox_min_u64(sum.start, r->list[last].start);
		sum.end = ox_max_u64(sum.end, r->list[last].end);
		last++;
	}
	if (first == last && (r->count == (r->most ? r->most : OX_RANGES_MAX) ||
			      ox_grow(r->list, r->count, r->room, 64) < 0))
		return false;
	replace(r, first, last, &sum);
	return true;
}

bool ox_ranges_has(const struct ox_ranges *r, uint64_t number)
{
	size_t at = find(r, number + 1);

	return at < r->count && r->list[at].start <= number;
}

/* Takes the beginning of a range. */
static void take_from(struct ox_ranges *r, size_t i, uint64_t count, struct ox_span *ret)
{
	*ret = (struct ox_span){r->list[i].start, r->list[i].start + count};
	r->list[i].start += count;
	if (r->list[i].start == r->list[i].end)
		replace(r, i, i + 1, NULL);
}

bool ox_ranges_take(struct ox_ranges *r, uint64_t most, struct ox_span *ret)
{
	if (r->count == 0)
		return false;
	take_from(r, 0, ox_min_u64(most, r->list[0].end - r->list[0].start), ret);
	return true;
}

bool ox_ranges_take_run(struct ox_ranges *r, uint64_t count, struct ox_span *ret)
{
	for (size_t i = 0; i < r->count; i++) {
		if (r->list[i].end - r->list[i].start < count)
			continue;
		take_from(r, i, count, ret);
		return true;
	}
	return false;
}

bool ox_ranges_take_end(struct ox_ranges *r, uint64_t end, struct ox_span *ret)
{
	if (r->count == 0 || r->list[r->count - 1].end < end)
		return false;
	*ret = r->list[--r->count];
	return true;
}
