/* SPDX-License-Identifier: MIT */
/* oxbow compare */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/compat/called.h"
#include "cli/signals.h"

static const char help[] =
	"usage: oxbow compare [-f FMT] [-F FMT] [-T CACHE] [-p] [-q] [-s] [-U] [--image-opts]\n"
	"                     FILE1 FILE2\n"
	"Say whether two disks read the same, whatever their formats and sizes are. What one has\n"
	"more than the other has to read as zeroes.\n"
	"\n"
	"  -f, --a-format FMT    format of the first image; without it, the file tells it\n"
	"  -F, --b-format FMT    format of the second\n"
	"  -T, --cache CACHE     cache mode of both: none, writeback, writethrough, directsync,\n"
	"                        unsafe\n"
	"  -p, --progress        show how far it is\n"
	"  -q, --quiet           print nothing but errors\n"
	"  -s, --strict          also compare sizes, and what is allocated where\n"
	"  -U, --force-share     also while another process has an image open for writing\n"
	"  --image-opts          FILE1 and FILE2 are descriptions: driver=qcow2,...\n"
	"  -h, --help            print this text\n"
	"\n"
	"Exit status: 0, they are the same; 1, they differ; 2, an image cannot be opened; 3, it\n"
	"cannot be told what is allocated; 4, an image cannot be read.\n";

enum {
	OPTION_IMAGE_OPTS = 256,
	OPTION_OBJECT,
};

enum {
	STATUS_SAME = 0,
	STATUS_DIFFERENT = 1,
	STATUS_NOT_OPENED = 2,
	STATUS_NOT_MAPPED = 3,
	STATUS_NOT_READ = 4,
};

struct compare {
	struct ox_cli_source sources[2];
	const char *cache;
	bool progress;
	bool quiet;
	bool strict;
};

static void say(const struct compare *compare, const char *format, ...) OX_CLI_PRINTF(2, 3);

static void say(const struct compare *compare, const char *format, ...)
{
	va_list args;

	if (compare->quiet)
		return;
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
}

/* The answer in words, as qemu-img gives it. */
static int tell(const struct compare *compare, const struct ox_compare_result *result,
		uint64_t common_bytes)
{
	const char *name = compare->sources[result->image].text;

	if (result->sizes_differ && !compare->strict &&
	    (result->outcome == OX_COMPARE_SAME || result->offset >= common_bytes))
		say(compare, "Warning: Image size mismatch!\n");
	switch (result->outcome) {
	case OX_COMPARE_SAME:
		say(compare, "Images are identical.\n");
		return STATUS_SAME;
	case OX_COMPARE_BYTES:
		say(compare, "Content mismatch at offset %" PRIu64 "!\n", result->offset);
		return STATUS_DIFFERENT;
	case OX_COMPARE_SIZES:
		say(compare, "Strict mode: Image size mismatch!\n");
		return STATUS_DIFFERENT;
	case OX_COMPARE_EXTENTS:
		say(compare, "Strict mode: Offset %" PRIu64 " block status mismatch!\n",
		    result->offset);
		return STATUS_DIFFERENT;
	case OX_COMPARE_UNMAPPED:
		ox_cli_error("Sector allocation test failed for %s", name);
		return STATUS_NOT_MAPPED;
	case OX_COMPARE_UNREAD:
		break;
	}
	ox_cli_error("Error while reading offset %" PRIu64 " of %s: %s", result->offset, name,
		     strerror(-result->error));
	return STATUS_NOT_READ;
}

static int compare_images(struct compare *compare, struct ox_image *first, struct ox_image *second)
{
	struct ox_compare_options opts = OX_COMPARE_OPTIONS_INIT;
	struct ox_cli_progress progress;
	struct ox_compare_result result;
	struct ox_error *err = NULL;
	uint64_t common = ox_image_size(first);
	int r;

	if (ox_image_size(second) < common)
		common = ox_image_size(second);
	ox_cli_progress_begin(&progress, compare->progress && !compare->quiet, stdout);
	if (compare->quiet)
		progress.stream = NULL;
	opts.flags = compare->strict ? OX_COMPARE_STRICT : 0;
	opts.progress = ox_cli_progress_report;
	opts.interrupted = ox_cli_signals_interrupted;
	opts.opaque = &progress;
	ox_cli_progress_report(&progress, 0, 1);
	r = ox_compare(first, second, &opts, &result, &err);
	ox_cli_progress_end(&progress, r == 0 && result.outcome == OX_COMPARE_SAME);
	if (r == 0)
		return tell(compare, &result, common);
	ox_cli_error("%s", ox_error_message(err));
	ox_error_free(err);
	return STATUS_NOT_READ;
}

