/* SPDX-License-Identifier: MIT */
#include "memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <zlib.h>

#include "bytes.h"
#include "rt/co.h"

#define WRAPPED(result, name, ...)                                                                 \
	result __real_##name(__VA_ARGS__);                                                         \
	result __wrap_##name(__VA_ARGS__);                                                         \
	result __wrap_##name(__VA_ARGS__)

struct sim_memory sim_memory;

static bool strike(void)
{
	if (!sim_memory.armed || sim_memory.left == 0)
		return false;
	if (sim_memory.after > 0) {
		sim_memory.after--;
		return false;
	}
	sim_memory.left--;
	sim_memory.hits++;
	errno = ENOMEM;
	return true;
}

/* A disk asks how a buffer is aligned, and the heap's accidents must not answer: what can hold a
 * sector is aligned. */
WRAPPED(void *, malloc, size_t size)
{
	if (strike())
		return NULL;
	return sim_memory.armed && size >= SIM_SECTOR_BYTES ? sim_buffer(size)
							    : __real_malloc(size);
}

WRAPPED(void *, calloc, size_t count, size_t size)
{
	return strike() ? NULL : __real_calloc(count, size);
}

WRAPPED(void *, realloc, void *p, size_t size)
{
	return strike() ? NULL : __real_realloc(p, size);
}

WRAPPED(void *, reallocarray, void *p, size_t count, size_t size)
{
	return strike() ? NULL : __real_reallocarray(p, count, size);
}

WRAPPED(void *, aligned_alloc, size_t alignment, size_t size)
{
	return strike() ? NULL : __real_aligned_alloc(alignment, size);
}

WRAPPED(int, posix_memalign, void **ret, size_t alignment, size_t size)
{
	return strike() ? ENOMEM : __real_posix_memalign(ret, alignment, size);
}

WRAPPED(void *, mmap64, void *at, size_t length, int protection, int flags, int fd, off_t offset)
{
	return strike() ? MAP_FAILED : __real_mmap64(at, length, protection, flags, fd, offset);
}

WRAPPED(char *, strdup, const char *s)
{
	return strike() ? NULL : __real_strdup(s);
}

WRAPPED(int, ox_co_spawn, struct ox_reactor *r, ox_co_fn fn, void *arg)
{
	return strike() ? -ENOMEM : __real_ox_co_spawn(r, fn, arg);
}

WRAPPED(int, inflateInit2_, z_streamp z, int window_bits, const char *version, int size)
{
	return strike() ? Z_MEM_ERROR : __real_inflateInit2_(z, window_bits, version, size);
}

/* ---- the simulator's own ---- */

static void *need(void *p)
{
	if (!p)
		abort();
	return p;
}

void *sim_alloc(size_t count, size_t size)
{
	return need(__real_calloc(count ? count : 1, size));
}

void *sim_buffer(size_t size)
{
	return need(__real_aligned_alloc(4096, (size + 4096) / 4096 * 4096));
}
