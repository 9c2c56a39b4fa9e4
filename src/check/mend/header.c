/* SPDX-License-Identifier: MIT */
/*
 * Writes of a few bytes within one sector, which is old or new after a crash (M2): fields of the
 * header, and of what stands behind it in its cluster.
 */
#include "check/drive/drive.h"
#include "check/mend/mend.h"

#define SECTOR_BYTES 512u

/* ---- the header ---- */

int ox_mend_write_header_co(struct ox_io *io, const struct ox_qcow2_header *h)
{
	uint8_t sector[SECTOR_BYTES];
	int r = ox_io_pread_co(io, sector, sizeof(sector), 0);

	if (r < 0)
		return r;
	ox_qcow2_header_encode(h, sector);
	r = ox_io_pwrite_co(io, sector, sizeof(sector), 0, 0);
	return r < 0 ? r : ox_io_sync_co(io);
}

/* A fence goes before the dirty bit does; without its length it is none. */
static int remove_fence_co(const struct ox_view *v)
{
	uint8_t fence[OX_QCOW2_FENCE_BYTES];
	int r;

	ox_qcow2_fence_encode(0, fence);
	r = ox_drive_write_within_sector_co(v->io, v->list_end_offset, fence, 8);
	return r < 0 ? r : ox_io_sync_co(v->io);
}

int ox_mend_clear_bits_co(const struct ox_view *v, uint64_t bits)
{
	struct ox_qcow2_header h = v->h;
	int r = v->has_fence ? remove_fence_co(v) : 0;

	h.incompatible &= ~bits;
	return r == 0 ? ox_mend_write_header_co(v->io, &h) : r;
}

/* ---- patches: what the rest of the image tells ---- */

/* Each is found again by the next check where a crash left it. */
int ox_mend_apply_patches_co(struct ox_mend *m, bool *ret_again)
{
	const struct ox_view *v = &m->w->v;
	*ret_again = true;
	for (size_t i = 0; i < v->patch_count; i++) {
		const struct ox_view_patch *p = &v->patches[i];
		int r = ox_drive_write_within_sector_co(v->io, p->offset, p->bytes, p->size);
		if (r < 0)
			return r;
		ox_journal_mended(v->j, p->id, ox_view_patch_found(p));
		m->dropped += p->what.loses;
	}
	return ox_io_sync_co(v->io);
}
