/* SPDX-License-Identifier: MIT */
/*
 * The walk beside a guest (docs/recovery.md): the same counting, table by table, in an order that
 * requests may change. An L2 table does not change before it is visited (R1), so that the counts
 * are those of the image as it was opened.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "check/check.h"
#include "check/scan.h"
#include "check/walk.h"
#include "rt/co.h"

struct ox_rebuild {
	struct ox_walk w;
	uint64_t *visited; /* a bit for each of w.l2_clusters */
	uint64_t *stale;   /* the same: has stale entries */
};

/* ---- bits ---- */

static bool bit_get(const uint64_t *bits, uint64_t i)
{
	return bits[i / 64] >> (i % 64) & 1;
}

static void bit_set(uint64_t *bits, uint64_t i)
{
	bits[i / 64] |= UINT64_C(1) << (i % 64);
}

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

/* ---- beginning and end ---- */

static void end(struct ox_rebuild *b)
{
	if (!b)
		return;
	ox_walk_close(&b->w);
	free(b->visited);
	free(b->stale);
	free(b);
}

/* Stale L1 entries are few and all known now: they go before the file grows. */
static int drop_stale_l1_co(struct ox_walk *w)
{
	int r;

	if (w->stale == 0)
		return 0;
	r = ox_walk_drop_stale_l1_co(w);
	w->stale = 0;
	return r == 0 ? ox_io_sync_co(w->io) : r;
}

static int prepare_co(struct ox_rebuild *b)
{
	uint64_t words;
	int r = ox_walk_claim_all_co(&b->w);

	if (r == 0)
		r = ox_walk_count_l1_co(&b->w);
	if (r == 0)
		r = drop_stale_l1_co(&b->w);
	if (r < 0)
		return r;
	words = ox_div_up(b->w.l2_count + 1, 64);
	b->visited = calloc(words, sizeof(*b->visited));
	b->stale = calloc(words, sizeof(*b->stale));
	return b->visited && b->stale ? 0 : -ENOMEM;
}

