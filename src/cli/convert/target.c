/* SPDX-License-Identifier: MIT */
/* The target of oxbow convert. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cli/convert/convert.h"
#include "cli/signals.h"

static uint64_t add_text(uint64_t sum, const char *text)
{
	for (; text && *text; text++)
		sum = (sum ^ (uint8_t)*text) * UINT64_C(1099511628211);
	return (sum ^ 0xff) * UINT64_C(1099511628211);
}

/* What the target is made of: the sources, and the options that its bytes depend on. */
static int find_identity(struct ox_cli_convert *c, char *text, size_t size)
{
	uint64_t sum = add_text(UINT64_C(14695981039346656037), c->target_format);
	struct ox_error *err = NULL;
	uint64_t identity = 0;
	int r = 0;

	for (size_t i = 0; i < c->options.count; i++)
		sum = add_text(add_text(sum, c->options.items[i].key), c->options.items[i].value);
	sum = add_text(add_text(sum, c->backing), c->backing_format);
	sum = add_text(add_text(sum, c->at.snapshot), c->at.snapshot_id);
	sum = add_text(sum, c->at.snapshot_name);
	sum = add_text(sum, c->compress ? "compress" : "");
	sum = (sum ^ (uint64_t)c->compression_level) * UINT64_C(1099511628211);
	for (size_t i = 0; r == 0 && i < c->source_count; i++) {
		r = ox_image_identity(c->images[i], &identity, &err);
		sum = (sum ^ identity) * UINT64_C(1099511628211);
	}
	if (r < 0)
		ox_cli_error("%s", ox_error_message(err));
	ox_error_free(err);
	snprintf(text, size, "%zu sources, %" PRIu64 " bytes, %016" PRIx64, c->source_count,
		 c->total_bytes, sum);
	return r;
}

/* What the first cluster of a refcount table covers. */
static uint64_t table_reach(const struct ox_create_options *create)
{
	uint64_t cluster = create->cluster_bytes ? create->cluster_bytes : 65536;
	unsigned bits = create->refcount_bits ? create->refcount_bits : 16;

	return cluster * cluster * cluster / bits;
}

/* Of the data of all sources, and at most what a full disk takes. */
static int measure_sources(struct ox_cli_convert *c, const struct ox_create_options *create,
			   uint64_t *ret, struct ox_error **err)
{
	struct ox_create_options target = *create;
	struct ox_measure_result each = {0};
	uint64_t sum = 0;
	int r = 0;

	if (c->source_count > 1)
		target.virtual_bytes = 0;
	for (size_t i = 0; r == 0 && i < c->source_count; i++) {
		r = ox_measure(c->images[i], &target, &each, err);
		sum += each.required;
	}
	if (r == 0 && sum < *ret)
		*ret = sum;
	return r;
}

/* The refcount table gets room for all that comes, so that the file becomes no longer than measured
 * (docs/jobs.md). The sources are measured only where a table could be too short. */
static int expect(struct ox_cli_convert *c, struct ox_create_options *create)
{
	struct ox_measure_result full = {0};
	struct ox_error *err = NULL;
	uint64_t bytes;
	int r;

	if (strcmp(create->format, "qcow2") != 0 || c->from_stdin)
		return 0;
	r = ox_measure(NULL, create, &full, &err);
	bytes = full.fully_allocated;
	if (r == 0 && bytes > table_reach(create) && !(c->sparse_set && c->sparse_bytes == 0))
		r = measure_sources(c, create, &bytes, &err);
	if (r == 0)
		create->expected_bytes = bytes > table_reach(create) ? bytes : 0;
	else if (c->salvage)
		r = 0; /* a map that is damaged: what there is decides */
	else
		ox_cli_error("%s", err ? ox_error_message(err) : strerror(-r));
	ox_error_free(err);
	return r;
}

static int fill_create(struct ox_cli_convert *c, struct ox_create_options *create)
{
	int r = ox_cli_create_apply(&c->values, c->target, create);

	if (r < 0)
		return r;
	create->format = c->target_format;
	create->virtual_bytes = c->total_bytes;
	create->backing_file = ox_cli_create_get(&c->values, "backing_file");
	create->backing_format = ox_cli_create_get(&c->values, "backing_fmt");
	create->interrupted = ox_cli_signals_interrupted;
	create->opaque = &c->progress;
	return expect(c, create);
}

static void tell_failure(const struct ox_cli_convert *c, const struct ox_error *err, int r)
{
	const char *why = err ? ox_error_message(err) : strerror(-r);

	if (c->no_create)
		ox_cli_error("Could not open '%s': %s", c->target, why);
	else if (c->choose_part)
		ox_cli_error("%s: error while creating output image: %s", c->target, why);
	else
		ox_cli_error("%s: error while converting %s: %s", c->target, c->target_format, why);
}

/* Of a target that is there: how it is opened. */
static int set_target_source(struct ox_cli_convert *c)
{
	struct ox_cli_source *source = &c->target_source;

	source->image_opts = c->target_image_opts;
	source->open.format = c->target_image_opts ? NULL : c->target_format;
	source->open.cache = c->cache_set ? c->cache : OX_CACHE_WRITEBACK;
	source->open.warn = ox_cli_warn;
	source->open.compression_level = c->compression_level;
	return ox_cli_source_set(source, c->target);
}

/* Before what is there is given up for it. */
static int check_backing(const struct ox_cli_convert *c, const struct ox_create_options *create)
{
	char *path;
	int r;

	if (!create->backing_file || (c->target_source.open.flags & OX_OPEN_URI))
		return 0;
	r = ox_cli_refuse_backing_name(c->target, create->backing_file);
	if (r < 0)
		return r;
	path = ox_cli_backing_path(c->target_source.path, create->backing_file);
	if (!path)
		return -ENOMEM;
	r = ox_cli_refuse_same_file(c->target, c->target_source.path, path);
	if (r == 0)
		r = ox_cli_refuse_loop(c->ctx, c->target, c->target_source.path, path,
				       create->backing_format);
	free(path);
	return r;
}

int ox_cli_convert_begin(struct ox_cli_convert *c)
{
	struct ox_build_options build = OX_BUILD_OPTIONS_INIT;
	struct ox_create_options create = OX_CREATE_OPTIONS_INIT;
	struct ox_error *err = NULL;
	char identity[256];
	int r = set_target_source(c);

	if (r == 0 && !c->no_create)
		r = fill_create(c, &create);
	if (r == 0 && !c->no_create)
		r = check_backing(c, &create);
	if (r == 0 && c->resume)
		r = find_identity(c, identity, sizeof(identity));
	if (r < 0)
		return r;
	build.open = &c->target_source.open;
	build.create = c->no_create ? NULL : &create;
	build.identity = c->resume ? identity : NULL;
	build.flags = (c->no_create ? OX_BUILD_EXISTING : 0) | (c->resume ? OX_BUILD_RESUME : 0);
	if (ox_cli_convert_is_unsafe(c))
		build.flags |= OX_BUILD_UNSAFE;
	r = ox_build_begin(c->ctx, c->target_source.path, &build, &c->build, &err);
	if (r < 0)
		tell_failure(c, err, r);
	ox_error_free(err);
	return r;
}
