/* SPDX-License-Identifier: MIT */
/* Checked and rounding arithmetic on byte offsets. Alignments are powers of two. */
#ifndef OX_BASE_ARITH_H
#define OX_BASE_ARITH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline uint64_t ox_min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static inline uint64_t ox_max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static inline bool ox_is_pow2(uint64_t v)
{
	return v != 0 && (v & (v - 1)) == 0;
}

static inline bool ox_is_aligned(uint64_t v, uint64_t align)
{
	return (v & (align - 1)) == 0;
}

static inline uint64_t ox_align_down(uint64_t v, uint64_t align)
{
	return v & ~(align - 1);
}

/* The caller knows that v + align - 1 does not overflow; untrusted values go through ox_add_u64. */
static inline uint64_t ox_align_up(uint64_t v, uint64_t align)
{
	return (v + align - 1) & ~(align - 1);
}

static inline uint64_t ox_div_up(uint64_t v, uint64_t by)
{
	return v / by + (v % by != 0);
}

/* Each stores the result and returns true, or returns false on overflow. */
static inline bool ox_add_u64(uint64_t a, uint64_t b, uint64_t *ret)
{
	return !__builtin_add_overflow(a, b, ret);
}

static inline bool ox_mul_u64(uint64_t a, uint64_t b, uint64_t *ret)
{
	return !__builtin_mul_overflow(a, b, ret);
}

/* Whether [off, off + len) lies within [0, end), computed without overflow. */
static inline bool ox_range_within(uint64_t off, uint64_t len, uint64_t end)
{
	return off <= end && len <= end - off;
}

static inline unsigned ox_log2(uint64_t pow2)
{
	return (unsigned)__builtin_ctzll(pow2);
}

#define OX_ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define ox_container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

#endif
