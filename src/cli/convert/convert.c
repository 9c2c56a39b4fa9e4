/* SPDX-License-Identifier: MIT */
/* oxbow convert */
#include "cli/convert/convert.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/signals.h"

/* ---- the sources ---- */

/* Past the page cache where the file system has that, else through it. */
static int open_source(struct ox_cli_convert *c, size_t i)
{
	struct ox_cli_source *source = &c->sources[i];
	struct ox_error *err = NULL;
	int r;

	*source = (struct ox_cli_source)OX_CLI_SOURCE_INIT;
	source->image_opts = c->image_opts;
	source->open.format = c->format;
	source->open.cache = c->source_cache;
	source->open.snapshot = c->at.snapshot;
	source->open.snapshot_id = c->at.snapshot_id;
	source->open.snapshot_name = c->at.snapshot_name;
	source->open.flags = OX_OPEN_READ_ONLY | (c->force_share ? OX_OPEN_FORCE_SHARE : 0);
	r = ox_cli_source_set(source, c->names[i]);
	if (r < 0)
		return r;
	source->open.warn = ox_cli_warn;
	r = ox_image_open(c->ctx, source->path, &source->open, &c->images[i], &err);
	if (r == -EINVAL &&
	    (source->open.cache == OX_CACHE_NONE || source->open.cache == OX_CACHE_DIRECTSYNC)) {
		ox_error_free(err);
		err = NULL;
		source->open.cache = OX_CACHE_WRITEBACK;
		r = ox_image_open(c->ctx, source->path, &source->open, &c->images[i], &err);
	}
	if (r < 0)
		ox_cli_source_tell(source, err, r);
	ox_error_free(err);
	return r;
}

/* Bitmaps stay behind; where they were asked for, that is an error. */
static int look_for_bitmaps(struct ox_cli_convert *c, size_t i)
{
	struct ox_image_info *info;
	size_t count;

	if (ox_image_info_get(c->images[i], &info, NULL) < 0)
		return 0;
	count = info->bitmap_count;
	ox_image_info_free(info);
	if (count == 0)
		return 0;
	if (c->bitmaps) {
		ox_cli_error("'%s' has persistent bitmaps, and copying them is not supported",
			     c->names[i]);
		return -ENOTSUP;
	}
	if (!c->quiet)
		ox_cli_error("warning: the persistent bitmaps of '%s' are not copied", c->names[i]);
	return 0;
}

/* Of a snapshot, as much as its image has now. */
static int add_bytes(struct ox_cli_convert *c, size_t i)
{
	uint64_t bytes = ox_image_size(c->images[i]);
	uint64_t shown;
	int r = ox_cli_snapshot_disk_bytes(c->ctx, &c->sources[i], c->images[i], &shown);

	if (r < 0)
		return r;
	c->total_bytes += shown;
	c->copy_bytes += bytes < shown ? bytes : shown;
	return 0;
}

static int open_sources(struct ox_cli_convert *c)
{
	int r = 0;

	c->sources = calloc(c->source_count, sizeof(*c->sources));
	c->images = calloc(c->source_count, sizeof(struct ox_image *));
	if (!c->sources || !c->images) {
		ox_cli_error("%s", strerror(ENOMEM));
		return -ENOMEM;
	}
	for (size_t i = 0; r == 0 && i < c->source_count; i++) {
		r = open_source(c, i);
		if (r == 0)
			r = look_for_bitmaps(c, i);
		if (r == 0)
			r = add_bytes(c, i);
	}
	return r;
}

static void close_sources(struct ox_cli_convert *c)
{
	for (size_t i = 0; c->images && i < c->source_count; i++) {
		if (c->images[i] && ox_image_close(c->images[i], NULL) < 0)
			ox_cli_error("warning: could not close '%s'", c->names[i]);
		ox_cli_source_free(&c->sources[i]);
	}
	free(c->sources);
	free(c->images);
}

/* ---- copying ---- */

static int salvage(void *opaque, uint64_t offset, uint64_t length, int error)
{
	const struct ox_cli_convert *c = opaque;

	(void)length;
	if (!c->quiet)
		ox_cli_error("warning: error while reading offset %llu: %s",
			     (unsigned long long)offset, strerror(-error));
	return 0;
}

static void report(void *opaque, uint64_t done, uint64_t total)
{
	struct ox_cli_convert *c = opaque;

	ox_cli_progress_report(&c->progress, done, total);
}

static int interrupted(void *opaque)
{
	struct ox_cli_convert *c = opaque;

	return ox_cli_signals_interrupted(&c->progress);
}

static int mark(void *opaque, uint64_t offset)
{
	struct ox_cli_convert *c = opaque;

	return ox_build_mark(c->build, offset);
}

/* By -B or by -o; what is zero in the source may not be left out then. */
static bool is_backed(const struct ox_cli_convert *c)
{
	return c->backing || (c->values.count > 0 && ox_cli_create_get(&c->values, "backing_file"));
}

static unsigned copy_flags(const struct ox_cli_convert *c)
{
	unsigned flags = c->any_order ? OX_COPY_ANY_ORDER : 0;

	if (c->progress.stream) /* else nobody sees what is counted */
		flags |= OX_COPY_COUNT;
	if (ox_build_is_new(c->build) && !is_backed(c))
		flags |= OX_COPY_TARGET_IS_NEW;
	if (c->target_is_zero)
		flags |= OX_COPY_TARGET_IS_ZERO;
	if (c->sparse_set && c->sparse_bytes == 0)
		flags |= OX_COPY_ALLOCATE;
	if (is_backed(c))
		flags |= OX_COPY_TOP_ONLY;
	if (c->compress)
		flags |= OX_COPY_COMPRESS;
	if (ox_cli_convert_is_unsafe(c))
		flags |= OX_COPY_KEEP_PAGES;
	return flags;
}

