/* SPDX-License-Identifier: MIT */
/*
 * Resizing, one at a time. Every guest range is locked while the size changes; what is past the
 * smaller of the two sizes, which no guest sees meanwhile, is worked off in pieces without that
 * lock.
 */
#include <errno.h>

#include "img/mapped/mapped.h"

/* No request is under way while the size changes. */
static int change_size_co(struct ox_mapped *m, uint64_t new_bytes)
{
	struct ox_range all;
	int r;

	ox_rangelock_acquire_co(&m->guest, &all, 0, UINT64_MAX, true);
	r = m->ops->write_size_co(m, new_bytes);
	ox_rangelock_release(&m->guest, &all);
	return r;
}

/* The first cluster with something new in it: the old last one, if it is a part of one and no
 * backing file shows through. */
static uint64_t first_new_cluster(const struct ox_mapped *m)
{
	uint64_t old_bytes = m->img->size_bytes;
	uint64_t start = ox_align_down(old_bytes, m->cluster_bytes);

	if (m->img->backing && m->img->backing->size_bytes > start)
		return ox_align_up(old_bytes, m->cluster_bytes);
	return start;
}

/* Before the size makes it visible, so that what finds no room leaves the disk as it was. */
static int preallocate_co(struct ox_mapped *m, uint64_t new_bytes,
			  const struct ox_resize_options *how)
{
	uint64_t start = first_new_cluster(m);
	uint64_t unseen = ox_align_up(m->img->size_bytes, m->cluster_bytes);
	uint64_t end = ox_align_up(new_bytes, m->cluster_bytes);
	int r;

	if (!how || how->preallocation == OX_PREALLOC_OFF || start >= end)
		return 0;
	r = m->ops->preallocate_co(m, start, end, how);
	if (r < 0 && unseen < end && ox_mapped_drop_co(m, unseen, end) == 0) {
		int committed = ox_commit_co(m);

		(void)committed; /* it is given back as far as that goes */
	}
	return r;
}

static int refuse_resize(const struct ox_mapped *m, uint64_t new_bytes,
			 const struct ox_resize_options *how, struct ox_error **err)
{
	static const char *const modes[] = {"off", "metadata", "falloc", "full"};

	if (!ox_is_aligned(new_bytes, 512))
		return ox_error_set(err, -EINVAL, "The new size must be a multiple of 512");
	if (how && how->preallocation != OX_PREALLOC_OFF && !m->ops->preallocate_co)
		return ox_error_set(err, -ENOTSUP, "Unsupported preallocation mode '%s'",
				    modes[how->preallocation]);
	return 0;
}

static int grow_co(struct ox_mapped *m, uint64_t new_bytes, const struct ox_resize_options *how,
		   struct ox_error **err)
{
	uint64_t old_bytes = m->img->size_bytes;
	int r;

	if (m->img->backing_name && !m->img->backing)
		return ox_error_set(err, -ENOTSUP,
				    "Cannot grow the image while its backing file is not open");
	r = m->ops->grow_tables_co(m, new_bytes, err);
	if (r < 0)
		return r;
	/*
	 * What the guest will see beyond the old end must be zeroes: neither a larger backing
	 * file's bytes, nor the rest of the last cluster, nor what a shrinking that was cut short
	 * left in the tables. The size is what makes it visible.
	 */
	r = ox_mapped_zero_new_co(m, old_bytes, new_bytes);
	if (r == 0)
		r = preallocate_co(m, new_bytes, how);
	if (r == 0)
		r = ox_commit_co(m);
	if (r == 0)
		r = change_size_co(m, new_bytes);
	if (r < 0)
		return ox_error_set_errno(err, r, "Could not resize the image");
	return 0;
}

static int shrink_co(struct ox_mapped *m, uint64_t new_bytes, struct ox_error **err)
{
	uint64_t old_bytes = m->img->size_bytes;
	int r;

	r = change_size_co(m, new_bytes);
	if (r == 0) /* discarded after the guest has lost sight of it: a crash between leaks */
		r = ox_mapped_drop_co(m, new_bytes, old_bytes);
	if (r == 0)
		r = ox_commit_co(m);
	if (r < 0)
		return ox_error_set_errno(err, r, "Could not resize the image");
	return 0;
}

int ox_mapped_resize_co(struct ox_image *img, uint64_t new_bytes,
			const struct ox_resize_options *how, struct ox_error **err)
{
	struct ox_mapped *m = ox_mapped_of(img);
	int r = refuse_resize(m, new_bytes, how, err);

	if (r < 0)
		return r;
	r = m->ops->prepare_write_co(m);
	if (r < 0)
		return ox_error_set_errno(err, r, "Could not resize the image");
	ox_recover_wait_co(m); /* tables that move need counts */
	if (m->recover.lacks_room)
		return ox_error_set(err, -ENOSPC,
				    "The host has no room for the recovery that is under way");
	if (ox_recover_active(m))
		return ox_error_set(err, -EIO,
				    "Cannot resize an image that could not be recovered");
	ox_mutex_lock_co(&m->resize_lock);
	if (new_bytes > img->size_bytes)
		r = grow_co(m, new_bytes, how, err);
	else if (new_bytes < img->size_bytes)
		r = shrink_co(m, new_bytes, err);
	ox_mutex_unlock(&m->resize_lock);
	return r;
}
