/* SPDX-License-Identifier: MIT */
/* An image as the command line names it: a path, or --image-opts. */
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "cli/cli.h"

static int bad_value(const char *key, const char *value)
{
	ox_cli_error("Parameter '%s' does not accept value '%s'", key, value);
	return -EINVAL;
}

static int parse_bool(const char *key, const char *value, bool *ret)
{
	if (ox_cli_bool_parse(value, ret) == 0)
		return 0;
	ox_cli_error("Parameter '%s' expects 'on' or 'off'", key);
	return -EINVAL;
}

static int set_format(struct ox_cli_source *source, const char *key, const char *value)
{
	(void)key;
	/* The file itself, with no format over it, is what raw means here. */
	source->open.format = strcmp(value, "file") == 0 ? "raw" : value;
	return 0;
}

static int set_protocol(struct ox_cli_source *source, const char *key, const char *value)
{
	(void)source;
	if (strcmp(value, "file") == 0 || strcmp(value, "host_device") == 0)
		return 0;
	return bad_value(key, value);
}

static int set_path(struct ox_cli_source *source, const char *key, const char *value)
{
	(void)key;
	source->path = value;
	return 0;
}

static int set_locking(struct ox_cli_source *source, const char *key, const char *value)
{
	if (strcmp(value, "auto") != 0 && strcmp(value, "on") != 0 && strcmp(value, "off") != 0)
		return bad_value(key, value);
	source->locking_off = strcmp(value, "off") == 0;
	return 0;
}

static int set_aio(struct ox_cli_source *source, const char *key, const char *value)
{
	if (strcmp(value, "threads") == 0)
		source->engine = OX_ENGINE_THREAD_POOL;
	else if (strcmp(value, "io_uring") == 0)
		source->engine = OX_ENGINE_IO_URING;
	else
		return bad_value(key, value);
	return 0;
}

static int set_direct(struct ox_cli_source *source, const char *key, const char *value)
{
	source->direct_set = true;
	return parse_bool(key, value, &source->direct);
}

static int set_no_flush(struct ox_cli_source *source, const char *key, const char *value)
{
	return parse_bool(key, value, &source->no_flush);
}

static int set_flag(struct ox_cli_source *source, const char *key, const char *value)
{
	unsigned flag = strcmp(key, "read-only") == 0 ? OX_OPEN_READ_ONLY : OX_OPEN_FORCE_SHARE;
	bool on;
	int r = parse_bool(key, value, &on);

	if (r < 0)
		return r;
	source->open.flags = on ? source->open.flags | flag : source->open.flags & ~flag;
	return 0;
}

static int set_discard(struct ox_cli_source *source, const char *key, const char *value)
{
	if (strcmp(value, "unmap") == 0 || strcmp(value, "on") == 0)
		source->open.flags &= ~(unsigned)OX_OPEN_NO_DISCARD;
	else if (strcmp(value, "ignore") == 0 || strcmp(value, "off") == 0)
		source->open.flags |= OX_OPEN_NO_DISCARD;
	else
		return bad_value(key, value);
	return 0;
}

static int set_cache_size(struct ox_cli_source *source, const char *key, const char *value)
{
	uint64_t *target = strcmp(key, "l2-cache-size") == 0 ? &source->open.l2_cache_bytes
							     : &source->open.refcount_cache_bytes;

	if (ox_cli_size_parse(value, target) == 0)
		return 0;
	ox_cli_error("Parameter '%s' expects a size", key);
	return -EINVAL;
}

static int set_backing(struct ox_cli_source *source, const char *key, const char *value)
{
	if (*value)
		return bad_value(key, value);
	source->open.flags |= OX_OPEN_NO_BACKING;
	return 0;
}

static int set_backing_format(struct ox_cli_source *source, const char *key, const char *value)
{
	(void)key;
	source->open.backing_format = value;
	return 0;
}

static int refuse(struct ox_cli_source *source, const char *key, const char *value)
{
	(void)source;
	(void)value;
	ox_cli_error("Parameter '%s' is not supported: the backing file is the one that the image "
		     "names",
		     key);
	return -ENOTSUP;
}

