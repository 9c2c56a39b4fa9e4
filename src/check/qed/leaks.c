/* SPDX-License-Identifier: MIT */
/*
 * What nothing in a QED image names: told, and given back to the host.
 *
 * The format cannot say that a cluster is free. So what is given back becomes a hole of the file,
 * or is cut off at its end, and a hole that nothing names is no leak. Bytes that are given back are
 * gone. So this is done only where every reference is known, none was guessed just now, and none of
 * the leaks looks like an L2 table, that something named which is lost; and only after a sync, lest
 * an entry that was taken away come back after a crash and name a hole (D4).
 */
#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "base/grow.h"
#include "check/qed/qed.h"
#include "check/scan/scan.h"

#define LOOK_BYTES UINT64_C(4096)
#define PIECE_BYTES (UINT64_C(64) << 10)

static const char looks_like_a_table[] =
	"one of the leaks looks like an L2 table that was lost; --salvage=none frees them all";
static const char is_wrong[] = "something else is wrong, and may have named this";
static const char may_be_right[] =
	"it may belong to what is lost or in doubt; a later -r leaks frees it";
static const char no_holes[] = "the store cannot make holes";
static const char no_room[] = "the file system has no room to make a hole";

/* Clusters that nothing names and that take space. */
struct run {
	uint64_t first;
	uint64_t count;
	bool is_freed;
	const char *stays; /* why; NULL: nobody said that it goes */
};

struct leaks {
	struct ox_qed *q;
	struct run *list; /* ascending, none next to another */
	size_t count;
	size_t room;
	uint64_t holes;	       /* clusters that take none, below the end of all that is in use, */
	uint64_t holes_behind; /* and behind it */
	/* What is known of the file's holes. */
	uint64_t known_from;
	uint64_t known_end;
	bool known_zero;
	/* The search for tables. */
	size_t run;  /* the next one's, */
	uint64_t at; /* and the cluster's number in it */
	uint8_t *piece;
	bool has_table;
	uint64_t table; /* its cluster */
};

/* ---- what takes space ---- */

static int add(struct leaks *l, uint64_t first, uint64_t count)
{
	struct run *last = l->count > 0 ? &l->list[l->count - 1] : NULL;

	if (last && last->first + last->count == first) {
		last->count += count;
		return 0;
	}
	if (ox_grow(l->list, l->count, l->room, 16) < 0)
		return -ENOMEM;
	l->list[l->count++] = (struct run){.first = first, .count = count};
	return 0;
}

/* Where the store cannot tell, all of it takes space. */
static void ask_co(struct leaks *l, uint64_t offset)
{
	struct ox_io_extent extent;

	if (offset >= l->known_from && offset < l->known_end)
		return;
	if (ox_io_extent_co(l->q->io, offset, &extent) < 0)
		extent = (struct ox_io_extent){.length = l->q->file_bytes - offset};
	l->known_from = offset;
	l->known_end = ox_min_u64(extent.length, l->q->file_bytes - offset) + offset;
	l->known_zero = extent.zero;
}

/* How many of the clusters from first on are wholly in holes, or are not; count at the most. */
static uint64_t alike_co(struct leaks *l, uint64_t first, uint64_t count, bool *ret_takes_space)
{
	const struct ox_qed *q = l->q;
	uint64_t end;

	ask_co(l, first * q->cluster_bytes);
	end = l->known_end / q->cluster_bytes;
	if (l->known_end == q->file_bytes || !l->known_zero)
		end = ox_div_up(l->known_end, q->cluster_bytes);
	*ret_takes_space = !l->known_zero || end <= first;
	return ox_min_u64(count, end > first ? end - first : 1);
}

static int find_in_co(struct leaks *l, uint64_t first, uint64_t end)
{
	int r = 0;

	while (first < end && r == 0) {
		bool takes_space;
		uint64_t count = alike_co(l, first, end - first, &takes_space);

		if (takes_space)
			r = add(l, first, count);
		else
			*(first < l->q->cells.end ? &l->holes : &l->holes_behind) += count;
		first += count;
	}
	return r;
}

static int find_co(struct leaks *l)
{
	const struct ox_counts *k = &l->q->cells;
	uint64_t limit = l->q->file_clusters;
	int r = 0;

	for (uint64_t c = 0; r == 0 && (c = ox_counts_next_none(k, c, limit)) < limit;) {
		uint64_t next = ox_counts_next(k, c, limit);

		r = find_in_co(l, c, next);
		c = next;
	}
	return r;
}

/* ---- tables that nothing names ---- */

static bool next_look(void *arg, struct ox_scan_item *ret)
{
	struct leaks *l = arg;
	const struct ox_qed *q = l->q;
	uint64_t offset;

	if (l->run < l->count && l->at == l->list[l->run].count) {
		l->run++;
		l->at = 0;
	}
	if (l->run == l->count || l->has_table)
		return false;
	offset = (l->list[l->run].first + l->at++) * q->cluster_bytes;
	*ret = (struct ox_scan_item){
		.offset = offset,
		.size_bytes = ox_min_u64(LOOK_BYTES, q->file_bytes - offset),
	};
	return true;
}

/* Whether all words are a table's, as far as they name anything: clusters that nothing else does.
 */
static bool can_be_entries(const struct ox_qed *q, const uint8_t *bytes, uint64_t count,
			   bool *names_some)
{
	const struct ox_le64 *entries = (const struct ox_le64 *)bytes;

	for (uint64_t i = 0; i < count / 8; i++) {
		uint64_t entry = ox_le64_get(entries[i]);

		if (entry == 0 || entry == OX_QED_ZERO)
			continue;
		if (ox_qed_place_of(q, entry, 1) != OX_QED_SOUND ||
		    !ox_counts_is_none(&q->cells, entry / q->cluster_bytes, 1))
			return false;
		*names_some = true;
	}
	return true;
}

