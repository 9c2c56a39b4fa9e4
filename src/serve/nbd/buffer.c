/* SPDX-License-Identifier: MIT */
#include "serve/nbd/buffer.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define SMALLEST_BYTES 4096u
#define KEPT_MAX_BYTES (32u << 20)
/* From here on a buffer is a mapping. */
#define MAPPED_MIN_BYTES (128u << 10)

static unsigned class_of(size_t length)
{
	unsigned class = 0;

	while (class < NBD_BUFFER_CLASSES && length > (size_t)SMALLEST_BYTES << class)
		class ++;
	return class;
}

static size_t class_bytes(unsigned class)
{
	return (size_t)SMALLEST_BYTES << class;
}

size_t ox_nbd_buffer_bytes(size_t length)
{
	const unsigned class = class_of(length);

	if (class < NBD_BUFFER_CLASSES)
		return class_bytes(class);
	return (length + SMALLEST_BYTES - 1) & ~(size_t)(SMALLEST_BYTES - 1);
}

/* Whole pages: what lies beside them is somebody else's. A kernel that cannot do it dumps them. */
void *ox_nbd_pages(size_t size_bytes)
{
	void *pages;

	if (size_bytes < MAPPED_MIN_BYTES) {
		pages = aligned_alloc(SMALLEST_BYTES, size_bytes);
	} else {
		pages = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			     -1, 0);
		pages = pages == MAP_FAILED ? NULL : pages;
	}
	if (pages)
		(void)madvise(pages, size_bytes, MADV_DONTDUMP);
	return pages;
}

void ox_nbd_pages_free(void *pages, size_t size_bytes)
{
	int ret;

	if (!pages)
		return;
	if (size_bytes < MAPPED_MIN_BYTES) {
		(void)madvise(pages, size_bytes, MADV_DODUMP); /* for whoever has them next */
		free(pages);
		return;
	}
	ret = munmap(pages, size_bytes);
	assert(ret == 0);
	(void)ret;
}

static void *pop(struct ox_nbd_pool *pool, unsigned class)
{
	void *buffer = pool->kept[class];

	memcpy(&pool->kept[class], buffer, sizeof(void *));
	pool->kept_bytes -= class_bytes(class);
	return buffer;
}

uint8_t *ox_nbd_buffer_get(struct ox_nbd_pool *pool, size_t length)
{
	const unsigned class = class_of(length);

	if (class < NBD_BUFFER_CLASSES && pool->kept[class])
		return pop(pool, class);
	return ox_nbd_pages(ox_nbd_buffer_bytes(length));
}

void ox_nbd_buffer_put(struct ox_nbd_pool *pool, uint8_t *buffer, size_t length, size_t most_bytes)
{
	const size_t size_bytes = ox_nbd_buffer_bytes(length);
	const unsigned class = class_of(length);

	if (!buffer)
		return;
	if (most_bytes > KEPT_MAX_BYTES)
		most_bytes = KEPT_MAX_BYTES;
	if (class == NBD_BUFFER_CLASSES || pool->kept_bytes + size_bytes > most_bytes) {
		ox_nbd_pages_free(buffer, size_bytes);
		return;
	}
	memcpy(buffer, &pool->kept[class], sizeof(void *));
	pool->kept[class] = buffer;
	pool->kept_bytes += size_bytes;
}

void ox_nbd_pool_shrink(struct ox_nbd_pool *pool, size_t most_bytes)
{
	/* The largest first: few calls give back much. */
	for (unsigned class = NBD_BUFFER_CLASSES; class > 0; class --)
		while (pool->kept[class - 1] && pool->kept_bytes > most_bytes)
			ox_nbd_pages_free(pop(pool, class - 1), class_bytes(class - 1));
}

void ox_nbd_pool_free(struct ox_nbd_pool *pool)
{
	ox_nbd_pool_shrink(pool, 0);
}
