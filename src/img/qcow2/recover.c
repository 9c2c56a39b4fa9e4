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

/* The fence of a recovery that was interrupted; 0: there is none. */
static uint64_t fence_on_disk(const struct ox_qcow2 *q)
{
	uint64_t fence = q->ext.fence_bytes;

	if (!(ox_qcow2_hdr(q)->incompatible & OX_QCOW2_INCOMPAT_DIRTY))
		return 0;
	return ox_is_aligned(fence, q->m.cluster_bytes) && fence < q->m.io->length ? fence : 0;
}

/* Nobody has made the file longer since it was opened: what names more is stale, or damage. Whoever
 * reads beside a writer cannot tell. */
static bool is_at_rest(const struct ox_qcow2 *q)
{
	return (ox_qcow2_hdr(q)->incompatible & OX_QCOW2_INCOMPAT_DIRTY) && q->m.img->read_only &&
	       !(q->m.img->open_flags & OX_OPEN_FORCE_SHARE);
}

void ox_recover_note_fence(struct ox_qcow2 *q)
{
	q->rebuild.fence = fence_on_disk(q);
	if (q->rebuild.fence == 0 && is_at_rest(q))
		q->rebuild.fence = ox_align_up(q->m.io->length, q->m.cluster_bytes);
}

void ox_recover_forget(struct ox_qcow2 *q)
{
	ox_recover_fini(q);
	q->rebuild.frozen_end = 0;
	q->rebuild.fence = fence_on_disk(q);
}

bool ox_recover_is_stale_table(const struct ox_qcow2 *q, struct ox_host table)
{
	return table.bytes >= q->m.io->length && is_at_rest(q);
}

void ox_recover_fini(struct ox_qcow2 *q)
{
	if (q->rebuild.walk)
		q->m.img->recovery->end(q->rebuild.walk);
	q->rebuild.walk = NULL;
	ox_io_close(q->rebuild.opened);
	q->rebuild.opened = NULL;
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
	ox_mapped_tell(&q->m, text);
}

/* ---- what requests ask ---- */

bool ox_recover_is_stale(const struct ox_qcow2 *q, struct ox_host table,
			 const struct ox_qcow2_entry *e)
{
	if (table.bytes >= q->rebuild.fence || e->host.bytes < q->rebuild.fence)
		return false;
	return e->kind == OX_QCOW2_ENTRY_DATA || e->kind == OX_QCOW2_ENTRY_ZERO_ALLOC ||
	       e->kind == OX_QCOW2_ENTRY_COMPRESSED;
}

bool ox_recover_is_shared(const struct ox_qcow2 *q, struct ox_host host)
{
	return q->rebuild.walk &&
	       q->m.img->recovery->is_shared(q->rebuild.walk, host.bytes >> q->m.cluster_bits);
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
	struct ox_rebuilding *rec = &q->rebuild;
	int r;

	if (rec->no_room && !rec->may_grow && q->m.recover.state != OX_RECOVERY_RUNNING)
		return -EIO;
	if (rec->no_room && !rec->may_grow)
		return -ERESTART;
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
	q->rebuild.own[q->rebuild.own_count - 1].count += count;
}

/* What is past the old end: nothing that an old table may name. A stream's last sectors may claim a
 * part of the cluster behind the end, so that one is left out. */
static void draw_lines(struct ox_qcow2 *q, uint64_t opened_bytes, uint64_t fence)
{
	struct ox_rebuilding *rec = &q->rebuild;
	uint64_t end = ox_align_up(opened_bytes, q->m.cluster_bytes);

	rec->may_grow = fence_on_disk(q) != 0 && q->m.io->can_grow;
	rec->fence = fence != 0 ? fence : end;
	rec->frozen_end = end;
	rec->limit_clusters = end / q->m.cluster_bytes;
	rec->own[0] = (struct ox_alloc_range){.start = rec->limit_clusters + 1};
	rec->own_count = 1;
	rec->no_room = !q->m.io->can_grow || (!rec->may_grow && !ox_fence_has_room(q));
}

