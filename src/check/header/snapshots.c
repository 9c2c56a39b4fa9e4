/* SPDX-License-Identifier: MIT */
/* Snapshots: what they claim. */
#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "check/walk/walk.h"

#define FIRST_READ_BYTES UINT64_C(65536)

/*
 * The snapshot table says nowhere how long it is: more of it is read until every record fits.
 * Only its L1 tables are kept.
 */
struct snapshot_reader {
	struct ox_walk *w;
	uint8_t *bytes;
	size_t read_bytes;
	size_t most_bytes;
	size_t pos;
	struct ox_walk_names ids;
};

static int read_more_co(struct snapshot_reader *s)
{
	size_t size = ox_min_u64(s->most_bytes, ox_max_u64(2 * s->read_bytes, FIRST_READ_BYTES));
	uint8_t *bytes = realloc(s->bytes, size);
	int r;

	if (!bytes)
		return -ENOMEM;
	s->bytes = bytes;
	r = ox_io_pread_co(s->w->io, bytes, size, s->w->h.snapshots_offset);
	if (r < 0) {
		r = ox_walk_unreadable(s->w, "Snapshot table", s->w->h.snapshots_offset, r);
		return r < 0 ? r : -EIO;
	}
	s->read_bytes = size;
	return 0;
}

static void judge_record(struct ox_walk *w, uint32_t number,
			 const struct ox_qcow2_snapshot *snapshot)
{
	uint64_t mapped = ox_walk_mapped(w, snapshot->l1_entries);

	if (w->h.version >= 3 && snapshot->extra_bytes < OX_QCOW2_SNAPSHOT_EXTRA_BYTES)
		ox_walk_found(w, OX_FOUND_SNAPSHOT_EXTRA,
			      OX_FOUND(.a = number, .b = snapshot->extra_bytes));
	if (mapped < snapshot->disk_bytes)
		ox_walk_found(w, OX_FOUND_SNAPSHOT_L1_SHORT,
			      OX_FOUND(.a = number, .b = snapshot->l1_entries,
				       .c = snapshot->disk_bytes, .tree = w->tree_count,
				       .guest_offset = mapped,
				       .guest_length = snapshot->disk_bytes - mapped));
}

/* 0; -EINVAL with a finding, where the table ends for us; -EIO likewise; -ENOMEM. */
static int read_snapshot_co(struct snapshot_reader *s, uint32_t number,
			    struct ox_walk_tree *ret_tree)
{
	struct ox_qcow2_snapshot snapshot;
	struct ox_error *err = NULL;
	int r;

	while ((r = ox_qcow2_snapshot_decode(&s->w->h, s->bytes, s->read_bytes, &s->pos, &snapshot,
					     &err)) == -EINVAL &&
	       s->read_bytes < s->most_bytes) {
		r = read_more_co(s);
		if (r < 0)
			break;
		ox_error_free(err);
		err = NULL;
	}
	if (r == -EINVAL)
		ox_walk_found(s->w, OX_FOUND_SNAPSHOT_TABLE,
			      OX_FOUND(.word = ox_error_message(err), .a = number));
	ox_error_free(err);
	if (r < 0)
		return r;
	*ret_tree = (struct ox_walk_tree){
		.l1_offset = snapshot.l1_offset,
		.l1_entries = snapshot.l1_entries,
		.name = snapshot.name,
	};
	snapshot.name = NULL;
	judge_record(s->w, number, &snapshot);
	r = ox_walk_names_add(&s->ids, snapshot.id, number);
	snapshot.id = NULL;
	ox_qcow2_snapshot_free(&snapshot);
	return r;
}

/* A tree that cannot be followed is left with no entries. */
static int claim_snapshot_l1(struct ox_walk *w, uint64_t number)
{
	struct ox_walk_tree *t = &w->trees[number];
	struct ox_found what = OX_FOUND(.a = number - 1, .host_offset = t->l1_offset);
	uint64_t size_bytes = UINT64_C(8) * t->l1_entries;
	uint64_t past_end = w->past_end;
	int r = 0;

	ox_walk_set_range(w, &what, number, 0, ox_walk_mapped(w, t->l1_entries));
	if (!ox_is_aligned(t->l1_offset, w->cluster_bytes)) {
		what.b = t->l1_offset;
		ox_walk_found(w, OX_FOUND_SNAPSHOT_L1_UNALIGNED, what);
	} else if (size_bytes > OX_QCOW2_MAX_L1_BYTES) {
		what.b = t->l1_entries;
		ox_walk_found(w, OX_FOUND_SNAPSHOT_L1_SIZE, what);
	} else {
		r = ox_walk_claim(w, "Snapshot L1 table", t->l1_offset, size_bytes);
	}
	w->past_end_snapshots += w->past_end - past_end;
	/* One that lies in another table could send us round without end. */
	if (r <= 0 || t->l1_entries == 0)
		w->bad_snapshots++;
	if (r <= 0)
		t->l1_entries = 0;
	return r;
}

static int read_snapshots_co(struct snapshot_reader *s)
{
	struct ox_walk *w = s->w;
	uint64_t count = w->h.snapshot_count;
	struct ox_walk_tree *trees = reallocarray(w->trees, count + 1, sizeof(*trees));
	int r = 0;

	if (!trees)
		return -ENOMEM;
	w->trees = trees;
	for (uint32_t i = 0; i < count && r == 0; i++) {
		r = read_snapshot_co(s, i, &w->trees[w->tree_count]);
		w->tree_count += r == 0;
	}
	if (r == -ENOMEM)
		return r;
	w->snapshot_bytes = s->pos;
	r = ox_walk_claim(w, "Snapshot table", w->h.snapshots_offset, s->pos);
	for (uint64_t t = 1; t < w->tree_count && r >= 0; t++)
		r = claim_snapshot_l1(w, t);
	return r;
}

int ox_walk_claim_snapshots_co(struct ox_walk *w)
{
	struct snapshot_reader s = {.w = w};
	int r;

	if (w->faults.found[OX_QCOW2_FAULT_SNAPSHOTS])
		return ox_walk_judge_snapshot_fields_co(w);

	if (w->h.snapshot_count == 0)
		return ox_walk_judge_no_snapshots_co(w);
	if (w->h.snapshots_offset >= w->file_bytes) {
		ox_walk_found(w, OX_FOUND_TABLE_PAST_END,
			      OX_FOUND(.word = "Snapshot table", .a = w->h.snapshots_offset));
		w->past_end_snapshots++;
		w->bad_snapshots++;
		return 0;
	}
	s.most_bytes = ox_min_u64(OX_QCOW2_MAX_SNAPSHOT_TABLE_BYTES,
				  w->file_bytes - w->h.snapshots_offset);
	r = read_snapshots_co(&s);
	ox_walk_names_judge(w, &s.ids, OX_FOUND_SNAPSHOT_ID);
	free(s.bytes);
	return r;
}
