/* SPDX-License-Identifier: MIT */
/* What a virtio-blk device says of itself, and when its writes have to be durable. */
#include <endian.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "serve/vhost/blk_internal.h"

/* virtio 1.2, 5.2.4; little-endian. */
struct config {
	uint64_t capacity; /* in sectors */
	uint32_t size_max;
	uint32_t seg_max;
	uint32_t geometry; /* not offered */
	uint32_t blk_size;
	uint8_t physical_block_exp;
	uint8_t alignment_offset;
	uint16_t min_io_size;
	uint32_t opt_io_size;
	uint8_t writeback;
	uint8_t unused0;
	uint16_t num_queues;
	uint32_t max_discard_sectors;
	uint32_t max_discard_seg;
	uint32_t discard_sector_alignment;
	uint32_t max_write_zeroes_sectors;
	uint32_t max_write_zeroes_seg;
	uint8_t write_zeroes_may_unmap;
	uint8_t unused1[3];
} __attribute__((packed));

_Static_assert(sizeof(struct config) == OX_VHOST_BLK_CONFIG_BYTES &&
		       offsetof(struct config, writeback) == OX_VHOST_BLK_CONFIG_WCE,
	       "the layout");

/* ---- the write cache ---- */

static bool is_always_write_through(enum ox_cache_mode mode)
{
	return mode == OX_CACHE_WRITETHROUGH || mode == OX_CACHE_DIRECTSYNC;
}

/* The field that a guest which negotiated these features sees (virtio 1.2, 5.2.5.2: without FLUSH
 * it begins as write-through). */
static bool is_cache_on(enum ox_vhost_wce wce, uint64_t acked)
{
	const uint64_t both = OX_VIRTIO_BLK_F_FLUSH | OX_VIRTIO_BLK_F_CONFIG_WCE;

	switch (wce) {
	case OX_VHOST_WCE_ON:
		return true;
	case OX_VHOST_WCE_UNSET:
		return (acked & both) != OX_VIRTIO_BLK_F_CONFIG_WCE;
	case OX_VHOST_WCE_OFF:
	case OX_VHOST_WCE_UNKNOWN:
		break;
	}
	return false;
}

bool ox_vhost_blk_is_write_through(enum ox_cache_mode mode, uint64_t offered, uint64_t acked,
				   enum ox_vhost_wce wce)
{
	if (mode == OX_CACHE_UNSAFE)
		return false; /* the operator's choice */
	if (is_always_write_through(mode))
		return true;
	if (acked & OX_VIRTIO_BLK_F_CONFIG_WCE)
		return !is_cache_on(wce, acked);
	/* A guest that cannot flush takes a completed write for stable (virtio 1.2, 5.2.6.2). */
	if (!(offered & acked & OX_VIRTIO_BLK_F_FLUSH))
		return true;
	return wce == OX_VHOST_WCE_OFF;
}

bool ox_vhost_blk_writes_through(const struct ox_vhost_blk *blk)
{
	return ox_vhost_blk_is_write_through(blk->mode, ox_vhost_blk_features(blk), blk->acked,
					     blk->wce);
}

/* ---- features and fields ---- */

uint64_t ox_vhost_blk_features(const struct ox_vhost_blk *blk)
{
	uint64_t features = OX_VIRTIO_F_VERSION_1 | OX_VIRTIO_F_RING_INDIRECT_DESC |
			    OX_VIRTIO_F_RING_EVENT_IDX | OX_VIRTIO_BLK_F_SIZE_MAX |
			    OX_VIRTIO_BLK_F_SEG_MAX | OX_VIRTIO_BLK_F_BLK_SIZE |
			    OX_VIRTIO_BLK_F_TOPOLOGY | OX_VIRTIO_BLK_F_MQ;

	if (blk->read_only)
		return features | OX_VIRTIO_BLK_F_RO;
	return features | OX_VIRTIO_BLK_F_FLUSH | OX_VIRTIO_BLK_F_CONFIG_WCE |
	       OX_VIRTIO_BLK_F_DISCARD | OX_VIRTIO_BLK_F_WRITE_ZEROES;
}