/* ---- a death, and who goes on with it (D10) ---- */

uint64_t ox_recover_copy_bytes(const struct ox_qcow2 *q)
{
	return (uint64_t)ox_qcow2_hdr(q)->l1_entries * 8;
}

/* The lines as the dead process had drawn them: what it has put past the old end is ours, and its
 * tables there are not frozen. Else each death would have them copied once more. */
static int draw_lines_again(struct ox_qcow2 *q, struct ox_io **ret_opened)
{
	struct ox_rebuilding *rec = &q->rebuild;
	uint64_t opened = ox_state_line(q->m.state, OX_QCOW2_LINE_OPENED_BYTES);
	uint64_t fence = ox_state_line(q->m.state, OX_QCOW2_LINE_FENCE);
	uint64_t file_end = ox_div_up(q->m.io->length, q->m.cluster_bytes);

	if (opened > q->m.io->length || fence == 0 || !ox_is_aligned(fence, q->m.cluster_bytes) ||
	    fence > ox_align_up(opened, q->m.cluster_bytes) ||
	    q->m.state->copy_bytes < ox_recover_copy_bytes(q))
		return -EINVAL;
	draw_lines(q, opened, fence);
	/* It may be in the header, and nobody has synced that yet (D8): it is set once more. */
	rec->may_grow = false;
	if (file_end > rec->own[0].start)
		rec->own[0].count = file_end - rec->own[0].start;
	return ox_qcow2_opened_io(q, opened, ret_opened);
}

/* Before the first request. An L1 table that has become longer than there was room for cannot be
 * kept: a death begins anew. */
static int note_lines_co(struct ox_qcow2 *q)
{
	uint64_t bytes = ox_recover_copy_bytes(q);
	struct ox_state *state = q->m.state;
	int r;

	if (!state || state->copy_bytes < bytes)
		return 0;
	r = ox_io_pread_co(q->m.io, state->copy, bytes, ox_qcow2_hdr(q)->l1_offset);
	if (r < 0)
		return r;
	ox_state_set_line(state, OX_QCOW2_LINE_OPENED_BYTES, q->m.io->length);
	ox_state_set_line(state, OX_QCOW2_LINE_FENCE, q->rebuild.fence);
	q->m.recover.resumable = true;
	return 0;
}

/* From here on a death has it begun anew. */
void ox_recover_is_past_resuming(struct ox_qcow2 *q)
{
	q->m.recover.resumable = false;
	if (q->m.state)
		ox_state_set_recovery(q->m.state, OX_STATE_ANEW);
}

/* ---- the recovering task ---- */

/* The same with the guest halted: nothing that is in the tables' cache or in the allocator
 * outlives it. */
static int recover_with_guest_halted_co(struct ox_qcow2 *q, struct ox_error **err)
{
	int r = ox_commit_co(&q->m);

	ox_latch_wait_co(&q->m.background);
	if (r < 0) /* nothing has been touched: all goes on as it did */
		return ox_error_set_errno(err, r, "Could not write the tables");
	ox_recover_is_past_resuming(q);
	ox_alloc_forget(&q->m);
	ox_cache_clear(&q->m.map);
	ox_cache_clear(&q->counts);
	ox_unpack_forget_all(q);
	r = ox_qcow2_recover_halted_co(q, err);
	if (r == 0) {
		q->rebuild.fence = 0;
		q->rebuild.frozen_end = 0;
		ox_recover_done(&q->m);
	} else { /* whatever the attempt has put past the file's end */
		draw_lines(q, q->m.io->length, fence_on_disk(q));
	}
	return r;
}

