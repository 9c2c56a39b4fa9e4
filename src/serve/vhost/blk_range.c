/* SPDX-License-Identifier: MIT */
/*
 * Discards and write-zeroes: up to 32 ranges in one request. All of them are judged before the
 * first is carried out. Then they are carried out in steps, one after the other, so that a request
 * has one request of the library in flight at any time, whatever it asks for; the first step that
 * fails ends it. A discard of a long range is more than one step, and ends early where somebody
 * waits for the requests in flight: it promises nothing.
 */
#include <endian.h>
#include <stdlib.h>
#include <string.h>

#include "serve/vhost/blk_internal.h"

#define FLAG_UNMAP 1u
/* A step of a discard ends at a multiple of this, and so at the end of a cluster. */
#define STEP_BYTES (UINT64_C(256) << 20)

static uint64_t bytes_of(const struct ox_vhost_blk_range *range)
{
	return (uint64_t)range->num_sectors * OX_VHOST_SECTOR;
}

/* In the byte order of the machine from here on. */
static enum ox_vhost_blk_status judge(struct ox_vhost_blk_range *range,
				      const struct ox_vhost_blk *blk, bool zeroes)
{
	range->sector = le64toh(range->sector);
	range->num_sectors = le32toh(range->num_sectors);
	range->flags = le32toh(range->flags);
	if (range->flags & ~(zeroes ? FLAG_UNMAP : 0))
		return OX_VHOST_BLK_UNSUPP;
	if (range->num_sectors > OX_VHOST_RANGE_SECTORS_MAX ||
	    !ox_vhost_blk_is_on_disk(blk, range->sector, bytes_of(range)))
		return OX_VHOST_BLK_IOERR;
	return OX_VHOST_BLK_OK;
}

static enum ox_vhost_blk_status keep(struct ox_vhost_blk_request *r,
				     const struct ox_vhost_blk_range *ranges, unsigned count)
{
	r->ranges = malloc(count * sizeof(*ranges));
	if (!r->ranges)
		return OX_VHOST_BLK_IOERR;
	memcpy(r->ranges, ranges, count * sizeof(*ranges));
	r->range_count = count;
	return OX_VHOST_BLK_OK;
}

/* Describes the next step to the library; false: there is none. */
static bool take_step(struct ox_vhost_blk_request *r)
{
	struct ox_vhost_blk_range *range = r->ranges + r->range_at;
	const bool zeroes = r->request.op == OX_OP_WRITE_ZEROES;
	uint64_t bytes;

	if (r->range_at == r->range_count)
		return false;
	bytes = bytes_of(range);
	r->request.offset = range->sector * OX_VHOST_SECTOR;
	if (!zeroes && bytes > STEP_BYTES - r->request.offset % STEP_BYTES)
		bytes = STEP_BYTES - r->request.offset % STEP_BYTES;
	r->done_bytes += r->bytes;
	r->request.length = r->bytes = bytes;
	r->request.flags &= ~(unsigned)OX_REQ_MAY_UNMAP;
	if (range->flags & FLAG_UNMAP)
		r->request.flags |= OX_REQ_MAY_UNMAP;
	range->sector += bytes / OX_VHOST_SECTOR;
	range->num_sectors -= (uint32_t)(bytes / OX_VHOST_SECTOR);
	if (range->num_sectors == 0)
		r->range_at++;
	return true;
}

enum ox_vhost_blk_status ox_vhost_blk_ranges_begin(struct ox_vhost_blk_request *r,
						   const struct ox_vhost_blk *blk,
						   enum ox_vhost_blk_type type,
						   const struct ox_vhost_chain *chain)
{
	const bool zeroes = type == OX_VHOST_BLK_WRITE_ZEROES;
	const uint64_t feature = zeroes ? OX_VIRTIO_BLK_F_WRITE_ZEROES : OX_VIRTIO_BLK_F_DISCARD;
	const uint64_t bytes = chain->readable_bytes - sizeof(struct ox_vhost_blk_header);
	struct ox_vhost_blk_range ranges[OX_VHOST_RANGES_MAX];
	enum ox_vhost_blk_status status = OX_VHOST_BLK_OK;
	unsigned count;

	if (!(blk->acked & feature))
		return OX_VHOST_BLK_UNSUPP;
	if (blk->read_only || bytes == 0 || bytes % sizeof(ranges[0]) != 0 ||
	    bytes > sizeof(ranges))
		return OX_VHOST_BLK_IOERR;
	ox_vhost_blk_copy_in(chain, sizeof(struct ox_vhost_blk_header), ranges, bytes);
	count = (unsigned)(bytes / sizeof(ranges[0]));
	for (unsigned i = 0; i < count && status == OX_VHOST_BLK_OK; i++)
		status = judge(&ranges[i], blk, zeroes);
	if (status == OX_VHOST_BLK_OK)
		status = keep(r, ranges, count);
	if (status != OX_VHOST_BLK_OK)
		return status;
	r->request.op = zeroes ? OX_OP_WRITE_ZEROES : OX_OP_DISCARD;
	if (zeroes && ox_vhost_blk_writes_through(blk))
		r->request.flags = OX_REQ_FUA;
	(void)take_step(r); /* there is one */
	return OX_VHOST_BLK_OK;
}

bool ox_vhost_blk_ranges_go_on(struct ox_vhost_blk_request *r, const struct ox_vhost_blk *blk)
{
	if (!r->ranges || (blk->hurried && r->request.op == OX_OP_DISCARD))
		return false;
	return take_step(r);
}

void ox_vhost_blk_ranges_end(struct ox_vhost_blk_request *r)
{
	free(r->ranges);
	r->ranges = NULL;
	r->range_at = r->range_count = 0;
}
