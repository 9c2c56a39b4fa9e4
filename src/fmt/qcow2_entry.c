/* SPDX-License-Identifier: MIT */
/*
 * Entries of L1, L2 and refcount tables. These run for every guest request, so they test a bit mask
 * or two and never look at more than the entry itself.
 */
#include "fmt/qcow2.h"

#include "base/assert.h"

#define L1_RESERVED (~(OX_QCOW2_COPIED | OX_QCOW2_OFFSET_MASK))
#define L2_RESERVED (~(OX_QCOW2_COPIED | OX_QCOW2_OFFSET_MASK | OX_QCOW2_ZERO))
#define REFTABLE_RESERVED UINT64_C(0x1ff)
#define HOST_OFFSET_BITS 56u
#define SECTOR_BYTES 512u

/* Where the sector count of a compressed entry begins: "x" of the specification. */
static inline unsigned compressed_shift(const struct ox_qcow2_header *h)
{
	return 62 - (h->cluster_bits - 8);
}

static struct ox_qcow2_entry decode_compressed(const struct ox_qcow2_header *h, uint64_t raw)
{
	unsigned shift = compressed_shift(h);
	uint64_t offset = raw & ((UINT64_C(1) << shift) - 1);
	uint64_t more_sectors = (raw & (OX_QCOW2_COMPRESSED - 1)) >> shift;

	return (struct ox_qcow2_entry){
		.kind = offset >> HOST_OFFSET_BITS ? OX_QCOW2_ENTRY_BAD : OX_QCOW2_ENTRY_COMPRESSED,
		.copied = raw & OX_QCOW2_COPIED,
		.host = ox_host(offset),
		.compressed_bytes = (more_sectors + 1) * SECTOR_BYTES - offset % SECTOR_BYTES,
	};
}

/* Where the zero bit has no meaning it is reserved. */
static inline bool zero_bit_allowed(const struct ox_qcow2_header *h)
{
	return h->version >= 3 && !(h->incompatible & OX_QCOW2_INCOMPAT_EXTENDED_L2);
}

static enum ox_qcow2_entry_kind standard_kind(const struct ox_qcow2_header *h, uint64_t raw)
{
	uint64_t offset = raw & OX_QCOW2_OFFSET_MASK;
	bool allocated = offset != 0;

	if ((raw & L2_RESERVED) || !ox_is_aligned(offset, ox_qcow2_cluster_bytes(h)))
		return OX_QCOW2_ENTRY_BAD;
	/* Offset 0 is a cluster in an external data file alone; in the image it is the header. */
	if (!allocated && (raw & OX_QCOW2_COPIED)) {
		if (!(h->incompatible & OX_QCOW2_INCOMPAT_DATA_FILE))
			return OX_QCOW2_ENTRY_BAD;
		allocated = true;
	}
	if (raw & OX_QCOW2_ZERO) {
		if (!zero_bit_allowed(h))
			return OX_QCOW2_ENTRY_BAD;
		return allocated ? OX_QCOW2_ENTRY_ZERO_ALLOC : OX_QCOW2_ENTRY_ZERO;
	}
	return allocated ? OX_QCOW2_ENTRY_DATA : OX_QCOW2_ENTRY_UNALLOCATED;
}

struct ox_qcow2_entry ox_qcow2_l2_decode(const struct ox_qcow2_header *h, uint64_t raw)
{
	if (raw == 0)
		return (struct ox_qcow2_entry){.kind = OX_QCOW2_ENTRY_UNALLOCATED};
	if (raw & OX_QCOW2_COMPRESSED)
		return decode_compressed(h, raw);
	return (struct ox_qcow2_entry){
		.kind = standard_kind(h, raw),
		.copied = raw & OX_QCOW2_COPIED,
		.host = ox_host(raw & OX_QCOW2_OFFSET_MASK),
	};
}

