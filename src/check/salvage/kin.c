/* SPDX-License-Identifier: MIT */
/*
 * Orphans beside each other, and beside the tables that are named. A guest that holds an image of
 * its own has L2 tables among its data: one that another orphan names as data is that. Where an
 * orphan shares clusters with a named table, as snapshots do, both stand at one guest offset, and
 * the named one tells where that is.
 */
#include "check/salvage/salvage.h"

#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "base/grow.h"
#include "base/sorted.h"

#define MAX_PAIRS (4 * OX_SALVAGE_MAX)
/* An orphan's place is told by a few of its clusters. */
#define MAX_SHARED 16u

struct ox_orphan *ox_salvage_at(const struct ox_salvage *s, uint64_t cluster)
{
	struct ox_orphan key = {.cluster = cluster};

	return s->count > 0 ? bsearch(&key, s->orphans, s->count, sizeof(key), ox_sorted_compare)
			    : NULL;
}

/* ---- each orphan's entries once more ---- */

/* One orphan's entry, of those that name whole clusters. */
typedef int (*entry_fn)(struct ox_salvage *s, struct ox_orphan *o, uint64_t index, uint64_t host,
			void *arg);

static int read_orphan_co(struct ox_salvage *s, struct ox_orphan *o, struct ox_be64 *table,
			  entry_fn visit, void *arg)
{
	struct ox_walk *w = s->w;
	unsigned words = ox_qcow2_l2_words(&w->v.h);
	int r = ox_io_pread_co(w->v.io, table, w->v.cluster_bytes, o->cluster * w->v.cluster_bytes);

	if (r < 0)
		return r == -ENOMEM ? r : 0;
	for (uint64_t i = 0; i < ox_qcow2_l2_entries(&w->v.h) && r == 0; i++) {
		struct ox_orphan_entry entry = ox_salvage_entry(w, o->cluster, &table[i * words]);

		if (entry.names && entry.e.kind != OX_QCOW2_ENTRY_COMPRESSED)
			r = visit(s, o, i, entry.e.host.bytes / w->v.cluster_bytes, arg);
	}
	return r;
}

/* ---- which of them are guest data ---- */

struct pair {
	struct ox_orphan *parent;
	struct ox_orphan *child;
};

struct pairs {
	struct pair *items;
	size_t count;
	size_t room;
};

static int note_pair(struct ox_salvage *s, struct ox_orphan *o, uint64_t index, uint64_t host,
		     void *arg)
{
	struct ox_orphan *child = ox_salvage_at(s, host);
	struct pairs *pairs = arg;

	(void)index;
	if (!child || pairs->count == MAX_PAIRS)
		return 0;
	if (ox_grow(pairs->items, pairs->count, pairs->room, 64) < 0)
		return -ENOMEM;
	pairs->items[pairs->count++] = (struct pair){.parent = o, .child = child};
	o->orphans++;
	child->is_named = true;
	return 0;
}

/* A table of tables is an L1 table, of a snapshot that is gone. */
static bool is_like_l1(const struct ox_orphan *o)
{
	return 2 * o->orphans > ox_orphan_named(o);
}

static void drop_nested(struct ox_salvage *s, const struct pairs *pairs)
{
	size_t kept = 0;

	for (size_t i = 0; i < pairs->count; i++) {
		const struct pair *p = &pairs->items[i];

		if (!p->parent->is_named && !is_like_l1(p->parent))
			p->child->is_nested = true;
	}
	/* What turned out to be data speaks against nothing. */
	for (size_t i = 0; i < pairs->count; i++)
		pairs->items[i].parent->orphans -= pairs->items[i].child->is_nested;
	for (size_t i = 0; i < s->count; i++) {
		if (!s->orphans[i].is_nested)
			s->orphans[kept++] = s->orphans[i];
	}
	s->count = kept;
}

static int tell_nested_co(struct ox_salvage *s, struct ox_be64 *table)
{
	struct pairs pairs = {0};
	bool any = false;
	int r = 0;

	for (size_t i = 0; i < s->count; i++)
		any |= ox_counts_get(&s->kept, s->orphans[i].cluster).state == OX_CELL_DATA;
	for (size_t i = 0; i < s->count && any && r == 0; i++)
		r = read_orphan_co(s, &s->orphans[i], table, note_pair, &pairs);
	if (r == 0 && pairs.count > 0)
		drop_nested(s, &pairs);
	free(pairs.items);
	return r;
}

/* ---- where they stood ---- */

struct shared {
	uint64_t host;
	uint64_t entry;
	struct ox_orphan *orphan;
};

struct all_shared {
	struct ox_walk *w;
	struct shared *items; /* by host */
	size_t count;
	size_t room;
};

static int note_shared(struct ox_salvage *s, struct ox_orphan *o, uint64_t index, uint64_t host,
		       void *arg)
{
	struct all_shared *all = arg;
	size_t before = all->count;

	if (ox_counts_get(&s->w->k.cells, host).state == OX_CELL_NONE ||
	    (before >= MAX_SHARED && all->items[before - MAX_SHARED].orphan == o))
		return 0;
	if (ox_grow(all->items, all->count, all->room, 64) < 0)
		return -ENOMEM;
	all->items[all->count++] = (struct shared){.host = host, .entry = index, .orphan = o};
	return 0;
}

static int meet_named(void *arg, uint64_t cluster, struct ox_cell cell, struct ox_be64 *table)
{
	const struct all_shared *all = arg;
	const struct ox_walk *w = all->w;
	uint64_t place = ox_walk_place_of(w, cluster);

	(void)cell;
	for (uint64_t i = 0; i < ox_qcow2_l2_entries(&w->v.h) && place != OX_WALK_NO_PLACE; i++) {
		struct ox_qcow2_entry e = ox_view_l2_entry(&w->v, table, i);
		uint64_t host = e.host.bytes / w->v.cluster_bytes;

		if (e.kind != OX_QCOW2_ENTRY_DATA && e.kind != OX_QCOW2_ENTRY_ZERO_ALLOC)
			continue;
		for (size_t at = ox_sorted_from(all->items, all->count, sizeof(*all->items), host);
		     at < all->count && all->items[at].host == host; at++) {
			if (all->items[at].entry == i)
				all->items[at].orphan->index = ox_walk_place_index(place);
		}
	}
	return 0;
}

static int tell_places_co(struct ox_salvage *s, struct ox_be64 *table)
{
	struct ox_walk *w = s->w;
	struct all_shared all = {.w = s->w};
	int r = 0;

	for (size_t i = 0; i < s->count && r == 0; i++) {
		if (s->orphans[i].unshared < ox_orphan_named(&s->orphans[i]))
			r = read_orphan_co(s, &s->orphans[i], table, note_shared, &all);
	}
	/* A table that cannot be read has been told of, and keeps everything from being linked. */
	if (r == 0 && all.count > 0 && w->j->totals.check_errors == 0) {
		qsort(all.items, all.count, sizeof(*all.items), ox_sorted_compare);
		r = ox_walk_place_tables_co(w);
		if (r == 0)
			r = ox_walk_l2_co(w, OX_WAYS_ALL, meet_named, &all);
	}
	free(all.items);
	return r;
}

int ox_salvage_relate_co(struct ox_salvage *s)
{
	struct ox_be64 *table = ox_io_buffer(s->w->v.cluster_bytes);
	int r;

	if (!table)
		return -ENOMEM;
	r = tell_nested_co(s, table);
	/* Of no use to those who link nothing. */
	if (r == 0 && (s->opts->salvage || s->tells_places))
		r = tell_places_co(s, table);
	free(table);
	return r;
}
