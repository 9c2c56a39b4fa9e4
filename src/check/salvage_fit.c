/* SPDX-License-Identifier: MIT */
/*
 * Which L1 entry named an orphan. Nothing in a table says where it belongs: only what is left of a
 * damaged pointer does, or a table that shares clusters with it, or that there is one of each.
 */
#include "check/salvage.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>

#include "base/arith.h"

/* Comparisons of pointers with places. */
#define MAX_COMPARISONS (UINT64_C(1) << 26)
/* Of a pointer whose cluster number itself is damaged. */
#define MAX_FLIPPED 2
#define NEVER UINT_MAX

/* ---- gaps ---- */

static int add_gap(struct ox_walk *w, struct ox_l1_gap gap)
{
	struct ox_salvage *s = w->salvage;
	uint64_t at = w->trees[gap.tree].l1_offset + gap.index * 8;

	if (s->gap_count == OX_SALVAGE_MAX) {
		s->too_many = true;
		return 0;
	}
	if (s->gap_count == s->gap_room) {
		size_t room = s->gap_room ? 2 * s->gap_room : 16;
		struct ox_l1_gap *more = reallocarray(s->gaps, room, sizeof(*more));

		if (!more)
			return -ENOMEM;
		s->gaps = more;
		s->gap_room = room;
	}
	gap.is_fixed = ox_counts_get(&w->counts, at / w->cluster_bytes).state != OX_CELL_META;
	s->gaps[s->gap_count++] = gap;
	return 0;
}

/* Whether an entry that can be followed leads to no table, or to another entry's. */
static bool leads_nowhere(const struct ox_walk *w, uint64_t cluster, uint64_t index)
{
	struct ox_cell cell = ox_counts_get(&w->counts, cluster);
	uint64_t place = ox_walk_place_of(w, cluster);

	if (!ox_cell_is_l2(cell) || place == OX_WALK_NO_PLACE || ox_walk_is_no_table(w, cluster))
		return true;
	return ox_cell_is_broken(cell) && cell.count > 1 && ox_walk_place_index(place) != index;
}

static int judge_l1_entry(struct ox_walk *w, uint64_t tree, uint64_t index, struct ox_be64 *entry)
{
	uint64_t raw = ox_be64_get(*entry);
	struct ox_qcow2_l1_entry e = ox_qcow2_l1_decode(&w->h, raw);
	struct ox_l1_gap gap = {.tree = tree, .index = index, .raw = raw, .id = OX_FOUND_COUNT};

	w->salvage->used_entries += tree == 0;
	if (e.bad || ox_walk_past_end(w, e.l2.bytes, w->cluster_bytes))
		(void)ox_walk_bad_l1_entry(w, tree, index, raw, &gap.id);
	else if (!leads_nowhere(w, e.l2.bytes / w->cluster_bytes, index))
		return 0;
	return add_gap(w, gap);
}

/* ---- which orphan ---- */

/* The disk's own tables have COPIED where the counts say so, snapshots' have none. */
bool ox_orphan_is_sure(const struct ox_orphan *o, uint64_t tree)
{
	return o->stored != OX_STORED_UNKNOWN && o->stored > 0 &&
	       o->counted == ox_orphan_named(o) && o->taken == 0 && !o->is_named &&
	       o->orphans == 0 && (tree == 0 ? o->copied_agrees == o->data : o->copied == 0);
}

bool ox_orphan_fits(const struct ox_orphan *o, const struct ox_l1_gap *gap)
{
	return o->taken == 0 && !gap->is_fixed &&
	       (o->index == OX_WALK_NO_PLACE || o->index == gap->index);
}

/* How far a pointer is from naming an orphan: first in its cluster number, then in all bits. */
static unsigned distance(const struct ox_walk *w, const struct ox_orphan *o,
			 const struct ox_l1_gap *gap)
{
	uint64_t numbers = (OX_QCOW2_OFFSET_MASK & ~(w->cluster_bytes - 1));
	uint64_t flipped = (gap->raw & ~OX_QCOW2_COPIED) ^ o->cluster * w->cluster_bytes;
	unsigned in_number = (unsigned)__builtin_popcountll(flipped & numbers);
	unsigned in_all = (unsigned)__builtin_popcountll(flipped);

	if (!(gap->raw & numbers) || !ox_orphan_fits(o, gap))
		return NEVER;
	/* A number that agrees speaks for itself; for another one the counts must too. */
	if (in_number > 0 && (in_all > MAX_FLIPPED || !ox_orphan_is_sure(o, gap->tree)))
		return NEVER;
	return 64 * in_number + in_all;
}

