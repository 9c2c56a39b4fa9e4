/* SPDX-License-Identifier: MIT */
/*
 * Entries that cannot be followed. Each is changed within its sector (M2): to a cluster that is
 * counted exactly as often as it is then named (D2, D3), or to nothing. What could be read before
 * is read after: none of these could.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "base/sorted.h"
#include "check/mend/mend.h"

static const char lost[] = "lost";
static const char in_doubt[] = "in doubt";

/* ---- whether a cluster may be what an entry meant ---- */

/* 1 and the count on disk; 0 where that says nothing: its block is lost, or the image was not
 * closed and counts may be behind; or a negative errno. */
static int count_of_co(struct ox_mend *m, uint64_t cluster, uint64_t *ret)
{
	struct ox_walk *w = m->w;
	uint64_t first = cluster / w->k.rc.block_entries * w->k.rc.block_entries;
	uint64_t end = first + w->k.rc.block_entries;
	int r = ox_stored_count_co(&w->k, &m->stored, cluster, ret);

	if (r <= 0 || *ret > 0)
		return r;
	if (w->v.dirty)
		return 0;
	/* No block, where clusters are in use: there was one. */
	if (cluster / w->k.rc.block_entries >= w->k.rc.index_count ||
	    w->k.rc.blocks[cluster / w->k.rc.block_entries].state == OX_BLOCK_NONE)
		return ox_counts_next(&w->k.cells, first, end) >= end;
	return 1;
}

/* Whether a cluster is in the file, and nobody names it. */
static bool is_unnamed(const struct ox_mend *m, uint64_t offset)
{
	const struct ox_walk *w = m->w;
	uint64_t cluster = offset / w->v.cluster_bytes;

	return offset != 0 && !ox_view_past_end(&w->v, offset, w->v.cluster_bytes) &&
	       ox_counts_get(&w->k.cells, cluster).state == OX_CELL_NONE &&
	       !ox_keeper_keeps(m->keeper, cluster);
}

/* 1: nobody names the cluster, and it is counted refs times; 0 or a negative errno. */
static int is_orphan_co(struct ox_mend *m, uint64_t offset, uint64_t refs)
{
	uint64_t stored = 0;
	int r;

	if (!is_unnamed(m, offset))
		return 0;
	r = count_of_co(m, offset / m->w->v.cluster_bytes, &stored);
	return r <= 0 ? r : stored == refs;
}

/* 1: what an entry itself still tells may be meant: nobody names it, and no count speaks against so
 * many references; 0 or a negative errno. */
static int is_told_co(struct ox_mend *m, uint64_t offset, uint64_t refs)
{
	uint64_t stored = 0;
	int r;

	if (!is_unnamed(m, offset))
		return 0;
	r = count_of_co(m, offset / m->w->v.cluster_bytes, &stored);
	return r < 0 ? r : r == 0 || stored >= refs;
}

/* 1: so many references of a cluster are missing that others name; 0; -ENODATA where no count
 * tells; or another negative errno. */
