/* SPDX-License-Identifier: MIT */
/*
 * From guest to host: the L1 table and the L2 tables, through the cache. Every entry is judged when
 * it is read: what cannot be followed is told as the check names it, and is -EIO.
 *
 * D1: a table's bytes are durable before the L1 entry that names it. A table out of a zeroed
 * reserve needs nothing for that: the zeroes are durable and say "unallocated".
 */
#include <errno.h>
#include <stdlib.h>

#include "img/qed/qed.h"

#define READ_BYTES (64u * 1024u)
/* An L1 table up to this size is noted whole, and of a larger one what the disk needs. */
#define NOTE_ALL_BYTES (UINT64_C(16) << 20)

/* One table entry. */
struct entry {
	struct ox_host at; /* its place in the file */
	bool is_l1;
	bool changed;	       /* in L2: its slice has got entries of this session */
	struct ox_guest guest; /* what it stands for */
	uint64_t guest_bytes;
	uint64_t value;
	bool durable; /* as it is */
};

static uint64_t span_bytes(const struct ox_qed_image *q)
{
	return q->table_entries << q->m.cluster_bits;
}

static uint64_t place_bytes(const struct ox_qed_image *q, const struct entry *e)
{
	return e->is_l1 ? q->table_bytes : q->m.cluster_bytes;
}

/* ---- judging ---- */

/* The file's end as it was opened for writing: what lies behind it is of this session. */
static uint64_t opened_end(const struct ox_qed_image *q)
{
	return q->opened_clusters << q->m.cluster_bits;
}

/*
 * An entry past the end is damage, and a longer file must not give it a meaning (D8). In a slice
 * that this session has put no entry into, what lies behind the opened file is past the end still.
 */
static enum ox_qed_place judge(const struct ox_qed_image *q, const struct entry *e, uint64_t value)
{
	/* The last cluster of a file may be cut short: the rest of it reads as zeroes. */
	enum ox_qed_place place =
		ox_qed_judge_place(&q->h, value, e->is_l1 ? q->table_bytes : 1, q->m.io->length);

	if (place == OX_QED_SOUND && !e->is_l1 && !e->changed && value >= opened_end(q))
		return OX_QED_PAST_END;
	return place;
}

/* Nobody has made the file longer since it was opened: what names more is stale (D8). Whoever reads
 * beside a writer cannot tell. */
static bool is_at_rest(const struct ox_qed_image *q)
{
	return (q->h.features & OX_QED_NEED_CHECK) && q->m.img->read_only &&
	       !(q->m.img->open_flags & OX_OPEN_FORCE_SHARE);
}

bool ox_qed_is_stale(const struct ox_qed_image *q, uint64_t value)
{
	return q->stale_from != 0 && value >= q->stale_from &&
	       ox_is_aligned(value, q->m.cluster_bytes);
}

static bool is_stale(const struct ox_qed_image *q, const struct entry *e, uint64_t value)
{
	if (!e->is_l1 && ox_qed_is_stale(q, value))
		return true;
	return is_at_rest(q) && judge(q, e, value) == OX_QED_PAST_END;
}

static bool is_sound(struct ox_qed_image *q, const struct entry *e, uint64_t value)
{
	struct ox_host host = ox_host(value);

	if (judge(q, e, value) != OX_QED_SOUND ||
	    !ox_mapped_host_ok(&q->m, host, place_bytes(q, e)))
		return false;
	return e->is_l1 ? ox_tables_is_known(&q->m, host)
			: !ox_tables_overlap(&q->m, host, q->m.cluster_bytes);
}

static const char *name_damage(const struct ox_qed_image *q, const struct entry *e)
{
	switch (judge(q, e, e->value)) {
	case OX_QED_MISPLACED:
		return e->is_l1 ? "qed-l1-entry" : "qed-l2-entry";
	case OX_QED_PAST_END:
		return q->h.features & OX_QED_NEED_CHECK ? "stale-entry" : "past-end";
	case OX_QED_SOUND:
		break;
	}
	if (e->is_l1 && ox_mapped_host_ok(&q->m, ox_host(e->value), q->table_bytes))
		return "cross-link-l2";
	return "metadata-overlap";
}

