/* SPDX-License-Identifier: MIT */
/*
 * Payload buffers, aligned for direct I/O. Freed ones are kept up to a bound, by power-of-two size,
 * so that a busy server neither asks the kernel for pages nor gives them back with each request.
 * Large ones are mappings of their own: what is freed is the kernel's again, and not an allocator's
 * to hold back, so that a bound on them is a bound on the process.
 */
#ifndef OX_SERVE_NBD_BUFFER_H
#define OX_SERVE_NBD_BUFFER_H

#include <stddef.h>
#include <stdint.h>

#define NBD_BUFFER_CLASSES 10 /* 4 KiB ... 2 MiB; larger ones are not kept */

struct ox_nbd_pool {
	void *kept[NBD_BUFFER_CLASSES]; /* each free buffer begins with a pointer to the next */
	size_t kept_bytes;
};

/* Whole pages, a multiple of 4 KiB, for bytes of clients: core dumps leave them out. NULL: memory
 * is short. */
void *ox_nbd_pages(size_t size_bytes);
void ox_nbd_pages_free(void *pages, size_t size_bytes);

/* What a buffer for length bytes takes. */
size_t ox_nbd_buffer_bytes(size_t length);
/* At least length bytes; NULL when memory is short. */
uint8_t *ox_nbd_buffer_get(struct ox_nbd_pool *pool, size_t length);
/* length as it was asked for; at most most_bytes are kept. NULL is allowed. */
void ox_nbd_buffer_put(struct ox_nbd_pool *pool, uint8_t *buffer, size_t length, size_t most_bytes);
/* Keeps at most most_bytes. */
void ox_nbd_pool_shrink(struct ox_nbd_pool *pool, size_t most_bytes);
void ox_nbd_pool_free(struct ox_nbd_pool *pool);

#endif
