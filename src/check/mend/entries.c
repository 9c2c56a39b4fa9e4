/* SPDX-License-Identifier: MIT */
/*
 * Entries that cannot be followed. Each is changed within its sector (M2): to a cluster that is
 * counted exactly as often as it is then named (D2, D3), or to nothing. What could be read before
 * is read after: none of these could.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "check/mend/mend.h"

static const char lost[] = "lost";
static const char in_doubt[] = "in doubt";

/* ---- whether a cluster may be what an entry meant ---- */

/* 1: nobody names it and it is counted refs times; 0 or a negative errno. */
static int is_orphan_co(struct ox_walk *w, uint64_t offset, uint64_t refs)
{
	uint64_t cluster = offset / w->v.cluster_bytes;
	uint64_t stored = 0;
	int r;

	if (offset == 0 || ox_view_past_end(&w->v, offset, w->v.cluster_bytes) ||
	    ox_counts_get(&w->k.cells, cluster).state != OX_CELL_NONE ||
	    ox_salvage_keeps(w, cluster))
		return 0;
	r = ox_stored_count_co(&w->k, &w->mend->stored, cluster, &stored);
	return r <= 0 ? r : stored == refs;
}

/* Whether a sound entry of a table names what it may: a cluster of the file, or, of the data file,
 * the one at its guest offset. */
static bool is_plausible_place(const struct ox_walk *w, const struct ox_qcow2_entry *e,
			       uint64_t guest)
{
	if (!w->v.has_data_file)
		return e->host.bytes < w->v.file_bytes;
	return (e->kind != OX_QCOW2_ENTRY_DATA && e->kind != OX_QCOW2_ENTRY_ZERO_ALLOC) ||
	       e->host.bytes == guest;
}

/* Whether every entry of a table could be one. */
static bool is_plausible_table(const struct ox_walk *w, const struct ox_be64 *table,
			       uint64_t l1_index)
{
	unsigned words = ox_qcow2_l2_words(&w->v.h);
	bool any = false;

	for (uint64_t i = 0; i < ox_qcow2_l2_entries(&w->v.h); i++) {
		struct ox_qcow2_entry e =
			ox_qcow2_l2_decode(&w->v.h, ox_be64_get(table[i * words]));
		uint64_t subclusters = words == 2 ? ox_be64_get(table[i * 2 + 1]) : 0;

		if (e.kind == OX_QCOW2_ENTRY_BAD ||
		    !ox_qcow2_subclusters_valid(e.kind, subclusters) ||
		    !is_plausible_place(w, &e,
					l1_index * ox_view_l1_span(&w->v) + i * w->v.cluster_bytes))
			return false;
		any |= e.kind != OX_QCOW2_ENTRY_UNALLOCATED;
	}
	return any;
}

/* 1: the cluster holds what can be the table of an L1 index; 0 or a negative errno. */
static int holds_table_co(struct ox_walk *w, uint64_t offset, uint64_t l1_index)
{
	struct ox_be64 *table = malloc(w->v.cluster_bytes);
	int r;

	if (!table)
		return -ENOMEM;
	r = ox_io_pread_co(w->v.io, table, w->v.cluster_bytes, offset);
	if (r == 0)
		r = is_plausible_table(w, table, l1_index);
	else if (r != -ENOMEM)
		r = 0;
	free(table);
	return r;
}

/* Whether nothing would show through an entry that is taken away. */
static bool is_bottom(const struct ox_walk *w)
{
	return w->v.h.backing_offset == 0;
}

static void changed(struct ox_walk *w, struct ox_be64 *entry, uint64_t raw, const char *fate,
		    enum ox_finding_id id, struct ox_found what)
{
	what.fate = fate;
	*entry = ox_be64(raw);
	w->mend->changes++;
	w->mend->dropped += fate == lost;
	ox_journal_mended(w->j, id, what);
}

/* ---- L1 ---- */

