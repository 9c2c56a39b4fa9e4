/* SPDX-License-Identifier: MIT */
/* oxbow dd: a conversion of a part of an image, in the words of dd(1). */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <string.h>

#include "cli/convert/convert.h"

static const char help[] =
	"usage: oxbow dd [-U] [-f FMT] [-O FMT] [--image-opts] [bs=SIZE] [count=N] [skip=N]\n"
	"                if=SOURCE of=TARGET\n"
	"Copy a part of an image into a new one.\n"
	"\n"
	"  bs=SIZE                      bytes of a block; 512 without it\n"
	"  count=N                      end behind the Nth block of the source; those that are\n"
	"                               skipped count\n"
	"  skip=N                       leave out so many blocks at the beginning\n"
	"  if=SOURCE                    the image to copy from\n"
	"  of=TARGET                    the image to make\n"
	"  -f, --source-format FMT      format of the source; without it, the file tells it\n"
	"  --image-opts                 SOURCE is a description: driver=qcow2,file.filename=...\n"
	"  -U, --force-share            also while another process has the source open for "
	"writing\n"
	"  -O, --target-format FMT      format of the target: raw (the default), qcow2 or qed\n"
	"  -h, --help                   print this text\n"
	"\n"
	"The target is durable when this ends with 0, and no image before that.\n";

enum {
	OPTION_IMAGE_OPTS = 256,
	OPTION_OBJECT,
};

#define DEFAULT_BLOCK_BYTES 512u
#define SECTOR_BYTES 512u

struct dd {
	struct ox_cli_convert convert; /* the first: what choose_part gets */
	const char *names[2];	       /* if=, of= */
	uint64_t block_bytes;
	uint64_t count; /* UINT64_MAX: not given */
	uint64_t skip;
};

/* What the disk has of the blocks that were asked for. */
static void choose_part(struct ox_cli_convert *c)
{
	const struct dd *dd = (const struct dd *)c;
	const uint64_t most = (uint64_t)INT64_MAX / dd->block_bytes;
	uint64_t end = c->copy_bytes;

	if (dd->count <= most && dd->count * dd->block_bytes < end)
		end = dd->count * dd->block_bytes;
	if (dd->skip <= most && dd->skip * dd->block_bytes <= end) {
		c->source_offset = dd->skip * dd->block_bytes;
	} else {
		ox_cli_error("%s: cannot skip to specified offset", c->names[0]);
		c->source_offset = end;
	}
	c->copy_bytes = end - c->source_offset;
	c->total_bytes = (c->copy_bytes + SECTOR_BYTES - 1) / SECTOR_BYTES * SECTOR_BYTES;
}

static int parse_number(const char *key, const char *value, uint64_t least, uint64_t most,
			uint64_t *ret)
{
	uint64_t number;
	int r = ox_cli_size_parse(value, &number);

	if (r == 0 && number >= least && number <= most) {
		*ret = number;
		return 0;
	}
	if (r == 0 || r == -ERANGE) {
		ox_cli_error("Invalid %s specified. Must be between %" PRIu64 " and %" PRIu64 ".",
			     key, least, most);
	} else {
		ox_cli_error("Invalid %s specified. You may use k, M, G, T, P or E suffixes for",
			     key);
		ox_cli_error("kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.");
	}
	return 1;
}

/* 0 or the exit status. */
static int take_operand(struct dd *dd, char *text)
{
	char *value = strchr(text, '=');

	if (value)
		*value++ = '\0';
	if (value && strcmp(text, "bs") == 0)
		return parse_number(text, value, 1, INT32_MAX, &dd->block_bytes);
	if (value && strcmp(text, "count") == 0)
		return parse_number(text, value, 0, INT64_MAX, &dd->count);
	if (value && strcmp(text, "skip") == 0)
		return parse_number(text, value, 0, INT64_MAX, &dd->skip);
	if (value && strcmp(text, "if") == 0) {
		dd->names[0] = value;
	} else if (value && strcmp(text, "of") == 0) {
		dd->names[1] = value;
	} else {
		ox_cli_error("unrecognized operand %s", text);
		return 1;
	}
	return 0;
}

/* One option. 0 to go on, -1 after --help, else the exit status. */
static int take_option(struct ox_cli_convert *c, int option, char **argv)
{
	switch (option) {
	case 'h':
		ox_called_print_help(help);
		return -1;
	case 'f':
		c->format = optarg;
		return 0;
	case 'O':
		c->target_format = optarg;
		return 0;
	case 'U':
		c->force_share = true;
		return 0;
	case OPTION_OBJECT:
		return ox_cli_object_take(optarg) < 0;
	case OPTION_IMAGE_OPTS:
		c->image_opts = true;
		return 0;
	default:
		return ox_cli_option_error("dd", option, argv);
	}
}

/* -1: to go on; else the exit status. */
static int settle(struct dd *dd)
{
	struct ox_cli_convert *c = &dd->convert;
	struct ox_cli_name name;
	const char *unknown;

	if (!dd->names[0] || !dd->names[1]) {
		ox_cli_error("Must specify both input and output files");
		return 1;
	}
	if (c->image_opts && c->format) {
		ox_cli_error("--image-opts and --format are mutually exclusive");
		return 1;
	}
	unknown = ox_cli_create_values_init(&c->values, c->target_format);
	if (unknown) {
		ox_cli_error("%s", unknown);
		return 1;
	}
	if (ox_cli_name_parse(dd->names[1], &name) < 0) {
		ox_cli_error("Unknown protocol '%s'", name.protocol);
		return 1;
	}
	c->names = dd->names;
	c->source_count = 1;
	c->target = dd->names[1];
	return -1;
}

static const struct option longs[] = {
	{"help", no_argument, NULL, 'h'},
	{"source-format", required_argument, NULL, 'f'},
	{"format", required_argument, NULL, 'f'},
	{"target-format", required_argument, NULL, 'O'},
	{"output-format", required_argument, NULL, 'O'},
	{"force-share", no_argument, NULL, 'U'},
	{"object", required_argument, NULL, OPTION_OBJECT},
	{"image-opts", no_argument, NULL, OPTION_IMAGE_OPTS},
	{0},
};

int ox_cli_dd(int argc, char **argv)
{
	struct dd dd = {
		.convert = {.target_source = OX_CLI_SOURCE_INIT,
			    .target_format = "raw",
			    .quiet = true,
			    .choose_part = choose_part},
		.block_bytes = DEFAULT_BLOCK_BYTES,
		.count = UINT64_MAX,
	};
	int status = 0;
	int option;

	opterr = 0;
	while (status == 0 && (option = getopt_long(argc, argv, ":hf:O:U", longs, NULL)) != -1)
		status = take_option(&dd.convert, option, argv);
	if (status != 0)
		return ox_cli_finish_output(status < 0 ? 0 : status);
	for (int i = optind; status == 0 && i < argc; i++)
		status = take_operand(&dd, argv[i]);
	return ox_cli_convert_run(&dd.convert, status == 0 ? settle(&dd) : status);
}
