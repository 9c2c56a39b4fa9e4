/* SPDX-License-Identifier: MIT */
#include "qcow2/reader.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "image.h"
#include "planted.h"
#include "trace.h"

uint64_t sim_qcow2_entry(const struct sim_qcow2 *i, uint64_t at)
{
	uint64_t entry = sim_bytes_be64(i->bytes, at);

	if (i->incompatible & SIM_DIRTY && sim_planted_find(&sim_stale, at, entry) >= 0)
		return 0;
	return entry;
}

bool sim_qcow2_parse(const struct sim_bytes *bytes, struct sim_qcow2 *ret, const char **ret_why)
{
	struct sim_qcow2 i = {.bytes = bytes};

	*ret_why = "no magic";
	if (sim_bytes_be32(bytes, 0) != 0x514649fb)
		return false;
	i.version = sim_bytes_be32(bytes, 4);
	i.backing_offset = sim_bytes_be64(bytes, 8);
	i.cluster_bits = sim_bytes_be32(bytes, 20);
	i.size_bytes = sim_bytes_be64(bytes, 24);
	i.l1_entries = sim_bytes_be32(bytes, 36);
	i.l1_offset = sim_bytes_be64(bytes, 40);
	i.reftable_offset = sim_bytes_be64(bytes, 48);
	i.reftable_clusters = sim_bytes_be32(bytes, 56);
	i.snapshot_count = sim_bytes_be32(bytes, 60);
	i.snapshots_offset = sim_bytes_be64(bytes, 64);
	i.refcount_order = 4;
	if (i.version >= 3) {
		i.incompatible = sim_bytes_be64(bytes, 72);
		i.compatible = sim_bytes_be64(bytes, 80);
		i.autoclear = sim_bytes_be64(bytes, 88);
		i.refcount_order = sim_bytes_be32(bytes, 96);
		i.header_length = sim_bytes_be32(bytes, 100);
	}
	*ret_why = "impossible fields";
	if (i.version < 2 || i.version > 3 || i.cluster_bits < 9 || i.cluster_bits > 21 ||
	    i.refcount_order > 6 || i.reftable_clusters == 0 || i.snapshot_count > 16)
		return false;
	i.cluster_bytes = UINT64_C(1) << i.cluster_bits;
	if (i.l1_entries > 65536 || i.reftable_clusters > 65536 ||
	    i.l1_offset % i.cluster_bytes != 0 || i.reftable_offset % i.cluster_bytes != 0)
		return false;
	*ret = i;
	return true;
}

uint64_t sim_qcow2_block_entries(const struct sim_qcow2 *i)
{
	return i->cluster_bytes * 8 >> i->refcount_order;
}

uint64_t sim_qcow2_refblock(const struct sim_qcow2 *i, uint64_t index)
{
	if (index >= i->reftable_clusters * i->cluster_bytes / 8)
		return 0;
	return sim_bytes_be64(i->bytes, i->reftable_offset + index * 8);
}

uint64_t sim_qcow2_refcount(const struct sim_qcow2 *i, uint64_t cluster)
{
	uint64_t entries = sim_qcow2_block_entries(i);
	uint64_t block = sim_qcow2_refblock(i, cluster / entries);
	uint64_t bit = cluster % entries << i->refcount_order;
	uint64_t value = 0;
	uint8_t raw[8];

	if (block == 0)
		return 0;
	sim_bytes_read(i->bytes, block + bit / 8, raw, sizeof(raw));
	if (i->refcount_order < 3) /* the entries of a byte begin at its lowest bit */
		return raw[0] >> bit % 8 & ((1u << (1u << i->refcount_order)) - 1);
	for (unsigned n = 0; n < 1u << (i->refcount_order - 3); n++)
		value = value << 8 | raw[n];
	return value;
}

struct sim_snapshot sim_qcow2_snapshot(const struct sim_qcow2 *i, uint64_t offset)
{
	uint64_t bytes = 40 + (uint64_t)sim_bytes_be32(i->bytes, offset + 36) +
			 sim_bytes_be16(i->bytes, offset + 12) +
			 sim_bytes_be16(i->bytes, offset + 14);

