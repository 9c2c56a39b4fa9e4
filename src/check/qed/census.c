/* SPDX-License-Identifier: MIT */
/*
 * The census beside a guest: the counting of a check, over an image whose entries may be set
 * meanwhile. What is set names clusters past the end that the walk goes by, so that whichever value
 * of an entry it meets, it counts the same.
 *
 * Memory: a cell for each cluster of the file, as a check has it (a bit, nearly always), and 32
 * bytes for each table.
 */
#include "check/qed/census.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/arith.h"
#include "base/grow.h"
#include "base/sorted.h"
#include "check/qed/qed.h"
#include "check/scan/pause.h"

#define OBSTACLE_BYTES 64

struct ox_census {
	struct ox_qed q;
	struct ox_pause pause;
	struct ox_census_view what;
	bool keeps_stale_l1; /* as something else is wrong */
	uint64_t whole_clusters;
	uint64_t *stale; /* offsets of tables; ascending once the walk is through */
	size_t stale_count;
	size_t stale_room;
	char shared[OBSTACLE_BYTES]; /* of the first cluster that is named twice; "": none is */
};

static struct ox_census *census_of(struct ox_qed *q)
{
	return ox_container_of(q, struct ox_census, q);
}

/* Whether an entry names what was handed out since. */
static bool is_of_others(struct ox_qed *q, const struct ox_qed_slot *slot, uint64_t entry)
{
	const struct ox_census_view *what = &census_of(q)->what;

	if (what->at_rest || ox_qed_place_of(q, entry, 1) != OX_QED_PAST_END)
		return false;
	return !slot->table || what->is_ours(what->opaque, slot->entry);
}

/* ---- beginning and end ---- */

static void end(struct ox_census *c)
{
	if (!c)
		return;
	ox_qed_close(&c->q);
	free(c->stale);
	free(c);
}

static int collect_table(struct ox_qed *q, const struct ox_qed_slot *slot, uint64_t *entry)
{
	return is_of_others(q, slot, *entry) ? 0 : ox_qed_collect_table(q, slot, entry);
}

static int drop_stale(struct ox_qed *q, const struct ox_qed_slot *slot, uint64_t *entry)
{
	(void)slot;
	if (ox_qed_place_of(q, *entry, q->table_bytes) == OX_QED_PAST_END) {
		*entry = 0;
		q->stale--;
	}
	return 0;
}

/* They go before the file grows to where they lead (D8). Not so where an obstacle is known as well:
 * then the end of the file may be what is wrong. */
static int drop_stale_l1_co(struct ox_qed *q)
{
	int r;

	if (q->stale == 0 || q->j.structural > 0)
		return 0;
	ox_journal_expect(&q->j, ox_qed_table_pieces(q));
	q->changes_entries = true;
	r = ox_qed_l1_co(q, drop_stale);
	q->changes_entries = false;
	return r == 0 ? ox_io_sync_co(q->io) : r;
}

static int count_more_names(struct ox_qed *q)
{
	int r = 0;

	for (size_t i = 0; i < q->more_names.count && r >= 0; i++) {
		uint64_t first = q->more_names.list[i].offset / q->cluster_bytes;

		for (uint64_t at = 0; at < q->h.table_clusters && r >= 0; at++)
			r = ox_counts_refer(&q->cells, first + at, OX_CELL_L2 | OX_CELL_COPIED, 1);
	}
	return r < 0 ? r : 0;
}

static int read_l1_co(struct ox_qed *q)
{
	int r = ox_qed_judge_header(q);

	if (r < 0 || !q->has_l1)
		return r;
	ox_journal_expect(&q->j, ox_qed_table_pieces(q));
	r = ox_qed_l1_co(q, collect_table);
	if (r == 0)
		r = ox_qed_claim_tables(q);
	if (r == 0)
		r = count_more_names(q);
	return r == 0 ? drop_stale_l1_co(q) : r;
}

static int begin_co(struct ox_io *io, const struct ox_census_view *what, struct ox_census **ret,
		    struct ox_error **err)
{
	struct ox_census *c = calloc(1, sizeof(*c));
	struct ox_qed *q;
	int r;

