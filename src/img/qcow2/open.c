/* SPDX-License-Identifier: MIT */
/*
 * Opening, and what activation comes to here: a dirty image is recovered before anything relies on
 * its refcounts, and the dirty bit is cleared only when recovery says that they are right (D6).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "img/qcow2/qcow2.h"

static const struct ox_img_ops qcow2_ops;
static const struct ox_mapped_ops mapped_ops;

/* What no entry may name as its host cluster. Indices 1 and 2 follow the tables as they move. */
static void note_fixed_ranges(struct ox_qcow2 *q)
{
	const struct ox_qcow2_header *h = ox_qcow2_hdr(q);

	q->m.fixed_count = 0;
	ox_mapped_add_fixed(&q->m, 0, q->m.cluster_bytes);
	ox_mapped_add_fixed(&q->m, h->l1_offset, (uint64_t)h->l1_entries * 8);
	ox_mapped_add_fixed(&q->m, h->reftable_offset,
			    (uint64_t)h->reftable_clusters * q->m.cluster_bytes);
	if (h->snapshot_count > 0) /* 40 bytes are the least that a snapshot's record takes */
		ox_mapped_add_fixed(&q->m, h->snapshots_offset, (uint64_t)h->snapshot_count * 40);
	if (q->ext.has_bitmaps && (h->autoclear & OX_QCOW2_AUTOCLEAR_BITMAPS))
		ox_mapped_add_fixed(&q->m, q->ext.bitmaps.directory_offset,
				    q->ext.bitmaps.directory_bytes);
}

/* Version 2 has no zero entries. */
static void note_version(struct ox_qcow2 *q)
{
	q->m.has_zero = ox_qcow2_hdr(q)->version >= 3;
	q->m.has_zero_alloc = q->m.has_zero;
}

static int read_all_co(struct ox_qcow2 *q, char **ret_backing, struct ox_error **err)
{
	uint8_t *cluster;
	size_t count;
	int r;

	r = ox_header_read_co(q, &cluster, &count, err);
	if (r < 0)
		return r;
	r = ox_qcow2_header_check_supported(ox_qcow2_hdr(q), &q->ext, !q->m.img->read_only, err);
	if (r == 0)
		r = ox_qcow2_header_check_layout(ox_qcow2_hdr(q), q->m.io->length, err);
	if (r == 0)
		r = ox_qcow2_backing_name(ox_qcow2_hdr(q), cluster, count, ret_backing, err);
	free(cluster);
	return r;
}

static void free_state(struct ox_qcow2 *q)
{
	ox_recover_fini(q);
	ox_mapped_fini(&q->m);
	ox_qcow2_extensions_free(&q->ext);
	ox_pack_fini(q);
	ox_unpack_fini(q);
	free(q);
}

static int load_tables_co(struct ox_qcow2 *q, struct ox_error **err)
{
	int r = ox_tables_load_co(&q->m);

	return r < 0 ? ox_error_set_errno(err, r, "Could not load the tables of '%s'",
					  q->m.img->filename)
		     : 0;
}

int ox_qcow2_open_co(struct ox_image *img, const struct ox_img_open *how, struct ox_error **err)
{
	struct ox_qcow2 *q = calloc(1, sizeof(*q));
	char *backing = NULL;
	int r;

	if (!q)
		return ox_error_set(err, -ENOMEM, "Out of memory");
	ox_mapped_init(&q->m, img, &mapped_ops, how->opts);
	ox_header_init(&q->header);
	ox_unpack_init(q);
	r = read_all_co(q, &backing, err);
	if (r == 0)
		r = ox_pack_init(q, how->opts->compression_level, err);
	if (r == 0)
		r = ox_snapshot_enter_co(q, how->opts, err);
	if (r == 0) {
		ox_mapped_set_cluster(&q->m, ox_qcow2_hdr(q)->cluster_bits);
		note_version(q);
		note_fixed_ranges(q);
		ox_recover_note_fence(q);
		q->m.copy_bytes = ox_recover_copy_bytes(q);
		r = ox_mapped_open_caches(&q->m, ox_qcow2_hdr(q)->size_bytes, &q->counts, how, err);
		/* For writing they are loaded once the image is recovered, or its recovery begun.
		 */
		if (r == 0 && img->read_only)
			r = load_tables_co(q, err);
	}
	if (r < 0) {
		free(backing);
		free_state(q);
		return r;
	}
	img->ops = &qcow2_ops;
	img->state = q;
	img->size_bytes = ox_qcow2_hdr(q)->size_bytes;
	img->backing_name = backing;
	if (q->ext.backing_format) {
		img->backing_format = strdup(q->ext.backing_format);
		if (!img->backing_format)
			return ox_error_set(err, -ENOMEM, "Out of memory");
	}
	return 0;
}

