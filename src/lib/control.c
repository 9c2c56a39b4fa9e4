/* SPDX-License-Identifier: MIT */
/* The control plane of images: opening, closing, reopening, resizing. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/assert.h"
#include "check/check.h"
#include "lib/context.h"
#include "lib/job.h"
#include "lib/options.h"
#include "lib/source.h"

/* What an opening works with. */
struct opening {
	struct ox_context *ctx;
	struct ox_source source;
	struct ox_open_options opts;
	struct ox_io *io;
	struct ox_error **err;
	bool on_worker; /* open(2) may wait: a worker thread makes it */
};

/* ---- what the jobs do ---- */

static int open_store(void *arg)
{
	struct opening *o = arg;

	return ox_source_open(o->ctx, &o->source, ox_store_flags(&o->opts), &o->io, o->err);
}

/* A sync of another file would say of this one that it is durable. */
static int examine_witness(const struct opening *o, struct ox_error **err)
{
	uint64_t device;
	uint64_t inode;
	struct stat st;
	int mode = fcntl(o->opts.witness_fd, F_GETFL);

	if (mode < 0 || fstat(o->opts.witness_fd, &st) < 0)
		return ox_error_set_errno(err, -errno, "Could not use witness_fd %d",
					  o->opts.witness_fd);
	ox_io_file_identity_of(&st, &device, &inode);
	if ((mode & O_PATH) || device != o->io->device || inode != o->io->inode)
		return ox_error_set(err, -EINVAL, "witness_fd %d is not open on the file of '%s'",
				    o->opts.witness_fd, o->io->name);
	return 0;
}

static int take_witness(struct opening *o)
{
	const struct ox_open_options *opts = &o->opts;
	int fd = -1;
	int r;

	if (opts->witness_fd == 0 || o->io->read_only || opts->cache == OX_CACHE_UNSAFE)
		return 0;
	if (opts->witness_fd > 0) {
		r = examine_witness(o, o->err);
		if (r < 0)
			return r;
		fd = fcntl(opts->witness_fd, F_DUPFD_CLOEXEC, 0);
		if (fd < 0)
			return ox_error_set_errno(o->err, -errno,
						  "Could not duplicate descriptor %d",
						  opts->witness_fd);
	}
	ox_io_set_witness(o->io, fd, opts->synced, opts->opaque);
	return 0;
}

static void open_co(struct ox_job *job)
{
	struct opening *o = job->work;
	const struct ox_open_options *opts = &o->opts;
	struct ox_img_open how = {.opts = opts, .recovery = &ox_check_recovery};

	o->err = &job->err;
	/* The program is asked on its own thread. */
	job->result = ox_source_ask(&o->source, opts, &job->err);
	if (job->result == 0)
		job->result = o->on_worker ? ox_aio_work_co(open_store, o) : open_store(o);
	if (job->result < 0)
		return;
	job->result = take_witness(o);
	if (job->result == 0)
		job->result = ox_img_open_co(o->io, &how, &job->opened, &job->err);
	if (job->result < 0) {
		ox_io_close(o->io);
		return;
	}
	ox_job_adopt_image(job->ctx, job->opened);
	if (opts->witness_fd != 0 && !o->io->read_only && opts->cache == OX_CACHE_UNSAFE &&
	    opts->synced)
		opts->synced(opts->opaque);
}

static void close_co(struct ox_job *job)
{
	job->result = ox_img_close_co(job->images[0], &job->err);
	job->image_count = 0; /* it is gone */
}

static void reopen_co(struct ox_job *job)
{
	const bool *read_only = job->work;

	job->result = ox_img_reopen_co(job->images[0], *read_only, &job->err);
}

static void resize_co(struct ox_job *job)
{
	const uint64_t *new_bytes = job->work;

	job->result = ox_img_resize_co(job->images[0], *new_bytes, &job->err);
}

static const struct ox_job_type opening_type = {.run_co = open_co, .opens = true};
static const struct ox_job_type closing_type = {
	.run_co = close_co, .keeps_on = true}; /* what was written is not given up */
static const struct ox_job_type reopening_type = {.run_co = reopen_co};
static const struct ox_job_type resizing_type = {.run_co = resize_co};

/* ---- opening ---- */

static int take_open_options(const struct ox_open_options *given, struct ox_open_options *opts,
			     struct ox_error **err)
{
	int r = ox_options_take(&ox_open_options_type, given, opts, err);

	if (r < 0)
		return r;
	if ((opts->flags & OX_OPEN_FORCE_SHARE) && !(opts->flags & OX_OPEN_READ_ONLY))
		return ox_error_set(err, -EINVAL,
				    "force-share=on can only be used with read-only images");
	if (opts->backing_policy == OX_BACKING_UNDER && !opts->backing_dir)
		return ox_error_set(err, -EINVAL, "No directory for backing files was given");
	return 0;
}

static int open_job_new(struct ox_context *ctx, struct ox_source source,
			const struct ox_open_options *given, struct ox_job **ret_job,
			struct ox_error **err)
{
	struct ox_open_options opts;
	struct ox_job *job;
	int r = take_open_options(given, &opts, err);

	if (r < 0)
		return r;
	ox_source_take_options(&source, &opts);
	r = ox_job_new(ctx, &opening_type, sizeof(struct opening), &job, err);
	if (r < 0)
		return r;
	*(struct opening *)job->work = (struct opening){.ctx = ctx, .source = source, .opts = opts};
	*ret_job = job;
	return 0;
}

