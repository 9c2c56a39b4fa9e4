/* SPDX-License-Identifier: MIT */
/*
 * What is known of an image without refcounts: whether two entries name one cluster, and which
 * clusters none names. It takes a walk over all tables, which is made
 *
 *   an image with NEED_CHECK   beside the guest, from its opening on. Entries that name what never
 *                              became durable read as unallocated, and are dropped at the walk's
 *                              end. Until then the file must not grow, as one of them would get a
 *                              meaning: who needs a cluster waits
 *   any other image            when the first cluster is about to be freed, which waits for it
 *
 * The walk reads what is on disk. What the guest changes meanwhile is of clusters past the file's
 * end at its opening, of which the walk takes no notice, or names none. Nothing that an entry names
 * is freed before the walk is through, so that it can miss none.
 */
#include <errno.h>
#include <stdio.h>

#include "img/qed/qed.h"

static const struct ox_census_ops *ops_of(const struct ox_qed_image *q)
{
	return q->m.img->recovery ? q->m.img->recovery->census : NULL;
}

void ox_qed_census_fini(struct ox_qed_image *q)
{
	if (q->census)
		ops_of(q)->end(q->census);
	q->census = NULL;
}

bool ox_qed_is_shared(const struct ox_qed_image *q, struct ox_host host)
{
	return q->census && ops_of(q)->is_shared(q->census, host.bytes >> q->m.cluster_bits);
}

void ox_qed_note_damage(struct ox_qed_image *q)
{
	if (q->m.img->read_only)
		return;
	q->m.damaged = true;
	q->distrusts = true;
}

/* ---- what the walk has found ---- */

/* Of clusters that nothing names, those that are holes: no lost table, nor anything else that a
 * repair could want. False: no more can be noted. */
static bool note_holes_co(struct ox_qed_image *q, uint64_t c, uint64_t end)
{
	struct ox_io_extent e;
	uint64_t whole;

	for (; c < end; c = whole) {
		uint64_t at = c << q->m.cluster_bits;

		if (ox_io_extent_co(q->m.io, at, &e) < 0)
			return false;
		whole = ox_min_u64((at + e.length) >> q->m.cluster_bits, end);
		if (e.zero && whole > c && !ox_ranges_add(&q->free, c, whole))
			return false;
		if (whole <= c) /* a part of a cluster */
			whole = c + 1;
	}
	return true;
}

/* The reserve of a session that died is free, mostly. What takes space stays: `check -r leaks`
 * looks at it before it goes. */
static void note_free_co(struct ox_qed_image *q)
{
	uint64_t end = q->opened_clusters;
	uint64_t c = ops_of(q)->next_free(q->census, 1, end);

	while (c < end) {
		uint64_t named = ops_of(q)->next_named(q->census, c, end);

		if (!note_holes_co(q, c, named))
			return;
		c = ops_of(q)->next_free(q->census, named, end);
	}
}

/* 0 or why not: the error's text has the obstacle. */
static int judge_co(struct ox_qed_image *q, struct ox_error **err)
{
	const char *obstacle = ops_of(q)->obstacle(q->census);

	if (obstacle)
		return ox_error_set(err, -EIO, "%s", obstacle);
	/* It is known from now on, also to whoever adopts: another walk would find those to be free
	 * that were noted, and handed out since (D10). */
	q->knows = true;
	ox_qed_note_session(q);
	note_free_co(q);
	ox_qed_census_fini(q);
	return 0;
}

/* ---- an image that needs a check ---- */

