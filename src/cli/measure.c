/* SPDX-License-Identifier: MIT */
/* oxbow measure */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/compat/called.h"
#include "cli/create_options.h"

static const char help[] =
	"usage: oxbow measure [-O FMT] [-o OPTIONS] [--output=human|json] --size SIZE\n"
	"       oxbow measure [-O FMT] [-o OPTIONS] [--output=human|json] [-f FMT] [-l SNAPSHOT]\n"
	"                     [-U] [--image-opts] FILE\n"
	"Say how large the file of a new image would be: empty, or with what an image has.\n"
	"\n"
	"  -O, --target-format FMT      format of the new image: raw (the default) or qcow2\n"
	"  -o, --target-options OPTIONS its options: NAME=VALUE[,NAME=VALUE...], as of create\n"
	"  -s, --size SIZE              of an empty disk; suffixes k M G T P E\n"
	"  -f, --format FMT             format of the image; without it, the file tells it\n"
	"  -l, --snapshot SNAPSHOT      an internal snapshot in its place\n"
	"  --output=human|json          text (the default), or JSON\n"
	"  -U, --force-share            also while another process has the image open for writing\n"
	"  --image-opts                 FILE is a description: "
	"driver=qcow2,file.filename=PATH,...\n"
	"  -h, --help                   print this text\n"
	"\n"
	"'required' is right to the byte where a copy looks for no zeroes in the data and does "
	"not\n"
	"compress; else the file becomes no larger. 'fully allocated' is right for a disk that is\n"
	"written to all over, and 'bitmaps' comes on top.\n";

enum {
	OPTION_IMAGE_OPTS = 256,
	OPTION_OBJECT,
	OPTION_OUTPUT,
};

struct measure {
	struct ox_cli_source source;
	const char *file;
	const char *format;
	const char *size_text;
	struct ox_cli_options given;
	struct ox_cli_create_values values;
	struct ox_create_options target;
	enum ox_cli_output output;
};

static void print_result(const struct measure *measure, const struct ox_measure_result *result)
{
	json_t *object;

	if (measure->output == OX_CLI_HUMAN) {
		printf("required size: %" PRIu64 "\nfully allocated size: %" PRIu64 "\n",
		       result->required, result->fully_allocated);
		if (result->has_bitmaps)
			printf("bitmaps size: %" PRIu64 "\n", result->bitmaps);
		return;
	}
	object = json_object();
	if (result->has_bitmaps)
		ox_cli_json_set(object, "bitmaps", json_integer((json_int_t)result->bitmaps));
	ox_cli_json_set(object, "required", json_integer((json_int_t)result->required));
	ox_cli_json_set(object, "fully-allocated",
			json_integer((json_int_t)result->fully_allocated));
	ox_cli_json_print(object);
}

static int measure_image(struct measure *measure, struct ox_image *image)
{
	struct ox_measure_result result;
	struct ox_error *err = NULL;
	int r = ox_measure(image, &measure->target, &result, &err);

	if (r == 0)
		print_result(measure, &result);
	else
		ox_cli_error("%s", ox_error_message(err));
	ox_error_free(err);
	return r;
}

static int run_file(struct measure *measure)
{
	struct ox_context *ctx;
	struct ox_image *image = NULL;
	int r = ox_cli_context_new(measure->source.engine, &ctx);

	if (r < 0)
		return r;
	r = ox_cli_source_open(ctx, &measure->source, &image);
	if (r == 0)
		r = ox_cli_snapshot_disk_bytes(ctx, &measure->source, image,
					       &measure->target.virtual_bytes);
	if (r == 0)
		r = measure_image(measure, image);
	if (image)
		(void)ox_image_close(image, NULL); /* nothing was written */
	ox_context_free(ctx);
	return r;
}

static int parse_size(struct measure *measure)
{
	int r = ox_cli_size_parse(measure->size_text, &measure->target.virtual_bytes);

	if (r == -ERANGE) {
		ox_cli_error("Invalid image size specified. Must be between 0 and %" PRId64 ".",
			     INT64_MAX);
	} else if (r < 0) {
		ox_cli_error("Invalid image size specified. You may use k, M, G, T, P or E "
			     "suffixes for");
		ox_cli_error("kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.");
	}
	return r;
}

