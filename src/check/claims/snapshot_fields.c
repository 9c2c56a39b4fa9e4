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
#include "check/claims/claims.h"
#include "check/ledger/stored.h"

#define MOST_BYTES UINT64_C(65536)
#define COUNT_AT 60u /* of the header */
#define OFFSET_AT 64u

static bool leads_to_table(const struct ox_ledger *k, const struct ox_qcow2_snapshot *s)
{
	uint64_t size_bytes = UINT64_C(8) * s->l1_entries;

	return size_bytes > 0 && size_bytes <= OX_QCOW2_MAX_L1_BYTES &&
	       ox_is_aligned(s->l1_offset, k->v->cluster_bytes) && s->l1_offset > 0 &&
	       ox_range_within(s->l1_offset, size_bytes, k->v->file_bytes) &&
	       ox_counts_is_none(&k->cells, s->l1_offset / k->v->cluster_bytes,
				 ox_div_up(size_bytes, k->v->cluster_bytes));
}

/* 0: none; or more than were looked at. */
static uint32_t count_records(const struct ox_ledger *k, const uint8_t *bytes, size_t count)
{
	struct ox_qcow2_snapshot s;
	uint32_t records = 0;
	size_t pos = 0;
	bool leads = true;

	while (leads) {
		if (ox_qcow2_snapshot_decode(&k->v->h, bytes, count, &pos, &s, NULL) < 0)
			return count < MOST_BYTES ? records : 0;
		leads = leads_to_table(k, &s);
		ox_qcow2_snapshot_free(&s);
		records += leads;
	}
	return records;
}

static int count_records_co(const struct ox_ledger *k, uint64_t offset, uint32_t *ret)
{
	uint8_t *bytes;
	int r;

	*ret = 0;
	if (offset == 0 || offset >= k->v->file_bytes)
		return 0;
	bytes = malloc(MOST_BYTES);
	if (!bytes)
		return -ENOMEM;
	r = ox_io_pread_co(k->v->io, bytes, ox_min_u64(MOST_BYTES, k->v->file_bytes - offset),
			   offset);
	if (r == 0)
		*ret = count_records(k, bytes, ox_min_u64(MOST_BYTES, k->v->file_bytes - offset));
	free(bytes);
	/* What cannot be read tells nothing. */
	return r == -ENOMEM ? r : 0;
}

/* 1: a cluster is counted, though nothing is known that it is counted for; 0 or -ENOMEM. */
static int is_unexplained_co(const struct ox_ledger *k, uint64_t offset)
{
	struct ox_stored stored = {0};
	uint64_t count = 0;
	int r = 0;

	if (ox_counts_get(&k->cells, offset / k->v->cluster_bytes).state == OX_CELL_NONE)
		r = ox_stored_count_co(k, &stored, offset / k->v->cluster_bytes, &count);
	ox_stored_free(&stored);
	return r == -ENOMEM ? r : r > 0 && count > 0;
}

/* A program that removes the last snapshot frees their table: one that is counted still, and whose
 * records lead to tables, is in use, and its number was lost. */
int ox_claims_judge_no_snapshots_co(struct ox_view *v, const struct ox_ledger *k)
{
	uint64_t offset = v->h.snapshots_offset;
	struct ox_be32 count;
	uint32_t records = 0;
	int r;

	if (offset == 0 || offset >= v->file_bytes || !ox_is_aligned(offset, v->cluster_bytes))
		return 0;
	r = is_unexplained_co(k, offset);
	if (r > 0)
		r = count_records_co(k, offset, &records);
	if (r < 0 || records == 0)
		return r;
	count = ox_be32(records);
	ox_view_patch(v, OX_FOUND_HEADER_SNAPSHOTS,
		      OX_FOUND(.word = "no snapshots are counted, and their table is there"),
		      COUNT_AT, &count, sizeof(count));
	return 0;
}

int ox_claims_judge_snapshot_fields_co(struct ox_view *v, const struct ox_ledger *k)
{
	struct ox_found what = {.word = v->faults.text[OX_QCOW2_FAULT_SNAPSHOTS]};
	uint64_t stated = v->faults.snapshots_offset;
	uint64_t offset = ox_align_down(stated, v->cluster_bytes);
	bool is_counted = v->faults.snapshot_count <= OX_QCOW2_MAX_SNAPSHOTS;
	struct ox_be64 offset_field = ox_be64(offset);
	struct ox_be32 count_field;
	uint32_t records;
	int r = count_records_co(k, offset, &records);

	if (r < 0)
		return r;
	count_field = ox_be32(records);
	if (records > 0 && !is_counted && offset == stated)
		ox_view_patch(v, OX_FOUND_HEADER_SNAPSHOTS, what, COUNT_AT, &count_field,
			      sizeof(count_field));
	else if (records > 0 && is_counted && offset != stated &&
		 records == v->faults.snapshot_count)
		ox_view_patch(v, OX_FOUND_HEADER_SNAPSHOTS, what, OFFSET_AT, &offset_field,
			      sizeof(offset_field));
	else
		ox_journal_found(v->j, OX_FOUND_HEADER_SNAPSHOTS, what);
	return 0;
}