static int mend_l1_entry_co(struct ox_walk *w, uint64_t tree, uint64_t index, struct ox_be64 *entry)
{
	uint64_t raw = ox_be64_get(*entry);
	struct ox_qcow2_l1_entry e = ox_qcow2_l1_decode(&w->v.h, raw);
	uint64_t offset = raw & OX_QCOW2_OFFSET_MASK;
	uint64_t aligned = ox_align_down(offset, w->v.cluster_bytes);
	bool past_end = ox_view_past_end(&w->v, aligned, w->v.cluster_bytes);
	uint64_t range_bytes = ox_qcow2_l2_entries(&w->v.h) * w->v.cluster_bytes;
	struct ox_found what =
		OX_FOUND(.a = offset, .b = w->v.cluster_bytes, .host_offset = offset,
			 .guest_offset = index * range_bytes, .guest_length = range_bytes,
			 .snapshot = ox_view_name_of(&w->v, tree));
	enum ox_finding_id id = OX_FOUND_PAST_END;
	int r;

	if (!e.bad && !past_end)
		return 0;
	if (e.bad)
		id = offset == aligned ? OX_FOUND_L1_RESERVED : OX_FOUND_L1_UNALIGNED;
	if (raw == OX_QCOW2_COPIED)
		id = OX_FOUND_L1_COPIED_EMPTY;
	what.a = id == OX_FOUND_L1_RESERVED ? raw : id == OX_FOUND_L1_COPIED_EMPTY ? index : offset;
	r = e.bad ? is_orphan_co(w, aligned, 1) : 0;
	if (r > 0)
		r = holds_table_co(w, aligned, index);
	if (r < 0)
		return r;
	if (r > 0) {
		changed(w, entry, aligned | (tree == 0 ? OX_QCOW2_COPIED : 0), in_doubt, id, what);
		return ox_counts_refer(&w->k.cells, aligned / w->v.cluster_bytes, OX_CELL_L2, 1);
	}
	/* What lies in the file may be all that is left of a table: it is kept for another day. */
	if ((aligned == 0 || past_end) && is_bottom(w) && !ox_salvage_awaits(w, tree, index)) {
		ox_salvage_note_dropped(w);
		changed(w, entry, 0, lost, id, what);
	}
	return 0;
}

/* ---- L2 ---- */

/* The entry that is looked at. */
struct l2_target {
	struct ox_cell cell; /* of the table */
	const struct ox_place *place;
	struct ox_be64 *table;
	uint64_t index;
	unsigned words;
};

static uint64_t guest_of(const struct ox_walk *w, const struct l2_target *t)
{
	return t->place->index * ox_view_l1_span(&w->v) + t->index * w->v.cluster_bytes;
}

static struct ox_be64 *entry_of(const struct l2_target *t)
{
	return &t->table[t->index * t->words];
}

static uint64_t copied_of(const struct l2_target *t)
{
	return (t->cell.state & 3u) != 0 && t->cell.count == 1 ? OX_QCOW2_COPIED : 0;
}

/* What an extended entry says of its subclusters once its cluster is gone: those that were in it
 * read as zeroes; the others as before, unless nothing of the entry can be trusted. */
static void drop_subclusters(const struct ox_walk *w, const struct l2_target *t, bool trusted)
{
	struct ox_be64 *second = entry_of(t) + 1;
	uint64_t bits = ox_be64_get(*second);
	uint64_t zero = (bits >> 32 | bits) << 32;

	/* A compressed cluster says nothing there. */
	trusted &= !(ox_be64_get(*entry_of(t)) & OX_QCOW2_COMPRESSED);
	*second = ox_be64(trusted || is_bottom(w) ? zero : UINT64_C(0xffffffff) << 32);
}

static int drop_l2_entry(struct ox_walk *w, const struct l2_target *t, bool reads_zero,
			 enum ox_finding_id id, struct ox_found what)
{
	bool has_zero = w->v.h.version >= 3 && t->words == 1;

	if (!has_zero && t->words == 1 && !is_bottom(w))
		return 0;
	if (t->words == 2)
		drop_subclusters(w, t, id == OX_FOUND_PAST_END);
	changed(w, entry_of(t), has_zero && (reads_zero || !is_bottom(w)) ? OX_QCOW2_ZERO : 0,
		reads_zero ? NULL : lost, id, what);
	return 0;
}

static int name_cluster(struct ox_walk *w, const struct l2_target *t, uint64_t offset,
			uint64_t keep, enum ox_finding_id id, struct ox_found what)
{
	changed(w, entry_of(t), offset | keep | copied_of(t), in_doubt, id, what);
	return ox_counts_refer(&w->k.cells, offset / w->v.cluster_bytes, OX_CELL_DATA,
			       t->cell.count);
}

/* 1: the entry beside this one, step away, tells an orphan that continues its run; 0 or an error.
 */
static int continues_co(struct ox_walk *w, const struct l2_target *t, int64_t step, uint64_t *ret)
{
	uint64_t other = t->index + (uint64_t)step;
	struct ox_qcow2_entry e;

	if (other >= ox_qcow2_l2_entries(&w->v.h))
		return 0;
	e = ox_qcow2_l2_decode(&w->v.h, ox_be64_get(t->table[other * t->words]));
	if (e.kind != OX_QCOW2_ENTRY_DATA ||
	    ox_view_past_end(&w->v, e.host.bytes, w->v.cluster_bytes))
		return 0;
	*ret = e.host.bytes - (uint64_t)step * w->v.cluster_bytes;
	return is_orphan_co(w, *ret, t->cell.count);
}

