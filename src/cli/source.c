/* SPDX-License-Identifier: MIT */
/* An image as the command line names it: a path, or --image-opts. */
#include <errno.h>
#include <stddef.h>
#include <limits.h>
#include <stdlib.h>
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
	source->is_nbd = source->is_nbd || strcmp(value, "nbd") == 0;
	source->is_null = source->is_null || strcmp(value, "null-co") == 0;
	source->part.is_raw = strcmp(value, "raw") == 0;
	/* The file itself, with no format over it, is what raw means here. */
	if (strcmp(value, "file") == 0 || strcmp(value, "nbd") == 0 ||
	    strcmp(value, "null-co") == 0)
		value = "raw";
	source->open.format = value;
	return 0;
}

/* raw below another format is where a part of a file is named. */
static int set_protocol(struct ox_cli_source *source, const char *key, const char *value)
{
	if (strcmp(key, "file.driver") == 0 && strcmp(value, "raw") == 0) {
		source->part.file_is_raw = true;
		return 0;
	}
	source->is_nbd = strcmp(value, "nbd") == 0;
	source->is_null = strcmp(value, "null-co") == 0;
	if (source->is_nbd || source->is_null || strcmp(value, "file") == 0 ||
	    strcmp(value, "host_device") == 0)
		return 0;
	return bad_value(key, value);
}

/* Below the first image there are files alone. */
static int set_backing_protocol(struct ox_cli_source *source, const char *key, const char *value)
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

/* Of the file below the image. One that cannot be written makes the image so; the other way round
 * it is of no concern. */
static int set_file_read_only(struct ox_cli_source *source, const char *key, const char *value)
{
	bool on;
	int r = parse_bool(key, value, &on);

	if (r == 0 && on)
		source->open.flags |= OX_OPEN_READ_ONLY;
	return r;
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

static int set_detect_zeroes(struct ox_cli_source *source, const char *key, const char *value)
{
	static const char *const modes[] = {"on", "unmap"};

	source->detect_zeroes = NULL;
	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		if (strcmp(modes[i], value) == 0)
			source->detect_zeroes = modes[i];
	}
	return source->detect_zeroes || strcmp(value, "off") == 0 ? 0 : bad_value(key, value);
}

static int set_cache_size(struct ox_cli_source *source, const char *key, const char *value)
{
	uint64_t *target = strcmp(key, "l2-cache-size") == 0 ? &source->open.l2_cache_bytes
							     : &source->open.refcount_cache_bytes;

	source->caches_stated++;
	if (ox_cli_size_parse(value, target) == 0)
		return 0;
	ox_cli_error("Parameter '%s' expects a size", key);
	return -EINVAL;
}

/* All of the caches; what the other options leave of it is the L2 tables'. */
static int set_all_caches(struct ox_cli_source *source, const char *key, const char *value)
{
	source->all_caches_stated = true;
	if (ox_cli_size_parse(value, &source->cache_bytes) == 0)
		return 0;
	ox_cli_error("Parameter '%s' expects a size", key);
	return -EINVAL;
}

static int set_entry_size(struct ox_cli_source *source, const char *key, const char *value)
{
	if (ox_cli_size_parse(value, &source->l2_entry_bytes) == 0)
		return 0;
	ox_cli_error("Parameter '%s' expects a size", key);
	return -EINVAL;
}

/* What a guest's machine tells of itself: of no concern to a program that has one image. */
static int ignore(struct ox_cli_source *source, const char *key, const char *value)
{
	(void)source;
	(void)key;
	(void)value;
	return 0;
}

static int ignore_bool(struct ox_cli_source *source, const char *key, const char *value)
{
	bool on;

	(void)source;
	return parse_bool(key, value, &on);
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
	{"file.file.driver", set_protocol},
	{"file.locking", set_locking},
	{"locking", set_locking},
	{"file.aio", set_aio},
	{"aio", set_aio},
	{"cache.direct", set_direct},
	{"file.cache.direct", set_direct},
	{"cache.no-flush", set_no_flush},
	{"file.cache.no-flush", set_no_flush},
	{"read-only", set_flag},
	{"file.read-only", set_file_read_only},
	{"force-share", set_flag},
	{"discard", set_discard},
	{"file.discard", set_discard},
	{"detect-zeroes", set_detect_zeroes},
	{"l2-cache-size", set_cache_size},
	{"refcount-cache-size", set_cache_size},
	{"cache-size", set_all_caches},
	{"l2-cache-entry-size", set_entry_size},
	{"node-name", ignore},
	{"file.node-name", ignore},
	{"backing.node-name", ignore},
	{"cache-clean-interval", ignore},
	{"overlap-check", ignore},
	{"overlap-check.template", ignore},
	{"overlap-check.main-header", ignore_bool},
	{"overlap-check.active-l1", ignore_bool},
	{"overlap-check.active-l2", ignore_bool},
	{"overlap-check.refcount-table", ignore_bool},
	{"overlap-check.refcount-block", ignore_bool},
	{"overlap-check.snapshot-table", ignore_bool},
	{"overlap-check.inactive-l1", ignore_bool},
	{"overlap-check.inactive-l2", ignore_bool},
	{"overlap-check.bitmap-directory", ignore_bool},
	{"auto-read-only", ignore_bool},
	{"lazy-refcounts", ignore_bool},
	{"pass-discard-request", ignore_bool},
	{"pass-discard-snapshot", ignore_bool},
	{"pass-discard-other", ignore_bool},
	{"discard-no-unref", ignore_bool},
	{"file.auto-read-only", ignore_bool},
	{"backing", set_backing},
	{"backing.driver", set_backing_format},
	{"backing.file.driver", set_backing_protocol},
	{"backing.file.filename", refuse},
};

