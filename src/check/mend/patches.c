/* SPDX-License-Identifier: MIT */
/*
 * Fields of the first cluster that are wrong, and of which the rest of the image tells what they
 * were. Each is a few bytes within one sector (M2), found again by the next check where a crash
 * left it.
 */
#include <string.h>

#include "base/arith.h"
#include "check/walk/walk.h"

#define SECTOR_BYTES 512u

static int apply_one_co(struct ox_walk *w, const struct ox_view_patch *p)
{
	uint64_t start = ox_align_down(p->offset, SECTOR_BYTES);
	uint8_t sector[SECTOR_BYTES];
	int r = ox_io_pread_co(w->v.io, sector, sizeof(sector), start);

	if (r < 0)
		return r;
	memcpy(sector + (p->offset - start), p->bytes, p->size);
	r = ox_io_pwrite_co(w->v.io, sector, sizeof(sector), start, 0);
	if (r == 0) {
		ox_journal_mended(w->j, p->id, ox_view_patch_found(p));
		w->lost += p->what.loses;
	}
	return r;
}

int ox_walk_apply_patches_co(struct ox_walk *w)
{
	int r = 0;

	for (size_t i = 0; i < w->v.patch_count && r == 0; i++)
		r = apply_one_co(w, &w->v.patches[i]);
	return r == 0 ? ox_io_sync_co(w->v.io) : r;
}