/* The watches would sleep their time out, with the guest halted. */
static int halt_and_recover_co(struct ox_qcow2 *q, struct ox_error **err)
{
	struct ox_range all;
	int r;

	ox_rangelock_acquire_co(&q->m.guest, &all, 0, UINT64_MAX, true);
	ox_idle_stop(&q->m);
	ox_age_stop(&q->m);
	r = recover_with_guest_halted_co(q, err);
	ox_idle_allow(&q->m);
	ox_age_allow(&q->m);
	ox_rangelock_release(&q->m.guest, &all);
	return r;
}

/* Allocation goes on past the file's end. What the walk has learnt of clusters that are named twice
 * stays of use. */
void ox_qcow2_recovery_failed(struct ox_mapped *m)
{
	ox_cache_abandon(&ox_qcow2_of_mapped(m)->counts);
}

int ox_qcow2_recover_co(struct ox_mapped *m, struct ox_error **err)
{
	struct ox_qcow2 *q = ox_qcow2_of_mapped(m);
	const struct ox_recovery *ops = q->m.img->recovery;
	int r;

	r = ops->walk_co(q->rebuild.walk, ox_recover_on_progress, m);
	if (r < 0)
		return ox_error_set_errno(err, r, "Could not read the tables");
	if (ops->obstacle(q->rebuild.walk))
		return ox_error_set(err, -EIO, "%s", ops->obstacle(q->rebuild.walk));
	r = ox_recover_finish_co(q);
	if (r == 1) {
		r = halt_and_recover_co(q, err);
		if (r < 0)
			return r;
	}
	if (r < 0 && ops->obstacle(q->rebuild.walk))
		return ox_error_set(err, r, "%s", ops->obstacle(q->rebuild.walk));
	if (r < 0)
		return ox_error_set_errno(err, r, "Could not write the refcounts");
	ox_recover_fini(q);
	return 0;
}

/* The walk, from its first table on: what it had counted has died with the process. */
static int begin_co(struct ox_qcow2 *q, struct ox_error **err)
{
	struct ox_rebuilding *rec = &q->rebuild;
	struct ox_io *io = q->m.io;
	int r;

	if (ox_mapped_resumes(&q->m)) {
		r = draw_lines_again(q, &rec->opened);
		if (r < 0)
			return ox_error_set_errno(err, r, "Its state cannot be adopted");
		io = rec->opened;
	} else {
		draw_lines(q, io->length, fence_on_disk(q));
	}
	r = q->m.img->recovery->begin_co(io, &q->m.recover.leaves, &rec->walk, err);
	if (r < 0)
		ox_recover_fini(q);
	return r;
}

int ox_recover_start_co(struct ox_qcow2 *q, struct ox_error **err)
{
	struct ox_rebuilding *rec = &q->rebuild;
	int r;

	r = begin_co(q, err);
	if (r < 0)
		return r;
	if (!q->m.img->recovery->may_grow(rec->walk)) {
		rec->no_room = true;
		rec->may_grow = false;
	}
	r = ox_tables_load_co(&q->m);
	q->m.recover.resumable = ox_mapped_resumes(&q->m);
	if (r == 0 && q->m.recover.resumable) {
		r = ox_adopt_notes_co(&q->m, err);
		if (r < 0) {
			ox_recover_fini(q);
			return r;
		}
	} else if (r == 0) {
		r = note_lines_co(q);
	}
	/* A direct write into a cluster smaller than the device's block may lengthen the file for a
	 * moment. */
	if (r == 0 && !rec->no_room && !rec->may_grow &&
	    q->m.io->align_bytes > q->m.cluster_bytes) {
		r = ox_fence_set_co(q, rec->fence);
		rec->may_grow = r == 0;
	}
	if (r < 0) {
		ox_recover_fini(q);
		return ox_error_set_errno(err, r, "Could not begin the recovery of '%s'",
					  q->m.img->filename);
	}
	rec->scrubs = false;
	r = ox_recover_spawn_co(&q->m);
	if (r < 0) {
		rec->frozen_end = 0;
		ox_recover_fini(q);
		return ox_error_set_errno(err, r, "Could not recover '%s'", q->m.img->filename);
	}
	return 0;
}