/* What cannot be read may be a table as well. */
static int look_co(void *arg, const struct ox_scan_item *item, uint8_t *bytes, int error)
{
	struct leaks *l = arg;
	const struct ox_qed *q = l->q;
	uint64_t end = ox_min_u64(item->offset + q->cluster_bytes, q->file_bytes);
	bool names_some = error != 0;

	if (!error && !can_be_entries(q, bytes, item->size_bytes, &names_some))
		return 0;
	for (uint64_t at = item->offset + item->size_bytes; at < end && !error; at += PIECE_BYTES) {
		uint64_t size = ox_min_u64(PIECE_BYTES, end - at);

		error = ox_io_pread_co(q->io, l->piece, size, at);
		names_some |= error != 0;
		if (!error && !can_be_entries(q, l->piece, size, &names_some))
			return 0;
	}
	if (names_some && !l->has_table) {
		l->has_table = true;
		l->table = item->offset / q->cluster_bytes;
	}
	return error == -ENOMEM ? error : 0;
}

static int look_for_tables_co(struct leaks *l)
{
	static const struct ox_scan_ops ops = {.next = next_look, .visit_co = look_co};
	int r;

	l->piece = ox_io_buffer(PIECE_BYTES);
	if (!l->piece)
		return -ENOMEM;
	r = ox_scan_co(l->q->io, l->q->cluster_bytes, &ops, l);
	free(l->piece);
	return r;
}

/* ---- giving back ---- */

static void leave(struct leaks *l, const char *why)
{
	for (size_t i = 0; i < l->count; i++)
		l->list[i].stays = why;
}

/* What is behind all that is in use. -EINVAL: a layer, that keeps the file's length. */
static int cut_co(struct leaks *l)
{
	const struct ox_qed *q = l->q;
	uint64_t end = q->cells.end;
	int r;

	if (!q->io->can_grow || l->list[l->count - 1].first < end)
		return 0;
	r = ox_io_set_length_co(q->io, end * q->cluster_bytes);
	if (r == -EINVAL || ox_io_is_full(r))
		return 0;
	for (size_t i = l->count; r == 0 && i > 0 && l->list[i - 1].first >= end; i--)
		l->list[i - 1].is_freed = true;
	l->holes_behind = 0;
	return r;
}

static int punch_co(struct leaks *l, struct run *run)
{
	const struct ox_qed *q = l->q;
	uint64_t offset = run->first * q->cluster_bytes;
	int r = ox_io_punch_co(q->io, offset,
			       ox_min_u64(run->count * q->cluster_bytes, q->file_bytes - offset));

	run->is_freed = r == 0;
	if (r != -EOPNOTSUPP && !ox_io_is_full(r))
		return r;
	run->stays = r == -EOPNOTSUPP ? no_holes : no_room;
	return 0;
}

static int free_co(struct leaks *l)
{
	struct ox_qed *q = l->q;
	int r = ox_io_sync_co(q->io);

	if (r == 0)
		r = ox_qed_clear_autoclear_co(q);
	/* What is cut off may be the room that holes need. */
	if (r == 0)
		r = cut_co(l);
	for (size_t i = 0; i < l->count && r == 0; i++) {
		struct run *run = &l->list[i];

		/* What cannot be done once cannot be done again. */
		if (i > 0 && l->list[i - 1].stays == no_holes)
			run->stays = run->is_freed ? NULL : no_holes;
		else if (!run->is_freed)
			r = punch_co(l, run);
	}
	return r == 0 ? ox_io_sync_co(q->io) : r;
}

static int give_back_co(struct leaks *l, const struct ox_qed_leaks_how *how)
{
	const struct ox_qed *q = l->q;
	int r = 0;

	if (l->count == 0)
		return 0;
	if (q->is_foreign || q->j.totals.corruptions > 0 || q->j.totals.check_errors > 0) {
		leave(l, is_wrong);
		return 0;
	}
	if (how->guessed) {
		leave(l, may_be_right);
		return 0;
	}
	if (!how->frees_lost_tables)
		r = look_for_tables_co(l);
	if (l->has_table)
		leave(l, looks_like_a_table);
	return r == 0 && !l->has_table ? free_co(l) : r;
}

/* ---- telling ---- */

static void tell(struct leaks *l)
{
	struct ox_qed *q = l->q;

	if (l->has_table)
		ox_journal_found(&q->j, OX_FOUND_QED_UNNAMED_TABLE, OX_FOUND(.a = l->table));
	for (size_t i = 0; i < l->count; i++) {
		const struct run *run = &l->list[i];
		struct ox_found what = {
			.a = run->first,
			.host_offset = run->first * q->cluster_bytes,
		};

		q->why.leak_stays = run->stays;
		if (run->is_freed)
			ox_journal_mended_run(&q->j, OX_FOUND_QED_LEAK, what, run->count);
		else
			ox_journal_found_run(&q->j, OX_FOUND_QED_LEAK, what, run->count);
	}
	if (l->holes + l->holes_behind > 0)
		ox_journal_found(&q->j, OX_FOUND_QED_HOLES,
				 OX_FOUND(.a = l->holes + l->holes_behind));
}

int ox_qed_leaks_co(struct ox_qed *q, const struct ox_qed_leaks_how *how)
{
	struct leaks l = {.q = q};
	int r = 0;

	/* Without the L1 table nothing is known of what is named. */
	if (q->has_l1)
		r = find_co(&l);
	if (r == 0 && how->frees)
		r = give_back_co(&l, how);
	if (r == 0)
		tell(&l);
	free(l.list);
	return r;
}
