/* SPDX-License-Identifier: MIT */
/* reopen: the same image in another way. */
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "cli/io/session.h"

struct reopen {
	bool read_only;
	bool writable;
	bool has_cache; /* -c */
	enum ox_cache_mode cache;
	bool changed; /* -o: it has to be closed and opened */
	struct ox_cli_options options;
};

/* Another cache mode needs another way of opening the file: the image is closed and opened again.
 */
static int reopen_with_cache(struct ox_cli_io *io, enum ox_cache_mode cache)
{
	int r = ox_cli_io_close_image(io);

	io->source.open.cache = cache;
	return r < 0 ? r : ox_cli_io_open_image(io);
}

static int change_access(struct ox_cli_io *io, bool read_only)
{
	struct ox_error *err = NULL;
	int r;

	if (ox_image_is_read_only(io->image) == read_only)
		return 0;
	ox_cli_io_aio_drain(io);
	r = ox_image_reopen(io->image, read_only, &err);
	if (r < 0) {
		ox_cli_error("%s", err ? ox_error_message(err) : strerror(-r));
		ox_error_free(err);
		return r;
	}
	if (read_only)
		io->source.open.flags |= OX_OPEN_READ_ONLY;
	else
		io->source.open.flags &= ~(unsigned)OX_OPEN_READ_ONLY;
	return 0;
}

static int cannot_change(const char *name)
{
	ox_cli_error("Cannot change the option '%s'", name);
	return -EINVAL;
}

/* Whether it was opened with the same value. */
static bool was_given(const struct ox_cli_io *io, const struct ox_cli_option *option)
{
	const struct ox_cli_options *given = &io->source.options;

	for (size_t i = 0; i < given->count; i++) {
		if (strcmp(given->items[i].key, option->key) == 0 && given->items[i].value &&
		    option->value)
			return strcmp(given->items[i].value, option->value) == 0;
	}
	return false;
}

/* Each layer goes on with the driver that it has. */
static int check_driver(struct ox_cli_io *io, const char *key, const char *value)
{
	struct ox_open_options opts = io->source.open;
	struct ox_image_info *info;
	bool same;

	if (strcmp(key, "file.driver") == 0)
		return strcmp(value, "file") == 0 ? 0 : cannot_change("driver");
	opts.flags |= OX_OPEN_READ_ONLY | OX_OPEN_FORCE_SHARE;
	if (ox_image_info_read(io->ctx, io->source.path, &opts, &info, NULL) < 0)
		return cannot_change("driver");
	same = strcmp(key, "driver") == 0
		       ? strcmp(value, info->format) == 0
		       : info->backing_format && strcmp(value, info->backing_format) == 0;
	ox_image_info_free(info);
	return same ? 0 : cannot_change("driver");
}

static int check_exclusive(const struct reopen *reopen, const char *key)
{
	if ((reopen->read_only || reopen->writable) && strcmp(key, "read-only") == 0)
		ox_cli_error("Cannot set both -r/-w and 'read-only'");
	else if (reopen->has_cache && strncmp(key, "cache.", 6) == 0)
		ox_cli_error("Cannot set both -c and the cache options");
	else
		return 0;
	return -EINVAL;
}

static int take_one(struct ox_cli_io *io, struct reopen *reopen, const struct ox_cli_option *option)
{
	const char *dot = strrchr(option->key, '.');
	const char *last = dot ? dot + 1 : option->key;
	struct ox_cli_source scratch = OX_CLI_SOURCE_INIT;
	const struct ox_cli_option *kept;
	int r = check_exclusive(reopen, option->key);

	if (r < 0)
		return r;
	if (strcmp(last, "node-name") == 0)
		return was_given(io, option) ? 0 : cannot_change("node-name");
	if (strcmp(last, "driver") == 0)
		return check_driver(io, option->key, option->value ? option->value : "");
	/* The image is left open where a value is wrong. */
	r = ox_cli_source_option(&scratch, option->key, option->value);
	if (r < 0)
		return r;
	reopen->changed = true;
	/* What the source points at must live as long as it does. */
	r = ox_cli_options_add(&io->source.options, option->key, option->value);
	if (r < 0)
		return r;
	kept = &io->source.options.items[io->source.options.count - 1];
	return ox_cli_source_option(&io->source, kept->key, kept->value);
}

static int take_options(struct ox_cli_io *io, struct reopen *reopen)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < reopen->options.count; i++)
		r = take_one(io, reopen, &reopen->options.items[i]);
	return r;
}

static int parse(struct reopen *reopen, int argc, char **argv)
{
	int c;

	optind = 0;
	opterr = 1;
	while ((c = getopt(argc, argv, "rwc:o:")) != -1) {
		if (c == 'r') {
			reopen->read_only = true;
		} else if (c == 'w') {
			reopen->writable = true;
		} else if (c == 'o') {
			if (ox_cli_options_parse(&reopen->options, optarg) < 0) {
				ox_cli_error("Invalid option list: %s", optarg);
				return -EINVAL;
			}
		} else if (c != 'c') {
			return ox_cli_io_usage(argv[0]);
		} else if (ox_cache_mode_parse(optarg, &reopen->cache) < 0) {
			ox_cli_error("Invalid cache option: %s", optarg);
			return -EINVAL;
		} else {
			reopen->has_cache = true;
		}
	}
	if (optind != argc)
		return ox_cli_io_usage(argv[0]);
	if (reopen->read_only && reopen->writable) {
		ox_cli_error("Only one -r/-w option may be given");
		return -EINVAL;
	}
	return 0;
}

static int carry_out(struct ox_cli_io *io, const struct reopen *reopen)
{
	int r = 0;

	if (reopen->read_only || reopen->writable)
		r = change_access(io, reopen->read_only);
	if (r == 0 && reopen->changed) {
		ox_cli_source_settle(&io->source);
		return reopen_with_cache(io, io->source.open.cache);
	}
	if (r == 0 && reopen->has_cache && reopen->cache != io->source.open.cache)
		r = reopen_with_cache(io, reopen->cache);
	return r;
}

int ox_cli_io_reopen(struct ox_cli_io *io, int argc, char **argv)
{
	struct reopen reopen = {.cache = io->source.open.cache};
	int r = parse(&reopen, argc, argv);

	if (r == 0)
		r = take_options(io, &reopen);
	if (r == 0)
		r = carry_out(io, &reopen);
	ox_cli_options_free(&reopen.options);
	return r;
}
