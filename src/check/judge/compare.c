/* SPDX-License-Identifier: MIT */
/* Stored refcounts against counted references. */
#include "check/judge/judge.h"

#include <stdlib.h>

#include "base/arith.h"

/* How many COPIED flags of a cell are wrong if its refcount is count. */
static bool copied_is_wrong(struct ox_cell cell, uint64_t count)
{
	unsigned active = ox_cell_active(cell);

	return ((active & OX_CELL_COPIED) && count != 1) ||
	       ((active & OX_CELL_PLAIN) && count == 1);
}

static void mark_block(struct ox_walk *w, const struct ox_slot *slot)
{
	if (slot->block)
		ox_ledger_mark(&w->k, slot->cluster,
			       slot->stored<slot->cell.count, slot->stored> slot->cell.count);
}

/* Whether what names a cluster may not all mean it: its count, or a COPIED bit, says otherwise; or,
 * where something else cannot be followed, a reference is missing that the count still holds. */
static bool is_suspect(const struct ox_judge *g, const struct ox_slot *slot)
{
	struct ox_cell cell = slot->cell;

	if (cell.count < 2 || cell.state < OX_CELL_L2)
		return false;
	return slot->stored != cell.count || (ox_cell_active(cell) & OX_CELL_COPIED) ||
	       g->w->v.j->structural > 0 || g->lacks_entries;
}

static int compare_slot(void *arg, struct ox_slot *slot)
{
	struct ox_judge *g = arg;
	struct ox_walk *w = g->w;
	struct ox_cell cell = slot->cell;

	if (slot->cluster < w->v.file_clusters)
		g->stored_end = ox_max_u64(g->stored_end, slot->cluster + 1);
	if (ox_cell_is_broken(cell))
		return 0;
	if (ox_ledger_overflows(&w->k, cell)) {
		g->copied_wrong += copied_is_wrong(cell, cell.count);
		g->copied_to_fix += copied_is_wrong(cell, cell.count);
		return ox_clusters_add(&g->suspects, slot->cluster);
	}
	g->copied_wrong += copied_is_wrong(cell, slot->stored);
	g->copied_to_fix += copied_is_wrong(cell, cell.count);
	if (slot->stored != cell.count ||
	    (cell.count > 1 && (ox_cell_active(cell) & OX_CELL_COPIED)))
		mark_block(w, slot);
	g->leaks += slot->stored > cell.count;
	g->too_low += slot->stored < cell.count;
	return is_suspect(g, slot) ? ox_clusters_add(&g->suspects, slot->cluster) : 0;
}

/* A block that is made anew will hold the counted ones. */
static int compare_broken(struct ox_judge *g, uint64_t index)
{
	struct ox_walk *w = g->w;
	uint64_t c = index * w->k.rc.block_entries;
	uint64_t end = c + w->k.rc.block_entries;
	int r = 0;

	for (; r == 0 && (c = ox_counts_next(&w->k.cells, c, end)) < end; c++) {
		struct ox_slot slot = {.cluster = c, .cell = ox_counts_get(&w->k.cells, c)};

		slot.stored = slot.cell.count;
		r = compare_slot(g, &slot);
	}
	return r;
}

int ox_judge_compare_co(struct ox_judge *g)
{
	struct ox_walk *w = g->w;
	int r = ox_slots_compare_co(&w->k, compare_slot, g);

	for (uint64_t i = 0; r == 0 && i < w->k.rc.index_count; i++) {
		if (w->k.rc.blocks[i].state == OX_BLOCK_BROKEN)
			r = compare_broken(g, i);
	}
	g->stored_end = ox_max_u64(g->stored_end, w->k.cells.end);
	return r;
}

/* Whether a cluster is counted that the file does not have, though it names more of the kind: then
 * it had it. */
static bool is_cut_off(const struct ox_walk *w, const struct ox_slot *slot)
{
	return slot->cluster >= w->v.file_clusters && slot->cell.count == 0 &&
	       w->j->seen[OX_FOUND_TABLE_CUT] + w->j->seen[OX_FOUND_PAST_END] > 0;
}

static int report_slot(void *arg, struct ox_slot *slot)
{
	struct ox_judge *g = arg;
	struct ox_walk *w = g->w;

	if (ox_cell_is_broken(slot->cell) || slot->stored == slot->cell.count ||
	    ox_ledger_overflows(&w->k, slot->cell))
		return 0;
	if (is_cut_off(w, slot)) {
		g->cut_off++;
		return 0;
	}
	ox_journal_found(w->j, slot->stored > slot->cell.count ? OX_FOUND_LEAK : OX_FOUND_TOO_LOW,
			 ox_slot_found(&w->k, slot));
	return 0;
}

int ox_judge_report_co(struct ox_judge *g)
{
	struct ox_walk *w = g->w;
	int r = 0;

	if (g->leaks + g->too_low > 0)
		r = ox_slots_co(&w->k, OX_SLOTS_ALL, report_slot, g);
	ox_journal_tell_run(w->j);
	if (g->cut_off > 0)
		ox_journal_found(w->j, OX_FOUND_FILE_CUT,
				 OX_FOUND(.a = g->cut_off, .b = w->v.file_bytes));
	if (r == 0 && g->copied_wrong > 0)
		r = ox_judge_copied_co(w, OX_COPIED_REPORT, NULL);
	return r;
}

void ox_judge_close(struct ox_judge *g)
{
	ox_clusters_free(&g->suspects);
	free(g->reaches);
}

bool ox_judge_is_clean(const struct ox_judge *g)
{
	const struct ox_journal *j = g->w->j;

	return j->totals.corruptions == 0 && j->totals.leaks == 0 && j->totals.check_errors == 0 &&
	       j->structural == 0 && g->leaks == 0 && g->too_low == 0 && g->copied_wrong == 0;
}