/*
 * Guests mostly write in order, and clusters are given out in order: where the neighbour of a lost
 * entry names the cluster beside one that nobody names, and that is counted as often as the table
 * is, this is what the entry meant. 1 and its place; 0, also where both neighbours tell different
 * ones; or an error.
 */
static int find_by_neighbours_co(struct ox_walk *w, const struct l2_target *t, uint64_t *ret)
{
	uint64_t above = 0;
	uint64_t below = 0;
	int r = continues_co(w, t, -1, &below);
	int other = r < 0 ? r : continues_co(w, t, 1, &above);

	if (other < 0)
		return other;
	if (r == 1 && other == 1 && below != above)
		return 0;
	*ret = r == 1 ? below : above;
	return r | other;
}

/* Takes an entry away, where nothing tells what it named. */
static int give_up_entry_co(struct ox_walk *w, const struct l2_target *t, enum ox_finding_id id,
			    struct ox_found what)
{
	uint64_t offset = 0;
	int r = find_by_neighbours_co(w, t, &offset);

	if (r == 1)
		return name_cluster(w, t, offset, 0, id, what);
	return r < 0 ? r : drop_l2_entry(w, t, false, id, what);
}

static int mend_bad_entry_co(struct ox_walk *w, const struct l2_target *t)
{
	uint64_t raw = ox_be64_get(*entry_of(t));
	uint64_t offset = raw & OX_QCOW2_OFFSET_MASK;
	uint64_t aligned = ox_align_down(offset, w->v.cluster_bytes);
	bool unaligned = !(raw & OX_QCOW2_COMPRESSED) && offset != aligned;
	enum ox_finding_id id = unaligned ? OX_FOUND_L2_UNALIGNED : OX_FOUND_L2_RESERVED;
	struct ox_found what = OX_FOUND(.a = unaligned ? offset : raw, .host_offset = aligned);
	uint64_t keep = w->v.h.version >= 3 && t->words == 1 ? raw & OX_QCOW2_ZERO : 0;
	int r = 0;

	if (offset == 0 && !(raw & OX_QCOW2_COMPRESSED))
		id = raw & ~(OX_QCOW2_COPIED | keep) ? id : OX_FOUND_L2_COPIED_EMPTY;
	ox_mend_at_entry(w, t->place, t->index, &what);
	if (!(raw & OX_QCOW2_COMPRESSED))
		r = is_orphan_co(w, aligned, t->cell.count);
	if (r < 0)
		return r;
	if (r == 0)
		return give_up_entry_co(w, t, id, what);
	return name_cluster(w, t, aligned, keep, id, what);
}

/* A cluster of a data file can lie in one place alone. */
static int mend_data_file_entry(struct ox_walk *w, const struct l2_target *t,
				const struct ox_qcow2_entry *e)
{
	uint64_t raw = ox_be64_get(*entry_of(t));
	uint64_t guest = guest_of(w, t);
	bool is_sound = e->kind == OX_QCOW2_ENTRY_DATA || e->kind == OX_QCOW2_ENTRY_ZERO_ALLOC;
	struct ox_found what = OX_FOUND(.a = e->host.bytes, .b = guest);
	enum ox_finding_id id = OX_FOUND_DATA_FILE_OFFSET;

	if (e->kind == OX_QCOW2_ENTRY_UNALLOCATED || e->kind == OX_QCOW2_ENTRY_ZERO ||
	    (is_sound && e->host.bytes == guest))
		return 0;
	if (!is_sound) {
		uint64_t offset = raw & OX_QCOW2_OFFSET_MASK;
		bool unaligned =
			!(raw & OX_QCOW2_COMPRESSED) && !ox_is_aligned(offset, w->v.cluster_bytes);

		id = unaligned ? OX_FOUND_L2_UNALIGNED : OX_FOUND_L2_RESERVED;
		what = OX_FOUND(.a = unaligned ? offset : raw);
	}
	ox_mend_at_entry(w, t->place, t->index, &what);
	changed(w, entry_of(t),
		guest | OX_QCOW2_COPIED |
			(e->kind == OX_QCOW2_ENTRY_ZERO_ALLOC ? OX_QCOW2_ZERO : 0),
		in_doubt, id, what);
	return 0;
}

/* A subcluster that is both allocated and zero is read from its cluster; where there is none, it
 * was zero. A compressed cluster has none. */