static int run(struct compare *compare)
{
	struct ox_image *images[2] = {NULL, NULL};
	struct ox_context *ctx;
	int status = STATUS_NOT_OPENED;
	int r = ox_cli_context_new(compare->sources[0].engine, &ctx);

	if (r < 0)
		return STATUS_NOT_OPENED;
	for (unsigned i = 0; r == 0 && i < 2; i++)
		r = ox_cli_source_open(ctx, &compare->sources[i], &images[i]);
	if (r == 0)
		status = compare_images(compare, images[0], images[1]);
	for (unsigned i = 0; i < 2; i++) {
		if (images[i])
			(void)ox_image_close(images[i], NULL); /* nothing was written */
	}
	ox_context_free(ctx);
	return status;
}

/* One option. 0 to go on, -1 after --help, else the exit status. */
static int take_option(struct compare *compare, int c, char **argv)
{
	switch (c) {
	case 'h':
		ox_called_print_help(help);
		return -1;
	case 'f':
		compare->sources[0].open.format = optarg;
		return 0;
	case 'F':
		compare->sources[1].open.format = optarg;
		return 0;
	case 'T':
		compare->cache = optarg;
		return 0;
	case 'p':
		compare->progress = true;
		return 0;
	case 'q':
		compare->quiet = true;
		return 0;
	case 's':
		compare->strict = true;
		return 0;
	case 'U':
		compare->sources[0].open.flags |= OX_OPEN_FORCE_SHARE;
		compare->sources[1].open.flags |= OX_OPEN_FORCE_SHARE;
		return 0;
	case OPTION_OBJECT:
		return ox_cli_object_take(optarg) < 0;
	case OPTION_IMAGE_OPTS:
		compare->sources[0].image_opts = true;
		compare->sources[1].image_opts = true;
		return 0;
	default:
		return ox_cli_option_error("compare", c, argv);
	}
}

static int run_sources(struct compare *compare, char **names)
{
	int status = 0;

	for (unsigned i = 0; i < 2; i++) {
		struct ox_cli_source *source = &compare->sources[i];

		if (compare->cache &&
		    ox_cli_cache_parse("source ", compare->cache, &source->open.cache) < 0)
			return STATUS_NOT_OPENED;
		if (source->image_opts && source->open.format) {
			ox_cli_error("--image-opts and --format are mutually exclusive");
			return STATUS_NOT_OPENED;
		}
	}
	for (unsigned i = 0; status == 0 && i < 2; i++) {
		if (ox_cli_source_set(&compare->sources[i], names[i]) < 0)
			status = STATUS_NOT_OPENED;
	}
	if (status == 0)
		status = run(compare);
	for (unsigned i = 0; i < 2; i++)
		ox_cli_source_free(&compare->sources[i]);
	return status;
}

int ox_cli_compare(int argc, char **argv)
{
	static const struct option longs[] = {
		{"help", no_argument, NULL, 'h'},
		{"a-format", required_argument, NULL, 'f'},
		{"b-format", required_argument, NULL, 'F'},
		{"cache", required_argument, NULL, 'T'},
		{"progress", no_argument, NULL, 'p'},
		{"quiet", no_argument, NULL, 'q'},
		{"strict", no_argument, NULL, 's'},
		{"force-share", no_argument, NULL, 'U'},
		{"object", required_argument, NULL, OPTION_OBJECT},
		{"image-opts", no_argument, NULL, OPTION_IMAGE_OPTS},
		{"object", required_argument, NULL, OPTION_OBJECT},
		{0},
	};
	struct compare compare = {.sources = {OX_CLI_SOURCE_INIT, OX_CLI_SOURCE_INIT}};
	int c, status = 0;

	for (unsigned i = 0; i < 2; i++)
		compare.sources[i].open.flags = OX_OPEN_READ_ONLY;
	ox_cli_signals_catch();
	opterr = 0;
	while (status == 0 && (c = getopt_long(argc, argv, ":hf:F:T:pqsU", longs, NULL)) != -1)
		status = take_option(&compare, c, argv);
	if (status != 0)
		return ox_cli_finish_output(status < 0 ? 0 : status);
	if (optind + 2 != argc)
		return ox_cli_usage_error("compare", "Expecting two image file names");
	status = run_sources(&compare, &argv[optind]);
	ox_cli_signals_die();
	return ox_cli_finish_output(status);
}
