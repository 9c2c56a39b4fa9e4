/* SPDX-License-Identifier: MIT */
/* ox_image_undo */
#include <errno.h>

#include "check/undo/undo.h"
#include "lib/context.h"
#include "lib/options.h"
#include "lib/source.h"

struct undo_job {
	struct ox_io *undo;
	struct ox_io *image;
	bool force;
	struct ox_undo_outcome outcome;
	struct ox_error **err;
	int result;
};

static void undo_job_co(void *arg)
{
	struct undo_job *job = arg;

	job->result = ox_undo_apply_co(job->undo, job->image, job->force, &job->outcome, job->err);
}

static struct ox_undo_result result_of(const struct ox_undo_outcome *o)
{
	return (struct ox_undo_result){
		.complete = o->complete,
		.restored_blocks = o->blocks,
		.restored_bytes = o->bytes,
		.foreign_sectors = o->changed,
		.image_length_found = o->length_before,
		.image_length = o->length_after,
	};
}

OX_EXPORT int ox_image_undo(struct ox_context *ctx, const char *undo_path, const char *path,
			    const struct ox_undo_options *given, struct ox_undo_result *ret_result,
			    struct ox_error **err)
{
	struct ox_undo_options opts;
	struct undo_job job = {.err = err};
	struct ox_source undo = ox_source_path(undo_path);
	struct ox_source image = ox_source_path(path);
	int r;

	r = ox_options_take(&ox_undo_options_type, given, &opts, err);
	if (r < 0)
		return r;
	job.force = opts.force;
	ox_source_take_flags(&image, opts.flags);
	r = ox_source_open(ctx, &undo, OX_IO_READ_ONLY, &job.undo, err);
	if (r == 0)
		r = ox_source_open(ctx, &image, 0, &job.image, err);
	if (r == 0) {
		r = ox_reactor_call(ctx->reactor, undo_job_co, &job);
		if (r < 0)
			r = ox_error_set_errno(err, r, "Could not undo '%s'", path);
		else
			r = job.result;
	}
	ox_io_close(job.image);
	ox_io_close(job.undo);
	if (r == 0)
		*ret_result = result_of(&job.outcome);
	return r;
}
