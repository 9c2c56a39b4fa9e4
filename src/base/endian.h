/* SPDX-License-Identifier: MIT */
/*
 * Integers as they lie on disk. Each byte order has its own one-field struct, so that using disk
 * bytes as a number, or a number as disk bytes, does not compile.
 */
#ifndef OX_BASE_ENDIAN_H
#define OX_BASE_ENDIAN_H

#include <endian.h>
#include <stdint.h>

struct ox_be16 {
	uint16_t raw;
} __attribute__((packed));
struct ox_be32 {
	uint32_t raw;
} __attribute__((packed));
struct ox_be64 {
	uint64_t raw;
} __attribute__((packed));
struct ox_le32 {
	uint32_t raw;
} __attribute__((packed));
struct ox_le64 {
	uint64_t raw;
} __attribute__((packed));

#define OX_ENDIAN_PAIR(order, bits)                                                                \
	static inline uint##bits##_t ox_##order##bits##_get(struct ox_##order##bits v)             \
	{                                                                                          \
		return order##bits##toh(v.raw);                                                    \
	}                                                                                          \
	static inline struct ox_##order##bits ox_##order##bits(uint##bits##_t v)                   \
	{                                                                                          \
		return (struct ox_##order##bits){hto##order##bits(v)};                             \
	}

OX_ENDIAN_PAIR(be, 16)
OX_ENDIAN_PAIR(be, 32)
OX_ENDIAN_PAIR(be, 64)
OX_ENDIAN_PAIR(le, 32)
OX_ENDIAN_PAIR(le, 64)

#undef OX_ENDIAN_PAIR

#endif
