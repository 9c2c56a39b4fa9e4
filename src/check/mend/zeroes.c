/* SPDX-License-Identifier: MIT */
/*
 * L1 entries that cannot be followed, of which nothing tells what they named, above a backing file.
 * Each gets a table of explicit zeroes, so that its range is lost, and the backing file does not
 * show through. The tables and their counts are durable before an entry names them (D1, D3); a
 * crash before that leaves leaks.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "check/mend/mend.h"

struct zeroes {
	struct ox_mend *m;
	struct ox_walk *w;
	uint64_t count;	   /* entries that get a table */
	uint64_t past_end; /* of them, those in which nothing else is wrong */
	uint64_t base;
	uint64_t next; /* cluster for the next one's table */
};

bool ox_mend_lacks_zeroes(const struct ox_mend *m)
{
	const struct ox_view *v = &m->w->v;

	return m->w->bad_l1_entries > 0 && v->h.backing_offset != 0 && v->h.version >= 3;
}

/* ---- the ways through L1: each meets the same entries in the same order ---- */

static int count_entry(void *arg, uint64_t tree, uint64_t index, struct ox_be64 *entry)
{
	struct zeroes *z = arg;
	enum ox_finding_id id;

	if (!ox_mend_is_given_up(z->m, tree, index, ox_be64_get(*entry)))
		return 0;
	(void)ox_view_bad_l1_entry(&z->w->v, tree, index, ox_be64_get(*entry), &id);
	z->count++;
	z->past_end += id == OX_FOUND_PAST_END;
	return 0;
}

/* The file is about to grow: where an entry names a place past its end, it comes to name one that
 * no file has (D8). What else is wrong with it stays: in a dirty image it must not seem stale. */
static int give_up_entry(void *arg, uint64_t tree, uint64_t index, struct ox_be64 *entry)
{
	struct zeroes *z = arg;
	struct ox_walk *w = z->w;
	uint64_t raw = ox_be64_get(*entry);
	uint64_t farthest = ox_align_down(OX_QCOW2_OFFSET_MASK, w->v.cluster_bytes);
	enum ox_finding_id id;
	struct ox_found what;

	if (!ox_mend_is_given_up(z->m, tree, index, raw))
		return 0;
	what = ox_view_bad_l1_entry(&w->v, tree, index, raw, &id);
	what.fate = "lost";
	z->m->dropped++;
	ox_journal_mended(w->j, id, what);
	if (raw & farthest)
		*entry = ox_be64(raw | farthest);
	return 0;
}

static int name_table(void *arg, uint64_t tree, uint64_t index, struct ox_be64 *entry)
{
	struct zeroes *z = arg;

	if (!ox_mend_is_given_up(z->m, tree, index, ox_be64_get(*entry)))
		return 0;
	*entry = ox_be64(z->next++ * z->w->v.cluster_bytes | (tree == 0 ? OX_QCOW2_COPIED : 0));
	z->m->changes++;
	return 0;
}

static int pass_co(struct zeroes *z, ox_walk_l1_fn visit)
{
	int r = ox_walk_l1_co(z->w, OX_WAYS_CHANGE, visit, z);

	return r < 0 ? r : ox_io_sync_co(z->w->v.io);
}

/* ---- the tables ---- */

/* Whether the tables may be made: nothing else names a place past the end, beneath which the file
 * would grow; there is room, they can be counted, and are not without end. */
static bool is_feasible(const struct zeroes *z)
{
	const struct ox_walk *w = z->w;
	uint64_t end = z->base + z->count;

	if (z->count == 0 || z->count > ox_mend_budget(w))
		return false;
	if (ox_seen_past_end(w->j) > z->past_end)
		return false;
	if (!w->v.io->can_grow && end > w->v.file_bytes / w->v.cluster_bytes)
		return false;
	return ox_mend_can_count(&w->k, z->base, end);
}

static int count_tables(struct zeroes *z)
{
	struct ox_walk *w = z->w;
	uint64_t end = z->base + z->count;
	int r = ox_ledger_grow(&w->k, end);

	for (uint64_t c = z->base; c < end && r == 0; c++)
		r = ox_ledger_add(&w->k, c, OX_CELL_L2, 1);
	ox_ledger_note_grown(&w->k, z->base, end);
	return r;
}

static void fill_table(const struct ox_view *v, struct ox_be64 *table)
{
	unsigned words = ox_qcow2_l2_words(&v->h);

	for (uint64_t i = 0; i < ox_qcow2_l2_entries(&v->h); i++) {
		table[i * words] = ox_be64(words == 1 ? OX_QCOW2_ZERO : 0);
		/* Of an extended entry, every subcluster. */
		if (words == 2)
			table[i * words + 1] = ox_be64(UINT64_C(0xffffffff) << 32);
	}
}

static int write_tables_co(struct zeroes *z)
{
	const struct ox_view *v = &z->w->v;
	struct ox_be64 *table = (struct ox_be64 *)ox_io_buffer(v->cluster_bytes);
	int r = table ? 0 : -ENOMEM;

	if (r == 0)
		fill_table(v, table);
	for (uint64_t i = 0; r == 0 && i < z->count; i++)
		r = ox_io_pwrite_co(v->io, table, v->cluster_bytes,
				    (z->base + i) * v->cluster_bytes, 0);
	free(table);
	return r;
}

static int make_tables_co(struct zeroes *z)
{
	struct ox_plan plan = {0};
	int r = count_tables(z);

	if (r == 0)
		r = ox_plan_make(z->m, &plan);
	if (r == 0)
		r = pass_co(z, give_up_entry);
	if (r == 0)
		r = write_tables_co(z);
	if (r == 0)
		r = ox_mend_publish_counts_co(z->w, &plan);
	ox_plan_free(&plan);
	return r == 0 ? pass_co(z, name_table) : r;
}

int ox_mend_zeroes_co(struct ox_mend *m, bool *ret_again)
{
	struct zeroes z = {.m = m, .w = m->w, .base = ox_mend_end_of_all(m)};
	int r = ox_walk_l1_co(m->w, OX_WAYS_CHANGE, count_entry, &z);

	z.next = z.base;
	if (r < 0 || !is_feasible(&z))
		return r;
	ox_keeper_note_dropped(m->keeper);
	*ret_again = true;
	return make_tables_co(&z);
}
