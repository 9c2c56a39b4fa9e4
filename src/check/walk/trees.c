/* SPDX-License-Identifier: MIT */
/* The ways through L1 and L2 tables: every pass over them goes through here. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "check/scan/crew.h"
#include "check/scan/scan.h"
#include "check/walk/walk.h"

#define SECTOR_BYTES UINT64_C(512)
#define MAX_ITEM_ENTRIES ((size_t)8192)

/* ---- writing back what a visitor changed ---- */

/*
 * Writes the sectors in which table differs from before, in one piece. Each sector is old or new
 * after a crash (M2), and every entry in it is right either way.
 */
static int write_changes_co(const struct ox_view *v, const uint8_t *before, const uint8_t *table,
			    size_t size_bytes, uint64_t offset)
{
	size_t first = size_bytes;
	size_t last = 0;

	for (size_t at = 0; at < size_bytes; at += SECTOR_BYTES) {
		size_t part = ox_min_u64(SECTOR_BYTES, size_bytes - at);

		if (memcmp(before + at, table + at, part) == 0)
			continue;
		first = ox_min_u64(first, at);
		last = at + part;
	}
	if (last == 0)
		return 0;
	return ox_io_pwrite_co(v->io, table + first, last - first, offset + first, 0);
}

/* ---- L1 ---- */

struct l1_pass {
	struct ox_walk *w;
	ox_walk_l1_fn visit_co;
	void *arg;
	uint8_t *before; /* a copy, to see what a visitor changed; NULL: none may */
	uint64_t tree_end;
	uint64_t tree;
	uint64_t index;
};

static bool l1_next(void *arg, struct ox_scan_item *ret)
{
	struct l1_pass *p = arg;
	const struct ox_view_tree *t;
	size_t entries;

	while (p->tree < p->tree_end && p->index >= p->w->v.trees[p->tree].l1_entries) {
		p->tree++;
		p->index = 0;
	}
	if (p->tree >= p->tree_end)
		return false;
	t = &p->w->v.trees[p->tree];
	entries = ox_min_u64(t->l1_entries - p->index, MAX_ITEM_ENTRIES);
	*ret = (struct ox_scan_item){
		.offset = t->l1_offset + p->index * 8,
		.size_bytes = entries * 8,
		.tag = p->tree,
	};
	p->index += entries;
	return true;
}

static bool is_only_meta(const struct ox_walk *w, uint64_t offset)
{
	return ox_counts_get(&w->k.cells, offset / w->v.cluster_bytes).state == OX_CELL_META;
}

static int l1_item_co(void *arg, const struct ox_scan_item *item, uint8_t *bytes, int error)
{
	struct l1_pass *p = arg;
	struct ox_be64 *table = (struct ox_be64 *)bytes;
	uint64_t first = (item->offset - p->w->v.trees[item->tag].l1_offset) / 8;

	if (error)
		return ox_journal_unreadable(p->w->j, "L1 table", item->offset, error);
	if (p->before)
		memcpy(p->before, bytes, item->size_bytes);
	for (size_t i = 0; i < item->size_bytes / 8; i++) {
		int r;

		/* A part of a table that is something else too is not changed. */
		if (p->before && !is_only_meta(p->w, item->offset + i * 8))
			continue;
		r = table[i].raw ? p->visit_co(p->arg, item->tag, first + i, &table[i]) : 0;

		if (r < 0)
			return r;
	}
	if (!p->before)
		return 0;
	return write_changes_co(&p->w->v, p->before, bytes, item->size_bytes, item->offset);
}

int ox_walk_l1_co(struct ox_walk *w, unsigned ways, ox_walk_l1_fn visit_co, void *arg)
{
	static const struct ox_scan_ops ops = {.next = l1_next, .visit_co = l1_item_co};
	struct l1_pass p = {
		.w = w,
		.visit_co = visit_co,
		.arg = arg,
		.tree_end =
			ways & OX_WAYS_ACTIVE ? ox_min_u64(w->v.tree_count, 1) : w->v.tree_count,
	};
	int r;

	if (ways & OX_WAYS_CHANGE) {
		p.before = malloc(MAX_ITEM_ENTRIES * 8);
		if (!p.before)
			return -ENOMEM;
	}
	r = ox_scan_co(w->v.io, w->v.cluster_bytes, &ops, &p);
	free(p.before);
	return r;
}

/* ---- L2 ---- */

