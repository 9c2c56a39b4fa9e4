/* SPDX-License-Identifier: MIT */
#include "meta/slab.h"

#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/arith.h"
#include "base/assert.h"
#include "rt/sanitize.h"

#define SLAB_BYTES ((size_t)64 * 1024)
#define PAGE_BYTES 4096u
#define ROOM_FIRST 8u

static size_t pieces_per_slab(size_t piece_bytes)
{
	return SLAB_BYTES / piece_bytes;
}

/* A slab with room for so many pieces, in whole pages. */
static size_t slab_bytes(size_t piece_bytes, size_t pieces)
{
	return ox_align_up(ox_min_u64(pieces, pieces_per_slab(piece_bytes)) * piece_bytes,
			   PAGE_BYTES);
}

/* Room for the addresses of so many slabs: it doubles as they come. */
static size_t room_for(size_t slabs)
{
	size_t room = ROOM_FIRST;

	while (room < slabs)
		room *= 2;
	return room;
}

uint64_t ox_slabs_bytes(size_t piece_bytes, size_t most)
{
	size_t per_slab = pieces_per_slab(piece_bytes);
	size_t full = most / per_slab;
	size_t rest = most % per_slab;

	return full * slab_bytes(piece_bytes, per_slab) + slab_bytes(piece_bytes, rest) +
	       room_for(full + (rest > 0)) * sizeof(void *);
}

void ox_slabs_init(struct ox_slabs *s, size_t piece_bytes, size_t most)
{
	ox_assert(piece_bytes >= sizeof(void *) && piece_bytes <= SLAB_BYTES && most > 0);
	ox_assert(ox_is_aligned(piece_bytes, sizeof(void *)));
	*s = (struct ox_slabs){
		.piece_bytes = piece_bytes,
		.most = most,
		.per_slab = pieces_per_slab(piece_bytes),
	};
}

/* Room in the slab of this number: the last one may be smaller. */
static size_t bytes_of(const struct ox_slabs *s, size_t number)
{
	return slab_bytes(s->piece_bytes, s->most - number * s->per_slab);
}

static void give_back_slabs(struct ox_slabs *s)
{
	while (s->slab_count > 0) {
		size_t number = --s->slab_count;

		asan_forget(s->slabs[number], bytes_of(s, number));
		ox_assert(munmap(s->slabs[number], bytes_of(s, number)) == 0);
	}
	free(s->slabs);
	s->slabs = NULL;
	s->slab_room = 0;
	s->made = 0;
	s->used = 0;
	s->free = NULL;
}

void ox_slabs_fini(struct ox_slabs *s)
{
	give_back_slabs(s);
}

static bool add_slab(struct ox_slabs *s)
{
	size_t bytes = bytes_of(s, s->slab_count);
	void *slab;

	if (s->slab_count == s->slab_room) {
		size_t room = room_for(s->slab_count + 1);
		void **slabs = realloc(s->slabs, room * sizeof(*slabs));

		if (!slabs)
			return false;
		s->slabs = slabs;
		s->slab_room = room;
	}
	slab = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (slab == MAP_FAILED)
		return false;
	s->slabs[s->slab_count++] = slab;
	return true;
}

static void *cut_piece(struct ox_slabs *s)
{
	size_t number = s->made / s->per_slab;

	if (number == s->slab_count && !add_slab(s))
		return NULL;
	return (char *)s->slabs[number] + s->made++ % s->per_slab * s->piece_bytes;
}

void *ox_slabs_take(struct ox_slabs *s)
{
	void *piece = s->free;

	ox_assert(s->used < s->most);
	if (piece) {
		asan_forget(piece, s->piece_bytes);
		s->free = *(void **)piece;
	} else {
		piece = cut_piece(s);
	}
	if (piece)
		s->used++;
	return piece;
}

void ox_slabs_give(struct ox_slabs *s, void *piece)
{
	ox_assert(s->used > 0);
	if (--s->used == 0) {
		give_back_slabs(s);
		return;
	}
	*(void **)piece = s->free;
	s->free = piece;
	asan_poison(piece, s->piece_bytes);
}
