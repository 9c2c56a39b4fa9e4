/* SPDX-License-Identifier: MIT */
/*
 * Linking orphans. The table's own COPIED bits and all counts are durable before the L1 entry, 8
 * bytes, is written (D1, D2, D3): a crash before that leaves leaks.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "check/salvage/salvage.h"

struct link {
	struct ox_l1_gap gap;
	uint64_t cluster;
	bool by_hand;
	bool is_ready; /* counted, and its table is as it should be */
	uint64_t raw;  /* the L1 entry to be */
	struct ox_orphan orphan;
};

struct links {
	struct ox_salvage *s;
	struct ox_walk *w;
	struct link *items;
	size_t count;
	bool lacks_block;
	struct ox_be64 *table;
};

/* ---- telling ---- */

static void tell_table(const struct ox_salvage *s, const struct ox_orphan *o,
		       const struct ox_l1_gap *gap, uint64_t fits, bool linked)
{
	const struct ox_walk *w = s->w;
	const struct ox_check_options *opts = s->opts;
	struct ox_lost_table table = {
		.host_offset = o->cluster * w->v.cluster_bytes,
		.guest_clusters = ox_orphan_named(o),
		.compressed = o->streams,
		.zero_clusters = o->zeros,
		.unshared = o->unshared,
		.counted = o->counted,
		.taken = o->taken,
		.copied = o->copied,
		.runs = o->runs,
		.damaged = o->damaged,
		.is_counted = o->stored != OX_STORED_UNKNOWN && o->stored > 0,
		.is_sure = ox_orphan_is_sure(o, gap ? gap->tree : 0),
		.fits = fits,
		.l1_index = gap ? gap->index : UINT64_MAX,
		.snapshot = gap && gap->tree ? w->v.trees[gap->tree].name : NULL,
		.linked = linked,
	};

	if (opts->lost_table)
		opts->lost_table(opts->opaque, &table);
}

static void tell_linked(struct ox_salvage *s, const struct link *link)
{
	struct ox_walk *w = s->w;
	uint64_t span = ox_view_l1_span(&w->v);
	struct ox_found what = {.a = link->cluster * w->v.cluster_bytes,
				.b = ox_orphan_named(&link->orphan),
				.host_offset = link->cluster * w->v.cluster_bytes};
	enum ox_finding_id id = link->gap.id;
	char text[64];

	snprintf(text, sizeof(text), "L1 entry %" PRIu64 " names it again", link->gap.index);
	what.word = text;
	if (id == OX_FOUND_COUNT) {
		ox_view_set_range(&w->v, &what, link->gap.tree, link->gap.index * span, span);
		what.fate = "in doubt";
	} else {
		struct ox_found entry = ox_view_bad_l1_entry(&w->v, link->gap.tree, link->gap.index,
							     link->gap.raw, &id);

		entry.fate = "in doubt";
		ox_journal_mended(w->j, id, entry);
	}
	ox_journal_mended(w->j, OX_FOUND_ORPHAN_TABLE, what);
	tell_table(s, &link->orphan, &link->gap, 1, true);
	s->linked++;
}

static void describe_place(const struct ox_salvage *s, const struct ox_orphan *o,
			   const struct ox_l1_gap *gap, uint64_t fits, char *to, size_t room)
{
	const struct ox_walk *w = s->w;
	const char *whose = gap && gap->tree ? " of a snapshot" : "";
	uint64_t empty = w->v.trees[0].l1_entries - s->used_entries;

	if (!s->opts->salvage)
		snprintf(to, room, "the counts tell that something named it");
	else if (o->taken > 0)
		snprintf(to, room, "others name %" PRIu32 " of its clusters", o->taken);
	else if (gap)
		snprintf(to, room, "it fits L1 entry %" PRIu64 "%s", gap->index, whose);
	else if (o->index != OX_WALK_NO_PLACE)
		snprintf(to, room, "it shares clusters with the table of L1 entry %" PRIu64,
			 o->index);
	else if (fits > 0)
		snprintf(to, room, "of %" PRIu64 " damaged L1 entries each may have named it",
			 fits);
	else
		snprintf(to, room,
			 "it fits no damaged L1 entry; %" PRIu64 " of %" PRIu32 " are empty", empty,
			 w->v.trees[0].l1_entries);
}

static void describe(const struct ox_salvage *s, const struct ox_orphan *o,
		     const struct ox_l1_gap *gap, uint64_t fits, char *to, size_t room)
{
	size_t used;

	describe_place(s, o, gap, fits, to, room);
	used = strlen(to);
	if (o->damaged > 0)
		snprintf(to + used, room - used, "; %" PRIu32 " of its entries %s damaged",
			 o->damaged, o->damaged == 1 ? "is" : "are");
}

