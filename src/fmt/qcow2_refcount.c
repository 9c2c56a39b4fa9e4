/* SPDX-License-Identifier: MIT */
/* Entries of refcount blocks: 1 to 64 bits wide, big-endian, below a byte from bit 0 up. */
#include "fmt/qcow2.h"

#include "base/assert.h"

uint64_t ox_qcow2_refcount_max(unsigned refcount_order)
{
	ox_assert(refcount_order <= 6);
	return UINT64_MAX >> (64 - (1u << refcount_order));
}

/* The order a byte or less is split by: entries a byte hold 8 >> order of them. */
static inline unsigned sub_byte_shift(unsigned order, uint64_t index)
{
	return (unsigned)(index << order) & 7;
}

uint64_t ox_qcow2_refcount_get(const void *block, unsigned refcount_order, uint64_t index)
{
	const uint8_t *bytes = block;

	switch (refcount_order) {
	case 4:
		return ox_be16_get(((const struct ox_be16 *)block)[index]);
	case 0:
	case 1:
	case 2:
		return bytes[index << refcount_order >> 3] >>
			       sub_byte_shift(refcount_order, index) &
		       ((1u << (1u << refcount_order)) - 1);
	case 3:
		return bytes[index];
	case 5:
		return ox_be32_get(((const struct ox_be32 *)block)[index]);
	default:
		ox_assert(refcount_order == 6);
		return ox_be64_get(((const struct ox_be64 *)block)[index]);
	}
}

static void set_sub_byte(uint8_t *bytes, unsigned order, uint64_t index, uint64_t value)
{
	unsigned shift = sub_byte_shift(order, index);
	unsigned mask = ((1u << (1u << order)) - 1) << shift;
	uint8_t *at = &bytes[index << order >> 3];

	*at = (uint8_t)((*at & ~mask) | (unsigned)value << shift);
}

void ox_qcow2_refcount_set(void *block, unsigned refcount_order, uint64_t index, uint64_t value)
{
	ox_assert(value <= ox_qcow2_refcount_max(refcount_order));
	switch (refcount_order) {
	case 4:
		((struct ox_be16 *)block)[index] = ox_be16((uint16_t)value);
		return;
	case 0:
	case 1:
	case 2:
		set_sub_byte(block, refcount_order, index, value);
		return;
	case 3:
		((uint8_t *)block)[index] = (uint8_t)value;
		return;
	case 5:
		((struct ox_be32 *)block)[index] = ox_be32((uint32_t)value);
		return;
	default:
		((struct ox_be64 *)block)[index] = ox_be64(value);
		return;
	}
}
