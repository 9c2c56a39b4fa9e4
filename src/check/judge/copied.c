/* SPDX-License-Identifier: MIT */
/* Passes that judge or change entries of the active tables: COPIED bits, and stale entries. */
#include "base/arith.h"
#include "check/ledger/stored.h"
#include "check/walk/walk.h"

/* What the running pass keeps between entries; the walk holds it for its visitors. */
struct ox_walk_copied_pass {
	enum ox_walk_copied how;
	struct ox_stored cache;
};

/* Raises what was counted to a count that is not lowered: what it is kept for may be linked yet. */
static int keep_count_co(struct ox_walk *w, uint64_t cluster, uint64_t *count)
{
	uint64_t stored = 0;
	int r;

	if (!ox_salvage_keeps_count(w, cluster))
		return 0;
	r = ox_stored_count_co(&w->k, &w->copied->cache, cluster, &stored);
	if (r > 0)
		*count = ox_max_u64(*count, stored);
	return r < 0 ? r : 0;
}

/*
 * 1 if an entry's COPIED bit is to be flipped (or, REPORT, is wrong), with the count that says so;
 * 0 if not; or a negative errno.
 */
static int judge_co(struct ox_walk *w, uint64_t cluster, bool copied, uint64_t *ret_count)
{
	struct ox_cell cell = ox_counts_get(&w->k.cells, cluster);
	uint64_t stored;
	int r;

	if (cell.state == OX_CELL_NONE || ox_cell_is_broken(cell))
		return 0;
	*ret_count = cell.count;
	if (w->copied->how == OX_COPIED_FIX) {
		r = keep_count_co(w, cluster, ret_count);
		if (r < 0)
			return r;
		/* Where something could not be followed, a count of one may be an undercount. */
		if (w->j->structural > 0)
			return copied && *ret_count > 1;
		return copied != (*ret_count == 1);
	}
	/* No stored count is the right one. */
	if (ox_ledger_overflows(&w->k, cell))
		return copied && w->copied->how == OX_COPIED_REPORT;
	r = ox_stored_count_co(&w->k, &w->copied->cache, cluster, &stored);
	if (r <= 0)
		return r;
	if (w->copied->how == OX_COPIED_FIX_LEAKS)
		return !copied && cell.count == 1 && stored > 1 &&
		       !ox_salvage_keeps_count(w, cluster);
	*ret_count = stored;
	return copied != (stored == 1);
}

/* Whether the bit says what the references say, so that only the stored count is not. */
static bool is_right(const struct ox_walk *w, struct ox_host host, bool copied)
{
	return copied == (ox_counts_get(&w->k.cells, host.bytes / w->v.cluster_bytes).count == 1);
}

static void tell(struct ox_walk *w, enum ox_finding_id id, struct ox_found what)
{
	/* What -r leaks sets is part of mending the leak, which is told of where it is lowered. */
	if (w->copied->how == OX_COPIED_FIX)
		ox_journal_mended(w->j, id, what);
	else if (w->copied->how == OX_COPIED_REPORT)
		ox_journal_found(w->j, id, what);
}

static int tell_in_l2_co(struct ox_walk *w, uint64_t l2_cluster, uint64_t index,
			 enum ox_finding_id id, struct ox_found what)
{
	if (w->copied->how == OX_COPIED_REPORT)
		return ox_walk_found_in_l2_co(w, l2_cluster, index, id, what);
	tell(w, id, what);
	return 0;
}

static int copied_l1_co(struct ox_walk *w, uint64_t tree, uint64_t index, struct ox_be64 *entry)
{
	uint64_t raw = ox_be64_get(*entry);
	struct ox_qcow2_l1_entry e = ox_qcow2_l1_decode(&w->v.h, raw);
	struct ox_found what;
	uint64_t count;
	int r;

	(void)tree;
	if (e.bad || e.l2.bytes == 0)
		return 0;
	r = judge_co(w, e.l2.bytes / w->v.cluster_bytes, e.copied, &count);
	if (r <= 0)
		return r;
	what = OX_FOUND(.a = index, .b = raw, .c = count, .host_offset = e.l2.bytes,
			.lags = is_right(w, e.l2, e.copied));
	ox_view_set_range(&w->v, &what, 0, index * ox_view_l1_span(&w->v), ox_view_l1_span(&w->v));
	tell(w, OX_FOUND_COPIED_L2, what);
	if (w->copied->how != OX_COPIED_REPORT)
		*entry = ox_be64(raw ^ OX_QCOW2_COPIED);
	return 0;
}

static int copied_entry_co(struct ox_walk *w, uint64_t l2_cluster, uint64_t index,
			   struct ox_be64 *entry)
{
	uint64_t raw = ox_be64_get(*entry);
	struct ox_qcow2_entry e = ox_qcow2_l2_decode(&w->v.h, raw);
	uint64_t count = 0;
	int r = 0;

