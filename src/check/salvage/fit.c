/* SPDX-License-Identifier: MIT */
/*
 * Which L1 entry named an orphan. Nothing in a table says where it belongs: only what is left of a
 * damaged pointer does, or a table that shares clusters with it, or that there is one of each.
 */
#include "check/salvage/salvage.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/grow.h"

/* Comparisons of pointers with places. */
#define MAX_COMPARISONS (UINT64_C(1) << 26)
#define NEVER UINT_MAX
/* A pointer so many times the file's length away is no other table's. */
#define FAR 16u

/* ---- gaps ---- */

static int add_gap(struct ox_salvage *s, struct ox_l1_gap gap)
{
	struct ox_walk *w = s->w;
	uint64_t at = w->v.trees[gap.tree].l1_offset + gap.index * 8;

	if (s->gap_count == OX_SALVAGE_MAX) {
		s->too_many = true;
		return 0;
	}
	if (ox_grow(s->gaps, s->gap_count, s->gap_room, 16) < 0)
		return -ENOMEM;
	gap.is_fixed = ox_counts_get(&w->k.cells, at / w->v.cluster_bytes).state != OX_CELL_META;
	s->gaps[s->gap_count++] = gap;
	return 0;
}

/* Tables that are named at several indexes: which of them is right is not known. */
static int note_crossed(void *arg, uint64_t tree, uint64_t index, struct ox_be64 *entry)
{
	struct ox_salvage *s = arg;
	struct ox_walk *w = s->w;
	struct ox_qcow2_l1_entry e = ox_qcow2_l1_decode(&w->v.h, ox_be64_get(*entry));
	uint64_t cluster = e.l2.bytes / w->v.cluster_bytes;
	uint64_t place = ox_walk_place_of(w, cluster);

	(void)tree;
	if (e.bad || place == OX_WALK_NO_PLACE || ox_walk_place_index(place) == index ||
	    !ox_cell_is_broken(ox_counts_get(&w->k.cells, cluster)))
		return 0;
	return ox_counts_set(&s->crossed, cluster,
			     (struct ox_cell){.state = OX_CELL_META, .count = 1});
}

/* Whether an entry that can be followed leads to no table, or to what may be another entry's. */
static bool leads_nowhere(const struct ox_salvage *s, uint64_t cluster)
{
	const struct ox_walk *w = s->w;
	return !ox_cell_is_l2(ox_counts_get(&w->k.cells, cluster)) ||
	       ox_walk_is_no_table(w, cluster) ||
	       ox_counts_get(&s->crossed, cluster).state != OX_CELL_NONE;
}

/* 1: a cluster holds zeroes, and no count tells that it holds a table; 0; or -ENOMEM. */
static int is_empty_co(struct ox_salvage *s, uint64_t cluster)
{
	struct ox_walk *w = s->w;
	uint64_t stored = 0;
	uint8_t *bytes;
	int r = ox_stored_count_co(&w->k, &s->stored, cluster, &stored);

	if (r <= 0 || stored > 0)
		return r == -ENOMEM ? r : 0;
	bytes = ox_io_buffer(w->v.cluster_bytes);
	if (!bytes)
		return -ENOMEM;
	r = ox_io_pread_co(w->v.io, bytes, w->v.cluster_bytes, cluster * w->v.cluster_bytes);
	if (r == 0)
		r = bytes[0] == 0 && memcmp(bytes, bytes + 1, w->v.cluster_bytes - 1) == 0;
	free(bytes);
	return r < 0 && r != -ENOMEM ? 0 : r;
}

static int judge_l1_entry_co(void *arg, uint64_t tree, uint64_t index, struct ox_be64 *entry)
{
	struct ox_salvage *s = arg;
	struct ox_walk *w = s->w;
	uint64_t raw = ox_be64_get(*entry);
	struct ox_qcow2_l1_entry e = ox_qcow2_l1_decode(&w->v.h, raw);
	struct ox_l1_gap gap = {.tree = tree, .index = index, .raw = raw, .id = OX_FOUND_COUNT};
	int r = 0;

	s->used_entries += tree == 0;
	if (e.bad || ox_view_past_end(&w->v, e.l2.bytes, w->v.cluster_bytes)) {
		(void)ox_view_bad_l1_entry(&w->v, tree, index, raw, &gap.id);
	} else if (!leads_nowhere(s, e.l2.bytes / w->v.cluster_bytes)) {
		if (s->g->too_low > 0)
			r = is_empty_co(s, e.l2.bytes / w->v.cluster_bytes);
		if (r <= 0)
			return r;
		gap.is_empty = true;
	}
	return add_gap(s, gap);
}