static int scrub_slice_co(struct ox_qed_image *q, uint64_t slice)
{
	uint64_t count = q->m.slice_bytes / 8;
	struct ox_le64 *entries;
	struct ox_block *b;
	bool has_stale = false;
	int r;

	r = ox_cache_get_co(&q->m.map, slice, &b);
	if (r < 0)
		return r;
	entries = (struct ox_le64 *)(void *)b->data;
	for (uint64_t i = 0; i < count && !has_stale; i++)
		has_stale = ox_qed_is_stale(q, ox_le64_get(entries[i]));
	ox_cache_put(&q->m.map, b);
	if (!has_stale) /* perhaps a hole: it needs no space */
		return 0;
	r = ox_cache_edit_co(&q->m.map, slice, &b);
	if (r < 0)
		return r;
	entries = (struct ox_le64 *)(void *)b->data;
	for (uint64_t i = 0; i < count; i++) {
		if (ox_qed_is_stale(q, ox_le64_get(entries[i])))
			entries[i] = ox_le64(0);
	}
	ox_cache_dirty(&q->m.map, b, OX_TICKET_NONE);
	ox_cache_put(&q->m.map, b);
	return 0;
}

/* Through the cache: the guest changes other entries of the same tables. */
static int drop_stale_co(struct ox_qed_image *q)
{
	uint64_t table = 0;
	int r = 0;

	while (r == 0 && (table = ops_of(q)->next_stale(q->census, table)) != UINT64_MAX) {
		for (uint64_t at = 0; r == 0 && at < q->table_bytes; at += q->m.slice_bytes)
			r = scrub_slice_co(q, table + at);
		table++;
	}
	if (r == 0)
		r = ox_cache_flush_co(&q->m.map);
	/* No round of the group commit: it gathers writers, and they may be waiting for us. */
	return r == 0 ? ox_order_sync_always_co(&q->m.order) : r;
}

/* The mark goes at once; what fails here is done again when the guest is idle, or at the close. */
static void clear_mark_co(struct ox_qed_image *q)
{
	uint64_t takes = q->m.alloc.takes;
	int r = q->m.allocating == 0 ? ox_commit_co(&q->m) : 0;

	if (r == 0 && q->m.allocating == 0)
		r = ox_idle_settle_co(&q->m, takes);
	if (r < 0 || q->m.dirty.state != OX_DIRTY_CLEAN)
		ox_idle_start(&q->m);
}

static int look_through_co(struct ox_qed_image *q, struct ox_error **err)
{
	int r = ops_of(q)->walk_co(q->census, ox_recover_on_progress, &q->m);

	if (r < 0)
		return ox_error_set_errno(err, r, "Could not read the tables");
	/* A guest that is halted would wait for ever. */
	do
		r = drop_stale_co(q);
	while (ox_io_is_full(r) && q->m.recover.task && ox_recover_await_room_co(&q->m));
	if (r < 0)
		return ox_error_set_errno(err, r, "Could not write the tables");
	if (ops_of(q)->knows_stale(q->census)) {
		q->stale_from = 0;
		q->may_grow = true;
		ox_qed_note_session(q);
	}
	return judge_co(q, err);
}

int ox_qed_recover_co(struct ox_mapped *m, struct ox_error **err)
{
	struct ox_qed_image *q = ox_qed_of(m);
	int r = look_through_co(q, err);

	if (r < 0)
		return r;
	ox_recover_done(m);
	clear_mark_co(q);
	return 0;
}

void ox_qed_recovery_failed(struct ox_mapped *m)
{
	ox_qed_note_damage(ox_qed_of(m));
}

static int begin_co(struct ox_qed_image *q, struct ox_error **err)
{
	struct ox_census_view what = {
		.end_bytes = q->m.io->length,
		.at_rest = true,
		.leaves = &q->m.recover.leaves,
	};
	int r = ops_of(q)->begin_co(q->m.io, &what, &q->census, err);

	if (r < 0)
		return r;
	q->may_grow = false;
	q->stale_from = q->opened_clusters << q->m.cluster_bits;
	q->m.dirty.state = OX_DIRTY_SET;
	r = ox_tables_load_co(&q->m);
	return r < 0 ? ox_error_set_errno(err, r, "Could not read the L1 table") : 0;
}

