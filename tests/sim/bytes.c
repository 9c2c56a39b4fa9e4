/* SPDX-License-Identifier: MIT */
#include "bytes.h"

#include <stdlib.h>
#include <string.h>

#define CHUNK_BYTES 4096u

void sim_bytes_clone(struct sim_bytes *ret, const struct sim_bytes *from)
{
	*ret = (struct sim_bytes){.chunk_count = from->chunk_count, .length = from->length};
	ret->chunks = sim_alloc(from->chunk_count, sizeof(*ret->chunks));
	for (size_t i = 0; i < from->chunk_count; i++) {
		if (!from->chunks[i])
			continue;
		ret->chunks[i] = sim_alloc(1, CHUNK_BYTES);
		memcpy(ret->chunks[i], from->chunks[i], CHUNK_BYTES);
	}
}

void sim_bytes_free(struct sim_bytes *b)
{
	for (size_t i = 0; i < b->chunk_count; i++)
		free(b->chunks[i]);
	free(b->chunks);
	*b = (struct sim_bytes){0};
}

/* The chunk for writing. */
static uint8_t *chunk_at(struct sim_bytes *b, size_t index)
{
	if (index >= b->chunk_count) {
		size_t count = index * 2 + 16;
		uint8_t **chunks = sim_alloc(count, sizeof(*chunks));

		if (b->chunk_count > 0)
			memcpy(chunks, b->chunks, b->chunk_count * sizeof(*chunks));
		free(b->chunks);
		b->chunks = chunks;
		b->chunk_count = count;
	}
	if (!b->chunks[index])
		b->chunks[index] = sim_alloc(1, CHUNK_BYTES);
	return b->chunks[index];
}

static size_t part_of(uint64_t offset, uint64_t count)
{
	uint64_t left = CHUNK_BYTES - offset % CHUNK_BYTES;

	return count < left ? count : left;
}

void sim_bytes_read(const struct sim_bytes *b, uint64_t offset, void *buf, size_t count)
{
	uint8_t *to = buf;

	while (count > 0) {
		size_t n = part_of(offset, count);
		uint64_t index = offset / CHUNK_BYTES;

		if (index < b->chunk_count && b->chunks[index])
			memcpy(to, b->chunks[index] + offset % CHUNK_BYTES, n);
		else
			memset(to, 0, n);
		to += n;
		offset += n;
		count -= n;
	}
}

void sim_bytes_write(struct sim_bytes *b, uint64_t offset, const void *buf, size_t count)
{
	const uint8_t *from = buf;

	while (count > 0) {
		size_t n = part_of(offset, count);

		memcpy(chunk_at(b, offset / CHUNK_BYTES) + offset % CHUNK_BYTES, from, n);
		from += n;
		offset += n;
		count -= n;
	}
}

void sim_bytes_zero(struct sim_bytes *b, uint64_t offset, uint64_t count)
{
	while (count > 0) {
		size_t n = part_of(offset, count);
		uint64_t index = offset / CHUNK_BYTES;

		if (index >= b->chunk_count)
			return;
		if (b->chunks[index])
			memset(b->chunks[index] + offset % CHUNK_BYTES, 0, n);
		offset += n;
		count -= n;
	}
}

void sim_bytes_set_length(struct sim_bytes *b, uint64_t length)
{
	if (length < b->length)
		sim_bytes_zero(b, length, b->length - length);
	b->length = length;
}

/* The big-endian number of count bytes at offset. */
static uint64_t get_be(const struct sim_bytes *b, uint64_t offset, unsigned count)
{
	uint8_t raw[8];
	uint64_t value = 0;

	sim_bytes_read(b, offset, raw, count);
	for (unsigned i = 0; i < count; i++)
		value = value << 8 | raw[i];
	return value;
}

static void put_be(struct sim_bytes *b, uint64_t offset, unsigned count, uint64_t value)
{
	uint8_t raw[8];

	for (unsigned i = 0; i < count; i++)
		raw[i] = (uint8_t)(value >> 8 * (count - 1 - i));
	sim_bytes_write(b, offset, raw, count);
}

/* The tables of large clusters are mostly empty, and read whole after each cut. */
uint64_t sim_bytes_be64(const struct sim_bytes *b, uint64_t offset)
{
	uint64_t index = offset / CHUNK_BYTES;

	if (offset % 8 == 0 && (index >= b->chunk_count || !b->chunks[index]))
		return 0;
	return get_be(b, offset, 8);
}

uint32_t sim_bytes_be32(const struct sim_bytes *b, uint64_t offset)
{
	return (uint32_t)get_be(b, offset, 4);
}

uint16_t sim_bytes_be16(const struct sim_bytes *b, uint64_t offset)
{
	return (uint16_t)get_be(b, offset, 2);
}

void sim_bytes_put_be64(struct sim_bytes *b, uint64_t offset, uint64_t value)
{
	put_be(b, offset, 8, value);
}

void sim_bytes_put_be32(struct sim_bytes *b, uint64_t offset, uint32_t value)
{
	put_be(b, offset, 4, value);
}

void sim_bytes_put_be16(struct sim_bytes *b, uint64_t offset, uint16_t value)
{
	put_be(b, offset, 2, value);
}

uint64_t sim_bytes_le64(const struct sim_bytes *b, uint64_t offset)
{
	return __builtin_bswap64(sim_bytes_be64(b, offset));
}

uint32_t sim_bytes_le32(const struct sim_bytes *b, uint64_t offset)
{
	return __builtin_bswap32(sim_bytes_be32(b, offset));
}

void sim_bytes_put_le64(struct sim_bytes *b, uint64_t offset, uint64_t value)
{
	sim_bytes_put_be64(b, offset, __builtin_bswap64(value));
}
