/* SPDX-License-Identifier: MIT */
/*
 * Repairs of a QED image. Nothing is counted, so nothing has to be raised first: copies are durable
 * before an entry names them (D1), entries change within their sectors (M2), NEED_CHECK goes last
 * (D6). A crash in between leaves space that nothing names, and work for the same repair (D9).
 */
#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "check/drive/seen.h"
#include "check/qed/qed.h"
#include "check/undo/edit.h"

#define CHUNK_BYTES (UINT64_C(1) << 20)
#define LEAST_BUDGET UINT64_C(1024)
#define LEAST_BUDGET_BYTES (UINT64_C(1) << 30)

static const char in_doubt[] = "in doubt";
static const char lost[] = "lost";

struct ox_qed_mend {
	uint64_t changes;
	uint64_t base;	 /* where copies lie */
	uint64_t wanted; /* copies of clusters */
	uint64_t next;	 /* the copy that is next, from 0 */
	uint8_t *chunk;
};

static bool has_backing(const struct ox_qed *q)
{
	return q->h.features & OX_QED_BACKING;
}

/* Past the end of the disk there is nothing whose fate could be told. */
static void tell_mended(struct ox_qed *q, enum ox_finding_id id, struct ox_found what,
			const char *fate)
{
	what.fate = what.guest_length ? fate : NULL;
	q->guessed += fate != NULL;
	ox_journal_mended(&q->j, id, what);
	q->mend->changes++;
}

static void mended(struct ox_qed *q, const struct ox_qed_slot *slot, enum ox_finding_id id,
		   uint64_t entry, const char *fate)
{
	tell_mended(q, id, ox_qed_found(q, slot, entry), fate);
}

/* ---- entries that lead nowhere ---- */

/* Takes a cluster that nothing else names. */
static int take(struct ox_qed *q, uint64_t offset, uint64_t size_bytes, unsigned state)
{
	uint64_t end = ox_div_up(offset + size_bytes, q->cluster_bytes);
	int r = 0;

	for (uint64_t c = offset / q->cluster_bytes; c < end && r == 0; c++)
		r = ox_counts_set(&q->cells, c, (struct ox_cell){.state = state, .count = 1});
	return r;
}

static bool is_free(const struct ox_qed *q, uint64_t offset, uint64_t size_bytes)
{
	uint64_t first = offset / q->cluster_bytes;
	uint64_t end = ox_div_up(offset + size_bytes, q->cluster_bytes);

	return ox_counts_is_none(&q->cells, first, end - first);
}

static int mend_data(struct ox_qed *q, const struct ox_qed_slot *slot, uint64_t *entry)
{
	uint64_t rounded = ox_align_down(*entry, q->cluster_bytes);
	enum ox_qed_place place = ox_qed_place_of(q, *entry, 1);
	enum ox_finding_id id = ox_qed_bad_entry(q, slot, place);
	uint64_t old = *entry;
	const char *fate = lost;
	int r = 0;

	if (old == OX_QED_ZERO || place == OX_QED_SOUND || slot->table->is_crossed ||
	    slot->table->is_doubtful)
		return 0;
	*entry = has_backing(q) ? OX_QED_ZERO : 0;
	if (id == OX_FOUND_STALE_ENTRY) {
		*entry = 0;
		fate = NULL;
	} else if (place == OX_QED_MISPLACED && ox_qed_place_of(q, rounded, 1) == OX_QED_SOUND &&
		   is_free(q, rounded, 1)) {
		*entry = rounded;
		fate = in_doubt;
		r = take(q, rounded, 1, OX_CELL_DATA | OX_CELL_COPIED);
	}
	mended(q, slot, id, old, fate);
	return r;
}

