/* SPDX-License-Identifier: MIT */
/* Walking over a range of the disk, one look of the library at a time. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "serve/nbd/conn.h"

/* A client that asks for all of a huge disk at once gets the beginning, and in bounded time. */
#define LOOKS_MAX 4096u
/* Of what an image can tell apart. */
#define SMALLEST_EXTENT_BYTES 512u
/* A reply to a read has a chunk's head and two vectors for each; to a block status, less. */
#define REPLY_EXTENT_BYTES 80u

static void look(struct ox_nbd_request *request)
{
	struct ox_nbd_extents *extents = &request->extents;

	extents->looks_left--;
	request->op = (struct ox_request){
		.op = OX_OP_EXTENT,
		.offset = extents->position,
		.length = extents->end - extents->position,
		.extent = &request->found,
	};
	ox_nbd_request_submit(request, NBD_STAGE_EXTENTS);
}

size_t ox_nbd_extents_bytes(uint64_t length, size_t max)
{
	uint64_t count = length / SMALLEST_EXTENT_BYTES + 2;

	if (count > max)
		count = max;
	if (count > LOOKS_MAX)
		count = LOOKS_MAX;
	/* The list doubles as it grows. */
	return count * (2 * sizeof(struct ox_nbd_extent) + REPLY_EXTENT_BYTES);
}

void ox_nbd_extents_start(struct ox_nbd_request *request, uint64_t offset, uint64_t length,
			  size_t max, uint32_t status_mask, bool by_depth)
{
	request->extents = (struct ox_nbd_extents){
		.max = max,
		.status_mask = status_mask,
		.by_depth = by_depth,
		.looks_left = LOOKS_MAX,
		.position = offset,
		.end = offset + length,
	};
	look(request);
}

/* As QEMU's server tells it: what has no bytes on the host is a hole. */
static uint32_t status_of(const struct ox_extent *extent)
{
	uint32_t status = 0;

	if (!(extent->flags & OX_EXTENT_DATA))
		status |= NBD_STATE_HOLE;
	if (extent->flags & OX_EXTENT_ZERO)
		status |= NBD_STATE_ZERO;
	return status;
}

static uint32_t depth_of(const struct ox_extent *extent)
{
	return extent->flags & OX_EXTENT_PRESENT ? extent->depth + 1 : 0;
}

static bool is_like(const struct ox_nbd_extents *extents, const struct ox_nbd_extent *a,
		    const struct ox_nbd_extent *b)
{
	return ((a->status ^ b->status) & extents->status_mask) == 0 &&
	       (!extents->by_depth || a->depth == b->depth);
}

/* 1: taken in; 0: there is no room for another; -ENOMEM. */
static int append(struct ox_nbd_extents *extents, struct ox_nbd_extent extent)
{
	struct ox_nbd_extent *last = extents->count ? &extents->list[extents->count - 1] : NULL;

	if (last && is_like(extents, last, &extent)) {
		last->length += extent.length;
		return 1;
	}
	if (extents->count == extents->max)
		return 0;
	if (extents->count == extents->capacity) {
		size_t capacity = extents->capacity ? extents->capacity * 2 : 4;
		struct ox_nbd_extent *list = reallocarray(extents->list, capacity, sizeof(*list));

		if (!list)
			return -ENOMEM;
		extents->list = list;
		extents->capacity = capacity;
	}
	extents->list[extents->count++] = extent;
	return 1;
}

bool ox_nbd_extents_step(struct ox_nbd_request *request, int *ret_error)
{
	struct ox_nbd_extents *extents = &request->extents;
	const uint64_t left = extents->end - extents->position;
	uint64_t length = request->found.length < left ? request->found.length : left;
	int ret;

	assert(length > 0);
	ret = append(extents, (struct ox_nbd_extent){
				      .length = length,
				      .status = status_of(&request->found),
				      .depth = depth_of(&request->found),
			      });
	if (ret < 0) {
		*ret_error = ret;
		return true;
	}
	if (ret == 0)
		return true;
	extents->position += length;
	if (extents->position == extents->end || extents->looks_left == 0)
		return true;
	look(request);
	return false;
}
