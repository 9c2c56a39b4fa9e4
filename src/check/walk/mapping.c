/* SPDX-License-Identifier: MIT */
/* Counting what L1 and L2 entries name. */
#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "check/walk/walk.h"

static unsigned copied_flag(bool copied)
{
	return copied ? OX_CELL_COPIED : OX_CELL_PLAIN;
}

/* ---- L1 ---- */

/* The entries that are cut off are no empty ones. */
static void judge_l2_end(struct ox_walk *w, uint64_t tree, uint64_t index, uint64_t offset)
{
	uint64_t entry_bytes = 8 * ox_qcow2_l2_words(&w->v.h);
	struct ox_found what = {.word = "L2 table",
				.a = offset,
				.b = w->v.cluster_bytes,
				.host_offset = offset,
				.fate = "lost"};
	uint64_t start = 0;

	if (!ox_view_is_cut(&w->v, offset, w->v.cluster_bytes))
		return;
	if (offset < w->v.file_bytes)
		start = (w->v.file_bytes - offset) / entry_bytes * w->v.cluster_bytes;
	ox_view_set_range(&w->v, &what, tree, index * ox_view_l1_span(&w->v) + start,
			  ox_view_l1_span(&w->v) - start);
	ox_journal_found(w->j, OX_FOUND_TABLE_CUT, what);
}

static int refer_to_l2(struct ox_walk *w, uint64_t tree, uint64_t index,
		       const struct ox_qcow2_l1_entry *e, struct ox_found what)
{
	uint64_t cluster = e->l2.bytes / w->v.cluster_bytes;
	bool is_new = ox_counts_get(&w->k.cells, cluster).state == OX_CELL_NONE;
	int r = ox_counts_refer(&w->k.cells, cluster,
				OX_CELL_L2 | (tree == 0 ? copied_flag(e->copied) : 0), 1);

	what.word = "L2 table";
	if (r == 0) {
		w->bad_l1_entries++;
		ox_journal_found(w->j, OX_FOUND_OVERLAP, what);
	}
	if (r != 1 || !is_new)
		return r < 0 ? r : 0;
	judge_l2_end(w, tree, index, e->l2.bytes);
	return ox_clusters_add(&w->tables, cluster);
}

static int count_l1_entry_co(void *arg, uint64_t tree, uint64_t index, struct ox_be64 *entry)
{
	struct ox_walk *w = arg;
	struct ox_qcow2_l1_entry e = ox_qcow2_l1_decode(&w->v.h, ox_be64_get(*entry));
	enum ox_finding_id id;
	struct ox_found what = ox_view_bad_l1_entry(&w->v, tree, index, ox_be64_get(*entry), &id);
	int r;

	if (!e.bad && !ox_view_past_end(&w->v, e.l2.bytes, w->v.cluster_bytes))
		return refer_to_l2(w, tree, index, &e, what);
	/* The active table is its image's own: no snapshot shares it. */
	if (!e.bad && tree == 0 && w->v.dirty) {
		w->stale++;
		id = OX_FOUND_STALE_ENTRY;
		ox_journal_found(w->j, id, what);
		return 0;
	}
	/* Of a place that no count knows the entry is wrong, and of another one the file. */
	r = e.bad ? 0 : ox_ledger_was_cut_co(&w->k, e.l2.bytes, w->v.cluster_bytes);
	if (r != 0) {
		judge_l2_end(w, tree, index, e.l2.bytes);
		return r < 0 ? r : 0;
	}
	w->bad_l1_entries++;
	ox_journal_found(w->j, id, what);
	return 0;
}

/* ---- L2 ---- */

/* The table whose entries are being counted. */
struct l2_count {
	struct ox_walk *w;
	struct ox_cell cell;
	uint64_t cluster;     /* the table's */
	uint64_t index;	      /* of the entry */
	uint64_t limit_bytes; /* what its entries may name */
	uint64_t bad;	      /* entries that cannot be followed */
	bool active;
};