static const struct {
	const char *key;
	int (*set)(struct ox_cli_source *source, const char *key, const char *value);
} settings[] = {
	{"driver", set_format},
	{"file.driver", set_protocol},
	{"file.filename", set_path},
	{"filename", set_path},
	{"file.locking", set_locking},
	{"locking", set_locking},
	{"file.aio", set_aio},
	{"aio", set_aio},
	{"cache.direct", set_direct},
	{"file.cache.direct", set_direct},
	{"cache.no-flush", set_no_flush},
	{"file.cache.no-flush", set_no_flush},
	{"read-only", set_flag},
	{"force-share", set_flag},
	{"discard", set_discard},
	{"file.discard", set_discard},
	{"l2-cache-size", set_cache_size},
	{"refcount-cache-size", set_cache_size},
	{"backing", set_backing},
	{"backing.driver", set_backing_format},
	{"backing.file.driver", set_protocol},
	{"backing.file.filename", refuse},
};

int ox_cli_source_option(struct ox_cli_source *source, const char *key, const char *value)
{
	for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++) {
		if (strcmp(settings[i].key, key) == 0)
			return settings[i].set(source, key, value ? value : "on");
	}
	ox_cli_error("Invalid parameter '%s'", key);
	return -EINVAL;
}

static enum ox_cache_mode combined_cache(const struct ox_cli_source *source)
{
	enum ox_cache_mode mode = source->open.cache;
	bool through = mode == OX_CACHE_WRITETHROUGH || mode == OX_CACHE_DIRECTSYNC;

	if (source->no_flush)
		return OX_CACHE_UNSAFE;
	if (!source->direct_set)
		return mode;
	if (source->direct)
		return through ? OX_CACHE_DIRECTSYNC : OX_CACHE_NONE;
	return through ? OX_CACHE_WRITETHROUGH : OX_CACHE_WRITEBACK;
}

static int set_image_opts(struct ox_cli_source *source, const char *text)
{
	int r = ox_cli_options_parse(&source->options, text);

	if (r < 0) {
		ox_cli_error("Invalid option list: %s", text);
		return r;
	}
	for (size_t i = 0; i < source->options.count; i++) {
		const struct ox_cli_option *item = &source->options.items[i];

		r = ox_cli_source_option(source, item->key, item->value);
		if (r < 0)
			return r;
	}
	return 0;
}

int ox_cli_source_set(struct ox_cli_source *source, const char *text)
{
	int r = 0;

	source->text = text;
	if (source->image_opts)
		r = set_image_opts(source, text);
	else
		source->path = text;
	if (r < 0)
		return r;
	if (!source->path || !*source->path) {
		ox_cli_error("Could not open '%s': no file name is given", text);
		return -EINVAL;
	}
	if (source->locking_off) {
		if (!(source->open.flags & OX_OPEN_READ_ONLY)) {
			ox_cli_error(
				"file.locking=off is allowed for images opened read-only alone");
			return -EINVAL;
		}
		source->open.flags |= OX_OPEN_FORCE_SHARE;
	}
	source->open.cache = combined_cache(source);
	source->open.backing_policy = OX_BACKING_ALLOW; /* the user's own command on his image */
	/* Beside a format that is stated, it is for what a QED image cannot say. */
	source->open.flags |= OX_OPEN_PROBE;
	return 0;
}

void ox_cli_source_free(struct ox_cli_source *source)
{
	ox_cli_options_free(&source->options);
}

int ox_cli_context_new(enum ox_engine engine, struct ox_context **ret_ctx)
{
	struct ox_error *err = NULL;
	int r = ox_context_new(engine, ret_ctx, &err);

	if (r < 0)
		ox_cli_error("%s", err ? ox_error_message(err) : strerror(-r));
	ox_error_free(err);
	return r;
}

int ox_cli_source_open(struct ox_context *ctx, struct ox_cli_source *source,
		       struct ox_image **ret_image)
{
	struct ox_error *err = NULL;
	int r;

	ox_cli_progress_begin(&source->progress, false, NULL);
	source->open.warn = ox_cli_warn;
	source->open.progress = ox_cli_progress_report;
	source->open.opaque = &source->progress;
	r = ox_image_open(ctx, source->path, &source->open, ret_image, &err);
	ox_cli_progress_end(&source->progress, r == 0);
	if (r < 0)
		ox_cli_error("Could not open '%s': %s", source->text,
			     err ? ox_error_message(err) : strerror(-r));
	ox_error_free(err);
	return r;
}
