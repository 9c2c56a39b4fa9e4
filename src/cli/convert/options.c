/* SPDX-License-Identifier: MIT */
/* The command line of oxbow convert, and what it may not say. */
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "cli/convert/convert.h"

static const char help[] =
	"usage: oxbow convert [OPTIONS] SOURCE [SOURCE...] TARGET\n"
	"Copy an image, or several one behind the other, into a new one.\n"
	"\n"
	"  -f, --source-format FMT      format of the sources; without it, the files tell it\n"
	"  --image-opts                 SOURCE is a description: driver=qcow2,file.filename=...\n"
	"  -l, --snapshot SNAPSHOT      copy that internal snapshot: ID, NAME, snapshot.id=ID or\n"
	"                               snapshot.name=NAME\n"
	"  -T, --source-cache MODE      cache mode of the sources: none, writeback, ...\n"
	"  -U, --force-share            also while another process has a source open for writing\n"
	"  --salvage                    take zeroes for what cannot be read, and go on\n"
	"  -O, --target-format FMT      format of the target: raw (the default), qcow2 or qed\n"
	"  -o, --target-options OPTIONS NAME=VALUE[,NAME=VALUE...]; '-o help' lists them\n"
	"  -B, -b, --backing FILE       the target has this backing file, and only what the top "
	"of\n"
	"                               the source has is copied; begins in the target's folder\n"
	"  -F, --backing-format FMT     format of the backing file\n"
	"  -t, --target-cache MODE      cache mode of the target; unsafe leaves out all syncs\n"
	"  -n, --no-create              the target is there: write into it\n"
	"  --target-is-zero             the target reads as zeroes (with -n); believed where\n"
	"                               nothing contradicts it\n"
	"  --target-image-opts          TARGET is a description (with -n)\n"
	"  -c, --compress               write compressed clusters\n"
	"  --compression-level NUMBER   with -c: 1, the fastest, to 9 (zlib) or 19 (zstd)\n"
	"  -S, --sparse-size SIZE       leave out runs of zeroes of this size, 4k without it; 0:\n"
	"                               none, the target is allocated as a whole\n"
	"  -C, --copy-range             accepted, for scripts that say it\n"
	"  -m, --parallel NUMBER        accepted: 1 to 16 requests at once\n"
	"  -W, --out-of-order           write in any order\n"
	"  -r, --rate-limit RATE        at most so many bytes a second\n"
	"  -p, --progress[=json]        show how far it is; SIGUSR1 prints a line at any time\n"
	"  -q, --quiet                  print nothing but errors\n"
	"  --memory SIZE                of all buffers; 64M without it\n"
	"  --resume                     go on with a conversion that was killed, and be such that\n"
	"                               this one can be gone on with\n"
	"  --verify                     read the target back and compare before it gets its name\n"
	"  --bitmaps                    refused where a source has persistent bitmaps\n"
	"  -h, --help                   print this text\n"
	"\n"
	"The target is durable when this ends with 0, and no image before that.\n";

/* Under the old name it is a file called '-', as it always was. */
static const char pipe_help[] =
	"TARGET - is standard output, which gets raw bytes in order. SOURCE - is standard input,\n"
	"with -f raw.\n";

enum {
	OPTION_IMAGE_OPTS = 256,
	OPTION_TARGET_IMAGE_OPTS,
	OPTION_SALVAGE,
	OPTION_TARGET_IS_ZERO,
	OPTION_BITMAPS,
	OPTION_SKIP_BROKEN,
	OPTION_COMPRESSION_LEVEL,
	OPTION_MEMORY,
	OPTION_RESUME,
	OPTION_VERIFY,
	OPTION_PROGRESS,
	OPTION_OBJECT,
};

