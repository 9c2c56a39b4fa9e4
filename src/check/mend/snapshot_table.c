/* SPDX-License-Identifier: MIT */
/*
 * A snapshot table that is damaged, made anew: of the records that can be followed, and of new ones
 * for the L1 tables that are found again. A record of which nothing is left is given up. The table
 * is durable and counted before the header's sector names it (D1, D3, H9).
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "check/drive/drive.h"
#include "check/mend/lost_l1.h"
#include "check/mend/mend.h"

#define MOST_FOUND ((size_t)1024)
#define COUNT_AT 60u /* of the header: how many, and where */
#define NAME_BYTES 24

static const char lost[] = "lost";
static const char in_doubt[] = "in doubt";

struct record {
	struct ox_qcow2_snapshot s;
	size_t at, size; /* of the old one */
	bool dropped;
	bool found;	  /* its L1 table was lost */
	bool lacks_extra; /* as version 3 has it */
	bool has_no_id;	  /* of its own */
	size_t same_id;	  /* then: the record that has it, where there is one */
};

struct table {
	struct ox_mend *m;
	struct ox_walk *w;
	uint8_t *old;
	struct record *records;
	size_t count; /* of the old ones that can be read, and then of new ones */
	size_t old_count;
	uint8_t broken[40];
	size_t broken_bytes;
	struct ox_lost_l1s found;
	uint64_t next_id;
	uint64_t lost;	/* records that lead nowhere, or cannot be read */
	uint8_t *bytes; /* the new one */
	size_t size;
	bool changes;
};

static void table_free(struct table *t)
{
	for (size_t i = 0; i < t->count; i++)
		ox_qcow2_snapshot_free(&t->records[i].s);
	free(t->records);
	free(t->found.items);
	free(t->old);
	free(t->bytes);
}

/* ---- the old table ---- */

/* The beginning of the first record that cannot be read. */
static int read_broken_co(struct table *t)
{
	struct ox_walk *w = t->w;
	uint64_t at = w->v.h.snapshots_offset + w->v.snapshot_bytes;
	int r;

	if (w->v.h.snapshots_offset == 0 || at >= w->v.file_bytes)
		return 0;
	t->broken_bytes = ox_min_u64(sizeof(t->broken), w->v.file_bytes - at);
	r = ox_io_pread_co(w->v.io, t->broken, t->broken_bytes, at);
	return r;
}

static int read_old_co(struct table *t)
{
	struct ox_walk *w = t->w;
	size_t size = w->v.snapshot_bytes;
	size_t pos = 0;
	int r;

	t->records = calloc(w->v.tree_count + MOST_FOUND, sizeof(*t->records));
	t->old = malloc(ox_max_u64(size, 1));
	if (!t->old || !t->records)
		return -ENOMEM;
	r = size > 0 ? ox_io_pread_co(w->v.io, t->old, size, w->v.h.snapshots_offset) : 0;
	for (uint64_t i = 1; i < w->v.tree_count && r == 0; i++) {
		struct record *record = &t->records[t->count];

		record->at = pos;
		r = ox_qcow2_snapshot_decode(&w->v.h, t->old, size, &pos, &record->s, NULL);
		record->size = pos - record->at;
		t->count += r == 0;
	}
	t->old_count = t->count;
	return r == 0 ? read_broken_co(t) : r;
}

/* Whether a record leads to no table, whatever else is wrong. */
static bool is_hopeless(const struct ox_view *v, const struct ox_qcow2_snapshot *s)
{
	uint64_t size_bytes = UINT64_C(8) * s->l1_entries;

	return s->l1_entries == 0 || s->l1_offset == 0 || size_bytes > OX_QCOW2_MAX_L1_BYTES ||
	       !ox_is_aligned(s->l1_offset, v->cluster_bytes) ||
	       ox_view_past_end(v, s->l1_offset, size_bytes);
}

/* The first record before end, but for one, that has the id; end: none. */
static size_t find_id(const struct table *t, size_t end, size_t except, const char *id)
{
	size_t i = 0;

	while (i < end &&
	       (i == except || t->records[i].dropped || strcmp(t->records[i].s.id, id) != 0))
		i++;
	return i;
}

/* ---- what is to be changed ---- */

static int set_text(char **text, const char *prefix, uint64_t number)
{
	char made[NAME_BYTES];

	snprintf(made, sizeof(made), "%s%" PRIu64, prefix, number);
	free(*text);
	*text = strdup(made);
	return *text ? 0 : -ENOMEM;
}