static int begin_co(struct ox_io *io, struct ox_rebuild **ret, struct ox_error **err)
{
	struct ox_rebuild *b = calloc(1, sizeof(*b));
	int r;

	if (!b)
		return ox_error_set(err, -ENOMEM, "Out of memory");
	b->w.repair = OX_REPAIR_ALL;
	b->w.quiet = true;
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

/* ---- visiting ---- */

static bool is_visited(const struct ox_rebuild *b, uint64_t table_cluster)
{
	uint64_t i = index_of(b, table_cluster);

	return i == b->w.l2_count || b->w.l2_clusters[i] != table_cluster || bit_get(b->visited, i);
}

/* The bytes are those that the table had at the opening: it has not been visited, so it has not
 * changed since they were read. */
static int count_table(struct ox_rebuild *b, uint64_t i, uint8_t *bytes)
{
	uint64_t cluster = b->w.l2_clusters[i];
	uint64_t stale = b->w.stale;
	int r;

	r = ox_walk_count_l2_table(&b->w, cluster, ox_counts_get(&b->w.counts, cluster),
				   (struct ox_be64 *)(void *)bytes);
	/* What a failure has counted is counted: never again. */
	bit_set(b->visited, i);
	if (b->w.stale != stale)
		bit_set(b->stale, i);
	if (r < 0)
		b->w.structural++;
	ox_walk_progress(&b->w, 1);
	return r;
}

static int visit_co(struct ox_rebuild *b, uint64_t table_cluster)
{
	uint8_t *bytes = ox_io_buffer(b->w.cluster_bytes);
	int r;

	if (!bytes)
		return -ENOMEM;
	r = ox_io_pread_co(b->w.io, bytes, b->w.cluster_bytes, table_cluster * b->w.cluster_bytes);
	/* Somebody else may have read it as well. */
	if (r == 0 && !is_visited(b, table_cluster))
		r = count_table(b, index_of(b, table_cluster), bytes);
	free(bytes);
	return r;
}

struct walk_pass {
	struct ox_rebuild *b;
	uint64_t next; /* index of a table */
};

/* A run of neighbouring tables that nobody has visited yet. */
static bool walk_next(void *arg, struct ox_scan_item *ret)
{
	struct walk_pass *p = arg;
	const struct ox_walk *w = &p->b->w;
	uint64_t most = ox_scan_item_max(w->cluster_bytes) / w->cluster_bytes;
	uint64_t first;

	while (p->next < w->l2_count && bit_get(p->b->visited, p->next))
		p->next++;
	if (p->next == w->l2_count)
		return false;
	first = p->next++;
	while (p->next < w->l2_count && p->next - first < most &&
	       w->l2_clusters[p->next] == w->l2_clusters[first] + (p->next - first))
		p->next++;
	*ret = (struct ox_scan_item){
		.offset = w->l2_clusters[first] * w->cluster_bytes,
		.size_bytes = (p->next - first) * w->cluster_bytes,
		.tag = first,
	};
	return true;
}

static int walk_item_co(void *arg, const struct ox_scan_item *item, uint8_t *bytes, int error)
{
	struct walk_pass *p = arg;
	struct ox_walk *w = &p->b->w;
	uint64_t tables = item->size_bytes / w->cluster_bytes;
	int r = 0;

	for (uint64_t i = 0; i < tables && r == 0; i++) {
		uint64_t at = item->offset + i * w->cluster_bytes;

		if (bit_get(p->b->visited, item->tag + i))
			continue;
		/* One bad table of a run does not take its neighbours with it. */
		if (error)
			r = ox_io_pread_co(w->io, bytes + i * w->cluster_bytes, w->cluster_bytes,
					   at);
		if (r < 0) {
			ox_walk_found(w, OX_FOUND_UNREADABLE,
				      OX_FOUND(.word = "L2 table", .a = at, .b = (uint64_t)-r,
					       .host_offset = at));
			r = 0;
		} else if (!bit_get(p->b->visited, item->tag + i)) {
			r = count_table(p->b, item->tag + i, bytes + i * w->cluster_bytes);
		}
		ox_co_yield_co(); /* requests come between any two tables */
	}
	return r;
}

static int walk_co(struct ox_rebuild *b,
		   void (*progress)(void *opaque, uint64_t done, uint64_t total), void *opaque)
{
	static const struct ox_scan_ops ops = {.next = walk_next, .visit_co = walk_item_co};
	struct walk_pass p = {.b = b};

	b->w.progress = progress;
	b->w.opaque = opaque;
	return ox_scan_co(b->w.io, b->w.cluster_bytes, &ops, &p);
}

/* ---- what the counts say ---- */

static const char *obstacle(const struct ox_rebuild *b)
{
	if (b->w.structural == 0)
		return NULL;
	return b->w.first_structural ? b->w.first_structural : "no memory for details";
}

static int judge_co(struct ox_rebuild *b)
{
	struct ox_walk *w = &b->w;
	int r = ox_walk_compare_co(w);

	if (r < 0 || w->structural > 0)
		return r;
	return w->suspect_count > 0 || w->copied_to_fix > 0 || w->compressed_copied > 0;
}

static int write_counts_co(struct ox_rebuild *b)
{
	return ox_walk_write_counts_co(&b->w);
}

static bool has_block(const struct ox_rebuild *b, uint64_t index)
{
	return index < b->w.index_count && b->w.blocks[index].state == OX_BLOCK_SOUND;
}

static uint64_t count(const struct ox_rebuild *b, uint64_t cluster)
{
	return ox_counts_get(&b->w.counts, cluster).count;
}

static uint64_t next_counted(const struct ox_rebuild *b, uint64_t from, uint64_t end_cluster)
{
	return ox_counts_next(&b->w.counts, from, end_cluster);
}

static uint64_t next_free(const struct ox_rebuild *b, uint64_t from, uint64_t end_cluster)
{
	while (from < end_cluster && ox_counts_get(&b->w.counts, from).state != OX_CELL_NONE)
		from++;
	return ox_min_u64(from, end_cluster);
}

static int take(struct ox_rebuild *b, uint64_t cluster)
{
	return ox_counts_set(&b->w.counts, cluster,
			     (struct ox_cell){.state = OX_CELL_META, .count = 1});
}

static bool is_shared(const struct ox_rebuild *b, uint64_t cluster)
{
	struct ox_cell cell = ox_counts_get(&b->w.counts, cluster);

	return cell.count > 1 || ox_cell_is_broken(cell);
}

static uint64_t next_stale(const struct ox_rebuild *b, uint64_t from)
{
	for (uint64_t i = index_of(b, from); i < b->w.l2_count; i++) {
		if (bit_get(b->stale, i))
			return b->w.l2_clusters[i];
	}
	return UINT64_MAX;
}

const struct ox_recovery ox_check_recovery = {
	.rebuild_co = ox_check_rebuild_co,
	.begin_co = begin_co,
	.end = end,
	.is_visited = is_visited,
	.visit_co = visit_co,
	.walk_co = walk_co,
	.obstacle = obstacle,
	.judge_co = judge_co,
	.write_counts_co = write_counts_co,
	.has_block = has_block,
	.count = count,
	.next_counted = next_counted,
	.next_free = next_free,
	.take = take,
	.is_shared = is_shared,
	.next_stale = next_stale,
};
