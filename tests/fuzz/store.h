/* SPDX-License-Identifier: MIT */
/*
 * What the targets share that take the bytes of an image's file: a reactor for all inputs, and a
 * store in memory for each.
 */
#ifndef OX_TESTS_FUZZ_STORE_H
#define OX_TESTS_FUZZ_STORE_H

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "io/io.h"
#include "rt/reactor.h"

static struct ox_reactor *reactor;

/* With its threads, which valgrind would miss. */
static inline void end_reactor(void)
{
	ox_reactor_destroy(reactor);
}

static inline struct ox_reactor *the_reactor(void)
{
	if (!reactor) {
		ox_assert(ox_reactor_create(OX_ENGINE_DEFAULT, &reactor, NULL) == 0);
		ox_assert(atexit(end_reactor) == 0);
	}
	return reactor;
}

static inline struct ox_io *open_store(const uint8_t *data, size_t size)
{
	struct ox_io *io;

	ox_assert(ox_io_memory_open(the_reactor(), size, &io) == 0);
	memcpy(ox_io_memory_bytes(io), data, size);
	return io;
}

#endif
