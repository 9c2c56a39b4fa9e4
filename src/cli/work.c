/* SPDX-License-Identifier: MIT */
/* One image, opened for a verb's work, and closed. */
#include <errno.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/signals.h"

static int close_image(struct ox_image *image, int r)
{
	struct ox_error *err = NULL;
	int closed = ox_image_close(image, &err);

	if (closed < 0 && r == 0) {
		ox_cli_error("%s", err ? ox_error_message(err) : strerror(-closed));
		r = closed;
	}
	ox_error_free(err);
	return r;
}

static int work_in_context(struct ox_cli_source *source,
			   int (*work)(struct ox_image *image, void *arg), void *arg)
{
	struct ox_context *ctx;
	struct ox_image *image;
	int r = ox_cli_context_new(source->engine, &ctx);

	if (r < 0)
		return r;
	r = ox_cli_source_open(ctx, source, &image);
	if (r == 0)
		r = close_image(image, work(image, arg));
	ox_context_free(ctx);
	return r;
}

int ox_cli_work_on(struct ox_cli_source *source, const char *text,
		   int (*work)(struct ox_image *image, void *arg), void *arg)
{
	int r;

	if (source->image_opts && source->open.format) {
		ox_cli_error("--image-opts and --format are mutually exclusive");
		return -EINVAL;
	}
	r = ox_cli_source_set(source, text);
	if (r == 0)
		r = work_in_context(source, work, arg);
	ox_cli_source_free(source);
	ox_cli_signals_die();
	return r;
}
