/* SPDX-License-Identifier: MIT */
/* Several images as one range of bytes. */
#include <errno.h>

#include "base/arith.h"
#include "base/assert.h"
#include "job/copy.h"
#include "rt/co.h"

/* The part of one image that lies at an offset of the whole. */
struct part {
	struct ox_image *image;
	uint64_t offset; /* in the image */
	uint64_t length; /* to its end */
};

static struct ox_image *image_at(const struct ox_joined *j, size_t i)
{
	return i == 0 ? j->first : j->more[i - 1];
}

uint64_t ox_joined_all_bytes(const struct ox_joined *j)
{
	uint64_t sum = 0;

	for (size_t i = 0; i <= j->more_count; i++)
		sum += image_at(j, i)->size_bytes;
	return sum;
}

uint64_t ox_joined_bytes(const struct ox_joined *j)
{
	return j->length ? j->length : ox_joined_all_bytes(j) - j->offset;
}

static struct part part_at(const struct ox_joined *j, uint64_t offset)
{
	offset += j->offset;
	for (size_t i = 0; i <= j->more_count; i++) {
		struct ox_image *image = image_at(j, i);

		if (offset < image->size_bytes)
			return (struct part){image, offset, image->size_bytes - offset};
		offset -= image->size_bytes;
	}
	ox_assert(false && "past the end of the sources");
	return (struct part){0};
}

static enum ox_joined_kind kind_of(const struct ox_extent *e, bool top_only)
{
	if (top_only && e->depth > 0)
		return OX_JOINED_BELOW;
	return e->flags & OX_EXTENT_ZERO ? OX_JOINED_ZERO : OX_JOINED_DATA;
}

/* The extent that was read ahead, from offset on; NULL: there is none. */
static const struct ox_extent *known(struct ox_joined_ahead *ahead, const struct part *part)
{
	if (ahead->image != part->image)
		return NULL;
	while (ahead->next < ahead->count) {
		const struct ox_extent *e = &ahead->extents[ahead->next];

		if (part->offset < e->offset)
			return NULL;
		if (part->offset - e->offset < e->length)
			return e;
		ahead->next++;
	}
	return NULL;
}

static int look_co(const struct ox_joined *j, struct ox_joined_ahead *ahead, uint64_t offset,
		   uint64_t limit, bool top_only, struct ox_joined_extent *ret)
{
	struct part part = part_at(j, offset);
	const struct ox_extent *e = known(ahead, &part);
	int r;

	if (!e) {
		ahead->image = NULL;
		r = ox_img_extents_co(part.image, part.offset, part.length, ahead->extents,
				      OX_JOINED_AHEAD);
		if (r < 0)
			return r;
		ahead->image = part.image;
		ahead->count = r;
		ahead->next = 0;
		e = &ahead->extents[0];
	}
	*ret = (struct ox_joined_extent){kind_of(e, top_only),
					 ox_min_u64(limit, e->offset + e->length - part.offset)};
	return 0;
}

int ox_joined_extent_co(const struct ox_joined *j, struct ox_joined_ahead *ahead, uint64_t offset,
			uint64_t limit, bool top_only, struct ox_joined_extent *ret)
{
	struct ox_joined_extent sum;
	struct ox_joined_extent next;
	int r = look_co(j, ahead, offset, limit, top_only, &sum);

	while (r == 0 && sum.length < limit && !ox_co_is_cancelled()) {
		r = look_co(j, ahead, offset + sum.length, limit - sum.length, top_only, &next);
		if (r < 0 || next.kind != sum.kind) {
			r = 0; /* whoever comes there gets the error */
			break;
		}
		sum.length += next.length;
	}
	if (r == 0)
		*ret = sum;
	return r;
}

int ox_joined_read_co(const struct ox_joined *j, uint8_t *buf, uint64_t length, uint64_t offset)
{
	while (length > 0) {
		struct part part = part_at(j, offset);
		struct iovec v = {buf, ox_min_u64(length, part.length)};
		int r = ox_img_preadv_co(part.image, &v, 1, part.offset);

		if (r < 0)
			return r;
		buf += v.iov_len;
		offset += v.iov_len;
		length -= v.iov_len;
	}
	return 0;
}
