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
#include "check/walk/walk.h"

#define UNSEEN UINT64_MAX

int ox_walk_suspect(struct ox_walk *w, uint64_t cluster)
{
	if (w->suspect_count == w->suspect_room) {
		uint64_t room = w->suspect_room ? 2 * w->suspect_room : 64;
		uint64_t *more = reallocarray(w->suspects, room, sizeof(*more));

		if (!more)
			return -ENOMEM;
		w->suspects = more;
		w->suspect_room = room;
	}
	w->suspects[w->suspect_count++] = cluster;
	return 0;
}

static int mark_broken(struct ox_walk *w, uint64_t cluster)
{
	struct ox_cell cell = ox_counts_get(&w->k.cells, cluster);

	cell.state = ox_cell_is_l2(cell) ? OX_CELL_BROKEN_L2 | (cell.state & 3u) : OX_CELL_BROKEN;
	return ox_counts_set(&w->k.cells, cluster, cell);
}

/* ---- L2 tables: at which index of the L1 tables they stand ---- */

static int judge_l2(struct ox_walk *w, uint64_t tree, uint64_t index, struct ox_be64 *entry)
{
	struct ox_qcow2_l1_entry e = ox_qcow2_l1_decode(&w->v.h, ox_be64_get(*entry));
	uint64_t cluster = e.l2.bytes / w->v.cluster_bytes;
	uint64_t place = ox_walk_place_of(w, cluster);
	struct ox_found what = {.a = cluster, .c = index, .host_offset = e.l2.bytes};

	if (e.bad || place == OX_WALK_NO_PLACE || ox_walk_place_index(place) == index ||
	    ox_cell_is_broken(ox_counts_get(&w->k.cells, cluster)) ||
	    ox_walk_find(w->suspects, w->suspect_count, cluster) == w->suspect_count)
		return 0;
	what.b = ox_walk_place_index(place);
	ox_view_set_range(&w->v, &what, tree, index * ox_view_l1_span(&w->v),
			  ox_view_l1_span(&w->v));
	ox_journal_found(w->j, OX_FOUND_CROSS_LINK_L2, what);
	return mark_broken(w, cluster);
}

/* ---- data: at which guest cluster it stands ---- */

/* Streams share a cluster at several guest offsets, and nothing is wrong with that. */
static void widen_reach(struct ox_walk_reach *reach, uint64_t tree, uint64_t guest_cluster)
{
	if (reach->first == UNSEEN)
		*reach = (struct ox_walk_reach){guest_cluster, guest_cluster, tree};
	reach->first = ox_min_u64(reach->first, guest_cluster);
	reach->last = ox_max_u64(reach->last, guest_cluster);
	reach->tree = ox_min_u64(reach->tree, tree);
}

static int place_cluster(struct ox_walk *w, uint64_t cluster, uint64_t tree, uint64_t guest_cluster)
{
	struct ox_cell cell = ox_counts_get(&w->k.cells, cluster);
	struct ox_found what = {.a = cluster, .host_offset = cluster * w->v.cluster_bytes};
	struct ox_walk_reach *reach;
	uint64_t at;

	if (cell.count < 2 || (!ox_cell_is_data(cell) && cell.state != OX_CELL_COMPRESSED))
		return 0;
	at = ox_walk_find(w->suspects, w->suspect_count, cluster);
	if (at == w->suspect_count)
		return 0;
	reach = &w->reaches[at];
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

static int place_entry(struct ox_walk *w, const struct ox_qcow2_entry *e, uint64_t tree,
		       uint64_t guest_cluster)
{
	uint64_t first = e->host.bytes / w->v.cluster_bytes;
	uint64_t last = first;

	if (e->kind == OX_QCOW2_ENTRY_COMPRESSED)
		last = (e->host.bytes + e->compressed_bytes - 1) / w->v.cluster_bytes;
	else if (e->kind != OX_QCOW2_ENTRY_DATA && e->kind != OX_QCOW2_ENTRY_ZERO_ALLOC)
		return 0;
	for (uint64_t c = first; c <= last; c++) {
		int r = place_cluster(w, c, tree, guest_cluster);

		if (r < 0)
			return r;
	}
	return 0;
}

static int place_l2_entries(struct ox_walk *w, uint64_t cluster, struct ox_cell cell,
			    struct ox_be64 *table)
{
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
		e = ox_qcow2_l2_decode(&w->v.h, ox_be64_get(table[i * words]));
		r = place_entry(w, &e, ox_walk_place_tree(place),
				ox_walk_place_index(place) * entries + i);
		if (r < 0)
			return r;
	}
	return 0;
}

/* ---- what no cross-link explains ---- */

bool ox_walk_overflow_of(const struct ox_walk *w, uint64_t at, struct ox_found *ret)
{
	uint64_t cluster = w->suspects[at];
	struct ox_cell cell = ox_counts_get(&w->k.cells, cluster);
	const struct ox_walk_reach *reach = &w->reaches[at];
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

static void judge_overflows(struct ox_walk *w)
{
	struct ox_found what;

	for (uint64_t i = 0; i < w->suspect_count; i++) {
		if (!ox_walk_overflow_of(w, i, &what))
			continue;
		w->most_refs = ox_max_u64(w->most_refs, what.c);
		ox_journal_found(w->j, OX_FOUND_OVERFLOW, what);
	}
	ox_journal_tell_run(w->j);
}

/* ---- all of it ---- */

static int compare_clusters(const void *a, const void *b)
{
	const uint64_t *x = a;
	const uint64_t *y = b;

	return (*x > *y) - (*x < *y);
}

/* Those of broken blocks come last. */
static void sort_suspects(struct ox_walk *w)
{
	uint64_t i = 1;

	while (i < w->suspect_count && w->suspects[i - 1] < w->suspects[i])
		i++;
	if (i < w->suspect_count)
		qsort(w->suspects, w->suspect_count, sizeof(*w->suspects), compare_clusters);
}

static struct ox_walk_reach *unseen(uint64_t count)
{
	struct ox_walk_reach *reaches = calloc(count, sizeof(*reaches));

	for (uint64_t i = 0; reaches && i < count; i++)
		reaches[i].first = UNSEEN;
	return reaches;
}

int ox_walk_explain_co(struct ox_walk *w)
{
	int r;

	if (w->suspect_count == 0)
		return 0;
	sort_suspects(w);
	w->reaches = unseen(w->suspect_count);
	r = w->reaches ? ox_walk_place_tables_co(w) : -ENOMEM;
	if (r == 0)
		r = ox_walk_l1_co(w, true, judge_l2);
	/* Clusters of another file have no counts here. */
	if (r == 0 && !w->v.has_data_file)
		r = ox_walk_l2_co(w, false, place_l2_entries);
	if (r == 0)
		judge_overflows(w);
	return r;
}
