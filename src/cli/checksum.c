/* SPDX-License-Identifier: MIT */
/* oxbow checksum */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/compat/called.h"
#include "cli/signals.h"

static const char help[] =
	"usage: oxbow checksum [-f FMT] [-T CACHE] [-p] [-U] [--algorithm=blkhash|sha256]\n"
	"                      [--output=human|json] [--image-opts] FILE\n"
	"Print a checksum of the disk's bytes: the same for every format, layout and chain of "
	"which a\n"
	"guest reads the same.\n"
	"\n"
	"  -f, --format FMT           format of the image; without it, the file tells it\n"
	"  -T, --cache CACHE          cache mode: none, writeback, writethrough, directsync, "
	"unsafe\n"
	"  -p, --progress             show how far it is, on stderr\n"
	"  --algorithm=blkhash|sha256 blkhash (the default): the SHA-256 of blocks, on all cores "
	"and\n"
	"                             past zeroes, as blksum prints it; sha256: of the flat bytes, "
	"as\n"
	"                             sha256sum of a raw image of whole sectors prints it\n"
	"  --output=human|json        a line as sha256sum prints it (the default), or JSON\n"
	"  -U, --force-share          also while another process has the image open for writing\n"
	"  --image-opts               FILE is a description: driver=qcow2,file.filename=PATH,...\n"
	"  -h, --help                 print this text\n";

enum {
	OPTION_IMAGE_OPTS = 256,
	OPTION_OBJECT,
	OPTION_OUTPUT,
	OPTION_ALGORITHM,
};

struct checksum {
	struct ox_cli_source source;
	enum ox_checksum_algorithm algorithm;
	enum ox_cli_output output;
	bool progress;
};

static const char *const names[] = {
	[OX_CHECKSUM_BLKHASH] = "blkhash",
	[OX_CHECKSUM_SHA256] = "sha256",
};

static void print_digest(const struct checksum *checksum, const struct ox_image *image,
			 const uint8_t *digest)
{
	char hex[2 * OX_CHECKSUM_BYTES + 1];
	json_t *object;

	for (unsigned i = 0; i < OX_CHECKSUM_BYTES; i++)
		snprintf(&hex[2 * i], 3, "%02x", digest[i]);
	if (checksum->output == OX_CLI_HUMAN) {
		printf("%s  %s\n", hex, checksum->source.text);
		return;
	}
	object = json_object();
	ox_cli_json_set(object, "filename", ox_cli_json_string(checksum->source.text));
	ox_cli_json_set(object, "algorithm", json_string(names[checksum->algorithm]));
	ox_cli_json_set(object, "checksum", json_string(hex));
	ox_cli_json_set(object, "virtual-size", json_integer((json_int_t)ox_image_size(image)));
	ox_cli_json_print(object);
}

static int sum(struct ox_image *image, void *arg)
{
	struct checksum *checksum = arg;
	struct ox_checksum_options opts = OX_CHECKSUM_OPTIONS_INIT;
	struct ox_cli_progress progress;
	struct ox_error *err = NULL;
	uint8_t digest[OX_CHECKSUM_BYTES];
	int r;

	ox_cli_progress_begin(&progress, checksum->progress, stderr);
	opts.algorithm = checksum->algorithm;
	opts.progress = ox_cli_progress_report;
	opts.interrupted = ox_cli_signals_interrupted;
	opts.opaque = &progress;
	r = ox_checksum(image, &opts, digest, &err);
	ox_cli_progress_end(&progress, r == 0);
	if (r == 0)
		print_digest(checksum, image, digest);
	else
		ox_cli_error("%s", ox_error_message(err));
	ox_error_free(err);
	return r;
}

static int parse_algorithm(const char *text, enum ox_checksum_algorithm *ret)
{
	for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (strcmp(text, names[i]) == 0) {
			*ret = (enum ox_checksum_algorithm)i;
			return 0;
		}
	}
	return ox_cli_usage_error("checksum", "--algorithm must be used with blkhash or sha256");
}

/* One option. 0 to go on, -1 after --help, else the exit status. */
static int take_option(struct checksum *checksum, int c, char **argv)
{
	switch (c) {
	case 'h':
		ox_called_print_help(help);
		return -1;
	case 'f':
		checksum->source.open.format = optarg;
		return 0;
	case 'T':
		return ox_cli_cache_parse("source ", optarg, &checksum->source.open.cache) < 0;
	case 'p':
		checksum->progress = true;
		return 0;
	case 'U':
		checksum->source.open.flags |= OX_OPEN_FORCE_SHARE;
		return 0;
	case OPTION_ALGORITHM:
		return parse_algorithm(optarg, &checksum->algorithm);
	case OPTION_OUTPUT:
		return ox_cli_output_parse(optarg, &checksum->output) < 0;
	case OPTION_OBJECT:
		return ox_cli_object_take(optarg) < 0;
	case OPTION_IMAGE_OPTS:
		checksum->source.image_opts = true;
		return 0;
	default:
		return ox_cli_option_error("checksum", c, argv);
	}
}

int ox_cli_checksum(int argc, char **argv)
{
	static const struct option longs[] = {
		{"help", no_argument, NULL, 'h'},
		{"format", required_argument, NULL, 'f'},
		{"cache", required_argument, NULL, 'T'},
		{"progress", no_argument, NULL, 'p'},
		{"algorithm", required_argument, NULL, OPTION_ALGORITHM},
		{"output", required_argument, NULL, OPTION_OUTPUT},
		{"force-share", no_argument, NULL, 'U'},
		{"object", required_argument, NULL, OPTION_OBJECT},
		{"image-opts", no_argument, NULL, OPTION_IMAGE_OPTS},
		{0},
	};
	struct checksum checksum = {.source = OX_CLI_SOURCE_INIT};
	int c, status = 0;

	checksum.source.open.flags = OX_OPEN_READ_ONLY;
	ox_cli_signals_catch();
	opterr = 0;
	while (status == 0 && (c = getopt_long(argc, argv, ":hf:T:pU", longs, NULL)) != -1)
		status = take_option(&checksum, c, argv);
	if (status != 0)
		return ox_cli_finish_output(status < 0 ? 0 : status);
	if (optind + 1 != argc)
		return ox_cli_usage_error("checksum", "Expecting one image file name");
	status = ox_cli_work_on(&checksum.source, argv[optind], sum, &checksum) < 0 ? 1 : 0;
	return ox_cli_finish_output(status);
}
