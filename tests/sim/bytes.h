/* SPDX-License-Identifier: MIT */
/* A sparse run of bytes with a length: what a disk holds. Bytes that were never written, and those
 * past the length, are zero. Running out of memory ends the program. */
#ifndef SIM_BYTES_H
#define SIM_BYTES_H

#include <stddef.h>
#include <stdint.h>

#define SIM_SECTOR_BYTES 512u

struct sim_bytes {
	uint8_t **chunks;
	size_t chunk_count;
	uint64_t length;
};

void sim_bytes_clone(struct sim_bytes *ret, const struct sim_bytes *from);
void sim_bytes_free(struct sim_bytes *b);
/* Any range; past the length too. Neither changes the length. */
void sim_bytes_read(const struct sim_bytes *b, uint64_t offset, void *buf, size_t count);
void sim_bytes_write(struct sim_bytes *b, uint64_t offset, const void *buf, size_t count);
void sim_bytes_zero(struct sim_bytes *b, uint64_t offset, uint64_t count);
/* What is cut off is gone: a later growth shows zeroes. */
void sim_bytes_set_length(struct sim_bytes *b, uint64_t length);

/* Big-endian, and no code shared with what is tested. */
uint64_t sim_bytes_be64(const struct sim_bytes *b, uint64_t offset);
uint32_t sim_bytes_be32(const struct sim_bytes *b, uint64_t offset);
uint16_t sim_bytes_be16(const struct sim_bytes *b, uint64_t offset);
void sim_bytes_put_be64(struct sim_bytes *b, uint64_t offset, uint64_t value);
void sim_bytes_put_be32(struct sim_bytes *b, uint64_t offset, uint32_t value);
void sim_bytes_put_be16(struct sim_bytes *b, uint64_t offset, uint16_t value);

/* Little-endian, as QED has it. */
uint64_t sim_bytes_le64(const struct sim_bytes *b, uint64_t offset);
uint32_t sim_bytes_le32(const struct sim_bytes *b, uint64_t offset);
void sim_bytes_put_le64(struct sim_bytes *b, uint64_t offset, uint64_t value);

/* calloc that does not fail, and memory aligned like ox_io_buffer's (memory.c). */
void *sim_alloc(size_t count, size_t size);
void *sim_buffer(size_t size);

#endif
