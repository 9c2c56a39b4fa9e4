/* SPDX-License-Identifier: MIT */
/* Counting what L1 and L2 entries name. */
#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "check/walk.h"

static unsigned copied_flag(bool copied)
{
	return copied ? OX_CELL_COPIED : OX_CELL_PLAIN;
}

uint64_t ox_walk_limit_of(const struct ox_walk *w, uint64_t l2_cluster)
{
	return l2_cluster * w->cluster_bytes < w->fence_bytes ? w->fence_bytes : w->file_bytes;
}

bool ox_walk_entry_is_stale(const struct ox_walk *w, uint64_t l2_cluster, struct ox_cell l2_cell,
			    uint64_t host_offset)
{
	return w->dirty && (l2_cell.state & 3u) != 0 && l2_cell.count == 1 &&
	       host_offset >= ox_walk_limit_of(w, l2_cluster);
}

/* ---- L1 ---- */

static int bad_l1_entry(struct ox_walk *w, uint64_t raw)
{
	uint64_t offset = raw & OX_QCOW2_OFFSET_MASK;
	bool unaligned = !ox_is_aligned(offset, w->cluster_bytes);

	ox_walk_found(w, unaligned ? OX_FOUND_L1_UNALIGNED : OX_FOUND_L1_RESERVED,
		      OX_FOUND(.a = unaligned ? offset : raw, .host_offset = offset));
	return 0;
}

static int list_l2_table(struct ox_walk *w, uint64_t cluster)
{
	if (w->l2_count == w->l2_room) {
		uint64_t room = w->l2_room ? 2 * w->l2_room : 64;
		uint64_t *more = reallocarray(w->l2_clusters, room, sizeof(*more));

		if (!more)
			return -ENOMEM;
		w->l2_clusters = more;
		w->l2_room = room;
	}
	w->l2_clusters[w->l2_count++] = cluster;
	return 0;
}

static int refer_to_l2(struct ox_walk *w, uint64_t tree, const struct ox_qcow2_l1_entry *e)
{
	uint64_t cluster = e->l2.bytes / w->cluster_bytes;
	bool is_new = ox_counts_get(&w->counts, cluster).state == OX_CELL_NONE;
	int r = ox_walk_refer(w, cluster, OX_CELL_L2 | (tree == 0 ? copied_flag(e->copied) : 0), 1);

	if (r == 0)
		ox_walk_found(w, OX_FOUND_OVERLAP,
			      OX_FOUND(.word = "L2 table", .a = e->l2.bytes, .b = w->cluster_bytes,
				       .host_offset = e->l2.bytes));
	return r == 1 && is_new ? list_l2_table(w, cluster) : r < 0 ? r : 0;
}

static int count_l1_entry(struct ox_walk *w, uint64_t tree, uint64_t index, struct ox_be64 *entry)
{
	uint64_t raw = ox_be64_get(*entry);
	struct ox_qcow2_l1_entry e = ox_qcow2_l1_decode(&w->h, raw);

	(void)index;
	if (e.bad)
		return bad_l1_entry(w, raw);
	if (!ox_walk_past_end(w, e.l2.bytes, w->cluster_bytes))
		return refer_to_l2(w, tree, &e);
	/* The active table is its image's own: no snapshot shares it. */
	if (tree == 0 && w->dirty) {
		w->stale++;
		ox_walk_found(w, OX_FOUND_STALE_ENTRY, OX_FOUND(.a = e.l2.bytes));
		return 0;
	}
	ox_walk_found(w, OX_FOUND_PAST_END,
		      OX_FOUND(.a = e.l2.bytes, .b = w->cluster_bytes, .host_offset = e.l2.bytes));
	return 0;
}

static int compare_clusters(const void *a, const void *b)
{
	const uint64_t *x = a;
	const uint64_t *y = b;

	return (*x > *y) - (*x < *y);
}