/* ---- which orphan ---- */

/* The disk's own tables have COPIED where the counts say so, snapshots' have none. */
bool ox_orphan_is_sure(const struct ox_orphan *o, uint64_t tree)
{
	return o->stored != OX_STORED_UNKNOWN && o->stored > 0 &&
	       o->counted == ox_orphan_named(o) && o->taken == 0 && !o->is_named &&
	       o->orphans == 0 && (o->damaged == 0 || ox_orphan_is_telling(o)) &&
	       (tree == 0 ? o->copied_agrees == o->data : o->copied == 0);
}

bool ox_orphan_fits(const struct ox_orphan *o, const struct ox_l1_gap *gap)
{
	return o->taken == 0 && !gap->is_fixed &&
	       (o->index == OX_WALK_NO_PLACE || o->index == gap->index);
}

/* How far a pointer is from naming an orphan: first in its cluster number, then in all bits. */
static unsigned distance(const struct ox_view *v, const struct ox_orphan *o,
			 const struct ox_l1_gap *gap)
{
	uint64_t numbers = (OX_QCOW2_OFFSET_MASK & ~(v->cluster_bytes - 1));
	uint64_t flipped = (gap->raw & ~OX_QCOW2_COPIED) ^ o->cluster * v->cluster_bytes;
	unsigned in_number = (unsigned)__builtin_popcountll(flipped & numbers);
	unsigned in_all = (unsigned)__builtin_popcountll(flipped);

	if (!(gap->raw & numbers) || !ox_orphan_fits(o, gap))
		return NEVER;
	/* A number that agrees speaks for itself. Another one near the file may be a neighbour's by
	 * chance; one that a single bit put far away, with counts that speak for it, is not. */
	if (in_number > 0 &&
	    (in_all > 1 || flipped / FAR < v->file_bytes || !ox_orphan_is_sure(o, gap->tree)))
		return NEVER;
	return 64 * in_number + in_all;
}

/* The only one nearest to it, or NULL. */
static const struct ox_orphan *nearest_orphan(const struct ox_salvage *s,
					      const struct ox_l1_gap *gap)
{
	const struct ox_view *v = &s->w->v;
	const struct ox_orphan *best = NULL;
	unsigned least = NEVER;

	for (size_t i = 0; i < s->count; i++) {
		unsigned d = distance(v, &s->orphans[i], gap);

		if (d < least)
			best = &s->orphans[i];
		else if (d == least)
			best = NULL;
		least = d < least ? d : least;
	}
	return best;
}

static bool is_nearest_gap(const struct ox_salvage *s, const struct ox_orphan *o,
			   const struct ox_l1_gap *gap)
{
	const struct ox_view *v = &s->w->v;
	unsigned own = distance(v, o, gap);

	for (size_t i = 0; i < s->gap_count; i++) {
		if (&s->gaps[i] != gap && distance(v, o, &s->gaps[i]) <= own)
			return false;
	}
	return true;
}

/* Whether an orphan comes into question. What is not counted was freed, but for a dirty image's. */
static bool is_contender(const struct ox_view *v, const struct ox_orphan *o,
			 const struct ox_l1_gap *gap)
{
	bool is_of_tree = gap->tree == 0 ? o->copied + o->streams > 0 : o->copied == 0;

	return ox_orphan_fits(o, gap) && is_of_tree && !o->is_placed && !gap->orphan &&
	       (v->dirty || o->stored > 0);
}

/* The one orphan that fits a gap, if it fits no other gap; else NULL. */
static const struct ox_orphan *only_orphan(const struct ox_salvage *s, const struct ox_l1_gap *gap)
{
	const struct ox_view *v = &s->w->v;
	const struct ox_orphan *only = NULL;

	for (size_t i = 0; i < s->count && !s->is_unsettled; i++) {
		if (!is_contender(v, &s->orphans[i], gap))
			continue;
		if (only)
			return NULL;
		only = &s->orphans[i];
	}
	for (size_t i = 0; i < s->gap_count && only; i++) {
		if (&s->gaps[i] != gap && is_contender(v, only, &s->gaps[i]))
			only = NULL;
	}
	return only && ox_orphan_is_sure(only, gap->tree) ? only : NULL;
}

/* 1: a cluster is counted, and nothing is known that it is counted for; 0; or -ENOMEM. */
static int is_unexplained_co(struct ox_salvage *s, uint64_t cluster)
{
	struct ox_walk *w = s->w;
	uint64_t stored = 0;
	int r;

	if (cluster == 0 || cluster >= w->v.file_clusters ||
	    ox_counts_get(&w->k.cells, cluster).state != OX_CELL_NONE ||
	    ox_counts_get(&s->kept, cluster).state != OX_CELL_NONE)
		return 0;
	r = ox_stored_count_co(&w->k, &s->stored, cluster, &stored);
	return r == -ENOMEM ? r : r > 0 && stored > 0;
}

