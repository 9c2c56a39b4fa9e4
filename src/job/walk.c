/* SPDX-License-Identifier: MIT */
#include "job/walk.h"

#include "base/arith.h"
#include "base/assert.h"

#define LOOKS_MAX 256u

/* Within what was seen, or by another look. */
static int look_co(struct ox_walk *w, uint64_t offset, uint64_t most, uint64_t *ret_length,
		   unsigned *ret_flags)
{
	uint64_t size = w->image->size_bytes;
	int r;

	if (offset >= size) {
		*ret_length = most;
		*ret_flags = OX_EXTENT_ZERO & w->kinds;
		return 0;
	}
	if (offset < w->seen.offset || offset >= w->seen.offset + w->seen.length) {
		most = ox_min_u64(most, size - offset);
		r = w->as_told ? ox_img_extent_co(w->image, offset, most, &w->seen)
			       : ox_img_holes_co(w->image, offset, most, &w->seen);
		if (r < 0) {
			w->seen.length = 0;
			return r;
		}
	}
	*ret_length = ox_min_u64(w->seen.offset + w->seen.length - offset, most);
	*ret_flags = w->seen.flags & w->kinds;
	return 0;
}

int ox_walk_at_co(struct ox_walk *w, uint64_t offset, uint64_t most, uint64_t *ret_length,
		  unsigned *ret_flags)
{
	uint64_t length;
	uint64_t more;
	unsigned flags;
	unsigned next;
	int r;

	ox_assert(most > 0);
	r = look_co(w, offset, most, &length, &flags);
	if (r < 0)
		return r;
	for (unsigned i = 1; i < LOOKS_MAX && length < most; i++) {
		/* An error is told to who asks for that place. */
		r = look_co(w, offset + length, most - length, &more, &next);
		if (r < 0 || next != flags)
			break;
		length += more;
	}
	*ret_length = length;
	*ret_flags = flags;
	return 0;
}