/* Each table was listed when it was first named, so that none is there twice. */
static void sort_l2_tables(struct ox_walk *w)
{
	uint64_t i = 1;

	while (i < w->l2_count && w->l2_clusters[i - 1] < w->l2_clusters[i])
		i++;
	if (i < w->l2_count)
		qsort(w->l2_clusters, w->l2_count, sizeof(*w->l2_clusters), compare_clusters);
	w->work_total += w->l2_count;
}

/* ---- L2 ---- */

/* The table whose entries are being counted. */
struct l2_count {
	struct ox_walk *w;
	struct ox_cell cell;
	uint64_t cluster;	  /* the table's */
	uint64_t limit_bytes;	  /* what its entries may name */
	uint64_t next_contiguous; /* where the next data cluster would continue the last one */
	bool active;
};

static int overlap(struct ox_walk *w, const char *word, uint64_t offset, uint64_t size_bytes)
{
	ox_walk_found(w, OX_FOUND_OVERLAP,
		      OX_FOUND(.word = word, .a = offset, .b = size_bytes, .host_offset = offset));
	return 0;
}

static bool is_past_end(const struct l2_count *t, uint64_t offset, uint64_t size_bytes)
{
	uint64_t end;

	if (!ox_add_u64(offset, size_bytes, &end))
		return true;
	/* A stream's last sectors may, but it begins in the file. */
	if (t->w->dirty && offset >= t->limit_bytes)
		return true;
	return end > t->limit_bytes && end - t->limit_bytes >= t->w->cluster_bytes;
}

static int past_end(struct l2_count *t, uint64_t offset, uint64_t size_bytes)
{
	struct ox_walk *w = t->w;

	if (ox_walk_entry_is_stale(w, t->cluster, t->cell, offset)) {
		w->stale++;
		ox_walk_found(w, OX_FOUND_STALE_ENTRY, OX_FOUND(.a = offset));
		return 0;
	}
	ox_walk_found(w, OX_FOUND_PAST_END,
		      OX_FOUND(.a = offset, .b = size_bytes, .host_offset = offset));
	return 0;
}

static int count_compressed(struct l2_count *t, const struct ox_qcow2_entry *e)
{
	struct ox_walk *w = t->w;
	uint64_t first = e->host.bytes / w->cluster_bytes;
	uint64_t last = (e->host.bytes + e->compressed_bytes - 1) / w->cluster_bytes;

	if (t->active) {
		w->result.allocated_clusters++;
		w->result.fragmented_clusters++; /* by nature, as qemu-img has it */
		w->result.compressed_clusters++;
	}
	if (e->copied) {
		w->compressed_copied += t->active;
		ox_walk_found(w, OX_FOUND_COPIED_COMPRESSED,
			      OX_FOUND(.a = e->host.bytes, .host_offset = e->host.bytes));
	}
	if (is_past_end(t, e->host.bytes, e->compressed_bytes))
		return past_end(t, e->host.bytes, e->compressed_bytes);
	for (uint64_t c = first; c <= last; c++) {
		int r = ox_walk_refer(w, c, OX_CELL_COMPRESSED, t->cell.count);

		if (r < 0)
			return r;
		if (r == 0)
			return overlap(w, "Compressed cluster", e->host.bytes, e->compressed_bytes);
	}
	return 0;
}

static int count_data(struct l2_count *t, const struct ox_qcow2_entry *e)
{
	struct ox_walk *w = t->w;
	int r;

	if (t->active) {
		w->result.allocated_clusters++;
		if (t->next_contiguous && t->next_contiguous != e->host.bytes)
			w->result.fragmented_clusters++;
		t->next_contiguous = e->host.bytes + w->cluster_bytes;
	}
	if (is_past_end(t, e->host.bytes, w->cluster_bytes))
		return past_end(t, e->host.bytes, w->cluster_bytes);
	r = ox_walk_refer(w, e->host.bytes / w->cluster_bytes,
			  OX_CELL_DATA | (t->active ? copied_flag(e->copied) : 0), t->cell.count);
	return r == 0 ? overlap(w, "Data cluster", e->host.bytes, w->cluster_bytes) : r;
}

