/* SPDX-License-Identifier: MIT */
/* An internal snapshot as the command line names it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

#define EXACT "snapshot."

/* The next part of "snapshot.id=ID,snapshot.name=NAME". */
static int set_exact(struct ox_open_options *open, char *part)
{
	char *value = strchr(part, '=');

	if (value) {
		*value++ = '\0';
		if (strcmp(part, EXACT "id") == 0) {
			open->snapshot_id = value;
			return 0;
		}
		if (strcmp(part, EXACT "name") == 0) {
			open->snapshot_name = value;
			return 0;
		}
	}
	ox_cli_error("Invalid parameter '%s'", part);
	return -EINVAL;
}

int ox_cli_snapshot_set(struct ox_open_options *open, char *text)
{
	char *rest = NULL;
	char *whole;
	int r = 0;

	if (strncmp(text, EXACT, strlen(EXACT)) != 0) {
		open->snapshot = text;
		return 0;
	}
	whole = strdup(text);
	if (!whole) {
		ox_cli_error("%s", strerror(ENOMEM));
		return -ENOMEM;
	}
	for (char *part = strtok_r(text, ",", &rest); r == 0 && part;
	     part = strtok_r(NULL, ",", &rest))
		r = set_exact(open, part);
	if (r < 0)
		ox_cli_error("Failed in parsing snapshot param '%s'", whole);
	free(whole);
	return r;
}

bool ox_cli_snapshot_is_set(const struct ox_open_options *open)
{
	return open->snapshot || open->snapshot_id || open->snapshot_name;
}

int ox_cli_snapshot_disk_bytes(struct ox_context *ctx, const struct ox_cli_source *source,
			       const struct ox_image *image, uint64_t *ret)
{
	struct ox_open_options open = source->open;
	uint64_t bytes = ox_image_size(image);
	struct ox_error *err = NULL;
	struct ox_image_info *info;
	int r;

	*ret = bytes;
	if (!ox_cli_snapshot_is_set(&open))
		return 0;
	open.snapshot = NULL;
	open.snapshot_id = NULL;
	open.snapshot_name = NULL;
	r = ox_image_info_read(ctx, source->path, &open, &info, &err);
	if (r < 0) {
		ox_cli_error("Could not open '%s': %s", source->text, ox_error_message(err));
		ox_error_free(err);
		return r;
	}
	*ret = info->virtual_bytes;
	ox_image_info_free(info);
	if (*ret < bytes)
		ox_cli_error("warning: '%s' has been made smaller since its snapshot: the last "
			     "%llu bytes of that are left out",
			     source->text, (unsigned long long)(bytes - *ret));
	return 0;
}
