/* SPDX-License-Identifier: MIT */
/* What every format shares: opening and closing, cache modes, bounds, the walk down a chain. */
#include "img/img.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/assert.h"
#include "base/iov.h"
#include "img/chain.h"
#include "img/probe.h"

typedef int (*open_fn)(struct ox_image *img, const struct ox_img_open *how, struct ox_error **err);

static void warn_of_guess(const struct ox_io *io, const struct ox_open_options *opts)
{
	char message[512];

	if (io->read_only || !opts->warn)
		return;
	snprintf(message, sizeof(message),
		 "the format of '%s' was not stated and is taken for raw; state it with -f raw: "
		 "writes that would make it look like another format fail",
		 io->name);
	opts->warn(opts->opaque, message);
}

static int choose_format_co(struct ox_io *io, const struct ox_open_options *opts, open_fn *ret,
			    struct ox_error **err)
{
	const char *format = opts->format ? ox_formats_find(opts->format) : NULL;
	int r;

	if (opts->format && !format)
		return ox_error_set(err, -EINVAL, "Unknown driver '%s'", opts->format);
	if (!format && !(opts->flags & OX_OPEN_PROBE))
		return ox_error_set(err, -EINVAL, "The format of '%s' must be stated", io->name);
	if (!format) {
		r = ox_img_probe_co(io, &format, err);
		if (r < 0)
			return r;
	}
	if (strcmp(format, "qcow2") == 0)
		*ret = ox_qcow2_open_co;
	else if (strcmp(format, "qed") == 0)
		*ret = ox_qed_open_image_co;
	else if (strcmp(format, "raw") == 0)
		*ret = ox_raw_open_co;
	else
		return ox_img_refuse_format(io, format, err);
	if (*ret != ox_qcow2_open_co &&
	    (opts->snapshot || opts->snapshot_id || opts->snapshot_name))
		return ox_error_set(
			err, -ENOTSUP,
			"Failed to load snapshot: format '%s' has no internal snapshots", format);
	if (*ret == ox_raw_open_co && !opts->format)
		warn_of_guess(io, opts);
	return 0;
}

static void img_free(struct ox_image *img)
{
	if (img->state)
		img->ops->free(img);
	free(img->backing_name);
	free(img->backing_format);
	free(img->filename);
	free(img);
}

static struct ox_image *img_new(struct ox_io *io, const struct ox_img_open *how)
{
	struct ox_image *img = calloc(1, sizeof(*img));

	if (!img)
		return NULL;
	img->filename = strdup(io->name);
	if (!img->filename) {
		free(img);
		return NULL;
	}
	img->reactor = io->reactor;
	img->io = io;
	img->recovery = how->recovery;
	img->cache = how->opts->cache;
	img->open_flags = how->opts->flags;
	img->read_only = io->read_only;
	img->is_snapshot =
		how->opts->snapshot || how->opts->snapshot_id || how->opts->snapshot_name;
	img->warn = how->opts->warn;
	img->progress = how->opts->progress;
	img->opaque = how->opts->opaque;
	return img;
}

int ox_chain_open_image_co(struct ox_io *io, const struct ox_img_open *how, struct ox_image **ret,
			   struct ox_error **err)
{
	struct ox_image *img;
	open_fn open = NULL;
	int r;

	r = choose_format_co(io, how->opts, &open, err);
	if (r < 0)
		return r;
	img = img_new(io, how);
	if (!img)
		return ox_error_set(err, -ENOMEM, "Out of memory");
	r = open(img, how, err);
	if (r < 0) {
		img_free(img);
		return r;
	}
	*ret = img;
	return 0;
}

void ox_chain_free_image(struct ox_image *img)
{
	ox_io_close(img->io);
	img_free(img);
}

int ox_img_open_co(struct ox_io *io, const struct ox_img_open *how, struct ox_image **ret,
		   struct ox_error **err)
{
	struct ox_image *img = NULL;
	int r;

	r = ox_chain_open_image_co(io, how, &img, err);
	if (r < 0)
		return r;
	r = ox_chain_open_co(img, how, err);
	if (r == 0 && !img->read_only)
		r = img->ops->activate_co(img, err);
	if (r < 0) {
		ox_chain_close_co(img);
		img_free(img); /* the store stays the caller's */
		return r;
	}
	ox_notice_join(img);
	*ret = img;
	return 0;
}

int ox_img_close_co(struct ox_image *img, struct ox_error **err)
{
	int r = 0;

	if (!img->read_only)
		r = img->ops->deactivate_co(img, err);
	ox_chain_close_co(img);
	ox_chain_free_image(img);
	return r;
}