void ox_salvage_report(struct ox_salvage *s)
{
	struct ox_walk *w = s->w;

	if (s->unsearched > 0)
		ox_journal_found(w->j, OX_FOUND_LEAKS_UNSEARCHED, OX_FOUND(.a = s->unsearched));
	for (size_t i = 0; i < s->count; i++) {
		const struct ox_orphan *o = &s->orphans[i];
		struct ox_found what = {.a = o->cluster * w->v.cluster_bytes,
					.b = ox_orphan_named(o),
					.host_offset = o->cluster * w->v.cluster_bytes};
		const struct ox_l1_gap *gap = NULL;
		uint64_t fits = 0;
		char text[128];

		for (size_t g = 0; g < s->gap_count; g++) {
			fits += ox_orphan_fits(o, &s->gaps[g]);
			if (s->gaps[g].orphan == o)
				gap = &s->gaps[g];
		}
		describe(s, o, gap, fits, text, sizeof(text));
		what.word = text;
		ox_journal_found(w->j, OX_FOUND_ORPHAN_TABLE, what);
		tell_table(s, o, gap, fits, false);
	}
}

/* ---- what is to be linked ---- */

/* Why nothing can be; NULL where it can. */
static const char *why_none(const struct ox_view *v)
{
	if (v->is_foreign)
		return "the image has features that are not known";
	if (v->has_data_file)
		return "its clusters lie in another file";
	if (ox_seen_hides_trees(v->j))
		return "there are tables that cannot be seen, and it may be theirs";
	return ox_view_has_fault_but(v, OX_QCOW2_FAULT_COUNT) ? "the header is damaged" : NULL;
}

/* The L1 entry that the user named: damaged, or zero. */
static int take_entry_co(struct ox_salvage *s, uint64_t index, struct ox_l1_gap *ret,
			 struct ox_error **err)
{
	struct ox_walk *w = s->w;
	uint64_t at = w->v.trees[0].l1_offset + index * 8;
	const struct ox_l1_gap *gap = ox_salvage_gap(s, 0, index);
	struct ox_be64 raw;
	int r;

	if (index >= w->v.trees[0].l1_entries)
		return ox_error_set(err, -EINVAL, "There is no L1 entry %" PRIu64, index);
	*ret = (struct ox_l1_gap){.index = index, .id = OX_FOUND_COUNT};
	r = ox_io_pread_co(w->v.io, &raw, sizeof(raw), at);
	if (r < 0)
		return ox_error_set_errno(err, r, "Could not read L1 entry %" PRIu64, index);
	if (gap)
		*ret = *gap;
	else if (raw.raw)
		return ox_error_set(err, -EINVAL,
				    "L1 entry %" PRIu64 " names a table, which is not replaced",
				    index);
	if (ox_counts_get(&w->k.cells, at / w->v.cluster_bytes).state != OX_CELL_META)
		return ox_error_set(err, -EINVAL,
				    "L1 entry %" PRIu64 " lies on something else, and is not "
				    "written",
				    index);
	return 0;
}

static int refuse(const struct ox_view *v, uint64_t cluster, const char *why, struct ox_error **err)
{
	return ox_error_set(err, -EINVAL, "The cluster at 0x%" PRIx64 " is not linked: %s",
			    cluster * v->cluster_bytes, why);
}

static int add_by_hand_co(struct links *l, const struct ox_table_link *asked, struct ox_error **err)
{
	struct ox_walk *w = l->w;
	struct link link = {.cluster = asked->host_offset / w->v.cluster_bytes, .by_hand = true};
	const char *why = why_none(&w->v);
	int r;

	if (asked->host_offset % w->v.cluster_bytes != 0)
		return ox_error_set(err, -EINVAL, "No cluster begins at 0x%" PRIx64,
				    asked->host_offset);
	if (!why &&
	    asked->host_offset > w->v.file_bytes - ox_min_u64(w->v.file_bytes, w->v.cluster_bytes))
		why = "it lies past the end of the file";
	if (!why && ox_counts_get(&w->k.cells, link.cluster).state != OX_CELL_NONE)
		why = "it is in use";
	if (why)
		return refuse(&w->v, link.cluster, why, err);
	r = take_entry_co(l->s, asked->l1_index, &link.gap, err);
	if (r == 0)
		l->items[l->count++] = link;
	return r;
}

static bool is_listed(const struct links *l, const struct ox_l1_gap *gap)
{
	for (size_t i = 0; i < l->count; i++) {
		if (l->items[i].cluster == gap->orphan->cluster ||
		    (l->items[i].gap.tree == gap->tree && l->items[i].gap.index == gap->index))
			return true;
	}
	return false;
}

