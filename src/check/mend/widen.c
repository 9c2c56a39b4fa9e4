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

/* ---- whether ---- */

/* Of what overflows, and of copies that were not made for it. */
static uint64_t most_refs(const struct ox_mend *m)
{
	return ox_max_u64(m->g->most_refs, m->most_refs);
}

/* A cross-link is no obstacle where it waits for wider counts itself. */
bool ox_mend_is_narrow(const struct ox_mend *m)
{
	const struct ox_walk *w = m->w;
	uint64_t others = w->j->structural - w->j->seen[OX_FOUND_OVERFLOW];

	if (w->j->seen[OX_FOUND_OVERFLOW] == 0 && !m->narrow_copies)
		return false;
	if (w->v.h.version < 3 || w->v.is_foreign || most_refs(m) >= OX_COUNT_MAX)
		return false;
	return others == 0 || (m->narrow_copies && others == ox_seen_cross_links(w->j));
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
	struct ox_mend *m = arg;
	struct ox_walk *w = m->w;
	struct ox_cell cell = slot->cell;

	if (slot->stored <= cell.count || slot->cluster >= w->k.cells.limit)
		return 0;
	if (w->j->structural == w->j->seen[OX_FOUND_OVERFLOW] &&
	    !ox_mend_keeps_leak(m, slot->cluster, cell))
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
	if (slot->stored == slot->cell.count || ox_ledger_is_grown(&w->k, slot->cluster) ||
	    ox_cell_is_broken(slot->cell) || ox_ledger_overflows(&w->k, slot->cell))
		return 0;
	ox_journal_mended(w->j, slot->stored > slot->cell.count ? OX_FOUND_LEAK : OX_FOUND_TOO_LOW,
			  ox_slot_found(&w->k, slot));
	return 0;
}

/* What the new structure mends, by the old one. */
static int tell_co(struct ox_mend *m)
{
	struct ox_walk *w = m->w;
	struct ox_found what;

	for (uint64_t i = 0; i < m->g->suspects.count; i++) {
		if (ox_judge_overflow_of(m->g, i, &what))
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
static int plan_new(struct ox_mend *m, struct ox_plan *plan, bool *ret_fits)
{
	int r = ox_plan_make(m, plan);

	*ret_fits = r == 0 && plan->count > 0;
	return r == -ENOSPC ? 0 : r;
}

static int publish_co(struct ox_walk *w, const struct ox_plan *plan, const struct ox_refcounts *old)
{
	int r = uncount(w, old);

	if (r < 0)
		return r;
	/* All is new, and has been told of. */
	ox_ledger_note_grown(&w->k, 0, UINT64_MAX);
	return ox_mend_publish_counts_co(w, plan);
}

static struct ox_refcounts new_structure(const struct ox_mend *m)
{
	struct ox_qcow2_header h = m->w->v.h;

	h.refcount_order = order_for(most_refs(m));
	return (struct ox_refcounts){
		.order = h.refcount_order,
		.block_entries = ox_qcow2_refblock_entries(&h),
	};
}

static int renew_co(struct ox_mend *m, bool *ret_again)
{
	struct ox_walk *w = m->w;
	struct ox_refcounts other = new_structure(m);
	struct ox_plan plan = {0};
	bool fits;
	int r;

	ox_ledger_exchange(&w->k, &other);
	r = plan_new(m, &plan, &fits);
	ox_ledger_exchange(&w->k, &other);
	if (r == 0 && fits)
		r = tell_co(m);
	if (r == 0 && fits) {
		ox_ledger_exchange(&w->k, &other);
		r = publish_co(w, &plan, &other);
		*ret_again = r == 0;
	}
	ox_plan_free(&plan);
	ox_refcounts_free(&other);
	return r;
}

int ox_mend_width_co(struct ox_mend *m, bool *ret_again)
{
	struct ox_walk *w = m->w;
	uint64_t structural = w->j->structural;
	/* The file must not grow beneath an entry. */
	int r = ox_mend_drop_stale_co(m, ret_again);

	if (r == 0)
		r = ox_slots_co(&w->k, OX_SLOTS_ALL, keep_count, m);
	/* Unless a block or table could suddenly not be read. */
	return r == 0 && w->j->structural == structural ? renew_co(m, ret_again) : r;
}
