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
	       room_for(full + (rest > 0)) * sizeof(struct ox_slab);
}

void ox_slabs_init(struct ox_slabs *s, size_t piece_bytes, size_t most)
{
	ox_assert(piece_bytes >= sizeof(void *) && piece_bytes <= SLAB_BYTES && most > 0);
	ox_assert(ox_is_aligned(piece_bytes, sizeof(void *)));
	*s = (struct ox_slabs){
		.piece_bytes = piece_bytes,
		.most = most,
	};
}

void ox_slabs_fini(struct ox_slabs *s)
{
	for (size_t i = 0; i < s->slab_count; i++) {
		asan_forget(s->slabs[i].start, s->slabs[i].bytes);
		ox_assert(munmap(s->slabs[i].start, s->slabs[i].bytes) == 0);
	}
	free(s->slabs);
	ox_slabs_init(s, s->piece_bytes, s->most);
}

static bool make_room(struct ox_slabs *s)
{
	size_t room = room_for(s->slab_count + 1);
	struct ox_slab *slabs;

	if (s->slab_count < s->slab_room)
		return true;
	slabs = realloc(s->slabs, room * sizeof(*slabs));
	if (!slabs)
		return false;
	s->slabs = slabs;
	s->slab_room = room;
	return true;
}

static bool add_slab(struct ox_slabs *s)
{
	size_t pieces = s->made < s->most ? s->most - s->made : 1;
	size_t bytes = slab_bytes(s->piece_bytes, pieces);
	void *start;

	if (!make_room(s))
		return false;
	start = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (start == MAP_FAILED)
		return false;
	(void)madvise(start, bytes, MADV_DONTDUMP); /* a guest's tables, and there are many */
	s->slabs[s->slab_count++] = (struct ox_slab){start, bytes};
	s->left = bytes / s->piece_bytes;
	return true;
}

static void *cut_piece(struct ox_slabs *s)
{
	const struct ox_slab *slab;

	if (s->left == 0 && !add_slab(s))
		return NULL;
	slab = &s->slabs[s->slab_count - 1];
	s->made++;
	return slab->start + (slab->bytes / s->piece_bytes - s->left--) * s->piece_bytes;
}

void *ox_slabs_take(struct ox_slabs *s)
{
	void *piece = s->free;

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
		ox_slabs_fini(s);
		return;
	}
	*(void **)piece = s->free;
	s->free = piece;
	asan_poison(piece, s->piece_bytes);
}
