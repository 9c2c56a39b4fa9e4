/* SPDX-License-Identifier: MIT */
#include "job/walk.h"

#include "base/arith.h"
#include "base/assert.h"

#define LOOKS_MAX 256u

static bool holds(const struct ox_extent *e, uint64_t offset)
{
	return offset >= e->offset && offset - e->offset < e->length;
}

/* The extent at offset, where it was seen already. */
static const struct ox_extent *seen_at(struct ox_walk *w, uint64_t offset)
{
	while (w->next < w->count && offset >= w->seen[w->next].offset) {
		if (holds(&w->seen[w->next], offset))
			return &w->seen[w->next];
		w->next++;
	}
	return NULL;
}

static int ask_co(struct ox_walk *w, uint64_t offset)
{
	uint64_t length = w->image->size_bytes - offset;
	int r;

	w->next = 0;
	w->count = 0;
	if (w->as_told) {
		r = ox_img_extent_co(w->image, offset, length, w->seen);
		r = r < 0 ? r : 1;
	} else {
		r = ox_img_extents_co(w->image, offset, length, w->seen, OX_WALK_AHEAD);
	}
	if (r > 0)
		w->count = r;
	return r;
}

static int look_co(struct ox_walk *w, uint64_t offset, uint64_t most, uint64_t *ret_length,
		   unsigned *ret_flags)
{
	const struct ox_extent *e;
	int r;

	if (offset >= w->image->size_bytes) {
		*ret_length = most;
		*ret_flags = OX_EXTENT_ZERO & w->kinds;
		return 0;
	}
	e = seen_at(w, offset);
	if (!e) {
		r = ask_co(w, offset);
		if (r < 0)
			return r;
		e = &w->seen[0];
	}
	*ret_length = ox_min_u64(e->offset + e->length - offset, most);
	*ret_flags = e->flags & w->kinds;
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
