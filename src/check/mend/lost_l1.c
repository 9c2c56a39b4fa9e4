/* SPDX-License-Identifier: MIT */
/*
 * L1 tables that nothing names: of snapshots whose records are lost, or the disk's own. A cluster
 * is taken for one only if it is counted once and named by nobody, and each of its entries names an
 * L2 table of which a reference is missing: one that stands at the same index in another tree, or
 * one that nobody names either and whose clusters all want a reference. Guest data that looks like
 * a table does not have the counts against it.
 */
#include "check/mend/lost_l1.h"

#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "base/grow.h"
#include "check/mend/mend.h"

#define SECTOR_BYTES 512u
#define L1_OFFSET_AT 40u /* of the header */
#define MOST_OTHERS 64u	 /* candidates that turn out to be something else */

struct search {
	struct ox_walk *w;
	struct ox_stored stored;
	struct ox_be64 *l1; /* whole clusters */
	struct ox_be64 *l2;
	uint64_t l1_clusters;
	uint64_t needed;	    /* entries for the disk */
	struct ox_io_extent extent; /* what the file was last asked for, */
	uint64_t extent_end;	    /* up to here */
};

/* 1: a cluster's count is above what names it; 0 or a negative errno. */
static int lacks_reference_co(struct search *s, uint64_t cluster)
{
	struct ox_cell cell = ox_counts_get(&s->w->k.cells, cluster);
	uint64_t stored = 0;
	int r = ox_stored_count_co(&s->w->k, &s->stored, cluster, &stored);

	return r <= 0 ? r : !ox_cell_is_broken(cell) && stored > cell.count;
}

/* 1: every entry of the cluster can be one of an L2 table that is lost, and one names something. */
static int is_lost_table_co(struct search *s, uint64_t offset)
{
	struct ox_walk *w = s->w;
	bool any = false;
	int r = ox_io_pread_co(w->v.io, s->l2, w->v.cluster_bytes, offset);

	if (r < 0)
		return r == -ENOMEM ? r : 0;
	for (uint64_t i = 0; i < ox_qcow2_l2_entries(&w->v.h); i++) {
		struct ox_qcow2_entry e = ox_view_l2_entry(&w->v, s->l2, i);

		if (e.kind == OX_QCOW2_ENTRY_UNALLOCATED)
			continue;
		any = true;
		if (e.kind == OX_QCOW2_ENTRY_ZERO)
			continue;
		if (e.kind == OX_QCOW2_ENTRY_BAD || e.host.bytes >= w->v.file_bytes)
			return 0;
		r = lacks_reference_co(s, e.host.bytes / w->v.cluster_bytes);
		if (r <= 0)
			return r;
	}
	return any;
}

/* 1: the entry names nothing, or an L2 table of this index that wants a reference. */
static int judge_entry_co(struct search *s, uint64_t index, uint64_t raw)
{
	struct ox_walk *w = s->w;
	struct ox_qcow2_l1_entry e = ox_qcow2_l1_decode(&w->v.h, raw);
	uint64_t cluster = e.l2.bytes / w->v.cluster_bytes;
	struct ox_cell cell;
	int r;

	if (raw == 0)
		return 1;
	if (e.bad || ox_view_past_end(&w->v, e.l2.bytes, w->v.cluster_bytes))
		return 0;
	r = lacks_reference_co(s, cluster);
	if (r <= 0)
		return r;
	cell = ox_counts_get(&w->k.cells, cluster);
	if (cell.state == OX_CELL_NONE)
		return is_lost_table_co(s, e.l2.bytes);
	return ox_cell_is_l2(cell) && ox_walk_place_index(ox_walk_place_of(w, cluster)) == index;
}

/* 1: the first sector, of what belongs to the disk, can be one of a table. Most clusters hold data,
 * and are passed over by that. */
static int begins_well_co(struct search *s, uint64_t cluster)
{
	struct ox_walk *w = s->w;
	uint64_t words = ox_min_u64(s->needed, SECTOR_BYTES / 8);
	bool any = s->needed > words;
	int r = ox_io_pread_co(w->v.io, s->l1, SECTOR_BYTES, cluster * w->v.cluster_bytes);

	if (r < 0)
		return r == -ENOMEM ? r : 0;
	for (uint64_t i = 0; i < words; i++) {
		struct ox_qcow2_l1_entry e = ox_qcow2_l1_decode(&w->v.h, ox_be64_get(s->l1[i]));

		if (e.bad || ox_view_past_end(&w->v, e.l2.bytes, w->v.cluster_bytes))
			return 0;
		any |= e.l2.bytes != 0;
	}
	return any;
}

