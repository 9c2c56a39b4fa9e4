/* SPDX-License-Identifier: MIT */
/* Opening, and what activation comes to here. A read-only image is left as it is, byte for byte. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "img/qed/qed.h"

/* Ranges of changed slices: 16 MiB of memory at the most. */
#define CHANGED_MAX (UINT32_C(1) << 20)

static const struct ox_img_ops qed_ops;
static const struct ox_mapped_ops mapped_ops;

static int read_backing_co(struct ox_qed_image *q, struct ox_error **err)
{
	struct ox_image *img = q->m.img;
	int r = ox_qed_backing_name_co(img->io, &q->h, &img->backing_name, err);

	if (r < 0 || !img->backing_name)
		return r;
	img->backing_format_unsayable = !(q->h.features & OX_QED_BACKING_RAW);
	if (img->backing_format_unsayable)
		return 0;
	img->backing_format = strdup("raw");
	return img->backing_format ? 0 : ox_error_set(err, -ENOMEM, "Out of memory");
}

static void note_shape(struct ox_qed_image *q)
{
	ox_mapped_set_cluster(&q->m, q->h.cluster_bits);
	q->m.table_clusters = q->h.table_clusters;
	q->table_bytes = ox_qed_table_bytes(&q->h);
	q->table_entries = ox_qed_table_entries(&q->h);
	q->m.has_zero = true;
	q->m.fixed_count = 0;
	ox_mapped_add_fixed(&q->m, 0, ox_qed_header_bytes(&q->h));
	ox_mapped_add_fixed(&q->m, q->h.l1_offset, q->table_bytes);
}

static int load_tables_co(struct ox_qed_image *q, struct ox_error **err)
{
	int r = ox_tables_load_co(&q->m);

	return r < 0 ? ox_error_set_errno(err, r, "Could not load the tables of '%s'",
					  q->m.img->filename)
		     : 0;
}

static int open_co(struct ox_qed_image *q, const struct ox_img_open *how, struct ox_error **err)
{
	int r = ox_qed_read_header_co(q, err);

	if (r < 0)
		return r;
	note_shape(q);
	r = read_backing_co(q, err);
	if (r < 0)
		return r;
	r = ox_mapped_open_caches(&q->m, q->h.size_bytes, NULL, how, err);
	/* For writing they are loaded once it is known what they are to be. */
	return r == 0 && q->m.img->read_only ? load_tables_co(q, err) : r;
}

static void free_state(struct ox_qed_image *q)
{
	ox_qed_census_fini(q);
	ox_ranges_detach(&q->free);
	ox_ranges_detach(&q->changed);
	ox_ranges_free(&q->free);
	ox_ranges_free(&q->changed);
	ox_mapped_fini(&q->m);
	free(q);
}

int ox_qed_open_image_co(struct ox_image *img, const struct ox_img_open *how, struct ox_error **err)
{
	struct ox_qed_image *q = calloc(1, sizeof(*q));
	int r;

	if (!q)
		return ox_error_set(err, -ENOMEM, "Out of memory");
	ox_mapped_init(&q->m, img, &mapped_ops, how->opts);
	ox_mutex_init(&q->header_lock);
	ox_mutex_init(&q->census_lock);
	r = open_co(q, how, err);
	if (r < 0) {
		free_state(q);
		return r;
	}
	img->ops = &qed_ops;
	img->state = q;
	img->size_bytes = q->h.size_bytes;
	return 0;
}

/* Nothing is known of what another program may have made of it. */
static void forget(struct ox_qed_image *q)
{
	ox_qed_census_fini(q);
	ox_ranges_free(&q->free);
	ox_ranges_free(&q->changed);
	q->changed.most = CHANGED_MAX;
	q->stale_from = 0;
	q->may_grow = true;
	q->knows = false;
	q->distrusts = false;
	q->contradicts = false;
	q->l1_is_ours = false;
	q->opened_clusters = ox_div_up(q->m.io->length, q->m.cluster_bytes);
}

/* ---- a death, and who goes on with it (D10) ---- */

/* Words of the state. */
enum line { LINE_OPENED_CLUSTERS, LINE_FLAGS };
enum flag { KNOWS = 1 << 0, CONTRADICTS = 1 << 1, MAY_NOT_GROW = 1 << 2 };

void ox_qed_note_session(struct ox_qed_image *q)
{
	uint64_t flags = 0;

	if (!q->m.state)
		return;
	flags |= q->knows ? KNOWS : 0;
	flags |= q->contradicts ? CONTRADICTS : 0;
	flags |= q->may_grow ? 0 : MAY_NOT_GROW;
	ox_state_set_line(q->m.state, LINE_OPENED_CLUSTERS, q->opened_clusters);
	ox_state_set_line(q->m.state, LINE_FLAGS, flags);
}

/* What the dead process knew of the image. */
static int adopt_session(struct ox_qed_image *q)
{
	uint64_t opened = ox_state_line(q->m.state, LINE_OPENED_CLUSTERS);
	uint64_t flags = ox_state_line(q->m.state, LINE_FLAGS);

	if (opened == 0)
		return -EINVAL;
	q->l1_is_ours = opened < q->opened_clusters;
	q->opened_clusters = ox_min_u64(opened, q->opened_clusters);
	q->knows = flags & KNOWS;
	q->contradicts = flags & CONTRADICTS;
	q->distrusts = q->contradicts;
	q->m.damaged = q->contradicts;
	q->may_grow = !(flags & MAY_NOT_GROW);
	return 0;
}