static const struct option longs[] = {
	{"help", no_argument, NULL, 'h'},
	{"source-format", required_argument, NULL, 'f'},
	{"image-opts", no_argument, NULL, OPTION_IMAGE_OPTS},
	{"source-image-opts", no_argument, NULL, OPTION_IMAGE_OPTS},
	{"snapshot", required_argument, NULL, 'l'},
	{"source-cache", required_argument, NULL, 'T'},
	{"force-share", no_argument, NULL, 'U'},
	{"salvage", no_argument, NULL, OPTION_SALVAGE},
	{"target-format", required_argument, NULL, 'O'},
	{"output-format", required_argument, NULL, 'O'},
	{"target-options", required_argument, NULL, 'o'},
	{"target-format-options", required_argument, NULL, 'o'},
	{"backing", required_argument, NULL, 'B'},
	{"backing-format", required_argument, NULL, 'F'},
	{"target-cache", required_argument, NULL, 't'},
	{"no-create", no_argument, NULL, 'n'},
	{"target-is-zero", no_argument, NULL, OPTION_TARGET_IS_ZERO},
	{"target-image-opts", no_argument, NULL, OPTION_TARGET_IMAGE_OPTS},
	{"compress", no_argument, NULL, 'c'},
	{"sparse-size", required_argument, NULL, 'S'},
	{"copy-range", no_argument, NULL, 'C'},
	{"copy-range-offloading", no_argument, NULL, 'C'},
	{"parallel", required_argument, NULL, 'm'},
	{"out-of-order", no_argument, NULL, 'W'},
	{"oob-writes", no_argument, NULL, 'W'},
	{"rate-limit", required_argument, NULL, 'r'},
	{"progress", optional_argument, NULL, OPTION_PROGRESS},
	{"quiet", no_argument, NULL, 'q'},
	{"compression-level", required_argument, NULL, OPTION_COMPRESSION_LEVEL},
	{"memory", required_argument, NULL, OPTION_MEMORY},
	{"resume", no_argument, NULL, OPTION_RESUME},
	{"verify", no_argument, NULL, OPTION_VERIFY},
	{"bitmaps", no_argument, NULL, OPTION_BITMAPS},
	{"object", required_argument, NULL, OPTION_OBJECT},
	{"skip-broken-bitmaps", no_argument, NULL, OPTION_SKIP_BROKEN},
	{0},
};

/* What a size may be. Prints what is wrong with it. 0 or the exit status. */
static int parse_size(const char *what, const char *text, uint64_t *ret)
{
	if (ox_cli_size_parse(text, ret) == 0)
		return 0;
	ox_cli_error("Invalid %s specified. You may use k, M, G, T, P or E suffixes for", what);
	ox_cli_error("kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.");
	return 1;
}

static int parse_sparse(struct ox_cli_convert *convert, const char *text)
{
	const uint64_t most = UINT64_C(16) << 20;

	convert->sparse_set = true;
	if (parse_size("buffer size for sparse output", text, &convert->sparse_bytes) != 0)
		return 1;
	if (convert->sparse_bytes % 512 == 0 && convert->sparse_bytes <= most)
		return 0;
	ox_cli_error("Invalid buffer size for sparse output specified. Valid sizes are multiples "
		     "of 512 up to %llu. Select 0 to disable sparse detection (fully allocates "
		     "output).",
		     (unsigned long long)most);
	return 1;
}

static int parse_tasks(struct ox_cli_convert *convert, const char *text)
{
	char *end;
	unsigned long n = strtoul(text, &end, 10);

	if (*text >= '0' && *text <= '9' && !*end && n >= 1 && n <= 16) {
		convert->tasks = (unsigned)n;
		return 0;
	}
	ox_cli_error("Invalid number of coroutines. Allowed number of coroutines is between 1 and "
		     "16");
	return 1;
}

static int parse_progress(struct ox_cli_convert *convert, const char *text)
{
	convert->show_progress = true;
	convert->progress_json = text && strcmp(text, "json") == 0;
	if (!text || convert->progress_json)
		return 0;
	ox_cli_error("--progress must be used with json, or alone");
	return 1;
}

static int take_list(struct ox_cli_convert *convert, const char *text)
{
	if (ox_cli_options_parse(&convert->options, text) == 0)
		return 0;
	ox_cli_error("Invalid option list: %s", text);
	return 1;
}