/* Header and status have a descriptor each. */
static uint32_t seg_max(const struct ox_vhost_blk *blk)
{
	if (blk->queue_size < 4)
		return 1;
	return blk->queue_size - 2u < OX_VHOST_BLK_SEG_MAX ? blk->queue_size - 2u
							   : OX_VHOST_BLK_SEG_MAX;
}

uint64_t ox_vhost_blk_capacity_bytes(const struct ox_vhost_blk *blk)
{
	return blk->size_bytes / blk->block_bytes * blk->block_bytes;
}

/* In logical blocks, as the topology counts; 0: nothing is said. */
static uint32_t best_blocks(const struct ox_vhost_blk *blk)
{
	return blk->cluster_bytes > blk->physical_bytes ? blk->cluster_bytes / blk->block_bytes : 0;
}

/* A cluster is given back as a whole. Without clusters it is the blocks of the host's file system,
 * whose size is taken to be the physical one. */
static uint32_t discard_bytes(const struct ox_vhost_blk *blk)
{
	const uint32_t bytes = blk->cluster_bytes > 0 ? blk->cluster_bytes : blk->physical_bytes;

	return bytes > blk->block_bytes ? bytes : blk->block_bytes;
}

static struct config describe(const struct ox_vhost_blk *blk)
{
	const uint32_t blocks = blk->physical_bytes / blk->block_bytes;
	struct config config = {
		.capacity = htole64(ox_vhost_blk_capacity_bytes(blk) / OX_VHOST_SECTOR),
		.size_max = htole32(OX_VHOST_BLK_SIZE_MAX),
		.seg_max = htole32(seg_max(blk)),
		.blk_size = htole32(blk->block_bytes),
		.physical_block_exp = blocks > 1 ? (uint8_t)__builtin_ctz(blocks) : 0,
		.min_io_size = htole16(blocks > 1 && blocks <= UINT16_MAX ? (uint16_t)blocks : 1),
		.opt_io_size = htole32(best_blocks(blk)),
		.writeback = !blk->read_only && !is_always_write_through(blk->mode) &&
			     is_cache_on(blk->wce, blk->acked),
		.num_queues = htole16(blk->queues),
	};

	if (blk->read_only)
		return config;
	config.max_discard_sectors = htole32(OX_VHOST_RANGE_SECTORS_MAX);
	config.max_discard_seg = htole32(OX_VHOST_RANGES_MAX);
	config.discard_sector_alignment = htole32(discard_bytes(blk) / OX_VHOST_SECTOR);
	config.max_write_zeroes_sectors = htole32(OX_VHOST_RANGE_SECTORS_MAX);
	config.max_write_zeroes_seg = htole32(OX_VHOST_RANGES_MAX);
	config.write_zeroes_may_unmap = 1;
	return config;
}

void ox_vhost_blk_config_read(const struct ox_vhost_blk *blk, uint32_t offset, uint32_t bytes,
			      void *ret)
{
	const struct config config = describe(blk);
	uint32_t left = offset < sizeof(config) ? (uint32_t)sizeof(config) - offset : 0;

	if (left > bytes)
		left = bytes;
	memset(ret, 0, bytes);
	if (left > 0)
		memcpy(ret, (const uint8_t *)&config + offset, left);
}

int ox_vhost_blk_config_write(struct ox_vhost_blk *blk, uint32_t offset, uint32_t bytes,
			      const void *data)
{
	uint8_t wce;

	if (blk->read_only || offset != OX_VHOST_BLK_CONFIG_WCE || bytes != sizeof(wce))
		return -EINVAL;
	memcpy(&wce, data, sizeof(wce));
	if (wce > 1 || (wce == 1 && is_always_write_through(blk->mode)))
		return -EINVAL;
	blk->wce = wce ? OX_VHOST_WCE_ON : OX_VHOST_WCE_OFF;
	return 0;
}