/* Whether a table's entries all name clusters of the file that nothing else does, and some do. */
static bool is_plausible(const struct ox_qed *q, const struct ox_le64 *entries, uint64_t count,
			 uint64_t *used)
{
	for (uint64_t i = 0; i < count; i++) {
		uint64_t entry = ox_le64_get(entries[i]);

		if (entry == 0 || entry == OX_QED_ZERO)
			continue;
		if (ox_qed_place_of(q, entry, 1) != OX_QED_SOUND || !is_free(q, entry, 1))
			return false;
		++*used;
	}
	return true;
}

/* 1, 0 or a negative errno. */
static int holds_table_co(struct ox_qed *q, uint64_t offset)
{
	uint64_t used = 0;

	if (ox_qed_place_of(q, offset, q->table_bytes) != OX_QED_SOUND ||
	    !is_free(q, offset, q->table_bytes))
		return 0;
	for (uint64_t at = 0; at < q->table_bytes; at += CHUNK_BYTES) {
		uint64_t size = ox_min_u64(CHUNK_BYTES, q->table_bytes - at);

		/* What cannot be read is no table to follow. */
		if (ox_io_pread_co(q->io, q->mend->chunk, size, offset + at) < 0)
			return 0;
		if (!is_plausible(q, (const struct ox_le64 *)q->mend->chunk, size / 8, &used))
			return 0;
	}
	return used > 0;
}

/* An entry is taken away only where it names nothing in the file, and nothing shows through. */
static int mend_l1_co(struct ox_qed *q, const struct ox_qed_slot *slot, uint64_t *entry)
{
	uint64_t rounded = ox_align_down(*entry, q->cluster_bytes);
	enum ox_qed_place place = ox_qed_place_of(q, *entry, q->table_bytes);
	enum ox_finding_id id = ox_qed_bad_entry(q, slot, place);
	uint64_t old = *entry;
	int r;

	if (place == OX_QED_SOUND || q->l1_is_crossed)
		return 0;
	if (id == OX_FOUND_STALE_ENTRY && !q->has_doubtful) {
		*entry = 0;
		mended(q, slot, id, old, NULL);
		return 0;
	}
	r = place == OX_QED_MISPLACED ? holds_table_co(q, rounded) : 0;
	if (r < 0)
		return r;
	if (r == 1) {
		*entry = rounded;
		mended(q, slot, id, old, in_doubt);
		return take(q, rounded, q->table_bytes, OX_CELL_L2);
	}
	if (place != OX_QED_PAST_END || old < q->file_bytes || has_backing(q) || q->has_doubtful)
		return 0;
	*entry = 0;
	mended(q, slot, id, old, lost);
	return 0;
}

static int mend_entries_co(struct ox_qed *q)
{
	int r;

	q->changes_entries = true;
	r = ox_qed_l2_co(q, mend_data);
	if (r == 0)
		r = ox_qed_l1_co(q, mend_l1_co);
	q->changes_entries = false;
	return r == 0 && q->mend->changes > 0 ? ox_io_sync_co(q->io) : r;
}

/* ---- copies ---- */

/* Guest data are told from a table: a dry run needs to keep no more than their length. */
static int copy_co(struct ox_qed *q, uint64_t from, uint64_t to, uint64_t size_bytes, bool is_table)
{
	struct ox_io *io = q->io;
	int r = 0;

	for (uint64_t at = 0; at < size_bytes && r == 0; at += CHUNK_BYTES) {
		uint64_t size = ox_min_u64(CHUNK_BYTES, size_bytes - at);

		r = ox_io_pread_co(io, q->mend->chunk, size, from + at);
		if (r == 0 && is_table)
			r = ox_io_pwrite_co(io, q->mend->chunk, size, to + at, 0);
		else if (r == 0)
			r = ox_edit_write_data_co(io, q->mend->chunk, size, to + at);
	}
	return r;
}