static int lacks_refs_co(struct ox_mend *m, uint64_t cluster, uint64_t refs)
{
	struct ox_cell cell = ox_counts_get(&m->w->k.cells, cluster);
	uint64_t stored = 0;
	int r = count_of_co(m, cluster, &stored);

	if (r <= 0)
		return r < 0 ? r : -ENODATA;
	return stored >= cell.count + refs;
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
		struct ox_qcow2_entry e = ox_view_l2_entry(&w->v, table, i);
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

static void changed(struct ox_mend *m, struct ox_be64 *entry, uint64_t raw, const char *fate,
		    enum ox_finding_id id, struct ox_found what)
{
	what.fate = fate;
	*entry = ox_be64(raw);
	m->changes++;
	m->dropped += fate == lost;
	ox_journal_mended(m->w->j, id, what);
}

/* ---- L1 ---- */

/* The clusters that a table names, each as often as it does. */
static size_t list_named(const struct ox_walk *w, const struct ox_be64 *table, uint64_t *ret)
{
	size_t count = 0;

	for (uint64_t i = 0; i < ox_qcow2_l2_entries(&w->v.h); i++) {
		struct ox_qcow2_entry e = ox_view_l2_entry(&w->v, table, i);
		uint64_t size_bytes = w->v.cluster_bytes;

		if (e.kind == OX_QCOW2_ENTRY_COMPRESSED)
			size_bytes = e.compressed_bytes;
		else if (e.kind != OX_QCOW2_ENTRY_DATA && e.kind != OX_QCOW2_ENTRY_ZERO_ALLOC)
			continue;
		ret[count++] = e.host.bytes / w->v.cluster_bytes;
		if ((e.host.bytes + size_bytes - 1) / w->v.cluster_bytes > ret[count - 1]) {
			ret[count] = ret[count - 1] + 1;
			count++;
		}
	}
	qsort(ret, count, sizeof(*ret), ox_sorted_compare);
	return count;
}

/* 1: each cluster has room in its count for one more table that names it (D3); 0 or an error. */
static int have_room_co(struct ox_mend *m, const uint64_t *clusters, size_t count)
{
	size_t times = 1;
	int r = 1;

	for (size_t i = 0; i < count && r == 1; i++) {
		if (i + 1 < count && clusters[i + 1] == clusters[i]) {
			times++;
			continue;
		}
		r = lacks_refs_co(m, clusters[i], times);
		if (r == -ENODATA)
			r = 1;
		times = 1;
	}
	return r;
}

/* 1: the counts of all that a table names have room for one more name of the table. */
static int has_room_co(struct ox_mend *m, uint64_t offset)
{
	struct ox_walk *w = m->w;
	struct ox_be64 *table = malloc(w->v.cluster_bytes);
	uint64_t *named = reallocarray(NULL, ox_qcow2_l2_entries(&w->v.h), 2 * sizeof(*named));
	int r = table && named ? ox_io_pread_co(w->v.io, table, w->v.cluster_bytes, offset)
			       : -ENOMEM;

	if (r == 0)
		r = have_room_co(m, named, list_named(w, table, named));
	else if (r != -ENOMEM)
		r = 0;
	free(named);
	free(table);
	return r;
}

/*
 * A snapshot shares tables with the disk, and with other snapshots, each at one index. So a table
 * that another tree has at the index of an entry, and whose count tells of one more reference, is
 * what the entry named: the one that it still tells, or else the only one. 1 and its place; 0; or
 * an error.
 */
static int find_shared_table_co(struct ox_mend *m, uint64_t index, uint64_t told, uint64_t *ret)
{
	struct ox_walk *w = m->w;
	size_t count;
	struct ox_place *const *at = ox_places_at(&m->places, index, &count);
	uint64_t found = 0;

	for (size_t i = 0; i < count; i++) {
		uint64_t offset = at[i]->cluster * w->v.cluster_bytes;
		struct ox_cell cell = ox_counts_get(&w->k.cells, at[i]->cluster);
		size_t places;
		int r;

		(void)ox_places_find(&m->places, at[i]->cluster, &places);
		if (places > 1 || ox_cell_is_broken(cell) || ox_walk_is_no_table(w, at[i]->cluster))
			continue;
		r = lacks_refs_co(m, at[i]->cluster, 1);
		if (r == -ENODATA)
			r = offset == told;
		if (r < 0)
			return r;
		if (r == 0)
			continue;
		if (found != 0 && offset != told)
			found = UINT64_MAX;
		else
			found = offset;
		if (offset == told)
			break;
	}
	if (found == 0 || found == UINT64_MAX)
		return 0;
	*ret = found;
	return has_room_co(m, found);
}

/* What lies in the file may be all that is left of a table: it is kept for another day. */
bool ox_mend_is_given_up(const struct ox_mend *m, uint64_t tree, uint64_t index, uint64_t raw)
{
	const struct ox_walk *w = m->w;
	struct ox_qcow2_l1_entry e = ox_qcow2_l1_decode(&w->v.h, raw);
	uint64_t aligned = ox_align_down(raw & OX_QCOW2_OFFSET_MASK, w->v.cluster_bytes);
	bool past_end = ox_view_past_end(&w->v, aligned, w->v.cluster_bytes);

	return (past_end || (e.bad && aligned == 0)) && !ox_keeper_awaits(m->keeper, tree, index);
}

static int mend_l1_entry_co(void *arg, uint64_t tree, uint64_t index, struct ox_be64 *entry)
{
	struct ox_mend *m = arg;
	struct ox_walk *w = m->w;
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
	uint64_t shared = 0;
	int r;

	if (!e.bad && !past_end)
		return 0;
	if (e.bad)
		id = offset == aligned ? OX_FOUND_L1_RESERVED : OX_FOUND_L1_UNALIGNED;
	if (raw == OX_QCOW2_COPIED)
		id = OX_FOUND_L1_COPIED_EMPTY;
	what.a = id == OX_FOUND_L1_RESERVED ? raw : id == OX_FOUND_L1_COPIED_EMPTY ? index : offset;
	r = e.bad ? is_told_co(m, aligned, 1) : 0;
	if (r > 0)
		r = holds_table_co(w, aligned, index);
	if (r < 0)
		return r;
	if (r > 0) {
		changed(m, entry, aligned | (tree == 0 ? OX_QCOW2_COPIED : 0), in_doubt, id, what);
		return ox_counts_refer(&w->k.cells, aligned / w->v.cluster_bytes, OX_CELL_L2, 1);
	}
	r = find_shared_table_co(m, index, e.bad ? aligned : 0, &shared);
	if (r < 0)
		return r;
	if (r > 0) {
		changed(m, entry, shared, in_doubt, id, what);
		return ox_counts_refer(&w->k.cells, shared / w->v.cluster_bytes, OX_CELL_L2, 1);
	}
	if (is_bottom(w) && ox_mend_is_given_up(m, tree, index, raw)) {
		ox_keeper_note_dropped(m->keeper);
		changed(m, entry, 0, lost, id, what);
	}
	return 0;
}

/* ---- L2 ---- */

#define MOST_KIN ((size_t)16)

/* How far a pass over a table goes. What is surer comes first, for the whole table: what one entry
 * tells another is then known. */
enum effort {
	BY_ITSELF,     /* what the entry tells, or another tree */
	BY_NEIGHBOURS, /* in the order of the entries, and then back */
	GIVE_UP,
};

/* The entry that is looked at. */
struct l2_target {
	struct ox_cell cell; /* of the table */
	const struct ox_place *place;
	struct ox_be64 *table;
	uint64_t index;
	unsigned words;
	enum effort effort;
	uint64_t left; /* entries that take more */
	/* Tables that other trees have there, once one was asked for; and how often they are named.
	 */
	struct ox_be64 *kin[MOST_KIN];
	uint32_t kin_refs[MOST_KIN];
	size_t kin_count;
	bool has_kin;
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

static int drop_l2_entry(struct ox_mend *m, const struct l2_target *t, bool reads_zero,
			 enum ox_finding_id id, struct ox_found what)
{
	struct ox_walk *w = m->w;
	bool has_zero = w->v.h.version >= 3 && t->words == 1;

	if (!has_zero && t->words == 1 && !is_bottom(w))
		return 0;
	if (t->words == 2)
		drop_subclusters(w, t, id == OX_FOUND_PAST_END);
	changed(m, entry_of(t), has_zero && (reads_zero || !is_bottom(w)) ? OX_QCOW2_ZERO : 0,
		reads_zero ? NULL : lost, id, what);
	return 0;
}

static int name_cluster(struct ox_mend *m, const struct l2_target *t, uint64_t offset,
			uint64_t keep, enum ox_finding_id id, struct ox_found what)
{
	struct ox_walk *w = m->w;
	bool is_shared =
		ox_counts_get(&w->k.cells, offset / w->v.cluster_bytes).state != OX_CELL_NONE;

	changed(m, entry_of(t), offset | keep | (is_shared ? 0 : copied_of(t)), in_doubt, id, what);
	return ox_counts_refer(&w->k.cells, offset / w->v.cluster_bytes, OX_CELL_DATA,
			       t->cell.count);
}

/* ---- what other trees have at the same guest offset ---- */

static void free_kin(struct l2_target *t)
{
	for (size_t i = 0; i < t->kin_count; i++)
		free(t->kin[i]);
}

/* A table that cannot be read tells nothing. */
static int read_kin_co(struct ox_mend *m, struct l2_target *t)
{
	struct ox_walk *w = m->w;
	size_t count;
	struct ox_place *const *at = ox_places_at(&m->places, t->place->index, &count);

	if (t->has_kin)
		return 0;
	t->has_kin = true;
	for (size_t i = 0; i < count && t->kin_count < MOST_KIN; i++) {
		struct ox_be64 *table;
		int r;

		if (at[i]->cluster == t->place->cluster)
			continue;
		table = malloc(w->v.cluster_bytes);
		if (!table)
			return -ENOMEM;
		r = ox_io_pread_co(w->v.io, table, w->v.cluster_bytes,
				   at[i]->cluster * w->v.cluster_bytes);
		if (r < 0) {
			free(table);
			if (r == -ENOMEM)
				return r;
			continue;
		}
		t->kin_refs[t->kin_count] = at[i]->refs;
		t->kin[t->kin_count++] = table;
	}
	return 0;
}

/* The cluster that a table has at the entry's index, if it is a whole one in the file; 0. */
static uint64_t kin_offset(const struct ox_walk *w, const struct l2_target *t, size_t i)
{
	uint64_t raw = ox_be64_get(t->kin[i][t->index * t->words]);
	struct ox_qcow2_entry e = ox_qcow2_l2_decode(&w->v.h, raw);

	if (e.kind != OX_QCOW2_ENTRY_DATA && e.kind != OX_QCOW2_ENTRY_ZERO_ALLOC)
		return 0;
	return ox_view_past_end(&w->v, e.host.bytes, w->v.cluster_bytes) ? 0 : e.host.bytes;
}

/* 1: all who name a cluster stand at the entry's guest offset, and so many references as the
 * entry's table has are missing; where no count tells, it has to be told otherwise; 0 or an error.
 */
static int is_shared_here_co(struct ox_mend *m, const struct l2_target *t, uint64_t offset,
			     bool is_told)
{
	struct ox_walk *w = m->w;
	uint64_t cluster = offset / w->v.cluster_bytes;
	struct ox_cell cell = ox_counts_get(&w->k.cells, cluster);
	uint64_t named = 0;
	int r;

	for (size_t i = 0; i < t->kin_count; i++) {
		if (kin_offset(w, t, i) == offset)
			named += t->kin_refs[i];
	}
	if (named == 0 || named != cell.count || !ox_cell_is_data(cell))
		return 0;
	r = lacks_refs_co(m, cluster, t->cell.count);
	return r == -ENODATA ? is_told : r;
}

/*
 * Snapshots share clusters at one guest offset each. So one that another tree has at the entry's
 * offset and nowhere else, and whose count tells of as many references more as the table has, is
 * what the entry named, if it is the only one. 1 and its place; 0; or an error.
 */
static int find_by_kin_co(struct ox_mend *m, struct l2_target *t, uint64_t *ret)
{
	uint64_t found = 0;
	int r = read_kin_co(m, t);

	for (size_t i = 0; i < t->kin_count && r == 0; i++) {
		uint64_t offset = kin_offset(m->w, t, i);

		if (offset == 0 || offset == found)
			continue;
		r = is_shared_here_co(m, t, offset, false);
		if (r > 0 && found != 0)
			return 0;
		if (r > 0)
			found = offset;
		r = r < 0 ? r : 0;
	}
	if (r < 0 || found == 0)
		return r;
	*ret = found;
	return 1;
}

/* ---- neighbours ---- */

/* 1: the entry beside this one, step away, tells an orphan that continues its run; 0 or an error.
 */
static int continues_co(struct ox_mend *m, const struct l2_target *t, int64_t step, uint64_t *ret)
{
	struct ox_walk *w = m->w;
	uint64_t other = t->index + (uint64_t)step;
	struct ox_qcow2_entry e;

	if (other >= ox_qcow2_l2_entries(&w->v.h))
		return 0;
	e = ox_view_l2_entry(&w->v, t->table, other);
	if (e.kind != OX_QCOW2_ENTRY_DATA ||
	    ox_view_past_end(&w->v, e.host.bytes, w->v.cluster_bytes))
		return 0;
	*ret = e.host.bytes - (uint64_t)step * w->v.cluster_bytes;
	return is_orphan_co(m, *ret, t->cell.count);
}

/*
 * Guests mostly write in order, and clusters are given out in order: where the neighbour of a lost
 * entry names the cluster beside one that nobody names, and that is counted as often as the table
 * is, this is what the entry meant. 1 and its place; 0, also where both neighbours tell different
 * ones; or an error.
 */
static int find_by_neighbours_co(struct ox_mend *m, const struct l2_target *t, uint64_t *ret)
{
	uint64_t above = 0;
	uint64_t below = 0;
	int r = continues_co(m, t, -1, &below);
	int other = r < 0 ? r : continues_co(m, t, 1, &above);

	if (other < 0)
		return other;
	if (r == 1 && other == 1 && below != above)
		return 0;
	*ret = r == 1 ? below : above;
	return r | other;
}

/* Takes an entry away, where nothing tells what it named. */
static int give_up_entry_co(struct ox_mend *m, struct l2_target *t, enum ox_finding_id id,
			    struct ox_found what)
{
	uint64_t offset = 0;
	int r = t->effort == BY_ITSELF ? find_by_kin_co(m, t, &offset) : 0;

	if (r == 0 && t->effort == BY_NEIGHBOURS)
		r = find_by_neighbours_co(m, t, &offset);
	if (r == 1)
		return name_cluster(m, t, offset, 0, id, what);
	t->left++;
	return r == 0 && t->effort == GIVE_UP ? drop_l2_entry(m, t, false, id, what) : r;
}

/* 1: the cluster that a bad entry still tells may be meant; 0 or an error. */
static int judge_told_co(struct ox_mend *m, struct l2_target *t, uint64_t offset)
{
	struct ox_walk *w = m->w;
	int r = is_told_co(m, offset, t->cell.count);

	if (r != 0 || offset == 0 || ox_view_past_end(&w->v, offset, w->v.cluster_bytes))
		return r;
	r = read_kin_co(m, t);
	return r < 0 ? r : is_shared_here_co(m, t, offset, true);
}

static int mend_bad_entry_co(struct ox_mend *m, struct l2_target *t)
{
	struct ox_walk *w = m->w;
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
	ox_mend_at_entry(&w->v, t->place, t->index, &what);
	if (!(raw & OX_QCOW2_COMPRESSED) && t->effort == BY_ITSELF)
		r = judge_told_co(m, t, aligned);
	if (r < 0)
		return r;
	if (r == 0)
		return give_up_entry_co(m, t, id, what);
	return name_cluster(m, t, aligned, keep, id, what);
}

/* A cluster of a data file can lie in one place alone. */
static int mend_data_file_entry(struct ox_mend *m, const struct l2_target *t,
				const struct ox_qcow2_entry *e)
{
	struct ox_walk *w = m->w;
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
	ox_mend_at_entry(&w->v, t->place, t->index, &what);
	changed(m, entry_of(t),
		guest | OX_QCOW2_COPIED |
			(e->kind == OX_QCOW2_ENTRY_ZERO_ALLOC ? OX_QCOW2_ZERO : 0),
		in_doubt, id, what);
	return 0;
}

/* A subcluster that is both allocated and zero is read from its cluster; where there is none, it
 * was zero. A compressed cluster has none. */
static void mend_subclusters(struct ox_mend *m, const struct l2_target *t,
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
	ox_mend_at_entry(&m->w->v, t->place, t->index, &what);
	changed(m, second, bits, gone ? lost : in_doubt, OX_FOUND_SUBCLUSTERS, what);
}

static int mend_l2_entry_co(struct ox_mend *m, struct l2_target *t)
{
	struct ox_walk *w = m->w;
	struct ox_qcow2_entry e = ox_qcow2_l2_decode(&w->v.h, ox_be64_get(*entry_of(t)));
	uint64_t size_bytes =
		e.kind == OX_QCOW2_ENTRY_COMPRESSED ? e.compressed_bytes : w->v.cluster_bytes;
	struct ox_found what =
		OX_FOUND(.a = e.host.bytes, .b = size_bytes, .host_offset = e.host.bytes);

	if (t->words == 2 && e.kind != OX_QCOW2_ENTRY_BAD &&
	    !(w->v.has_data_file && e.kind == OX_QCOW2_ENTRY_COMPRESSED))
		mend_subclusters(m, t, &e);
	if (w->v.has_data_file)
		return mend_data_file_entry(m, t, &e);
	switch (e.kind) {
	case OX_QCOW2_ENTRY_BAD:
		return mend_bad_entry_co(m, t);
	case OX_QCOW2_ENTRY_DATA:
	case OX_QCOW2_ENTRY_ZERO_ALLOC:
	case OX_QCOW2_ENTRY_COMPRESSED:
		break;
	default:
		return 0;
	}
	if (e.kind == OX_QCOW2_ENTRY_COMPRESSED && e.host.bytes < w->v.cluster_bytes) {
		what.word = "Compressed cluster";
		ox_mend_at_entry(&w->v, t->place, t->index, &what);
		return give_up_entry_co(m, t, OX_FOUND_OVERLAP, what);
	}
	/* A stream is often shorter than its entry says: one that begins in the file may be whole.
	 */
	if (!ox_view_past_end(&w->v, e.host.bytes, size_bytes) || e.host.bytes < w->v.file_bytes)
		return 0;
	ox_mend_at_entry(&w->v, t->place, t->index, &what);
	if (e.kind == OX_QCOW2_ENTRY_ZERO_ALLOC)
		return drop_l2_entry(m, t, true, OX_FOUND_PAST_END, what);
	return give_up_entry_co(m, t, OX_FOUND_PAST_END, what);
}

/* What holds no table, and another L1 entry that leads nowhere, or did: it may be that one's data.
 */
static bool may_be_data(const struct ox_mend *m, uint64_t cluster, const struct ox_place *place)
{
	const struct ox_walk *w = m->w;
	return ox_walk_is_no_table(w, cluster) &&
	       (w->bad_l1_entries > w->no_tables.count || m->lost > 0 ||
		ox_keeper_awaits(m->keeper, place->tree, place->index));
}

static int mend_nth_co(struct ox_mend *m, struct l2_target *t, uint64_t index)
{
	const struct ox_be64 *entry;
	int r;

	t->index = index;
	entry = entry_of(t);
	if (!entry->raw && (t->words == 1 || !entry[1].raw))
		return 0;
	r = mend_l2_entry_co(m, t);
	return r < 0 ? r : 0;
}

static int pass_co(struct ox_mend *m, struct l2_target *t, enum effort effort, bool back)
{
	uint64_t entries = ox_qcow2_l2_entries(&m->w->v.h);
	int r = 0;

	t->effort = effort;
	t->left = 0;
	for (uint64_t i = 0; i < entries && r == 0; i++)
		r = mend_nth_co(m, t, back ? entries - 1 - i : i);
	return r;
}

static int mend_l2_table_co(void *arg, uint64_t cluster, struct ox_cell cell, struct ox_be64 *table)
{
	struct ox_mend *m = arg;
	struct ox_walk *w = m->w;
	struct l2_target t = {.cell = cell, .table = table, .words = ox_qcow2_l2_words(&w->v.h)};
	size_t places;
	int r = 0;

	t.place = ox_places_find(&m->places, cluster, &places);
	/* A table that is something else too is told apart first. */
	if (!t.place || ox_cell_is_broken(cell) || may_be_data(m, cluster, t.place))
		return 0;
	/* Of two places that one table has, only one can be where a data file has its clusters. */
	if (w->v.has_data_file && places > 1)
		return 0;
	r = pass_co(m, &t, BY_ITSELF, false);
	if (r == 0 && t.left > 0)
		r = pass_co(m, &t, BY_NEIGHBOURS, false);
	if (r == 0 && t.left > 0)
		r = pass_co(m, &t, BY_NEIGHBOURS, true);
	if (r == 0 && t.left > 0)
		r = pass_co(m, &t, GIVE_UP, false);
	free_kin(&t);
	return r;
}

int ox_mend_entries_co(struct ox_mend *m, bool *ret_again)
{
	struct ox_walk *w = m->w;
	int r = ox_mend_read_places_co(m);

	if (r >= 0)
		r = ox_walk_l1_co(w, OX_WAYS_CHANGE, mend_l1_entry_co, m);
	if (r >= 0)
		r = ox_walk_l2_co(w, OX_WAYS_CHANGE, mend_l2_table_co, m);
	*ret_again = m->changes > 0;
	return r < 0 ? r : ox_io_sync_co(w->v.io);
}