	return (struct sim_snapshot){
		.l1_offset = sim_bytes_be64(i->bytes, offset),
		.l1_entries = sim_bytes_be32(i->bytes, offset + 8),
		.record_bytes = (bytes + 7) & ~UINT64_C(7),
	};
}

enum sim_place sim_qcow2_find(const struct sim_qcow2 *i, uint64_t l1_offset, uint32_t l1_entries,
			      uint64_t guest, uint64_t *ret_host)
{
	uint64_t cluster = guest >> i->cluster_bits;
	uint64_t per_table = i->cluster_bytes / 8;
	uint64_t table;
	uint64_t entry;

	if (cluster / per_table >= l1_entries)
		return SIM_PLACE_ABSENT;
	table = sim_bytes_be64(i->bytes, l1_offset + cluster / per_table * 8) & SIM_OFFSET_MASK;
	if (table == 0)
		return SIM_PLACE_ABSENT;
	entry = sim_qcow2_entry(i, table + cluster % per_table * 8);
	*ret_host = entry;
	if (entry & SIM_COMPRESSED)
		return SIM_PLACE_PACKED;
	if (i->version >= 3 && entry & 1)
		return SIM_PLACE_ZERO;
	if ((entry & SIM_OFFSET_MASK) == 0)
		return SIM_PLACE_ABSENT;
	*ret_host = (entry & SIM_OFFSET_MASK) + guest % i->cluster_bytes;
	return SIM_PLACE_DATA;
}

/* ---- compressed clusters ---- */

uint64_t sim_qcow2_packed(const struct sim_qcow2 *i, uint64_t entry, uint64_t *ret_bytes)
{
	unsigned x = 62 - (i->cluster_bits - 8);
	uint64_t offset = entry & ((UINT64_C(1) << x) - 1);
	uint64_t sectors = (entry & (SIM_COMPRESSED - 1)) >> x;

	*ret_bytes = (sectors + 1) * SIM_SECTOR_BYTES - offset % SIM_SECTOR_BYTES;
	return offset;
}

/* The last stream that was unpacked: neighbouring sectors come out of one. */
static struct {
	uint8_t *packed;
	uint8_t *cluster;
	uint64_t packed_bytes;
	uint64_t cluster_bytes;
} last;

static bool inflate_last(void)
{
	z_stream z = {
		.next_in = last.packed,
		.avail_in = (uInt)last.packed_bytes,
		.next_out = last.cluster,
		.avail_out = (uInt)last.cluster_bytes,
	};

	if (inflateInit2(&z, -12) != Z_OK)
		return false;
	(void)inflate(&z, Z_FINISH); /* the sectors may hold more than the stream */
	inflateEnd(&z);
	return z.avail_out == 0;
}

bool sim_qcow2_unpack(const struct sim_qcow2 *i, uint64_t entry, uint64_t in_cluster, uint8_t *ret)
{
	uint64_t bytes;
	uint64_t offset = sim_qcow2_packed(i, entry, &bytes);
	uint8_t *packed = sim_alloc(1, bytes);

	sim_bytes_read(i->bytes, offset, packed, bytes);
	if (bytes == last.packed_bytes && i->cluster_bytes == last.cluster_bytes &&
	    memcmp(packed, last.packed, bytes) == 0) {
		free(packed);
	} else {
		free(last.packed);
		free(last.cluster);
		last.packed = packed;
		last.packed_bytes = bytes;
		last.cluster_bytes = i->cluster_bytes;
		last.cluster = sim_alloc(1, i->cluster_bytes);
		if (!inflate_last()) {
			last.packed_bytes = 0;
			return false;
		}
	}
	memcpy(ret, last.cluster + in_cluster, SIM_SECTOR_BYTES);
	return true;
}

