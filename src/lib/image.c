/* SPDX-License-Identifier: MIT */
/* Images: open, close, facts, and the synchronous calls, each a task that the reactor turns. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/assert.h"
#include "check/check.h"
#include "lib/context.h"
#include "lib/options.h"
#include "lib/source.h"

/* ---- open and close ---- */

struct open_job {
	struct ox_io *io;
	struct ox_img_open how;
	struct ox_image *image;
	struct ox_error **err;
	int result;
};

static void open_task_co(void *arg)
{
	struct open_job *j = arg;

	j->result = ox_img_open_co(j->io, &j->how, &j->image, j->err);
}

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

static int open_store(struct ox_context *ctx, struct ox_io *io, const struct ox_open_options *opts,
		      struct ox_image **ret_image, struct ox_error **err)
{
	struct open_job job = {
		.io = io,
		.how = {.opts = opts, .recovery = &ox_check_recovery, .io = io},
		.err = err,
	};
	int r;

	r = ox_reactor_call(ctx->reactor, open_task_co, &job);
	if (r == 0)
		r = job.result;
	else
		ox_error_set_errno(err, r, "Could not open '%s'", io->name);
	if (r < 0) {
		ox_io_close(io);
		return r;
	}
	job.image->ctx = ctx;
	ctx->images++;
	*ret_image = job.image;
	return 0;
}

static int open_source(struct ox_context *ctx, const struct ox_source *source,
		       const struct ox_open_options *given, struct ox_image **ret_image,
		       struct ox_error **err)
{
	struct ox_open_options opts;
	struct ox_io *io;
	int r;

	r = take_open_options(given, &opts, err);
	if (r < 0)
		return r;
	r = ox_source_open(ctx, source, ox_store_flags(&opts), &io, err);
	if (r < 0)
		return r;
	return open_store(ctx, io, &opts, ret_image, err);
}

OX_EXPORT int ox_image_open(struct ox_context *ctx, const char *path,
			    const struct ox_open_options *given, struct ox_image **ret_image,
			    struct ox_error **err)
{
	struct ox_source source = ox_source_path(path);

	return open_source(ctx, &source, given, ret_image, err);
}

OX_EXPORT int ox_image_open_fd(struct ox_context *ctx, int fd, const char *name,
			       const struct ox_open_options *given, struct ox_image **ret_image,
			       struct ox_error **err)
{
	struct ox_source source = ox_source_fd(fd, name);

	return open_source(ctx, &source, given, ret_image, err);
}

/* A call on the control plane of an open image. */
struct control_job {
	struct ox_image *image;
	struct ox_error **err;
	uint64_t number;
	bool flag;
	int result;
};

static void close_task_co(void *arg)
{
	struct control_job *j = arg;

	j->result = ox_img_close_co(j->image, j->err);
}

static void reopen_task_co(void *arg)
{
	struct control_job *j = arg;

	j->result = ox_img_reopen_co(j->image, j->flag, j->err);
}

static void resize_task_co(void *arg)
{
	struct control_job *j = arg;

	j->result = ox_img_resize_co(j->image, j->number, j->err);
}

static int control_call(struct ox_context *ctx, ox_co_fn fn, struct control_job *job)
{
	int r = ox_reactor_call(ctx->reactor, fn, job);

	if (r < 0)
		return ox_error_set_errno(job->err, r, "The I/O engine failed");
	return job->result;
}

OX_EXPORT int ox_image_close(struct ox_image *image, struct ox_error **err)
{
	struct control_job job = {.image = image, .err = err};
	struct ox_context *ctx = image->ctx;

	ctx->images--;
	return control_call(ctx, close_task_co, &job);
}

OX_EXPORT int ox_image_reopen(struct ox_image *image, bool read_only, struct ox_error **err)
{
	struct control_job job = {.image = image, .err = err, .flag = read_only};

	return control_call(image->ctx, reopen_task_co, &job);
}