/* From now on what is free, and which slices are ours, is noted where it outlives the process. */
static int keep_sets(struct ox_qed_image *q)
{
	int r = ox_ranges_adopt(&q->free, q->m.notes, OX_NOTE_FREE, OX_RANGES_AT_MOST);

	return r < 0 ? r
		     : ox_ranges_adopt(&q->changed, q->m.notes, OX_NOTE_CHANGED,
				       OX_RANGES_AT_LEAST);
}

static int adopt_co(struct ox_qed_image *q, struct ox_error **err)
{
	struct ox_mapped *m = &q->m;
	int r = adopt_session(q);

	if (r == 0)
		r = keep_sets(q);
	if (r < 0)
		return ox_error_set_errno(err, r, "The state of '%s' cannot be adopted",
					  m->img->filename);
	if (q->h.features & OX_QED_NEED_CHECK) /* of the session that died */
		m->dirty.state = OX_DIRTY_SET;
	r = load_tables_co(q, err);
	return r == 0 ? ox_adopt_notes_co(m, err) : r;
}

static int activate_locked_co(struct ox_mapped *m, struct ox_error **err)
{
	struct ox_qed_image *q = ox_qed_of(m);
	int r = m->reread ? ox_qed_read_header_co(q, err) : 0;

	if (r < 0)
		return r;
	if (m->reread && q->h.cluster_bits != m->cluster_bits)
		return ox_error_set(err, -EIO, "'%s' is another image now", m->img->filename);
	note_shape(q);
	m->img->size_bytes = q->h.size_bytes;
	m->reread = false;
	forget(q);
	if (ox_mapped_adopts(m))
		return adopt_co(q, err);
	ox_notes_clear(m->notes);
	r = keep_sets(q);
	if (r < 0)
		return ox_error_set(err, r, "Out of memory");
	ox_qed_note_session(q);
	if (q->h.features & OX_QED_NEED_CHECK)
		return ox_qed_recover_start_co(q, err);
	return load_tables_co(q, err);
}

static void qed_free(struct ox_image *img)
{
	free_state(img->state);
	img->state = NULL;
}

static uint64_t cluster_bytes(const struct ox_image *img)
{
	const struct ox_mapped *m = img->state;

	return m->cluster_bytes;
}

static void qed_stats(const struct ox_image *img, struct ox_image_stats *ret)
{
	const struct ox_mapped *m = img->state;

	ret->l2_hits = m->map.hits;
	ret->l2_misses = m->map.misses;
	ret->dirty = m->dirty.state != OX_DIRTY_CLEAN;
}

static void hold_header_co(struct ox_image *img, bool hold)
{
	struct ox_qed_image *q = img->state;

	if (hold)
		ox_mutex_lock_co(&q->header_lock);
	else
		ox_mutex_unlock(&q->header_lock);
}

static const struct ox_mapped_ops mapped_ops = {
	.format = "qed",
	.lookup_co = ox_qed_lookup_co,
	.set_co = ox_qed_set_co,
	.load_tables_co = ox_qed_load_tables_co,
	.prepare_write_co = ox_qed_prepare_write_co,
	.may_free = ox_qed_may_free,
	.before_free_co = ox_qed_before_free_co,
	.refill_locked_co = ox_qed_refill_co,
	.take_back_locked_co = ox_qed_take_back_co,
	.release_locked_co = ox_qed_release_co,
	.finish_release_locked_co = ox_qed_finish_release_co,
	.settle_locked_co = ox_qed_settle_co,
	.write_dirty_co = ox_qed_write_need_check_co,
	.write_corrupt_co = ox_qed_write_corrupt_co,
	.grow_tables_co = ox_qed_grow_tables_co,
	.write_size_co = ox_qed_write_size_co,
	.write_backing_co = ox_qed_write_backing_co,
	.table_at_co = ox_qed_table_at_co,
	.unlink_table_co = ox_qed_unlink_table_co,
	.recover_co = ox_qed_recover_co,
	.recovery_failed = ox_qed_recovery_failed,
	.recovery_begun = "image was not closed cleanly; it is usable while its tables are looked "
			  "through",
	.recovery_done = "image was not closed cleanly; its tables were looked through",
	.recovery_failed_for = "the image stays marked as not closed, as it contradicts itself "
			       "('oxbow check' says more)",
	.activate_locked_co = activate_locked_co,
	.shrink_co = ox_qed_shrink_co,
};

static const struct ox_img_ops qed_ops = {
	.format = "qed",
	.preadv_co = ox_mapped_preadv_co,
	.read_part_co = ox_mapped_read_part_co,
	.pwritev_co = ox_mapped_pwritev_co,
	.zero_co = ox_mapped_zero_co,
	.discard_co = ox_mapped_discard_co,
	.flush_co = ox_mapped_flush_co,
	.extent_co = ox_mapped_extent_co,
	.extents_co = ox_mapped_extents_co,
	.resize_co = ox_mapped_resize_co,
	.set_backing_co = ox_mapped_set_backing_co,
	.empty_co = ox_mapped_empty_co,
	.activate_co = ox_mapped_activate_co,
	.deactivate_co = ox_mapped_deactivate_co,
	.hold_header_co = hold_header_co,
	.free = qed_free,
	.error = ox_mapped_error,
	.refused = ox_mapped_refused,
	.cluster_bytes = cluster_bytes,
	.stats = qed_stats,
	.recovery = ox_mapped_recovery,
	.leave_recovery = ox_recover_leave,
};