/* An id that no other record has. */
static int settle_id(struct table *t, size_t index)
{
	struct record *record = &t->records[index];
	size_t same = find_id(t, index, index, record->s.id);
	int r;

	if (*record->s.id && same == index)
		return 0;
	record->has_no_id = true;
	record->same_id = same;
	do
		r = set_text(&record->s.id, "", t->next_id++);
	while (r == 0 && find_id(t, t->count, index, record->s.id) < t->count);
	return r;
}

/* The old record that named an L1 table: it still tells its place, or only one is in question. */
static size_t find_old(const struct table *t, const struct ox_lost_l1 *l1)
{
	size_t only = t->count;
	size_t dropped = 0;

	for (size_t i = 0; i < t->old_count; i++) {
		if (!t->records[i].dropped)
			continue;
		if (t->records[i].s.l1_offset == l1->offset)
			return i;
		dropped++;
		only = i;
	}
	return dropped == 1 && t->lost == 1 ? only : t->count;
}

/* The record for an L1 table that is found again: one of the old ones, or a new one. */
static int add_found(struct table *t, const struct ox_lost_l1 *l1)
{
	size_t index = find_old(t, l1);
	struct record *record = &t->records[index];
	int r = 0;

	if (index == t->count) {
		record->s = (struct ox_qcow2_snapshot){.disk_bytes = t->w->v.h.size_bytes,
						       .icount = UINT64_MAX};
		record->s.id = strdup("");
		r = record->s.id ? set_text(&record->s.name, "recovered-", index + 1) : -ENOMEM;
		t->count += r == 0;
	}
	if (r < 0) {
		ox_qcow2_snapshot_free(&record->s);
		return r;
	}
	record->s.l1_offset = l1->offset;
	record->s.l1_entries = l1->entries;
	record->found = true;
	record->dropped = false;
	return 0;
}

/* What the first record that cannot be read says of its table; false: nothing that can be. */
static bool decode_broken(const struct table *t, struct ox_qcow2_snapshot *ret)
{
	struct {
		struct ox_be64 l1_offset;
		struct ox_be32 l1_size;
	} __attribute__((packed)) begin;

	if (t->old_count == t->w->v.h.snapshot_count || t->broken_bytes < sizeof(begin))
		return false;
	memcpy(&begin, t->broken, sizeof(begin));
	*ret = (struct ox_qcow2_snapshot){
		.l1_offset = ox_be64_get(begin.l1_offset),
		.l1_entries = ox_be32_get(begin.l1_size),
	};
	return !is_hopeless(&t->w->v, ret);
}

static bool is_found(const struct table *t, uint64_t l1_offset)
{
	for (size_t i = 0; i < t->found.count; i++) {
		if (t->found.items[i].offset == l1_offset)
			return true;
	}
	return false;
}

/* Whether only the size of a record's L1 table is wrong, and how large it is for the disk is known.
 */
static bool tells_place(const struct ox_view *v, const struct ox_qcow2_snapshot *s)
{
	uint64_t size_bytes = 8 * ox_qcow2_l1_needed(&v->h, v->h.size_bytes);

	return is_hopeless(v, s) && s->l1_entries > 0 && s->l1_offset > 0 &&
	       ox_is_aligned(s->l1_offset, v->cluster_bytes) &&
	       !ox_view_past_end(v, s->l1_offset, size_bytes);
}

/* Whether the header says how many there are, and not where. */
static bool is_counted(const struct ox_view *v)
{
	return v->faults.found[OX_QCOW2_FAULT_SNAPSHOTS] &&
	       v->faults.snapshot_count <= OX_QCOW2_MAX_SNAPSHOTS;
}

/* Whether the records for which no table is found are given up. One that begins as it should, and
 * breaks later, or still tells the place of its table, may yet be read by somebody; and where
 * counts cannot be read, or are too narrow to tell that a reference is missing, tables are not
 * found.
 */
static bool may_give_up(const struct table *t)
{
	struct ox_qcow2_snapshot broken;

	if (t->w->k.broken_blocks > 0 || t->w->j->seen[OX_FOUND_OVERFLOW] > 0)
		return false;
	/* Where not even a table of snapshots can be among what is counted, there are none. */
	if (t->w->k.rc.order == 0 &&
	    (!t->w->v.faults.found[OX_QCOW2_FAULT_SNAPSHOTS] || t->m->g->leaks > 0))
		return false;
	/* Some are found, and the header says that there are more: it may be a count that is wrong.
	 */
	if (is_counted(&t->w->v) && t->found.count > 0)
		return false;
	for (size_t i = 0; i < t->old_count; i++) {
		const struct ox_qcow2_snapshot *s = &t->records[i].s;

		if (tells_place(&t->w->v, s) && !is_found(t, s->l1_offset))
			return false;
	}
	return !decode_broken(t, &broken) || is_found(t, broken.l1_offset);
}