static int take_switch(struct ox_cli_convert *c, int option, char **argv)
{
	bool *const switches[] = {
		['C'] = &c->copy_range,
		['U'] = &c->force_share,
		['W'] = &c->any_order,
		['c'] = &c->compress,
		['n'] = &c->no_create,
		['p'] = &c->show_progress,
		['q'] = &c->quiet,
		[OPTION_IMAGE_OPTS] = &c->image_opts,
		[OPTION_TARGET_IMAGE_OPTS] = &c->target_image_opts,
		[OPTION_SALVAGE] = &c->salvage,
		[OPTION_TARGET_IS_ZERO] = &c->target_is_zero,
		[OPTION_BITMAPS] = &c->bitmaps,
		[OPTION_SKIP_BROKEN] = &c->skip_broken,
		[OPTION_RESUME] = &c->resume,
		[OPTION_VERIFY] = &c->verify,
	};

	if (option < 0 || (size_t)option >= sizeof(switches) / sizeof(switches[0]) ||
	    !switches[option])
		return ox_cli_option_error("convert", option, argv);
	*switches[option] = true;
	return 0;
}

/* One option. 0 to go on, -1 after --help, else the exit status. */
static int take_option(struct ox_cli_convert *c, int option, char **argv)
{
	switch (option) {
	case 'h':
		ox_called_print_help(help);
		if (!ox_called_by_old_name())
			fputs(pipe_help, stdout);
		return -1;
	case 'f':
		c->format = optarg;
		return 0;
	case 'O':
		c->target_format = optarg;
		return 0;
	case 'B':
	case 'b':
		c->backing = optarg;
		return 0;
	case 'F':
		c->backing_format = optarg;
		return 0;
	case 'l':
		return ox_cli_snapshot_set(&c->at, optarg) < 0;
	case 'o':
		return take_list(c, optarg);
	case 'S':
		return parse_sparse(c, optarg);
	case 'm':
		return parse_tasks(c, optarg);
	case 'r':
		return parse_size("rate limit", optarg, &c->rate_bytes);
	case 't':
		c->cache_set = true;
		return ox_cli_cache_parse("", optarg, &c->cache) < 0;
	case 'T':
		return ox_cli_cache_parse("source ", optarg, &c->source_cache) < 0;
	case OPTION_COMPRESSION_LEVEL:
		return ox_cli_level_parse(optarg, &c->compression_level) < 0;
	case OPTION_MEMORY:
		return parse_size("memory size", optarg, &c->memory_bytes);
	case OPTION_OBJECT:
		return ox_cli_object_take(optarg) < 0;
	case OPTION_PROGRESS:
		return parse_progress(c, optarg);
	default:
		return take_switch(c, option, argv);
	}
}

static int refuse(const char *message)
{
	ox_cli_error("%s", message);
	return 1;
}

/* What excludes what, in the order in which it is found. -1: nothing is wrong. */
static int refuse_options(const struct ox_cli_convert *c)
{
	if (c->image_opts && c->format)
		return refuse("--image-opts and --format are mutually exclusive");
	if (c->skip_broken && !c->bitmaps)
		return refuse("Use of --skip-broken-bitmaps requires --bitmaps");
	if (c->compress && c->copy_range)
		return refuse("Cannot enable copy offloading when -c is used");
	if (c->compression_level && !c->compress)
		return refuse("--compression-level requires use of -c flag");
	if (c->sparse_set && c->copy_range)
		return refuse("Cannot enable copy offloading when -S is used");
	if (c->target_image_opts && !c->no_create)
		return refuse("--target-image-opts requires use of -n flag");
	if (c->no_create && c->options.count > 0)
		return refuse("-o has no effect when skipping image creation");
	if (c->target_is_zero && !c->no_create)
		return refuse("--target-is-zero requires use of -n flag");
	return -1;
}

