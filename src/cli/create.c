/* SPDX-License-Identifier: MIT */
/* oxbow create */
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/create_options.h"
#include "cli/signals.h"

static const char help[] =
	"usage: oxbow create [-q] [-f FMT] [-b BACKING_FILE -F BACKING_FMT] [-u] [-o OPTIONS]\n"
	"                    FILE [SIZE]\n"
	"Make a disk image.\n"
	"\n"
	"  -f, --format FMT          format of the image: qcow2, qed, or raw (the default)\n"
	"  -b, --backing FILE        the image to read where nothing has been written yet; a\n"
	"                            relative name begins in the new FILE's folder\n"
	"  -F, --backing-format FMT  format of the backing file: qcow2, qed or raw\n"
	"  -u, --backing-unsafe      do not look at the backing file; SIZE is then needed\n"
	"  -o, --options OPTIONS     NAME=VALUE[,NAME=VALUE...]; '-o help' lists them for the\n"
	"                            format\n"
	"  -q, --quiet               print nothing but errors\n"
	"  -h, --help                print this text\n"
	"\n"
	"SIZE is in bytes, or takes a suffix k, M, G, T, P or E (powers of 1024). Without it the\n"
	"image is as large as its backing file.\n";

enum {
	OPTION_OBJECT = 256,
};

struct create {
	const char *format;
	const char *file;
	struct ox_cli_name name; /* what it says */
	const char *size_text;
	const char *backing_file;   /* -b */
	const char *backing_format; /* -F */
	bool unsafe;
	bool quiet;
	struct ox_cli_options options;
	struct ox_cli_create_values values;
	uint64_t size_bytes;
	bool have_size;
};

static int parse_size(struct create *create)
{
	int r = ox_cli_size_parse(create->size_text, &create->size_bytes);

	if (r == -ERANGE || ox_cli_size_is_negative(create->size_text)) {
		r = -ERANGE;
		ox_cli_error("Invalid image size specified. Must be between 0 and %lld.",
			     (long long)INT64_MAX);
	} else if (r < 0) {
		ox_cli_error("Invalid image size specified. You may use k, M, G, T, P or E "
			     "suffixes for");
		ox_cli_error("kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.");
	} else {
		create->have_size = true;
	}
	return r;
}

static int set_values(struct create *create)
{
	for (size_t i = 0; i < create->options.count; i++) {
		const struct ox_cli_option *item = &create->options.items[i];
		int r = ox_cli_create_set(&create->values, create->file, item->key, item->value);

		if (r < 0)
			return r;
	}
	if ((create->backing_file &&
	     ox_cli_create_replace(&create->values, "backing_file", create->backing_file) < 0) ||
	    (create->backing_format &&
	     ox_cli_create_replace(&create->values, "backing_fmt", create->backing_format) < 0)) {
		ox_cli_error("%s: Backing file not supported for file format '%s'", create->file,
			     create->format);
		return -EINVAL;
	}
	return 0;
}

/* "Detected format of ...", as a hint to the one who gave none. */
static void hint_format(struct ox_context *ctx, const char *path)
{
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;
	struct ox_image_info *info;

	opts.flags = OX_OPEN_READ_ONLY | OX_OPEN_PROBE | OX_OPEN_FORCE_SHARE;
	if (ox_image_info_read(ctx, path, &opts, &info, NULL) < 0)
		return;
	fprintf(stderr, "Detected format of %s.\n", info->format);
	ox_image_info_free(info);
}

/* Opens the backing file, which proves that it is one, and takes its size. */
static int look_at_backing(struct ox_context *ctx, struct create *create, const char *path,
			   const char *format)
{
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;
	struct ox_error *err = NULL;
	struct ox_image *image;
	int r;

	opts.format = format;
	opts.flags = OX_OPEN_READ_ONLY | OX_OPEN_PROBE;
	opts.backing_policy = OX_BACKING_ALLOW;
	opts.warn = ox_cli_warn;
	r = ox_image_open(ctx, path, &opts, &image, &err);
	if (r < 0) {
		ox_cli_error("%s: %s\nCould not open backing image.", create->file,
			     err ? ox_error_message(err) : strerror(-r));
		ox_error_free(err);
		return r;
	}
	if (!create->have_size)
		create->size_bytes = ox_image_size(image);
	create->have_size = true;
	return ox_image_close(image, NULL);
}

static int check_backing_name(const struct create *create, const char *backing)
{
	if (create->name.flags && *backing != '/') {
		ox_cli_error("%s: A relative name of a backing file leads nowhere from there: '%s'",
			     create->file, backing);
		return -EINVAL;
	}
	return create->unsafe ? 0 : ox_cli_refuse_backing_name(create->file, backing);
}

static int check_backing(struct ox_context *ctx, struct create *create)
{
	const char *name = ox_cli_create_get(&create->values, "backing_file");
	const char *format = ox_cli_create_get(&create->values, "backing_fmt");
	char *path;
	int r = 0;

	if (!name && !format)
		return 0;
	if (!name) {
		ox_cli_error("%s: Backing format cannot be used without backing file",
			     create->file);
		return -EINVAL;
	}
	if (!*name) {
		ox_cli_error("%s: Expected backing file name, got empty string", create->file);
		return -EINVAL;
	}
	/* The same words are a mistake, wherever the second ones lead. */
	if (strcmp(name, create->file) == 0)
		return ox_cli_refuse_same_file(create->file, name, name);
	r = check_backing_name(create, name);
	if (r < 0)
		return r;
	path = ox_cli_backing_path(create->name.path, name);
	if (!path) {
		ox_cli_error("%s", strerror(ENOMEM));
		return -ENOMEM;
	}
	if (!create->name.flags)
		r = ox_cli_refuse_same_file(create->file, create->name.path, path);
	if (r == 0 && !create->unsafe)
		r = look_at_backing(ctx, create, path, format);
	if (r == 0 && !create->unsafe && !create->name.flags)
		r = ox_cli_refuse_loop(ctx, create->file, create->name.path, path, format);
	if (r == 0 && !format) {
		ox_cli_error("%s: Backing file specified without backing format", create->file);
		if (!create->unsafe)
			hint_format(ctx, path);
		r = -EINVAL;
	}
	free(path);
	return r;
}