/* The entries of a table that begins in a cluster: those of the disk, and of a machine's state what
 * follows them. 0: it is none; or a negative errno. */
static int64_t measure_co(struct search *s, uint64_t cluster)
{
	struct ox_walk *w = s->w;
	uint64_t words = s->l1_clusters * w->v.cluster_bytes / 8;
	uint64_t last = 0;
	int r = begins_well_co(s, cluster);

	if (r <= 0)
		return r;
	r = ox_io_pread_co(w->v.io, s->l1, s->l1_clusters * w->v.cluster_bytes,
			   cluster * w->v.cluster_bytes);
	if (r < 0)
		return r == -ENOMEM ? r : 0;
	for (uint64_t i = 0; i < words; i++) {
		r = judge_entry_co(s, i, ox_be64_get(s->l1[i]));
		if (r < 0)
			return r;
		if (r == 0 && i < s->needed)
			return 0;
		if (r == 0)
			break;
		if (s->l1[i].raw)
			last = i + 1;
	}
	return last == 0 ? 0 : (int64_t)ox_max_u64(last, s->needed);
}

/* 1: nobody names these clusters, and each is counted once. */
static int are_free_co(struct search *s, uint64_t cluster)
{
	struct ox_walk *w = s->w;

	for (uint64_t c = cluster; c < cluster + s->l1_clusters; c++) {
		uint64_t stored = 0;
		int r;

		if (c >= w->v.file_clusters || ox_counts_get(&w->k.cells, c).state != OX_CELL_NONE)
			return 0;
		r = ox_stored_count_co(&w->k, &s->stored, c, &stored);
		if (r <= 0 || stored != 1)
			return r < 0 ? r : 0;
	}
	return 1;
}

static int add(struct ox_lost_l1s *list, uint64_t offset, uint32_t entries)
{
	if (ox_grow(list->items, list->count, list->room, 16) < 0)
		return -ENOMEM;
	list->items[list->count++] = (struct ox_lost_l1){.offset = offset, .entries = entries};
	return 0;
}

/* The next cluster, from this one on, from which a table would not be a hole of the file
 * altogether: a preallocated file may have millions that are, all counted and none of them named.
 */
static uint64_t next_place_co(struct search *s, uint64_t cluster)
{
	uint64_t offset = cluster * s->w->v.cluster_bytes;
	uint64_t size_bytes = s->l1_clusters * s->w->v.cluster_bytes;

	if (offset >= s->extent_end) {
		if (ox_io_extent_co(s->w->v.io, offset, &s->extent) < 0)
			s->extent = (struct ox_io_extent){.length = s->w->v.cluster_bytes};
		if (!ox_add_u64(offset, s->extent.length, &s->extent_end))
			s->extent_end = UINT64_MAX;
	}
	if (!s->extent.zero || s->extent_end - offset < size_bytes)
		return cluster;
	return (s->extent_end - size_bytes) / s->w->v.cluster_bytes + 1;
}

static int search_co(struct search *s, size_t most, struct ox_lost_l1s *ret)
{
	int64_t entries = 0;

	for (uint64_t c = next_place_co(s, 1);
	     c < s->w->v.file_clusters && ret->count <= most + MOST_OTHERS;
	     c = next_place_co(s, c + 1)) {
		int r = are_free_co(s, c);

		if (r > 0)
			entries = measure_co(s, c);
		if (r > 0 && entries > 0)
			r = add(ret, c * s->w->v.cluster_bytes, (uint32_t)entries);
		if (r < 0 || entries < 0)
			return r < 0 ? r : (int)entries;
	}
	return 0;
}

static bool is_listed(const struct ox_lost_l1s *list, uint64_t offset)
{
	for (size_t i = 0; i < list->count; i++) {
		if (list->items[i].offset == offset)
			return true;
	}
	return false;
}

/* 1: one of a table's entries names another L1 table. A short one looks as the table of snapshots
 * does, which begins with such a place. */
