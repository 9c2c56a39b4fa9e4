/* SPDX-License-Identifier: MIT */
/* oxbow io */
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "cli/io/session.h"

static const char help[] =
	"usage: oxbow io [OPTIONS]... [-c COMMAND]... [FILE]\n"
	"Read, write, discard and flush by hand. Without -c, commands are read from stdin.\n"
	"\n"
	"  -c, --cmd COMMAND   run this command; may be given many times\n"
	"  -f, --format FMT    format of the image; without it, the file tells it\n"
	"  -r, --read-only     open the image read-only\n"
	"  -n, --nocache       the same as -t none\n"
	"  -t, --cache MODE    writethrough (the default), writeback, none, directsync, unsafe\n"
	"  -d, --discard MODE  what discards do: unmap (the default) or ignore\n"
	"  -i, --aio MODE      how the host's files are accessed: threads or io_uring\n"
	"  --recover MODE      for an image that was not closed: wait (the default) recovers it\n"
	"                      first, auto recovers it meanwhile, never refuses it\n"
	"  --compression-level NUMBER  of 'write -c': 1, the fastest, to 9 (zlib) or 19 (zstd)\n"
	"  -s, --snapshot      keep what is written in a temporary file, which is removed\n"
	"  -l, --load-snapshot SNAPSHOT  the disk as an internal snapshot has it: an ID, else a\n"
	"                      name; or snapshot.id=ID, snapshot.name=NAME; needs -r\n"
	"  -m, --misalign      use buffers that begin at an odd place in memory\n"
	"  -U, --force-share   with -r: ignore others' locks on the image\n"
	"  --image-opts        FILE is a description: driver=qcow2,file.filename=PATH,...\n"
	"  -h, --help          print this text\n"
	"  -V, --version       print the version\n"
	"\n"
	"'oxbow io -c help' lists the commands. The exit status is 1 if any of them failed.\n";

enum {
	OPTION_IMAGE_OPTS = 256,
	OPTION_RECOVER,
	OPTION_OBJECT,
	OPTION_COMPRESSION_LEVEL,
};

struct arguments {
	struct ox_cli_io io;
	char **lines; /* of -c */
	size_t line_count;
	bool temporary; /* -s */
	char *overlay;	/* of -s; NULL: none */
};

static int add_line(struct arguments *arguments, char *line)
{
	char **lines = reallocarray(arguments->lines, arguments->line_count + 1, sizeof(*lines));

	if (!lines) {
		ox_cli_error("%s", strerror(ENOMEM));
		return 1;
	}
	arguments->lines = lines;
	lines[arguments->line_count++] = line;
	return 0;
}

static int set_engine(struct ox_cli_source *source, const char *mode)
{
	if (strcmp(mode, "threads") == 0)
		source->engine = OX_ENGINE_THREAD_POOL;
	else if (strcmp(mode, "native") == 0)
		source->engine = OX_ENGINE_DEFAULT;
	else if (strcmp(mode, "io_uring") == 0)
		source->engine = OX_ENGINE_IO_URING;
	else {
		ox_cli_error("Invalid aio option: %s", mode);
		return 1;
	}
	return 0;
}

/* One option. 0 to go on, -1 after --help, else the exit status. */
static int take_option(struct arguments *arguments, int c, char **argv)
{
	struct ox_cli_source *source = &arguments->io.source;

	switch (c) {
	case 'c':
		return add_line(arguments, optarg);
	case 'f':
		source->open.format = optarg;
		return 0;
	case 'r':
		source->open.flags |= OX_OPEN_READ_ONLY;
		return 0;
	case 'n':
		source->open.cache = OX_CACHE_NONE;
		return 0;
	case 't':
		if (ox_cache_mode_parse(optarg, &source->open.cache) == 0)
			return 0;
		ox_cli_error("Invalid cache option: %s", optarg);
		return 1;
	case 'd':
		return ox_cli_io_set_discard(source, optarg) < 0;
	case 'i':
		return set_engine(source, optarg);
	case 'm':
		arguments->io.misalign = true;
		return 0;
	case 'l':
		return ox_cli_snapshot_set(&source->open, optarg) < 0;
	case 'U':
		source->open.flags |= OX_OPEN_FORCE_SHARE;
		return 0;
	case OPTION_RECOVER:
		if (ox_cli_recover_parse(optarg, &source->open.recover) == 0)
			return 0;
		ox_cli_error("Invalid recover option: %s", optarg);
		return 1;
	case OPTION_COMPRESSION_LEVEL:
		return ox_cli_level_parse(optarg, &source->open.compression_level) < 0;
	case OPTION_IMAGE_OPTS:
		source->image_opts = true;
		return 0;
	case 'h':
		ox_called_print_help(help);
		return -1;
	case 'V':
		if (ox_called_by_old_name())
			printf("qemu-io version " OX_CALLED_VERSION " (oxbow %s)\n", ox_version());
		else
			printf("oxbow version %s\n", ox_version());
		return -1;
	case 's':
		arguments->temporary = true;
		return 0;
	case 'k': /* the kernel's own way of doing I/O, which is what there is */
	case 'T': /* tracing: there is none */
		return 0;
	case OPTION_OBJECT:
		return ox_cli_object_take(optarg) < 0;
	case 'C':
		return ox_cli_usage_error("io", "option '-%c' is not supported", c);
	default:
		return ox_cli_option_error("io", c, argv);
	}
}

