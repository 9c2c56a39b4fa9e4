/* SPDX-License-Identifier: MIT */
/*
 * Opening, activating for writing, and committing at close.
 *
 * Activation (a writable open, or a reopen from read-only): a dirty image is recovered before
 * anything relies on its refcounts, and the dirty bit is cleared only when recovery says that they
 * are right (D6). A read-only image is left as it is, byte for byte.
 *
 * Deactivation (close, or a reopen to read-only), in this order, each step durable before the next
 * one that needs it: mapping tables; freed clusters released; unused reserve given back and
 * refcounts written; file cut to its used end; dirty bit cleared (D6).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "img/clusters.h"
#include "img/qcow2/qcow2.h"

#define SLICE_MAX_BYTES 4096u
#define REFCOUNT_CACHE_BYTES (UINT64_C(2) << 20)

static const struct ox_img_ops qcow2_ops;

static void add_fixed(struct ox_qcow2 *q, uint64_t start, uint64_t bytes)
{
	ox_assert(q->fixed_count < OX_ARRAY_SIZE(q->fixed));
	q->fixed[q->fixed_count++] = (struct ox_metadata_range){start, start + bytes};
}

/* What no entry may name as its host cluster. Indices 1 and 2 follow the tables as they move. */
static void note_fixed_ranges(struct ox_qcow2 *q)
{
	const struct ox_qcow2_header *h = ox_qcow2_hdr(q);

	q->fixed_count = 0;
	add_fixed(q, 0, q->cluster_bytes);
	add_fixed(q, h->l1_offset, (uint64_t)h->l1_entries * 8);
	add_fixed(q, h->reftable_offset, (uint64_t)h->reftable_clusters * q->cluster_bytes);
	if (h->snapshot_count > 0) /* 40 bytes are the least that a snapshot's record takes */
		add_fixed(q, h->snapshots_offset, (uint64_t)h->snapshot_count * 40);
	if (q->ext.has_bitmaps && (h->autoclear & OX_QCOW2_AUTOCLEAR_BITMAPS))
		add_fixed(q, q->ext.bitmaps.directory_offset, q->ext.bitmaps.directory_bytes);
}

static int open_caches(struct ox_qcow2 *q, const struct ox_open_options *opts)
{
	uint64_t enough = ox_clusters_cache_bytes(ox_qcow2_hdr(q)->size_bytes, q->cluster_bytes,
						  q->slice_bytes);
	uint64_t map = opts->l2_cache_bytes ? opts->l2_cache_bytes : enough;
	uint64_t counts =
		opts->refcount_cache_bytes ? opts->refcount_cache_bytes : REFCOUNT_CACHE_BYTES;
	int r;

	r = ox_cache_init(&q->map, q->io, &q->order, q->slice_bytes, map);
	if (r == 0)
		r = ox_cache_init(&q->counts, q->io, &q->order, q->slice_bytes, counts);
	return r;
}

static int read_all_co(struct ox_qcow2 *q, char **ret_backing, struct ox_error **err)
{
	uint8_t *cluster;
	size_t count;
	int r;

	r = ox_header_read_co(q, &cluster, &count, err);
	if (r < 0)
		return r;
	r = ox_qcow2_header_check_supported(ox_qcow2_hdr(q), &q->ext, !q->img->read_only, err);
	if (r == 0)
		r = ox_qcow2_header_check_layout(ox_qcow2_hdr(q), q->io->length, err);
	if (r == 0)
		r = ox_qcow2_backing_name(ox_qcow2_hdr(q), cluster, count, ret_backing, err);
	free(cluster);
	return r;
}

static void init_parts(struct ox_qcow2 *q, const struct ox_open_options *opts)
{
	ox_header_init(&q->header);
	ox_order_init(&q->order, q->io, opts->cache == OX_CACHE_UNSAFE);
	ox_mutex_init(&q->table_lock);
	ox_mutex_init(&q->unpack_lock);
	ox_rangelock_init(&q->guest);
	ox_mutex_init(&q->resize_lock);
	ox_mutex_init(&q->long_lock);
	ox_latch_init(&q->background);
	ox_commit_init(q);
	ox_lazy_init(q);
	ox_idle_init(q, opts->lazy_idle_ms);
	ox_recover_init(q, opts->recover);
}

static void free_state(struct ox_qcow2 *q)
{
	ox_alloc_fini(q);
	ox_recover_fini(q);
	ox_tables_fini(q);
	ox_cache_fini(&q->map);
	ox_cache_fini(&q->counts);
	ox_qcow2_extensions_free(&q->ext);
	free(q->unpacked);
	free(q);
}

