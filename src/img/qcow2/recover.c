/* SPDX-License-Identifier: MIT */
/*
 * A dirty image, served while its refcounts are recovered: what the guest's requests meet
 * meanwhile. docs/recovery.md has the states, the invariants R1-R5 and the order on disk.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "img/qcow2/qcow2.h"
#include "rt/reactor.h"

/* Between two attempts to write counts that find no room. */
#define ROOM_NS UINT64_C(1000000000)

void ox_recover_init(struct ox_qcow2 *q, enum ox_recover_mode mode)
{
	q->recover = (struct ox_recover){.mode = mode};
	ox_timer_init(&q->recover.room);
	ox_waitq_init(&q->recover.changed);
}

/* The fence of a recovery that was interrupted; 0: there is none. */
static uint64_t fence_on_disk(const struct ox_qcow2 *q)
{
	uint64_t fence = q->ext.fence_bytes;

	if (!(ox_qcow2_hdr(q)->incompatible & OX_QCOW2_INCOMPAT_DIRTY))
		return 0;
	return ox_is_aligned(fence, q->cluster_bytes) && fence < q->io->length ? fence : 0;
}

/* Nobody has made the file longer since it was opened: what names more is stale, or damage. Whoever
 * reads beside a writer cannot tell. */
static bool is_at_rest(const struct ox_qcow2 *q)
{
	return (ox_qcow2_hdr(q)->incompatible & OX_QCOW2_INCOMPAT_DIRTY) && q->img->read_only &&
	       !(q->img->open_flags & OX_OPEN_FORCE_SHARE);
}

void ox_recover_note_fence(struct ox_qcow2 *q)
{
	q->recover.fence = fence_on_disk(q);
	if (q->recover.fence == 0 && is_at_rest(q))
		q->recover.fence = ox_align_up(q->io->length, q->cluster_bytes);
}

bool ox_recover_is_stale_table(const struct ox_qcow2 *q, struct ox_host table)
{
	return table.bytes >= q->io->length && is_at_rest(q);
}

void ox_recover_fini(struct ox_qcow2 *q)
{
	if (q->recover.rebuild)
		q->img->recovery->end(q->recover.rebuild);
	q->recover.rebuild = NULL;
}

static void tell(const struct ox_qcow2 *q, const char *message)
{
	if (q->img->warn)
		q->img->warn(q->img->opaque, message);
}

void ox_recover_tell_kept(const struct ox_qcow2 *q, uint64_t tables)
{
	char text[160];

	if (tables == 0)
		return;
	snprintf(text, sizeof(text),
		 "L2 tables were found that look lost (%" PRIu64 "): they are kept, with all that "
		 "they name; 'oxbow check --salvage' says more",
		 tables);
	tell(q, text);
}

/* ---- what requests ask ---- */

bool ox_recover_is_stale(const struct ox_qcow2 *q, struct ox_host table,
			 const struct ox_qcow2_entry *e)
{
	if (table.bytes >= q->recover.fence || e->host.bytes < q->recover.fence)
		return false;
	return e->kind == OX_QCOW2_ENTRY_DATA || e->kind == OX_QCOW2_ENTRY_ZERO_ALLOC ||
	       e->kind == OX_QCOW2_ENTRY_COMPRESSED;
}

bool ox_recover_is_shared(const struct ox_qcow2 *q, struct ox_host host)
{
	return q->recover.rebuild &&
	       q->img->recovery->is_shared(q->recover.rebuild, host.bytes >> q->cluster_bits);
}

uint64_t ox_recover_stale_in(const struct ox_qcow2 *q, struct ox_host table,
			     const struct ox_be64 *entries, uint64_t count)
{
	uint64_t stale = 0;

	for (uint64_t i = 0; i < count; i++) {
		struct ox_qcow2_entry e =
			ox_qcow2_l2_decode(ox_qcow2_hdr(q), ox_be64_get(entries[i]));

		stale += ox_recover_is_stale(q, table, &e);
	}
	return stale;
}

uint64_t ox_recover_scrub(const struct ox_qcow2 *q, struct ox_host table, struct ox_be64 *entries,
			  uint64_t count)
{
	uint64_t scrubbed = 0;

	for (uint64_t i = 0; i < count; i++) {
		struct ox_qcow2_entry e =
			ox_qcow2_l2_decode(ox_qcow2_hdr(q), ox_be64_get(entries[i]));

		if (!ox_recover_is_stale(q, table, &e))
			continue;
		/* A preallocated zero cluster loses its place, and still reads as zeroes. */
		entries[i] = ox_be64(e.kind == OX_QCOW2_ENTRY_ZERO_ALLOC ? OX_QCOW2_ZERO : 0);
		scrubbed++;
	}
	return scrubbed;
}

