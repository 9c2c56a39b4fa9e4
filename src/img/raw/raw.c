/* SPDX-License-Identifier: MIT */
/* Raw: the store is the disk. For chains, and as the measure of what a format costs. */
#include <errno.h>
#include <inttypes.h>

#include "base/arith.h"
#include "base/assert.h"
#include "img/img.h"
#include "img/raw/guard.h"
#include "meta/order.h"

#include <stdlib.h>

struct raw {
	struct ox_order order; /* group commit of flushes, poisoning (M3) */
	struct ox_raw_guard guard;
	struct ox_latch background;
};

static int raw_preadv_co(struct ox_image *img, const struct iovec *iov, int n, uint64_t offset,
			 uint64_t length)
{
	(void)length;
	return ox_io_preadv_co(img->io, iov, n, offset);
}

static int raw_error(const struct ox_image *img)
{
	const struct raw *raw = img->state;

	return ox_order_error(&raw->order);
}

static int raw_read_part_co(struct ox_image *img, const struct iovec *iov, int n, uint64_t skip,
			    uint64_t offset, uint64_t *length, bool *ret_below)
{
	*ret_below = false;
	return ox_io_preadv_part_co(img->io, iov, n, skip, *length, offset);
}

static int raw_finish_co(struct ox_image *img, int r, unsigned flags)
{
	struct raw *raw = img->state;

	if (r == 0 && (flags & OX_REQ_FUA))
		r = ox_order_wait_co(&raw->order, ox_order_ticket(&raw->order));
	return r;
}

static int raw_pwritev_co(struct ox_image *img, const struct iovec *iov, int n, uint64_t offset,
			  uint64_t length, unsigned flags)
{
	struct raw *raw = img->state;
	int entered;
	int r;

	if (ox_order_error(&raw->order))
		return -EIO;
	entered = ox_raw_guard_enter_co(&raw->guard, OX_RAW_WRITE, iov, n, offset, length);
	if (entered < 0)
		return entered;
	r = ox_io_pwritev_co(img->io, iov, n, offset, 0);
	ox_raw_guard_leave(&raw->guard, entered);
	return raw_finish_co(img, r, flags);
}

/* A request on ranges may be for the whole disk: between two steps it may be cancelled. */
#define STEP_BYTES (UINT64_C(64) << 20)

static int in_steps_co(struct ox_image *img, uint64_t offset, uint64_t length, unsigned flags,
		       int (*step_co)(struct ox_io *io, uint64_t offset, uint64_t length,
				      unsigned flags))
{
	uint64_t n;
	int r;

	while (length > 0) {
		if (ox_co_is_cancelled())
			return -ECANCELED;
		n = ox_min_u64(length, STEP_BYTES - offset % STEP_BYTES);
		r = step_co(img->io, offset, n, flags);
		if (r < 0)
			return r;
		offset += n;
		length -= n;
	}
	return 0;
}

static int zero_step_co(struct ox_io *io, uint64_t offset, uint64_t length, unsigned flags)
{
	int r = -EOPNOTSUPP;

	if (flags & OX_REQ_MAY_UNMAP)
		r = ox_io_punch_co(io, offset, length);
	if (r == -EOPNOTSUPP)
		r = ox_io_zero_co(io, offset, length);
	if (r != -EOPNOTSUPP)
		return r;
	return flags & OX_REQ_FAST_ZERO ? -ENOTSUP : ox_io_fill_zero_co(io, offset, length);
}

static int discard_step_co(struct ox_io *io, uint64_t offset, uint64_t length, unsigned flags)
{
	int r = ox_io_trim_co(io, offset, length);

	(void)flags;
	return r == -EOPNOTSUPP ? 0 : r;
}

static int raw_zero_co(struct ox_image *img, uint64_t offset, uint64_t length, unsigned flags)
{
	struct raw *raw = img->state;
	int entered;
	int r;

	if (ox_order_error(&raw->order))
		return -EIO;
	entered = ox_raw_guard_enter_co(&raw->guard, OX_RAW_ZERO, NULL, 0, offset, length);
	if (entered < 0)
		return entered;
	r = in_steps_co(img, offset, length, flags, zero_step_co);
	ox_raw_guard_leave(&raw->guard, entered);
	return raw_finish_co(img, r, flags);
}