/* -EAGAIN where the entry is to be looked at again; -EUCLEAN where it names metadata: a writer's
 * refusal, as img.c knows. */
static int refuse_co(struct ox_qed_image *q, const struct entry *e)
{
	uint64_t size_bytes = q->m.img->size_bytes;
	uint64_t seen = size_bytes - ox_min_u64(e->guest.bytes, size_bytes);

	if (ox_mapped_has_grown_co(&q->m))
		return -EAGAIN;
	ox_mapped_tell_damage(&q->m, name_damage(q, e), e->at, 8, e->guest,
			      ox_min_u64(e->guest_bytes, seen));
	ox_qed_note_damage(q);
	/* In a longer file it would mean something. */
	if (judge(q, e, e->value) == OX_QED_PAST_END)
		q->may_grow = false;
	q->contradicts = true;
	ox_qed_note_session(q);
	return !e->is_l1 && judge(q, e, e->value) == OX_QED_SOUND ? -EUCLEAN : -EIO;
}

/* ---- reading entries ---- */

static bool is_offset(const struct entry *e, uint64_t value)
{
	return value != 0 && (e->is_l1 || value != OX_QED_ZERO);
}

/* What an entry's bits say; a stale one says nothing. */
static uint64_t decode(const struct ox_qed_image *q, const struct entry *e, struct ox_le64 raw)
{
	uint64_t value = ox_le64_get(raw);

	return is_offset(e, value) && is_stale(q, e, value) ? 0 : value;
}

/* Whether the next entry of a slice, n behind e, goes on as e begins: 0 and, of data, 1 as they
 * are; offsets follow each other. No two tables do. */
static bool continues(struct ox_qed_image *q, const struct entry *e, uint64_t n, uint64_t next)
{
	if (!is_offset(e, e->value))
		return next == e->value;
	return !e->is_l1 && next == e->value + n * q->m.cluster_bytes && is_sound(q, e, next) &&
	       ox_qed_is_shared(q, ox_host(next)) == ox_qed_is_shared(q, ox_host(e->value));
}

/* Reads the entry at e->at, and counts in *ret_count how many from it on, of at most most and of
 * those of one slice, go on alike. */
static int read_entry_co(struct ox_qed_image *q, struct entry *e, uint64_t most,
			 uint64_t *ret_count)
{
	uint64_t slice = ox_align_down(e->at.bytes, q->m.slice_bytes);
	size_t first = (e->at.bytes - slice) / 8;
	const struct ox_le64 *entries;
	struct ox_block *b;
	uint64_t n = 1;
	int r;

	r = ox_cache_get_co(&q->m.map, slice, &b);
	if (r < 0)
		return r;
	entries = (const struct ox_le64 *)(const void *)b->data + first;
	most = ox_min_u64(most, q->m.slice_bytes / 8 - first);
	e->value = decode(q, e, entries[0]);
	e->durable = ox_cache_is_durable(&q->m.map, b);
	if (is_offset(e, e->value) && !is_sound(q, e, e->value))
		n = 0;
	while (n > 0 && n < most && continues(q, e, n, decode(q, e, entries[n])))
		n++;
	ox_cache_put(&q->m.map, b);
	*ret_count = n;
	return n > 0 ? 0 : refuse_co(q, e);
}

static struct entry l1_entry(const struct ox_qed_image *q, struct ox_guest guest)
{
	uint64_t span = span_bytes(q);

	return (struct entry){
		.at = ox_host(q->h.l1_offset + guest.bytes / span * 8),
		.is_l1 = true,
		.guest = ox_guest(ox_align_down(guest.bytes, span)),
		.guest_bytes = span,
	};
}

static uint64_t slice_number(const struct ox_qed_image *q, uint64_t entry)
{
	return entry / (q->m.slice_bytes / 8);
}

bool ox_qed_is_ours(const struct ox_qed_image *q, uint64_t entry)
{
	return ox_ranges_has(&q->changed, slice_number(q, entry));
}