static int found_co(struct l2_count *t, enum ox_finding_id id, struct ox_found what)
{
	return ox_walk_found_in_l2_co(t->w, t->cluster, t->index, id, what);
}

static int overlap_co(struct l2_count *t, const char *word, uint64_t offset, uint64_t size_bytes)
{
	return found_co(
		t, OX_FOUND_OVERLAP,
		OX_FOUND(.word = word, .a = offset, .b = size_bytes, .host_offset = offset));
}

static bool is_past_end(const struct l2_count *t, uint64_t offset, uint64_t size_bytes)
{
	uint64_t end;

	if (!ox_add_u64(offset, size_bytes, &end))
		return true;
	/* A stream's last sectors may, but it begins in the file. */
	if (t->w->v.dirty && offset >= t->limit_bytes)
		return true;
	return end > t->limit_bytes && end - t->limit_bytes >= t->w->v.cluster_bytes;
}

static int past_end_co(struct l2_count *t, uint64_t offset, uint64_t size_bytes)
{
	bool stale = ox_view_entry_is_stale(&t->w->v, t->cluster, t->cell, offset);

	t->w->stale += stale;
	t->bad += !stale;
	return found_co(t, stale ? OX_FOUND_STALE_ENTRY : OX_FOUND_PAST_END,
			OX_FOUND(.a = offset, .b = size_bytes, .host_offset = offset));
}

static int count_compressed_co(struct l2_count *t, const struct ox_qcow2_entry *e)
{
	struct ox_walk *w = t->w;
	uint64_t first = e->host.bytes / w->v.cluster_bytes;
	uint64_t last = (e->host.bytes + e->compressed_bytes - 1) / w->v.cluster_bytes;
	int r = 0;

	if (e->copied) {
		w->compressed_copied += t->active;
		r = found_co(t, OX_FOUND_COPIED_COMPRESSED,
			     OX_FOUND(.a = e->host.bytes, .host_offset = e->host.bytes));
	}
	if (r < 0)
		return r;
	if (is_past_end(t, e->host.bytes, e->compressed_bytes))
		return past_end_co(t, e->host.bytes, e->compressed_bytes);
	/* No stream begins in the header: the entry is wrong, and not the header. */
	if (first == 0) {
		w->header_streams++;
		return overlap_co(t, "Compressed cluster", e->host.bytes, e->compressed_bytes);
	}
	for (uint64_t c = first; c <= last; c++) {
		r = ox_counts_refer(&w->k.cells, c, OX_CELL_COMPRESSED, t->cell.count);
		if (r < 0)
			return r;
		if (r == 0)
			return overlap_co(t, "Compressed cluster", e->host.bytes,
					  e->compressed_bytes);
	}
	return 0;
}

static int count_data_co(struct l2_count *t, const struct ox_qcow2_entry *e)
{
	struct ox_walk *w = t->w;
	int r;

	if (is_past_end(t, e->host.bytes, w->v.cluster_bytes))
		return past_end_co(t, e->host.bytes, w->v.cluster_bytes);
	r = ox_counts_refer(&w->k.cells, e->host.bytes / w->v.cluster_bytes,
			    OX_CELL_DATA | (t->active ? copied_flag(e->copied) : 0), t->cell.count);
	return r == 0 ? overlap_co(t, "Data cluster", e->host.bytes, w->v.cluster_bytes) : r;
}

/* A cluster of the data file lies at its guest offset, and no count tells of it. */
static int count_elsewhere_co(struct l2_count *t, const struct ox_qcow2_entry *e)
{
	struct ox_walk *w = t->w;
	uint64_t place = ox_walk_place_of(w, t->cluster);
	uint64_t guest;

	if (place == OX_WALK_NO_PLACE)
		return 0;
	guest = ox_walk_place_index(place) * ox_view_l1_span(&w->v) + t->index * w->v.cluster_bytes;
	if (e->host.bytes == guest)
		return 0;
	return found_co(t, OX_FOUND_DATA_FILE_OFFSET, OX_FOUND(.a = e->host.bytes, .b = guest));
}

