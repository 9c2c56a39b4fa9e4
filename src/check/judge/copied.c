/* SPDX-License-Identifier: MIT */
/* COPIED bits of the active tables: told, or put right for a repair. */
#include "base/arith.h"
#include "check/judge/judge.h"
#include "check/ledger/stored.h"

struct pass {
	struct ox_walk *w;
	enum ox_copied how;
	const struct ox_keeper *keeper;
	struct ox_stored cache;
};

/* Raises what was counted to a count that is not lowered: what it is kept for may be linked yet. */
static int keep_count_co(struct pass *p, uint64_t cluster, uint64_t *count)
{
	uint64_t stored = 0;
	int r;

	if (!ox_keeper_keeps_count(p->keeper, cluster))
		return 0;
	r = ox_stored_count_co(&p->w->k, &p->cache, cluster, &stored);
	if (r > 0)
		*count = ox_max_u64(*count, stored);
	return r < 0 ? r : 0;
}

/*
 * 1 if an entry's COPIED bit is to be flipped (or, REPORT, is wrong), with the count that says so;
 * 0 if not; or a negative errno.
 */
static int judge_co(struct pass *p, uint64_t cluster, bool copied, uint64_t *ret_count)
{
	struct ox_walk *w = p->w;
	struct ox_cell cell = ox_counts_get(&w->k.cells, cluster);
	uint64_t stored;
	int r;

	if (cell.state == OX_CELL_NONE || ox_cell_is_broken(cell))
		return 0;
	*ret_count = cell.count;
	if (p->how == OX_COPIED_FIX) {
		r = keep_count_co(p, cluster, ret_count);
		if (r < 0)
			return r;
		/* Where something could not be followed, a count of one may be an undercount. */
		if (w->j->structural > 0)
			return copied && *ret_count > 1;
		return copied != (*ret_count == 1);
	}
	/* No stored count is the right one. */
	if (ox_ledger_overflows(&w->k, cell))
		return copied && p->how == OX_COPIED_REPORT;
	r = ox_stored_count_co(&w->k, &p->cache, cluster, &stored);
	if (r <= 0)
		return r;
	if (p->how == OX_COPIED_FIX_LEAKS)
		return !copied && cell.count == 1 && stored > 1 &&
		       !ox_keeper_keeps_count(p->keeper, cluster);
	*ret_count = stored;
	return copied != (stored == 1);
}

/* Whether the bit says what the references say, so that only the stored count is not. */
static bool is_right(const struct ox_walk *w, struct ox_host host, bool copied)
{
	return copied == (ox_counts_get(&w->k.cells, host.bytes / w->v.cluster_bytes).count == 1);
}

static void tell(struct pass *p, enum ox_finding_id id, struct ox_found what)
{
	const struct ox_view *v = &p->w->v;
	/* What -r leaks sets is part of mending the leak, which is told of where it is lowered. */
	if (p->how == OX_COPIED_FIX)
		ox_journal_mended(v->j, id, what);
	else if (p->how == OX_COPIED_REPORT)
		ox_journal_found(v->j, id, what);
}

static int tell_in_l2_co(struct pass *p, uint64_t l2_cluster, uint64_t index, enum ox_finding_id id,
			 struct ox_found what)
{
	if (p->how == OX_COPIED_REPORT)
		return ox_walk_found_in_l2_co(p->w, l2_cluster, index, id, what);
	tell(p, id, what);
	return 0;
}

static int copied_l1_co(void *arg, uint64_t tree, uint64_t index, struct ox_be64 *entry)
{
	struct pass *p = arg;
	struct ox_walk *w = p->w;
	uint64_t raw = ox_be64_get(*entry);
	struct ox_qcow2_l1_entry e = ox_qcow2_l1_decode(&w->v.h, raw);
	struct ox_found what;
	uint64_t count;
	int r;

	(void)tree;
	if (e.bad || e.l2.bytes == 0)
		return 0;
	r = judge_co(p, e.l2.bytes / w->v.cluster_bytes, e.copied, &count);
	if (r <= 0)
		return r;
	what = OX_FOUND(.a = index, .b = raw, .c = count, .host_offset = e.l2.bytes,
			.lags = is_right(w, e.l2, e.copied));
	ox_view_set_range(&w->v, &what, 0, index * ox_view_l1_span(&w->v), ox_view_l1_span(&w->v));
	tell(p, OX_FOUND_COPIED_L2, what);
	if (p->how != OX_COPIED_REPORT)
		*entry = ox_be64(raw ^ OX_QCOW2_COPIED);
	return 0;
}

static int copied_entry_co(struct pass *p, uint64_t l2_cluster, uint64_t index,
			   struct ox_be64 *entry)
{
	struct ox_walk *w = p->w;
	uint64_t raw = ox_be64_get(*entry);
	struct ox_qcow2_entry e = ox_qcow2_l2_decode(&w->v.h, raw);
	uint64_t count = 0;
	int r = 0;

	if (e.kind == OX_QCOW2_ENTRY_COMPRESSED && e.copied && p->how == OX_COPIED_FIX) {
		r = tell_in_l2_co(p, l2_cluster, index, OX_FOUND_COPIED_COMPRESSED,
				  OX_FOUND(.a = e.host.bytes, .host_offset = e.host.bytes));
		if (r < 0)
			return r;
		*entry = ox_be64(raw ^ OX_QCOW2_COPIED);
	}
	/* Clusters of another file have no counts here. */
	if (w->v.has_data_file)
		return 0;
	if (e.kind == OX_QCOW2_ENTRY_DATA || e.kind == OX_QCOW2_ENTRY_ZERO_ALLOC)
		r = judge_co(p, e.host.bytes / w->v.cluster_bytes, e.copied, &count);
	if (r <= 0)
		return r;
	r = tell_in_l2_co(p, l2_cluster, index, OX_FOUND_COPIED_DATA,
			  OX_FOUND(.a = raw, .b = count, .host_offset = e.host.bytes,
				   .lags = is_right(w, e.host, e.copied)));
	if (r == 0 && p->how != OX_COPIED_REPORT)
		*entry = ox_be64(raw ^ OX_QCOW2_COPIED);
	return r;
}

static int copied_l2_co(void *arg, uint64_t cluster, struct ox_cell cell, struct ox_be64 *table)
{
	struct pass *p = arg;
	struct ox_walk *w = p->w;
	unsigned words = ox_qcow2_l2_words(&w->v.h);

	/* What is not a table alone may be somebody's data. */
	if (p->how != OX_COPIED_REPORT && ox_cell_is_broken(cell))
		return 0;
	for (uint64_t i = 0; i < ox_qcow2_l2_entries(&w->v.h); i++) {
		struct ox_be64 *entry = &table[i * words];
		int r = entry->raw ? copied_entry_co(p, cluster, i, entry) : 0;

		if (r < 0)
			return r;
	}
	return 0;
}

int ox_judge_copied_co(struct ox_walk *w, enum ox_copied how, const struct ox_keeper *keeper)
{
	struct pass p = {.w = w, .how = how, .keeper = keeper};
	unsigned ways = OX_WAYS_ACTIVE | (how == OX_COPIED_REPORT ? 0 : OX_WAYS_CHANGE);
	int r = ox_walk_l1_co(w, ways, copied_l1_co, &p);

	if (r == 0)
		r = ox_walk_l2_co(w, ways, copied_l2_co, &p);
	ox_stored_free(&p.cache);
	return r;
}
