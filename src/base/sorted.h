/* SPDX-License-Identifier: MIT */
/* Arrays in ascending order, of items that begin with a uint64_t which is their key. */
#ifndef OX_BASE_SORTED_H
#define OX_BASE_SORTED_H

#include <stddef.h>
#include <stdint.h>

/* For qsort and bsearch. */
static inline int ox_sorted_compare(const void *one, const void *other)
{
	const uint64_t *a = one;
	const uint64_t *b = other;

	return (*a > *b) - (*a < *b);
}

/* The index of the first item whose key is not lower; count if there is none. */
static inline size_t ox_sorted_from(const void *items, size_t count, size_t item_bytes,
				    uint64_t key)
{
	size_t low = 0;
	size_t high = count;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (*(const uint64_t *)((const char *)items + mid * item_bytes) < key)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

#endif