static int find_lost_co(struct table *t, size_t most)
{
	uint32_t needed = (uint32_t)ox_qcow2_l1_needed(&t->w->v.h, t->w->v.h.size_bytes);
	struct ox_qcow2_snapshot broken;
	int r = ox_lost_l1_find_co(t->w, most, &t->found);

	if (r == 0 && decode_broken(t, &broken))
		r = ox_lost_l1_trust_co(t->w, broken.l1_offset, broken.l1_entries, &t->found);
	for (size_t i = 0; i < t->old_count && r == 0; i++) {
		const struct ox_qcow2_snapshot *s = &t->records[i].s;

		if (tells_place(&t->w->v, s) && s->vm_state_bytes == 0)
			r = ox_lost_l1_trust_co(t->w, s->l1_offset, needed, &t->found);
	}
	return r;
}

static int choose_records(struct table *t)
{
	struct ox_walk *w = t->w;
	bool changes = t->found.count > 0 || t->lost > 0;
	int r = 0;

	for (size_t i = 0; i < t->old_count; i++)
		t->records[i].dropped = is_hopeless(&w->v, &t->records[i].s);
	for (size_t i = 0; i < t->found.count && r == 0; i++)
		r = add_found(t, &t->found.items[i]);
	for (size_t i = 0; i < t->count && r == 0; i++) {
		struct record *record = &t->records[i];

		if (record->dropped)
			continue;
		r = settle_id(t, i);
		record->lacks_extra = w->v.h.version >= 3 &&
				      record->s.extra_bytes < OX_QCOW2_SNAPSHOT_EXTRA_BYTES;
		changes |= record->has_no_id || record->lacks_extra;
	}
	t->changes = changes;
	return r;
}

/* ---- what is told of it ---- */

static void tell_table(const struct ox_view *v, uint64_t index, const char *word, const char *fate,
		       uint64_t offset)
{
	ox_journal_mended(v->j, OX_FOUND_SNAPSHOT_TABLE,
			  OX_FOUND(.a = index, .word = word, .fate = fate,
				   .guest_length = v->h.size_bytes, .host_offset = offset));
}

static void tell_record(const struct table *t, size_t index)
{
	const struct record *record = &t->records[index];

	if (record->found)
		tell_table(&t->w->v, index, "its L1 table is found again", in_doubt,
			   record->s.l1_offset);
	else if (record->lacks_extra)
		ox_journal_mended(t->w->j, OX_FOUND_SNAPSHOT_EXTRA,
				  OX_FOUND(.a = index, .b = record->s.extra_bytes));
	if (!record->found && record->has_no_id && record->same_id != index)
		ox_journal_mended(t->w->j, OX_FOUND_SNAPSHOT_ID,
				  OX_FOUND(.a = record->same_id, .b = index));
}

/* Of records that lead nowhere: those that could be read, and then those that could not. */
static void tell_given_up(const struct table *t)
{
	struct ox_walk *w = t->w;
	uint64_t count = t->lost > t->found.count ? t->lost - t->found.count : 0;

	for (uint64_t i = 0; i < w->v.h.snapshot_count && count > 0; i++) {
		if (i < t->old_count && !t->records[i].dropped)
			continue;
		tell_table(&w->v, i, "nothing is left that tells of a snapshot", lost, 0);
		t->m->dropped++;
		count--;
	}
}

static void tell_all(const struct table *t)
{
	for (size_t i = 0; i < t->count; i++) {
		if (!t->records[i].dropped)
			tell_record(t, i);
	}
	tell_given_up(t);
	ox_view_mended_fault(&t->w->v, OX_QCOW2_FAULT_SNAPSHOTS);
}

/* ---- the new table ---- */

static int encode(struct table *t, uint32_t *ret_count)
{
	size_t room = 0;

	*ret_count = 0;
	for (size_t i = 0; i < t->count; i++)
		room += t->records[i].size + ox_qcow2_snapshot_bytes(&t->w->v.h, &t->records[i].s) +
			8;
	t->bytes = calloc(1, ox_align_up(room + 1, t->w->v.cluster_bytes));
	if (!t->bytes)
		return -ENOMEM;
	for (size_t i = 0; i < t->count; i++) {
		const struct record *record = &t->records[i];
		uint8_t *to = t->bytes + t->size;

		if (record->dropped)
			continue;
		if (record->found || record->has_no_id || record->lacks_extra) {
			t->size += ox_qcow2_snapshot_encode(&t->w->v.h, &record->s, to);
		} else {
			memcpy(to, t->old + record->at, record->size);
			t->size = ox_align_up(t->size + record->size, 8);
		}
		(*ret_count)++;
	}
	return 0;
}

