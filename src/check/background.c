/* SPDX-License-Identifier: MIT */
/*
 * The walk beside a guest (docs/recovery.md): the same counting. The tables that it reads do not
 * change meanwhile (R1), so that the counts are those of the image as it was opened.
 */
#include <errno.h>
#include <stdlib.h>

#include "check/check.h"
#include "check/mend/round.h"
#include "check/qed/census.h"
#include "check/salvage/salvage.h"
#include "check/scan/pause.h"

struct ox_rebuild {
	uint64_t kept; /* tables that look lost */
	struct ox_round round;
	uint64_t dropped; /* stale L1 entries */
	uint64_t *stale;  /* a bit for each of the walk's tables: it has stale entries */
	struct ox_pause pause;
};

/* ---- beginning and end ---- */

static void end(struct ox_rebuild *b)
{
	if (!b)
		return;
	ox_round_end(&b->round);
	free(b->stale);
	free(b);
}

/* Stale L1 entries are few and all known now: they go before the file grows. Not so where an
 * obstacle is known as well: then the end of the file may be what is wrong. */
static int drop_stale_l1_co(struct ox_rebuild *b)
{
	const struct ox_walk *w = &b->round.w;
	int r;

	if (w->stale == 0 || w->j->structural > 0)
		return 0;
	b->dropped = w->stale;
	r = ox_mend_drop_stale_l1_co(&b->round.m);
	return r == 0 ? ox_io_sync_co(w->v.io) : r;
}

static int prepare_co(struct ox_rebuild *b)
{
	int r = ox_walk_claim_co(&b->round.w);

	if (r == 0)
		r = drop_stale_l1_co(b);
	if (r < 0)
		return r;
	b->stale = calloc(b->round.w.tables.count / 64 + 1, sizeof(*b->stale));
	return b->stale ? 0 : -ENOMEM;
}

static int begin_co(struct ox_io *io, const bool *leaves, struct ox_rebuild **ret,
		    struct ox_error **err)
{
	struct ox_rebuild *b = calloc(1, sizeof(*b));
	int r;

	if (!b)
		return ox_error_set(err, -ENOMEM, "Out of memory");
	b->round.j.quiet = true;
	b->round.w.v.pause_co = ox_pause_co;
	b->round.w.v.pause_arg = &b->pause;
	b->pause.leaves = leaves;
	ox_round_begin(&b->round, OX_REPAIR_ALL, 0, NULL);
	r = ox_walk_open_co(&b->round.w, io, err);
	if (r == 0) {
		r = prepare_co(b);
		if (r < 0)
			ox_error_set_errno(err, r, "Could not read the tables of '%s'", io->name);
	}
	if (r < 0) {
		end(b);
		return r;
	}
	*ret = b;
	return 0;
}

/* ---- the walk ---- */

static int count_table_co(void *arg, uint64_t cluster, struct ox_cell cell, struct ox_be64 *table)
{
	struct ox_rebuild *b = arg;
	struct ox_walk *w = &b->round.w;
	uint64_t stale = w->stale;
	uint64_t at = ox_clusters_from(&w->tables, cluster);
	int r = ox_walk_count_l2_table_co(w, cluster, cell, table);

	if (w->stale != stale)
		b->stale[at / 64] |= UINT64_C(1) << (at % 64);
	return r;
}

static int walk_co(struct ox_rebuild *b,
		   void (*progress)(void *opaque, uint64_t done, uint64_t total), void *opaque)
{
	b->round.j.progress = progress;
	b->round.j.opaque = opaque;
	return ox_walk_l2_co(&b->round.w, OX_WAYS_ALL, count_table_co, b);
}

/* ---- what the counts say ---- */

static bool may_grow(const struct ox_rebuild *b)
{
	return b->round.w.stale == b->dropped;
}

static const char *obstacle(const struct ox_rebuild *b)
{
	const struct ox_journal *j = &b->round.j;

	if (j->structural == 0)
		return NULL;
	return j->first_structural ? j->first_structural : "no memory for details";
}

static int judge_co(struct ox_rebuild *b)
{
	const struct ox_judge *g = &b->round.g;
	int r = ox_judge_compare_co(&b->round.g);

	if (r < 0 || b->round.j.structural > 0)
		return r;
	if (g->suspects.count > 0 || g->copied_to_fix > 0 || g->w->compressed_copied > 0)
		return 1;
	return ox_salvage_count_lost_co(&b->round.m, &b->kept);
}

static int write_counts_co(struct ox_rebuild *b)
{
	return ox_mend_write_counts_co(&b->round.m);
}

static uint64_t kept(const struct ox_rebuild *b)
{
	return b->kept;
}

static bool has_block(const struct ox_rebuild *b, uint64_t index)
{
	return index < b->round.w.k.rc.index_count &&
	       b->round.w.k.rc.blocks[index].state == OX_BLOCK_SOUND;
}

static uint64_t count(const struct ox_rebuild *b, uint64_t cluster)
{
	return ox_counts_get(&b->round.w.k.cells, cluster).count;
}

static uint64_t next_counted(const struct ox_rebuild *b, uint64_t from, uint64_t end_cluster)
{
	return ox_counts_next(&b->round.w.k.cells, from, end_cluster);
}

static uint64_t end_counted(const struct ox_rebuild *b)
{
	return b->round.w.k.cells.end;
}

static uint64_t next_free(const struct ox_rebuild *b, uint64_t from, uint64_t end_cluster)
{
	return ox_counts_next_none(&b->round.w.k.cells, from, end_cluster);
}

static int take(struct ox_rebuild *b, uint64_t cluster)
{
	return ox_counts_set(&b->round.w.k.cells, cluster,
			     (struct ox_cell){.state = OX_CELL_META, .count = 1});
}

static bool is_shared(const struct ox_rebuild *b, uint64_t cluster)
{
	struct ox_cell cell = ox_counts_get(&b->round.w.k.cells, cluster);

	return cell.count > 1 || ox_cell_is_broken(cell);
}

static uint64_t next_stale(const struct ox_rebuild *b, uint64_t from)
{
	const struct ox_clusters *tables = &b->round.w.tables;

	for (uint64_t i = ox_clusters_from(tables, from); i < tables->count; i++) {
		if (b->stale[i / 64] >> (i % 64) & 1)
			return tables->items[i];
	}
	return UINT64_MAX;
}

const struct ox_recovery ox_check_recovery = {
	.rebuild_co = ox_check_rebuild_co,
	.begin_co = begin_co,
	.end = end,
	.may_grow = may_grow,
	.walk_co = walk_co,
	.obstacle = obstacle,
	.judge_co = judge_co,
	.write_counts_co = write_counts_co,
	.kept = kept,
	.has_block = has_block,
	.count = count,
	.next_counted = next_counted,
	.end_counted = end_counted,
	.next_free = next_free,
	.take = take,
	.is_shared = is_shared,
	.next_stale = next_stale,
	.census = &ox_qed_census,
};