/* All of it before the first request. */
static int recover_halted_co(struct ox_qed_image *q, struct ox_error **err)
{
	int r = look_through_co(q, err);

	if (r < 0)
		return r;
	ox_recover_done(&q->m);
	r = ox_qed_settle_co(&q->m);
	if (r == 0)
		r = ox_order_sync_always_co(&q->m.order);
	if (r == 0)
		r = ox_dirty_clear_co(&q->m);
	if (r < 0)
		return ox_error_set_errno(err, r, "Could not clear NEED_CHECK");
	ox_mapped_tell(&q->m, q->m.ops->recovery_done);
	return 0;
}

int ox_qed_recover_start_co(struct ox_qed_image *q, struct ox_error **err)
{
	struct ox_image *img = q->m.img;
	int r;

	if (!ops_of(q) || q->m.recover.mode == OX_RECOVER_NEVER)
		return ox_error_set(err, -EROFS, "Image is dirty and must be recovered first");
	/* The walk's beginning may change L1. */
	r = ox_qed_prepare_write_co(&q->m);
	if (r < 0)
		ox_error_set_errno(err, r, "Could not write the header");
	else
		r = begin_co(q, err);
	if (r == 0 && q->m.recover.mode == OX_RECOVER_AUTO) {
		r = ox_recover_spawn_co(&q->m);
		if (r < 0)
			ox_error_set_errno(err, r, "Could not start its recovery");
	} else if (r == 0) {
		r = recover_halted_co(q, err);
	}
	if (r == 0)
		return 0;
	ox_qed_census_fini(q);
	ox_error_prefix(err, "Could not recover the dirty image '%s': ", img->filename);
	return r;
}

/* ---- an image that needs none, about to lose its first cluster ---- */

static void no_progress(void *opaque, uint64_t done, uint64_t total)
{
	(void)opaque;
	(void)done;
	(void)total;
}

static bool is_ours(const void *opaque, uint64_t entry)
{
	return ox_qed_is_ours(opaque, entry);
}

static int look_once_co(struct ox_qed_image *q, struct ox_error **err)
{
	struct ox_census_view what = {
		.end_bytes = q->opened_clusters << q->m.cluster_bits,
		.leaves = &q->m.recover.leaves,
		.is_ours = is_ours,
		.opaque = q,
	};
	int r;

	if (!ops_of(q))
		return ox_error_set(err, -ENOTSUP, "there is nobody to look through it");
	/* What was adopted may name clusters below the opened end, and it is the disk that is read.
	 */
	r = ox_cache_flush_co(&q->m.map);
	if (r < 0)
		return ox_error_set_errno(err, r, "Could not write the tables");
	r = ops_of(q)->begin_co(q->m.io, &what, &q->census, err);
	if (r < 0)
		return r;
	r = ops_of(q)->walk_co(q->census, no_progress, NULL);
	if (r < 0)
		return ox_error_set_errno(err, r, "Could not read the tables");
	return judge_co(q, err);
}

bool ox_qed_may_free(const struct ox_mapped *m)
{
	const struct ox_qed_image *q = (const struct ox_qed_image *)m;

	/* Where the recovery waits for room the walk is through, and can miss nothing: what is
	 * freed waits for the recovery's end (R2), and the request does not. */
	return q->knows || q->distrusts || q->m.recover.lacks_room;
}

/* The guest's request is carried out either way. */
int ox_qed_before_free_co(struct ox_mapped *m)
{
	struct ox_qed_image *q = ox_qed_of(m);
	struct ox_error *err = NULL;

	ox_recover_wait_co(m);
	ox_mutex_lock_co(&q->census_lock);
	if (!q->knows && !q->distrusts && !m->recover.leaves && !ox_recover_active(m) &&
	    look_once_co(q, &err) < 0 && !m->recover.leaves) {
		char text[512];

		ox_qed_note_damage(q);
		snprintf(text, sizeof(text),
			 "space that the guest frees is not given back ('oxbow check' says more): "
			 "%s",
			 ox_error_message(err));
		ox_mapped_tell(m, text);
	}
	/* Nobody waits for another look: what is freed is leaked. */
	q->distrusts = q->distrusts || (m->recover.leaves && !q->knows);
	ox_mutex_unlock(&q->census_lock);
	ox_error_free(err);
	return 0;
}