static struct entry l2_entry(const struct ox_qed_image *q, struct ox_host table,
			     struct ox_guest guest)
{
	uint64_t in_span = guest.bytes & (span_bytes(q) - 1);

	return (struct entry){
		.changed =
			q->m.img->read_only || ox_qed_is_ours(q, guest.bytes >> q->m.cluster_bits),
		.at = ox_host(table.bytes + (in_span >> q->m.cluster_bits) * 8),
		.guest = ox_guest(ox_align_down(guest.bytes, q->m.cluster_bytes)),
		.guest_bytes = q->m.cluster_bytes,
	};
}

static struct ox_map_run run_of(const struct ox_qed_image *q, const struct entry *e,
				uint64_t in_cluster)
{
	if (e->value == 0)
		return (struct ox_map_run){.kind = OX_MAP_UNALLOCATED};
	if (e->value == OX_QED_ZERO)
		return (struct ox_map_run){.kind = OX_MAP_ZERO};
	return (struct ox_map_run){
		.kind = OX_MAP_DATA,
		.own = !ox_qed_is_shared(q, ox_host(e->value)),
		.host = ox_host(e->value + in_cluster),
	};
}

static int lookup_once_co(struct ox_qed_image *q, struct ox_guest guest, uint64_t length,
			  struct ox_map_run *ret)
{
	uint64_t span = span_bytes(q);
	uint64_t in_span = guest.bytes & (span - 1);
	uint64_t in_cluster = guest.bytes & (q->m.cluster_bytes - 1);
	struct entry l1 = l1_entry(q, guest);
	struct entry e;
	uint64_t count;
	int r;

	r = read_entry_co(q, &l1, ox_div_up(in_span + length, span), &count);
	if (r < 0)
		return r;
	if (l1.value == 0) {
		*ret = (struct ox_map_run){
			.kind = OX_MAP_UNALLOCATED,
			.durable = l1.durable,
			.length = ox_min_u64(length, count * span - in_span),
		};
		return 0;
	}
	e = l2_entry(q, ox_host(l1.value), guest);
	length = ox_min_u64(length, span - in_span);
	r = read_entry_co(q, &e, ox_div_up(in_cluster + length, q->m.cluster_bytes), &count);
	if (r < 0)
		return r;
	*ret = run_of(q, &e, in_cluster);
	ret->durable = l1.durable && e.durable;
	ret->length = ox_min_u64(length, count * q->m.cluster_bytes - in_cluster);
	ret->entry = e.value;
	return 0;
}

int ox_qed_lookup_co(struct ox_mapped *m, struct ox_guest guest, uint64_t length,
		     struct ox_map_run *ret)
{
	int r;

	ox_assert(length > 0);
	do
		r = lookup_once_co(ox_qed_of(m), guest, length, ret);
	while (r == -EAGAIN); /* as often as the file has grown */
	return r;
}

/* ---- setting entries ---- */

/* The first change of an L2 slice in this session: from now on what lies behind the opened file may
 * be named in it, so that it must not be before. */
static int claim_slice_co(struct ox_qed_image *q, const struct entry *e,
			  const struct ox_le64 *slice)
{
	uint64_t number = slice_number(q, e->guest.bytes >> q->m.cluster_bits);
	struct entry other = *e;

	for (uint64_t i = 0; i < q->m.slice_bytes / 8; i++) {
		other.value = decode(q, e, slice[i]);
		if (is_offset(e, other.value) && judge(q, e, other.value) == OX_QED_PAST_END)
			return refuse_co(q, &other);
	}
	return ox_ranges_add(&q->changed, number, number + 1) ? 0 : -ENOMEM;
}

