/* SPDX-License-Identifier: MIT */
/*
 * Clusters that are named more than once against what their refcount or a COPIED bit says. A
 * snapshot's sharing is at one guest offset in all trees: then the count was merely wrong. Two
 * guest offsets are a cross-link, which no count mends.
 */
#include <errno.h>
#include <stdlib.h>

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
	struct ox_cell cell = ox_counts_get(&w->counts, cluster);

	cell.state = ox_cell_is_l2(cell) ? OX_CELL_BROKEN_L2 | (cell.state & 3u) : OX_CELL_BROKEN;
	return ox_counts_set(&w->counts, cluster, cell);
}

/* ---- L2 tables: at which index of the L1 tables they stand ---- */

static int judge_l2(struct ox_walk *w, uint64_t tree, uint64_t index, struct ox_be64 *entry)
{
	struct ox_qcow2_l1_entry e = ox_qcow2_l1_decode(&w->h, ox_be64_get(*entry));
	uint64_t cluster = e.l2.bytes / w->cluster_bytes;
	uint64_t place = ox_walk_place_of(w, cluster);
	struct ox_found what = {.a = cluster, .c = index, .host_offset = e.l2.bytes};

	if (e.bad || place == OX_WALK_NO_PLACE || ox_walk_place_index(place) == index ||
	    ox_cell_is_broken(ox_counts_get(&w->counts, cluster)) ||
	    ox_walk_find(w->suspects, w->suspect_count, cluster) == w->suspect_count)
		return 0;
	what.b = ox_walk_place_index(place);
	ox_walk_set_range(w, &what, tree, index * ox_walk_l1_span(w), ox_walk_l1_span(w));
	ox_walk_found(w, OX_FOUND_CROSS_LINK_L2, what);
	return mark_broken(w, cluster);
}

/* ---- data: at which guest cluster it stands ---- */

static int place_cluster(struct ox_walk *w, uint64_t cluster, uint64_t tree, uint64_t guest_cluster)
{
	struct ox_cell cell = ox_counts_get(&w->counts, cluster);
	struct ox_found what = {.a = cluster, .host_offset = cluster * w->cluster_bytes};
	uint64_t at;

	if (cell.count < 2 || !ox_cell_is_data(cell))
		return 0;
	at = ox_walk_find(w->suspects, w->suspect_count, cluster);
	if (at == w->suspect_count || w->suspect_places[at] == guest_cluster)
		return 0;
	if (w->suspect_places[at] == UNSEEN) {
		w->suspect_places[at] = guest_cluster;
		return 0;
	}
	what.b = w->suspect_places[at] * w->cluster_bytes;
	what.c = guest_cluster * w->cluster_bytes;
	ox_walk_set_range(w, &what, tree, what.c, w->cluster_bytes);
	ox_walk_found(w, OX_FOUND_CROSS_LINK, what);
	return mark_broken(w, cluster);
}

static int place_entry(struct ox_walk *w, const struct ox_qcow2_entry *e, uint64_t tree,
		       uint64_t guest_cluster)
{
	uint64_t first = e->host.bytes / w->cluster_bytes;
	uint64_t last = first;

	if (e->kind == OX_QCOW2_ENTRY_COMPRESSED)
		last = (e->host.bytes + e->compressed_bytes - 1) / w->cluster_bytes;
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
	uint64_t entries = ox_qcow2_l2_entries(&w->h);
	unsigned words = ox_qcow2_l2_words(&w->h);

	(void)cell;
	if (place == OX_WALK_NO_PLACE)
		return 0;
	for (uint64_t i = 0; i < entries; i++) {
		struct ox_qcow2_entry e;
		int r;

		if (!table[i * words].raw)
			continue;
		e = ox_qcow2_l2_decode(&w->h, ox_be64_get(table[i * words]));
		r = place_entry(w, &e, ox_walk_place_tree(place),
				ox_walk_place_index(place) * entries + i);
		if (r < 0)
			return r;
	}
	return 0;
}

static uint64_t *unseen(uint64_t count)
{
	uint64_t *places = calloc(count ? count : 1, sizeof(*places));

	for (uint64_t i = 0; places && i < count; i++)
		places[i] = UNSEEN;
	return places;
}

int ox_walk_explain_co(struct ox_walk *w)
{
	int r;

	if (w->suspect_count == 0)
		return 0;
	w->suspect_places = unseen(w->suspect_count);
	r = w->suspect_places ? ox_walk_place_tables_co(w) : -ENOMEM;
	if (r == 0)
		r = ox_walk_l1_co(w, true, judge_l2);
	/* Clusters of another file have no counts here. */
	if (r == 0 && !w->has_data_file)
		r = ox_walk_l2_co(w, false, place_l2_entries);
	return r;
}