int ox_img_reopen_co(struct ox_image *img, bool read_only, struct ox_error **err)
{
	int r;

	if (read_only == img->read_only)
		return 0;
	if (read_only) {
		r = img->ops->deactivate_co(img, err);
		if (r == 0)
			r = ox_io_reopen(img->io, true, err);
		if (r == 0)
			img->read_only = true;
		return r;
	}
	if (img->is_snapshot)
		return ox_error_set(err, -EINVAL, "A snapshot is opened read-only");
	r = ox_io_reopen(img->io, false, err);
	if (r < 0)
		return r;
	/* Recovery comes first here as well: stale refcounts are not allocated from. */
	r = img->ops->activate_co(img, err);
	if (r == 0)
		img->read_only = false;
	else if (ox_io_reopen(img->io, true, NULL) < 0)
		ox_error_prefix(err, "(and the file could not be made read-only again) ");
	return r;
}

static bool writes_through(const struct ox_image *img)
{
	return img->cache == OX_CACHE_WRITETHROUGH || img->cache == OX_CACHE_DIRECTSYNC;
}

/* What every changing request must pass. */
static int check_write(const struct ox_image *img, uint64_t offset, uint64_t length)
{
	if (img->read_only)
		return -EROFS;
	return ox_range_within(offset, length, img->size_bytes) ? 0 : -EINVAL;
}

static unsigned effective_flags(const struct ox_image *img, unsigned flags)
{
	return writes_through(img) ? flags | OX_REQ_FUA : flags;
}

/* What a request is told of before it begins, and after it has ended with r. */
struct watch {
	uint64_t offset;
	uint64_t length;
	bool changing;
	uint64_t told_before;
};

static struct watch begin(const struct ox_image *img, uint64_t offset, uint64_t length,
			  bool changing)
{
	return (struct watch){offset, length, changing, ox_notice_count(img)};
}

static int ended(struct ox_image *img, const struct watch *w, int r)
{
	if (r >= 0)
		return r;
	if (r == -EUCLEAN) {
		if (w->changing)
			img->ops->refused(img, w->offset, w->length);
		return -EIO;
	}
	ox_notice_failed(img, r, w->told_before, w->offset, w->length, w->changing);
	return r;
}

int ox_img_preadv_co(struct ox_image *img, const struct iovec *iov, int n, uint64_t offset)
{
	uint64_t length = ox_iov_bytes(iov, n);
	struct watch w = begin(img, offset, length, false);

	if (!ox_range_within(offset, length, img->size_bytes))
		return -EINVAL;
	if (length == 0)
		return 0;
	return ended(img, &w, img->ops->preadv_co(img, iov, n, offset, length));
}

/* Whether the range may be written compressed. */
static int check_compressed(const struct ox_image *img, uint64_t offset, uint64_t length)
{
	uint64_t cluster_bytes;

	if (!img->ops->pwritev_compressed_co)
		return -ENOTSUP;
	cluster_bytes = img->ops->cluster_bytes(img);
	if (!ox_is_aligned(offset, cluster_bytes))
		return -EINVAL;
	return ox_is_aligned(length, cluster_bytes) || offset + length == img->size_bytes ? 0
											  : -EINVAL;
}

static int write_co(struct ox_image *img, const struct iovec *iov, int n, uint64_t offset,
		    uint64_t length, unsigned flags)
{
	int r;

	if (!(flags & OX_REQ_COMPRESSED))
		return img->ops->pwritev_co(img, iov, n, offset, length, flags);
	r = check_compressed(img, offset, length);
	return r < 0 ? r : img->ops->pwritev_compressed_co(img, iov, n, offset, length, flags);
}

int ox_img_pwritev_co(struct ox_image *img, const struct iovec *iov, int n, uint64_t offset,
		      unsigned flags)
{
	uint64_t length = ox_iov_bytes(iov, n);
	struct watch w = begin(img, offset, length, true);
	int r = check_write(img, offset, length);

	if (r < 0 || length == 0)
		return r;
	r = write_co(img, iov, n, offset, length, effective_flags(img, flags));
	return ended(img, &w, r);
}

int ox_img_zero_co(struct ox_image *img, uint64_t offset, uint64_t length, unsigned flags)
{
	struct watch w = begin(img, offset, length, true);
	int r = check_write(img, offset, length);

	if (r < 0 || length == 0)
		return r;
	if (img->open_flags & OX_OPEN_NO_DISCARD)
		flags &= ~(unsigned)OX_REQ_MAY_UNMAP;
	return ended(img, &w, img->ops->zero_co(img, offset, length, effective_flags(img, flags)));
}

