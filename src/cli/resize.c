/* SPDX-License-Identifier: MIT */
/* oxbow resize */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/signals.h"

static const char help[] =
	"usage: oxbow resize [-f FMT] [--preallocation=MODE] [--shrink] [--dry-run] [-q]\n"
	"                    [--image-opts] FILE [+|-]SIZE\n"
	"Make the disk of an image larger or smaller. With + or - SIZE is the difference.\n"
	"\n"
	"  -f, --format FMT       format of the image; without it, the file tells it\n"
	"  --preallocation=MODE   off, metadata, falloc or full: of what a larger disk gains\n"
	"  --shrink               yes, what lies beyond the new end is to go\n"
	"  --dry-run              say what would happen, and change nothing\n"
	"  -q, --quiet            print nothing where all is well\n"
	"  --image-opts           FILE is a description: driver=qcow2,file.filename=PATH,...\n"
	"  -h, --help             print this text\n"
	"\n"
	"SIZE is in bytes, or with a suffix k, M, G, T, P or E. A file system or a partition\n"
	"on the disk has to be made smaller before, and larger after.\n";

enum {
	OPTION_PREALLOCATION = 256,
	OPTION_SHRINK,
	OPTION_DRY_RUN,
	OPTION_IMAGE_OPTS,
	OPTION_OBJECT,
};

struct resize {
	struct ox_cli_source source;
	struct ox_resize_options options;
	const char *size_text;
	bool shrink;
	bool dry_run;
	bool quiet;
};

/* ---- the new size ---- */

/* -EINVAL, with a message: it is none. */
static int parse_size(const char *text, uint64_t old_bytes, uint64_t *ret)
{
	bool more = text[0] == '+';
	bool less = text[0] == '-';
	uint64_t bytes;
	int r = ox_cli_size_parse(text + (more || less), &bytes);

	if (r < 0) {
		ox_cli_error("Invalid image size specified: '%s'.", text);
		return r;
	}
	if (less && bytes >= old_bytes)
		bytes = 0;
	else if (less)
		bytes = old_bytes - bytes;
	else if (more)
		bytes = old_bytes + bytes;
	if (bytes == 0) {
		ox_cli_error("New image size must be positive");
		return -EINVAL;
	}
	*ret = bytes;
	return 0;
}

/* ---- what a smaller disk loses ---- */

static int count_lost(struct ox_image *image, uint64_t from, uint64_t *ret_bytes)
{
	uint64_t size = ox_image_size(image);
	uint64_t lost = 0;
	struct ox_extent e;

	for (uint64_t at = from; at < size; at += e.length) {
		int r = ox_extent_at(image, at, size - at, &e);

		if (r < 0) {
			ox_cli_error("Failed to read image metadata: %s", strerror(-r));
			return r;
		}
		if (e.flags & OX_EXTENT_DATA)
			lost += e.length;
	}
	*ret_bytes = lost;
	return 0;
}

static int say_lost(struct ox_image *image, uint64_t new_bytes)
{
	char text[OX_CLI_SIZE_MAX];
	uint64_t lost;
	int r = count_lost(image, new_bytes, &lost);

	if (r == 0)
		ox_cli_error("note: %s (%" PRIu64 " bytes) of data lie beyond the new end",
			     ox_cli_size_text(lost, text), lost);
	return r;
}

/* The old names' words end there. */
static int refuse_shrink(struct ox_image *image, uint64_t new_bytes)
{
	ox_cli_error("Use the --shrink option to perform a shrink operation.");
	ox_cli_error("warning: Shrinking an image will delete all data beyond the shrunken image's "
		     "end. Before performing such an operation, make sure there is no important "
		     "data there.");
	if (!ox_called_by_old_name() && new_bytes % 512 == 0)
		(void)say_lost(image, new_bytes);
	return -EPERM;
}

static int say_plan(struct ox_image *image, const struct resize *resize, uint64_t new_bytes)
{
	uint64_t old_bytes = ox_image_size(image);
	char text[2][OX_CLI_SIZE_MAX];

	if (!resize->quiet)
		printf("'%s' would be resized from %s (%" PRIu64 " bytes) to %s (%" PRIu64
		       " bytes).\n",
		       resize->source.path, ox_cli_size_text(old_bytes, text[0]), old_bytes,
		       ox_cli_size_text(new_bytes, text[1]), new_bytes);
	return new_bytes < old_bytes ? say_lost(image, new_bytes) : 0;
}

