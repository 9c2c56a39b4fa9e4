/* SPDX-License-Identifier: MIT */
/*
 * Before what leaked is freed: whether it holds lost L2 tables. Where an L1 entry was zeroed, all
 * that it led to looks like leaks, and the guest's next writes would take its place. Only what
 * leaked is read, of each cluster what one page of the host holds first, and no more than is quick;
 * and only what is SURE is kept.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "check/salvage/salvage.h"
#include "check/scan/scan.h"

#define MOST_BYTES (UINT64_C(256) << 20)
#define FIRST_BYTES UINT64_C(4096)
#define MOST_EXTENTS 4096u /* of a file that is asked for its holes */

struct ox_salvage_look {
	struct ox_counts leaked; /* META: nobody names it, and it is counted */
	uint64_t count;
	uint64_t next;
	uint64_t read_bytes;
	uint8_t *whole; /* a cluster */
};

/* ---- what leaked ---- */

static int note_leak(void *arg, struct ox_slot *slot)
{
	struct ox_salvage *s = arg;
	struct ox_walk *w = s->w;
	struct ox_salvage_look *look = s->look;

	if (slot->cell.state != OX_CELL_NONE || slot->stored == 0 ||
	    slot->cluster >= w->v.file_bytes / w->v.cluster_bytes)
		return 0;
	look->count++;
	return ox_counts_set(&look->leaked, slot->cluster,
			     (struct ox_cell){.state = OX_CELL_META, .count = 1});
}

/* What lies wholly in holes of the file is no table, and takes no reading. */
static int leave_out_holes_co(struct ox_salvage *s)
{
	struct ox_walk *w = s->w;
	struct ox_salvage_look *look = s->look;
	uint64_t end = w->v.file_bytes / w->v.cluster_bytes;
	struct ox_io_extent extent = {0};
	uint64_t known_to = 0;
	unsigned asked = 0;

	for (uint64_t c = 0; (c = ox_counts_next(&look->leaked, c, end)) < end; c++) {
		uint64_t offset = c * w->v.cluster_bytes;

		if (offset >= known_to) {
			if (asked++ == MOST_EXTENTS ||
			    ox_io_extent_co(w->v.io, offset, &extent) < 0)
				return 0;
			if (!ox_add_u64(offset, extent.length, &known_to))
				known_to = UINT64_MAX;
		}
		if (!extent.zero || known_to - offset < w->v.cluster_bytes)
			continue;
		look->count--;
		if (ox_counts_set(&look->leaked, c, (struct ox_cell){0}) < 0)
			return -ENOMEM;
	}
	return 0;
}

static uint64_t first_bytes(const struct ox_view *v)
{
	return ox_min_u64(FIRST_BYTES, v->cluster_bytes);
}

/* Of large clusters the beginning of one; else a run of whole ones. */
static bool next_leaked(void *arg, struct ox_scan_item *ret)
{
	struct ox_salvage *s = arg;
	struct ox_walk *w = s->w;
	struct ox_salvage_look *look = s->look;
	uint64_t end = w->v.file_bytes / w->v.cluster_bytes;
	uint64_t first = ox_counts_next(&look->leaked, look->next, end);
	size_t most = w->v.cluster_bytes > FIRST_BYTES ? 1 : ox_scan_item_max(w->v.cluster_bytes);

	if (first >= end)
		return false;
	*ret = (struct ox_scan_item){.offset = first * w->v.cluster_bytes};
	do {
		ret->size_bytes += first_bytes(&w->v);
		first++;
	} while (ret->size_bytes + w->v.cluster_bytes <= most &&
		 ox_counts_next(&look->leaked, first, first + 1) == first);
	look->next = first;
	return true;
}

/* ---- one cluster ---- */

static bool is_zero(const uint8_t *bytes, uint64_t count)
{
	return bytes[0] == 0 && memcmp(bytes, bytes + 1, count - 1) == 0;
}

/* Whether what it begins with can be, for the most part, entries of a table. */
static bool begins_well(const struct ox_walk *w, uint64_t cluster, const struct ox_be64 *table)
{
	unsigned words = ox_qcow2_l2_words(&w->v.h);
	uint64_t entries = first_bytes(&w->v) / 8 / words;
	uint64_t damaged = 0;
	uint64_t used = 0;

	for (uint64_t i = 0; i < entries && 2 * damaged <= entries; i++) {
		used += table[i * words].raw != 0;
		damaged += ox_salvage_entry(w, cluster, &table[i * words]).is_damaged;
	}
	return 2 * damaged <= used;
}

static int judge_co(struct ox_salvage *s, uint64_t cluster, const uint8_t *bytes)
{
	const struct ox_be64 *table = (const struct ox_be64 *)bytes;
	struct ox_orphan orphan;
	const char *why = NULL;
	int r = ox_salvage_judge_co(s, cluster, table, &orphan, &why);

	if (r < 0 || why || (!ox_orphan_is_sure(&orphan, 0) && !ox_orphan_is_sure(&orphan, 1)))
		return r;
	return ox_salvage_add(s, &orphan, table);
}

