/* SPDX-License-Identifier: MIT */
/*
 * An image's life: opened, made writable, committed at its close.
 *
 * Activation (a writable open, or a reopen from read-only): an image that was not closed is
 * recovered before anything relies on what it says is free, and the dirty bit is cleared only when
 * that is known to be right (D6). A read-only image is left as it is, byte for byte.
 *
 * Deactivation (close, or a reopen to read-only), in this order, each step durable before the next
 * one that needs it: mapping tables; freed clusters released; unused reserve given back, the file
 * cut to its used end, and what the format keeps of free clusters written; dirty bit cleared (D6).
 */
#include <errno.h>
#include <stdio.h>

#include "img/mapped/mapped.h"

#define SLICE_MAX_BYTES 4096u
#define REFCOUNT_CACHE_BYTES (UINT64_C(2) << 20)
#define CACHE_MAX_BYTES (UINT64_C(32) << 20)
#define CACHE_MIN_BYTES (UINT64_C(256) << 10)
/* Notes that there is room for, by the clusters of the disk: 1 to 32 MiB of memory that is used
 * only where there are as many; fewer where the memory is a test's. */
#define NOTES_MIN (UINT64_C(1) << 15)
#define NOTES_MAX (UINT64_C(1) << 20)
#define FEW_NOTES (UINT32_C(1) << 12)

uint64_t ox_mapped_cache_bytes(uint64_t disk_bytes, uint64_t cluster_bytes, size_t slice_bytes)
{
	uint64_t clusters = ox_div_up(disk_bytes, cluster_bytes);
	uint64_t slices = ox_div_up(clusters * 8, slice_bytes) + 1;

	return ox_max_u64(CACHE_MIN_BYTES, ox_min_u64(CACHE_MAX_BYTES, slices * slice_bytes * 2));
}

void ox_mapped_init(struct ox_mapped *m, struct ox_image *img, const struct ox_mapped_ops *ops,
		    const struct ox_open_options *opts)
{
	m->img = img;
	m->io = img->io;
	m->ops = ops;
	m->table_clusters = 1;
	m->reread = img->read_only;
	m->notes = &m->no_notes;
	ox_order_init(&m->order, m->io, opts->cache == OX_CACHE_UNSAFE);
	ox_mutex_init(&m->table_lock);
	ox_rangelock_init(&m->guest);
	ox_mutex_init(&m->resize_lock);
	ox_mutex_init(&m->long_lock);
	ox_latch_init(&m->background);
	ox_freed_init(m);
	ox_commit_init(m);
	ox_dirty_init(m);
	ox_idle_init(m, opts->lazy_idle_ms);
	ox_age_init(m, opts->table_age_ms);
	ox_recover_init(m, opts->recover);
}

void ox_mapped_set_cluster(struct ox_mapped *m, unsigned cluster_bits)
{
	m->cluster_bits = cluster_bits;
	m->cluster_bytes = UINT64_C(1) << cluster_bits;
	m->slice_bytes = ox_min_u64(m->cluster_bytes, SLICE_MAX_BYTES);
	ox_alloc_init(m);
}

/* The state is of this image and of these tables, or it is refused. */
static int open_state(struct ox_mapped *m, uint64_t disk_bytes, const struct ox_img_open *how,
		      struct ox_error **err)
{
	uint64_t clusters = ox_div_up(disk_bytes, m->cluster_bytes);
	uint64_t notes = ox_max_u64(NOTES_MIN, ox_min_u64(NOTES_MAX, clusters));
	struct ox_state_shape shape = {
		.device = m->io->device,
		.inode = m->io->inode,
		.file_bytes = m->io->length,
		.cluster_bits = m->cluster_bits,
		.slice_bytes = (uint32_t)m->slice_bytes,
		.slots = {(uint32_t)m->map.max_blocks,
			  m->counts ? (uint32_t)m->counts->max_blocks : 1},
		.note_slots = how->state ? FEW_NOTES : (uint32_t)notes,
		.copy_bytes = m->copy_bytes,
	};
	int r;

	snprintf(shape.format, sizeof(shape.format), "%s", m->ops->format);
	r = how->state ? ox_state_over(how->state, how->state_bytes, &shape, &m->state, err)
		       : ox_state_open(how->opts->state_fd, &shape, &m->state, err);
	if (r < 0)
		return r;
	m->order.state = m->state;
	m->notes = &m->state->notes;
	ox_cache_put_on(&m->map, &m->state->shelves[OX_STATE_MAP]);
	if (m->counts)
		ox_cache_put_on(m->counts, &m->state->shelves[OX_STATE_COUNTS]);
	return 0;
}

