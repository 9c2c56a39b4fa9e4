/* SPDX-License-Identifier: MIT */
/* ox_image_check: opens the file alone, neither its chain nor the engine. */
#include <errno.h>
#include <string.h>

#include "check/check.h"
#include "fmt/qcow2.h"
#include "lib/context.h"

struct check_job {
	struct ox_io *io;
	const struct ox_check_options *opts;
	struct ox_check_result *ret;
	struct ox_error **err;
	int result;
};

/* 0; -ENOTSUP where the file is not of a format that has a check; or another error. */
static int probe_co(struct ox_io *io, struct ox_error **err)
{
	uint8_t magic[4];
	int r = ox_io_pread_co(io, magic, sizeof(magic), 0);

	if (r < 0)
		return ox_error_set_errno(err, r,
					  "Could not read image for determining its format");
	if (!ox_qcow2_probe(magic, sizeof(magic)))
		return ox_error_set(err, -ENOTSUP, "This image format does not support checks");
	return 0;
}

static void check_job_co(void *arg)
{
	struct check_job *job = arg;

	job->result = job->opts->format ? 0 : probe_co(job->io, job->err);
	if (job->result == 0)
		job->result = ox_check_qcow2_co(job->io, job->opts, job->ret, job->err);
}

static int refuse_options(const struct ox_check_options *opts, struct ox_error **err)
{
	if (opts->format && strcmp(opts->format, "raw") == 0)
		return ox_error_set(err, -ENOTSUP, "This image format does not support checks");
	if (opts->format && strcmp(opts->format, "qcow2") != 0)
		return ox_error_set(err, -EINVAL, "Unknown driver '%s'", opts->format);
	if (opts->repair != OX_REPAIR_NONE && (opts->flags & OX_OPEN_FORCE_SHARE))
		return ox_error_set(err, -EINVAL,
				    "An image that others may be using cannot be repaired");
	return 0;
}

OX_EXPORT int ox_image_check(struct ox_context *ctx, const char *path,
			     const struct ox_check_options *given,
			     struct ox_check_result *ret_result, struct ox_error **err)
{
	struct ox_check_options opts;
	struct ox_check_result result = {0};
	struct check_job job = {.opts = &opts, .ret = &result, .err = err};
	struct ox_open_options how = OX_OPEN_OPTIONS_INIT;
	int r;

	ox_options_copy(&opts, sizeof(opts), given, given ? given->struct_size : 0);
	r = refuse_options(&opts, err);
	if (r < 0)
		return r;
	how.flags = opts.flags & OX_OPEN_FORCE_SHARE;
	how.cache = opts.cache;
	if (opts.repair == OX_REPAIR_NONE)
		how.flags |= OX_OPEN_READ_ONLY;
	r = ox_io_file_open(ctx->reactor, path, ox_store_flags(&how), &job.io, err);
	if (r < 0)
		return r;
	r = ox_reactor_call(ctx->reactor, check_job_co, &job);
	if (r < 0)
		r = ox_error_set_errno(err, r, "Could not check '%s'", path);
	else
		r = job.result;
	ox_io_close(job.io);
	if (r == 0)
		*ret_result = result;
	return r;
}