int ox_cli_source_option(struct ox_cli_source *source, const char *key, const char *value)
{
	for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++) {
		if (strcmp(settings[i].key, key) == 0)
			return settings[i].set(source, key, value ? value : "on");
	}
	if (ox_cli_nbd_option(&source->nbd, key, value ? value : "on") == 0 ||
	    ox_cli_part_option(&source->part, key, value ? value : "on") == 0 ||
	    ox_cli_null_option(&source->null, key, value ? value : "on") == 0)
		return 0;
	ox_cli_error("Invalid parameter '%s'", key);
	return -EINVAL;
}

/* Said when the image is opened: until then nobody knows how to call it. */
static void share_caches(struct ox_cli_source *source)
{
	struct ox_open_options *open = &source->open;
	const uint64_t all = source->cache_bytes;

	if (!source->all_caches_stated)
		return;
	if (source->caches_stated > 1)
		source->fault = "cache-size, l2-cache-size and refcount-cache-size may not be set "
				"at the same time";
	else if (open->l2_cache_bytes > all)
		source->fault = "l2-cache-size may not exceed cache-size";
	else if (open->refcount_cache_bytes > all)
		source->fault = "refcount-cache-size may not exceed cache-size";
	else if (open->refcount_cache_bytes)
		open->l2_cache_bytes = all - open->refcount_cache_bytes;
	else if (open->l2_cache_bytes)
		open->refcount_cache_bytes = all - open->l2_cache_bytes;
	else
		open->l2_cache_bytes = all;
}

/* What was file:a:b is shown, and would be typed, as ./a:b. */
static int guard_colon(struct ox_cli_source *source)
{
	if (asprintf(&source->uri, "./%s", source->path) < 0) {
		source->uri = NULL;
		ox_cli_error("%s", strerror(ENOMEM));
		return -ENOMEM;
	}
	source->path = source->uri;
	return 0;
}

/* A key of a driver that is not the one, or that has been given a name. */
static const char *stray_key(const struct ox_cli_source *source)
{
	if (source->nbd.first_key && (source->path || !source->is_nbd))
		return source->nbd.first_key;
	if (source->null.first_key && (source->path || !source->is_null))
		return source->null.first_key;
	return NULL;
}

