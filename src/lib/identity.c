/* SPDX-License-Identifier: MIT */
/* By what a source is known again. */
#include <errno.h>

#include "lib/job.h"

static void mix(uint64_t *sum, uint64_t value)
{
	for (unsigned i = 0; i < 8; i++)
		*sum = (*sum ^ (value >> (8 * i) & 0xff)) * UINT64_C(1099511628211);
}

static void identity_co(struct ox_job *job)
{
	struct ox_image *image = job->images[0];
	uint64_t *sum = job->work;
	struct ox_extent e;
	uint64_t ns;

	*sum = UINT64_C(14695981039346656037);
	for (const struct ox_image *i = image; i; i = i->backing) {
		mix(sum, i->io->length);
		mix(sum, i->size_bytes);
		if (ox_io_file_changed_ns(i->io, &ns))
			mix(sum, ns);
	}
	for (uint64_t at = 0; at < image->size_bytes && job->result == 0; at += e.length) {
		job->result = ox_img_extent_co(image, at, image->size_bytes - at, &e);
		if (job->result < 0)
			break;
		mix(sum, e.offset);
		mix(sum, e.flags | (uint64_t)e.depth << 32);
		mix(sum, e.flags & OX_EXTENT_HAS_OFFSET ? e.host_offset : 0);
		if (ox_co_is_cancelled())
			job->result = -ECANCELED;
	}
	if (job->result < 0)
		ox_error_set_errno(&job->err, job->result, "Could not read the map of '%s'",
				   image->filename);
}

static const struct ox_job_type identity_type = {.run_co = identity_co};

OX_EXPORT int ox_image_identity(struct ox_image *image, uint64_t *ret_identity,
				struct ox_error **err)
{
	struct ox_job *job;
	int r = ox_job_new(image->ctx, &identity_type, sizeof(uint64_t), &job, err);

	if (r < 0)
		return r;
	r = ox_job_claim(job, image, false, err);
	if (r < 0) {
		ox_job_free(job);
		return r;
	}
	return ox_job_run_for(job, ret_identity, sizeof(*ret_identity), err);
}