static int make_image(struct ox_context *ctx, struct create *create)
{
	struct ox_create_options options = OX_CREATE_OPTIONS_INIT;
	struct ox_cli_progress progress;
	struct ox_error *err = NULL;
	int r = ox_cli_create_apply(&create->values, create->file, &options);

	if (r < 0)
		return r;
	options.format = create->format;
	options.virtual_bytes = create->size_bytes;
	options.backing_file = ox_cli_create_get(&create->values, "backing_file");
	options.backing_format = ox_cli_create_get(&create->values, "backing_fmt");
	options.progress = ox_cli_progress_report;
	options.opaque = &progress;
	options.interrupted = ox_cli_signals_interrupted;
	options.flags = create->name.flags;
	ox_cli_signals_catch();
	ox_cli_progress_begin(&progress, false, NULL);
	r = ox_image_create(ctx, create->name.path, &options, &err);
	ox_cli_progress_end(&progress, r == 0);
	if (r < 0)
		ox_cli_error("%s: %s", create->file, err ? ox_error_message(err) : strerror(-r));
	ox_error_free(err);
	ox_cli_signals_die();
	return r;
}

static int run(struct create *create)
{
	struct ox_context *ctx;
	int r = ox_cli_context_new(OX_ENGINE_DEFAULT, &ctx);

	if (r < 0)
		return r;
	r = check_backing(ctx, create);
	if (r == 0 && !create->have_size) {
		ox_cli_error("%s: Image creation needs a size parameter", create->file);
		r = -EINVAL;
	}
	if (r == 0 && !create->quiet) {
		printf("Formatting '%s', fmt=%s ", create->file, create->format);
		ox_cli_create_print(&create->values, create->size_bytes);
		putchar('\n');
		fflush(stdout);
	}
	if (r == 0)
		r = make_image(ctx, create);
	ox_context_free(ctx);
	return r;
}

static int prepare_and_run(struct create *create)
{
	const char *unknown = ox_cli_create_values_init(&create->values, create->format);
	const char *given;
	int r;

	if (unknown) {
		ox_cli_error("%s: %s '%s'", create->file ? create->file : "create", unknown,
			     create->format);
		return 1;
	}
	if (ox_cli_options_want_help(&create->options)) {
		ox_cli_create_print_help(&create->values, create->format);
		return 0;
	}
	if (!create->file)
		return ox_cli_usage_error("create", "Expecting image file name");
	if (ox_cli_name_parse(create->file, &create->name) < 0) {
		ox_cli_error("%s: Unknown protocol '%s'", create->file, create->name.protocol);
		return 1;
	}
	if (create->size_text && parse_size(create) < 0)
		return 1;
	r = set_values(create);
	if (r < 0)
		return 1;
	given = ox_cli_create_get(&create->values, "size");
	if (given && create->have_size) {
		ox_cli_error("%s: The image size must be specified only once", create->file);
		return 1;
	}
	if (given && ox_cli_size_parse(given, &create->size_bytes) == 0)
		create->have_size = true;
	return run(create) < 0 ? 1 : 0;
}

/* One option. 0 to go on, -1 after --help, else the exit status. */
static int take_option(struct create *create, int c, char **argv)
{
	switch (c) {
	case 'f':
		create->format = optarg;
		return 0;
	case 'b':
		create->backing_file = optarg;
		return 0;
	case 'F':
		create->backing_format = optarg;
		return 0;
	case 'o':
		if (ox_cli_options_parse(&create->options, optarg) == 0)
			return 0;
		ox_cli_error("Invalid option list: %s", optarg);
		return 1;
	case OPTION_OBJECT:
		return ox_cli_object_take(optarg) < 0;
	case 'u':
		create->unsafe = true;
		return 0;
	case 'q':
		create->quiet = true;
		return 0;
	case 'h':
		ox_called_print_help(help);
		return -1;
	default:
		return ox_cli_option_error("create", c, argv);
	}
}

int ox_cli_create(int argc, char **argv)
{
	static const struct option longs[] = {
		{"help", no_argument, NULL, 'h'},
		{"quiet", no_argument, NULL, 'q'},
		{"format", required_argument, NULL, 'f'},
		{"backing", required_argument, NULL, 'b'},
		{"backing-format", required_argument, NULL, 'F'},
		{"backing-unsafe", no_argument, NULL, 'u'},
		{"options", required_argument, NULL, 'o'},
		{"object", required_argument, NULL, OPTION_OBJECT},
		{0},
	};
	struct create create = {.format = "raw"};
	int c, status = 0;

	opterr = 0;
	while (status == 0 && (c = getopt_long(argc, argv, ":hqf:b:F:uo:", longs, NULL)) != -1)
		status = take_option(&create, c, argv);
	if (status == 0) {
		if (optind < argc)
			create.file = argv[optind++];
		if (optind < argc)
			create.size_text = argv[optind++];
		if (optind < argc)
			status = ox_cli_usage_error("create", "Unexpected argument: %s",
						    argv[optind]);
		else
			status = prepare_and_run(&create);
	}
	ox_cli_options_free(&create.options);
	return ox_cli_finish_output(status < 0 ? 0 : status);
}
