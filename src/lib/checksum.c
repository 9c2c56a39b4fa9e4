/* SPDX-License-Identifier: MIT */
/* Checksums, as jobs. */
#include "job/checksum.h"

#include "base/assert.h"
#include "lib/job.h"
#include "lib/options.h"

struct summing {
	struct ox_checksum_options opts;
	struct ox_image *image;
	uint8_t *ret_digest;
};

static void checksum_co(struct ox_job *job)
{
	struct summing *s = job->work;

	job->result = ox_checksum_run_co(s->image, &s->opts, s->ret_digest, &job->err);
}

static const struct ox_job_type checksum_type = {.run_co = checksum_co};

static int checksum_new(struct ox_image *image, const struct ox_checksum_options *given,
			uint8_t *ret_digest, struct ox_job **ret_job, struct ox_error **err)
{
	struct ox_checksum_options opts;
	struct ox_job *job;
	int r = ox_options_take(&ox_checksum_options_type, given, &opts, err);

	ox_assert(image && ret_digest);
	if (r == 0)
		r = ox_job_new(image->ctx, &checksum_type, sizeof(struct summing), &job, err);
	if (r < 0)
		return r;
	*(struct summing *)job->work = (struct summing){opts, image, ret_digest};
	r = ox_job_claim(job, image, false, err);
	if (r < 0)
		ox_job_free(job);
	else
		*ret_job = job;
	return r;
}

OX_EXPORT int ox_checksum(struct ox_image *image, const struct ox_checksum_options *opts,
			  uint8_t *ret_digest, struct ox_error **err)
{
	struct ox_job *job;
	int r = checksum_new(image, opts, ret_digest, &job, err);

	return r < 0 ? r : ox_job_run(job, NULL, err);
}

OX_EXPORT int ox_checksum_start(struct ox_image *image, const struct ox_checksum_options *opts,
				uint8_t *ret_digest, struct ox_job **ret_job, struct ox_error **err)
{
	struct ox_job *job;
	int r = checksum_new(image, opts, ret_digest, &job, err);

	return r < 0 ? r : ox_job_start(job, ret_job, err);
}