/* Where the image is: what the description says, or what the argument or its filename names. */
static int set_place(struct ox_cli_source *source)
{
	struct ox_cli_name name;
	int r = ox_cli_part_settle(source);
	const char *stray = stray_key(source);

	if (r < 0)
		return r;
	if (!stray && (source->is_nbd || source->is_null) && !source->path) {
		r = source->is_nbd ? ox_cli_nbd_uri(&source->nbd, &source->uri)
				   : ox_cli_null_uri(&source->null, &source->uri);
		if (r < 0)
			return r;
		source->path = source->uri;
		source->open.flags |= OX_OPEN_URI;
		return 0;
	}
	if (stray) {
		ox_cli_error("Invalid parameter '%s'", stray);
		return -EINVAL;
	}
	r = ox_cli_name_parse(source->path ? source->path : "", &name);
	if (r < 0) {
		ox_cli_error("Could not open '%s': Unknown protocol '%s'", source->text,
			     name.protocol);
		return r;
	}
	if (!*name.path) {
		ox_cli_error("Could not open '%s': no file name is given", source->text);
		return -EINVAL;
	}
	source->path = name.path;
	source->open.flags |= name.flags;
	return name.flags || name.path[strcspn(name.path, ":/")] != ':' ? 0 : guard_colon(source);
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

/* "json:..." describes as much as --image-opts do, and both may be stated. */
static int set_image_opts(struct ox_cli_source *source, const char *text)
{
	int r;

	if (ox_cli_json_name_is(text)) {
		r = ox_cli_json_name_parse(text, &source->options);
	} else {
		r = ox_cli_options_parse(&source->options, text);
		if (r < 0)
			ox_cli_error("Invalid option list: %s", text);
	}
	if (r < 0)
		return r;
	for (size_t i = 0; i < source->options.count; i++) {
		const struct ox_cli_option *item = &source->options.items[i];

		r = ox_cli_source_option(source, item->key, item->value);
		if (r < 0)
			return r;
	}
	return 0;
}

void ox_cli_source_settle(struct ox_cli_source *source)
{
	if (source->detect_zeroes && strcmp(source->detect_zeroes, "unmap") == 0 &&
	    source->open.flags & OX_OPEN_NO_DISCARD)
		source->fault = "setting detect-zeroes to unmap is not allowed without setting "
				"discard operation to unmap";
	share_caches(source);
	source->open.cache = combined_cache(source);
}

int ox_cli_cache_parse(const char *what, const char *text, enum ox_cache_mode *ret)
{
	int r = ox_cache_mode_parse(strcmp(text, "off") == 0 ? "none" : text, ret);

	if (r < 0)
		ox_cli_error("Invalid %scache option: %s", what, text);
	return r;
}

int ox_cli_level_parse(const char *text, int *ret)
{
	char *end;
	long level = strtol(text, &end, 10);

	if (*text < '0' || *text > '9' || *end || level < 1 || level > INT_MAX) {
		ox_cli_error("Invalid compression level '%s': 1 to 9, of zstd 1 to 19", text);
		return -EINVAL;
	}
	*ret = (int)level;
	return 0;
}

int ox_cli_source_set(struct ox_cli_source *source, const char *text)
{
	int r = 0;

	source->text = text;
	if (source->image_opts || ox_cli_json_name_is(text))
		r = set_image_opts(source, text);
	else
		source->path = text;
	if (r == 0)
		r = set_place(source);
	if (r < 0)
		return r;
	if (source->locking_off) {
		if (!(source->open.flags & OX_OPEN_READ_ONLY)) {
			ox_cli_error(
				"file.locking=off is allowed for images opened read-only alone");
			return -EINVAL;
		}
		source->open.flags |= OX_OPEN_FORCE_SHARE;
	}
	ox_cli_source_settle(source);
	source->open.backing_policy = OX_BACKING_ALLOW; /* the user's own command on his image */
	/* Beside a format that is stated, it is for what a QED image cannot say. */
	source->open.flags |= OX_OPEN_PROBE;
	return 0;
}

void ox_cli_source_free(struct ox_cli_source *source)
{
	free(source->uri);
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

int ox_cli_source_check(struct ox_context *ctx, const struct ox_cli_source *source,
			char message[OX_CLI_FAULT_MAX])
{
	const uint64_t entry = source->l2_entry_bytes;
	struct ox_open_options opts = source->open;
	struct ox_image_info *info;
	uint32_t cluster;

	if (source->fault) {
		snprintf(message, OX_CLI_FAULT_MAX, "%s", source->fault);
		return -EINVAL;
	}
	opts.flags |= OX_OPEN_READ_ONLY | OX_OPEN_FORCE_SHARE;
	if (!entry || ox_image_info_read(ctx, source->path, &opts, &info, NULL) < 0)
		return 0; /* the opening tells */
	cluster = info->cluster_bytes;
	ox_image_info_free(info);
	if (entry >= 512 && entry <= cluster && (entry & (entry - 1)) == 0)
		return 0;
	snprintf(message, OX_CLI_FAULT_MAX,
		 "L2 cache entry size must be a power of two between 512 and the cluster size (%u)",
		 cluster);
	return -EINVAL;
}

void ox_cli_source_tell(const struct ox_cli_source *source, const struct ox_error *err, int r)
{
	static const char snapshot[] = "Failed to load snapshot: ";
	const char *why = err ? ox_error_message(err) : strerror(-r);

	if (ox_cli_snapshot_is_set(&source->open) && strncmp(why, snapshot, strlen(snapshot)) == 0)
		ox_cli_error("%s", why);
	else
		ox_cli_error("Could not open '%s': %s", source->text, why);
}

int ox_cli_source_open(struct ox_context *ctx, struct ox_cli_source *source,
		       struct ox_image **ret_image)
{
	char message[OX_CLI_FAULT_MAX];
	struct ox_error *err = NULL;
	int r;

	r = ox_cli_source_check(ctx, source, message);
	if (r < 0) {
		ox_cli_error("Could not open '%s': %s", source->text, message);
		return r;
	}
	ox_cli_progress_begin(&source->progress, false, NULL);
	source->open.warn = ox_cli_warn;
	source->open.progress = ox_cli_progress_report;
	source->open.opaque = &source->progress;
	r = ox_image_open(ctx, source->path, &source->open, ret_image, &err);
	ox_cli_progress_end(&source->progress, r == 0);
	if (r < 0)
		ox_cli_source_tell(source, err, r);
	ox_error_free(err);
	return r;
}