	if (e.kind == OX_QCOW2_ENTRY_COMPRESSED && e.copied && w->copied->how == OX_COPIED_FIX) {
		r = tell_in_l2_co(w, l2_cluster, index, OX_FOUND_COPIED_COMPRESSED,
				  OX_FOUND(.a = e.host.bytes, .host_offset = e.host.bytes));
		if (r < 0)
			return r;
		*entry = ox_be64(raw ^ OX_QCOW2_COPIED);
	}
	/* Clusters of another file have no counts here. */
	if (w->v.has_data_file)
		return 0;
	if (e.kind == OX_QCOW2_ENTRY_DATA || e.kind == OX_QCOW2_ENTRY_ZERO_ALLOC)
		r = judge_co(w, e.host.bytes / w->v.cluster_bytes, e.copied, &count);
	if (r <= 0)
		return r;
	r = tell_in_l2_co(w, l2_cluster, index, OX_FOUND_COPIED_DATA,
			  OX_FOUND(.a = raw, .b = count, .host_offset = e.host.bytes,
				   .lags = is_right(w, e.host, e.copied)));
	if (r == 0 && w->copied->how != OX_COPIED_REPORT)
		*entry = ox_be64(raw ^ OX_QCOW2_COPIED);
	return r;
}

static int copied_l2_co(struct ox_walk *w, uint64_t cluster, struct ox_cell cell,
			struct ox_be64 *table)
{
	unsigned words = ox_qcow2_l2_words(&w->v.h);

	/* What is not a table alone may be somebody's data. */
	if (w->changes_entries && ox_cell_is_broken(cell))
		return 0;
	for (uint64_t i = 0; i < ox_qcow2_l2_entries(&w->v.h); i++) {
		struct ox_be64 *entry = &table[i * words];
		int r = entry->raw ? copied_entry_co(w, cluster, i, entry) : 0;

		if (r < 0)
			return r;
	}
	return 0;
}

int ox_walk_copied_co(struct ox_walk *w, enum ox_walk_copied how)
{
	struct ox_walk_copied_pass pass = {.how = how};
	int r;

	w->copied = &pass;
	w->changes_entries = how != OX_COPIED_REPORT;
	r = ox_walk_l1_co(w, false, copied_l1_co);
	if (r == 0)
		r = ox_walk_l2_co(w, true, copied_l2_co);
	w->copied = NULL;
	w->changes_entries = false;
	ox_stored_free(&pass.cache);
	return r;
}

/* ---- stale entries ---- */

static int drop_l1(struct ox_walk *w, uint64_t tree, uint64_t index, struct ox_be64 *entry)
{
	struct ox_qcow2_l1_entry e = ox_qcow2_l1_decode(&w->v.h, ox_be64_get(*entry));

	(void)tree;
	(void)index;
	if (e.bad || e.l2.bytes < w->v.file_bytes)
		return 0;
	ox_journal_mended(w->j, OX_FOUND_STALE_ENTRY, OX_FOUND(.a = e.l2.bytes));
	ox_salvage_note_dropped(w);
	*entry = ox_be64(0);
	return 0;
}

static int drop_l2(struct ox_walk *w, uint64_t cluster, struct ox_cell cell, struct ox_be64 *table)
{
	unsigned words = ox_qcow2_l2_words(&w->v.h);

	if (w->v.has_data_file || ox_cell_is_broken(cell))
		return 0;
	for (uint64_t i = 0; i < ox_qcow2_l2_entries(&w->v.h); i++) {
		struct ox_be64 *entry = &table[i * words];
		struct ox_qcow2_entry e = ox_qcow2_l2_decode(&w->v.h, ox_be64_get(*entry));

		if (e.kind != OX_QCOW2_ENTRY_DATA && e.kind != OX_QCOW2_ENTRY_ZERO_ALLOC &&
		    e.kind != OX_QCOW2_ENTRY_COMPRESSED)
			continue;
		if (!ox_view_entry_is_stale(&w->v, cluster, cell, e.host.bytes))
			continue;
		ox_journal_mended(w->j, OX_FOUND_STALE_ENTRY, OX_FOUND(.a = e.host.bytes));
		/* A preallocated zero cluster loses its place, and still reads as zeroes. */
		*entry = ox_be64(e.kind == OX_QCOW2_ENTRY_ZERO_ALLOC ? OX_QCOW2_ZERO : 0);
		/* No subcluster is allocated where there is no cluster; zero ones stay. */
		if (words == 2)
			entry[1] = ox_be64(ox_be64_get(entry[1]) & ~(uint64_t)UINT32_MAX);
	}
	return 0;
}

int ox_walk_drop_stale_l1_co(struct ox_walk *w)
{
	int r;

	w->changes_entries = true;
	r = ox_walk_l1_co(w, false, drop_l1);
	w->changes_entries = false;
	return r;
}

int ox_walk_drop_stale_co(struct ox_walk *w)
{
	int r = ox_walk_drop_stale_l1_co(w);

	w->changes_entries = true;
	if (r == 0)
		r = ox_walk_l2_co(w, true, drop_l2);
	w->changes_entries = false;
	return r;
}
