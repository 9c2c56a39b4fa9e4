/* SPDX-License-Identifier: MIT */
/*
 * Clusters that are named more than once against what their refcount or a COPIED bit says, or more
 * often than any count of the image's width can say. A snapshot's sharing is at one guest offset in
 * all trees: then the count was merely wrong, or too narrow. Two guest offsets are a cross-link,
 * which no count mends.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "check/judge/judge.h"

#define UNSEEN UINT64_MAX

static int mark_broken(struct ox_walk *w, uint64_t cluster)
{
	struct ox_cell cell = ox_counts_get(&w->k.cells, cluster);

	cell.state = ox_cell_is_l2(cell) ? OX_CELL_BROKEN_L2 | (cell.state & 3u) : OX_CELL_BROKEN;
	return ox_counts_set(&w->k.cells, cluster, cell);
}

/* ---- L2 tables: at which index of the L1 tables they stand ---- */

static int judge_l2(void *arg, uint64_t tree, uint64_t index, struct ox_be64 *entry)
{
	struct ox_judge *g = arg;
	struct ox_walk *w = g->w;
	struct ox_qcow2_l1_entry e = ox_qcow2_l1_decode(&w->v.h, ox_be64_get(*entry));
	uint64_t cluster = e.l2.bytes / w->v.cluster_bytes;
	uint64_t place = ox_walk_place_of(w, cluster);
	struct ox_found what = {.a = cluster, .c = index, .host_offset = e.l2.bytes};

	if (e.bad || place == OX_WALK_NO_PLACE || ox_walk_place_index(place) == index ||
	    ox_cell_is_broken(ox_counts_get(&w->k.cells, cluster)) ||
	    ox_clusters_find(&g->suspects, cluster) == g->suspects.count)
		return 0;
	what.b = ox_walk_place_index(place);
	ox_view_set_range(&w->v, &what, tree, index * ox_view_l1_span(&w->v),
			  ox_view_l1_span(&w->v));
	ox_journal_found(w->j, OX_FOUND_CROSS_LINK_L2, what);
	return mark_broken(w, cluster);
}

/* ---- data: at which guest cluster it stands ---- */

/* Streams share a cluster at several guest offsets, and nothing is wrong with that. */
static void widen_reach(struct ox_reach *reach, uint64_t tree, uint64_t guest_cluster)
{
	if (reach->first == UNSEEN)
		*reach = (struct ox_reach){guest_cluster, guest_cluster, tree};
	reach->first = ox_min_u64(reach->first, guest_cluster);
	reach->last = ox_max_u64(reach->last, guest_cluster);
	reach->tree = ox_min_u64(reach->tree, tree);
}

static int place_cluster(struct ox_judge *g, uint64_t cluster, uint64_t tree,
			 uint64_t guest_cluster)
{
	struct ox_walk *w = g->w;
	struct ox_cell cell = ox_counts_get(&w->k.cells, cluster);
	struct ox_found what = {.a = cluster, .host_offset = cluster * w->v.cluster_bytes};
	struct ox_reach *reach;
	uint64_t at;

	if (cell.count < 2 || (!ox_cell_is_data(cell) && cell.state != OX_CELL_COMPRESSED))
		return 0;
	at = ox_clusters_find(&g->suspects, cluster);
	if (at == g->suspects.count)
		return 0;
	reach = &g->reaches[at];
	if (cell.state == OX_CELL_COMPRESSED || reach->first == UNSEEN ||
	    reach->first == guest_cluster) {
		widen_reach(reach, tree, guest_cluster);
		return 0;
	}
	what.b = reach->first * w->v.cluster_bytes;
	what.c = guest_cluster * w->v.cluster_bytes;
	ox_view_set_range(&w->v, &what, tree, what.c, w->v.cluster_bytes);
	ox_journal_found(w->j, OX_FOUND_CROSS_LINK, what);
	return mark_broken(w, cluster);
}