/* Sets count entries from e on, all of one slice; step: what each is more than the one before. */
static int store_co(struct ox_qed_image *q, const struct entry *e, uint64_t value, uint64_t step,
		    uint64_t count, uint64_t after)
{
	uint64_t slice = ox_align_down(e->at.bytes, q->m.slice_bytes);
	struct ox_le64 *entries;
	struct ox_block *b;
	int r;

	r = ox_cache_edit_co(&q->m.map, slice, &b);
	if (r < 0)
		return r;
	entries = (struct ox_le64 *)(void *)b->data;
	if (!e->is_l1 && !ox_qed_is_ours(q, e->guest.bytes >> q->m.cluster_bits))
		r = claim_slice_co(q, e, entries);
	if (r < 0) {
		ox_cache_put(&q->m.map, b);
		return r;
	}
	entries += (e->at.bytes - slice) / 8;
	for (uint64_t i = 0; i < count; i++)
		entries[i] = ox_le64(value + i * step);
	ox_cache_dirty(&q->m.map, b, after);
	ox_cache_put(&q->m.map, b);
	return 0;
}

static int make_table_co(struct ox_qed_image *q, const struct entry *l1, struct ox_host *ret)
{
	struct ox_alloc_range range;
	uint64_t after = OX_TICKET_NONE;
	struct ox_host table;
	int r;

	r = ox_qed_take_table_co(q, &range);
	if (r < 0)
		return r;
	ox_alloc_note_table(&q->m, &range);
	table = ox_host(range.start << q->m.cluster_bits);
	if (!range.zero) {
		r = ox_io_fill_zero_co(q->m.io, table.bytes, q->table_bytes);
		after = ox_order_ticket(&q->m.order);
	}
	/* Slices of an earlier life, as a table whose entry found no room. */
	ox_cache_forget_co(&q->m.map, table.bytes, q->table_bytes);
	if (r == 0)
		r = ox_tables_add(&q->m, table);
	if (r == 0) {
		r = store_co(q, l1, table.bytes, 0, 1, after);
		if (r < 0)
			ox_tables_remove(&q->m, table);
	}
	if (r < 0) {
		ox_alloc_give_back(&q->m, &range);
		return r;
	}
	ox_alloc_named(&q->m, &range, range.count);
	*ret = table;
	return 0;
}

static int make_missing_table_co(struct ox_qed_image *q, struct ox_guest guest, struct ox_host *ret)
{
	struct entry l1 = l1_entry(q, guest);
	uint64_t count;
	int r;

	ox_mutex_lock_co(&q->m.table_lock);
	r = read_entry_co(q, &l1, 1, &count); /* another task may have made it meanwhile */
	if (r == 0 && l1.value == 0)
		r = make_table_co(q, &l1, ret);
	else if (r == 0)
		*ret = ox_host(l1.value);
	ox_mutex_unlock(&q->m.table_lock);
	return r;
}

/* The L2 table of guest, made if need be. */
static int table_co(struct ox_qed_image *q, struct ox_guest guest, struct ox_host *ret)
{
	struct entry l1 = l1_entry(q, guest);
	uint64_t count;
	int r = read_entry_co(q, &l1, 1, &count);

	if (r == 0 && l1.value == 0)
		return make_missing_table_co(q, guest, ret);
	*ret = ox_host(l1.value);
	return r;
}

int ox_qed_set_co(struct ox_mapped *m, struct ox_guest guest, uint64_t count, enum ox_map_kind kind,
		  struct ox_host host, uint64_t after, uint64_t *ret_done)
{
	struct ox_qed_image *q = ox_qed_of(m);
	uint64_t step = kind == OX_MAP_DATA ? m->cluster_bytes : 0;
	struct ox_host table = ox_host(0);
	struct entry e;
	uint64_t value;
	uint64_t left;
	int r;

	ox_assert(ox_is_aligned(guest.bytes, m->cluster_bytes) && count > 0);
	ox_assert(kind == OX_MAP_UNALLOCATED || kind == OX_MAP_ZERO || kind == OX_MAP_DATA);
	r = table_co(q, guest, &table);
	if (r < 0)
		return r;
	e = l2_entry(q, table, guest);
	left = (m->slice_bytes - (e.at.bytes & (m->slice_bytes - 1))) / 8;
	value = kind == OX_MAP_DATA ? host.bytes : kind == OX_MAP_ZERO ? OX_QED_ZERO : 0;
	*ret_done = ox_min_u64(count, left);
	return store_co(q, &e, value, step, *ret_done, after);
}

/* ---- tables that go ---- */

