/* SPDX-License-Identifier: MIT */
/* oxbow map --picture, --image */
#include <errno.h>
#include <string.h>

#include "cli/picture.h"

#define JSON_BINS 1024

static int write_svg(const struct ox_cli_picture *picture, const char *path)
{
	FILE *to = fopen(path, "w");
	bool failed;

	if (!to) {
		ox_cli_error("Could not write '%s': %m", path);
		return -EIO;
	}
	ox_cli_picture_svg(picture, to);
	failed = ferror(to);
	if (fclose(to) != 0 || failed) {
		ox_cli_error("Could not write '%s': %m", path);
		return -EIO;
	}
	return 0;
}

/* The name decides, so that an image which was named by mistake is not written over. */
static int refuse_name(const char *path)
{
	size_t length = strlen(path);

	if (length > 4 && strcmp(path + length - 4, ".svg") == 0)
		return 0;
	ox_cli_error("The picture is SVG: its name must end in .svg, not '%s'", path);
	return -EINVAL;
}

static int draw(const struct ox_cli_picture *picture, const struct ox_cli_picture_wish *wish,
		const struct ox_cli_terminal *terminal)
{
	if (wish->svg)
		return write_svg(picture, wish->svg);
	if (wish->output == OX_CLI_JSON) {
		ox_cli_picture_json(picture);
		return 0;
	}
	if (ox_cli_picture_text(picture, terminal) == 0)
		return 0;
	ox_cli_error("%s", strerror(ENOMEM));
	return -ENOMEM;
}

int ox_cli_map_picture(struct ox_cli_source *source, const struct ox_cli_picture_wish *wish)
{
	struct ox_layout_options opts = OX_LAYOUT_OPTIONS_INIT;
	struct ox_cli_terminal terminal = ox_cli_terminal_look();
	struct ox_cli_picture picture = {.name = source->text};
	struct ox_cli_progress progress;
	struct ox_context *ctx;
	struct ox_error *err = NULL;
	int r;

	if ((wish->svg && refuse_name(wish->svg) < 0) ||
	    ox_cli_context_new(source->engine, &ctx) < 0)
		return 1;
	opts.format = source->open.format;
	opts.flags = source->open.flags & (OX_OPEN_FORCE_SHARE | OX_OPEN_URI);
	opts.bins = wish->svg			  ? OX_CLI_SVG_BINS
		    : wish->output == OX_CLI_JSON ? JSON_BINS
						  : ox_cli_text_bins(&terminal);
	opts.guest_bins = wish->svg			? OX_CLI_SVG_GUEST_BINS
			  : wish->output == OX_CLI_JSON ? JSON_BINS
							: ox_cli_text_guest_bins(&terminal);
	opts.progress = ox_cli_progress_report;
	opts.opaque = &progress;
	ox_cli_progress_begin(&progress, false, stderr);
	r = ox_image_layout_read(ctx, source->path, &opts, &picture.layout, &err);
	ox_cli_progress_end(&progress, r == 0);
	ox_context_free(ctx);
	if (r < 0)
		ox_cli_error("Could not open '%s': %s", source->text,
			     err ? ox_error_message(err) : strerror(-r));
	else
		r = draw(&picture, wish, &terminal);
	ox_error_free(err);
	ox_image_layout_free(picture.layout);
	return r < 0 ? 1 : 0;
}
