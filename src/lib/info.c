/* SPDX-License-Identifier: MIT */
/* ox_image_info_read: opens the file alone, neither its chain nor the engine. */
#include "lib/info.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/context.h"
#include "oxbow.h"
#include "rt/reactor.h"

#define EXPORT __attribute__((visibility("default")))
#define STAT_BLOCK_BYTES 512u

struct job {
	struct ox_io *io;
	const char *filename;
	bool probe;
	struct ox_info_facts *facts;
	struct ox_error **err;
	int result;
};

static int probe_co(struct ox_io *io, bool *ret_is_qcow2, struct ox_error **err)
{
	uint8_t magic[4];
	int r = ox_io_pread_co(io, magic, sizeof(magic), 0);

	if (r < 0)
		return ox_error_set_errno(err, r,
					  "Could not read image for determining its format");
	*ret_is_qcow2 = ox_qcow2_probe(magic, sizeof(magic));
	return 0;
}

static void read_job_co(void *arg)
{
	struct job *job = arg;

	job->result = job->probe ? probe_co(job->io, &job->facts->is_qcow2, job->err) : 0;
	if (job->result == 0 && job->facts->is_qcow2)
		job->result = ox_info_read_qcow2_co(job->io, job->filename, job->facts, job->err);
}

/* Whether the format is to be probed, or which of the two it is. */
static int choose_format(const struct ox_open_options *opts, bool *ret_probe, bool *ret_qcow2,
			 struct ox_error **err)
{
	const char *format = opts ? opts->format : NULL;

	if (format && strcmp(format, "qcow2") != 0 && strcmp(format, "raw") != 0)
		return ox_error_set(err, -EINVAL, "Unknown driver '%s'", format);
	if (!format && !(opts && opts->flags & OX_OPEN_PROBE))
		return ox_error_set(err, -EINVAL, "No image format is stated");
	*ret_probe = !format;
	*ret_qcow2 = format && strcmp(format, "qcow2") == 0;
	return 0;
}

static int gather(struct ox_context *ctx, const char *path, bool probe, unsigned io_flags,
		  struct ox_info_facts *facts, struct ox_error **err)
{
	struct job job = {.filename = path, .probe = probe, .facts = facts, .err = err};
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
	bool probe = false;
	int r = choose_format(opts, &probe, &facts.is_qcow2, err);

	if (r < 0)
		return r;
	if (opts && opts->flags & OX_OPEN_FORCE_SHARE)
		io_flags |= OX_IO_FORCE_SHARE;
	r = gather(ctx, path, probe, io_flags, &facts, err);
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
