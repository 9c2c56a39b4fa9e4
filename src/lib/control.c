/* SPDX-License-Identifier: MIT */
/*
 * The control plane of images: opening, closing, reopening, resizing. Each is a job, a task with a
 * result; the synchronous call turns the reactor until its job is done, the other one leaves that
 * to the program's loop. An image has one job at a time.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/assert.h"
#include "check/check.h"
#include "lib/context.h"
#include "lib/options.h"
#include "lib/source.h"

struct ox_job {
	struct ox_context *ctx;
	void (*run_co)(struct ox_job *job);
	struct ox_image *image; /* an opening's: its result */
	struct ox_error *err;
	int result;
	bool begun;
	bool done;
	bool cancelled;
	bool on_worker; /* open(2) may wait: a worker thread makes it */
	struct ox_source source;
	struct ox_open_options opts;
	struct ox_io *io;
	uint64_t new_bytes;
	bool read_only;
};

/* ---- what the jobs do ---- */

static int open_store(void *arg)
{
	struct ox_job *job = arg;

	return ox_source_open(job->ctx, &job->source, ox_store_flags(&job->opts), &job->io,
			      &job->err);
}

static void open_co(struct ox_job *job)
{
	struct ox_img_open how = {.opts = &job->opts, .recovery = &ox_check_recovery};

	/* The program is asked on its own thread. */
	job->result = ox_source_ask(&job->source, &job->opts, &job->err);
	if (job->result == 0)
		job->result = job->on_worker ? ox_aio_work_co(open_store, job) : open_store(job);
	if (job->result < 0)
		return;
	job->result = ox_img_open_co(job->io, &how, &job->image, &job->err);
	if (job->result < 0) {
		ox_io_close(job->io);
		return;
	}
	job->image->ctx = job->ctx;
	ox_list_init(&job->image->queues);
	ox_list_init(&job->image->waiting);
	job->ctx->images++;
}

static void close_co(struct ox_job *job)
{
	job->result = ox_img_close_co(job->image, &job->err);
	job->image = NULL;
}

static void reopen_co(struct ox_job *job)
{
	job->result = ox_img_reopen_co(job->image, job->read_only, &job->err);
}

static void resize_co(struct ox_job *job)
{
	job->result = ox_img_resize_co(job->image, job->new_bytes, &job->err);
}

static void job_task_co(void *arg)
{
	struct ox_job *job = arg;

	job->begun = true;
	ox_co_watch_cancel(&job->cancelled);
	if (job->cancelled)
		job->result = ox_error_set(&job->err, -ECANCELED, "Cancelled before it began");
	else
		job->run_co(job);
	job->done = true;
}

static void started_job_task_co(void *arg)
{
	struct ox_job *job = arg;

	job_task_co(job);
	ox_reactor_results_add(job->ctx->reactor);
}

/* ---- their lives ---- */

static struct ox_job *job_new(struct ox_context *ctx, void (*run_co)(struct ox_job *job))
{
	struct ox_job *job = calloc(1, sizeof(*job));

	if (!job)
		return NULL;
	job->ctx = ctx;
	job->run_co = run_co;
	return job;
}

static void job_free(struct ox_job *job)
{
	if (job->image) {
		job->image->jobs--;
		job->image->reopening = false;
	}
	ox_error_free(job->err);
	free(job);
}

/* Gives what the job has brought, and frees it. */
static int job_end(struct ox_job *job, struct ox_image **ret_image, struct ox_error **err)
{
	int r = job->result;

	if (job->run_co == open_co) {
		ox_assert(ret_image);
		if (r == 0)
			*ret_image = job->image;
		job->image = NULL;
	}
	if (r < 0 && err) {
		*err = job->err;
		job->err = NULL;
	}
	job_free(job);
	return r;
}

/* To its end. When the engine fails under a job, that stays: its task may be anywhere. */
static int run_now(struct ox_job *job, struct ox_image **ret_image, struct ox_error **err)
{
	int r = ox_reactor_call(job->ctx->reactor, job_task_co, job);

	if (r == 0)
		return job_end(job, ret_image, err);
	if (!job->begun)
		job_free(job);
	return ox_error_set_errno(err, r, "The I/O engine failed");
}

static int start(struct ox_job *job, struct ox_job **ret_job, struct ox_error **err)
{
	struct ox_reactor *reactor = job->ctx->reactor;
	int r = ox_co_spawn(reactor, started_job_task_co, job);

	if (r < 0) {
		job_free(job);
		return ox_error_set(err, r, "Out of memory");
	}
	job->ctx->jobs++;
	ox_reactor_kick(reactor);
	*ret_job = job;
	return 0;
}

OX_EXPORT bool ox_job_is_done(const struct ox_job *job)
{
	return job->done;
}