/* ---- activation ---- */

/* Takes over what a walk may have changed: header, tables. */
static int reload_co(struct ox_qcow2 *q, struct ox_error **err)
{
	char *backing = NULL;
	int r = read_all_co(q, &backing, err);

	free(backing);
	if (r < 0)
		return r;
	note_version(q);
	note_fixed_ranges(q);
	return load_tables_co(q, err);
}

int ox_qcow2_recover_halted_co(struct ox_qcow2 *q, struct ox_error **err)
{
	struct ox_image *img = q->m.img;
	uint64_t kept = 0;
	int reloaded;
	int r;

	ox_header_lock_co(q);
	r = img->recovery->rebuild_co(q->m.io, err, img->progress, img->opaque, &kept);
	reloaded = reload_co(q, r < 0 ? NULL : err); /* the refcount table may have moved */
	ox_header_unlock(q);
	if (r == 0)
		r = reloaded;
	if (r < 0)
		return r;
	ox_recover_tell_kept(q, kept);
	q->m.dirty.state = OX_DIRTY_SET;
	r = ox_fence_remove_co(q);
	if (r == 0)
		r = ox_dirty_clear_co(&q->m);
	if (r < 0)
		return ox_error_set_errno(err, r, "Could not clear the dirty bit");
	ox_space_set_floor(q, 0); /* every reference is counted: what is free at the end may go */
	q->space.cursor = 0;
	return 0;
}

static int recover_co(struct ox_qcow2 *q, struct ox_error **err)
{
	struct ox_image *img = q->m.img;
	int r;

	if (!img->recovery || q->m.recover.mode == OX_RECOVER_NEVER)
		return ox_error_set(err, -EROFS, "Image is dirty and must be recovered first");
	r = q->m.recover.mode == OX_RECOVER_AUTO ? ox_recover_start_co(q, err)
						 : ox_qcow2_recover_halted_co(q, err);
	if (r < 0) {
		ox_error_prefix(err, "Could not recover the dirty image '%s': ", img->filename);
		return r;
	}
	if (q->m.recover.mode != OX_RECOVER_AUTO)
		q->m.recover.state = OX_RECOVERY_DONE;
	if (q->m.recover.mode != OX_RECOVER_AUTO && img->warn)
		img->warn(img->opaque, "image was not closed cleanly; refcounts were rebuilt");
	return 0;
}

/*
 * A refcount table that names what cannot be a block, and refcounts that call the header or a table
 * free, are no base for allocation: the image is not opened for writing.
 */
int ox_qcow2_check_refcounts_co(struct ox_qcow2 *q, struct ox_error **err)
{
	uint64_t value = 1;
	int r = ox_refcount_check_table_co(q);

	for (unsigned i = 0; r == 0 && i < q->m.fixed_count; i++) {
		uint64_t end = ox_div_up(q->m.fixed[i].end, q->m.cluster_bytes);

		for (uint64_t c = q->m.fixed[i].start / q->m.cluster_bytes; r == 0 && c < end;
		     c++) {
			r = ox_refcount_get_co(q, c, &value);
			if (r == 0 && value == 0)
				r = -EIO;
		}
	}
	if (r < 0)
		return ox_error_set(
			err, r,
			"The refcounts of '%s' are damaged: repair it with 'oxbow check "
			"-r all', or open it read-only",
			q->m.img->filename);
	return 0;
}