int ox_recover_place_co(struct ox_qcow2 *q, uint64_t *ret_start)
{
	struct ox_recover *rec = &q->recover;
	int r;

	if (rec->no_room && !rec->may_grow && rec->state != OX_RECOVERY_RUNNING)
		return -EIO;
	if (rec->no_room && !rec->may_grow)
		return rec->lacks_room ? -ENOSPC : -ERESTART;
	if (!rec->may_grow) {
		/* Before the file grows: in a longer one nothing else tells a stale entry (D8). */
		r = ox_fence_set_co(q, rec->fence);
		if (r < 0)
			return r;
		rec->may_grow = true;
	}
	*ret_start = rec->own[rec->own_count - 1].start + rec->own[rec->own_count - 1].count;
	return 0;
}

void ox_recover_placed(struct ox_qcow2 *q, uint64_t count)
{
	q->recover.own[q->recover.own_count - 1].count += count;
}

bool ox_recover_restart_co(struct ox_qcow2 *q, int r)
{
	if (r != -ERESTART)
		return false;
	while (q->recover.state == OX_RECOVERY_RUNNING && !q->recover.lacks_room)
		ox_waitq_wait_co(&q->recover.changed);
	return true;
}

void ox_recover_wait_co(struct ox_qcow2 *q)
{
	bool tried = false;

	while (q->recover.task && !(q->recover.lacks_room && tried)) {
		if (q->recover.lacks_room) {
			tried = true;
			ox_timer_end(&q->recover.room);
		}
		ox_waitq_wait_co(&q->recover.changed);
	}
}

void ox_recover_end_co(struct ox_qcow2 *q)
{
	q->recover.closing = true;
	ox_timer_end(&q->recover.room);
	while (q->recover.task)
		ox_waitq_wait_co(&q->recover.changed);
}

bool ox_recover_await_room_co(struct ox_qcow2 *q)
{
	struct ox_recover *rec = &q->recover;

	/* Room does not heal a poisoned order (M3). */
	if (rec->closing || ox_order_error(&q->order))
		return false;
	if (!rec->told_room)
		tell(q, "the recovery of the refcounts waits for room on the host");
	rec->told_room = true;
	rec->lacks_room = true;
	ox_waitq_wake_all(&rec->changed);
	(void)ox_timer_sleep_co(&rec->room, ROOM_NS);
	rec->lacks_room = false;
	return !rec->closing;
}

/* What is past the old end: nothing that an old table may name. A stream's last sectors may claim a
 * part of the cluster behind the end, so that one is left out. */
static void draw_lines(struct ox_qcow2 *q)
{
	struct ox_recover *rec = &q->recover;
	uint64_t end = ox_align_up(q->io->length, q->cluster_bytes);

	rec->fence = fence_on_disk(q);
	rec->may_grow = rec->fence != 0 && q->io->can_grow;
	if (rec->fence == 0)
		rec->fence = end;
	rec->frozen_end = end;
	rec->limit_clusters = end / q->cluster_bytes;
	rec->own[0] = (struct ox_alloc_range){.start = rec->limit_clusters + 1};
	rec->own_count = 1;
	rec->no_room = !q->io->can_grow || (!rec->may_grow && !ox_fence_has_room(q));
}

/* ---- the recovering task ---- */

/* Allocation goes on past the file's end. What the walk has learnt of clusters that are named twice
 * stays of use. */
static void fail(struct ox_qcow2 *q, const char *why)
{
	char text[512];

	snprintf(q->recover.obstacle, sizeof(q->recover.obstacle), "%s", why);
	q->recover.state = OX_RECOVERY_FAILED;
	ox_waitq_wake_all(&q->recover.changed);
	ox_cache_abandon(&q->counts);
	ox_alloc_start_release(q);
	snprintf(text, sizeof(text),
		 "the image stays dirty, as its refcounts cannot be recovered ('oxbow check' says "
		 "more): %s",
		 q->recover.obstacle);
	tell(q, text);
}

static void on_progress(void *opaque, uint64_t done, uint64_t total)
{
	struct ox_qcow2 *q = opaque;

	q->recover.tables_done = done;
	q->recover.tables_total = total;
	if (q->img->progress)
		q->img->progress(q->img->opaque, done, total);
}