int ox_mapped_open_caches(struct ox_mapped *m, uint64_t disk_bytes, struct ox_cache *counts,
			  const struct ox_img_open *how, struct ox_error **err)
{
	const struct ox_open_options *opts = how->opts;
	uint64_t enough = ox_mapped_cache_bytes(disk_bytes, m->cluster_bytes, m->slice_bytes);
	uint64_t map_bytes = opts->l2_cache_bytes ? opts->l2_cache_bytes : enough;
	uint64_t count_bytes =
		opts->refcount_cache_bytes ? opts->refcount_cache_bytes : REFCOUNT_CACHE_BYTES;
	int r = ox_cache_init(&m->map, m->io, &m->order, m->slice_bytes, map_bytes);

	m->counts = counts;
	if (r == 0 && counts)
		r = ox_cache_init(counts, m->io, &m->order, m->slice_bytes, count_bytes);
	if (r < 0)
		return ox_error_set(err, -ENOMEM, "Out of memory");
	if (m->img->read_only || !(how->state || opts->state_fd > 0))
		return 0;
	return open_state(m, disk_bytes, how, err);
}

void ox_mapped_fini(struct ox_mapped *m)
{
	m->notes = &m->no_notes; /* they stay, for another process */
	ox_freed_fini(m);
	ox_tables_fini(m);
	ox_cache_fini(&m->map);
	if (m->counts)
		ox_cache_fini(m->counts);
	ox_state_close(m->state);
}

void ox_mapped_add_fixed(struct ox_mapped *m, uint64_t start, uint64_t bytes)
{
	ox_assert(m->fixed_count < OX_ARRAY_SIZE(m->fixed));
	m->fixed[m->fixed_count++] = (struct ox_metadata_range){start, start + bytes};
}

bool ox_mapped_host_ok(const struct ox_mapped *m, struct ox_host host, uint64_t bytes)
{
	uint64_t end;

	if (!ox_add_u64(host.bytes, bytes, &end))
		return false;
	if (host.bytes >= m->io->length)
		return false;
	for (unsigned i = 0; i < m->fixed_count; i++) {
		if (host.bytes < m->fixed[i].end && end > m->fixed[i].start)
			return false;
	}
	return true;
}

bool ox_mapped_has_grown_co(struct ox_mapped *m)
{
	return m->img->read_only && ox_io_has_grown_co(m->io);
}

/* ---- the file's length ---- */

int ox_mapped_set_length_co(struct ox_mapped *m, uint64_t bytes)
{
	int r;

	if (m->state && bytes < m->io->length)
		ox_state_set_file_bytes(m->state, bytes);
	r = ox_io_set_length_co(m->io, bytes);
	if (m->state)
		ox_state_set_file_bytes(m->state, m->io->length);
	return r;
}

/* ---- activation ---- */

static int prepare_co(struct ox_mapped *m, struct ox_error **err)
{
	int r;

	/* A read-only user's blocks may be older than what recovery makes of the image. */
	ox_cache_clear(&m->map);
	if (m->counts)
		ox_cache_clear(m->counts);
	if (m->state && m->state->adopts)
		return ox_adopt_co(m, err);
	/* What a process that died wrote and did not sync is read back like anything else, and must
	 * not be taken for durable (H1, H7). */
	r = ox_order_wait_co(&m->order, ox_order_ticket(&m->order));
	return r < 0 ? ox_error_set_errno(err, r, "Could not sync '%s'", m->img->filename) : 0;
}

static void begin_state(struct ox_mapped *m, uint64_t opening)
{
	bool adopted = m->state->adopts;

	if (adopted)
		ox_prepare_adopt(m, opening);
	if (ox_recover_active(m))
		ox_state_set_recovery(m->state,
				      m->recover.resumable ? OX_STATE_BESIDE : OX_STATE_ANEW);
	else
		ox_state_set_recovery(m->state, OX_STATE_KNOWS);
	ox_state_set_file_bytes(m->state, m->io->length);
	ox_state_begin(m->state);
	if (adopted)
		ox_age_start(m);
	if (adopted && !ox_recover_active(m) &&
	    (m->dirty.state == OX_DIRTY_SET || m->alloc.reserve_count > 0))
		ox_idle_start(m);
}

