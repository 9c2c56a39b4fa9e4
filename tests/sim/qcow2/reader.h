/* SPDX-License-Identifier: MIT */
/* A reader of qcow2 that shares nothing with the one it judges: no cache, no cleverness. */
#ifndef SIM_QCOW2_READER_H
#define SIM_QCOW2_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bytes.h"

#define SIM_COPIED (UINT64_C(1) << 63)
#define SIM_COMPRESSED (UINT64_C(1) << 62)
#define SIM_OFFSET_MASK UINT64_C(0x00fffffffffffe00)
#define SIM_DIRTY UINT64_C(1)
#define SIM_LAZY UINT64_C(1)
#define SIM_BITMAPS UINT64_C(1)

struct sim_qcow2 {
	const struct sim_bytes *bytes;
	uint32_t version;
	unsigned cluster_bits;
	uint64_t cluster_bytes;
	uint64_t size_bytes;
	uint64_t l1_offset;
	uint32_t l1_entries;
	uint64_t reftable_offset;
	uint32_t reftable_clusters;
	unsigned refcount_order;
	uint32_t snapshot_count;
	uint64_t snapshots_offset;
	uint64_t incompatible;
	uint64_t compatible;
	uint64_t autoclear;
	uint64_t header_length;
	uint64_t backing_offset;
};

struct sim_snapshot {
	uint64_t l1_offset;
	uint32_t l1_entries;
	uint64_t record_bytes; /* the next record follows */
};

/* The entry at an offset of the file, 0 for a stale one of a dirty image (planted.h). */
uint64_t sim_qcow2_entry(const struct sim_qcow2 *i, uint64_t at);

/* False, and why, where the header is not one. */
bool sim_qcow2_parse(const struct sim_bytes *bytes, struct sim_qcow2 *ret, const char **ret_why);
uint64_t sim_qcow2_refcount(const struct sim_qcow2 *i, uint64_t cluster);
uint64_t sim_qcow2_refblock(const struct sim_qcow2 *i, uint64_t index); /* host offset or 0 */
uint64_t sim_qcow2_block_entries(const struct sim_qcow2 *i);
struct sim_snapshot sim_qcow2_snapshot(const struct sim_qcow2 *i, uint64_t offset);

enum sim_place {
	SIM_PLACE_ABSENT,
	SIM_PLACE_ZERO,
	SIM_PLACE_DATA,
	SIM_PLACE_PACKED, /* in place of the host offset: the entry */
};

/* Where the guest's sector lies as seen through an L1 table. */
enum sim_place sim_qcow2_find(const struct sim_qcow2 *i, uint64_t l1_offset, uint32_t l1_entries,
			      uint64_t guest, uint64_t *ret_host);
/* The bytes that a compressed entry names: whole sectors from the stream's first byte on. */
uint64_t sim_qcow2_packed(const struct sim_qcow2 *i, uint64_t entry, uint64_t *ret_bytes);
/* A sector out of a compressed cluster. False: the stream is garbage. */
bool sim_qcow2_unpack(const struct sim_qcow2 *i, uint64_t entry, uint64_t in_cluster, uint8_t *ret);
/* The data of a header extension, or 0: there is none. */
uint64_t sim_qcow2_extension(const struct sim_qcow2 *i, uint32_t type, uint32_t *ret_bytes);
/* The sector as it reads through an L1 table and the backing file. */
struct sim_backing;
void sim_qcow2_read(const struct sim_qcow2 *i, uint64_t l1_offset, uint32_t l1_entries,
		    const struct sim_backing *backing, uint64_t guest, uint8_t *ret);
/* What an offset of the file is, in words. */
void sim_qcow2_name(const struct sim_qcow2 *i, uint64_t offset, char *ret, size_t room);

#endif
