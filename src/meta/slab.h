/* SPDX-License-Identifier: MIT */
/*
 * Pieces of one size, cut out of slabs that come from the system as they are needed. A piece costs
 * what it holds and nothing else, so that a bound in bytes holds to the byte.
 *
 * Slabs begin at a page, so a piece whose size is a power of two up to 4096 is aligned to its size,
 * as direct I/O needs it. They go back to the system when the last piece has been given back.
 */
#ifndef OX_META_SLAB_H
#define OX_META_SLAB_H

#include <stddef.h>
#include <stdint.h>

struct ox_slab {
	char *start;
	size_t bytes;
};

struct ox_slabs {
	size_t piece_bytes;
	size_t most; /* pieces that slabs are cut to; what is taken beyond costs a page or a piece
		      */
	struct ox_slab *slabs;
	size_t slab_count;
	size_t slab_room; /* that `slabs` has */
	size_t left;	  /* pieces that the last slab has still to give */
	size_t made;	  /* pieces that have been cut */
	size_t used;	  /* pieces that are out */
	void *free;	  /* cut and not out, linked through their first words */
};

/* A piece holds a pointer at the least, and fits into a slab. Takes no memory yet. */
void ox_slabs_init(struct ox_slabs *s, size_t piece_bytes, size_t most);
/* Every piece is void from here on. */
void ox_slabs_fini(struct ox_slabs *s);

/* The piece holds anything. NULL: out of memory. */
void *ox_slabs_take(struct ox_slabs *s);
void ox_slabs_give(struct ox_slabs *s, void *piece);

/* All memory that `most` pieces take, and what keeps them in order. */
uint64_t ox_slabs_bytes(size_t piece_bytes, size_t most);

#endif
