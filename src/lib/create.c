/* SPDX-License-Identifier: MIT */
/* Making images. The layout is the format's; preallocation goes through the opened image. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/arith.h"
#include "check/check.h"
#include "lib/context.h"
#include "lib/create.h"
#include "lib/options.h"
#include "lib/source.h"

#define PIECE_BYTES (UINT64_C(16) << 20)

struct create_job {
	struct ox_io *io;
	const struct ox_create_options *opts;
	struct ox_error **err;
	bool io_taken; /* by the image that preallocation opened and closed */
	int result;
};

/* In pieces, between which the caller is told and asked. */
static int raw_preallocate_co(struct ox_io *io, const struct ox_create_options *opts,
			      uint64_t bytes)
{
	int r = 0;

	if (opts->preallocation == OX_PREALLOC_OFF)
		return 0;
	for (uint64_t at = 0; at < bytes && r == 0; at += PIECE_BYTES) {
		uint64_t n = ox_min_u64(bytes - at, PIECE_BYTES);

		if (opts->interrupted && opts->interrupted(opts->opaque))
			return -EINTR;
		if (opts->preallocation == OX_PREALLOC_FULL)
			r = ox_io_fill_zero_co(io, at, n);
		else
			r = ox_io_reserve_or_fill_co(io, at, n);
		if (r == 0 && opts->progress)
			opts->progress(opts->opaque, at + n, bytes);
	}
	return r;
}

static int check_raw(const struct ox_create_options *opts, struct ox_error **err)
{
	if (opts->backing_file)
		return ox_error_set(err, -EINVAL,
				    "Backing file not supported for file format 'raw'");
	if (opts->preallocation == OX_PREALLOC_METADATA)
		return ox_error_set(err, -EINVAL, "Unsupported preallocation mode 'metadata'");
	if (opts->virtual_bytes > (uint64_t)INT64_MAX - 511)
		return ox_error_set(err, -EFBIG, "Image size too big");
	return 0;
}

static int create_raw_co(struct ox_io *io, const struct ox_create_options *opts,
			 struct ox_error **err)
{
	uint64_t bytes = ox_align_up(opts->virtual_bytes, 512);
	int r;

	if (!io->can_grow && bytes > io->length)
		return io->is_remote
			       ? ox_error_set(err, -EOPNOTSUPP, "Cannot grow NBD nodes")
			       : ox_error_set(err, -ENOSPC, "The device is smaller than the image");
	r = io->can_grow ? ox_io_set_length_co(io, bytes) : 0;
	if (r == -EFBIG)
		return ox_error_set_errno(err, r,
					  "The image size is too large for file format 'raw'");
	if (r == 0)
		r = raw_preallocate_co(io, opts, bytes);
	if (r == 0)
		r = ox_io_sync_co(io);
	if (r < 0)
		return ox_error_set_errno(err, r, "Could not write the image");
	return 0;
}

static int preallocate_co(struct create_job *j)
{
	struct ox_open_options open_opts = OX_OPEN_OPTIONS_INIT;
	struct ox_img_open how = {.opts = &open_opts, .recovery = &ox_check_recovery};
	struct ox_image *img;
	int close_r;
	int r;

	open_opts.format = "qcow2";
	open_opts.flags = OX_OPEN_NO_BACKING;
	r = ox_img_open_co(j->io, &how, &img, j->err);
	if (r < 0)
		return r;
	j->io_taken = true;
	if (img->size_bytes > 0) {
		r = ox_qcow2_preallocate_co(img, j->opts);
		if (r < 0)
			ox_error_set_errno(j->err, r, "Could not preallocate the image");
	}
	close_r = ox_img_close_co(img, r < 0 ? NULL : j->err);
	return r < 0 ? r : close_r;
}

static int empty_co(struct ox_io *io, struct ox_error **err)
{
	int r = io->can_grow && io->length > 0 ? ox_io_set_length_co(io, 0) : 0;

	return r < 0 ? ox_error_set_errno(err, r, "Could not empty '%s'", io->name) : 0;
}

int ox_create_on_co(struct ox_io *io, const struct ox_create_options *opts, struct ox_error **err)
{
	int r = empty_co(io, err);

	if (r < 0)
		return r;
	if (strcmp(opts->format, "raw") == 0)
		return create_raw_co(io, opts, err);
	if (strcmp(opts->format, "qed") == 0)
		return ox_qed_create_co(io, opts, err);
	return ox_qcow2_create_co(io, opts, err);
}