OX_EXPORT int ox_resize(struct ox_image *image, uint64_t new_bytes, struct ox_error **err)
{
	struct control_job job = {.image = image, .err = err, .number = new_bytes};

	return control_call(image->ctx, resize_task_co, &job);
}

/* ---- facts ---- */

OX_EXPORT uint64_t ox_image_size(const struct ox_image *image)
{
	return image->size_bytes;
}

OX_EXPORT bool ox_image_is_read_only(const struct ox_image *image)
{
	return image->read_only;
}

OX_EXPORT bool ox_image_has_write_cache(const struct ox_image *image)
{
	return image->cache != OX_CACHE_WRITETHROUGH && image->cache != OX_CACHE_DIRECTSYNC;
}

OX_EXPORT void ox_image_stats(const struct ox_image *image, struct ox_image_stats *ret_stats)
{
	struct ox_image_stats s = {
		.host_reads = image->io->counts[OX_IO_COUNT_READS],
		.host_writes = image->io->counts[OX_IO_COUNT_WRITES],
		.host_syncs = image->io->counts[OX_IO_COUNT_SYNCS],
	};

	image->ops->stats(image, &s);
	*ret_stats = s;
}

OX_EXPORT void ox_image_recovery(const struct ox_image *image,
				 struct ox_recovery_status *ret_status)
{
	*ret_status = (struct ox_recovery_status){.message = ""};
	if (image->ops->recovery)
		image->ops->recovery(image, ret_status);
}

/* ---- data ---- */

static void request_task_co(void *arg)
{
	struct ox_request *req = arg;

	ox_request_run_co(req->reserved[0], req);
}

/* Runs a request on the caller's stack to its end. */
static int run_now(struct ox_image *image, struct ox_request *req)
{
	int r;

	req->reserved[0] = image;
	r = ox_reactor_call(image->ctx->reactor, request_task_co, req);
	return r < 0 ? r : req->result;
}

OX_EXPORT int ox_preadv(struct ox_image *image, const struct iovec *iov, int iov_count,
			uint64_t offset)
{
	struct ox_request req = {
		.op = OX_OP_READ, .offset = offset, .iov = iov, .iov_count = iov_count};

	return run_now(image, &req);
}

OX_EXPORT int ox_pwritev(struct ox_image *image, const struct iovec *iov, int iov_count,
			 uint64_t offset, unsigned flags)
{
	struct ox_request req = {.op = OX_OP_WRITE,
				 .flags = flags,
				 .offset = offset,
				 .iov = iov,
				 .iov_count = iov_count};

	return run_now(image, &req);
}

OX_EXPORT int ox_pread(struct ox_image *image, void *buf, size_t count, uint64_t offset)
{
	struct iovec v = {buf, count};

	return ox_preadv(image, &v, 1, offset);
}

OX_EXPORT int ox_pwrite(struct ox_image *image, const void *buf, size_t count, uint64_t offset,
			unsigned flags)
{
	struct iovec v = {(void *)(uintptr_t)buf, count}; /* only read from */

	return ox_pwritev(image, &v, 1, offset, flags);
}

OX_EXPORT int ox_write_zeroes(struct ox_image *image, uint64_t offset, uint64_t length,
			      unsigned flags)
{
	struct ox_request req = {
		.op = OX_OP_WRITE_ZEROES, .flags = flags, .offset = offset, .length = length};

	return run_now(image, &req);
}

OX_EXPORT int ox_discard(struct ox_image *image, uint64_t offset, uint64_t length)
{
	struct ox_request req = {.op = OX_OP_DISCARD, .offset = offset, .length = length};

	return run_now(image, &req);
}

OX_EXPORT int ox_flush(struct ox_image *image)
{
	struct ox_request req = {.op = OX_OP_FLUSH};

	return run_now(image, &req);
}

OX_EXPORT int ox_extent_at(struct ox_image *image, uint64_t offset, uint64_t length,
			   struct ox_extent *ret_extent)
{
	struct ox_request req = {
		.op = OX_OP_EXTENT, .offset = offset, .length = length, .extent = ret_extent};

	return run_now(image, &req);
}