int ox_qcow2_open_co(struct ox_image *img, const struct ox_img_open *how, struct ox_error **err)
{
	struct ox_qcow2 *q = calloc(1, sizeof(*q));
	char *backing = NULL;
	int r;

	if (!q)
		return ox_error_set(err, -ENOMEM, "Out of memory");
	q->img = img;
	q->io = img->io;
	init_parts(q, how->opts);
	r = read_all_co(q, &backing, err);
	if (r == 0) {
		q->cluster_bits = ox_qcow2_hdr(q)->cluster_bits;
		q->cluster_bytes = ox_qcow2_cluster_bytes(ox_qcow2_hdr(q));
		q->slice_bytes = ox_min_u64(q->cluster_bytes, SLICE_MAX_BYTES);
		note_fixed_ranges(q);
		ox_recover_note_fence(q);
		ox_alloc_init(q);
		r = open_caches(q, how->opts);
		/* For writing they are loaded once the image is recovered, or its recovery begun.
		 */
		if (r == 0 && img->read_only)
			r = ox_tables_load_co(q);
		if (r < 0)
			ox_error_set_errno(err, r, "Could not load the tables of '%s'",
					   img->filename);
	}
	if (r < 0) {
		free(backing);
		free_state(q);
		return r;
	}
	q->reread = img->read_only;
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
	note_fixed_ranges(q);
	r = ox_tables_load_co(q);
	if (r < 0)
		return ox_error_set_errno(err, r, "Could not load the tables of '%s'",
					  q->img->filename);
	return 0;
}

int ox_qcow2_recover_halted_co(struct ox_qcow2 *q, struct ox_error **err)
{
	struct ox_image *img = q->img;
	uint64_t kept = 0;
	int reloaded;
	int r;

	ox_header_lock_co(q);
	r = img->recovery->rebuild_co(q->io, err, img->progress, img->opaque, &kept);
	reloaded = reload_co(q, r < 0 ? NULL : err); /* the refcount table may have moved */
	ox_header_unlock(q);
	if (r == 0)
		r = reloaded;
	if (r < 0)
		return r;
	ox_recover_tell_kept(q, kept);
	q->lazy.state = OX_LAZY_DIRTY;
	r = ox_fence_remove_co(q);
	if (r == 0)
		r = ox_lazy_clear_co(q);
	if (r < 0)
		return ox_error_set_errno(err, r, "Could not clear the dirty bit");
	q->alloc.floor = 0; /* every reference is counted: what is free at the end may go */
	q->alloc.cursor = 0;
	return 0;
}

