/* SPDX-License-Identifier: MIT */
/*
 * Which guest range an L2 entry stands for. L2 tables are visited in host order, so that is known
 * only where someone asks: then one pass over the L1 tables notes a word for each L2 table.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "check/walk/walk.h"

/* The active tree is visited first: a table that it shares with a snapshot is its own. */
static int note_place(void *arg, uint64_t tree, uint64_t index, struct ox_be64 *entry)
{
	struct ox_walk *w = arg;
	struct ox_qcow2_l1_entry e = ox_qcow2_l1_decode(&w->v.h, ox_be64_get(*entry));
	uint64_t at = ox_clusters_find(&w->tables, e.l2.bytes / w->v.cluster_bytes);

	if (!e.bad && at < w->tables.count && w->places[at] == OX_WALK_NO_PLACE)
		w->places[at] = tree << 32 | index;
	return 0;
}

int ox_walk_place_tables_co(struct ox_walk *w)
{
	if (w->places)
		return 0;
	w->places = calloc(ox_max_u64(w->tables.count, 1), sizeof(*w->places));
	if (!w->places)
		return -ENOMEM;
	for (uint64_t i = 0; i < w->tables.count; i++)
		w->places[i] = OX_WALK_NO_PLACE;
	return ox_walk_l1_co(w, OX_WAYS_ALL, note_place, w);
}

uint64_t ox_walk_place_of(const struct ox_walk *w, uint64_t l2_cluster)
{
	uint64_t at = ox_clusters_find(&w->tables, l2_cluster);

	return at < w->tables.count ? w->places[at] : OX_WALK_NO_PLACE;
}

int ox_walk_found_in_l2_co(struct ox_walk *w, uint64_t l2_cluster, uint64_t index,
			   enum ox_finding_id id, struct ox_found what)
{
	uint64_t place;

	if (ox_journal_listens(w->j)) {
		int r = ox_walk_place_tables_co(w);

		if (r < 0)
			return r;
		place = ox_walk_place_of(w, l2_cluster);
		if (place != OX_WALK_NO_PLACE)
			ox_view_set_range(&w->v, &what, ox_walk_place_tree(place),
					  ox_walk_place_index(place) * ox_view_l1_span(&w->v) +
						  index * w->v.cluster_bytes,
					  w->v.cluster_bytes);
	}
	ox_journal_found(w->j, id, what);
	return 0;
}
