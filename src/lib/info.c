/* SPDX-License-Identifier: MIT */
/* What an image says of itself: of a file alone, neither its chain nor the engine is opened; of an
 * open image, beside its use. */
#include "lib/info.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "img/probe.h"
#include "lib/options.h"
#include "lib/source.h"

struct job {
	struct ox_io *io;
	struct ox_image *image; /* whose io is; NULL: io is a file of its own */
	const char *filename;
	struct ox_info_facts *facts;
	struct ox_error **err;
	int result;
};

static int read_co(struct job *job)
{
	struct ox_info_facts *facts = job->facts;
	int r;

	facts->file_bytes = job->io->length;
	r = ox_io_actual_bytes(job->io, &facts->actual_bytes);
	if (r == -EOPNOTSUPP)
		facts->actual_bytes = UINT64_MAX;
	else if (r < 0)
		return ox_error_set_errno(job->err, r, "Could not look at '%s'", job->filename);
	r = 0;
	if (!facts->format)
		r = ox_img_probe_co(job->io, &facts->format, job->err);
	if (r < 0 || strcmp(facts->format, "raw") == 0)
		return r;
	if (strcmp(facts->format, "qcow2") == 0)
		return ox_info_read_qcow2_co(job->io, job->filename, facts, job->err);
	return ox_info_read_recognised_co(job->io, facts, job->err);
}

static void read_job_co(void *arg)
{
	struct job *job = arg;
	struct ox_image *image = job->image;

	if (image && image->ops->hold_header_co)
		image->ops->hold_header_co(image, true);
	job->result = read_co(job);
	if (image && image->ops->hold_header_co)
		image->ops->hold_header_co(image, false);
}

/* NULL: it is to be probed. */
static int choose_format(const struct ox_open_options *opts, const char **ret_format,
			 struct ox_error **err)
{
	const char *format = opts->format;

	if (!format && !(opts->flags & OX_OPEN_PROBE))
		return ox_error_set(err, -EINVAL, "No image format is stated");
	*ret_format = format ? ox_formats_find(format) : NULL;
	if (format && !*ret_format)
		return ox_error_set(err, -EINVAL, "Unknown driver '%s'", format);
	return 0;
}

/* Runs the job, whose store is open, and makes its facts the caller's. */
static int read_store(struct ox_context *ctx, struct job *job, struct ox_image_info **ret_info)
{
	struct ox_image_info *info = NULL;
	int r = ox_reactor_call(ctx->reactor, read_job_co, job);

	if (r < 0)
		r = ox_error_set_errno(job->err, r, "Could not read '%s'", job->filename);
	else
		r = job->result;
	if (r == 0) {
		info = ox_info_pack(job->facts, job->filename);
		if (!info)
			r = ox_error_set(job->err, -ENOMEM, "Out of memory");
	}
	ox_info_facts_free(job->facts);
	if (r == 0)
		*ret_info = info;
	return r;
}

static int read_source(struct ox_context *ctx, const struct ox_source *source,
		       const struct ox_open_options *given, struct ox_image_info **ret_info,
		       struct ox_error **err)
{
	struct ox_info_facts facts = {0};
	struct job job = {.filename = source->name, .facts = &facts, .err = err};
	struct ox_open_options opts;
	struct ox_source where = *source;
	int r = ox_options_take(&ox_open_options_type, given, &opts, err);

	if (r == 0)
		r = choose_format(&opts, &facts.format, err);
	if (r < 0)
		return r;
	ox_source_take_options(&where, &opts);
	opts.flags |= OX_OPEN_READ_ONLY;
	opts.cache = OX_CACHE_WRITEBACK;
	r = ox_source_ask(&where, &opts, err);
	if (r == 0)
		r = ox_source_open(ctx, &where, ox_store_flags(&opts), &job.io, err);
	if (r < 0)
		return r;
	r = read_store(ctx, &job, ret_info);
	ox_io_close(job.io);
	return r;
}

OX_EXPORT int ox_image_info_read(struct ox_context *ctx, const char *path,
				 const struct ox_open_options *opts,
				 struct ox_image_info **ret_info, struct ox_error **err)
{
	struct ox_source source = ox_source_path(path);

	return read_source(ctx, &source, opts, ret_info, err);
}

OX_EXPORT int ox_image_info_read_fd(struct ox_context *ctx, int fd, const char *name,
				    const struct ox_open_options *opts,
				    struct ox_image_info **ret_info, struct ox_error **err)
{
	struct ox_source source = ox_source_fd(fd, name);

	return read_source(ctx, &source, opts, ret_info, err);
}

OX_EXPORT int ox_image_info_get(struct ox_image *image, struct ox_image_info **ret_info,
				struct ox_error **err)
{
	struct ox_info_facts facts = {.format = image->ops->format};
	struct job job = {
		.io = image->io,
		.image = image,
		.filename = image->filename,
		.facts = &facts,
		.err = err,
	};

	if (image->reopening)
		return ox_error_set(err, -EBUSY, "'%s' is being reopened", image->filename);
	return read_store(image->ctx, &job, ret_info);
}

OX_EXPORT void ox_image_info_free(struct ox_image_info *info)
{
	free(info);
}