static int load_clean_co(struct ox_qcow2 *q, struct ox_error **err)
{
	int r = ox_fence_remove_co(q); /* somebody else has recovered it */

	return r < 0 ? ox_error_set_errno(err, r, "Could not write the header of '%s'",
					  q->m.img->filename)
		     : load_tables_co(q, err);
}

static int activate_locked_co(struct ox_mapped *m, struct ox_error **err)
{
	struct ox_qcow2 *q = ox_qcow2_of_mapped(m);
	int r;

	r = ox_qcow2_header_check_supported(ox_qcow2_hdr(q), &q->ext, true, err);
	if (r < 0)
		return r;
	ox_unpack_forget_all(q);
	ox_pack_forget(q);
	r = m->reread ? reload_co(q, err) : 0;
	if (r < 0)
		return r;
	m->reread = false;
	ox_recover_forget(q);
	if (ox_mapped_adopts(m)) /* what the dead process has added may go as well */
		q->space.floor = ox_state_line(m->state, OX_QCOW2_LINE_FLOOR);
	else
		ox_space_set_floor(q, ox_div_up(m->io->length, m->cluster_bytes));
	q->space.named = ox_cache_is_busy(&q->counts); /* by a process that died, perhaps */
	if (!(ox_qcow2_hdr(q)->incompatible & OX_QCOW2_INCOMPAT_DIRTY)) {
		r = load_clean_co(q, err);
		if (r == 0 && ox_mapped_adopts(m))
			r = ox_adopt_notes_co(m, err);
	} else if (ox_mapped_adopts(m)) {
		m->dirty.state = OX_DIRTY_SET; /* what it covers has been adopted */
		r = load_tables_co(q, err);
		if (r == 0)
			r = ox_adopt_notes_co(m, err);
	} else {
		r = recover_co(q, err);
	}
	if (r < 0 || ox_recover_active(m))
		return r;
	return ox_qcow2_check_refcounts_co(q, err);
}

/* Clears autoclear bits that we do not keep (D6's sibling for bitmaps), durably. */
static int prepare_write_co(struct ox_mapped *m)
{
	struct ox_qcow2 *q = ox_qcow2_of_mapped(m);
	struct ox_qcow2_header fields;
	bool bitmaps;
	int r = ox_prepare_begin_co(m);

	if (r < 0 || q->m.prepared)
		return r;
	ox_header_lock_co(q);
	fields = *ox_qcow2_hdr(q);
	bitmaps = fields.autoclear & OX_QCOW2_AUTOCLEAR_BITMAPS;
	if (fields.autoclear != 0) {
		fields.autoclear = 0;
		r = ox_header_write_co(q, &fields);
	}
	ox_header_unlock(q);
	if (r < 0)
		return r;
	if (!q->m.prepared && bitmaps && q->ext.has_bitmaps && q->m.img->warn)
		q->m.img->warn(q->m.img->opaque,
			       "the image has persistent bitmaps, which are not kept up to date by "
			       "this version: they are now marked as stale");
	ox_prepare_end(m);
	return 0;
}

static int write_dirty_co(struct ox_mapped *m, bool on)
{
	struct ox_qcow2 *q = ox_qcow2_of_mapped(m);
	struct ox_qcow2_header fields;
	int r;

	ox_assert(on || !ox_cache_is_busy(&q->counts)); /* D6: nobody changes them meanwhile */
	ox_header_lock_co(q);
	fields = *ox_qcow2_hdr(q);
	fields.incompatible &= ~(uint64_t)OX_QCOW2_INCOMPAT_DIRTY;
	if (on)
		fields.incompatible |= OX_QCOW2_INCOMPAT_DIRTY;
	r = ox_header_write_co(q, &fields);
	ox_header_unlock(q);
	return r;
}

/* ---- as an image ---- */

static void qcow2_free(struct ox_image *img)
{
	free_state(ox_qcow2_of(img));
	img->state = NULL;
}