static int raw_discard_co(struct ox_image *img, uint64_t offset, uint64_t length)
{
	struct raw *raw = img->state;
	int entered;
	int r;

	if (ox_order_error(&raw->order))
		return -EIO;
	entered = ox_raw_guard_enter_co(&raw->guard, OX_RAW_DISCARD, NULL, 0, offset, length);
	if (entered < 0)
		return entered;
	r = in_steps_co(img, offset, length, 0, discard_step_co);
	ox_raw_guard_leave(&raw->guard, entered);
	return r;
}

static int raw_flush_co(struct ox_image *img, bool durable)
{
	struct raw *raw = img->state;

	(void)durable; /* the order knows */
	return ox_order_wait_co(&raw->order, ox_order_ticket(&raw->order));
}

static struct ox_extent raw_extent(const struct ox_image *img, uint64_t offset, uint64_t length,
				   const struct ox_io_extent *e)
{
	return (struct ox_extent){
		.offset = offset,
		.length = ox_min_u64(e->length, length),
		.flags = OX_EXTENT_PRESENT | OX_EXTENT_HAS_OFFSET |
			 (e->zero ? OX_EXTENT_ZERO : OX_EXTENT_DATA),
		.host_offset = ox_io_window_offset(img->io) + offset,
		.filename = img->filename,
	};
}

static int raw_extent_co(struct ox_image *img, uint64_t offset, uint64_t length, bool holes,
			 struct ox_extent *ret)
{
	struct ox_io_extent e;
	int r;

	(void)holes; /* the file knows nothing else */
	r = ox_io_extent_co(img->io, offset, &e);
	if (r == 0)
		*ret = raw_extent(img, offset, length, &e);
	return r;
}

#define EXTENTS_MAX 256

static int raw_extents_co(struct ox_image *img, uint64_t offset, uint64_t length,
			  struct ox_extent *ret, int max)
{
	struct ox_io_extent e[EXTENTS_MAX];
	int n = ox_io_extents_co(img->io, offset, length, e, max < EXTENTS_MAX ? max : EXTENTS_MAX);

	for (int i = 0; i < n; i++) {
		ret[i] = raw_extent(img, offset, length, &e[i]);
		offset += ret[i].length;
		length -= ret[i].length;
		if (length == 0)
			return i + 1;
	}
	return n;
}

/* What a longer file has gained, in steps. */
static int preallocate_co(struct ox_image *img, uint64_t offset, uint64_t end,
			  const struct ox_resize_options *how)
{
	bool full = how->preallocation == OX_PREALLOC_FULL;
	uint64_t start = offset;
	int r = 0;

	while (r == 0 && offset < end) {
		uint64_t n = ox_min_u64(end - offset, STEP_BYTES - offset % STEP_BYTES);

		if (how->interrupted && how->interrupted(how->opaque))
			return -EINTR;
		r = full ? ox_io_fill_zero_co(img->io, offset, n)
			 : ox_io_reserve_or_fill_co(img->io, offset, n);
		offset += n;
		if (r == 0 && how->progress)
			how->progress(how->opaque, offset - start, end - start);
	}
	return r;
}

static int change_length_co(struct ox_image *img, uint64_t new_bytes,
			    const struct ox_resize_options *how)
{
	uint64_t old_bytes = img->io->length;
	int r = ox_io_set_length_co(img->io, new_bytes);

	if (r < 0 || !how || how->preallocation == OX_PREALLOC_OFF)
		return r;
	r = preallocate_co(img, old_bytes, new_bytes, how);
	if (r < 0 && ox_io_set_length_co(img->io, old_bytes) < 0)
		img->size_bytes = ox_align_up(img->io->length, 512);
	return r;
}

static int refuse_resize(const struct ox_image *img, uint64_t new_bytes,
			 const struct ox_resize_options *how, struct ox_error **err)
{
	if (how && how->preallocation == OX_PREALLOC_METADATA)
		return ox_error_set(err, -ENOTSUP, "Unsupported preallocation mode: metadata");
	if (img->io->can_grow)
		return 0;
	if (how && new_bytes != img->io->length)
		return ox_error_set(err, -ENOTSUP,
				    "Cannot resize device files: '%s' has %" PRIu64
				    " bytes, and is to have %" PRIu64,
				    img->filename, img->io->length, new_bytes);
	if (new_bytes > img->io->length)
		return ox_error_set(err, -ENOTSUP,
				    "Cannot grow device files: '%s' has %" PRIu64
				    " bytes, and is to have %" PRIu64,
				    img->filename, img->io->length, new_bytes);
	return 0;
}