static int list_co(struct links *l, struct ox_error **err)
{
	struct ox_salvage *s = l->s;
	size_t by_hand = s->by_hand_done ? 0 : s->opts->link_count;
	int r = 0;

	l->items = calloc(by_hand + s->gap_count + 1, sizeof(*l->items));
	if (!l->items)
		return ox_error_set(err, -ENOMEM, "Out of memory");
	for (size_t i = 0; i < by_hand && r == 0; i++)
		r = add_by_hand_co(l, &s->opts->links[i], err);
	for (size_t i = 0; i < s->gap_count && r == 0 && !why_none(&l->w->v); i++) {
		if (s->gaps[i].orphan && !is_listed(l, &s->gaps[i]))
			l->items[l->count++] = (struct link){
				.gap = s->gaps[i],
				.cluster = s->gaps[i].orphan->cluster,
			};
	}
	return r;
}

/* ---- one table ---- */

/* Whether a count is one when all that is counted now is durable; its block then raises it. */
static int is_single_co(struct ox_salvage *s, uint64_t cluster, bool *ret)
{
	struct ox_walk *w = s->w;
	uint64_t stored = 0;
	int r = ox_stored_count_co(&w->k, &s->stored, cluster, &stored);

	if (r == -ENOMEM)
		return r;
	ox_ledger_mark(&w->k, cluster, true, false);
	*ret = ox_max_u64(stored, ox_counts_get(&w->k.cells, cluster).count) == 1;
	return 0;
}

/* Gives the entries of a table of the disk the COPIED bits that the counts call for (D2). */
static int settle_copied_co(struct ox_salvage *s, const struct link *link, struct ox_be64 *table)
{
	struct ox_walk *w = s->w;
	unsigned words = ox_qcow2_l2_words(&w->v.h);
	bool changed = false;

	for (uint64_t i = 0; i < ox_qcow2_l2_entries(&w->v.h); i++) {
		struct ox_orphan_entry entry =
			ox_salvage_entry(w, link->cluster, &table[i * words]);
		uint64_t raw = ox_be64_get(table[i * words]);
		struct ox_qcow2_entry e = entry.e;
		bool single = false;
		int r = 0;

		if (!entry.names)
			continue;
		if (e.kind == OX_QCOW2_ENTRY_COMPRESSED) {
			uint64_t last = e.host.bytes + e.compressed_bytes - 1;

			r = is_single_co(s, e.host.bytes / w->v.cluster_bytes, &single);
			if (r == 0)
				r = is_single_co(s, last / w->v.cluster_bytes, &single);
		} else {
			r = is_single_co(s, e.host.bytes / w->v.cluster_bytes, &single);
			if (link->gap.tree == 0 && single != e.copied) {
				table[i * words] = ox_be64(raw ^ OX_QCOW2_COPIED);
				changed = true;
			}
		}
		if (r < 0)
			return r;
	}
	if (!changed)
		return 0;
	return ox_io_pwrite_co(w->v.io, table, w->v.cluster_bytes,
			       link->cluster * w->v.cluster_bytes, 0);
}

/* What is no table was named by the entry that is about to change: it is not to be counted. */
static int forget_old(struct ox_walk *w, const struct ox_l1_gap *gap)
{
	uint64_t cluster = (gap->raw & OX_QCOW2_OFFSET_MASK) / w->v.cluster_bytes;
	struct ox_cell cell = ox_counts_get(&w->k.cells, cluster);

	if (gap->id != OX_FOUND_COUNT || !ox_cell_is_l2(cell) || ox_cell_is_broken(cell) ||
	    cell.count > 1)
		return 0;
	return ox_counts_set(&w->k.cells, cluster, (struct ox_cell){0});
}

/* From here on the walk knows the table as if it had been named. */
static int count_table_co(struct links *l, struct link *link)
{
	struct ox_walk *w = l->w;
	unsigned flags = link->gap.tree == 0 ? OX_CELL_COPIED : 0;
	struct ox_cell cell = {.state = OX_CELL_L2 | flags, .count = 1};
	bool single = false;
	int r = ox_counts_refer(&w->k.cells, link->cluster, cell.state, 1);

	if (r > 0)
		r = ox_walk_count_l2_table_co(w, link->cluster, cell, l->table);
	if (r == 0)
		r = is_single_co(l->s, link->cluster, &single);
	if (r == 0)
		r = settle_copied_co(l->s, link, l->table);
	link->raw = link->cluster * w->v.cluster_bytes |
		    (link->gap.tree == 0 && single ? OX_QCOW2_COPIED : 0);
	link->is_ready = r == 0;
	return r;
}