/* ---- the verb ---- */

static int change(struct ox_image *image, struct resize *resize, uint64_t new_bytes)
{
	struct ox_cli_progress progress;
	struct ox_error *err = NULL;
	int r;

	resize->options.progress = ox_cli_progress_report;
	resize->options.opaque = &progress;
	resize->options.interrupted = ox_cli_signals_interrupted;
	ox_cli_signals_catch();
	ox_cli_progress_begin(&progress, false, NULL);
	r = ox_resize_with(image, new_bytes, &resize->options, &err);
	ox_cli_progress_end(&progress, r == 0);
	if (r < 0)
		ox_cli_error("%s", err ? ox_error_message(err) : strerror(-r));
	ox_error_free(err);
	return r;
}

static int resize_image(struct ox_image *image, void *arg)
{
	struct resize *resize = arg;
	uint64_t new_bytes;
	int r = parse_size(resize->size_text, ox_image_size(image), &new_bytes);

	if (r < 0)
		return r;
	if (new_bytes < ox_image_size(image) && !resize->shrink)
		return refuse_shrink(image, new_bytes);
	if (resize->dry_run)
		return say_plan(image, resize, new_bytes);
	return change(image, resize, new_bytes);
}

static int parse_preallocation(const char *text, enum ox_preallocation *ret)
{
	static const char *const words[] = {"off", "metadata", "falloc", "full"};

	for (unsigned i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		if (strcmp(text, words[i]) == 0) {
			*ret = (enum ox_preallocation)i;
			return 0;
		}
	}
	ox_cli_error("Invalid preallocation mode '%s'", text);
	return 1;
}

/* One option. 0 to go on, -1 after --help, else the exit status. */
static int take_option(struct resize *resize, int c, char **argv)
{
	switch (c) {
	case 'h':
		ox_called_print_help(help);
		return -1;
	case 'f':
		resize->source.open.format = optarg;
		return 0;
	case 'q':
		resize->quiet = true;
		return 0;
	case OPTION_PREALLOCATION:
		return parse_preallocation(optarg, &resize->options.preallocation);
	case OPTION_SHRINK:
		resize->shrink = true;
		return 0;
	case OPTION_DRY_RUN:
		resize->dry_run = true;
		return 0;
	case OPTION_IMAGE_OPTS:
		resize->source.image_opts = true;
		return 0;
	case OPTION_OBJECT:
		return ox_cli_object_take(optarg) < 0;
	default:
		return ox_cli_option_error("resize", c, argv);
	}
}

static int run(struct resize *resize, const char *name)
{
	int r;

	if (resize->dry_run)
		resize->source.open.flags = OX_OPEN_READ_ONLY;
	r = ox_cli_work_on(&resize->source, name, resize_image, resize);
	if (r == 0 && !resize->quiet && !resize->dry_run)
		printf("Image resized.\n");
	return r < 0 ? 1 : 0;
}

static const struct option longs[] = {
	{"help", no_argument, NULL, 'h'},
	{"format", required_argument, NULL, 'f'},
	{"quiet", no_argument, NULL, 'q'},
	{"preallocation", required_argument, NULL, OPTION_PREALLOCATION},
	{"shrink", no_argument, NULL, OPTION_SHRINK},
	{"dry-run", no_argument, NULL, OPTION_DRY_RUN},
	{"image-opts", no_argument, NULL, OPTION_IMAGE_OPTS},
	{"object", required_argument, NULL, OPTION_OBJECT},
	{0},
};

int ox_cli_resize(int argc, char **argv)
{
	struct resize resize = {.source = OX_CLI_SOURCE_INIT, .options = OX_RESIZE_OPTIONS_INIT};
	bool asks = argc == 2 && (strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "--help") == 0);
	int c, status = 0;

	/* The last argument is a size, and not an option, whatever it begins with. */
	if (!asks && argc < 3)
		return ox_cli_usage_error("resize", "Not enough arguments");
	if (!asks)
		resize.size_text = argv[--argc];
	opterr = 0;
	while (status == 0 && (c = getopt_long(argc, argv, ":hf:q", longs, NULL)) != -1)
		status = take_option(&resize, c, argv);
	if (status == 0 && optind + 1 != argc)
		status = ox_cli_usage_error("resize", "Expecting image file name and size");
	else if (status == 0)
		status = run(&resize, argv[optind]);
	return ox_cli_finish_output(status < 0 ? 0 : status);
}