static int raw_resize_co(struct ox_image *img, uint64_t new_bytes,
			 const struct ox_resize_options *how, struct ox_error **err)
{
	struct raw *raw = img->state;
	int entered;
	int r;

	r = refuse_resize(img, new_bytes, how, err);
	if (r < 0)
		return r;
	entered = ox_raw_guard_resize_co(&raw->guard, new_bytes);
	if (entered < 0)
		return ox_error_set_errno(err, entered, "Could not resize the image");
	r = img->io->can_grow ? change_length_co(img, new_bytes, how) : 0;
	ox_raw_guard_leave(&raw->guard, entered);
	if (r < 0)
		return ox_error_set_errno(err, r, "Could not resize the image");
	img->size_bytes = ox_align_up(new_bytes, 512);
	return 0;
}

static void witness_co(void *arg)
{
	struct raw *raw = arg;

	/* A failure poisons the order, and is told by whoever meets it. */
	int r = ox_order_sync_always_co(&raw->order);

	(void)r;
	ox_latch_done(&raw->background);
}

/* What a dead process wrote is synced beside the guest: once that has ended well its witness is of
 * no use any more, and need not be kept for a flush that may never come. */
static int raw_activate_co(struct ox_image *img, struct ox_error **err)
{
	struct raw *raw = img->state;
	int r;

	if (!ox_io_has_witness(img->io))
		return 0;
	ox_latch_add(&raw->background);
	r = ox_co_spawn(img->reactor, witness_co, raw);
	if (r < 0)
		ox_latch_done(&raw->background);
	return r < 0 ? ox_error_set_errno(err, r, "Could not sync '%s'", img->filename) : 0;
}

static int raw_deactivate_co(struct ox_image *img, struct ox_error **err)
{
	struct raw *raw = img->state;
	int r = ox_order_wait_co(&raw->order, ox_order_ticket(&raw->order));

	ox_latch_wait_co(&raw->background);
	if (r < 0)
		return ox_error_set_errno(err, r, "Could not flush '%s'", img->filename);
	return 0;
}

static void raw_free(struct ox_image *img)
{
	free(img->state);
	img->state = NULL;
}

static void raw_stats(const struct ox_image *img, struct ox_image_stats *ret)
{
	(void)img;
	(void)ret; /* no metadata, so nothing is cached */
}

static const struct ox_img_ops raw_ops = {
	.format = "raw",
	.preadv_co = raw_preadv_co,
	.read_part_co = raw_read_part_co,
	.pwritev_co = raw_pwritev_co,
	.zero_co = raw_zero_co,
	.discard_co = raw_discard_co,
	.flush_co = raw_flush_co,
	.extent_co = raw_extent_co,
	.extents_co = raw_extents_co,
	.resize_co = raw_resize_co,
	.activate_co = raw_activate_co,
	.deactivate_co = raw_deactivate_co,
	.free = raw_free,
	.error = raw_error,
	.stats = raw_stats,
};

int ox_raw_open_co(struct ox_image *img, const struct ox_img_open *how, struct ox_error **err)
{
	struct raw *raw;

	/* The rest of its last sector would be another's, or have no room for ever. */
	if (ox_io_window_is_fixed(img->io) && img->io->length % 512)
		return ox_error_set(err, -EINVAL, "Specified size is not multiple of 512");
	raw = calloc(1, sizeof(*raw));
	if (!raw)
		return ox_error_set(err, -ENOMEM, "Out of memory");
	ox_order_init(&raw->order, img->io, how->opts->cache == OX_CACHE_UNSAFE);
	ox_latch_init(&raw->background);
	ox_raw_guard_init(&raw->guard, img->io, !how->opts->format);
	img->ops = &raw_ops;
	img->state = raw;
	img->size_bytes = ox_align_up(img->io->length, 512); /* as QEMU: the rest reads as zero */
	return 0;
}