uint64_t sim_qcow2_extension(const struct sim_qcow2 *i, uint32_t type, uint32_t *ret_bytes)
{
	uint64_t at = i->header_length;

	while (at != 0 && at + 8 <= i->cluster_bytes) {
		uint32_t here = sim_bytes_be32(i->bytes, at);

		*ret_bytes = sim_bytes_be32(i->bytes, at + 4);
		if (here == type)
			return at + 8;
		if (here == 0)
			break;
		at += 8 + (((uint64_t)*ret_bytes + 7) & ~UINT64_C(7));
	}
	return 0;
}

void sim_qcow2_read(const struct sim_qcow2 *i, uint64_t l1_offset, uint32_t l1_entries,
		    const struct sim_backing *backing, uint64_t guest, uint8_t *ret)
{
	uint64_t host = 0;

	switch (sim_qcow2_find(i, l1_offset, l1_entries, guest, &host)) {
	case SIM_PLACE_DATA:
		sim_bytes_read(i->bytes, host, ret, SIM_SECTOR_BYTES);
		return;
	case SIM_PLACE_PACKED:
		if (!sim_qcow2_unpack(i, host, guest % i->cluster_bytes, ret))
			sim_fail("D1",
				 "the compressed cluster of guest 0x%llx is garbage, entry 0x%llx",
				 (unsigned long long)guest, (unsigned long long)host);
		return;
	case SIM_PLACE_ABSENT:
		if (backing->there && guest < backing->bytes.length) {
			sim_bytes_read(&backing->bytes, guest, ret, SIM_SECTOR_BYTES);
			return;
		}
		break;
	case SIM_PLACE_ZERO:
		break;
	}
	memset(ret, 0, SIM_SECTOR_BYTES);
}

/* ---- names ---- */

static bool within(uint64_t offset, uint64_t start, uint64_t bytes)
{
	return offset >= start && offset < start + bytes;
}

static bool name_refcounts(const struct sim_qcow2 *i, uint64_t offset, char *ret, size_t room)
{
	uint64_t tables = i->reftable_clusters * i->cluster_bytes;

	if (within(offset, i->reftable_offset, tables)) {
		snprintf(ret, room, "[refcount table]");
		return true;
	}
	for (uint64_t n = 0; n < tables / 8; n++) {
		uint64_t block = sim_qcow2_refblock(i, n);

		if (block && within(offset, block, i->cluster_bytes)) {
			snprintf(ret, room, "[refcount block %u]", (unsigned)n);
			return true;
		}
	}
	return false;
}

static bool name_map(const struct sim_qcow2 *i, uint64_t offset, char *ret, size_t room)
{
	for (uint64_t n = 0; n < i->l1_entries; n++) {
		uint64_t table = sim_bytes_be64(i->bytes, i->l1_offset + n * 8) & SIM_OFFSET_MASK;

		if (table == 0)
			continue;
		if (within(offset, table, i->cluster_bytes)) {
			snprintf(ret, room, "[L2 table %u, entry %u on]", (unsigned)n,
				 (unsigned)((offset - table) / 8));
			return true;
		}
		for (uint64_t k = 0; k < i->cluster_bytes / 8; k++) {
			uint64_t entry = sim_bytes_be64(i->bytes, table + k * 8);

			if (!(entry & SIM_COMPRESSED) && entry & SIM_OFFSET_MASK &&
			    within(offset, entry & SIM_OFFSET_MASK, i->cluster_bytes)) {
				snprintf(ret, room, "[data of guest 0x%llx]",
					 (unsigned long long)((n * i->cluster_bytes / 8 + k)
							      << i->cluster_bits));
				return true;
			}
		}
	}
	return false;
}

void sim_qcow2_name(const struct sim_qcow2 *i, uint64_t offset, char *ret, size_t room)
{
	if (offset < i->cluster_bytes)
		snprintf(ret, room, "[header]");
	else if (within(offset, i->l1_offset, (uint64_t)i->l1_entries * 8))
		snprintf(ret, room, "[L1 table]");
	else if (!name_refcounts(i, offset, ret, room) && !name_map(i, offset, ret, room))
		snprintf(ret, room, "[cluster %llu, not in the active image]",
			 (unsigned long long)(offset >> i->cluster_bits));
}