/* The only one nearest to it, or NULL. */
static const struct ox_orphan *nearest_orphan(const struct ox_walk *w, const struct ox_l1_gap *gap)
{
	const struct ox_salvage *s = w->salvage;
	const struct ox_orphan *best = NULL;
	unsigned least = NEVER;

	for (size_t i = 0; i < s->count; i++) {
		unsigned d = distance(w, &s->orphans[i], gap);

		if (d < least)
			best = &s->orphans[i];
		else if (d == least)
			best = NULL;
		least = d < least ? d : least;
	}
	return best;
}

static bool is_nearest_gap(const struct ox_walk *w, const struct ox_orphan *o,
			   const struct ox_l1_gap *gap)
{
	const struct ox_salvage *s = w->salvage;
	unsigned own = distance(w, o, gap);

	for (size_t i = 0; i < s->gap_count; i++) {
		if (&s->gaps[i] != gap && distance(w, o, &s->gaps[i]) <= own)
			return false;
	}
	return true;
}

/* Whether an orphan comes into question. A dirty image's counts are behind: there each one does
 * that fits; in others, what is not counted was freed. */
static bool is_contender(const struct ox_walk *w, const struct ox_orphan *o,
			 const struct ox_l1_gap *gap)
{
	return ox_orphan_fits(o, gap) && (w->dirty || ox_orphan_is_sure(o, gap->tree));
}

/* The one orphan that fits a gap, if it fits no other gap; else NULL. */
static const struct ox_orphan *only_orphan(const struct ox_walk *w, const struct ox_l1_gap *gap)
{
	const struct ox_salvage *s = w->salvage;
	const struct ox_orphan *only = NULL;

	for (size_t i = 0; i < s->count; i++) {
		if (!is_contender(w, &s->orphans[i], gap))
			continue;
		if (only)
			return NULL;
		only = &s->orphans[i];
	}
	for (size_t i = 0; i < s->gap_count && only; i++) {
		if (&s->gaps[i] != gap && is_contender(w, only, &s->gaps[i]))
			only = NULL;
	}
	return only && ox_orphan_is_sure(only, gap->tree) ? only : NULL;
}

static void choose(struct ox_walk *w)
{
	struct ox_salvage *s = w->salvage;

	/* The others may be nearer. */
	if (s->too_many || s->gap_count * s->count > MAX_COMPARISONS)
		return;
	for (size_t i = 0; i < s->gap_count; i++) {
		const struct ox_orphan *near = nearest_orphan(w, &s->gaps[i]);

		if (near && is_nearest_gap(w, near, &s->gaps[i]))
			s->gaps[i].orphan = near;
		else
			s->gaps[i].orphan = only_orphan(w, &s->gaps[i]);
	}
}

/* ---- what waits for the user's choice ---- */

struct ox_l1_gap *ox_salvage_gap(const struct ox_salvage *s, uint64_t tree, uint64_t index)
{
	for (size_t i = 0; i < s->gap_count; i++) {
		if (s->gaps[i].tree == tree && s->gaps[i].index == index)
			return &s->gaps[i];
	}
	return NULL;
}

static bool has_orphan(const struct ox_salvage *s, const struct ox_l1_gap *gap)
{
	for (size_t i = 0; i < s->count; i++) {
		if (ox_orphan_fits(&s->orphans[i], gap))
			return true;
	}
	return false;
}

bool ox_salvage_awaits(const struct ox_walk *w, uint64_t tree, uint64_t index)
{
	const struct ox_l1_gap *gap = w->salvage ? ox_salvage_gap(w->salvage, tree, index) : NULL;

	return gap && has_orphan(w->salvage, gap);
}

bool ox_salvage_awaits_alias(const struct ox_walk *w)
{
	for (size_t i = 0; w->salvage && i < w->salvage->gap_count; i++) {
		if (w->salvage->gaps[i].id == OX_FOUND_COUNT &&
		    has_orphan(w->salvage, &w->salvage->gaps[i]))
			return true;
	}
	return false;
}

int ox_salvage_fit_co(struct ox_walk *w)
{
	int r = ox_walk_place_tables_co(w);

	/* An L1 table that cannot be read has been told of. */
	if (r == 0 && w->result.check_errors == 0)
		r = ox_walk_l1_co(w, true, judge_l1_entry);
	if (r == 0)
		choose(w);
	return r;
}