static void mend_subclusters(struct ox_walk *w, const struct l2_target *t,
			     const struct ox_qcow2_entry *e)
{
	struct ox_be64 *second = entry_of(t) + 1;
	uint64_t bits = ox_be64_get(*second);
	struct ox_found what = OX_FOUND(.a = ox_be64_get(*entry_of(t)), .b = bits);
	bool gone = e->kind == OX_QCOW2_ENTRY_UNALLOCATED;

	if (ox_qcow2_subclusters_valid(e->kind, bits))
		return;
	if (gone)
		bits = (bits >> 32 | bits) << 32;
	else
		bits &= ~(bits << 32);
	if (e->kind == OX_QCOW2_ENTRY_COMPRESSED)
		bits = 0;
	ox_mend_at_entry(w, t->place, t->index, &what);
	changed(w, second, bits, gone ? lost : in_doubt, OX_FOUND_SUBCLUSTERS, what);
}

static int mend_l2_entry_co(struct ox_walk *w, const struct l2_target *t)
{
	struct ox_qcow2_entry e = ox_qcow2_l2_decode(&w->v.h, ox_be64_get(*entry_of(t)));
	uint64_t size_bytes =
		e.kind == OX_QCOW2_ENTRY_COMPRESSED ? e.compressed_bytes : w->v.cluster_bytes;
	struct ox_found what =
		OX_FOUND(.a = e.host.bytes, .b = size_bytes, .host_offset = e.host.bytes);

	if (t->words == 2 && e.kind != OX_QCOW2_ENTRY_BAD &&
	    !(w->v.has_data_file && e.kind == OX_QCOW2_ENTRY_COMPRESSED))
		mend_subclusters(w, t, &e);
	if (w->v.has_data_file)
		return mend_data_file_entry(w, t, &e);
	switch (e.kind) {
	case OX_QCOW2_ENTRY_BAD:
		return mend_bad_entry_co(w, t);
	case OX_QCOW2_ENTRY_DATA:
	case OX_QCOW2_ENTRY_ZERO_ALLOC:
	case OX_QCOW2_ENTRY_COMPRESSED:
		break;
	default:
		return 0;
	}
	if (e.kind == OX_QCOW2_ENTRY_COMPRESSED && e.host.bytes < w->v.cluster_bytes) {
		what.word = "Compressed cluster";
		ox_mend_at_entry(w, t->place, t->index, &what);
		return give_up_entry_co(w, t, OX_FOUND_OVERLAP, what);
	}
	/* A stream is often shorter than its entry says: one that begins in the file may be whole.
	 */
	if (!ox_view_past_end(&w->v, e.host.bytes, size_bytes) || e.host.bytes < w->v.file_bytes)
		return 0;
	ox_mend_at_entry(w, t->place, t->index, &what);
	if (e.kind == OX_QCOW2_ENTRY_ZERO_ALLOC)
		return drop_l2_entry(w, t, true, OX_FOUND_PAST_END, what);
	return give_up_entry_co(w, t, OX_FOUND_PAST_END, what);
}

/* What holds no table, and another L1 entry that leads nowhere, or did: it may be that one's data.
 */
static bool may_be_data(const struct ox_walk *w, uint64_t cluster, const struct ox_place *place)
{
	return ox_walk_is_no_table(w, cluster) &&
	       (w->bad_l1_entries > w->no_table_count || w->lost > 0 ||
		ox_salvage_awaits(w, place->tree, place->index));
}

static int mend_l2_table_co(struct ox_walk *w, uint64_t cluster, struct ox_cell cell,
			    struct ox_be64 *table)
{
	struct l2_target t = {.cell = cell, .table = table, .words = ox_qcow2_l2_words(&w->v.h)};
	size_t places;

	t.place = ox_places_find(&w->mend->places, cluster, &places);
	/* A table that is something else too is told apart first. */
	if (!t.place || ox_cell_is_broken(cell) || may_be_data(w, cluster, t.place))
		return 0;
	/* Of two places that one table has, only one can be where a data file has its clusters. */
	if (w->v.has_data_file && places > 1)
		return 0;
	for (t.index = 0; t.index < ox_qcow2_l2_entries(&w->v.h); t.index++) {
		const struct ox_be64 *entry = entry_of(&t);
		bool is_empty = !entry->raw && (t.words == 1 || !entry[1].raw);
		int r = is_empty ? 0 : mend_l2_entry_co(w, &t);

		if (r < 0)
			return r;
	}
	return 0;
}

int ox_mend_entries_co(struct ox_walk *w)
{
	int r;

	w->changes_entries = true;
	r = ox_walk_l1_co(w, true, mend_l1_entry_co);
	if (r >= 0)
		r = ox_walk_l2_co(w, false, mend_l2_table_co);
	w->changes_entries = false;
	return r < 0 ? r : ox_io_sync_co(w->v.io);
}