	if (!c)
		return ox_error_set(err, -ENOMEM, "Out of memory");
	q = &c->q;
	q->j.quiet = true;
	q->pause_co = ox_pause_co;
	q->pause_arg = &c->pause;
	c->pause.leaves = what->leaves;
	c->what = *what;
	r = ox_qed_open_co(q, io, what->end_bytes, err);
	if (r == 0) {
		/* The mark may be that of the guest beside. */
		q->dirty = what->at_rest;
		c->whole_clusters = q->file_bytes / q->cluster_bytes;
		r = read_l1_co(q);
		c->keeps_stale_l1 = q->stale > 0;
		if (r < 0)
			ox_error_set_errno(err, r, "Could not read the tables of '%s'", io->name);
	}
	if (r < 0) {
		end(c);
		return r;
	}
	*ret = c;
	return 0;
}

/* ---- the walk ---- */

static int note_stale(struct ox_census *c, const struct ox_qed_table *table)
{
	if (c->stale_count > 0 && c->stale[c->stale_count - 1] == table->offset)
		return 0;
	if (ox_grow(c->stale, c->stale_count, c->stale_room, 16) < 0)
		return -ENOMEM;
	c->stale[c->stale_count++] = table->offset;
	return 0;
}

static bool is_named_twice(struct ox_cell cell)
{
	return cell.count > 1 || ox_cell_is_broken(cell);
}

/* An entry of a table that several L1 entries name stands for as many. */
static int note_shared(struct ox_census *c, const struct ox_qed_table *table, uint64_t cluster)
{
	int r = 0;

	if (table->more_names > 0)
		r = ox_counts_refer(&c->q.cells, cluster, OX_CELL_DATA | OX_CELL_COPIED,
				    table->more_names);
	if (c->shared[0] == '\0' && is_named_twice(ox_counts_get(&c->q.cells, cluster)))
		snprintf(c->shared, sizeof(c->shared),
			 "ERROR cluster %" PRIu64 " is named more than once", cluster);
	return r < 0 ? r : 0;
}

static int count_data(struct ox_qed *q, const struct ox_qed_slot *slot, uint64_t *entry)
{
	struct ox_census *c = census_of(q);
	uint64_t stale = q->stale;
	int r;

	if (*entry == OX_QED_ZERO || is_of_others(q, slot, *entry))
		return 0;
	r = ox_qed_count_data(q, slot, entry);
	if (r == 0 && q->stale != stale)
		r = note_stale(c, slot->table);
	if (r == 0 && ox_qed_place_of(q, *entry, 1) == OX_QED_SOUND)
		r = note_shared(c, slot->table, *entry / q->cluster_bytes);
	return r;
}

static int walk_co(struct ox_census *c,
		   void (*progress)(void *opaque, uint64_t done, uint64_t total), void *opaque)
{
	int r;

	c->q.j.progress = progress;
	c->q.j.opaque = opaque;
	r = c->q.has_l1 ? ox_qed_l2_co(&c->q, count_data) : 0;
	if (c->stale_count > 0)
		qsort(c->stale, c->stale_count, sizeof(*c->stale), ox_sorted_compare);
	return r;
}

/* ---- what was found ---- */

static const char *obstacle(const struct ox_census *c)
{
	const struct ox_journal *j = &c->q.j;

	if (j->structural > 0)
		return j->first_structural ? j->first_structural : "no memory for details";
	return c->shared[0] ? c->shared : NULL;
}

static bool knows_stale(const struct ox_census *c)
{
	return !c->keeps_stale_l1 && c->q.j.totals.check_errors == 0;
}

static uint64_t next_stale(const struct ox_census *c, uint64_t from_bytes)
{
	size_t at = ox_sorted_from(c->stale, c->stale_count, sizeof(*c->stale), from_bytes);

	return at < c->stale_count ? c->stale[at] : UINT64_MAX;
}

/* What lies past the walk's end is not known to be free, nor is a cluster that is not whole. */
static uint64_t next_free(const struct ox_census *c, uint64_t from, uint64_t end_cluster)
{
	uint64_t limit = ox_min_u64(end_cluster, c->whole_clusters);

	from = ox_counts_next_none(&c->q.cells, from, limit);
	return from < limit ? from : end_cluster;
}

static uint64_t next_named(const struct ox_census *c, uint64_t from, uint64_t end_cluster)
{
	return ox_counts_next(&c->q.cells, from, end_cluster);
}

static bool is_shared(const struct ox_census *c, uint64_t cluster)
{
	return is_named_twice(ox_counts_get(&c->q.cells, cluster));
}

const struct ox_census_ops ox_qed_census = {
	.begin_co = begin_co,
	.end = end,
	.walk_co = walk_co,
	.obstacle = obstacle,
	.knows_stale = knows_stale,
	.next_stale = next_stale,
	.next_free = next_free,
	.next_named = next_named,
	.is_shared = is_shared,
};
