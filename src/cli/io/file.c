/* SPDX-License-Identifier: MIT */
/* open, close, reopen: which image the session is about. */
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "cli/io/session.h"

static void tell_open_failure(const struct ox_cli_source *source, const char *message)
{
	if (source->image_opts)
		ox_cli_error("can't open: %s", message);
	else
		ox_cli_error("can't open device %s: %s", source->text, message);
}

int ox_cli_io_open_image(struct ox_cli_io *io)
{
	struct ox_cli_source *source = &io->source;
	char fault[OX_CLI_FAULT_MAX];
	struct ox_error *err = NULL;
	int r;

	if ((source->open.flags & OX_OPEN_FORCE_SHARE) &&
	    !(source->open.flags & OX_OPEN_READ_ONLY)) {
		tell_open_failure(source, "force-share=on can only be used with read-only images");
		return -EINVAL;
	}
	r = ox_cli_source_check(io->ctx, source, fault);
	if (r < 0) {
		tell_open_failure(source, fault);
		return r;
	}
	ox_cli_progress_begin(&source->progress, false, NULL);
	source->open.warn = ox_cli_warn;
	source->open.progress = ox_cli_progress_report;
	source->open.opaque = &source->progress;
	r = ox_image_open(io->ctx, source->path, &source->open, &io->image, &err);
	ox_cli_progress_end(&source->progress, r == 0);
	if (r < 0) {
		tell_open_failure(source, err ? ox_error_message(err) : strerror(-r));
		ox_error_free(err);
		io->image = NULL;
		return r;
	}
	r = ox_queue_new(io->image, &io->queue);
	if (r < 0) {
		tell_open_failure(source, strerror(-r));
		io->queue = NULL;
		ox_image_close(io->image, NULL);
		io->image = NULL;
	}
	return r;
}

int ox_cli_io_close_image(struct ox_cli_io *io)
{
	struct ox_error *err = NULL;
	int r;

	if (!io->image)
		return 0;
	ox_cli_io_aio_drain(io);
	ox_queue_free(io->queue);
	io->queue = NULL;
	r = ox_image_close(io->image, &err);
	io->image = NULL;
	if (r < 0)
		ox_cli_error("%s: %s", io->source.text, err ? ox_error_message(err) : strerror(-r));
	ox_error_free(err);
	return r;
}

int ox_cli_io_set_discard(struct ox_cli_source *source, const char *mode)
{
	if (strcmp(mode, "ignore") == 0 || strcmp(mode, "off") == 0) {
		source->open.flags |= OX_OPEN_NO_DISCARD;
	} else if (strcmp(mode, "unmap") == 0 || strcmp(mode, "on") == 0) {
		source->open.flags &= ~(unsigned)OX_OPEN_NO_DISCARD;
	} else {
		ox_cli_error("Invalid discard option: %s", mode);
		return -EINVAL;
	}
	return 0;
}

static int set_cache(struct ox_cli_source *source, const char *mode)
{
	if (ox_cache_mode_parse(mode, &source->open.cache) == 0)
		return 0;
	ox_cli_error("Invalid cache option: %s", mode);
	return -EINVAL;
}

/* -o: what points into the list lives as long as the source. */
static int set_options(struct ox_cli_source *source, const char *text)
{
	size_t first = source->options.count;
	int r = ox_cli_options_parse(&source->options, text);

	if (r < 0)
		ox_cli_error("Invalid option list: %s", text);
	for (size_t i = first; r == 0 && i < source->options.count; i++)
		r = ox_cli_source_option(source, source->options.items[i].key,
					 source->options.items[i].value);
	return r;
}

static int take_open_option(struct ox_cli_source *source, int c, const char *command)
{
	switch (c) {
	case 'r':
		source->open.flags |= OX_OPEN_READ_ONLY;
		return 0;
	case 'n':
		source->open.cache = OX_CACHE_NONE;
		return 0;
	case 'U':
		source->open.flags |= OX_OPEN_FORCE_SHARE;
		return 0;
	case 't':
		return set_cache(source, optarg);
	case 'd':
		return ox_cli_io_set_discard(source, optarg);
	case 'o':
		return set_options(source, optarg);
	default:
		return ox_cli_io_usage(command);
	}
}

int ox_cli_io_open(struct ox_cli_io *io, int argc, char **argv)
{
	struct ox_cli_source source = OX_CLI_SOURCE_INIT;
	const char *name;
	int c, r = 0;

	source.open.cache = OX_CACHE_WRITETHROUGH;
	optind = 0;
	opterr = 1;
	while (r == 0 && (c = getopt(argc, argv, "rnUt:d:o:")) != -1)
		r = take_open_option(&source, c, argv[0]);
	if (r == 0 && optind < argc - 1)
		r = ox_cli_io_usage(argv[0]);
	if (r == 0 && io->image) {
		ox_cli_error("file open already, try 'help close'");
		r = -EBUSY;
	}
	name = optind < argc ? argv[optind] : source.path;
	if (r == 0 && !name) {
		ox_cli_error("can't open: no file name is given");
		r = -EINVAL;
	}
	if (r < 0) {
		ox_cli_source_free(&source);
		return r;
	}
	ox_cli_source_free(&io->source);
	free(io->source_text);
	/* The line that name stands in is soon gone. */
	io->source_text = strdup(name);
	io->source = source;
	if (!io->source_text)
		return -ENOMEM;
	r = ox_cli_source_set(&io->source, io->source_text);
	return r < 0 ? r : ox_cli_io_open_image(io);
}

int ox_cli_io_close(struct ox_cli_io *io, int argc, char **argv)
{
	(void)argc;
	(void)argv;
	return ox_cli_io_close_image(io);
}
