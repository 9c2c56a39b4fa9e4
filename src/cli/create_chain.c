/* SPDX-License-Identifier: MIT */
/* What the backing file of a file that is to be made may not be. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/cli.h"

char *ox_cli_backing_path(const char *file, const char *backing)
{
	const char *slash = strrchr(file, '/');
	char *path;

	if (*backing == '/' || !slash)
		return strdup(backing);
	if (asprintf(&path, "%.*s%s", (int)(slash + 1 - file), file, backing) < 0)
		return NULL;
	return path;
}

int ox_cli_refuse_backing_name(const char *text, const char *backing)
{
	struct ox_cli_name name;
	int r = ox_cli_name_parse(backing, &name);

	if (r == 0 && !name.protocol[0])
		return 0;
	if (r < 0)
		ox_cli_error("%s: Unknown protocol '%s'\nCould not open backing image.", text,
			     name.protocol);
	else
		ox_cli_error("%s: A backing file is named by its path alone, not '%s'\n"
			     "Could not open backing image.",
			     text, backing);
	return -EINVAL;
}

/* NULL is none. */
static bool is_same(const char *target, const char *path)
{
	struct stat a, b;

	return path && stat(target, &a) == 0 && stat(path, &b) == 0 && a.st_dev == b.st_dev &&
	       a.st_ino == b.st_ino;
}

int ox_cli_refuse_same_file(const char *text, const char *target, const char *path)
{
	if (strcmp(target, path) != 0 && !is_same(target, path))
		return 0;
	ox_cli_error("%s: Error: Trying to create an image with the same filename as the backing "
		     "file",
		     text);
	return -EINVAL;
}

int ox_cli_refuse_loop(struct ox_context *ctx, const char *text, const char *target,
		       const char *path, const char *format)
{
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;
	struct ox_image_info *info = NULL;
	struct ox_image_info *below;
	int r = 0;

	opts.flags = OX_OPEN_READ_ONLY | OX_OPEN_PROBE | OX_OPEN_FORCE_SHARE;
	opts.format = format;
	while (r == 0 && path) {
		r = ox_image_info_read(ctx, path, &opts, &below, NULL);
		ox_image_info_free(info);
		info = r == 0 ? below : NULL;
		path = info ? info->backing_path : NULL;
		opts.format = info ? info->backing_format : NULL;
		if (is_same(target, path)) {
			ox_cli_error("%s: Error: it is in the chain of the backing file already: "
				     "'%s' is based on it",
				     text, info->filename);
			r = -ELOOP;
		}
	}
	ox_image_info_free(info);
	return r == -ELOOP ? r : 0;
}
