/* SPDX-License-Identifier: MIT */
/*
 * Buffers of long work. All come from one mapping, the lowest place first: what one piece of the
 * work has touched the next ones use again. The first touch of a page is a fault, which may take
 * longer than all that is done with its bytes, so the mapping asks for large pages as well.
 */
#ifndef OX_IO_ARENA_H
#define OX_IO_ARENA_H

#include <stdint.h>

struct ox_arena;

/* For buffers of so many bytes in all, 1 at the least; more of them lie beside the mapping, and so
 * do all where the host refuses it. NULL: no memory. */
struct ox_arena *ox_arena_new(uint64_t bytes);
/* No buffer may be left. NULL is allowed. */
void ox_arena_free(struct ox_arena *arena);
/* Of at least one byte, aligned to 4096. What they hold is undefined. NULL: no memory. */
void *ox_arena_take(struct ox_arena *arena, uint64_t bytes);
/* NULL is allowed. */
void ox_arena_give(struct ox_arena *arena, void *buffer);

#endif
