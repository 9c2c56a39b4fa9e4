/* SPDX-License-Identifier: MIT */
/*
 * Counting what all L2 tables name. First on all cores: tables of which everything is plain, those
 * that are in the page cache. Each thread counts for itself, so that they share nothing, and the
 * counts are added up at the end. All others, and with them all that is to be told, come after
 * that, one by one and in order: the outcome does not depend on the threads.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "check/scan/crew.h"
#include "check/scan/scan.h"
#include "check/walk/walk.h"

int ox_walk_count_l2_table_co(struct ox_walk *w, uint64_t cluster, struct ox_cell cell,
			      const struct ox_be64 *table)
{
	struct ox_digest *d = &w->digest;
	int r = ox_digest_table(d, &w->v, cluster, table);

	if (r == 0)
		r = ox_digest_count(d, &w->k.cells, cell);
	if (r == 0)
		r = ox_digest_leave(d, &w->v);
	return r == 0 ? ox_walk_settle_digest_co(w, d, cluster, cell) : r;
}

static int count_table_co(void *arg, uint64_t cluster, struct ox_cell cell, struct ox_be64 *table)
{
	return ox_walk_count_l2_table_co(arg, cluster, cell, table);
}

/* ---- on all cores ---- */

#define WIDE_BYTES_MIN (UINT64_C(1) << 20)

struct seat {
	struct ox_counts counts;
	struct ox_digest digest;
	uint8_t *tables; /* neighbours, read at once */
	uint64_t first_cluster;
	uint64_t table_count;
	uint64_t allocated;
	uint64_t fragmented;
	uint64_t compressed;
};

struct tables {
	struct ox_walk *w;
	struct seat seats[OX_CREW_SEATS_MAX];
	unsigned seat_count;
	uint64_t wide_max; /* bytes of a seat's counts beyond a bit a cluster */
};

/* A compressed cluster of the file with which nothing is wrong. */
static bool is_plain_stream(const struct ox_walk *w, uint64_t limit_bytes,
			    const struct ox_odd_entry *odd)
{
	struct ox_qcow2_entry e = ox_qcow2_l2_decode(&w->v.h, odd->raw);
	uint64_t first = e.host.bytes / w->v.cluster_bytes;
	uint64_t end;

	if (e.kind != OX_QCOW2_ENTRY_COMPRESSED || e.copied || odd->subclusters || first == 0 ||
	    w->v.has_data_file || !ox_range_within(e.host.bytes, e.compressed_bytes, limit_bytes))
		return false;
	end = ox_div_up(e.host.bytes + e.compressed_bytes, w->v.cluster_bytes);
	return ox_counts_is_none(&w->k.cells, first, end - first);
}

/* Whether everything that a table names is named by data and compressed entries alone. The walk's
 * own counts hold no other entry of an L2 table yet. */
static bool is_plain(const struct ox_walk *w, uint64_t cluster, const struct ox_digest *d)
{
	uint64_t limit_bytes = ox_view_limit_of(&w->v, cluster);

	for (uint32_t i = 0; i < d->run_count; i++) {
		if (!ox_counts_is_none(&w->k.cells, d->runs[i].cluster, d->runs[i].length))
			return false;
	}
	for (uint32_t i = 0; i < d->odd_count; i++) {
		if (!is_plain_stream(w, limit_bytes, &d->odd[i]))
			return false;
	}
	return true;
}

static int count_streams(const struct ox_view *v, struct seat *s, struct ox_cell table_cell)
{
	struct ox_cell cell = {.state = OX_CELL_COMPRESSED, .count = table_cell.count};

	for (uint32_t i = 0; i < s->digest.odd_count; i++) {
		struct ox_qcow2_entry e = ox_qcow2_l2_decode(&v->h, s->digest.odd[i].raw);
		uint64_t last = (e.host.bytes + e.compressed_bytes - 1) / v->cluster_bytes;

		for (uint64_t c = e.host.bytes / v->cluster_bytes; c <= last; c++) {
			struct ox_cell old = ox_counts_get(&s->counts, c);
			int r = ox_counts_set(&s->counts, c, ox_cell_add(old, cell));

			if (r < 0)
				return r;
		}
	}
	return 0;
}

/* How many tables, of so many at most, lie one behind the other. */
static uint64_t neighbours(const struct ox_walk *w, uint64_t index, uint64_t most)
{
	uint64_t count = 1;

	while (count < most && index + count < w->tables.count &&
	       w->tables.items[index + count] == w->tables.items[index] + count)
		count++;
	return count;
}

