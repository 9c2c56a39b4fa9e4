/* SPDX-License-Identifier: MIT */
/* Copies and their verification, as jobs. */
#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "base/assert.h"
#include "job/copy.h"
#include "lib/job.h"
#include "lib/options.h"

struct copy {
	struct ox_copy_options opts;
	struct ox_joined source;
	struct ox_image *target;
	struct ox_copy_result *ret_result;
	uint64_t *ret_offset;
};

static void copy_co(struct ox_job *job)
{
	struct copy *copy = job->work;
	struct ox_copy_result result = {0};

	job->result = ox_copy_run_co(&copy->source, copy->target, &copy->opts, &result, &job->err);
	if (copy->ret_result)
		*copy->ret_result = result;
}

static void verify_co(struct ox_job *job)
{
	struct copy *copy = job->work;
	uint64_t offset = 0;

	job->result =
		ox_copy_verify_co(&copy->source, copy->target, &copy->opts, &offset, &job->err);
	if (job->result == -EILSEQ && copy->ret_offset)
		*copy->ret_offset = offset;
}

static const struct ox_job_type copy_type = {.run_co = copy_co};
static const struct ox_job_type verify_type = {.run_co = verify_co};

static int check_options(const struct ox_copy_options *opts, struct ox_error **err)
{
	if (opts->more_count > 0 && !opts->more_sources)
		return ox_error_set(err, -EINVAL, "No further sources were given");
	if (opts->sparse_bytes % 512 != 0)
		return ox_error_set(err, -EINVAL, "The sparse size must be a multiple of 512");
	return 0;
}

/* The same source may come more than once: it is claimed once. */
static int claim_source(struct ox_job *job, struct ox_image *image, struct ox_error **err)
{
	for (size_t i = 0; i < job->image_count; i++) {
		if (job->images[i] == image)
			return 0;
	}
	if (image->ctx != job->ctx)
		return ox_error_set(err, -EINVAL, "The images are of different contexts");
	return ox_job_claim(job, image, false, err);
}

static int claim_all(struct ox_job *job, struct ox_error **err)
{
	struct copy *copy = job->work;
	uint64_t sum = copy->source.first->size_bytes;
	int r = claim_source(job, copy->source.first, err);

	for (size_t i = 0; r == 0 && i < copy->source.more_count; i++) {
		r = claim_source(job, copy->source.more[i], err);
		if (r == 0 &&
		    (!ox_add_u64(sum, copy->source.more[i]->size_bytes, &sum) || sum > INT64_MAX))
			r = ox_error_set(err, -EFBIG, "The sources are too large together");
	}
	for (size_t i = 0; r == 0 && i < job->image_count; i++) {
		if (job->images[i] == copy->target)
			r = ox_error_set(err, -EINVAL, "An image cannot be copied to itself");
	}
	return r < 0 ? r : claim_source(job, copy->target, err);
}

static int check_part(const struct ox_joined *source, struct ox_error **err)
{
	uint64_t all = ox_joined_all_bytes(source);

	if (source->offset <= all && source->length <= all - source->offset)
		return 0;
	return ox_error_set(err, -EINVAL, "The part to copy ends behind the sources");
}

static int copy_job_new(const struct ox_job_type *type, struct ox_image *source,
			struct ox_image *target, const struct ox_copy_options *given,
			struct ox_job **ret_job, struct ox_error **err)
{
	struct ox_copy_options opts;
	struct ox_job *job;
	struct copy *copy;
	int r = ox_options_take(&ox_copy_options_type, given, &opts, err);

	ox_assert(source && target);
	if (r == 0)
		r = check_options(&opts, err);
	if (r == 0)
		r = ox_job_new(target->ctx, type, sizeof(*copy), &job, err);
	if (r < 0)
		return r;
	copy = job->work;
	copy->opts = opts;
	copy->source = (struct ox_joined){source, opts.more_sources, opts.more_count,
					  opts.source_offset, opts.source_length};
	copy->target = target;
	r = claim_all(job, err);
	if (r == 0)
		r = check_part(&copy->source, err);
	if (r < 0)
		ox_job_free(job);
	else
		*ret_job = job;
	return r;
}

static int copy_new(struct ox_image *source, struct ox_image *target,
		    const struct ox_copy_options *opts, struct ox_copy_result *ret_result,
		    struct ox_job **ret_job, struct ox_error **err)
{
	int r = copy_job_new(&copy_type, source, target, opts, ret_job, err);

	if (r == 0)
		((struct copy *)(*ret_job)->work)->ret_result = ret_result;
	return r;
}

OX_EXPORT int ox_copy(struct ox_image *source, struct ox_image *target,
		      const struct ox_copy_options *opts, struct ox_copy_result *ret_result,
		      struct ox_error **err)
{
	struct ox_job *job;
	int r = copy_new(source, target, opts, ret_result, &job, err);

	return r < 0 ? r : ox_job_run(job, NULL, err);
}

OX_EXPORT int ox_copy_start(struct ox_image *source, struct ox_image *target,
			    const struct ox_copy_options *opts, struct ox_copy_result *ret_result,
			    struct ox_job **ret_job, struct ox_error **err)
{
	struct ox_job *job;
	int r = copy_new(source, target, opts, ret_result, &job, err);

	return r < 0 ? r : ox_job_start(job, ret_job, err);
}

OX_EXPORT int ox_copy_verify(struct ox_image *source, struct ox_image *target,
			     const struct ox_copy_options *opts, uint64_t *ret_offset,
			     struct ox_error **err)
{
	struct ox_job *job;
	int r = copy_job_new(&verify_type, source, target, opts, &job, err);

	if (r < 0)
		return r;
	((struct copy *)job->work)->ret_offset = ret_offset;
	return ox_job_run(job, NULL, err);
}
