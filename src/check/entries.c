/* SPDX-License-Identifier: MIT */
/*
 * Entries that cannot be followed. Each is changed within its sector (M2): to a cluster that is
 * counted exactly as often as it is then named (D2, D3), or to nothing. What could be read before
 * is read after: none of these could.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "check/mend.h"

static const char lost[] = "lost";
static const char in_doubt[] = "in doubt";

/* ---- whether a cluster may be what an entry meant ---- */

/* 1: nobody names it and it is counted refs times; 0 or a negative errno. */
static int is_orphan_co(struct ox_walk *w, uint64_t offset, uint64_t refs)
{
	uint64_t cluster = offset / w->cluster_bytes;
	uint64_t stored = 0;
	int r;

	if (offset == 0 || ox_walk_past_end(w, offset, w->cluster_bytes) ||
	    ox_counts_get(&w->counts, cluster).state != OX_CELL_NONE)
		return 0;
	r = ox_stored_count_co(w, &w->mend->stored, cluster, &stored);
	return r <= 0 ? r : stored == refs;
}

/* Whether every entry of a table could be one. */
static bool is_plausible_table(const struct ox_walk *w, const struct ox_be64 *table)
{
	bool any = false;

	for (uint64_t i = 0; i < ox_qcow2_l2_entries(&w->h); i++) {
		struct ox_qcow2_entry e = ox_qcow2_l2_decode(&w->h, ox_be64_get(table[i]));

		if (e.kind == OX_QCOW2_ENTRY_BAD || e.host.bytes >= w->file_bytes)
			return false;
		any |= e.kind != OX_QCOW2_ENTRY_UNALLOCATED;
	}
	return any;
}

/* 1: the cluster holds what can be a table; 0 or a negative errno. */
static int holds_table_co(struct ox_walk *w, uint64_t offset)
{
	struct ox_be64 *table = malloc(w->cluster_bytes);
	int r;

	if (!table)
		return -ENOMEM;
	r = ox_io_pread_co(w->io, table, w->cluster_bytes, offset);
	if (r == 0)
		r = is_plausible_table(w, table);
	else if (r != -ENOMEM)
		r = 0;
	free(table);
	return r;
}

/* Whether nothing would show through an entry that is taken away. */
static bool is_bottom(const struct ox_walk *w)
{
	return w->h.backing_offset == 0;
}

static void changed(struct ox_walk *w, struct ox_be64 *entry, uint64_t raw, const char *fate,
		    enum ox_finding_id id, struct ox_found what)
{
	what.fate = fate;
	*entry = ox_be64(raw);
	w->mend->changes++;
	w->mend->dropped += fate == lost;
	ox_walk_mended(w, id, what);
}

/* ---- L1 ---- */

static int mend_l1_entry_co(struct ox_walk *w, uint64_t tree, uint64_t index, struct ox_be64 *entry)
{
	uint64_t raw = ox_be64_get(*entry);
	struct ox_qcow2_l1_entry e = ox_qcow2_l1_decode(&w->h, raw);
	uint64_t offset = raw & OX_QCOW2_OFFSET_MASK;
	uint64_t aligned = ox_align_down(offset, w->cluster_bytes);
	bool past_end = ox_walk_past_end(w, aligned, w->cluster_bytes);
	uint64_t range_bytes = ox_qcow2_l2_entries(&w->h) * w->cluster_bytes;
	struct ox_found what = OX_FOUND(.a = offset, .b = w->cluster_bytes, .host_offset = offset,
					.guest_offset = index * range_bytes,
					.guest_length = range_bytes, .tree = tree);
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
		r = holds_table_co(w, aligned);
	if (r < 0)
		return r;
	if (r > 0) {
		changed(w, entry, aligned | (tree == 0 ? OX_QCOW2_COPIED : 0), in_doubt, id, what);
		return ox_walk_refer(w, aligned / w->cluster_bytes, OX_CELL_L2, 1);
	}
	/* What lies in the file may be all that is left of a table: it is kept for another day. */
	if ((aligned == 0 || past_end) && is_bottom(w) && !ox_salvage_awaits(w, tree, index)) {
		ox_salvage_note_dropped(w);
		changed(w, entry, 0, lost, id, what);
	}
	return 0;
}

