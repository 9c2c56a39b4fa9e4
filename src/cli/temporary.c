/* SPDX-License-Identifier: MIT */
/* A temporary overlay: whatever is written to an image goes there, and is gone in the end. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

static int fail(const struct ox_cli_source *source, int code, const struct ox_error *err)
{
	ox_cli_error("Could not open '%s': %s", source->text,
		     err ? ox_error_message(err) : strerror(-code));
	return code;
}

/* Over base, an absolute path. */
static int create_overlay(const struct ox_cli_source *source, struct ox_context *ctx,
			  const char *base, const char *path)
{
	struct ox_create_options options = OX_CREATE_OPTIONS_INIT;
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;
	struct ox_image_info *info;
	struct ox_error *err = NULL;
	int r;

	opts.format = source->open.format;
	opts.flags = OX_OPEN_READ_ONLY | OX_OPEN_FORCE_SHARE | OX_OPEN_PROBE;
	r = ox_image_info_read(ctx, base, &opts, &info, &err);
	if (r == 0) {
		options.format = "qcow2";
		options.virtual_bytes = info->virtual_bytes;
		options.backing_file = base;
		options.backing_format = info->format;
		r = ox_image_create(ctx, path, &options, &err);
		ox_image_info_free(info);
	}
	if (r < 0)
		fail(source, r, err);
	ox_error_free(err);
	return r;
}

static int make(const struct ox_cli_source *source, const char *base, const char *path)
{
	struct ox_context *ctx;
	int r = ox_cli_context_new(OX_ENGINE_THREAD_POOL, &ctx);

	if (r < 0)
		return r;
	r = create_overlay(source, ctx, base, path);
	ox_context_free(ctx);
	return r;
}

int ox_cli_temporary_make(struct ox_cli_source *source, char **ret_path)
{
	const char *folder = getenv("TMPDIR");
	char *base = realpath(source->path, NULL);
	char *path = NULL;
	int fd, r;

	if (ox_cli_source_refuse_part(source, "an overlay") < 0 ||
	    ox_cli_name_refuse_uri(source->path, "the base of an overlay")) {
		free(base);
		return -ENOTSUP;
	}
	if (!base)
		return fail(source, -errno, NULL);
	if (asprintf(&path, "%s/oxbow-XXXXXX", folder && *folder ? folder : "/var/tmp") < 0) {
		free(base);
		return fail(source, -ENOMEM, NULL);
	}
	fd = mkstemp(path);
	r = fd < 0 ? -errno : 0;
	if (fd < 0)
		ox_cli_error("Could not create the temporary overlay '%s': %s", path, strerror(-r));
	else
		close(fd);
	if (r == 0)
		r = make(source, base, path);
	free(base);
	if (r < 0) {
		if (fd >= 0)
			unlink(path);
		free(path);
		return r;
	}
	source->path = path;
	source->open.format = "qcow2";
	source->open.flags &= ~(unsigned)(OX_OPEN_READ_ONLY | OX_OPEN_FORCE_SHARE);
	source->open.backing_format = NULL;
	*ret_path = path;
	return 0;
}

void ox_cli_temporary_drop(char **path)
{
	if (*path)
		(void)unlink(*path);
	free(*path);
	*path = NULL;
}
