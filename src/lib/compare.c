/* SPDX-License-Identifier: MIT */
/* Comparisons, as jobs. */
#include "job/compare.h"

#include <errno.h>

#include "base/assert.h"
#include "lib/job.h"
#include "lib/options.h"

struct comparison {
	struct ox_compare_options opts;
	struct ox_image *first;
	struct ox_image *second;
	struct ox_compare_result *ret_result;
};

static void compare_co(struct ox_job *job)
{
	struct comparison *c = job->work;

	job->result = ox_compare_run_co(c->first, c->second, &c->opts, c->ret_result, &job->err);
}

static const struct ox_job_type compare_type = {.run_co = compare_co};

static int claim_both(struct ox_job *job, struct ox_error **err)
{
	struct comparison *c = job->work;
	int r = ox_job_claim(job, c->first, false, err);

	if (r < 0 || c->first == c->second)
		return r;
	return ox_job_claim(job, c->second, false, err);
}

static int compare_new(struct ox_image *first, struct ox_image *second,
		       const struct ox_compare_options *given, struct ox_compare_result *ret_result,
		       struct ox_job **ret_job, struct ox_error **err)
{
	struct ox_compare_options opts;
	struct ox_job *job;
	int r = ox_options_take(&ox_compare_options_type, given, &opts, err);

	ox_assert(first && second && ret_result);
	if (r == 0 && first->ctx != second->ctx)
		r = ox_error_set(err, -EINVAL, "The images are of different contexts");
	if (r == 0)
		r = ox_job_new(first->ctx, &compare_type, sizeof(struct comparison), &job, err);
	if (r < 0)
		return r;
	*(struct comparison *)job->work = (struct comparison){opts, first, second, ret_result};
	r = claim_both(job, err);
	if (r < 0)
		ox_job_free(job);
	else
		*ret_job = job;
	return r;
}

OX_EXPORT int ox_compare(struct ox_image *first, struct ox_image *second,
			 const struct ox_compare_options *opts,
			 struct ox_compare_result *ret_result, struct ox_error **err)
{
	struct ox_job *job;
	int r = compare_new(first, second, opts, ret_result, &job, err);

	return r < 0 ? r : ox_job_run(job, NULL, err);
}

OX_EXPORT int ox_compare_start(struct ox_image *first, struct ox_image *second,
			       const struct ox_compare_options *opts,
			       struct ox_compare_result *ret_result, struct ox_job **ret_job,
			       struct ox_error **err)
{
	struct ox_job *job;
	int r = compare_new(first, second, opts, ret_result, &job, err);

	return r < 0 ? r : ox_job_start(job, ret_job, err);
}
