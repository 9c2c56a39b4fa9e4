/* SPDX-License-Identifier: MIT */
#include "buffer.h"

#include <stdlib.h>
#include <string.h>

#define SMALLEST_BYTES 4096u
#define KEPT_MAX_BYTES (32u << 20)

static unsigned class_of(size_t length)
{
	unsigned class = 0;

	while (class < NBD_BUFFER_CLASSES && length > (size_t)SMALLEST_BYTES << class)
		class ++;
	return class;
}

uint8_t *ox_nbd_buffer_get(struct ox_nbd_pool *pool, size_t length)
{
	unsigned class = class_of(length);
	size_t size_bytes;
	void *buffer;

	if (class == NBD_BUFFER_CLASSES) {
		size_bytes = (length + SMALLEST_BYTES - 1) & ~(size_t)(SMALLEST_BYTES - 1);
		return aligned_alloc(SMALLEST_BYTES, size_bytes);
	}
	size_bytes = (size_t)SMALLEST_BYTES << class;
	buffer = pool->kept[class];
	if (!buffer)
		return aligned_alloc(SMALLEST_BYTES, size_bytes);
	memcpy(&pool->kept[class], buffer, sizeof(void *));
	pool->kept_bytes -= size_bytes;
	return buffer;
}

void ox_nbd_buffer_put(struct ox_nbd_pool *pool, uint8_t *buffer, size_t length)
{
	unsigned class = class_of(length);
	size_t size_bytes = (size_t)SMALLEST_BYTES << class;

	if (!buffer)
		return;
	if (class == NBD_BUFFER_CLASSES || pool->kept_bytes + size_bytes > KEPT_MAX_BYTES) {
		free(buffer);
		return;
	}
	memcpy(buffer, &pool->kept[class], sizeof(void *));
	pool->kept[class] = buffer;
	pool->kept_bytes += size_bytes;
}

void ox_nbd_pool_free(struct ox_nbd_pool *pool)
{
	for (unsigned class = 0; class < NBD_BUFFER_CLASSES; class ++) {
		void *buffer = pool->kept[class];

		while (buffer) {
			void *next;

			memcpy(&next, buffer, sizeof(next));
			free(buffer);
			buffer = next;
		}
		pool->kept[class] = NULL;
	}
	pool->kept_bytes = 0;
}
