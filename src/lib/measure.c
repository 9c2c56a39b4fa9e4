/* SPDX-License-Identifier: MIT */
/* ox_measure: the source's map, in clusters of the target. */
#include "job/measure.h"

#include <errno.h>
#include <string.h>

#include "base/arith.h"
#include "base/assert.h"
#include "lib/job.h"
#include "lib/options.h"

struct measuring {
	struct ox_image *source;
	const struct ox_create_options *target;
	struct ox_measured *ret;
};

static void count_co(struct ox_job *job)
{
	struct measuring *m = job->work;

	job->result = ox_measure_count_co(m->source, m->target, m->ret, &job->err);
}

static const struct ox_job_type measure_type = {.run_co = count_co};

static int count(struct ox_image *source, const struct ox_create_options *target,
		 struct ox_measured *ret, struct ox_error **err)
{
	struct ox_job *job;
	int r = ox_job_new(source->ctx, &measure_type, sizeof(struct measuring), &job, err);

	if (r < 0)
		return r;
	*(struct measuring *)job->work = (struct measuring){source, target, ret};
	r = ox_job_claim(job, source, false, err);
	if (r < 0) {
		ox_job_free(job);
		return r;
	}
	return ox_job_run(job, NULL, err);
}

/* Bitmaps that are in use cannot be copied, and take nothing. */
static int add_bitmaps(struct ox_image *source, const struct ox_create_options *target,
		       struct ox_measure_result *ret, struct ox_error **err)
{
	struct ox_image_info *info;
	uint64_t directory = 0;
	int r = ox_image_info_get(source, &info, err);

	if (r < 0)
		return r;
	if (strcmp(info->format, "qcow2") == 0 && info->version >= 3) {
		ret->has_bitmaps = true;
		for (size_t i = 0; i < info->bitmap_count; i++) {
			if (!info->bitmaps[i].in_use)
				ret->bitmaps += ox_measure_bitmap(target, info->virtual_bytes,
								  &info->bitmaps[i], &directory);
		}
		ret->bitmaps += ox_align_up(directory,
					    target->cluster_bytes ? target->cluster_bytes : 65536);
	}
	ox_image_info_free(info);
	return 0;
}

OX_EXPORT int ox_measure(struct ox_image *source, const struct ox_create_options *given,
			 struct ox_measure_result *ret_result, struct ox_error **err)
{
	struct ox_create_options target;
	struct ox_measured found = {0};
	struct ox_measure_result result;
	uint64_t bytes;
	int r = ox_options_take(&ox_create_options_type, given, &target, err);

	ox_assert(ret_result);
	if (r < 0)
		return r;
	bytes = source && !target.virtual_bytes ? source->size_bytes : target.virtual_bytes;
	r = ox_measure_check(&target, bytes, err);
	if (r == 0 && source)
		r = count(source, &target, &found, err);
	if (r < 0)
		return r;
	ox_measure_add_up(&target, bytes, source ? &found : NULL, &result);
	if (source && strcmp(target.format, "qcow2") == 0 && target.version != 2)
		r = add_bitmaps(source, &target, &result, err);
	if (r == 0)
		*ret_result = result;
	return r;
}
