/* SPDX-License-Identifier: MIT */
/* Snapshots: what they claim. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "check/claims/claims.h"

#define MOST_TEXT_BYTES 1024u /* of what programs write in a record */
#define DISK_SIZE_AT 48u      /* in a record: of its extra data the second word */
#define FIRST_READ_BYTES UINT64_C(65536)

/*
 * The snapshot table says nowhere how long it is: more of it is read until every record fits.
 * Only its L1 tables are kept.
 */
struct snapshot_reader {
	struct ox_view *v;
	struct ox_ledger *k;
	uint8_t *bytes;
	size_t read_bytes;
	size_t most_bytes;
	size_t pos;
	struct ox_names ids;
};

static int read_more_co(struct snapshot_reader *s)
{
	size_t size = ox_min_u64(s->most_bytes, ox_max_u64(2 * s->read_bytes, FIRST_READ_BYTES));
	uint8_t *bytes = realloc(s->bytes, size);
	int r;

	if (!bytes)
		return -ENOMEM;
	s->bytes = bytes;
	r = ox_io_pread_co(s->v->io, bytes, size, s->v->h.snapshots_offset);
	if (r < 0) {
		r = ox_journal_unreadable(s->v->j, "Snapshot table", s->v->h.snapshots_offset, r);
		return r < 0 ? r : -EIO;
	}
	s->read_bytes = size;
	return 0;
}

/* The table has as many entries as the disk needs, so the snapshot had its size. at: the record. */
static void mend_disk_size(struct ox_view *v, const struct ox_qcow2_snapshot *snapshot, uint64_t at,
			   struct ox_found what)
{
	struct ox_be64 size = ox_be64(v->h.size_bytes);

	if (snapshot->l1_entries == ox_qcow2_l1_needed(&v->h, v->h.size_bytes) &&
	    !v->faults.found[OX_QCOW2_FAULT_SIZE])
		ox_view_patch(v, OX_FOUND_SNAPSHOT_L1_SHORT, what, at + DISK_SIZE_AT, &size,
			      sizeof(size));
	else
		ox_journal_found(v->j, OX_FOUND_SNAPSHOT_L1_SHORT, what);
}

static void judge_record(struct ox_view *v, uint32_t number,
			 const struct ox_qcow2_snapshot *snapshot, uint64_t at)
{
	uint64_t mapped = ox_view_mapped(v, snapshot->l1_entries);

	if (v->h.version >= 3 && snapshot->extra_bytes < OX_QCOW2_SNAPSHOT_EXTRA_BYTES)
		ox_journal_found(v->j, OX_FOUND_SNAPSHOT_EXTRA,
				 OX_FOUND(.a = number, .b = snapshot->extra_bytes));
	if (mapped < snapshot->disk_bytes)
		mend_disk_size(v, snapshot, at,
			       OX_FOUND(.a = number, .b = snapshot->l1_entries,
					.c = snapshot->disk_bytes, .snapshot = snapshot->name,
					.guest_offset = mapped,
					.guest_length = snapshot->disk_bytes - mapped));
}

/* Whether the record that does not fit is one that was cut, and not one whose lengths are damaged.
 */
static bool is_plain_record(const struct snapshot_reader *s)
{
	struct {
		struct ox_be64 l1_offset;
		struct ox_be32 l1_entries;
		struct ox_be16 id_bytes;
		struct ox_be16 name_bytes;
		uint8_t more[20];
		struct ox_be32 extra_bytes;
	} __attribute__((packed)) record;

	if (s->read_bytes - s->pos < sizeof(record))
		return true;
	memcpy(&record, s->bytes + s->pos, sizeof(record));
	return ox_be16_get(record.id_bytes) <= MOST_TEXT_BYTES &&
	       ox_be16_get(record.name_bytes) <= MOST_TEXT_BYTES &&
	       ox_be32_get(record.extra_bytes) <= MOST_TEXT_BYTES;
}

/* Why the table ends before a record: the file does, or the record is damaged. -EINVAL or -ENOMEM.
 */
static int judge_end_co(struct snapshot_reader *s, uint32_t number, const char *why)
{
	uint64_t offset = s->v->h.snapshots_offset;
	uint64_t size_bytes = s->v->file_bytes - offset + 1;
	int r = 0;

	if (s->most_bytes == s->v->file_bytes - offset && is_plain_record(s))
		r = ox_ledger_was_cut_co(s->k, offset, size_bytes);
	if (r < 0)
		return r;
	if (r > 0)
		ox_journal_found(s->v->j, OX_FOUND_TABLE_CUT,
				 OX_FOUND(.word = "snapshot table", .a = offset, .b = size_bytes,
					  .host_offset = offset));
	else
		ox_journal_found(s->v->j, OX_FOUND_SNAPSHOT_TABLE,
				 OX_FOUND(.word = why, .a = number));
	return -EINVAL;
}

