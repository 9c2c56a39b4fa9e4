/* SPDX-License-Identifier: MIT */
#include "lib/job.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

int ox_job_new(struct ox_context *ctx, const struct ox_job_type *type, size_t work_bytes,
	       struct ox_job **ret_job, struct ox_error **err)
{
	struct ox_job *job = calloc(1, sizeof(*job));

	if (job && work_bytes > 0)
		job->work = calloc(1, work_bytes);
	if (!job || (work_bytes > 0 && !job->work)) {
		free(job);
		return ox_error_set(err, -ENOMEM, "Out of memory");
	}
	job->ctx = ctx;
	job->type = type;
	*ret_job = job;
	return 0;
}

int ox_job_claim(struct ox_job *job, struct ox_image *image, bool alone, struct ox_error **err)
{
	struct ox_image **images;

	if (image->jobs > 0)
		return ox_error_set(err, -EBUSY, "Another job on '%s' has not ended",
				    image->filename);
	if (alone && !ox_queues_are_idle(image))
		return ox_error_set(err, -EBUSY, "Requests on '%s' are pending", image->filename);
	images = reallocarray(job->images, job->image_count + 1, sizeof(*images));
	if (!images)
		return ox_error_set(err, -ENOMEM, "Out of memory");
	images[job->image_count++] = image;
	job->images = images;
	image->jobs++;
	return 0;
}

void ox_job_free(struct ox_job *job)
{
	for (size_t i = 0; i < job->image_count; i++) {
		job->images[i]->jobs--;
		job->images[i]->reopening = false;
	}
	if (job->work && job->type->free_work)
		job->type->free_work(job->work);
	free(job->work);
	free(job->images);
	ox_error_free(job->err);
	free(job);
}

void ox_job_adopt_image(struct ox_context *ctx, struct ox_image *image)
{
	image->ctx = ctx;
	ox_list_init(&image->queues);
	ox_list_init(&image->waiting);
	ctx->images++;
}

static void job_task_co(void *arg)
{
	struct ox_job *job = arg;

	job->begun = true;
	ox_co_watch_cancel(&job->cancelled);
	if (job->cancelled)
		job->result = ox_error_set(&job->err, -ECANCELED, "Cancelled before it began");
	else
		job->type->run_co(job);
	job->done = true;
}

static void started_job_task_co(void *arg)
{
	struct ox_job *job = arg;

	job_task_co(job);
	ox_reactor_results_add(job->ctx->reactor);
}

/* Gives what the job has brought, and frees it. */
static int job_end(struct ox_job *job, struct ox_image **ret_image, struct ox_error **err)
{
	int r = job->result;

	if (job->type->opens) {
		ox_assert(ret_image);
		if (r == 0)
			*ret_image = job->opened;
		job->opened = NULL;
	}
	if (r < 0 && err) {
		*err = job->err;
		job->err = NULL;
	}
	ox_job_free(job);
	return r;
}

/* When the engine fails under a job, that stays: its task may be anywhere. */
int ox_job_run(struct ox_job *job, struct ox_image **ret_image, struct ox_error **err)
{
	int r = ox_reactor_call(job->ctx->reactor, job_task_co, job);

	if (r == 0)
		return job_end(job, ret_image, err);
	if (!job->begun)
		ox_job_free(job);
	return ox_error_set_errno(err, r, "The I/O engine failed");
}

int ox_job_run_for(struct ox_job *job, void *ret, size_t ret_bytes, struct ox_error **err)
{
	int r = ox_reactor_call(job->ctx->reactor, job_task_co, job);

	if (r < 0) {
		if (!job->begun)
			ox_job_free(job);
		return ox_error_set_errno(err, r, "The I/O engine failed");
	}
	if (job->result == 0)
		memcpy(ret, job->work, ret_bytes);
	return job_end(job, NULL, err);
}

int ox_job_start(struct ox_job *job, struct ox_job **ret_job, struct ox_error **err)
{
	struct ox_reactor *reactor = job->ctx->reactor;
	int r = ox_co_spawn(reactor, started_job_task_co, job);

	if (r < 0) {
		ox_job_free(job);
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
	job->cancelled = !job->type->keeps_on;
}

OX_EXPORT int ox_job_end(struct ox_job *job, struct ox_image **ret_image, struct ox_error **err)
{
	ox_assert(job->done);
	job->ctx->jobs--;
	ox_reactor_results_taken(job->ctx->reactor, 1);
	return job_end(job, ret_image, err);
}
