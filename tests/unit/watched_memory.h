/* SPDX-License-Identifier: MIT */
/*
 * Memory of which every store is known, whatever instruction makes it and in whatever function: it
 * is kept read-only, each store faults, is let through alone, and is told of. The code that stores
 * is the library's own, as it is shipped.
 */
#ifndef OX_TESTS_WATCHED_MEMORY_H
#define OX_TESTS_WATCHED_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Not on every processor, and not under valgrind. */
bool memory_can_be_watched(void);

/* From now on, in this process and thread; the memory is whole pages. after: called after each
 * store, in a signal handler, with the address that it was to. It must not store there itself. */
void watch_memory(void *memory, size_t bytes, void (*after)(const uint8_t *at));

#endif
