/* SPDX-License-Identifier: MIT */
/* What the files of the block device share: the layout of requests, and the limits that a guest is
 * told. */
#ifndef OX_SERVE_VHOST_BLK_INTERNAL_H
#define OX_SERVE_VHOST_BLK_INTERNAL_H

#include <stdint.h>

#include "serve/vhost/blk.h"

#define OX_VHOST_SECTOR 512u
/* Of a discard or a write-zeroes: so many ranges, of 2 GiB each. */
#define OX_VHOST_RANGES_MAX 32u
#define OX_VHOST_RANGE_SECTORS_MAX (UINT32_C(1) << 22)
/* Of one read or write. Firmware that does not know of seg_max and size_max goes up to this. */
#define OX_VHOST_DATA_MAX_BYTES (UINT64_C(1) << 30)

/* virtio 1.2, 5.2.6 */
enum ox_vhost_blk_type {
	OX_VHOST_BLK_IN = 0,
	OX_VHOST_BLK_OUT = 1,
	OX_VHOST_BLK_FLUSH = 4,
	OX_VHOST_BLK_GET_ID = 8,
	OX_VHOST_BLK_DISCARD = 11,
	OX_VHOST_BLK_WRITE_ZEROES = 13,
};

enum ox_vhost_blk_status {
	OX_VHOST_BLK_OK = 0,
	OX_VHOST_BLK_IOERR = 1,
	OX_VHOST_BLK_UNSUPP = 2,
};

struct ox_vhost_blk_header {
	uint32_t type;
	uint32_t reserved;
	uint64_t sector;
};

struct ox_vhost_blk_range {
	uint64_t sector;
	uint32_t num_sectors;
	uint32_t flags;
};

_Static_assert(sizeof(struct ox_vhost_blk_header) == 16 && sizeof(struct ox_vhost_blk_range) == 16,
	       "the layout");

/* What a guest can use: whole blocks. */
uint64_t ox_vhost_blk_capacity_bytes(const struct ox_vhost_blk *blk);
/* Whether so many bytes from a sector on are on the disk, and whole blocks of it. */
bool ox_vhost_blk_is_on_disk(const struct ox_vhost_blk *blk, uint64_t sector, uint64_t bytes);
/* Copies bytes [skip, skip + bytes) of what the device reads, which has so many. */
void ox_vhost_blk_copy_in(const struct ox_vhost_chain *chain, uint64_t skip, void *to,
			  size_t bytes);

/* ---- blk_range.c: discards and zeroes ---- */

/* What is wrong with the request, or OK: its first step is to be submitted. */
enum ox_vhost_blk_status ox_vhost_blk_ranges_begin(struct ox_vhost_blk_request *r,
						   const struct ox_vhost_blk *blk,
						   enum ox_vhost_blk_type type,
						   const struct ox_vhost_chain *chain);
/* A step of a request went well. True: the next one is to be submitted. */
bool ox_vhost_blk_ranges_go_on(struct ox_vhost_blk_request *r, const struct ox_vhost_blk *blk);
/* Of any request, when it is answered. */
void ox_vhost_blk_ranges_end(struct ox_vhost_blk_request *r);

#endif
