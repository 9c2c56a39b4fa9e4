/* SPDX-License-Identifier: MIT */
/*
 * Counts that are too narrow for what is named: the whole refcount structure anew, with wider ones.
 * The old one stays as it is until one sector of the header leads to the new one (H7, H9), which
 * does not count it: so nothing is left of it but free clusters. A crash before that sector leaves
 * the old structure, and clusters that nobody counts or names.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "check/mend/mend.h"
#include "check/mend/seen.h"

/* ---- whether ---- */

/* A cross-link is no obstacle where it waits for wider counts itself. */
static bool is_due(const struct ox_walk *w)
{
	uint64_t others = w->j->structural - w->j->seen[OX_FOUND_OVERFLOW];

	if (w->j->seen[OX_FOUND_OVERFLOW] == 0 && !w->narrow_copies)
		return false;
	if (w->v.h.version < 3 || w->v.is_foreign || w->most_refs >= OX_COUNT_MAX)
		return false;
	return others == 0 || (w->narrow_copies && others == ox_seen_cross_links(w->j));
}

static unsigned order_for(uint64_t count)
{
	unsigned order = 0;

	while (ox_qcow2_refcount_max(order) < count)
		order++;
	return order;
}

/* ---- what stays as it is ---- */

/* What is not to be lowered is kept as if it were named so often. */
static int keep_count(void *arg, struct ox_slot *slot)
{
	struct ox_walk *w = arg;
	struct ox_cell cell = slot->cell;

	if (slot->stored <= cell.count || slot->cluster >= w->k.cells.limit)
		return 0;
	if (w->j->structural == w->j->seen[OX_FOUND_OVERFLOW] &&
	    !ox_walk_keeps_leak(w, slot->cluster, cell))
		return 0;
	if (cell.state == OX_CELL_NONE)
		cell.state = OX_CELL_META;
	cell.count = (uint32_t)ox_min_u64(slot->stored, OX_COUNT_MAX);
	return ox_counts_set(&w->k.cells, slot->cluster, cell);
}

/* ---- telling ---- */

static int tell_slot(void *arg, struct ox_slot *slot)
{
	struct ox_walk *w = arg;
	struct ox_found what = {
		.a = slot->cluster,
		.b = slot->stored,
		.c = slot->cell.count,
		.host_offset = slot->cluster * w->v.cluster_bytes,
	};

	if (slot->stored == slot->cell.count || ox_ledger_is_grown(&w->k, slot->cluster) ||
	    ox_cell_is_broken(slot->cell) || ox_ledger_overflows(&w->k, slot->cell))
		return 0;
	ox_journal_mended(w->j, slot->stored > slot->cell.count ? OX_FOUND_LEAK : OX_FOUND_TOO_LOW,
			  what);
	return 0;
}

/* What the new structure mends, by the old one. */
static int tell_co(struct ox_walk *w)
{
	struct ox_found what;

	for (uint64_t i = 0; i < w->suspect_count; i++) {
		if (ox_walk_overflow_of(w, i, &what))
			ox_journal_mended(w->j, OX_FOUND_OVERFLOW, what);
	}
	for (uint64_t i = 0; i < w->k.rc.index_count; i++) {
		if (w->k.rc.blocks[i].state == OX_BLOCK_BROKEN)
			ox_journal_mended(w->j, (enum ox_finding_id)w->k.rc.blocks[i].found,
					  OX_FOUND(.a = i, .b = ox_ledger_block_offset(&w->k, i)));
	}
	return ox_slots_co(&w->k, OX_SLOTS_ALL, tell_slot, w);
}

/* ---- the new structure ---- */

/* Its clusters are the old one's alone: nothing that overlaps is left where this is done. */
static int uncount(struct ox_walk *w, const struct ox_refcounts *old)
{
	uint64_t table = old->offset / w->v.cluster_bytes;
	int r = 0;

	for (uint64_t i = 0; i < old->clusters && r == 0; i++)
		r = ox_counts_set(&w->k.cells, table + i, (struct ox_cell){0});
	for (uint64_t i = 0; i < old->index_count && r == 0; i++) {
		if (old->blocks[i].state == OX_BLOCK_SOUND)
			r = ox_counts_set(&w->k.cells,
					  ox_be64_get(old->table[i]) / w->v.cluster_bytes,
					  (struct ox_cell){0});
	}
	return r;
}

/* Past the end of everything; on a store that cannot grow, between what is in use, the old
 * structure too. *ret_fits: there is room. */
static int plan_new(struct ox_walk *w, struct ox_walk_plan *plan, bool *ret_fits)
{
	int r = ox_walk_plan_blocks(w, plan);

	*ret_fits = r == 0 && plan->count > 0;
	return r == -ENOSPC ? 0 : r;
}

static int publish_co(struct ox_walk *w, const struct ox_walk_plan *plan,
		      const struct ox_refcounts *old)
{
	int r = uncount(w, old);

	if (r < 0)
		return r;
	/* All is new, and has been told of. */
	ox_ledger_note_grown(&w->k, 0, UINT64_MAX);
	return ox_walk_publish_counts_co(w, plan);
}

static struct ox_refcounts new_structure(const struct ox_walk *w)
{
	struct ox_qcow2_header h = w->v.h;

	h.refcount_order = order_for(w->most_refs);
	return (struct ox_refcounts){
		.order = h.refcount_order,
		.block_entries = ox_qcow2_refblock_entries(&h),
	};
}

static int renew_co(struct ox_walk *w, bool *ret_again)
{
	struct ox_refcounts other = new_structure(w);
	struct ox_walk_plan plan = {0};
	bool fits;
	int r;

	ox_ledger_exchange(&w->k, &other);
	r = plan_new(w, &plan, &fits);
	ox_ledger_exchange(&w->k, &other);
	if (r == 0 && fits)
		r = tell_co(w);
	if (r == 0 && fits) {
		ox_ledger_exchange(&w->k, &other);
		r = publish_co(w, &plan, &other);
		*ret_again = r == 0;
	}
	ox_walk_plan_free(&plan);
	ox_refcounts_free(&other);
	return r;
}

int ox_mend_width_co(struct ox_walk *w, bool *ret_again)
{
	uint64_t structural = w->j->structural;
	int r = 0;

	if (!is_due(w))
		return 0;
	/* The file must not grow beneath an entry. */
	if (w->stale > 0) {
		r = ox_walk_drop_stale_co(w);
		if (r == 0)
			r = ox_io_sync_co(w->v.io);
		w->stale = 0;
	}
	if (r == 0)
		r = ox_slots_co(&w->k, OX_SLOTS_ALL, keep_count, w);
	/* Unless a block or table could suddenly not be read. */
	return r == 0 && w->j->structural == structural ? renew_co(w, ret_again) : r;
}
