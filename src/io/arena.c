/* SPDX-License-Identifier: MIT */
#include "io/arena.h"

#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/arith.h"
#include "base/assert.h"
#include "io/io.h"
#include "rt/sanitize.h"

#define GRANULE_BYTES (UINT64_C(64) << 10)
/* What one entry of the page table may map, where pages are of 4 KiB. */
#define LARGE_PAGE_BYTES (UINT64_C(2) << 20)
/* Beyond that, work is not made faster by memory. */
#define ARENA_BYTES_MAX (UINT64_C(64) << 20)

struct ox_arena {
	void *map; /* NULL: there is none */
	uint64_t map_bytes;
	uint8_t *memory;
	uint64_t granules;
	uint64_t taken; /* buffers, of both kinds */
	uint64_t hint;	/* no granule below is free */
	uint32_t run[]; /* granules of the buffer that begins there; 0: free, or amid one */
};

/* Aligned, so that it consists of large pages from end to end. */
static void map(struct ox_arena *arena, uint64_t bytes)
{
	uint64_t map_bytes = bytes + LARGE_PAGE_BYTES;
	void *address = mmap(NULL, map_bytes, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (address == MAP_FAILED)
		return;
	arena->map = address;
	arena->map_bytes = map_bytes;
	arena->memory = (uint8_t *)address +
			(ox_align_up((uintptr_t)address, LARGE_PAGE_BYTES) - (uintptr_t)address);
	arena->granules = bytes / GRANULE_BYTES;
	(void)madvise(arena->memory, bytes, MADV_HUGEPAGE); /* a wish: small ones serve as well */
	asan_poison(arena->memory, bytes);
}

struct ox_arena *ox_arena_new(uint64_t bytes)
{
	struct ox_arena *arena;

	ox_assert(bytes > 0);
	bytes = ox_align_up(ox_min_u64(bytes, ARENA_BYTES_MAX), LARGE_PAGE_BYTES);
	arena = calloc(1, sizeof(*arena) + bytes / GRANULE_BYTES * sizeof(arena->run[0]));
	if (arena)
		map(arena, bytes);
	return arena;
}

void ox_arena_free(struct ox_arena *arena)
{
	if (!arena)
		return;
	ox_assert(arena->taken == 0);
	if (arena->map) {
		asan_forget(arena->memory, arena->granules * GRANULE_BYTES);
		ox_assert(munmap(arena->map, arena->map_bytes) == 0);
	}
	free(arena);
}

/* The first free run of that many; arena->granules: there is none. */
static uint64_t find(struct ox_arena *arena, uint64_t count)
{
	uint64_t at;
	uint64_t length;

	while (arena->hint < arena->granules && arena->run[arena->hint] > 0)
		arena->hint += arena->run[arena->hint];
	at = arena->hint;
	for (length = 0; at + length < arena->granules && length < count;) {
		uint32_t run = arena->run[at + length];

		if (run == 0) {
			length++;
		} else {
			at += length + run;
			length = 0;
		}
	}
	return length == count ? at : arena->granules;
}

void *ox_arena_take(struct ox_arena *arena, uint64_t bytes)
{
	uint64_t count = ox_div_up(bytes, GRANULE_BYTES);
	uint8_t *buffer;
	uint64_t at;

	ox_assert(bytes > 0);
	at = find(arena, count);
	if (at == arena->granules) {
		buffer = ox_io_buffer(bytes);
	} else {
		arena->run[at] = (uint32_t)count;
		buffer = arena->memory + at * GRANULE_BYTES;
		asan_forget(buffer, bytes);
	}
	arena->taken += buffer ? 1 : 0;
	return buffer;
}

static bool is_within(const struct ox_arena *arena, const void *buffer)
{
	uintptr_t start = (uintptr_t)arena->memory;

	return arena->map && (uintptr_t)buffer >= start &&
	       (uintptr_t)buffer - start < arena->granules * GRANULE_BYTES;
}

void ox_arena_give(struct ox_arena *arena, void *buffer)
{
	uint64_t at;

	if (!buffer)
		return;
	ox_assert(arena->taken > 0);
	arena->taken--;
	if (!is_within(arena, buffer)) {
		free(buffer);
		return;
	}
	at = (uint64_t)((uint8_t *)buffer - arena->memory) / GRANULE_BYTES;
	ox_assert(arena->run[at] > 0 && ox_is_aligned((uintptr_t)buffer, GRANULE_BYTES));
	asan_poison(buffer, arena->run[at] * GRANULE_BYTES);
	arena->run[at] = 0;
	arena->hint = ox_min_u64(arena->hint, at);
}