static int bad_l2_entry_co(struct l2_count *t, uint64_t raw)
{
	uint64_t offset = raw & OX_QCOW2_OFFSET_MASK;

	t->bad++;
	if (raw == OX_QCOW2_COPIED)
		return found_co(t, OX_FOUND_L2_COPIED_EMPTY, OX_FOUND(.a = raw));
	if (!(raw & OX_QCOW2_COMPRESSED) && !ox_is_aligned(offset, t->w->v.cluster_bytes))
		return found_co(t, OX_FOUND_L2_UNALIGNED, OX_FOUND(.a = offset));
	return found_co(t, OX_FOUND_L2_RESERVED, OX_FOUND(.a = raw));
}

static int count_l2_entry_co(struct l2_count *t, uint64_t raw, uint64_t subclusters)
{
	struct ox_walk *w = t->w;
	struct ox_qcow2_entry e = ox_qcow2_l2_decode(&w->v.h, raw);

	if (subclusters && e.kind != OX_QCOW2_ENTRY_BAD &&
	    !ox_qcow2_subclusters_valid(e.kind, subclusters)) {
		int r = found_co(t, OX_FOUND_SUBCLUSTERS, OX_FOUND(.a = raw, .b = subclusters));

		if (r < 0)
			return r;
	}
	switch (e.kind) {
	case OX_QCOW2_ENTRY_UNALLOCATED:
	case OX_QCOW2_ENTRY_ZERO:
		return 0;
	case OX_QCOW2_ENTRY_DATA:
	case OX_QCOW2_ENTRY_ZERO_ALLOC:
		return w->v.has_data_file ? count_elsewhere_co(t, &e) : count_data_co(t, &e);
	case OX_QCOW2_ENTRY_COMPRESSED:
		if (!w->v.has_data_file)
			return count_compressed_co(t, &e);
		break;
	case OX_QCOW2_ENTRY_BAD:
		break;
	}
	return bad_l2_entry_co(t, raw);
}

int ox_walk_note_no_table(struct ox_walk *w, uint64_t cluster)
{
	const struct ox_clusters *list = &w->no_tables;

	if (list->count > 0 && list->items[list->count - 1] >= cluster)
		return 0;
	return ox_clusters_add(&w->no_tables, cluster);
}

bool ox_walk_is_no_table(const struct ox_walk *w, uint64_t cluster)
{
	return ox_clusters_find(&w->no_tables, cluster) < w->no_tables.count;
}

/* Most of what is not zero is no entry: L1 names something else. */
static int judge_table(struct l2_count *t, uint64_t used)
{
	if (2 * t->bad <= used)
		return 0;
	t->w->bad_l1_entries++;
	return ox_walk_note_no_table(t->w, t->cluster);
}

int ox_walk_settle_digest_co(struct ox_walk *w, const struct ox_digest *d, uint64_t cluster,
			     struct ox_cell cell)
{
	struct l2_count t = {
		.w = w,
		.cell = cell,
		.cluster = cluster,
		.limit_bytes = ox_view_limit_of(&w->v, cluster),
		.active = (cell.state & 3u) != 0,
	};

	if (t.active) {
		w->allocated += d->allocated;
		w->fragmented += d->fragmented;
		w->compressed += d->compressed;
	}
	for (uint32_t i = 0; i < d->odd_count; i++) {
		int r;

		t.index = d->odd[i].index;
		r = count_l2_entry_co(&t, d->odd[i].raw, d->odd[i].subclusters);
		if (r < 0)
			return r;
	}
	return t.bad > 0 ? judge_table(&t, d->used) : 0;
}

int ox_walk_count_l1_co(struct ox_walk *w)
{
	int r = ox_walk_l1_co(w, OX_WAYS_ALL, count_l1_entry_co, w);

	/* Each table was listed when it was first named, so that none is there twice. */
	ox_clusters_sort(&w->tables);
	ox_journal_expect(w->j, w->tables.count);
	/* Whether a cluster of the data file is in its place is asked of every entry. */
	if (r == 0 && w->v.has_data_file)
		r = ox_walk_place_tables_co(w);
	return r;
}
