/* SPDX-License-Identifier: MIT */
/* ox_image_check: opens the file alone, neither its chain nor the engine. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "check/check.h"
#include "check/override.h"
#include "check/undo/edit.h"
#include "img/probe.h"
#include "lib/context.h"
#include "lib/options.h"
#include "lib/source.h"

struct check_job {
	struct ox_io *image;
	struct ox_io *undo;	 /* the undo file's; NULL: none */
	struct ox_undo_log *log; /* over undo */
	struct ox_io *io;	 /* what the walk sees: image, or a layer over it */
	const struct ox_check_options *opts;
	struct ox_check_result *ret;
	struct ox_error **err;
	int result;
};

/* 0; -ENOTSUP where the file is not of a format that has a check; or another error. A qcow2 header
 * that is stated need not be there. */
static int probe_co(struct ox_io *io, bool states_header, bool *ret_is_qed, struct ox_error **err)
{
	const char *format;
	int r = ox_img_probe_co(io, &format, err);

	if (r < 0)
		return r;
	*ret_is_qed = strcmp(format, "qed") == 0;
	if (!states_header && !*ret_is_qed && strcmp(format, "qcow2") != 0)
		return ox_error_set(err, -ENOTSUP, "This image format does not support checks");
	return 0;
}

static int check_qed_co(struct ox_io *io, const struct ox_check_options *opts,
			struct ox_check_result *ret, struct ox_error **err)
{
	if (opts->header)
		return ox_error_set(err, -EINVAL,
				    "Header fields can be stated for qcow2 images alone, and "
				    "this one is in QED format");
	if (opts->salvage)
		return ox_error_set(err, -EINVAL,
				    "Tables can be salvaged in qcow2 images alone, and "
				    "this one is in QED format");
	if (opts->verify_data)
		return ox_error_set(err, -EINVAL,
				    "A QED image has no compressed clusters, and only those can "
				    "be verified");
	return ox_check_qed_co(io, opts, ret, err);
}

static void check_job_co(void *arg)
{
	struct check_job *job = arg;
	const char *format = job->opts->format;
	bool is_qed = format && strcmp(format, "qed") == 0;

	if (!format)
		job->result = probe_co(job->io, job->opts->header, &is_qed, job->err);
	if (job->result == 0 && job->opts->header && !is_qed)
		job->result = ox_header_override_co(job->io, job->opts->header, job->err);
	if (job->result == 0 && is_qed)
		job->result = check_qed_co(job->io, job->opts, job->ret, job->err);
	else if (job->result == 0)
		job->result = ox_check_qcow2_co(job->io, job->opts, job->ret, job->err);
	if (job->result < 0 || !job->log)
		return;
	job->result = ox_undo_log_complete_co(job->log);
	if (job->result < 0)
		ox_error_set_errno(job->err, job->result, "Could not write '%s'", job->undo->name);
}

static int refuse_options(const struct ox_check_options *opts, struct ox_error **err)
{
	const char *format = opts->format;

	if (format && !ox_formats_find(format))
		return ox_error_set(err, -EINVAL, "Unknown driver '%s'", format);
	if (format && strcmp(format, "qcow2") != 0 && strcmp(format, "qed") != 0)
		return ox_error_set(err, -ENOTSUP, "This image format does not support checks");
	if (opts->header && opts->repair == OX_REPAIR_LEAKS)
		return ox_error_set(err, -EINVAL,
				    "Only a repair of everything writes header fields");
	if (opts->header && opts->repair != OX_REPAIR_NONE && !opts->dry_run && !opts->undo_path)
		return ox_error_set(err, -EINVAL, "Writing header fields needs an undo file");
	if (opts->link_count > 0 && (!opts->salvage || opts->repair != OX_REPAIR_ALL))
		return ox_error_set(err, -EINVAL,
				    "Linking tables needs a repair of everything, and salvage");
	if (opts->link_count > 0 && !opts->links)
		return ox_error_set(err, -EINVAL, "link_count is %zu, but links is NULL",
				    opts->link_count);
	if (opts->salvage && opts->free_lost_tables)
		return ox_error_set(err, -EINVAL, "Salvaging lost tables excludes freeing them");
	if (opts->repair == OX_REPAIR_NONE && (opts->dry_run || opts->undo_path))
		return ox_error_set(err, -EINVAL, "A dry run or an undo file needs a repair");
	if (opts->dry_run && opts->undo_path)
		return ox_error_set(err, -EINVAL,
				    "A dry run writes nothing, and needs no undo file");
	if (opts->repair != OX_REPAIR_NONE && !opts->dry_run && (opts->flags & OX_OPEN_FORCE_SHARE))
		return ox_error_set(err, -EINVAL,
				    "An image that others may be using cannot be repaired");
	return 0;
}