static int open_now(struct ox_context *ctx, struct ox_source source,
		    const struct ox_open_options *opts, struct ox_image **ret_image,
		    struct ox_error **err)
{
	struct ox_job *job;
	int r = open_job_new(ctx, source, opts, &job, err);

	return r < 0 ? r : ox_job_run(job, ret_image, err);
}

static int open_start(struct ox_context *ctx, struct ox_source source,
		      const struct ox_open_options *opts, struct ox_job **ret_job,
		      struct ox_error **err)
{
	struct ox_job *job;
	int r = open_job_new(ctx, source, opts, &job, err);

	if (r < 0)
		return r;
	((struct opening *)job->work)->on_worker = true;
	return ox_job_start(job, ret_job, err);
}

OX_EXPORT int ox_image_open(struct ox_context *ctx, const char *path,
			    const struct ox_open_options *opts, struct ox_image **ret_image,
			    struct ox_error **err)
{
	return open_now(ctx, ox_source_path(path), opts, ret_image, err);
}

OX_EXPORT int ox_image_open_fd(struct ox_context *ctx, int fd, const char *name,
			       const struct ox_open_options *opts, struct ox_image **ret_image,
			       struct ox_error **err)
{
	return open_now(ctx, ox_source_fd(fd, name), opts, ret_image, err);
}

OX_EXPORT int ox_image_open_start(struct ox_context *ctx, const char *path,
				  const struct ox_open_options *opts, struct ox_job **ret_job,
				  struct ox_error **err)
{
	return open_start(ctx, ox_source_path(path), opts, ret_job, err);
}

OX_EXPORT int ox_image_open_fd_start(struct ox_context *ctx, int fd, const char *name,
				     const struct ox_open_options *opts, struct ox_job **ret_job,
				     struct ox_error **err)
{
	return open_start(ctx, ox_source_fd(fd, name), opts, ret_job, err);
}

/* ---- open images ---- */

static int image_job_new(struct ox_image *image, const struct ox_job_type *type, size_t work_bytes,
			 bool alone, struct ox_job **ret_job, struct ox_error **err)
{
	struct ox_job *job;
	int r;

	ox_assert(image);
	if (alone && image->is_built)
		return ox_error_set(err, -EBUSY, "'%s' is under construction", image->filename);
	r = ox_job_new(image->ctx, type, work_bytes, &job, err);
	if (r < 0)
		return r;
	r = ox_job_claim(job, image, alone, err);
	if (r < 0)
		ox_job_free(job);
	else
		*ret_job = job;
	return r;
}

static int close_job_new(struct ox_image *image, struct ox_job **ret_job, struct ox_error **err)
{
	int r = image_job_new(image, &closing_type, 0, true, ret_job, err);

	if (r < 0)
		return r;
	ox_queues_detach(image);
	image->ctx->images--;
	return 0;
}

static int reopen_job_new(struct ox_image *image, bool read_only, struct ox_job **ret_job,
			  struct ox_error **err)
{
	int r = image_job_new(image, &reopening_type, sizeof(read_only), true, ret_job, err);

	if (r < 0)
		return r;
	*(bool *)(*ret_job)->work = read_only;
	image->reopening = true;
	return 0;
}

static int resize_job_new(struct ox_image *image, uint64_t new_bytes, struct ox_job **ret_job,
			  struct ox_error **err)
{
	int r = image_job_new(image, &resizing_type, sizeof(new_bytes), false, ret_job, err);

	if (r == 0)
		*(uint64_t *)(*ret_job)->work = new_bytes;
	return r;
}

OX_EXPORT int ox_image_close(struct ox_image *image, struct ox_error **err)
{
	struct ox_job *job;
	int r = close_job_new(image, &job, err);

	return r < 0 ? r : ox_job_run(job, NULL, err);
}

OX_EXPORT int ox_image_close_start(struct ox_image *image, struct ox_job **ret_job,
				   struct ox_error **err)
{
	struct ox_job *job;
	int r = close_job_new(image, &job, err);

	return r < 0 ? r : ox_job_start(job, ret_job, err);
}

OX_EXPORT int ox_image_reopen(struct ox_image *image, bool read_only, struct ox_error **err)
{
	struct ox_job *job;
	int r = reopen_job_new(image, read_only, &job, err);

	return r < 0 ? r : ox_job_run(job, NULL, err);
}

OX_EXPORT int ox_image_reopen_start(struct ox_image *image, bool read_only, struct ox_job **ret_job,
				    struct ox_error **err)
{
	struct ox_job *job;
	int r = reopen_job_new(image, read_only, &job, err);

	return r < 0 ? r : ox_job_start(job, ret_job, err);
}

OX_EXPORT int ox_resize(struct ox_image *image, uint64_t new_bytes, struct ox_error **err)
{
	struct ox_job *job;
	int r = resize_job_new(image, new_bytes, &job, err);

	return r < 0 ? r : ox_job_run(job, NULL, err);
}

OX_EXPORT int ox_resize_start(struct ox_image *image, uint64_t new_bytes, struct ox_job **ret_job,
			      struct ox_error **err)
{
	struct ox_job *job;
	int r = resize_job_new(image, new_bytes, &job, err);

	return r < 0 ? r : ox_job_start(job, ret_job, err);
}