static int look_at_co(struct ox_salvage *s, uint64_t cluster, const uint8_t *bytes)
{
	struct ox_walk *w = s->w;
	struct ox_salvage_look *look = s->look;
	bool begins_zero = is_zero(bytes, first_bytes(&w->v));
	int r;

	if (!begins_zero && !begins_well(w, cluster, (const struct ox_be64 *)bytes))
		return 0;
	if (w->v.cluster_bytes <= FIRST_BYTES)
		return begins_zero ? 0 : judge_co(s, cluster, bytes);
	look->read_bytes += w->v.cluster_bytes;
	if (look->read_bytes > MOST_BYTES) {
		s->unsearched = look->count;
		return 0;
	}
	r = ox_io_pread_co(w->v.io, look->whole, w->v.cluster_bytes, cluster * w->v.cluster_bytes);
	if (r < 0)
		return r == -ENOMEM ? r : 0;
	return begins_zero && is_zero(look->whole, w->v.cluster_bytes)
		       ? 0
		       : judge_co(s, cluster, look->whole);
}

static int look_at_item_co(void *arg, const struct ox_scan_item *item, uint8_t *bytes, int error)
{
	struct ox_salvage *s = arg;
	struct ox_walk *w = s->w;
	int r = error == -ENOMEM ? error : 0;

	if (r == 0 && w->v.pause_co)
		r = w->v.pause_co(w->v.pause_arg);
	for (uint64_t at = 0; at < item->size_bytes && r == 0; at += w->v.cluster_bytes) {
		int failed = error ? ox_io_pread_co(w->v.io, bytes + at, first_bytes(&w->v),
						    item->offset + at)
				   : 0;

		/* Nobody misses what nothing names. */
		if (failed == 0)
			r = look_at_co(s, (item->offset + at) / w->v.cluster_bytes, bytes + at);
		else if (failed == -ENOMEM)
			r = failed;
	}
	return r;
}

/* ---- all of them ---- */

static int search_co(struct ox_salvage *s)
{
	struct ox_walk *w = s->w;
	static const struct ox_scan_ops ops = {.next = next_leaked, .visit_co = look_at_item_co};
	struct ox_salvage_look *look = s->look;
	int r = ox_slots_co(&w->k, OX_SLOTS_LOWER, note_leak, s);

	if (r == 0)
		r = leave_out_holes_co(s);
	if (r < 0 || look->count == 0)
		return r;
	look->read_bytes = look->count * first_bytes(&w->v);
	if (look->read_bytes > MOST_BYTES) {
		s->unsearched = look->count;
		return 0;
	}
	look->whole = ox_io_buffer(w->v.cluster_bytes);
	r = look->whole ? ox_salvage_prepare(s) : -ENOMEM;
	if (r == 0)
		r = ox_scan_co(w->v.io, w->v.cluster_bytes, &ops, s);
	ox_salvage_finish(s);
	if (s->too_many)
		s->unsearched = look->count;
	return r;
}

/* Leaves those that are sure also beside each other, and keeps what they name and nothing else. */
static int leave_sure_co(struct ox_salvage *s)
{
	struct ox_walk *w = s->w;
	size_t sure = 0;
	int r;

	for (size_t i = 0; i < s->count; i++) {
		if (ox_orphan_is_sure(&s->orphans[i], 0) || ox_orphan_is_sure(&s->orphans[i], 1))
			s->orphans[sure++] = s->orphans[i];
	}
	s->count = sure;
	ox_counts_free(&s->kept);
	r = ox_counts_init(&s->kept, w->v.file_clusters + 1);
	for (size_t i = 0; i < s->count && r == 0; i++) {
		uint64_t cluster = s->orphans[i].cluster;

		r = ox_io_pread_co(w->v.io, s->look->whole, w->v.cluster_bytes,
				   cluster * w->v.cluster_bytes);
		if (r == 0)
			r = ox_salvage_keep(s, cluster, (const struct ox_be64 *)s->look->whole);
		s->has_damaged |= s->orphans[i].damaged > 0;
	}
	return r;
}

/*
 * Where something cannot be followed nothing is freed. In a dirty image a table that was freed may
 * still be counted, and the recovery at its next opening frees it.
 */
static bool is_worth_it(const struct ox_salvage *s)
{
	const struct ox_walk *w = s->w;
	/* A table, and what it names. */
	return s->g->leaks > 1 && w->j->structural == w->j->seen[OX_FOUND_OVERFLOW] &&
	       !w->v.is_foreign && !w->v.has_data_file && !w->v.dirty;
}