/* ---- L2 ---- */

struct l2_target {
	struct ox_cell cell; /* of the table */
	const struct ox_place *place;
	uint64_t index;
};

static int drop_l2_entry(struct ox_walk *w, struct ox_be64 *entry, bool reads_zero,
			 enum ox_finding_id id, struct ox_found what)
{
	bool has_zero = w->h.version >= 3;

	if (!has_zero && !is_bottom(w))
		return 0;
	changed(w, entry, has_zero && (reads_zero || !is_bottom(w)) ? OX_QCOW2_ZERO : 0,
		reads_zero ? NULL : lost, id, what);
	return 0;
}

static int mend_bad_entry_co(struct ox_walk *w, const struct l2_target *t, struct ox_be64 *entry)
{
	uint64_t raw = ox_be64_get(*entry);
	uint64_t offset = raw & OX_QCOW2_OFFSET_MASK;
	uint64_t aligned = ox_align_down(offset, w->cluster_bytes);
	bool unaligned = !(raw & OX_QCOW2_COMPRESSED) && offset != aligned;
	enum ox_finding_id id = unaligned ? OX_FOUND_L2_UNALIGNED : OX_FOUND_L2_RESERVED;
	struct ox_found what = OX_FOUND(.a = unaligned ? offset : raw, .host_offset = aligned);
	uint64_t keep = w->h.version >= 3 ? raw & OX_QCOW2_ZERO : 0;
	bool active = (t->cell.state & 3u) != 0;
	int r = 0;

	if (offset == 0 && !(raw & OX_QCOW2_COMPRESSED))
		id = raw & ~(OX_QCOW2_COPIED | keep) ? id : OX_FOUND_L2_COPIED_EMPTY;
	ox_mend_at_entry(w, t->place, t->index, &what);
	if (!(raw & OX_QCOW2_COMPRESSED))
		r = is_orphan_co(w, aligned, t->cell.count);
	if (r < 0)
		return r;
	if (r == 0)
		return drop_l2_entry(w, entry, false, id, what);
	if (active && t->cell.count == 1)
		keep |= OX_QCOW2_COPIED;
	changed(w, entry, aligned | keep, in_doubt, id, what);
	return ox_walk_refer(w, aligned / w->cluster_bytes, OX_CELL_DATA, t->cell.count);
}

static int mend_l2_entry_co(struct ox_walk *w, const struct l2_target *t, struct ox_be64 *entry)
{
	struct ox_qcow2_entry e = ox_qcow2_l2_decode(&w->h, ox_be64_get(*entry));
	uint64_t size_bytes =
		e.kind == OX_QCOW2_ENTRY_COMPRESSED ? e.compressed_bytes : w->cluster_bytes;
	struct ox_found what =
		OX_FOUND(.a = e.host.bytes, .b = size_bytes, .host_offset = e.host.bytes);

	switch (e.kind) {
	case OX_QCOW2_ENTRY_BAD:
		return mend_bad_entry_co(w, t, entry);
	case OX_QCOW2_ENTRY_DATA:
	case OX_QCOW2_ENTRY_ZERO_ALLOC:
	case OX_QCOW2_ENTRY_COMPRESSED:
		break;
	default:
		return 0;
	}
	/* A stream is often shorter than its entry says: one that begins in the file may be whole.
	 */
	if (!ox_walk_past_end(w, e.host.bytes, size_bytes) || e.host.bytes < w->file_bytes)
		return 0;
	ox_mend_at_entry(w, t->place, t->index, &what);
	return drop_l2_entry(w, entry, e.kind == OX_QCOW2_ENTRY_ZERO_ALLOC, OX_FOUND_PAST_END,
			     what);
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
	struct l2_target t = {.cell = cell};
	size_t places;

	t.place = ox_places_find(&w->mend->places, cluster, &places);
	/* A table that is something else too is told apart first. */
	if (!t.place || ox_cell_is_broken(cell) || may_be_data(w, cluster, t.place))
		return 0;
	for (t.index = 0; t.index < ox_qcow2_l2_entries(&w->h); t.index++) {
		int r = table[t.index].raw ? mend_l2_entry_co(w, &t, &table[t.index]) : 0;

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
	return r < 0 ? r : ox_io_sync_co(w->io);
}