/* -o, -B and -F, for a target that is to be made. -1: nothing is wrong. */
static int take_values(struct ox_cli_convert *c)
{
	const char *unknown = ox_cli_create_values_init(&c->values, c->target_format);

	if (unknown) {
		ox_cli_error("%s '%s'", unknown, c->target_format);
		return 1;
	}
	if (ox_cli_options_want_help(&c->options)) {
		ox_cli_create_print_help(&c->values, c->target_format);
		return 0;
	}
	for (size_t i = 0; i < c->options.count; i++) {
		const struct ox_cli_option *item = &c->options.items[i];

		if (ox_cli_create_set(&c->values, c->target ? c->target : "convert", item->key,
				      item->value) < 0)
			return 1;
	}
	if (c->no_create)
		return -1;
	if ((c->backing && ox_cli_create_replace(&c->values, "backing_file", c->backing) < 0) ||
	    (c->backing_format &&
	     ox_cli_create_replace(&c->values, "backing_fmt", c->backing_format) < 0)) {
		ox_cli_error("Backing file not supported for file format '%s'", c->target_format);
		return 1;
	}
	return -1;
}

/* What the target cannot be. -1: nothing is wrong. */
static int refuse_values(const struct ox_cli_convert *c)
{
	const char *prealloc = ox_cli_create_get(&c->values, "preallocation");

	if (c->source_count > 1 && (c->backing || ox_cli_create_get(&c->values, "backing_file")))
		return refuse("Having a backing file for the target makes no sense when "
			      "concatenating multiple input images");
	if (ox_cli_create_get(&c->values, "backing_file") &&
	    !ox_cli_create_get(&c->values, "backing_fmt"))
		return refuse("Use of backing file requires explicit backing format");
	if (c->compress && strcmp(c->target_format, "qcow2") != 0)
		return refuse("Compression not supported for this file format");
	if (c->compress && prealloc && strcmp(prealloc, "off") != 0)
		return refuse("Compression and preallocation not supported at the same time");
	if (c->bitmaps && strcmp(c->target_format, "qcow2") != 0) {
		ox_cli_error("Format driver '%s' does not support bitmaps", c->target_format);
		return 1;
	}
	return -1;
}

static int take_names(struct ox_cli_convert *c, int argc, char **argv)
{
	size_t count = (size_t)(argc - optind);
	struct ox_cli_name name;

	c->names = (const char **)argv + optind;
	if (count > 0) {
		c->target = argv[argc - 1];
		c->source_count = count - 1;
	}
	if (count > 2 && ox_cli_snapshot_is_set(&c->at))
		return refuse("No support for concatenating multiple snapshot");
	if (count > 2 && c->backing)
		return refuse("Having a backing file for the target makes no sense when "
			      "concatenating multiple input images");
	if (c->target && !c->no_create && ox_cli_name_parse(c->target, &name) < 0) {
		ox_cli_error("Unknown protocol '%s'", name.protocol);
		return 1;
	}
	return -1;
}

/* Standard input and output. -1: nothing is wrong. */
static int refuse_standard(struct ox_cli_convert *c)
{
	const char *wrong = NULL;

	c->to_pipe = ox_cli_convert_is_pipe(c->target);
	for (size_t i = 0; i < c->source_count && !c->image_opts; i++)
		c->from_stdin |= ox_cli_convert_is_stdin(c->names[i]);
	if (c->to_pipe)
		wrong = ox_cli_convert_refuse_pipe(c);
	if (!wrong && c->from_stdin)
		wrong = ox_cli_convert_refuse_stdin(c);
	return wrong ? refuse(wrong) : -1;
}

int ox_cli_convert_parse(struct ox_cli_convert *c, int argc, char **argv)
{
	int status = 0;
	int option;

	opterr = 0;
	while (status == 0 && (option = getopt_long(argc, argv, ":hf:O:B:b:CcF:o:l:S:pt:T:qnm:WUr:",
						    longs, NULL)) != -1)
		status = take_option(c, option, argv);
	if (status != 0)
		return status < 0 ? 0 : status;
	c->target_format = c->target_format ? c->target_format : "raw";
	status = refuse_options(c);
	if (status < 0)
		status = take_names(c, argc, argv);
	if (status < 0)
		status = take_values(c);
	if (status < 0 && c->source_count == 0)
		status = refuse("Must specify image file name");
	if (status < 0)
		status = refuse_values(c);
	return status < 0 ? refuse_standard(c) : status;
}

void ox_cli_convert_free(struct ox_cli_convert *c)
{
	ox_cli_options_free(&c->options);
}
