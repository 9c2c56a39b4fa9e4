/* SPDX-License-Identifier: MIT */
/*
 * The writes of a repair, in the order that docs/check.md gives: at every instant each count on
 * disk is at least its durable references (D3), so that a crash leaves work for the same repair
 * and nothing else (D9).
 */
#include <errno.h>
#include <string.h>

#include "base/arith.h"
#include "check/walk/walk.h"

/* ---- before ---- */

int ox_walk_settle_co(const struct ox_walk *w, struct ox_io *io, struct ox_error **err)
{
	int r = w->repair != OX_REPAIR_NONE && !io->read_only ? ox_io_sync_co(io) : 0;

	return r < 0 ? ox_error_set_errno(err, r, "Could not sync '%s'", io->name) : 0;
}

/* ---- header ---- */

int ox_walk_write_header_co(struct ox_walk *w, const struct ox_qcow2_header *h)
{
	uint8_t sector[512];
	int r = ox_io_pread_co(w->v.io, sector, sizeof(sector), 0);

	if (r < 0)
		return r;
	ox_qcow2_header_encode(h, sector);
	r = ox_io_pwrite_co(w->v.io, sector, sizeof(sector), 0, 0);
	return r < 0 ? r : ox_io_sync_co(w->v.io);
}

/* A fence goes before the dirty bit does; without its length it is none. */
static int remove_fence_co(struct ox_walk *w)
{
	uint64_t start = ox_align_down(w->v.list_end_offset, 512);
	uint8_t fence[OX_QCOW2_FENCE_BYTES];
	uint8_t sector[512];
	int r = ox_io_pread_co(w->v.io, sector, sizeof(sector), start);

	if (r < 0)
		return r;
	ox_qcow2_fence_encode(0, fence);
	memcpy(sector + (w->v.list_end_offset - start), fence, 8);
	r = ox_io_pwrite_co(w->v.io, sector, sizeof(sector), start, 0);
	return r < 0 ? r : ox_io_sync_co(w->v.io);
}

int ox_walk_clear_bits_co(struct ox_walk *w, uint64_t bits)
{
	struct ox_qcow2_header h = w->v.h;
	int r = w->v.has_fence ? remove_fence_co(w) : 0;

	h.incompatible &= ~bits;
	return r == 0 ? ox_walk_write_header_co(w, &h) : r;
}

/* ---- counts ---- */

static int raise_slot(void *arg, struct ox_slot *slot)
{
	struct ox_walk *w = arg;
	uint64_t count = slot->cell.count;

	if (!slot->block || ox_cell_is_broken(slot->cell) || slot->stored >= count ||
	    ox_ledger_overflows(&w->k, slot->cell))
		return 0;
	if (!ox_ledger_is_grown(&w->k, slot->cluster))
		ox_journal_mended(w->j, OX_FOUND_TOO_LOW,
				  OX_FOUND(.a = slot->cluster, .b = slot->stored, .c = count,
					   .host_offset = slot->cluster * w->v.cluster_bytes));
	ox_slot_set(&w->k, slot, slot->cell.count);
	return 0;
}

/* What was lost may be in a cluster that nobody names. */
bool ox_walk_keeps_leak(const struct ox_walk *w, uint64_t cluster, struct ox_cell cell)
{
	return (w->lost > 0 && cell.state == OX_CELL_NONE && cluster < w->v.file_clusters) ||
	       ox_salvage_keeps_count(w, cluster);
}

static int lower_slot(void *arg, struct ox_slot *slot)
{
	struct ox_walk *w = arg;
	if (ox_walk_keeps_leak(w, slot->cluster, slot->cell))
		return 0;
	if (!slot->block || ox_cell_is_broken(slot->cell) || slot->stored <= slot->cell.count)
		return 0;
	ox_journal_mended(w->j, OX_FOUND_LEAK,
			  OX_FOUND(.a = slot->cluster, .b = slot->stored, .c = slot->cell.count,
				   .host_offset = slot->cluster * w->v.cluster_bytes));
	ox_slot_set(&w->k, slot, slot->cell.count);
	return 0;
}

/* ---- steps ---- */

static int drop_co(struct ox_walk *w)
{
	int r = w->stale > 0 ? ox_walk_drop_stale_co(w) : 0;

	return r == 0 && w->stale > 0 ? ox_io_sync_co(w->v.io) : r;
}

int ox_walk_raise_counts_co(struct ox_walk *w)
{
	int r = ox_slots_co(&w->k, OX_SLOTS_RAISE, raise_slot, w);

	return r < 0 ? r : ox_io_sync_co(w->v.io);
}

int ox_walk_publish_counts_co(struct ox_walk *w, const struct ox_walk_plan *plan)
{
	int r = ox_walk_write_blocks_co(w, plan);

	if (r == 0)
		r = ox_walk_raise_counts_co(w);
	if (r == 0 && (w->j->structural == 0 || plan->count > 0))
		r = ox_walk_link_blocks_co(w, plan);
	return r;
}

/* Steps 2 and 3. While something could not be followed, no block is made anew: what it would not
 * count would be free, and what lies past the end would come to be in the file. */
static int raise_and_link_co(struct ox_walk *w)
{
	struct ox_walk_plan plan = {0};
	int r = w->j->structural == 0 ? ox_walk_plan_blocks(w, &plan) : 0;

	if (r == 0)
		r = ox_walk_publish_counts_co(w, &plan);
	ox_walk_plan_free(&plan);
	return r;
}

static int copied_co(struct ox_walk *w)
{
	bool all = w->repair == OX_REPAIR_ALL;
	int r;

	if (w->copied_to_fix == 0 && (!all || w->compressed_copied + w->k.broken_blocks == 0))
		return 0;
	r = ox_walk_copied_co(w, all ? OX_COPIED_FIX : OX_COPIED_FIX_LEAKS);
	return r < 0 ? r : ox_io_sync_co(w->v.io);
}

static int lower_co(struct ox_walk *w)
{
	int r = ox_slots_co(&w->k, OX_SLOTS_LOWER, lower_slot, w);

	return r < 0 ? r : ox_io_sync_co(w->v.io);
}

int ox_walk_write_counts_co(struct ox_walk *w)
{
	int r = ox_slots_co(&w->k, OX_SLOTS_RAISE, raise_slot, w);

	return r == 0 ? ox_slots_co(&w->k, OX_SLOTS_LOWER, lower_slot, w) : r;
}

int ox_walk_repair_co(struct ox_walk *w)
{
	int r = 0;

	if (w->v.io->read_only)
		return -EROFS;
	/* What an unknown feature means for the tables is not known either. */
	if (w->v.is_foreign)
		return 0;
	if (w->repair == OX_REPAIR_ALL) {
		r = drop_co(w);
		if (r == 0)
			r = raise_and_link_co(w);
	}
	if (r == 0 && (w->repair == OX_REPAIR_ALL || w->j->structural == 0))
		r = copied_co(w);
	/* What a structural finding should have named looks like a leak. */
	if (r == 0 && w->j->structural == 0)
		r = lower_co(w);
	return r;
}