/* ---- what lies between the walk and the file ---- */

static void close_stores(struct check_job *job)
{
	if (job->io != job->image)
		ox_io_close(job->io);
	ox_undo_log_close(job->log);
	ox_io_close(job->undo);
	ox_io_close(job->image);
}

/* An undo file that is there may be all that is left of an earlier state: it is not touched. */
static int open_undo(struct ox_context *ctx, struct check_job *job, struct ox_error **err)
{
	const char *path = job->opts->undo_path;
	int r;

	if (access(path, F_OK) == 0)
		return ox_error_set(err, -EEXIST, "The undo file '%s' exists already", path);
	r = ox_io_file_open(ctx->reactor, path, OX_IO_CREATE, &job->undo, err);
	if (r < 0)
		return r;
	r = ox_undo_log_open(job->undo, job->image, ox_edit_block_bytes(job->image), &job->log);
	return r < 0 ? ox_error_set_errno(err, r, "Could not write '%s'", path) : 0;
}

static int open_stores(struct ox_context *ctx, const struct ox_source *source,
		       struct check_job *job, struct ox_error **err)
{
	const struct ox_check_options *opts = job->opts;
	struct ox_open_options how = OX_OPEN_OPTIONS_INIT;
	int r;

	how.flags = opts->flags & (OX_OPEN_FORCE_SHARE | OX_OPEN_LOCKS_HELD);
	how.cache = opts->cache;
	if (opts->repair == OX_REPAIR_NONE || opts->dry_run)
		how.flags |= OX_OPEN_READ_ONLY;
	r = ox_source_open(ctx, source, ox_store_flags(&how), &job->image, err);
	if (r < 0)
		return r;
	job->io = job->image;
	if (opts->undo_path)
		r = open_undo(ctx, job, err);
	/* A check with a header lays it over the image, and leaves the image alone. */
	if (r == 0 && (opts->undo_path || opts->dry_run || opts->header)) {
		r = ox_edit_open(job->image, job->log, &job->io);
		if (r < 0)
			r = ox_error_set_errno(err, r, "Could not check '%s'", source->name);
	}
	return r;
}

static int check_source(struct ox_context *ctx, const struct ox_source *source,
			const struct ox_check_options *given, struct ox_check_result *ret_result,
			struct ox_error **err)
{
	struct ox_check_options opts;
	struct ox_check_result result = {0};
	struct check_job job = {.opts = &opts, .ret = &result, .err = err};
	struct ox_source where = *source;
	int r;

	r = ox_options_take(&ox_check_options_type, given, &opts, err);
	if (r < 0)
		return r;
	r = refuse_options(&opts, err);
	if (r < 0)
		return r;
	ox_source_take_flags(&where, opts.flags);
	r = open_stores(ctx, &where, &job, err);
	if (r == 0) {
		r = ox_reactor_call(ctx->reactor, check_job_co, &job);
		if (r < 0)
			r = ox_error_set_errno(err, r, "Could not check '%s'", source->name);
		else
			r = job.result;
	}
	close_stores(&job);
	if (r == 0)
		*ret_result = result;
	return r;
}

OX_EXPORT int ox_image_check(struct ox_context *ctx, const char *path,
			     const struct ox_check_options *opts,
			     struct ox_check_result *ret_result, struct ox_error **err)
{
	struct ox_source source = ox_source_path(path);

	return check_source(ctx, &source, opts, ret_result, err);
}

OX_EXPORT int ox_image_check_fd(struct ox_context *ctx, int fd, const char *name,
				const struct ox_check_options *opts,
				struct ox_check_result *ret_result, struct ox_error **err)
{
	struct ox_source source = ox_source_fd(fd, name);

	return check_source(ctx, &source, opts, ret_result, err);
}
