/* SPDX-License-Identifier: MIT */
/* A reader of qcow2 that shares nothing with the one it judges: no cache, no cleverness. */
#ifndef SIM_IMAGE_H
#define SIM_IMAGE_H

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

struct sim_image {
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

/* False, and why, where the header is not one. */
/*
 * Entries that name what never became durable, as other programs' crashes leave them: the simulator
 * plants them after a cut. While the image is dirty they say nothing.
 */
#define SIM_PLANTED_MOST 8u

struct sim_planted {
	unsigned count;
	struct {
		uint64_t at; /* of the entry in the file */
		uint64_t entry;
	} entries[SIM_PLANTED_MOST];
};

extern struct sim_planted sim_image_planted;

/* The entry at an offset of the file, 0 for a planted one of a dirty image. */
uint64_t sim_image_entry(const struct sim_image *i, uint64_t at);

bool sim_image_parse(const struct sim_bytes *bytes, struct sim_image *ret, const char **ret_why);
uint64_t sim_image_refcount(const struct sim_image *i, uint64_t cluster);
uint64_t sim_image_refblock(const struct sim_image *i, uint64_t index); /* host offset or 0 */
uint64_t sim_image_block_entries(const struct sim_image *i);
struct sim_snapshot sim_image_snapshot(const struct sim_image *i, uint64_t offset);

enum sim_place {
	SIM_PLACE_ABSENT,
	SIM_PLACE_ZERO,
	SIM_PLACE_DATA,
	SIM_PLACE_PACKED, /* in place of the host offset: the entry */
};

/* Where the guest's sector lies as seen through an L1 table. */
enum sim_place sim_image_find(const struct sim_image *i, uint64_t l1_offset, uint32_t l1_entries,
			      uint64_t guest, uint64_t *ret_host);
/* The bytes that a compressed entry names: whole sectors from the stream's first byte on. */
uint64_t sim_image_packed(const struct sim_image *i, uint64_t entry, uint64_t *ret_bytes);
/* A sector out of a compressed cluster. False: the stream is garbage. */
bool sim_image_unpack(const struct sim_image *i, uint64_t entry, uint64_t in_cluster, uint8_t *ret);
/* The data of a header extension, or 0: there is none. */
uint64_t sim_image_extension(const struct sim_image *i, uint32_t type, uint32_t *ret_bytes);
/* What an offset of the file is, in words. */
void sim_image_name(const struct sim_image *i, uint64_t offset, char *ret, size_t room);

#endif