static int look_co(struct ox_salvage *s)
{
	struct ox_salvage_look look = {0};
	uint64_t clusters = s->w->v.file_clusters + 1;
	int r = ox_counts_init(&s->kept, clusters);

	s->look = &look;
	if (r == 0)
		r = ox_counts_init(&look.leaked, clusters);
	if (r == 0)
		r = search_co(s);
	if (r == 0 && s->count > 0)
		r = ox_salvage_relate_co(s);
	if (r == 0 && s->count > 0)
		r = leave_sure_co(s);
	ox_counts_free(&look.leaked);
	free(look.whole);
	s->look = NULL;
	s->found = s->count;
	return r;
}

int ox_salvage_look_co(struct ox_salvage *s)
{
	if (s->opts->salvage || s->has_looked)
		return 0;
	ox_salvage_forget(s);
	s->has_looked = true;
	return s->opts->free_lost_tables || !is_worth_it(s) ? 0 : look_co(s);
}

/* Counts what is kept as if it were named: then no count is lowered, and nobody gets it. */
static int count_kept(void *arg, struct ox_slot *slot)
{
	struct ox_salvage *s = arg;
	struct ox_cell cell = slot->cell;

	if (!ox_keeper_keeps_count(&s->keeper, slot->cluster) || ox_cell_is_broken(cell) ||
	    slot->stored <= cell.count)
		return 0;
	if (cell.state == OX_CELL_NONE)
		cell.state = OX_CELL_META;
	cell.count = (uint32_t)ox_min_u64(slot->stored, OX_COUNT_MAX);
	return ox_counts_set(&s->w->k.cells, slot->cluster, cell);
}

/* Tables of the disk that name no cluster, and lie behind the first orphan. */
struct emptied {
	struct ox_salvage *s;
	size_t count;
};

static int count_emptied(void *arg, uint64_t cluster, struct ox_cell cell, struct ox_be64 *table)
{
	struct emptied *e = arg;
	const struct ox_walk *w = e->s->w;
	unsigned words = ox_qcow2_l2_words(&w->v.h);
	bool names = false;

	(void)cell;
	for (uint64_t i = 0; i < ox_qcow2_l2_entries(&w->v.h) && !names; i++)
		names = ox_salvage_entry(w, cluster, &table[i * words]).names;
	e->count += !names && cluster > e->s->orphans[0].cluster;
	return 0;
}

/*
 * A recovery beside a guest gives it copies of tables that it changes, and frees the old ones.
 * Where it was cut off just after a guest had discarded all of a table, the old one looks lost, and
 * the copy is empty. As many orphans as there are such copies may all be that, and are not kept.
 */
static int leave_replaced_co(struct ox_salvage *s)
{
	struct emptied e = {.s = s};
	int r = s->count > 0 ? ox_walk_l2_co(s->w, OX_WAYS_ACTIVE, count_emptied, &e) : 0;

	if (r == 0 && s->count <= e.count)
		s->count = 0;
	return r;
}

int ox_salvage_count_lost_co(struct ox_mend *m, uint64_t *ret_kept)
{
	struct ox_check_options opts = OX_CHECK_OPTIONS_INIT;
	const struct ox_walk *w = m->w;
	struct ox_salvage s;
	int r;

	*ret_kept = 0;
	/* A recovery that was cut off left tables behind that it had replaced by copies. */
	if (m->g->leaks < 2 || w->j->structural > 0 || w->v.is_foreign || w->v.has_data_file ||
	    w->v.has_fence)
		return 0;
	ox_salvage_init(&s, &opts);
	ox_salvage_begin(&s, m);
	r = look_co(&s);
	if (r == 0)
		r = leave_replaced_co(&s);
	if (r == 0 && s.count > 0)
		r = ox_slots_co(&m->w->k, OX_SLOTS_LOWER, count_kept, &s);
	if (r == 0)
		*ret_kept = s.count;
	ox_salvage_forget(&s);
	return r;
}

int ox_salvage_link_sure_co(struct ox_salvage *s, bool *ret_again, struct ox_error **err)
{
	const struct ox_walk *w = s->w;
	uint64_t unsearched = s->unsearched;
	int r;

	if (s->opts->free_lost_tables || w->bad_l1_entries == 0 || s->g->leaks < 2 ||
	    w->v.is_foreign || w->v.has_data_file)
		return 0;
	ox_salvage_forget(s);
	s->tells_places = true;
	r = look_co(s);
	if (r == 0 && s->count > 0)
		r = ox_counts_init(&s->crossed, w->v.file_clusters + 1);
	if (r == 0 && s->count > 0)
		r = ox_salvage_fit_co(s);
	if (r < 0)
		return ox_error_set_errno(err, r, "Could not salvage '%s'", w->v.io->name);
	if (s->count > 0)
		r = ox_salvage_link_co(s, ret_again, err);
	/* What has a choice is as it would be without. */
	ox_salvage_forget(s);
	s->unsearched = unsearched;
	s->found = 0;
	return r;
}