static int divert_l1(struct ox_qed *q, const struct ox_qed_slot *slot, uint64_t *entry)
{
	struct ox_qed_table key = {.index = (uint32_t)slot->l1_index};
	const struct ox_qed_tables *t = &q->more_names;
	const struct ox_qed_table *found =
		bsearch(&key, t->list, t->count, sizeof(*t->list), ox_qed_by_index);
	struct ox_found what = ox_qed_found(q, slot, *entry);

	if (!found)
		return 0;
	*entry = q->mend->base + (uint64_t)(found - t->list) * q->table_bytes;
	what.a = found->offset / q->cluster_bytes;
	what.b = found->first_index;
	what.c = found->index;
	tell_mended(q, OX_FOUND_CROSS_LINK_L2, what, in_doubt);
	return 0;
}

/* So much is copied at most, whatever the image says: what would need more is left as it is. */
static bool is_affordable(const struct ox_qed *q, uint64_t clusters)
{
	uint64_t least = ox_min_u64(LEAST_BUDGET, LEAST_BUDGET_BYTES / q->cluster_bytes);

	return clusters <= ox_max_u64(least, q->file_clusters);
}

/* Whether the entry is to name a copy: another one keeps the cluster, or metadata do. */
static bool wants_copy(const struct ox_qed *q, const struct ox_qed_slot *slot, uint64_t entry)
{
	uint64_t cluster = entry / q->cluster_bytes;
	const struct ox_qed_shared *shared;

	if (ox_qed_place_of(q, entry, 1) != OX_QED_SOUND || slot->table->is_crossed)
		return false;
	if (ox_cell_is_broken(ox_counts_get(&q->cells, cluster)))
		return true;
	shared = ox_qed_find_shared(q, cluster);
	return shared && shared->first_entry != slot->entry;
}

static int count_wanted(struct ox_qed *q, const struct ox_qed_slot *slot, uint64_t *entry)
{
	q->mend->wanted += wants_copy(q, slot, *entry);
	return 0;
}

/* What the copies of tables need, and then those of the data that each of them names. */
static uint64_t tables_want(const struct ox_qed *q)
{
	uint64_t clusters = 0;

	for (size_t i = 0; i < q->tables.count; i++) {
		const struct ox_qed_table *table = &q->tables.list[i];

		clusters += (uint64_t)table->more_names * (q->h.table_clusters + table->used);
	}
	return clusters;
}

/* A table that several L1 entries name: each but the first gets a copy. What both copies name is
 * then told apart by the next round. */
static int copy_tables_co(struct ox_qed *q)
{
	struct ox_qed_tables *t = &q->more_names;
	int r = ox_qed_l2_co(q, count_wanted);

	if (r < 0 || !is_affordable(q, q->mend->wanted + tables_want(q)))
		return r;
	qsort(t->list, t->count, sizeof(*t->list), ox_qed_by_index);
	for (size_t i = 0; i < t->count && r == 0; i++)
		r = copy_co(q, t->list[i].offset, q->mend->base + i * q->table_bytes,
			    q->table_bytes, true);
	if (r == 0)
		r = ox_io_sync_co(q->io);
	q->changes_entries = true;
	if (r == 0)
		r = ox_qed_l1_co(q, divert_l1);
	q->changes_entries = false;
	return r == 0 ? ox_io_sync_co(q->io) : r;
}

static int copy_data_co(struct ox_qed *q, const struct ox_qed_slot *slot, uint64_t *entry)
{
	uint64_t to = q->mend->base + q->mend->next * q->cluster_bytes;

	if (!wants_copy(q, slot, *entry))
		return 0;
	q->mend->next++;
	return copy_co(q, *entry, to, q->cluster_bytes, false);
}

static int divert_data(struct ox_qed *q, const struct ox_qed_slot *slot, uint64_t *entry)
{
	uint64_t cluster = *entry / q->cluster_bytes;
	struct ox_found what = ox_qed_found(q, slot, *entry);

	if (!wants_copy(q, slot, *entry))
		return 0;
	*entry = q->mend->base + q->mend->next++ * q->cluster_bytes;
	if (ox_cell_is_broken(ox_counts_get(&q->cells, cluster))) {
		what.word = "Data cluster";
		tell_mended(q, OX_FOUND_OVERLAP, what, in_doubt);
		return 0;
	}
	what.a = cluster;
	what.b = ox_qed_guest_offset(q, ox_qed_find_shared(q, cluster)->first_entry);
	what.c = slot->guest_offset;
	tell_mended(q, OX_FOUND_CROSS_LINK, what, in_doubt);
	return 0;
}