/* A block to be made grows the file: not beneath an entry, and not where others are to be mended.
 */
static bool can_count(const struct links *l, const struct ox_orphan *o)
{
	const struct ox_walk *w = l->w;
	bool grows = o->lacks_block || l->lacks_block;

	return !grows || o->past_end + ox_seen_past_end(w->j) + w->stale + w->k.broken_blocks +
					 ox_seen_aliases(w->j) ==
				 0;
}

/* Judges a table as it is now that those before it are counted. */
static int make_ready_co(struct links *l, struct link *link, struct ox_error **err)
{
	struct ox_walk *w = l->w;
	const char *why = "it is in use";
	int r = 0;

	if (ox_counts_get(&w->k.cells, link->cluster).state == OX_CELL_NONE) {
		why = "it cannot be read";
		r = ox_io_pread_co(w->v.io, l->table, w->v.cluster_bytes,
				   link->cluster * w->v.cluster_bytes);
		if (r == 0)
			r = ox_salvage_judge_co(l->s, link->cluster, l->table, &link->orphan, &why);
	}
	if (r == -ENOMEM)
		return ox_error_set(err, r, "Out of memory");
	if (!why && link->orphan.taken > 0)
		why = "others name clusters that it names";
	if (!why && !can_count(l, &link->orphan))
		why = "its counts cannot be made while other damage is there: repair that first";
	if (why)
		return link->by_hand ? refuse(&w->v, link->cluster, why, err) : 0;
	l->lacks_block |= link->orphan.lacks_block;
	r = count_table_co(l, link);
	return r < 0 ? ox_error_set_errno(err, r, "Could not salvage '%s'", w->v.io->name) : 0;
}

/* ---- all of them ---- */

static int publish_co(struct links *l)
{
	struct ox_walk *w = l->w;
	struct ox_plan plan = {0};
	int r = l->lacks_block ? ox_plan_make(l->s->m, &plan) : 0;

	/* There are more clusters than any refcount table can count. */
	if (r == 0 && l->lacks_block && plan.count == 0)
		r = -EFBIG;
	if (r == 0)
		r = plan.count > 0 ? ox_mend_publish_counts_co(w, &plan)
				   : ox_mend_raise_counts_co(w);
	ox_plan_free(&plan);
	return r;
}

static int write_entries_co(struct links *l)
{
	struct ox_walk *w = l->w;
	int r = 0;

	for (size_t i = 0; i < l->count && r == 0; i++) {
		const struct link *link = &l->items[i];
		struct ox_be64 raw = ox_be64(link->raw);

		if (link->is_ready)
			r = ox_io_pwrite_co(
				w->v.io, &raw, sizeof(raw),
				w->v.trees[link->gap.tree].l1_offset + 8 * link->gap.index, 0);
	}
	return r < 0 ? r : ox_io_sync_co(w->v.io);
}

static int link_all_co(struct links *l, bool *ret_again, struct ox_error **err)
{
	bool any = false;
	int r = 0;

	for (size_t i = 0; i < l->count && r == 0; i++) {
		r = forget_old(l->w, &l->items[i].gap);
		if (r < 0)
			ox_error_set(err, r, "Out of memory");
	}
	for (size_t i = 0; i < l->count && r == 0; i++) {
		r = make_ready_co(l, &l->items[i], err);
		any |= l->items[i].is_ready;
	}
	if (r < 0 || !any)
		return r;
	r = publish_co(l);
	if (r == 0)
		r = write_entries_co(l);
	if (r < 0)
		return ox_error_set_errno(err, r, "Could not repair '%s'", l->w->v.io->name);
	for (size_t i = 0; i < l->count; i++) {
		if (l->items[i].is_ready)
			tell_linked(l->s, &l->items[i]);
	}
	/* Its count is right now, and it looks like any other. */
	for (size_t i = 0; i < l->s->gap_count; i++)
		l->s->is_unsettled |= l->s->gaps[i].is_empty;
	*ret_again = true;
	return 0;
}

int ox_salvage_link_co(struct ox_salvage *s, bool *ret_again, struct ox_error **err)
{
	struct links l = {.s = s, .w = s->w, .table = ox_io_buffer(s->w->v.cluster_bytes)};
	int r = l.table ? ox_salvage_prepare(s) : -ENOMEM;

	if (r < 0)
		ox_error_set(err, r, "Out of memory");
	else
		r = list_co(&l, err);
	s->is_linking = true;
	if (r == 0 && l.count > 0)
		r = link_all_co(&l, ret_again, err);
	s->is_linking = false;
	s->by_hand_done = true;
	ox_salvage_finish(s);
	free(l.items);
	free(l.table);
	return r;
}