static int recover_co(struct ox_qcow2 *q, struct ox_error **err)
{
	struct ox_image *img = q->img;
	int r;

	if (!img->recovery || q->recover.mode == OX_RECOVER_NEVER)
		return ox_error_set(err, -EROFS, "Image is dirty and must be recovered first");
	r = q->recover.mode == OX_RECOVER_AUTO ? ox_recover_start_co(q, err)
					       : ox_qcow2_recover_halted_co(q, err);
	if (r < 0) {
		ox_error_prefix(err, "Could not recover the dirty image '%s': ", img->filename);
		return r;
	}
	if (q->recover.mode != OX_RECOVER_AUTO)
		q->recover.state = OX_RECOVERY_DONE;
	if (q->recover.mode != OX_RECOVER_AUTO && img->warn)
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

	for (unsigned i = 0; r == 0 && i < q->fixed_count; i++) {
		uint64_t end = ox_div_up(q->fixed[i].end, q->cluster_bytes);

		for (uint64_t c = q->fixed[i].start / q->cluster_bytes; r == 0 && c < end; c++) {
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
			q->img->filename);
	return 0;
}

static int load_clean_co(struct ox_qcow2 *q, struct ox_error **err)
{
	int r = ox_fence_remove_co(q); /* somebody else has recovered it */

	if (r == 0)
		r = ox_tables_load_co(q);
	return r < 0 ? ox_error_set_errno(err, r, "Could not load the tables of '%s'",
					  q->img->filename)
		     : 0;
}

static int activate_locked_co(struct ox_qcow2 *q, struct ox_error **err)
{
	int r;

	r = ox_qcow2_header_check_supported(ox_qcow2_hdr(q), &q->ext, true, err);
	if (r < 0)
		return r;
	/* A read-only user's blocks may be older than what recovery makes of the image. */
	ox_cache_clear(&q->map);
	ox_cache_clear(&q->counts);
	q->unpacked_entry = 0;
	r = q->reread ? reload_co(q, err) : 0;
	if (r < 0)
		return r;
	q->reread = false;
	q->alloc.floor = ox_div_up(q->io->length, q->cluster_bytes);
	/* What a process that died wrote and did not sync is read back like anything else, and must
	 * not be taken for durable (H1, H7). */
	r = ox_order_wait_co(&q->order, ox_order_ticket(&q->order));
	if (r < 0)
		return ox_error_set_errno(err, r, "Could not sync '%s'", q->img->filename);
	if (ox_qcow2_hdr(q)->incompatible & OX_QCOW2_INCOMPAT_DIRTY)
		r = recover_co(q, err);
	else
		r = load_clean_co(q, err);
	if (r < 0 || ox_recover_active(q))
		return r;
	return ox_qcow2_check_refcounts_co(q, err);
}

/* No request is under way meanwhile. */
static int qcow2_activate_co(struct ox_image *img, struct ox_error **err)
{
	struct ox_qcow2 *q = ox_qcow2_of(img);
	struct ox_range all;
	int r;

	ox_rangelock_acquire_co(&q->guest, &all, 0, UINT64_MAX, true);
	r = activate_locked_co(q, err);
	ox_rangelock_release(&q->guest, &all);
	return r;
}

int ox_qcow2_prepare_write_co(struct ox_qcow2 *q)
{
	struct ox_qcow2_header fields;
	bool bitmaps;
	int r = 0;

	/* M3: poisoned until closed and opened again; or about to be, after a refusal. */
	if (ox_order_error(&q->order) || q->refused)
		return -EIO;
	if (q->prepared)
		return 0;
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
	if (!q->prepared && bitmaps && q->ext.has_bitmaps && q->img->warn)
		q->img->warn(q->img->opaque,
			     "the image has persistent bitmaps, which are not kept up to date by "
			     "this version: they are now marked as stale");
	q->prepared = true;
	return 0;
}

/* ---- commit at close ---- */

static int settle_co(struct ox_qcow2 *q)
{
	int r;

	r = ox_commit_co(q);
	ox_latch_wait_co(&q->background);
	if (r == 0)
		r = ox_order_error(&q->order); /* of what went on meanwhile: nothing is written */
	if (ox_recover_active(q)) {	       /* it stays dirty */
		ox_alloc_forget(q);
		return r == 0 ? ox_order_sync_always_co(&q->order) : r;
	}
	if (r == 0) {
		r = ox_alloc_release_co(q);
		r = ox_io_is_full(r) ? 0 : r; /* leaked */
	}
	/* Releasing reads refcounts only; but what the background freed may still be pending. */
	if (r == 0)
		r = ox_alloc_shrink_co(q);
	if (r == 0)
		ox_alloc_forget(q); /* what found no room */
	if (r == 0)
		r = ox_cache_flush_co(&q->counts);
	if (r == 0)
		r = ox_order_sync_always_co(&q->order);
	if (r == 0)
		r = ox_lazy_clear_co(q);
	return r;
}

static int qcow2_deactivate_co(struct ox_image *img, struct ox_error **err)
{
	struct ox_qcow2 *q = ox_qcow2_of(img);
	struct ox_range all;
	int r;

	ox_recover_end_co(q);
	ox_rangelock_acquire_co(&q->guest, &all, 0, UINT64_MAX, true);
	ox_idle_stop(q);
	ox_latch_wait_co(&q->background);
	r = ox_order_error(&q->order);
	if (r == 0)
		r = settle_co(q);
	ox_latch_wait_co(&q->background); /* where settling met a refusal */
	q->prepared = false;
	q->reread = true;
	q->recover.state = OX_RECOVERY_NONE;
	ox_idle_allow(q);
	ox_rangelock_release(&q->guest, &all);
	if (r < 0)
		return ox_error_set_errno(err, r, "Could not commit the metadata of '%s'",
					  img->filename);
	return 0;
}

static void qcow2_free(struct ox_image *img)
{
	free_state(ox_qcow2_of(img));
	img->state = NULL;
}

int ox_qcow2_flush_co(struct ox_image *img, bool durable)
{
	struct ox_qcow2 *q = ox_qcow2_of(img);

	(void)durable; /* in unsafe mode the order skips the sync; the tables still reach the host
			*/
	return ox_commit_co(q);
}

static int qcow2_error(const struct ox_image *img)
{
	const struct ox_qcow2 *q = img->state;

	return ox_order_error(&q->order);
}

static void qcow2_stats(const struct ox_image *img, struct ox_image_stats *ret)
{
	const struct ox_qcow2 *q = img->state;

	ret->l2_hits = q->map.hits;
	ret->l2_misses = q->map.misses;
	ret->refcount_hits = q->counts.hits;
	ret->refcount_misses = q->counts.misses;
}

static void qcow2_recovery(const struct ox_image *img, struct ox_recovery_status *ret)
{
	const struct ox_qcow2 *q = img->state;

	*ret = (struct ox_recovery_status){
		.state = q->recover.state,
		.tables_done = q->recover.tables_done,
		.tables_total = q->recover.tables_total,
		.message = q->recover.obstacle,
	};
}

static void qcow2_hold_header_co(struct ox_image *img, bool hold)
{
	if (hold)
		ox_header_lock_co(img->state);
	else
		ox_header_unlock(img->state);
}

static const struct ox_img_ops qcow2_ops = {
	.format = "qcow2",
	.preadv_co = ox_qcow2_preadv_co,
	.read_part_co = ox_qcow2_read_part_co,
	.pwritev_co = ox_qcow2_pwritev_co,
	.zero_co = ox_qcow2_zero_co,
	.discard_co = ox_qcow2_discard_co,
	.flush_co = ox_qcow2_flush_co,
	.extent_co = ox_qcow2_extent_co,
	.resize_co = ox_qcow2_resize_co,
	.activate_co = qcow2_activate_co,
	.deactivate_co = qcow2_deactivate_co,
	.hold_header_co = qcow2_hold_header_co,
	.free = qcow2_free,
	.error = qcow2_error,
	.refused = ox_qcow2_refused,
	.stats = qcow2_stats,
	.recovery = qcow2_recovery,
};