int ox_qed_table_at_co(struct ox_mapped *m, struct ox_guest guest, struct ox_host *ret_table,
		       uint64_t *ret_next)
{
	struct ox_qed_image *q = ox_qed_of(m);
	struct entry l1 = l1_entry(q, guest);
	uint64_t count;
	int r = read_entry_co(q, &l1, UINT64_MAX, &count);

	if (r < 0)
		return r;
	*ret_table = ox_host(l1.value);
	*ret_next = guest.bytes + (l1.value == 0 ? count : 1) * span_bytes(q);
	return 0;
}

int ox_qed_unlink_table_co(struct ox_mapped *m, struct ox_guest guest, struct ox_host table)
{
	struct ox_qed_image *q = ox_qed_of(m);
	struct entry l1 = l1_entry(q, guest);
	int r;

	ox_mutex_lock_co(&m->table_lock);
	r = store_co(q, &l1, 0, 0, 1, OX_TICKET_NONE);
	if (r == 0) {
		ox_tables_remove(m, table);
		ox_cache_forget_co(&m->map, table.bytes, q->table_bytes);
	}
	ox_mutex_unlock(&m->table_lock);
	return r;
}

/* ---- the tables that there are ---- */

/* What else is malformed is met by the request that needs it; a table past the end must be known
 * before the file grows. */
static int note_entry_co(struct ox_qed_image *q, uint64_t index, uint64_t value)
{
	/* However long the file is when the disk is made larger. */
	uint64_t end = opened_end(q) && !q->l1_is_ours ? ox_min_u64(q->m.io->length, opened_end(q))
						       : q->m.io->length;
	enum ox_qed_place place = ox_qed_judge_place(&q->h, value, q->table_bytes, end);
	struct entry e = {
		.at = ox_host(q->h.l1_offset + index * 8),
		.is_l1 = true,
		.guest = ox_guest(index * span_bytes(q)),
		.guest_bytes = span_bytes(q),
		.value = value,
	};

	if (place == OX_QED_SOUND)
		return ox_tables_add(&q->m, ox_host(value));
	if (place == OX_QED_PAST_END && q->m.img->read_only) /* one that is reopened still is */
		q->may_grow = false;
	else if (place == OX_QED_PAST_END)
		(void)refuse_co(q, &e); /* told, and remembered */
	return 0;
}

/* Where L1 entries from first on point. */
static int note_entries_co(struct ox_qed_image *q, uint64_t first, uint64_t end)
{
	struct ox_le64 *buf = ox_io_buffer(READ_BYTES);
	int r = buf ? 0 : -ENOMEM;

	while (r == 0 && first < end) {
		uint64_t n = ox_min_u64(end - first, READ_BYTES / 8);

		r = ox_io_pread_co(q->m.io, buf, n * 8, q->h.l1_offset + first * 8);
		if (r == 0) /* what was adopted (D10) */
			ox_cache_overlay(&q->m.map, q->h.l1_offset + first * 8, buf, n * 8);
		for (uint64_t i = 0; r == 0 && i < n; i++) {
			uint64_t value = ox_le64_get(buf[i]);

			if (value != 0)
				r = note_entry_co(q, first + i, value);
		}
		first += n;
	}
	free(buf);
	return r;
}

int ox_qed_note_tables_co(struct ox_qed_image *q, uint64_t disk_bytes)
{
	uint64_t end = ox_min_u64(ox_div_up(disk_bytes, span_bytes(q)), q->table_entries);
	int r = 0;

	/* A table past the disk's end is one that nobody shall write over, and a larger disk has.
	 */
	if (q->table_bytes <= NOTE_ALL_BYTES)
		end = q->table_entries;
	if (end > q->noted)
		r = note_entries_co(q, q->noted, end);
	if (r == 0)
		q->noted = ox_max_u64(q->noted, end);
	return r;
}

int ox_qed_load_tables_co(struct ox_mapped *m)
{
	struct ox_qed_image *q = ox_qed_of(m);

	q->noted = 0;
	return ox_qed_note_tables_co(q, q->h.size_bytes);
}