static int place_entry(struct ox_judge *g, const struct ox_qcow2_entry *e, uint64_t tree,
		       uint64_t guest_cluster)
{
	struct ox_walk *w = g->w;
	uint64_t first = e->host.bytes / w->v.cluster_bytes;
	uint64_t last = first;

	if (e->kind == OX_QCOW2_ENTRY_COMPRESSED)
		last = (e->host.bytes + e->compressed_bytes - 1) / w->v.cluster_bytes;
	else if (e->kind != OX_QCOW2_ENTRY_DATA && e->kind != OX_QCOW2_ENTRY_ZERO_ALLOC)
		return 0;
	for (uint64_t c = first; c <= last; c++) {
		int r = place_cluster(g, c, tree, guest_cluster);

		if (r < 0)
			return r;
	}
	return 0;
}

static int place_l2_entries(void *arg, uint64_t cluster, struct ox_cell cell, struct ox_be64 *table)
{
	struct ox_judge *g = arg;
	struct ox_walk *w = g->w;
	uint64_t place = ox_walk_place_of(w, cluster);
	uint64_t entries = ox_qcow2_l2_entries(&w->v.h);
	unsigned words = ox_qcow2_l2_words(&w->v.h);

	(void)cell;
	if (place == OX_WALK_NO_PLACE)
		return 0;
	for (uint64_t i = 0; i < entries; i++) {
		struct ox_qcow2_entry e;
		int r;

		if (!table[i * words].raw)
			continue;
		e = ox_view_l2_entry(&w->v, table, i);
		r = place_entry(g, &e, ox_walk_place_tree(place),
				ox_walk_place_index(place) * entries + i);
		if (r < 0)
			return r;
	}
	return 0;
}

/* ---- what no cross-link explains ---- */

bool ox_judge_overflow_of(const struct ox_judge *g, uint64_t at, struct ox_found *ret)
{
	const struct ox_walk *w = g->w;
	uint64_t cluster = g->suspects.items[at];
	struct ox_cell cell = ox_counts_get(&w->k.cells, cluster);
	const struct ox_reach *reach = &g->reaches[at];
	uint64_t place = ox_walk_place_of(w, cluster);

	if (ox_cell_is_broken(cell) || !ox_ledger_overflows(&w->k, cell))
		return false;
	*ret = (struct ox_found){
		.a = cluster,
		.b = ox_qcow2_refcount_max(w->k.rc.order),
		.c = cell.count,
		.host_offset = cluster * w->v.cluster_bytes,
	};
	if (place != OX_WALK_NO_PLACE)
		ox_view_set_range(&w->v, ret, ox_walk_place_tree(place),
				  ox_walk_place_index(place) * ox_view_l1_span(&w->v),
				  ox_view_l1_span(&w->v));
	else if (reach->first != UNSEEN)
		ox_view_set_range(&w->v, ret, reach->tree, reach->first * w->v.cluster_bytes,
				  (reach->last - reach->first + 1) * w->v.cluster_bytes);
	return true;
}

static void judge_overflows(struct ox_judge *g)
{
	const struct ox_view *v = &g->w->v;
	struct ox_found what;

	for (uint64_t i = 0; i < g->suspects.count; i++) {
		if (!ox_judge_overflow_of(g, i, &what))
			continue;
		g->most_refs = ox_max_u64(g->most_refs, what.c);
		ox_journal_found(v->j, OX_FOUND_OVERFLOW, what);
	}
	ox_journal_tell_run(v->j);
}

/* ---- all of it ---- */

static struct ox_reach *unseen(uint64_t count)
{
	struct ox_reach *reaches = calloc(count, sizeof(*reaches));

	for (uint64_t i = 0; reaches && i < count; i++)
		reaches[i].first = UNSEEN;
	return reaches;
}

int ox_judge_explain_co(struct ox_judge *g)
{
	struct ox_walk *w = g->w;
	int r;

	if (g->suspects.count == 0)
		return 0;
	/* Those of broken blocks come last. */
	ox_clusters_sort(&g->suspects);
	g->reaches = unseen(g->suspects.count);
	r = g->reaches ? ox_walk_place_tables_co(w) : -ENOMEM;
	if (r == 0)
		r = ox_walk_l1_co(w, OX_WAYS_ALL, judge_l2, g);
	/* Clusters of another file have no counts here. */
	if (r == 0 && !w->v.has_data_file)
		r = ox_walk_l2_co(w, OX_WAYS_ALL, place_l2_entries, g);
	if (r == 0)
		judge_overflows(g);
	return r;
}