/* Counts the clusters of the new table, past everything, and writes them. 1; 0: there is no room
 * for it, or nothing that could count it; or a negative errno. */
static int write_table_co(struct table *t, uint64_t *ret_offset)
{
	struct ox_walk *w = t->w;
	uint64_t base = ox_mend_end_of_all(t->m);
	uint64_t end = base + ox_div_up(t->size, w->v.cluster_bytes);
	struct ox_plan plan = {0};
	int r;

	if (!ox_mend_can_count(&w->k, base, end) ||
	    (!w->v.io->can_grow && end > w->v.file_bytes / w->v.cluster_bytes))
		return 0;
	r = ox_ledger_grow(&w->k, end);
	for (uint64_t c = base; c < end && r == 0; c++)
		r = ox_ledger_add(&w->k, c, OX_CELL_META, 1);
	ox_ledger_note_grown(&w->k, base, end);
	if (r == 0)
		r = ox_plan_make(t->m, &plan);
	if (r == 0 && w->v.io->length < end * w->v.cluster_bytes)
		r = ox_io_set_length_co(w->v.io, end * w->v.cluster_bytes);
	if (r == 0)
		r = ox_io_pwrite_co(w->v.io, t->bytes, (end - base) * w->v.cluster_bytes,
				    base * w->v.cluster_bytes, 0);
	if (r == 0)
		r = ox_mend_publish_counts_co(w, &plan);
	ox_plan_free(&plan);
	*ret_offset = base * w->v.cluster_bytes;
	return r < 0 ? r : 1;
}

static int name_table_co(struct ox_io *io, uint32_t count, uint64_t offset)
{
	struct {
		struct ox_be32 count;
		struct ox_be64 offset;
	} __attribute__((packed)) fields = {ox_be32(count), ox_be64(offset)};
	int r = ox_drive_write_within_sector_co(io, COUNT_AT, &fields, sizeof(fields));

	return r < 0 ? r : ox_io_sync_co(io);
}

static int replace_co(struct table *t, bool *ret_again)
{
	uint64_t offset = 0;
	uint32_t count;
	int r = encode(t, &count);

	if (r == 0)
		r = count > 0 ? write_table_co(t, &offset) : 1;
	if (r <= 0)
		return r;
	*ret_again = true;
	r = name_table_co(t->w->v.io, count, offset);
	if (r == 0)
		tell_all(t);
	return r;
}

/* ---- all of it ---- */

/* How many records lead nowhere, or cannot be read. */
static uint64_t count_lost(const struct table *t)
{
	const struct ox_walk *w = t->w;
	uint64_t good = 0;

	if (w->v.faults.found[OX_QCOW2_FAULT_SNAPSHOTS])
		return is_counted(&w->v) ? w->v.faults.snapshot_count : MOST_FOUND;
	for (size_t i = 0; i < t->old_count; i++)
		good += !is_hopeless(&w->v, &t->records[i].s);
	return w->v.h.snapshot_count - good;
}

static int mend_co(struct table *t, bool *ret_again)
{
	size_t most;
	int r = read_old_co(t);

	if (r < 0)
		return r;
	t->lost = count_lost(t);
	most = ox_min_u64(t->lost, MOST_FOUND);
	if (t->lost > 0)
		r = find_lost_co(t, most);
	/* Which of too many they are cannot be told; nor what leaked, where none is found. */
	if (r < 0 || t->found.count > most)
		return r;
	if (t->w->v.faults.found[OX_QCOW2_FAULT_SNAPSHOTS] && t->found.count == 0 &&
	    t->m->g->leaks > 0)
		return 0;
	if (t->lost > t->found.count && !may_give_up(t))
		return 0;
	t->next_id = 1;
	r = choose_records(t);
	return r == 0 && t->changes ? replace_co(t, ret_again) : r;
}

int ox_mend_snapshots_co(struct ox_mend *m, bool *ret_again)
{
	struct ox_walk *w = m->w;
	struct table t = {.m = m, .w = w};
	int r;

	if (ox_view_has_fault_but(&w->v, OX_QCOW2_FAULT_SNAPSHOTS))
		return 0;
	/* The file must not grow beneath what names a place past its end. */
	if (ox_seen_past_end(w->j) > w->v.past_end_snapshots)
		return 0;
	if (w->stale > 0) {
		*ret_again = true;
		return ox_mend_drop_stale_co(m, ret_again);
	}
	r = mend_co(&t, ret_again);
	table_free(&t);
	return r;
}