bool ox_qcow2_subclusters_valid(enum ox_qcow2_entry_kind kind, uint64_t subclusters)
{
	uint32_t allocated = (uint32_t)subclusters;
	uint32_t zero = (uint32_t)(subclusters >> 32);

	if (kind == OX_QCOW2_ENTRY_COMPRESSED)
		return subclusters == 0;
	if (kind == OX_QCOW2_ENTRY_UNALLOCATED)
		return allocated == 0;
	return (allocated & zero) == 0;
}

uint64_t ox_qcow2_compressed_limit(const struct ox_qcow2_header *h)
{
	unsigned shift = compressed_shift(h);

	return UINT64_C(1) << (shift < HOST_OFFSET_BITS ? shift : HOST_OFFSET_BITS);
}

static uint64_t encode_compressed(const struct ox_qcow2_header *h, const struct ox_qcow2_entry *e)
{
	unsigned shift = compressed_shift(h);
	uint64_t offset = e->host.bytes;
	uint64_t end = offset + e->compressed_bytes;
	uint64_t more_sectors = ox_div_up(end, SECTOR_BYTES) - offset / SECTOR_BYTES - 1;

	ox_assert(!e->copied);
	ox_assert(e->compressed_bytes > 0);
	ox_assert(offset < ox_qcow2_compressed_limit(h));
	ox_assert(more_sectors >> (62 - shift) == 0);
	return OX_QCOW2_COMPRESSED | more_sectors << shift | offset;
}

uint64_t ox_qcow2_l2_encode(const struct ox_qcow2_header *h, const struct ox_qcow2_entry *e)
{
	uint64_t copied = e->copied ? OX_QCOW2_COPIED : 0;
	uint64_t raw = 0;

	switch (e->kind) {
	case OX_QCOW2_ENTRY_UNALLOCATED:
		return 0;
	case OX_QCOW2_ENTRY_DATA:
		raw = e->host.bytes | copied;
		break;
	case OX_QCOW2_ENTRY_ZERO:
		raw = OX_QCOW2_ZERO;
		break;
	case OX_QCOW2_ENTRY_ZERO_ALLOC:
		raw = e->host.bytes | copied | OX_QCOW2_ZERO;
		break;
	case OX_QCOW2_ENTRY_COMPRESSED:
		return encode_compressed(h, e);
	case OX_QCOW2_ENTRY_BAD:
		break;
	}
	/* Holds for BAD too: raw is then 0, of another kind. */
	ox_assert(standard_kind(h, raw) == e->kind);
	return raw;
}

struct ox_qcow2_l1_entry ox_qcow2_l1_decode(const struct ox_qcow2_header *h, uint64_t raw)
{
	uint64_t offset = raw & OX_QCOW2_OFFSET_MASK;
	bool copied = raw & OX_QCOW2_COPIED;

	return (struct ox_qcow2_l1_entry){
		/* COPIED without a table would let a writer change the header cluster in place. */
		.bad = (raw & L1_RESERVED) || !ox_is_aligned(offset, ox_qcow2_cluster_bytes(h)) ||
		       (copied && offset == 0),
		.copied = copied,
		.l2 = ox_host(offset),
	};
}

uint64_t ox_qcow2_l1_encode(const struct ox_qcow2_l1_entry *e)
{
	ox_assert(!e->bad);
	ox_assert((e->l2.bytes & ~OX_QCOW2_OFFSET_MASK) == 0);
	ox_assert(e->l2.bytes != 0 || !e->copied);
	return e->l2.bytes | (e->copied ? OX_QCOW2_COPIED : 0);
}

bool ox_qcow2_reftable_decode(const struct ox_qcow2_header *h, uint64_t raw,
			      struct ox_host *ret_block)
{
	if ((raw & REFTABLE_RESERVED) || !ox_is_aligned(raw, ox_qcow2_cluster_bytes(h)))
		return false;
	*ret_block = ox_host(raw);
	return true;
}