static int activate_locked_co(struct ox_mapped *m, struct ox_error **err)
{
	uint64_t opening = ox_order_ticket(&m->order);
	int r;

	/* What an earlier session knew of the bit: the header says what it is now (D5). */
	m->dirty.state = OX_DIRTY_CLEAN;
	m->dirty.unsure = false;
	m->damaged = false;
	m->recover.leaves = false; /* it was left by whoever was about to close the image */
	r = prepare_co(m, err);
	if (r == 0)
		r = m->ops->activate_locked_co(m, err);
	if (r == 0 && m->state)
		begin_state(m, opening);
	if (r < 0)
		ox_latch_wait_co(&m->background); /* the sync of an adoption */
	return r;
}

/* No request is under way meanwhile. */
int ox_mapped_activate_co(struct ox_image *img, struct ox_error **err)
{
	struct ox_mapped *m = ox_mapped_of(img);
	struct ox_range all;
	int r;

	ox_rangelock_acquire_co(&m->guest, &all, 0, UINT64_MAX, true);
	r = activate_locked_co(m, err);
	ox_rangelock_release(&m->guest, &all);
	return r;
}

/* ---- commit at close ---- */

static int settle_co(struct ox_mapped *m)
{
	int r;

	r = ox_commit_co(m);
	ox_latch_wait_co(&m->background);
	if (r == 0)
		r = ox_order_error(&m->order); /* of what went on meanwhile: nothing is written */
	if (ox_recover_active(m)) {	       /* it stays dirty */
		ox_alloc_forget(m);
		return r == 0 ? ox_order_sync_always_co(&m->order) : r;
	}
	if (r == 0) {
		r = ox_alloc_release_co(m);
		r = ox_io_is_full(r) ? 0 : r; /* leaked */
	}
	/* Releasing sets no entry; but what the background freed may still be pending. */
	if (r == 0)
		r = m->ops->shrink_co(m);
	if (r == 0)
		ox_alloc_forget(m); /* what found no room */
	if (r == 0)
		r = m->ops->settle_locked_co(m);
	if (r == 0)
		r = ox_order_sync_always_co(&m->order);
	if (r == 0 && !m->damaged)
		r = ox_dirty_clear_co(m);
	return r;
}

int ox_mapped_deactivate_co(struct ox_image *img, struct ox_error **err)
{
	struct ox_mapped *m = ox_mapped_of(img);
	struct ox_range all;
	int r;

	ox_recover_end_co(m);
	ox_rangelock_acquire_co(&m->guest, &all, 0, UINT64_MAX, true);
	ox_idle_stop(m);
	ox_age_stop(m);
	ox_latch_wait_co(&m->background);
	r = ox_order_error(&m->order);
	if (r == 0)
		r = settle_co(m);
	ox_latch_wait_co(&m->background); /* where settling met a refusal */
	ox_prepare_forget(m);
	m->reread = true;
	if (r == 0 && m->state)
		ox_state_spend(m->state);
	if (r == 0) /* else it is written to still, and what is wrong with it stays known (D6) */
		m->recover.state = OX_RECOVERY_NONE;
	ox_idle_allow(m);
	ox_age_allow(m);
	ox_rangelock_release(&m->guest, &all);
	if (r < 0)
		return ox_error_set_errno(err, r, "Could not commit the metadata of '%s'",
					  img->filename);
	return 0;
}

/* ---- what an image is asked ---- */

int ox_mapped_flush_co(struct ox_image *img, bool durable)
{
	(void)durable; /* in unsafe mode the order skips the sync; the tables still reach the host
			*/
	return ox_commit_co(ox_mapped_of(img));
}

int ox_mapped_error(const struct ox_image *img)
{
	const struct ox_mapped *m = img->state;

	return ox_order_error(&m->order);
}

void ox_mapped_recovery(const struct ox_image *img, struct ox_recovery_status *ret)
{
	const struct ox_mapped *m = img->state;

	*ret = (struct ox_recovery_status){
		.state = m->recover.state,
		.tables_done = m->recover.tables_done,
		.tables_total = m->recover.tables_total,
		.message = m->recover.obstacle,
	};
}