struct l2_pass {
	struct ox_walk *w;
	ox_walk_l2_fn visit_co;
	void *arg;
	const uint64_t *done; /* a bit for each of w->tables.items; or NULL */
	uint8_t *before;
	uint64_t next; /* in w->tables.items */
	bool active_only;
};

static bool l2_wanted(const struct l2_pass *p, uint64_t index)
{
	uint64_t cluster = p->w->tables.items[index];

	if (ox_crew_is_done(p->done, index))
		return false;
	return !p->active_only || (ox_counts_get(&p->w->k.cells, cluster).state & 3u) != 0;
}

/* A run of neighbouring tables. */
static bool l2_next(void *arg, struct ox_scan_item *ret)
{
	struct l2_pass *p = arg;
	const struct ox_walk *w = p->w;
	uint64_t most = ox_scan_item_max(w->v.cluster_bytes) / w->v.cluster_bytes;
	uint64_t first, run;

	while (p->next < w->tables.count && !l2_wanted(p, p->next))
		p->next++;
	if (p->next == w->tables.count)
		return false;
	first = w->tables.items[p->next++];
	for (run = 1; run < most && p->next < w->tables.count; run++, p->next++) {
		if (w->tables.items[p->next] != first + run || !l2_wanted(p, p->next))
			break;
	}
	*ret = (struct ox_scan_item){
		.offset = first * w->v.cluster_bytes,
		.size_bytes = run * w->v.cluster_bytes,
	};
	return true;
}

static int l2_table_co(struct l2_pass *p, uint64_t offset, uint8_t *bytes)
{
	struct ox_walk *w = p->w;
	uint64_t cluster = offset / w->v.cluster_bytes;
	int r;

	if (p->before)
		memcpy(p->before, bytes, w->v.cluster_bytes);
	r = p->visit_co(p->arg, cluster, ox_counts_get(&w->k.cells, cluster),
			(struct ox_be64 *)bytes);
	ox_journal_progress(w->j, 1);
	if (r < 0 || !p->before)
		return r;
	return write_changes_co(&w->v, p->before, bytes, w->v.cluster_bytes, offset);
}

static int unreadable_l2(struct ox_walk *w, uint64_t offset, int error)
{
	int r = ox_journal_unreadable(w->j, "L2 table", offset, error);

	return r < 0 ? r : ox_walk_note_no_table(w, offset / w->v.cluster_bytes);
}

static int l2_item_co(void *arg, const struct ox_scan_item *item, uint8_t *bytes, int error)
{
	struct l2_pass *p = arg;
	struct ox_walk *w = p->w;

	for (uint64_t at = 0; at < item->size_bytes; at += w->v.cluster_bytes) {
		int r = 0;

		/* One bad table of a run does not take its neighbours with it. */
		if (error)
			r = ox_io_pread_co(w->v.io, bytes + at, w->v.cluster_bytes,
					   item->offset + at);
		if (r < 0)
			r = unreadable_l2(w, item->offset + at, r);
		else
			r = l2_table_co(p, item->offset + at, bytes + at);
		if (r == 0 && w->v.pause_co)
			r = w->v.pause_co(w->v.pause_arg);
		if (r < 0)
			return r;
	}
	return 0;
}

static int l2_pass_co(struct l2_pass *p, unsigned ways)
{
	static const struct ox_scan_ops ops = {.next = l2_next, .visit_co = l2_item_co};
	struct ox_walk *w = p->w;
	int r;

	p->active_only = ways & OX_WAYS_ACTIVE;
	if (ways & OX_WAYS_CHANGE) {
		p->before = malloc(w->v.cluster_bytes);
		if (!p->before)
			return -ENOMEM;
	}
	r = ox_scan_co(w->v.io, w->v.cluster_bytes, &ops, p);
	free(p->before);
	return r;
}

int ox_walk_l2_co(struct ox_walk *w, unsigned ways, ox_walk_l2_fn visit_co, void *arg)
{
	struct l2_pass p = {.w = w, .visit_co = visit_co, .arg = arg};

	return l2_pass_co(&p, ways);
}

int ox_walk_l2_but_co(struct ox_walk *w, const uint64_t *done, ox_walk_l2_fn visit_co, void *arg)
{
	struct l2_pass p = {.w = w, .visit_co = visit_co, .arg = arg, .done = done};

	return l2_pass_co(&p, OX_WAYS_ALL);
}
