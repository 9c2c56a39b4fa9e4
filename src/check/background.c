/* SPDX-License-Identifier: MIT */
/*
 * The walk beside a guest (docs/recovery.md): the same counting. The tables that it reads do not
 * change meanwhile (R1), so that the counts are those of the image as it was opened.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "check/check.h"
#include "check/walk/walk.h"
#include "rt/co.h"
#include "rt/reactor.h"

/* The longest that requests wait for the walk's turn to end, and the pause after it. */
#define WORK_NS UINT64_C(500000)
#define PAUSE_NS UINT64_C(100000)

struct ox_rebuild {
	struct ox_walk w; /* first: the walk's visitors find the rest by it */
	struct ox_journal j;
	uint64_t *stale; /* a bit for each of w.l2_clusters: it has stale entries */
	uint64_t resumed_ns;
};

/* Index of the first table at or after the cluster. */
static uint64_t index_of(const struct ox_rebuild *b, uint64_t cluster)
{
	uint64_t low = 0;
	uint64_t high = b->w.l2_count;

	while (low < high) {
		uint64_t mid = low + (high - low) / 2;

		if (b->w.l2_clusters[mid] < cluster)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

/*
 * Requests come between any two tables. Where all is in the page cache nothing ever waits, and the
 * reactor's run would not end: so the walk sleeps now and then, and whoever turns the reactor sees
 * to his clients.
 */
static void pause_co(void *arg)
{
	struct ox_rebuild *b = arg;

	if (ox_reactor_now_ns(ox_co_reactor()) - b->resumed_ns < WORK_NS) {
		ox_co_yield_co();
		return;
	}
	ox_reactor_sleep_co(PAUSE_NS);
	b->resumed_ns = ox_reactor_now_ns(ox_co_reactor());
}

/* ---- beginning and end ---- */

static void end(struct ox_rebuild *b)
{
	if (!b)
		return;
	ox_walk_close(&b->w);
	ox_journal_end(&b->j);
	free(b->stale);
	free(b);
}

/* Stale L1 entries are few and all known now: they go before the file grows. Not so where an
 * obstacle is known as well: then the end of the file may be what is wrong. */
static int drop_stale_l1_co(struct ox_walk *w)
{
	int r;

	if (w->stale == 0 || w->j->structural > 0)
		return 0;
	r = ox_walk_drop_stale_l1_co(w);
	w->stale = 0;
	return r == 0 ? ox_io_sync_co(w->v.io) : r;
}

static int prepare_co(struct ox_rebuild *b)
{
	int r = ox_walk_claim_co(&b->w);

	if (r == 0)
		r = drop_stale_l1_co(&b->w);
	if (r < 0)
		return r;
	b->stale = calloc(b->w.l2_count / 64 + 1, sizeof(*b->stale));
	return b->stale ? 0 : -ENOMEM;
}

static int begin_co(struct ox_io *io, struct ox_rebuild **ret, struct ox_error **err)
{
	struct ox_rebuild *b = calloc(1, sizeof(*b));
	int r;

	if (!b)
		return ox_error_set(err, -ENOMEM, "Out of memory");
	b->w.repair = OX_REPAIR_ALL;
	b->w.j = &b->j;
	b->j.quiet = true;
	b->w.v.pause_co = pause_co;
	b->w.v.pause_arg = b;
	r = ox_walk_open_co(&b->w, io, err);
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

static int count_table_co(struct ox_walk *w, uint64_t cluster, struct ox_cell cell,
			  struct ox_be64 *table)
{
	struct ox_rebuild *b = (struct ox_rebuild *)w;
	uint64_t stale = w->stale;
	int r = ox_walk_count_l2_table_co(w, cluster, cell, table);

	if (w->stale != stale)
		b->stale[index_of(b, cluster) / 64] |= UINT64_C(1) << (index_of(b, cluster) % 64);
	return r;
}

static int walk_co(struct ox_rebuild *b,
		   void (*progress)(void *opaque, uint64_t done, uint64_t total), void *opaque)
{
	b->j.progress = progress;
	b->j.opaque = opaque;
	return ox_walk_l2_co(&b->w, false, count_table_co);
}

/* ---- what the counts say ---- */

static bool may_grow(const struct ox_rebuild *b)
{
	return b->w.stale == 0;
}

static const char *obstacle(const struct ox_rebuild *b)
{
	if (b->w.j->structural == 0)
		return NULL;
	return b->w.j->first_structural ? b->w.j->first_structural : "no memory for details";
}

static int judge_co(struct ox_rebuild *b)
{
	struct ox_walk *w = &b->w;
	int r = ox_walk_compare_co(w);

	if (r < 0 || w->j->structural > 0)
		return r;
	return w->suspect_count > 0 || w->copied_to_fix > 0 || w->compressed_copied > 0;
}

static int write_counts_co(struct ox_rebuild *b)
{
	return ox_walk_write_counts_co(&b->w);
}

static bool has_block(const struct ox_rebuild *b, uint64_t index)
{
	return index < b->w.k.rc.index_count && b->w.k.rc.blocks[index].state == OX_BLOCK_SOUND;
}

static uint64_t count(const struct ox_rebuild *b, uint64_t cluster)
{
	return ox_counts_get(&b->w.k.cells, cluster).count;
}

static uint64_t next_counted(const struct ox_rebuild *b, uint64_t from, uint64_t end_cluster)
{
	return ox_counts_next(&b->w.k.cells, from, end_cluster);
}

static uint64_t end_counted(const struct ox_rebuild *b)
{
	return b->w.k.cells.end;
}

static uint64_t next_free(const struct ox_rebuild *b, uint64_t from, uint64_t end_cluster)
{
	while (from < end_cluster) {
		struct ox_counts_mask m = ox_counts_mask(&b->w.k.cells, from / 64 * 64);
		uint64_t free_cells = ~(m.once | m.other) & UINT64_MAX << from % 64;

		if (free_cells)
			return ox_min_u64(from / 64 * 64 + (uint64_t)__builtin_ctzll(free_cells),
					  end_cluster);
		from = (from / 64 + 1) * 64;
	}
	return end_cluster;
}

static int take(struct ox_rebuild *b, uint64_t cluster)
{
	return ox_counts_set(&b->w.k.cells, cluster,
			     (struct ox_cell){.state = OX_CELL_META, .count = 1});
}

static bool is_shared(const struct ox_rebuild *b, uint64_t cluster)
{
	struct ox_cell cell = ox_counts_get(&b->w.k.cells, cluster);

	return cell.count > 1 || ox_cell_is_broken(cell);
}

static uint64_t next_stale(const struct ox_rebuild *b, uint64_t from)
{
	for (uint64_t i = index_of(b, from); i < b->w.l2_count; i++) {
		if (b->stale[i / 64] >> (i % 64) & 1)
			return b->w.l2_clusters[i];
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
	.has_block = has_block,
	.count = count,
	.next_counted = next_counted,
	.end_counted = end_counted,
	.next_free = next_free,
	.take = take,
	.is_shared = is_shared,
	.next_stale = next_stale,
};
