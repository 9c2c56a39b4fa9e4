/* SPDX-License-Identifier: MIT */
/*
 * Fields of the first cluster that are wrong, and of which the rest of the image tells what they
 * were. Each is a few bytes within one sector (M2), found again by the next check where a crash
 * left it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/assert.h"
#include "check/walk/walk.h"

#define SECTOR_BYTES 512u

static struct ox_found found_of(const struct ox_walk_patch *p)
{
	struct ox_found what = p->what;

	what.word = p->word;
	what.is_told = true;
	return what;
}

/* NULL: there are too many, or there is no memory. */
static struct ox_walk_patch *new_patch(struct ox_walk *w)
{
	if (w->patch_count == w->patch_room) {
		size_t room = w->patch_room ? 2 * w->patch_room : 8;
		struct ox_walk_patch *more;

		if (room > OX_WALK_MAX_PATCHES)
			return NULL;
		more = reallocarray(w->patches, room, sizeof(*more));
		if (!more)
			return NULL;
		w->patches = more;
		w->patch_room = room;
	}
	return &w->patches[w->patch_count++];
}

void ox_walk_patch(struct ox_walk *w, enum ox_finding_id id, struct ox_found what, uint64_t offset,
		   const void *bytes, size_t size)
{
	struct ox_walk_patch *p = new_patch(w);

	if (!p) {
		ox_walk_found(w, id, what);
		return;
	}
	ox_assert(size <= sizeof(p->bytes) && offset % SECTOR_BYTES + size <= SECTOR_BYTES);
	p->id = id;
	p->offset = offset;
	p->size = size;
	p->what = what;
	memcpy(p->bytes, bytes, size);
	snprintf(p->word, sizeof(p->word), "%s", what.word ? what.word : "");
	ox_walk_found(w, id, found_of(p));
}

static int apply_one_co(struct ox_walk *w, const struct ox_walk_patch *p)
{
	uint64_t start = ox_align_down(p->offset, SECTOR_BYTES);
	uint8_t sector[SECTOR_BYTES];
	int r = ox_io_pread_co(w->io, sector, sizeof(sector), start);

	if (r < 0)
		return r;
	memcpy(sector + (p->offset - start), p->bytes, p->size);
	r = ox_io_pwrite_co(w->io, sector, sizeof(sector), start, 0);
	if (r == 0) {
		ox_walk_mended(w, p->id, found_of(p));
		w->lost += p->what.loses;
	}
	return r;
}

int ox_walk_apply_patches_co(struct ox_walk *w)
{
	int r = 0;

	for (size_t i = 0; i < w->patch_count && r == 0; i++)
		r = apply_one_co(w, &w->patches[i]);
	return r == 0 ? ox_io_sync_co(w->io) : r;
}