static int copy_clusters_co(struct ox_qed *q)
{
	int r = ox_qed_l2_co(q, count_wanted);

	if (r < 0 || !is_affordable(q, q->mend->wanted))
		return r;
	r = ox_qed_l2_co(q, copy_data_co);
	if (r == 0)
		r = ox_io_sync_co(q->io);
	q->mend->next = 0;
	q->changes_entries = true;
	if (r == 0)
		r = ox_qed_l2_co(q, divert_data);
	q->changes_entries = false;
	return r == 0 ? ox_io_sync_co(q->io) : r;
}

/* ---- all of it ---- */

/* One sector, durably. */
static int write_features_co(struct ox_qed *q, uint64_t features)
{
	uint8_t sector[512];
	int r = ox_io_pread_co(q->io, sector, sizeof(sector), 0);

	if (r < 0)
		return r;
	ox_qed_set_features(sector, features);
	r = ox_io_pwrite_co(q->io, sector, sizeof(sector), 0, 0);
	if (r == 0)
		r = ox_io_sync_co(q->io);
	if (r < 0)
		return r;
	q->h.features = features;
	q->h.autoclear = 0;
	return 0;
}

static int make_whole_co(struct ox_qed *q)
{
	int r = ox_io_set_length_co(q->io, ox_align_up(q->file_bytes, q->cluster_bytes));

	if (r == 0)
		r = ox_io_sync_co(q->io);
	if (r < 0)
		return r;
	ox_journal_mended(&q->j, OX_FOUND_QED_SHORT, OX_FOUND(.a = q->file_bytes));
	q->mend->changes++;
	return 0;
}

static int mend_co(struct ox_qed *q)
{

	if (ox_seen_bad_entries(&q->j) + q->stale > 0) {
		int r = mend_entries_co(q);

		if (r < 0 || q->mend->changes > 0)
			return r;
	}
	/* Copies make the file grow: not beneath an entry that names a place past its end. */
	if (ox_seen_past_end(&q->j) + q->stale > 0 || !q->io->can_grow)
		return 0;
	if (q->is_short)
		return make_whole_co(q);
	if (q->more_names.count > 0 && !q->l1_is_crossed)
		return copy_tables_co(q);
	return q->shared_count + q->on_metadata > 0 ? copy_clusters_co(q) : 0;
}

int ox_qed_mend_co(struct ox_qed *q, bool *ret_again)
{
	struct ox_qed_mend mend = {.base = ox_align_up(q->io->length, q->cluster_bytes)};
	int r;

	if (q->is_foreign || !q->has_l1 || q->j.totals.check_errors > 0 ||
	    q->j.totals.corruptions == 0)
		return 0;
	mend.chunk = ox_io_buffer(CHUNK_BYTES);
	if (!mend.chunk)
		return -ENOMEM;
	q->mend = &mend;
	r = ox_qed_clear_autoclear_co(q);
	if (r == 0)
		r = mend_co(q);
	q->mend = NULL;
	free(mend.chunk);
	*ret_again = mend.changes > 0;
	return r;
}

int ox_qed_clear_autoclear_co(struct ox_qed *q)
{
	return q->h.autoclear ? write_features_co(q, q->h.features) : 0;
}

int ox_qed_clear_need_check_co(struct ox_qed *q)
{
	int r = ox_io_sync_co(q->io);

	return r < 0 ? r : write_features_co(q, q->h.features & ~(uint64_t)OX_QED_NEED_CHECK);
}