static bool read_tables(const struct ox_view *v, struct seat *s, uint64_t first, uint64_t count)
{
	s->table_count = 0;
	if (!ox_io_read_cached(v->io, s->tables, count * v->cluster_bytes,
			       first * v->cluster_bytes))
		return false;
	s->first_cluster = first;
	s->table_count = count;
	return true;
}

/* NULL: it is not in the page cache. */
static const struct ox_be64 *find_table(const struct ox_walk *w, struct seat *s, uint64_t index)
{
	uint64_t cluster = w->tables.items[index];
	uint64_t most = ox_scan_item_max(w->v.cluster_bytes) / w->v.cluster_bytes;
	bool has_it = cluster - s->first_cluster < s->table_count;

	if (!has_it && !read_tables(&w->v, s, cluster, neighbours(w, index, most)) &&
	    !read_tables(&w->v, s, cluster, 1))
		return NULL;
	return (const struct ox_be64 *)(s->tables +
					(cluster - s->first_cluster) * w->v.cluster_bytes);
}

/* All of the table, or nothing. */
static int try_table(void *arg, unsigned seat, uint64_t index)
{
	struct tables *t = arg;
	const struct ox_walk *w = t->w;
	struct seat *s = &t->seats[seat];
	uint64_t cluster = w->tables.items[index];
	struct ox_cell cell = ox_counts_get(&w->k.cells, cluster);
	const struct ox_be64 *table = NULL;
	int r;

	if (s->counts.wide_bytes <= t->wide_max)
		table = find_table(w, s, index);
	if (!table)
		return 0;
	r = ox_digest_table(&s->digest, &w->v, cluster, table);
	if (r < 0 || !is_plain(w, cluster, &s->digest))
		return r;
	r = ox_digest_count(&s->digest, &s->counts, cell);
	if (r == 0)
		r = count_streams(&w->v, s, cell);
	if (r == 0 && (cell.state & 3u) != 0) {
		s->allocated += s->digest.allocated;
		s->fragmented += s->digest.fragmented;
		s->compressed += s->digest.compressed;
	}
	return r < 0 ? r : 1;
}

static void tables_done(void *arg, uint64_t count)
{
	struct tables *t = arg;

	ox_journal_progress(t->w->j, count);
}

static int take_seats(struct tables *t)
{
	const struct ox_walk *w = t->w;

	for (unsigned i = 0; i < t->seat_count; i++) {
		t->seats[i].tables = malloc(ox_scan_item_max(w->v.cluster_bytes));
		if (!t->seats[i].tables ||
		    ox_counts_init(&t->seats[i].counts, w->k.cells.limit) < 0)
			return -ENOMEM;
	}
	/* Beyond their bit a cluster the seats have together what another bit a cluster takes. */
	t->wide_max = ox_max_u64(WIDE_BYTES_MIN, w->v.file_clusters / 8) / t->seat_count;
	return 0;
}

/* Adds up what they counted, while r is 0. */
static int leave_seats(struct tables *t, int r)
{
	for (unsigned i = 0; i < t->seat_count; i++) {
		struct seat *s = &t->seats[i];

		if (r == 0)
			r = ox_counts_merge(&t->w->k.cells, &s->counts);
		t->w->allocated += s->allocated;
		t->w->fragmented += s->fragmented;
		t->w->compressed += s->compressed;
		ox_counts_free(&s->counts);
		ox_digest_clear(&s->digest);
		free(s->tables);
	}
	return r;
}

static int count_cached_co(struct ox_walk *w, uint64_t **ret_done)
{
	static const struct ox_crew_ops ops = {.try_one = try_table, .done = tables_done};
	struct tables t = {.w = w, .seat_count = ox_crew_seats(w->tables.count)};
	int r;

	if (t.seat_count == 0 || !w->v.io->ops->read_cached)
		return 0;
	r = take_seats(&t);
	if (r == 0)
		r = ox_crew_run_co(t.seat_count, w->tables.count, &ops, &t, ret_done);
	return leave_seats(&t, r);
}

int ox_walk_count_l2_co(struct ox_walk *w)
{
	uint64_t *done = NULL;
	int r = count_cached_co(w, &done);

	if (r == 0)
		r = ox_walk_l2_but_co(w, done, count_table_co, w);
	free(done);
	return r;
}