int ox_img_discard_co(struct ox_image *img, uint64_t offset, uint64_t length)
{
	struct watch w = begin(img, offset, length, true);
	int r = check_write(img, offset, length);

	if (r < 0 || length == 0 || (img->open_flags & OX_OPEN_NO_DISCARD))
		return r;
	r = img->ops->discard_co(img, offset, length);
	if (r == 0 && writes_through(img))
		r = img->ops->flush_co(img, true);
	return ended(img, &w, r);
}

int ox_img_flush_co(struct ox_image *img)
{
	struct watch w = begin(img, 0, 0, true);

	if (img->read_only)
		return 0;
	return ended(img, &w, img->ops->flush_co(img, img->cache != OX_CACHE_UNSAFE));
}

int ox_img_resize_co(struct ox_image *img, uint64_t new_bytes, struct ox_error **err)
{
	if (img->read_only)
		return ox_error_set(err, -EROFS, "Image is read-only");
	if (new_bytes > (uint64_t)INT64_MAX - 511)
		return ox_error_set(err, -EFBIG, "Image size too big");
	return img->ops->resize_co(img, ox_align_up(new_bytes, 512), NULL, err);
}

int ox_img_resize_with_co(struct ox_image *img, uint64_t new_bytes,
			  const struct ox_resize_options *opts, struct ox_error **err)
{
	if (img->read_only)
		return ox_error_set(err, -EROFS, "Image is read-only");
	if (new_bytes > (uint64_t)INT64_MAX - 511)
		return ox_error_set(err, -EFBIG, "Image size too big");
	if (opts->preallocation != OX_PREALLOC_OFF && new_bytes <= img->size_bytes)
		return ox_error_set(err, -EINVAL,
				    "Preallocation can only be used for growing images");
	return img->ops->resize_co(img, new_bytes, opts, err);
}

static int extent_co(struct ox_image *img, uint64_t offset, uint64_t length, bool holes,
		     struct ox_extent *ret)
{
	struct ox_extent e;
	unsigned depth = 0;
	int r;

	if (length == 0 || !ox_range_within(offset, length, img->size_bytes))
		return -EINVAL;
	for (;;) {
		struct watch w = begin(img, offset, length, false);

		r = ended(img, &w, img->ops->extent_co(img, offset, length, holes, &e));
		if (r < 0)
			return r;
		if ((e.flags & (OX_EXTENT_DATA | OX_EXTENT_ZERO)) || !img->backing)
			break;
		img = img->backing;
		depth++;
		length = e.length;
		if (offset >= img->size_bytes) {
			e = (struct ox_extent){.flags = OX_EXTENT_ZERO, .length = length};
			break;
		}
		length = ox_min_u64(length, img->size_bytes - offset);
	}
	e.offset = offset;
	e.depth = depth;
	*ret = e;
	return 0;
}

int ox_img_extent_co(struct ox_image *img, uint64_t offset, uint64_t length, struct ox_extent *ret)
{
	return extent_co(img, offset, length, false, ret);
}

int ox_img_holes_co(struct ox_image *img, uint64_t offset, uint64_t length, struct ox_extent *ret)
{
	return extent_co(img, offset, length, true, ret);
}

/* Of the image's own layer, and how many of them say where the bytes are. */
static int own_extents_co(struct ox_image *img, uint64_t offset, uint64_t length,
			  struct ox_extent *ret, int max, int *ret_told)
{
	struct watch w = begin(img, offset, length, false);
	int told = 0;
	int r;

	if (img->ops->extents_co) {
		r = img->ops->extents_co(img, offset, length, ret, max);
	} else {
		r = img->ops->extent_co(img, offset, length, true, ret);
		r = r < 0 ? r : 1;
	}
	while (told < r && ret[told].flags & (OX_EXTENT_DATA | OX_EXTENT_ZERO))
		told++;
	*ret_told = img->backing ? told : r;
	return ended(img, &w, r);
}

int ox_img_extents_co(struct ox_image *img, uint64_t offset, uint64_t length, struct ox_extent *ret,
		      int max)
{
	unsigned depth = 0;
	int told;
	int r;

	if (length == 0 || !ox_range_within(offset, length, img->size_bytes))
		return -EINVAL;
	for (;;) {
		r = own_extents_co(img, offset, length, ret, max, &told);
		if (r < 0)
			return r;
		if (told > 0)
			break;
		img = img->backing;
		depth++;
		length = ret[0].length;
		if (offset >= img->size_bytes) {
			ret[0] = (struct ox_extent){
				.offset = offset, .length = length, .flags = OX_EXTENT_ZERO};
			told = 1;
			break;
		}
		length = ox_min_u64(length, img->size_bytes - offset);
	}
	for (int i = 0; i < told; i++)
		ret[i].depth = depth;
	return told;
}