static int read_lines(struct ox_cli_io *io)
{
	char *line = NULL;
	size_t size = 0;
	int status = 0;

	while (!io->quit) {
		fputs(ox_called_by_old_name() ? "qemu-io> " : "oxbow io> ", stdout);
		fflush(stdout);
		if (getline(&line, &size, stdin) < 0)
			break;
		if (ox_cli_io_run_line(io, line) < 0)
			status = 1;
	}
	free(line);
	return status;
}

static int run_session(struct arguments *arguments)
{
	struct ox_cli_io *io = &arguments->io;
	int status = 0;

	if (arguments->line_count == 0)
		status = read_lines(io);
	for (size_t i = 0; i < arguments->line_count && !io->quit; i++) {
		if (ox_cli_io_run_line(io, arguments->lines[i]) < 0)
			status = 1;
	}
	return ox_cli_io_close_image(io) < 0 ? 1 : status;
}

static int run(struct arguments *arguments, const char *file)
{
	struct ox_cli_io *io = &arguments->io;
	int status = 0;

	if (file && io->source.image_opts && io->source.open.format) {
		ox_cli_error("--image-opts and -f are mutually exclusive");
		return 1;
	}
	if (file && ox_cli_source_set(&io->source, file) < 0)
		return 1;
	if (file && arguments->temporary &&
	    ox_cli_temporary_make(&io->source, &arguments->overlay) < 0)
		return 1;
	if (ox_cli_context_new(io->source.engine, &io->ctx) < 0)
		return 1;
	if (file && ox_cli_io_open_image(io) < 0)
		status = 1;
	else
		status = run_session(arguments);
	ox_context_free(io->ctx);
	return status;
}

static const struct option longs[] = {
	{"cmd", required_argument, NULL, 'c'},
	{"format", required_argument, NULL, 'f'},
	{"read-only", no_argument, NULL, 'r'},
	{"nocache", no_argument, NULL, 'n'},
	{"cache", required_argument, NULL, 't'},
	{"discard", required_argument, NULL, 'd'},
	{"aio", required_argument, NULL, 'i'},
	{"misalign", no_argument, NULL, 'm'},
	{"recover", required_argument, NULL, OPTION_RECOVER},
	{"compression-level", required_argument, NULL, OPTION_COMPRESSION_LEVEL},
	{"load-snapshot", required_argument, NULL, 'l'},
	{"force-share", no_argument, NULL, 'U'},
	{"image-opts", no_argument, NULL, OPTION_IMAGE_OPTS},
	{"help", no_argument, NULL, 'h'},
	{"version", no_argument, NULL, 'V'},
	{"snapshot", no_argument, NULL, 's'},
	{"copy-on-read", no_argument, NULL, 'C'},
	{"native-aio", no_argument, NULL, 'k'},
	{"trace", required_argument, NULL, 'T'},
	{"object", required_argument, NULL, OPTION_OBJECT},
	{0},
};

int ox_cli_io(int argc, char **argv)
{
	struct arguments arguments = {.io = {.source = OX_CLI_SOURCE_INIT}};
	int c, status = 0;

	arguments.io.source.open.cache = OX_CACHE_WRITETHROUGH;
	arguments.io.source.open.recover = OX_RECOVER_WAIT;
	opterr = 0;
	while (status == 0 &&
	       (c = getopt_long(argc, argv, ":c:f:rnt:d:i:mUhVsCkl:T:", longs, NULL)) != -1)
		status = take_option(&arguments, c, argv);
	if (status == 0 && argc - optind > 1)
		status = ox_cli_usage_error("io", "Expecting at most one image file name");
	if (status == 0)
		status = run(&arguments, argv[optind]);
	ox_cli_temporary_drop(&arguments.overlay);
	ox_cli_source_free(&arguments.io.source);
	free(arguments.io.source_text);
	free(arguments.lines);
	return ox_cli_finish_output(status < 0 ? 0 : status);
}