OX_EXPORT void ox_job_cancel(struct ox_job *job)
{
	job->cancelled = job->run_co != close_co; /* what was written is not given up */
}

OX_EXPORT int ox_job_end(struct ox_job *job, struct ox_image **ret_image, struct ox_error **err)
{
	ox_assert(job->done);
	job->ctx->jobs--;
	ox_reactor_results_taken(job->ctx->reactor, 1);
	return job_end(job, ret_image, err);
}

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
	job = job_new(ctx, open_co);
	if (!job)
		return ox_error_set(err, -ENOMEM, "Out of memory");
	job->source = source;
	job->opts = opts;
	*ret_job = job;
	return 0;
}

static int open_now(struct ox_context *ctx, struct ox_source source,
		    const struct ox_open_options *opts, struct ox_image **ret_image,
		    struct ox_error **err)
{
	struct ox_job *job;
	int r = open_job_new(ctx, source, opts, &job, err);

	return r < 0 ? r : run_now(job, ret_image, err);
}

static int open_start(struct ox_context *ctx, struct ox_source source,
		      const struct ox_open_options *opts, struct ox_job **ret_job,
		      struct ox_error **err)
{
	struct ox_job *job;
	int r = open_job_new(ctx, source, opts, &job, err);

	if (r < 0)
		return r;
	job->on_worker = true;
	return start(job, ret_job, err);
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

/* A job on the image, which has it to itself but for requests (and for those unless alone). */
static int image_job_new(struct ox_image *image, void (*run_co)(struct ox_job *job), bool alone,
			 struct ox_job **ret_job, struct ox_error **err)
{
	struct ox_job *job;

	ox_assert(image);
	if (image->jobs > 0)
		return ox_error_set(err, -EBUSY, "Another job on '%s' has not ended",
				    image->filename);
	if (alone && !ox_queues_are_idle(image))
		return ox_error_set(err, -EBUSY, "Requests on '%s' are pending", image->filename);
	job = job_new(image->ctx, run_co);
	if (!job)
		return ox_error_set(err, -ENOMEM, "Out of memory");
	job->image = image;
	image->jobs++;
	*ret_job = job;
	return 0;
}

static int close_job_new(struct ox_image *image, struct ox_job **ret_job, struct ox_error **err)
{
	int r = image_job_new(image, close_co, true, ret_job, err);

	if (r < 0)
		return r;
	ox_queues_detach(image);
	image->ctx->images--;
	return 0;
}

static int reopen_job_new(struct ox_image *image, bool read_only, struct ox_job **ret_job,
			  struct ox_error **err)
{
	int r = image_job_new(image, reopen_co, true, ret_job, err);

	if (r < 0)
		return r;
	(*ret_job)->read_only = read_only;
	image->reopening = true;
	return 0;
}

static int resize_job_new(struct ox_image *image, uint64_t new_bytes, struct ox_job **ret_job,
			  struct ox_error **err)
{
	int r = image_job_new(image, resize_co, false, ret_job, err);

	if (r == 0)
		(*ret_job)->new_bytes = new_bytes;
	return r;
}

OX_EXPORT int ox_image_close(struct ox_image *image, struct ox_error **err)
{
	struct ox_job *job;
	int r = close_job_new(image, &job, err);

	return r < 0 ? r : run_now(job, NULL, err);
}

OX_EXPORT int ox_image_close_start(struct ox_image *image, struct ox_job **ret_job,
				   struct ox_error **err)
{
	struct ox_job *job;
	int r = close_job_new(image, &job, err);

	return r < 0 ? r : start(job, ret_job, err);
}

OX_EXPORT int ox_image_reopen(struct ox_image *image, bool read_only, struct ox_error **err)
{
	struct ox_job *job;
	int r = reopen_job_new(image, read_only, &job, err);

	return r < 0 ? r : run_now(job, NULL, err);
}

OX_EXPORT int ox_image_reopen_start(struct ox_image *image, bool read_only, struct ox_job **ret_job,
				    struct ox_error **err)
{
	struct ox_job *job;
	int r = reopen_job_new(image, read_only, &job, err);

	return r < 0 ? r : start(job, ret_job, err);
}

OX_EXPORT int ox_resize(struct ox_image *image, uint64_t new_bytes, struct ox_error **err)
{
	struct ox_job *job;
	int r = resize_job_new(image, new_bytes, &job, err);

	return r < 0 ? r : run_now(job, NULL, err);
}

OX_EXPORT int ox_resize_start(struct ox_image *image, uint64_t new_bytes, struct ox_job **ret_job,
			      struct ox_error **err)
{
	struct ox_job *job;
	int r = resize_job_new(image, new_bytes, &job, err);

	return r < 0 ? r : start(job, ret_job, err);
}