static uint64_t cluster_bytes(const struct ox_image *img)
{
	const struct ox_qcow2 *q = img->state;

	return q->m.cluster_bytes;
}

static void qcow2_stats(const struct ox_image *img, struct ox_image_stats *ret)
{
	const struct ox_qcow2 *q = img->state;

	ret->l2_hits = q->m.map.hits;
	ret->l2_misses = q->m.map.misses;
	ret->refcount_hits = q->counts.hits;
	ret->refcount_misses = q->counts.misses;
	ret->dirty = q->m.dirty.state != OX_DIRTY_CLEAN;
}

static unsigned snapshots(const struct ox_image *img)
{
	const struct ox_qcow2 *q = img->state;

	return ox_qcow2_hdr(q)->snapshot_count;
}

static void qcow2_hold_header_co(struct ox_image *img, bool hold)
{
	if (hold)
		ox_header_lock_co(img->state);
	else
		ox_header_unlock(img->state);
}

static const struct ox_mapped_ops mapped_ops = {
	.format = "qcow2",
	.lookup_co = ox_map_lookup_co,
	.set_co = ox_map_set_co,
	.load_tables_co = ox_map_load_tables_co,
	.read_compressed_co = ox_qcow2_read_compressed_co,
	.read_streams_co = ox_qcow2_read_streams_co,
	.prepare_write_co = prepare_write_co,
	.refill_locked_co = ox_qcow2_refill_co,
	.take_back_locked_co = ox_qcow2_take_back_co,
	.release_locked_co = ox_qcow2_release_co,
	.finish_release_locked_co = ox_qcow2_finish_release_co,
	.settle_locked_co = ox_qcow2_settle_co,
	.write_dirty_co = write_dirty_co,
	.write_corrupt_co = ox_qcow2_write_corrupt_co,
	.grow_tables_co = ox_qcow2_grow_tables_co,
	.preallocate_co = ox_qcow2_preallocate_new_co,
	.write_size_co = ox_qcow2_write_size_co,
	.write_backing_co = ox_qcow2_write_backing_co,
	.table_at_co = ox_qcow2_table_at_co,
	.unlink_table_co = ox_qcow2_unlink_table_co,
	.emptied = ox_qcow2_emptied,
	.recover_co = ox_qcow2_recover_co,
	.recovery_failed = ox_qcow2_recovery_failed,
	.recovery_begun = "image was not closed cleanly; it is usable while its refcounts are "
			  "recovered",
	.recovery_done = "image was not closed cleanly; refcounts were rebuilt",
	.recovery_failed_for = "the image stays dirty, as its refcounts cannot be recovered "
			       "('oxbow check' says more)",
	.activate_locked_co = activate_locked_co,
	.shrink_co = ox_qcow2_shrink_co,
	.looks_preallocated_co = ox_qcow2_looks_preallocated_co,
};

static const struct ox_img_ops qcow2_ops = {
	.format = "qcow2",
	.preadv_co = ox_mapped_preadv_co,
	.read_part_co = ox_mapped_read_part_co,
	.pwritev_co = ox_mapped_pwritev_co,
	.pwritev_compressed_co = ox_qcow2_pwritev_compressed_co,
	.zero_co = ox_mapped_zero_co,
	.discard_co = ox_mapped_discard_co,
	.flush_co = ox_mapped_flush_co,
	.extent_co = ox_mapped_extent_co,
	.extents_co = ox_mapped_extents_co,
	.resize_co = ox_qcow2_resize_co,
	.set_backing_co = ox_mapped_set_backing_co,
	.empty_co = ox_mapped_empty_co,
	.snapshots = snapshots,
	.activate_co = ox_mapped_activate_co,
	.deactivate_co = ox_mapped_deactivate_co,
	.hold_header_co = qcow2_hold_header_co,
	.free = qcow2_free,
	.error = ox_mapped_error,
	.refused = ox_mapped_refused,
	.cluster_bytes = cluster_bytes,
	.stats = qcow2_stats,
	.recovery = ox_mapped_recovery,
	.leave_recovery = ox_recover_leave,
};