static void set_options(const struct ox_cli_convert *c, struct ox_copy_options *opts)
{
	opts->flags = copy_flags(c);
	opts->sparse_bytes = c->sparse_bytes;
	opts->memory_bytes = c->memory_bytes;
	opts->tasks = c->tasks;
	opts->rate_bytes = c->rate_bytes;
	opts->more_sources = c->images + 1;
	opts->more_count = c->source_count - 1;
	opts->source_offset = c->source_offset;
	opts->source_length = c->copy_bytes;
	opts->start =
		ox_build_start(c->build) < c->copy_bytes ? ox_build_start(c->build) : c->copy_bytes;
	opts->progress = report;
	opts->interrupted = interrupted;
	opts->unreadable = c->salvage ? salvage : NULL;
	opts->mark = c->resume ? mark : NULL;
	opts->opaque = (void *)c;
}

static int verify(struct ox_cli_convert *c, const struct ox_copy_options *opts)
{
	struct ox_error *err = NULL;
	uint64_t offset;
	int r = ox_copy_verify(c->images[0], ox_build_image(c->build), opts, &offset, &err);

	if (r < 0 && r != -ECANCELED)
		ox_cli_error("%s", ox_error_message(err));
	ox_error_free(err);
	return r;
}

/* What a target that was there has where the sources have nothing. */
static int zero_rest(struct ox_cli_convert *c)
{
	struct ox_image *target = ox_build_image(c->build);
	uint64_t rest = c->total_bytes - c->copy_bytes;
	int r;

	if (rest == 0 || ox_build_is_new(c->build))
		return 0;
	if (ox_image_size(target) < c->total_bytes) {
		ox_cli_error("output file is smaller than input file");
		return -EINVAL;
	}
	r = ox_write_zeroes(target, c->copy_bytes, rest, OX_REQ_MAY_UNMAP);
	if (r < 0)
		ox_cli_error("error while writing at byte %llu: %s",
			     (unsigned long long)c->copy_bytes, strerror(-r));
	return r;
}

static int copy(struct ox_cli_convert *c)
{
	struct ox_copy_options opts = OX_COPY_OPTIONS_INIT;
	struct ox_error *err = NULL;
	int r = zero_rest(c);

	if (r < 0 || c->copy_bytes == 0)
		return r;
	set_options(c, &opts);
	if (!c->progress_json)
		ox_cli_progress_report(&c->progress, 0, 1);
	r = ox_copy(c->images[0], ox_build_image(c->build), &opts, NULL, &err);
	if (r < 0 && r != -ECANCELED)
		ox_cli_error("%s", ox_error_message(err));
	ox_error_free(err);
	return r == 0 && c->verify ? verify(c, &opts) : r;
}

static int publish(struct ox_cli_convert *c)
{
	struct ox_error *err = NULL;
	int r = ox_build_publish(c->build, &err);

	c->build = NULL;
	if (r < 0)
		ox_cli_error("%s", ox_error_message(err));
	ox_error_free(err);
	return r;
}

static void begin_progress(struct ox_cli_convert *c)
{
	FILE *stream = c->to_pipe ? stderr : stdout;

	if (c->progress_json && !c->quiet)
		ox_cli_progress_begin_json(&c->progress, "bytes", stream);
	else
		ox_cli_progress_begin(&c->progress, c->show_progress && !c->quiet, stream);
	if (c->quiet)
		c->progress.stream = NULL;
}

static int copy_and_publish(struct ox_cli_convert *c)
{
	int r = c->from_stdin ? ox_cli_convert_from_stdin(c) : copy(c);

	return r < 0 ? r : publish(c);
}

static int run(struct ox_cli_convert *c)
{
	int r = c->from_stdin ? 0 : open_sources(c);

	if (r == 0 && c->choose_part)
		c->choose_part(c);
	if (r == 0 && !c->to_pipe)
		r = ox_cli_convert_begin(c);
	if (r == 0) {
		begin_progress(c);
		r = c->to_pipe ? ox_cli_convert_to_pipe(c) : copy_and_publish(c);
		ox_cli_progress_end(&c->progress, r == 0);
	}
	ox_build_abandon(c->build);
	close_sources(c);
	return r;
}

int ox_cli_convert_run(struct ox_cli_convert *c, int status)
{
	if (status < 0) {
		status = 1;
		ox_cli_signals_catch();
		if (ox_cli_context_new(OX_ENGINE_DEFAULT, &c->ctx) == 0) {
			status = run(c) < 0;
			ox_context_free(c->ctx);
		}
		ox_cli_source_free(&c->target_source);
	}
	ox_cli_convert_free(c);
	status = ox_cli_finish_output(status);
	if (status != 0)
		ox_cli_signals_die();
	return status;
}

int ox_cli_convert(int argc, char **argv)
{
	struct ox_cli_convert c = {.target_source = OX_CLI_SOURCE_INIT};

	return ox_cli_convert_run(&c, ox_cli_convert_parse(&c, argc, argv));
}