/*
 * 1: the pointer still tells of a place where the table was, and where nothing can be recognised as
 * one any more. An orphan elsewhere is then another entry's. 0; or -ENOMEM.
 */
static int tells_of_another_co(struct ox_salvage *s, const struct ox_l1_gap *gap)
{
	struct ox_walk *w = s->w;
	uint64_t cluster = (gap->raw & OX_QCOW2_OFFSET_MASK) / w->v.cluster_bytes;
	struct ox_cell cell = ox_counts_get(&w->k.cells, cluster);
	uint64_t stored = 0;
	int r = 0;

	if (gap->id != OX_FOUND_COUNT && cluster < w->v.file_clusters)
		return is_unexplained_co(s, cluster);
	for (unsigned bit = w->v.h.cluster_bits; bit < 56 && gap->id != OX_FOUND_COUNT; bit++) {
		r = is_unexplained_co(s, cluster ^ UINT64_C(1) << (bit - w->v.h.cluster_bits));
		if (r != 0)
			return r;
	}
	/* Its cluster is counted for it, and no orphan's data: what it held was overwritten. */
	if (gap->id == OX_FOUND_COUNT && ox_cell_is_l2(cell) && !ox_cell_is_broken(cell) &&
	    ox_counts_get(&s->kept, cluster).state == OX_CELL_NONE)
		r = ox_stored_count_co(&w->k, &s->stored, cluster, &stored);
	return r == -ENOMEM ? r : r > 0 && stored >= cell.count;
}

static void choose_by_pointer(struct ox_salvage *s, struct ox_l1_gap *gap)
{
	const struct ox_orphan *near = nearest_orphan(s, gap);

	if (!near || gap->is_empty || !is_nearest_gap(s, near, gap))
		return;
	gap->orphan = near;
}

static int choose_only_co(struct ox_salvage *s, struct ox_l1_gap *gap)
{
	const struct ox_orphan *only = gap->orphan ? NULL : only_orphan(s, gap);
	int r = only ? tells_of_another_co(s, gap) : 0;

	if (r == 0 && only && !gap->is_empty)
		gap->orphan = only;
	return r < 0 ? r : 0;
}

/* First those whose pointer tells; what they have, nobody else has. */
static int choose_co(struct ox_salvage *s)
{
	int r = 0;

	/* The others may be nearer. */
	if (s->too_many || s->gap_count * s->count > MAX_COMPARISONS)
		return 0;
	for (size_t i = 0; i < s->gap_count; i++)
		choose_by_pointer(s, &s->gaps[i]);
	for (size_t i = 0; i < s->gap_count; i++) {
		if (s->gaps[i].orphan)
			ox_salvage_at(s, s->gaps[i].orphan->cluster)->is_placed = true;
	}
	for (size_t i = 0; i < s->gap_count && r == 0; i++)
		r = choose_only_co(s, &s->gaps[i]);
	ox_stored_free(&s->stored);
	return r;
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

bool ox_salvage_awaits(const struct ox_keeper *keeper, uint64_t tree, uint64_t index)
{
	const struct ox_salvage *s = ox_salvage_of(keeper);
	const struct ox_l1_gap *gap = ox_salvage_gap(s, tree, index);

	return gap && has_orphan(s, gap);
}

bool ox_salvage_awaits_alias(const struct ox_keeper *keeper)
{
	const struct ox_salvage *s = ox_salvage_of(keeper);

	for (size_t i = 0; i < s->gap_count; i++) {
		const struct ox_l1_gap *gap = &s->gaps[i];

		if (gap->id == OX_FOUND_COUNT && !gap->is_empty && has_orphan(s, gap))
			return true;
	}
	return false;
}

int ox_salvage_fit_co(struct ox_salvage *s)
{
	struct ox_walk *w = s->w;
	int r = ox_walk_place_tables_co(w);

	/* An L1 table that cannot be read has been told of. */
	if (r == 0 && w->j->totals.check_errors == 0)
		r = ox_walk_l1_co(w, OX_WAYS_ALL, note_crossed, s);
	if (r == 0 && w->j->totals.check_errors == 0)
		r = ox_walk_l1_co(w, OX_WAYS_ALL, judge_l1_entry_co, s);
	return r == 0 ? choose_co(s) : r;
}