static void create_task_co(void *arg)
{
	struct create_job *j = arg;

	j->result = ox_create_on_co(j->io, j->opts, j->err);
	if (j->result == 0 && strcmp(j->opts->format, "qcow2") == 0 &&
	    j->opts->preallocation != OX_PREALLOC_OFF)
		j->result = preallocate_co(j);
}

static void empty_task_co(void *arg)
{
	struct create_job *j = arg;

	j->result = empty_co(j->io, NULL);
}

int ox_create_check(const struct ox_create_options *opts, struct ox_error **err)
{
	if (!opts->format)
		return ox_error_set(err, -EINVAL, "No format was given");
	if (strcmp(opts->format, "raw") != 0 && strcmp(opts->format, "qcow2") != 0 &&
	    strcmp(opts->format, "qed") != 0)
		return ox_error_set(err, -EINVAL, "Unknown file format '%s'", opts->format);
	if (opts->backing_file && !opts->backing_format)
		return ox_error_set(err, -EINVAL,
				    "backing format must be specified for the backing file");
	if (opts->backing_file && opts->preallocation != OX_PREALLOC_OFF)
		return ox_error_set(
			err, -EINVAL,
			"Backing file and preallocation can only be used at the same time if "
			"extended_l2 is enabled");
	if (strcmp(opts->format, "raw") == 0)
		return check_raw(opts, err);
	if (strcmp(opts->format, "qed") == 0)
		return ox_qed_create_check(opts, err);
	return ox_qcow2_create_check(opts, err);
}

/* A file that is there is opened as it is: it is emptied when nothing can be wrong any more. */
static int open_store(struct ox_context *ctx, const struct ox_source *source, bool *ret_new,
		      struct ox_io **ret, struct ox_error **err)
{
	struct ox_error *why = NULL;
	int r = -EEXIST;

	if (source->path && !source->is_uri)
		r = ox_source_open(ctx, source, OX_IO_NEW, ret, &why);
	*ret_new = r == 0;
	if (r == -EEXIST || !err)
		ox_error_free(why);
	else
		*err = why;
	return r == -EEXIST ? ox_source_open(ctx, source, 0, ret, err) : r;
}

struct file_id {
	uint64_t dev;
	uint64_t ino;
};

/* Removes the path, if it still names the file that was made. */
static void remove_new(const char *path, const struct file_id *id)
{
	struct stat st;

	if (lstat(path, &st) == 0 && st.st_dev == id->dev && st.st_ino == id->ino)
		unlink(path);
}

/* Empties the file again. One that somebody else has opened meanwhile is let be. */
static void empty_again(struct ox_context *ctx, const struct ox_source *source)
{
	struct create_job job = {0};

	if (ox_source_open(ctx, source, 0, &job.io, NULL) < 0)
		return;
	job.result = ox_reactor_call(ctx->reactor, empty_task_co, &job);
	ox_io_close(job.io);
}

static int create_source(struct ox_context *ctx, const struct ox_source *source,
			 const struct ox_create_options *given, struct ox_error **err)
{
	struct ox_create_options opts;
	struct create_job job = {.opts = &opts, .err = err};
	struct ox_source where = *source;
	struct file_id id = {0};
	bool is_new = false;
	int r;

	r = ox_options_take(&ox_create_options_type, given, &opts, err);
	if (r < 0)
		return r;
	r = ox_create_check(&opts, err);
	if (r < 0)
		return r;
	ox_source_take_flags(&where, opts.flags);
	r = ox_source_check_new(&where, err);
	if (r == 0)
		r = open_store(ctx, &where, &is_new, &job.io, err);
	if (r < 0)
		return r;
	is_new = is_new && ox_io_file_identity(job.io, &id.dev, &id.ino);
	r = ox_reactor_call(ctx->reactor, create_task_co, &job);
	if (r == 0)
		r = job.result;
	else
		ox_error_set_errno(err, r, "The I/O engine failed");
	if (!job.io_taken)
		ox_io_close(job.io);
	if (r < 0 && is_new)
		remove_new(where.path, &id);
	else if (r < 0 && !where.is_uri)
		empty_again(ctx, &where);
	return r;
}

OX_EXPORT int ox_image_create(struct ox_context *ctx, const char *path,
			      const struct ox_create_options *opts, struct ox_error **err)
{
	struct ox_source source = ox_source_path(path);

	return create_source(ctx, &source, opts, err);
}

OX_EXPORT int ox_image_create_fd(struct ox_context *ctx, int fd, const char *name,
				 const struct ox_create_options *opts, struct ox_error **err)
{
	struct ox_source source = ox_source_fd(fd, name);

	return create_source(ctx, &source, opts, err);
}