static int names_another_co(struct search *s, const struct ox_lost_l1s *list,
			    const struct ox_lost_l1 *l1)
{
	int r = ox_io_pread_co(s->w->v.io, s->l1, s->l1_clusters * s->w->v.cluster_bytes,
			       l1->offset);

	if (r < 0)
		return r;
	for (uint64_t i = 0; i < s->needed; i++) {
		if (is_listed(list, ox_be64_get(s->l1[i]) & OX_QCOW2_OFFSET_MASK))
			return 1;
	}
	return 0;
}

static int leave_out_others_co(struct search *s, struct ox_lost_l1s *list)
{
	size_t kept = 0;
	int r = 0;

	for (size_t i = 0; i < list->count && r >= 0; i++) {
		r = names_another_co(s, list, &list->items[i]);
		if (r == 0)
			kept++;
		else if (r > 0)
			list->items[i].entries = 0;
	}
	if (r < 0)
		return r;
	for (size_t i = 0, to = 0; i < list->count; i++) {
		if (list->items[i].entries > 0)
			list->items[to++] = list->items[i];
	}
	list->count = kept;
	return 0;
}

int ox_lost_l1_trust_co(struct ox_walk *w, uint64_t offset, uint32_t entries,
			struct ox_lost_l1s *list)
{
	struct search s = {
		.w = w,
		.l1_clusters = ox_div_up(UINT64_C(8) * entries, w->v.cluster_bytes),
	};
	int r = 0;

	if (is_listed(list, offset))
		return 0;
	if (entries == ox_qcow2_l1_needed(&w->v.h, w->v.h.size_bytes))
		r = are_free_co(&s, offset / w->v.cluster_bytes);
	ox_stored_free(&s.stored);
	return r > 0 ? add(list, offset, entries) : r;
}

int ox_lost_l1_find_co(struct ox_walk *w, size_t most, struct ox_lost_l1s *ret)
{
	struct search s = {.w = w, .needed = ox_qcow2_l1_needed(&w->v.h, w->v.h.size_bytes)};
	int r = ox_walk_place_tables_co(w);

	s.l1_clusters = ox_max_u64(ox_div_up(8 * s.needed, w->v.cluster_bytes), 1);
	if (r == 0 && 8 * s.needed <= OX_QCOW2_MAX_L1_BYTES) {
		s.l1 = malloc(s.l1_clusters * w->v.cluster_bytes);
		s.l2 = malloc(w->v.cluster_bytes);
		r = s.l1 && s.l2 ? search_co(&s, most, ret) : -ENOMEM;
		if (r == 0)
			r = leave_out_others_co(&s, ret);
	}
	free(s.l1);
	free(s.l2);
	ox_stored_free(&s.stored);
	return r;
}

/* ---- the disk's own ---- */

bool ox_mend_lacks_l1(const struct ox_mend *m)
{
	const struct ox_walk *w = m->w;

	if (ox_view_has_fault_but(&w->v, OX_QCOW2_FAULT_L1_OFFSET))
		return false;
	return w->v.faults.found[OX_QCOW2_FAULT_L1_OFFSET] ||
	       (w->v.h.l1_entries > 0 && w->v.trees[0].l1_entries == 0);
}

int ox_mend_l1_offset_co(struct ox_mend *m, bool *ret_again)
{
	struct ox_walk *w = m->w;
	struct ox_found what = {.word = w->v.faults.text[OX_QCOW2_FAULT_L1_OFFSET],
				.guest_length = w->v.h.size_bytes};
	enum ox_finding_id id = OX_FOUND_HEADER_L1_OFFSET;
	struct ox_lost_l1s found = {0};
	struct ox_be64 offset;
	int r = ox_mend_bad_snapshots(w) == 0 ? ox_lost_l1_find_co(w, 1, &found) : 0;

	if (r == 0 && found.count == 1) {
		if (!w->v.faults.found[OX_QCOW2_FAULT_L1_OFFSET]) {
			id = OX_FOUND_TABLE_PAST_END;
			what.word = "Active L1 table";
			what.a = w->v.h.l1_offset;
			what.b = UINT64_C(8) * w->v.h.l1_entries;
		}
		offset = ox_be64(found.items[0].offset);
		ox_view_patch(&w->v, id, what, L1_OFFSET_AT, &offset, sizeof(offset));
		r = ox_mend_apply_patches_co(m, ret_again);
	}
	free(found.items);
	return r;
}
