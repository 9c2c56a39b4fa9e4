/* SPDX-License-Identifier: MIT */
/* What changes an image's size, or its place in a chain, as jobs. */
#include <errno.h>

#include "base/assert.h"
#include "job/chain.h"
#include "lib/job.h"
#include "lib/options.h"

struct resize {
	struct ox_resize_options opts;
	uint64_t new_bytes;
};

struct commit {
	struct ox_commit_options opts;
	struct ox_commit_result *ret_result;
};

struct rebase {
	struct ox_rebase_options opts;
	struct ox_rebase_result *ret_result;
};

static void resize_co(struct ox_job *job)
{
	const struct resize *resize = job->work;

	job->result =
		ox_img_resize_with_co(job->images[0], resize->new_bytes, &resize->opts, &job->err);
}

static void commit_co(struct ox_job *job)
{
	const struct commit *commit = job->work;
	struct ox_commit_result result = {0};

	job->result = ox_job_commit_co(job->images[0], &commit->opts, &result, &job->err);
	if (job->result == 0 && commit->ret_result)
		*commit->ret_result = result;
}

static void rebase_co(struct ox_job *job)
{
	const struct rebase *rebase = job->work;
	struct ox_rebase_result result = {0};

	job->result = ox_job_rebase_co(job->images[0], &rebase->opts, &result, &job->err);
	if (job->result == 0 && rebase->ret_result)
		*rebase->ret_result = result;
}

static const struct ox_job_type resize_type = {.run_co = resize_co};
static const struct ox_job_type commit_type = {.run_co = commit_co};
static const struct ox_job_type rebase_type = {.run_co = rebase_co};

/* alone: as while it is reopened no request is under way, and those that come are refused. */
static int image_job_new(struct ox_image *image, const struct ox_job_type *type, size_t work_bytes,
			 bool alone, struct ox_job **ret_job, struct ox_error **err)
{
	struct ox_job *job = NULL;
	int r;

	ox_assert(image);
	r = ox_job_new(image->ctx, type, work_bytes, &job, err);
	if (r < 0)
		return r;
	r = ox_job_claim(job, image, alone, err);
	if (r < 0) {
		ox_job_free(job);
		return r;
	}
	image->reopening = alone;
	*ret_job = job;
	return 0;
}

static int resize_new(struct ox_image *image, uint64_t new_bytes,
		      const struct ox_resize_options *given, struct ox_job **ret_job,
		      struct ox_error **err)
{
	struct ox_resize_options opts;
	int r = ox_options_take(&ox_resize_options_type, given, &opts, err);

	if (r == 0)
		r = image_job_new(image, &resize_type, sizeof(struct resize), false, ret_job, err);
	if (r == 0)
		*(struct resize *)(*ret_job)->work = (struct resize){opts, new_bytes};
	return r;
}

static int commit_new(struct ox_image *image, const struct ox_commit_options *given,
		      struct ox_commit_result *ret_result, struct ox_job **ret_job,
		      struct ox_error **err)
{
	struct ox_commit_options opts;
	int r = ox_options_take(&ox_commit_options_type, given, &opts, err);

	if (r == 0)
		r = image_job_new(image, &commit_type, sizeof(struct commit), true, ret_job, err);
	if (r == 0)
		*(struct commit *)(*ret_job)->work = (struct commit){opts, ret_result};
	return r;
}

static int rebase_new(struct ox_image *image, const struct ox_rebase_options *given,
		      struct ox_rebase_result *ret_result, struct ox_job **ret_job,
		      struct ox_error **err)
{
	struct ox_rebase_options opts;
	int r = ox_options_take(&ox_rebase_options_type, given, &opts, err);

	if (r == 0)
		r = image_job_new(image, &rebase_type, sizeof(struct rebase), true, ret_job, err);
	if (r == 0)
		*(struct rebase *)(*ret_job)->work = (struct rebase){opts, ret_result};
	return r;
}

OX_EXPORT int ox_resize_with(struct ox_image *image, uint64_t new_bytes,
			     const struct ox_resize_options *opts, struct ox_error **err)
{
	struct ox_job *job = NULL;
	int r = resize_new(image, new_bytes, opts, &job, err);

	return r < 0 ? r : ox_job_run(job, NULL, err);
}

OX_EXPORT int ox_resize_with_start(struct ox_image *image, uint64_t new_bytes,
				   const struct ox_resize_options *opts, struct ox_job **ret_job,
				   struct ox_error **err)
{
	struct ox_job *job = NULL;
	int r = resize_new(image, new_bytes, opts, &job, err);

	return r < 0 ? r : ox_job_start(job, ret_job, err);
}

OX_EXPORT int ox_commit(struct ox_image *image, const struct ox_commit_options *opts,
			struct ox_commit_result *ret_result, struct ox_error **err)
{
	struct ox_job *job = NULL;
	int r = commit_new(image, opts, ret_result, &job, err);

	return r < 0 ? r : ox_job_run(job, NULL, err);
}

OX_EXPORT int ox_commit_start(struct ox_image *image, const struct ox_commit_options *opts,
			      struct ox_commit_result *ret_result, struct ox_job **ret_job,
			      struct ox_error **err)
{
	struct ox_job *job = NULL;
	int r = commit_new(image, opts, ret_result, &job, err);

	return r < 0 ? r : ox_job_start(job, ret_job, err);
}

OX_EXPORT int ox_rebase(struct ox_image *image, const struct ox_rebase_options *opts,
			struct ox_rebase_result *ret_result, struct ox_error **err)
{
	struct ox_job *job = NULL;
	int r = rebase_new(image, opts, ret_result, &job, err);

	return r < 0 ? r : ox_job_run(job, NULL, err);
}

OX_EXPORT int ox_rebase_start(struct ox_image *image, const struct ox_rebase_options *opts,
			      struct ox_rebase_result *ret_result, struct ox_job **ret_job,
			      struct ox_error **err)
{
	struct ox_job *job = NULL;
	int r = rebase_new(image, opts, ret_result, &job, err);

	return r < 0 ? r : ox_job_start(job, ret_job, err);
}
