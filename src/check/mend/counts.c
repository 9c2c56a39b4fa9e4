/* SPDX-License-Identifier: MIT */
/*
 * Counts, and COPIED bits, made right in the order that docs/check.md gives: at every instant each
 * count on disk is at least its durable references (D3), so that a crash leaves work for the same
 * repair and nothing else (D9).
 */
#include "base/arith.h"
#include "check/mend/mend.h"

static int raise_slot(void *arg, struct ox_slot *slot)
{
	struct ox_walk *w = arg;
	uint64_t count = slot->cell.count;

	if (!slot->block || ox_cell_is_broken(slot->cell) || slot->stored >= count ||
	    ox_ledger_overflows(&w->k, slot->cell))
		return 0;
	if (!ox_ledger_is_grown(&w->k, slot->cluster))
		ox_journal_mended(w->j, OX_FOUND_TOO_LOW, ox_slot_found(&w->k, slot));
	ox_slot_set(&w->k, slot, slot->cell.count);
	return 0;
}

/* What was lost may be in a cluster that nobody names. */
bool ox_mend_keeps_leak(const struct ox_mend *m, uint64_t cluster, struct ox_cell cell)
{
	return (m->lost > 0 && cell.state == OX_CELL_NONE && cluster < m->w->v.file_clusters) ||
	       ox_keeper_keeps_count(m->keeper, cluster);
}

static int lower_slot(void *arg, struct ox_slot *slot)
{
	struct ox_mend *m = arg;
	struct ox_walk *w = m->w;
	if (ox_mend_keeps_leak(m, slot->cluster, slot->cell))
		return 0;
	if (!slot->block || ox_cell_is_broken(slot->cell) || slot->stored <= slot->cell.count)
		return 0;
	ox_journal_mended(w->j, OX_FOUND_LEAK, ox_slot_found(&w->k, slot));
	ox_slot_set(&w->k, slot, slot->cell.count);
	return 0;
}

/* ---- steps ---- */

int ox_mend_raise_counts_co(struct ox_walk *w)
{
	int r = ox_slots_co(&w->k, OX_SLOTS_RAISE, raise_slot, w);

	return r < 0 ? r : ox_io_sync_co(w->v.io);
}

int ox_mend_publish_counts_co(struct ox_walk *w, const struct ox_plan *plan)
{
	int r = ox_plan_write_co(w, plan);

	if (r == 0)
		r = ox_mend_raise_counts_co(w);
	if (r == 0 && (w->j->structural == 0 || plan->count > 0))
		r = ox_plan_link_co(w, plan);
	return r;
}

/* While something could not be followed, no block is made anew: what it would not
 * count would be free, and what lies past the end would come to be in the file. */
int ox_mend_raise_and_link_co(struct ox_mend *m, bool *ret_again)
{
	struct ox_walk *w = m->w;
	struct ox_plan plan = {0};
	int r = w->j->structural == 0 ? ox_plan_make(m, &plan) : 0;

	(void)ret_again;
	if (r == 0)
		r = ox_mend_publish_counts_co(w, &plan);
	ox_plan_free(&plan);
	return r;
}

bool ox_mend_copied_is_due(const struct ox_mend *m)
{
	const struct ox_walk *w = m->w;
	bool all = m->repair == OX_REPAIR_ALL;

	return (all || w->j->structural == 0) &&
	       (m->g->copied_to_fix > 0 || (all && w->compressed_copied + w->k.broken_blocks > 0));
}

int ox_mend_copied_co(struct ox_mend *m, bool *ret_again)
{
	enum ox_copied how = m->repair == OX_REPAIR_ALL ? OX_COPIED_FIX : OX_COPIED_FIX_LEAKS;
	int r = ox_judge_copied_co(m->w, how, m->keeper);

	(void)ret_again;
	return r < 0 ? r : ox_io_sync_co(m->w->v.io);
}

int ox_mend_lower_co(struct ox_mend *m, bool *ret_again)
{
	int r = ox_slots_co(&m->w->k, OX_SLOTS_LOWER, lower_slot, m);

	(void)ret_again;
	return r < 0 ? r : ox_io_sync_co(m->w->v.io);
}

int ox_mend_write_counts_co(struct ox_mend *m)
{
	struct ox_walk *w = m->w;
	int r = ox_slots_co(&w->k, OX_SLOTS_RAISE, raise_slot, w);

	return r == 0 ? ox_slots_co(&w->k, OX_SLOTS_LOWER, lower_slot, m) : r;
}
