/* SPDX-License-Identifier: MIT */
/* ox_image_info_read: opens the file alone, neither its chain nor the engine. */
#include "lib/info.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "img/probe.h"
#include "lib/context.h"
#include "oxbow.h"
#include "rt/reactor.h"

#define EXPORT __attribute__((visibility("default")))
#define STAT_BLOCK_BYTES 512u

struct job {
	struct ox_io *io;
	const char *filename;
	struct ox_info_facts *facts;
	struct ox_error **err;
	int result;
};

static int read_facts_co(struct job *job)
{
	struct ox_info_facts *facts = job->facts;
	int r = 0;

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

	job->result = read_facts_co(job);
}

/* NULL: it is to be probed. */
static int choose_format(const struct ox_open_options *opts, const char **ret_format,
			 struct ox_error **err)
{
	const char *format = opts ? opts->format : NULL;

	if (!format && !(opts && opts->flags & OX_OPEN_PROBE))
		return ox_error_set(err, -EINVAL, "No image format is stated");
	*ret_format = format ? ox_formats_find(format) : NULL;
	if (format && !*ret_format)
		return ox_error_set(err, -EINVAL, "Unknown driver '%s'", format);
	return 0;
}

static int gather(struct ox_context *ctx, const char *path, unsigned io_flags,
		  struct ox_info_facts *facts, struct ox_error **err)
{
	struct job job = {.filename = path, .facts = facts, .err = err};
	struct stat st;
	int r = ox_io_file_open(ctx->reactor, path, io_flags, &job.io, err);

	if (r < 0)
		return r;
	facts->file_bytes = job.io->length;
	if (stat(path, &st) < 0)
		r = ox_error_set_errno(err, -errno, "Could not stat '%s'", path);
	else
		facts->actual_bytes = (uint64_t)st.st_blocks * STAT_BLOCK_BYTES;
	if (r == 0) {
		r = ox_reactor_call(ctx->reactor, read_job_co, &job);
		if (r < 0)
			r = ox_error_set_errno(err, r, "Could not read '%s'", path);
		else
			r = job.result;
	}
	ox_io_close(job.io);
	return r;
}

EXPORT int ox_image_info_read(struct ox_context *ctx, const char *path,
			      const struct ox_open_options *opts, struct ox_image_info **ret_info,
			      struct ox_error **err)
{
	struct ox_info_facts facts = {0};
	struct ox_image_info *info;
	unsigned io_flags = OX_IO_READ_ONLY;
	int r = choose_format(opts, &facts.format, err);

	if (r < 0)
		return r;
	if (opts && opts->flags & OX_OPEN_FORCE_SHARE)
		io_flags |= OX_IO_FORCE_SHARE;
	r = gather(ctx, path, io_flags, &facts, err);
	if (r == 0) {
		info = ox_info_pack(&facts, path);
		if (info)
			*ret_info = info;
		else
			r = ox_error_set(err, -ENOMEM, "Out of memory");
	}
	ox_info_facts_free(&facts);
	return r;
}

EXPORT void ox_image_info_free(struct ox_image_info *info)
{
	free(info);
}
