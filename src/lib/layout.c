/* SPDX-License-Identifier: MIT */
/* ox_image_layout_read: as a check, it opens the file alone, neither its chain nor the engine. */
#include <errno.h>
#include <string.h>

#include "base/arith.h"
#include "check/check.h"
#include "img/probe.h"
#include "lib/context.h"
#include "lib/options.h"
#include "lib/source.h"

#define DEFAULT_BINS 4096
#define MAX_BINS 65536

struct layout_job {
	struct ox_io *io;
	const struct ox_layout_options *opts;
	struct ox_image_layout *layout;
	struct ox_error **err;
	int result;
};

/* What is no qcow2 image is refused by its name; one whose header is damaged says so itself. */
static int probe_co(struct layout_job *job)
{
	const char *format;
	int r = ox_img_probe_co(job->io, &format, job->err);

	if (r < 0 || strcmp(format, "qcow2") == 0 || strcmp(format, "raw") == 0)
		return r;
	return ox_error_set(job->err, -ENOTSUP, "An image in %s format has no layout that is known",
			    format);
}

static void layout_job_co(void *arg)
{
	struct layout_job *job = arg;

	job->result = job->opts->format ? 0 : probe_co(job);
	if (job->result < 0)
		return;
	job->result = ox_check_layout_co(job->io, job->opts, &job->layout, job->err);
}

static size_t bins_of(size_t asked)
{
	return asked ? ox_min_u64(asked, MAX_BINS) : DEFAULT_BINS;
}

static int read_source(struct ox_context *ctx, const struct ox_source *source,
		       const struct ox_layout_options *given, struct ox_image_layout **ret_layout,
		       struct ox_error **err)
{
	struct ox_layout_options opts;
	struct layout_job job = {.opts = &opts, .err = err};
	struct ox_open_options how = OX_OPEN_OPTIONS_INIT;
	struct ox_source where = *source;
	int r;

	r = ox_options_take(&ox_layout_options_type, given, &opts, err);
	if (r < 0)
		return r;
	if (opts.format && strcmp(opts.format, "raw") == 0)
		return ox_error_set(err, -ENOTSUP, "A raw image has no layout of its own");
	if (opts.format && strcmp(opts.format, "qcow2") != 0 && ox_formats_find(opts.format))
		return ox_error_set(err, -ENOTSUP,
				    "An image in %s format has no layout that is known",
				    opts.format);
	if (opts.format && strcmp(opts.format, "qcow2") != 0)
		return ox_error_set(err, -EINVAL, "Unknown driver '%s'", opts.format);
	opts.bins = bins_of(opts.bins);
	opts.guest_bins = bins_of(opts.guest_bins);
	how.flags = opts.flags | OX_OPEN_READ_ONLY;
	ox_source_take_flags(&where, opts.flags);
	r = ox_source_open(ctx, &where, ox_store_flags(&how), &job.io, err);
	if (r < 0)
		return r;
	r = ox_reactor_call(ctx->reactor, layout_job_co, &job);
	if (r < 0)
		r = ox_error_set_errno(err, r, "Could not look at '%s'", source->name);
	else
		r = job.result;
	ox_io_close(job.io);
	if (r == 0)
		*ret_layout = job.layout;
	return r;
}

OX_EXPORT int ox_image_layout_read(struct ox_context *ctx, const char *path,
				   const struct ox_layout_options *opts,
				   struct ox_image_layout **ret_layout, struct ox_error **err)
{
	struct ox_source source = ox_source_path(path);

	return read_source(ctx, &source, opts, ret_layout, err);
}

OX_EXPORT int ox_image_layout_read_fd(struct ox_context *ctx, int fd, const char *name,
				      const struct ox_layout_options *opts,
				      struct ox_image_layout **ret_layout, struct ox_error **err)
{
	struct ox_source source = ox_source_fd(fd, name);

	return read_source(ctx, &source, opts, ret_layout, err);
}

OX_EXPORT void ox_image_layout_free(struct ox_image_layout *layout)
{
	ox_check_layout_free(layout);
}