/* -o, as create takes it. */
static int set_target(struct measure *measure)
{
	const char *unknown = ox_cli_create_values_init(&measure->values, measure->format);
	int r = 0;

	if (unknown) {
		ox_cli_error("%s '%s'", unknown, measure->format);
		return -EINVAL;
	}
	if (ox_cli_options_want_help(&measure->given)) {
		ox_cli_create_print_help(&measure->values, measure->format);
		return 1;
	}
	for (size_t i = 0; r == 0 && i < measure->given.count; i++)
		r = ox_cli_create_set(&measure->values, "measure", measure->given.items[i].key,
				      measure->given.items[i].value);
	if (r == 0)
		r = ox_cli_create_apply(&measure->values, "measure", &measure->target);
	if (r < 0)
		return r;
	measure->target.format = measure->format;
	measure->target.backing_file = ox_cli_create_get(&measure->values, "backing_file");
	measure->target.backing_format = ox_cli_create_get(&measure->values, "backing_fmt");
	return 0;
}

/* One option. 0 to go on, -1 after --help, else the exit status. */
static int take_option(struct measure *measure, int c, char **argv)
{
	switch (c) {
	case 'h':
		ox_called_print_help(help);
		return -1;
	case 'f':
		measure->source.open.format = optarg;
		return 0;
	case 'l':
		return ox_cli_snapshot_set(&measure->source.open, optarg) < 0;
	case 'o':
		if (ox_cli_options_parse(&measure->given, optarg) == 0)
			return 0;
		ox_cli_error("Invalid option list: %s", optarg);
		return 1;
	case 'O':
		measure->format = optarg;
		return 0;
	case 's':
		measure->size_text = optarg;
		return parse_size(measure) < 0;
	case 'U':
		measure->source.open.flags |= OX_OPEN_FORCE_SHARE;
		return 0;
	case OPTION_OUTPUT:
		return ox_cli_output_parse(optarg, &measure->output) < 0;
	case OPTION_OBJECT:
		return ox_cli_object_take(optarg) < 0;
	case OPTION_IMAGE_OPTS:
		measure->source.image_opts = true;
		return 0;
	default:
		return ox_cli_option_error("measure", c, argv);
	}
}

static int refuse_options(const struct measure *measure)
{
	const struct ox_cli_source *source = &measure->source;

	if (!measure->file &&
	    (source->image_opts || source->open.format || ox_cli_snapshot_is_set(&source->open)))
		ox_cli_error("--image-opts, -f, and -l require a filename argument.");
	else if (!measure->file && !measure->size_text)
		ox_cli_error("Either --size N or one filename must be specified.");
	else if (measure->file && measure->size_text)
		ox_cli_error("--size N cannot be used together with a filename.");
	else if (source->image_opts && source->open.format)
		ox_cli_error("--image-opts and --format are mutually exclusive");
	else
		return 0;
	return -EINVAL;
}

static int run(struct measure *measure)
{
	int r = refuse_options(measure);

	if (r == 0)
		r = set_target(measure);
	if (r != 0)
		return r < 0;
	if (!measure->file)
		return measure_image(measure, NULL) < 0;
	if (ox_cli_source_set(&measure->source, measure->file) < 0)
		r = -EINVAL;
	else
		r = run_file(measure);
	ox_cli_source_free(&measure->source);
	return r < 0;
}

int ox_cli_measure(int argc, char **argv)
{
	static const struct option longs[] = {
		{"help", no_argument, NULL, 'h'},
		{"format", required_argument, NULL, 'f'},
		{"snapshot", required_argument, NULL, 'l'},
		{"target-options", required_argument, NULL, 'o'},
		{"target-format", required_argument, NULL, 'O'},
		{"size", required_argument, NULL, 's'},
		{"force-share", no_argument, NULL, 'U'},
		{"output", required_argument, NULL, OPTION_OUTPUT},
		{"object", required_argument, NULL, OPTION_OBJECT},
		{"image-opts", no_argument, NULL, OPTION_IMAGE_OPTS},
		{0},
	};
	struct measure measure = {
		.source = OX_CLI_SOURCE_INIT,
		.format = "raw",
		.target = OX_CREATE_OPTIONS_INIT,
	};
	int c, status = 0;

	measure.source.open.flags = OX_OPEN_READ_ONLY;
	opterr = 0;
	while (status == 0 && (c = getopt_long(argc, argv, ":hf:l:o:O:s:U", longs, NULL)) != -1)
		status = take_option(&measure, c, argv);
	if (status == 0 && optind + 1 < argc) {
		ox_cli_error("At most one filename argument is allowed.");
		status = 1;
	}
	if (status == 0 && optind < argc)
		measure.file = argv[optind];
	if (status == 0)
		status = run(&measure);
	ox_cli_options_free(&measure.given);
	return ox_cli_finish_output(status < 0 ? 0 : status);
}