static int bad_l2_entry(struct ox_walk *w, uint64_t raw)
{
	uint64_t offset = raw & OX_QCOW2_OFFSET_MASK;
	bool unaligned = !(raw & OX_QCOW2_COMPRESSED) && !ox_is_aligned(offset, w->cluster_bytes);

	ox_walk_found(w, unaligned ? OX_FOUND_L2_UNALIGNED : OX_FOUND_L2_RESERVED,
		      OX_FOUND(.a = unaligned ? offset : raw));
	return 0;
}

static int count_l2_entry(struct l2_count *t, uint64_t raw)
{
	struct ox_qcow2_entry e = ox_qcow2_l2_decode(&t->w->h, raw);

	switch (e.kind) {
	case OX_QCOW2_ENTRY_UNALLOCATED:
	case OX_QCOW2_ENTRY_ZERO:
		return 0;
	case OX_QCOW2_ENTRY_DATA:
	case OX_QCOW2_ENTRY_ZERO_ALLOC:
		return count_data(t, &e);
	case OX_QCOW2_ENTRY_COMPRESSED:
		return count_compressed(t, &e);
	case OX_QCOW2_ENTRY_BAD:
		break;
	}
	return bad_l2_entry(t->w, raw);
}

/* How many entries, of room, go on as the first one begins: in the next clusters, and all alike. */
static uint64_t run_length(const struct ox_be64 *table, uint64_t room, uint64_t step)
{
	uint64_t raw = ox_be64_get(table[0]);
	uint64_t run = 1;

	while (run < room && ox_be64_get(table[run]) == raw + run * step)
		run++;
	return run;
}

/*
 * Counts the entries that come first and name a run of data clusters that nothing else names yet,
 * at once, and returns how many they are. 0: the first one is to be looked at by itself.
 */
static int64_t count_run(struct l2_count *t, const struct ox_be64 *table, uint64_t room)
{
	struct ox_walk *w = t->w;
	struct ox_qcow2_entry e = ox_qcow2_l2_decode(&w->h, ox_be64_get(table[0]));
	uint64_t whole = t->limit_bytes / w->cluster_bytes;
	uint64_t first = e.host.bytes / w->cluster_bytes;
	struct ox_cell cell = {.state = OX_CELL_DATA, .count = t->cell.count};
	int64_t run;

	if ((e.kind != OX_QCOW2_ENTRY_DATA && e.kind != OX_QCOW2_ENTRY_ZERO_ALLOC) ||
	    first >= whole)
		return 0;
	if (t->active)
		cell.state |= copied_flag(e.copied);
	/* What adds up to a place in the file has carried into no flag. */
	run = (int64_t)run_length(table, ox_min_u64(room, whole - first), w->cluster_bytes);
	run = ox_counts_fill(&w->counts, first, (uint64_t)run, cell);
	if (run > 0 && t->active) {
		w->result.allocated_clusters += (uint64_t)run;
		w->result.fragmented_clusters +=
			t->next_contiguous && t->next_contiguous != e.host.bytes;
		t->next_contiguous = e.host.bytes + (uint64_t)run * w->cluster_bytes;
	}
	return run;
}

int ox_walk_count_l2_table(struct ox_walk *w, uint64_t cluster, struct ox_cell cell,
			   struct ox_be64 *table)
{
	struct l2_count t = {
		.w = w,
		.cell = cell,
		.cluster = cluster,
		.limit_bytes = ox_walk_limit_of(w, cluster),
		.active = (cell.state & 3u) != 0,
	};
	uint64_t entries = ox_qcow2_l2_entries(&w->h);
	uint64_t i = 0;

	while (i < entries) {
		int64_t run = table[i].raw ? count_run(&t, &table[i], entries - i) : 1;

		if (run == 0) {
			int r = count_l2_entry(&t, ox_be64_get(table[i]));

			run = r < 0 ? r : 1;
		}
		if (run < 0)
			return (int)run;
		i += (uint64_t)run;
	}
	return 0;
}

int ox_walk_count_l1_co(struct ox_walk *w)
{
	int r = ox_walk_l1_co(w, true, count_l1_entry);

	if (r == 0)
		sort_l2_tables(w);
	return r;
}