/* 0; -EINVAL with a finding, where the table ends for us; -EIO likewise; -ENOMEM. */
static int read_snapshot_co(struct snapshot_reader *s, uint32_t number)
{
	struct ox_qcow2_snapshot snapshot;
	struct ox_view_tree tree;
	struct ox_error *err = NULL;
	uint64_t at = s->v->h.snapshots_offset + s->pos;
	int r;

	while ((r = ox_qcow2_snapshot_decode(&s->v->h, s->bytes, s->read_bytes, &s->pos, &snapshot,
					     &err)) == -EINVAL &&
	       s->read_bytes < s->most_bytes) {
		r = read_more_co(s);
		if (r < 0)
			break;
		ox_error_free(err);
		err = NULL;
	}
	if (r == -EINVAL)
		r = judge_end_co(s, number, ox_error_message(err));
	ox_error_free(err);
	if (r < 0)
		return r;
	judge_record(s->v, number, &snapshot, at);
	tree = (struct ox_view_tree){
		.l1_offset = snapshot.l1_offset,
		.l1_entries = snapshot.l1_entries,
		.name = snapshot.name,
	};
	snapshot.name = NULL;
	r = ox_view_add_tree(s->v, tree);
	if (r == 0) {
		r = ox_names_add(&s->ids, snapshot.id, number);
		snapshot.id = NULL;
	}
	ox_qcow2_snapshot_free(&snapshot);
	return r;
}

/* A tree that cannot be followed is left with no entries. */
static int claim_snapshot_l1_co(struct ox_view *v, struct ox_ledger *k, uint64_t number)
{
	const struct ox_view_tree *t = &v->trees[number];
	struct ox_found what = OX_FOUND(.a = number - 1, .host_offset = t->l1_offset);
	uint64_t size_bytes = UINT64_C(8) * t->l1_entries;
	uint64_t past_end = v->j->seen[OX_FOUND_TABLE_PAST_END];
	uint32_t followed = 0;
	int r = 0;

	ox_view_set_range(v, &what, number, 0, ox_view_mapped(v, t->l1_entries));
	if (!ox_is_aligned(t->l1_offset, v->cluster_bytes)) {
		what.b = t->l1_offset;
		ox_journal_found(v->j, OX_FOUND_SNAPSHOT_L1_UNALIGNED, what);
	} else if (size_bytes > OX_QCOW2_MAX_L1_BYTES) {
		what.b = t->l1_entries;
		ox_journal_found(v->j, OX_FOUND_SNAPSHOT_L1_SIZE, what);
	} else {
		r = ox_ledger_was_cut_co(k, t->l1_offset, size_bytes);
		if (r > 0)
			return ox_claims_cut_l1(v, k, number, "snapshot's L1 table");
		if (r == 0)
			r = ox_ledger_claim(k, "Snapshot L1 table", t->l1_offset, size_bytes);
		followed = r > 0 ? t->l1_entries : 0;
	}
	ox_view_note_bad_record(v, r <= 0 || t->l1_entries == 0,
				v->j->seen[OX_FOUND_TABLE_PAST_END] - past_end);
	/* One that lies in another table could send us round without end. */
	ox_view_cut_tree(v, number, followed);
	return r;
}

static int read_snapshots_co(struct snapshot_reader *s)
{
	struct ox_view *v = s->v;
	int r = 0;

	for (uint32_t i = 0; i < v->h.snapshot_count && r == 0; i++)
		r = read_snapshot_co(s, i);
	if (r == -ENOMEM)
		return r;
	ox_view_set_snapshot_bytes(v, s->pos);
	/* What there is of one that was cut is nobody else's. */
	r = ox_ledger_claim(s->k, "Snapshot table", v->h.snapshots_offset,
			    v->j->seen[OX_FOUND_TABLE_CUT] ? s->read_bytes : s->pos);
	for (uint64_t t = 1; t < v->tree_count && r >= 0; t++)
		r = claim_snapshot_l1_co(v, s->k, t);
	return r;
}

int ox_claims_snapshots_co(struct ox_view *v, struct ox_ledger *k)
{
	struct snapshot_reader s = {.v = v, .k = k};
	int r;

	if (v->faults.found[OX_QCOW2_FAULT_SNAPSHOTS])
		return ox_claims_judge_snapshot_fields_co(v, k);

	if (v->h.snapshot_count == 0)
		return ox_claims_judge_no_snapshots_co(v, k);
	if (v->h.snapshots_offset >= v->file_bytes) {
		r = ox_claims_tell_cut_co(k, "snapshot table", v->h.snapshots_offset,
					  v->h.snapshot_count * OX_QCOW2_MIN_SNAPSHOT_BYTES);
		if (r != 0)
			return r < 0 ? r : 0;
		ox_journal_found(v->j, OX_FOUND_TABLE_PAST_END,
				 OX_FOUND(.word = "Snapshot table", .a = v->h.snapshots_offset));
		ox_view_note_bad_record(v, true, 1);
		return 0;
	}
	s.most_bytes = ox_min_u64(OX_QCOW2_MAX_SNAPSHOT_TABLE_BYTES,
				  v->file_bytes - v->h.snapshots_offset);
	r = read_snapshots_co(&s);
	ox_names_judge(&s.ids, v->j, OX_FOUND_SNAPSHOT_ID);
	free(s.bytes);
	return r;
}