/* The same with the guest halted: nothing that is in the tables' cache or in the allocator
 * outlives it. */
static int halt_and_recover_co(struct ox_qcow2 *q, struct ox_error **err)
{
	struct ox_range all;
	int r;

	ox_rangelock_acquire_co(&q->guest, &all, 0, UINT64_MAX, true);
	r = ox_commit_co(q);
	ox_latch_wait_co(&q->background);
	if (r < 0) { /* nothing has been touched: all goes on as it did */
		ox_rangelock_release(&q->guest, &all);
		return ox_error_set_errno(err, r, "Could not write the tables");
	}
	ox_alloc_forget(q);
	ox_cache_clear(&q->map);
	ox_cache_clear(&q->counts);
	q->unpacked_entry = 0;
	r = ox_qcow2_recover_halted_co(q, err);
	if (r == 0) {
		q->recover.fence = 0;
		q->recover.frozen_end = 0;
		q->recover.state = OX_RECOVERY_DONE;
		ox_waitq_wake_all(&q->recover.changed);
	} else { /* whatever the attempt has put past the file's end */
		draw_lines(q);
	}
	ox_rangelock_release(&q->guest, &all);
	return r;
}

static int recover_co(struct ox_qcow2 *q, struct ox_error **err)
{
	const struct ox_recovery *ops = q->img->recovery;
	int r;

	r = ops->walk_co(q->recover.rebuild, on_progress, q);
	if (r < 0)
		return ox_error_set_errno(err, r, "Could not read the tables");
	if (ops->obstacle(q->recover.rebuild))
		return ox_error_set(err, -EIO, "%s", ops->obstacle(q->recover.rebuild));
	r = ox_recover_finish_co(q);
	if (r == 1) {
		r = halt_and_recover_co(q, err);
		if (r < 0)
			return r;
	}
	if (r < 0 && ops->obstacle(q->recover.rebuild))
		return ox_error_set(err, r, "%s", ops->obstacle(q->recover.rebuild));
	if (r < 0)
		return ox_error_set_errno(err, r, "Could not write the refcounts");
	ox_recover_fini(q);
	return 0;
}

static void recover_task_co(void *arg)
{
	struct ox_qcow2 *q = arg;
	struct ox_error *err = NULL;

	if (recover_co(q, &err) < 0) {
		fail(q, ox_error_message(err));
	} else {
		q->recover.state = OX_RECOVERY_DONE;
		tell(q, "image was not closed cleanly; refcounts were rebuilt");
		ox_alloc_start_release(q);
	}
	ox_error_free(err);
	q->recover.task = false;
	ox_waitq_wake_all(&q->recover.changed);
}

int ox_recover_start_co(struct ox_qcow2 *q, struct ox_error **err)
{
	struct ox_recover *rec = &q->recover;
	int r;

	ox_recover_fini(q); /* an earlier attempt of this image */
	draw_lines(q);
	r = q->img->recovery->begin_co(q->io, &rec->rebuild, err);
	if (r < 0)
		return r;
	if (!q->img->recovery->may_grow(rec->rebuild)) {
		rec->no_room = true;
		rec->may_grow = false;
	}
	r = ox_tables_load_co(q);
	/* A direct write into a cluster smaller than the device's block may lengthen the file for a
	 * moment. */
	if (r == 0 && !rec->no_room && !rec->may_grow && q->io->align_bytes > q->cluster_bytes) {
		r = ox_fence_set_co(q, rec->fence);
		rec->may_grow = r == 0;
	}
	if (r < 0) {
		ox_recover_fini(q);
		return ox_error_set_errno(err, r, "Could not begin the recovery of '%s'",
					  q->img->filename);
	}
	rec->state = OX_RECOVERY_RUNNING;
	rec->scrubs = false;
	rec->closing = false;
	rec->told_room = false;
	rec->task = true;
	q->lazy.state = OX_LAZY_DIRTY;
	tell(q, "image was not closed cleanly; it is usable while its refcounts are recovered");
	r = ox_co_spawn(q->img->reactor, recover_task_co, q);
	if (r < 0) {
		rec->task = false;
		rec->state = OX_RECOVERY_NONE;
		rec->frozen_end = 0;
		ox_recover_fini(q);
		return ox_error_set_errno(err, r, "Could not recover '%s'", q->img->filename);
	}
	return 0;
}
