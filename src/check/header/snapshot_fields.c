/* SPDX-License-Identifier: MIT */
/*
 * The header's two fields of snapshots, where one is wrong and the table that the other leads to
 * tells what it was: a number that there cannot be, or none, is that of the records, one behind the
 * other, each of which leads to an L1 table that nothing else claims; a place that is not aligned
 * is rounded down to where there are as many as the header says.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "check/counts/stored.h"
#include "check/walk/walk.h"

#define MOST_BYTES UINT64_C(65536)
#define COUNT_AT 60u /* of the header */
#define OFFSET_AT 64u

static bool leads_to_table(const struct ox_walk *w, const struct ox_qcow2_snapshot *s)
{
	uint64_t size_bytes = UINT64_C(8) * s->l1_entries;

	return size_bytes > 0 && size_bytes <= OX_QCOW2_MAX_L1_BYTES &&
	       ox_is_aligned(s->l1_offset, w->cluster_bytes) && s->l1_offset > 0 &&
	       ox_range_within(s->l1_offset, size_bytes, w->file_bytes) &&
	       ox_counts_is_none(&w->counts, s->l1_offset / w->cluster_bytes,
				 ox_div_up(size_bytes, w->cluster_bytes));
}

/* 0: none; or more than were looked at. */
static uint32_t count_records(const struct ox_walk *w, const uint8_t *bytes, size_t count)
{
	struct ox_qcow2_snapshot s;
	uint32_t records = 0;
	size_t pos = 0;
	bool leads = true;

	while (leads) {
		if (ox_qcow2_snapshot_decode(&w->h, bytes, count, &pos, &s, NULL) < 0)
			return count < MOST_BYTES ? records : 0;
		leads = leads_to_table(w, &s);
		ox_qcow2_snapshot_free(&s);
		records += leads;
	}
	return records;
}

static int count_records_co(struct ox_walk *w, uint64_t offset, uint32_t *ret)
{
	uint8_t *bytes;
	int r;

	*ret = 0;
	if (offset == 0 || offset >= w->file_bytes)
		return 0;
	bytes = malloc(MOST_BYTES);
	if (!bytes)
		return -ENOMEM;
	r = ox_io_pread_co(w->io, bytes, ox_min_u64(MOST_BYTES, w->file_bytes - offset), offset);
	if (r == 0)
		*ret = count_records(w, bytes, ox_min_u64(MOST_BYTES, w->file_bytes - offset));
	free(bytes);
	/* What cannot be read tells nothing. */
	return r == -ENOMEM ? r : 0;
}

/* 1: a cluster is counted, though nothing is known that it is counted for; 0 or -ENOMEM. */
static int is_unexplained_co(struct ox_walk *w, uint64_t offset)
{
	struct ox_stored stored = {0};
	uint64_t count = 0;
	int r = 0;

	if (ox_counts_get(&w->counts, offset / w->cluster_bytes).state == OX_CELL_NONE)
		r = ox_stored_count_co(w, &stored, offset / w->cluster_bytes, &count);
	ox_stored_free(&stored);
	return r == -ENOMEM ? r : r > 0 && count > 0;
}

/* A program that removes the last snapshot frees their table: one that is counted still, and whose
 * records lead to tables, is in use, and its number was lost. */
int ox_walk_judge_no_snapshots_co(struct ox_walk *w)
{
	uint64_t offset = w->h.snapshots_offset;
	struct ox_be32 count;
	uint32_t records = 0;
	int r;

	if (offset == 0 || offset >= w->file_bytes || !ox_is_aligned(offset, w->cluster_bytes))
		return 0;
	r = is_unexplained_co(w, offset);
	if (r > 0)
		r = count_records_co(w, offset, &records);
	if (r < 0 || records == 0)
		return r;
	count = ox_be32(records);
	ox_walk_patch(w, OX_FOUND_HEADER_SNAPSHOTS,
		      OX_FOUND(.word = "no snapshots are counted, and their table is there"),
		      COUNT_AT, &count, sizeof(count));
	return 0;
}

int ox_walk_judge_snapshot_fields_co(struct ox_walk *w)
{
	struct ox_found what = {.word = w->faults.text[OX_QCOW2_FAULT_SNAPSHOTS]};
	uint64_t stated = w->faults.snapshots_offset;
	uint64_t offset = ox_align_down(stated, w->cluster_bytes);
	bool is_counted = w->faults.snapshot_count <= OX_QCOW2_MAX_SNAPSHOTS;
	struct ox_be64 offset_field = ox_be64(offset);
	struct ox_be32 count_field;
	uint32_t records;
	int r = count_records_co(w, offset, &records);

	if (r < 0)
		return r;
	count_field = ox_be32(records);
	if (records > 0 && !is_counted && offset == stated)
		ox_walk_patch(w, OX_FOUND_HEADER_SNAPSHOTS, what, COUNT_AT, &count_field,
			      sizeof(count_field));
	else if (records > 0 && is_counted && offset != stated &&
		 records == w->faults.snapshot_count)
		ox_walk_patch(w, OX_FOUND_HEADER_SNAPSHOTS, what, OFFSET_AT, &offset_field,
			      sizeof(offset_field));
	else
		ox_walk_found(w, OX_FOUND_HEADER_SNAPSHOTS, what);
	return 0;
}
