/* SPDX-License-Identifier: MIT */
/* oxbow rebase */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/signals.h"

static const char help[] =
	"usage: oxbow rebase [-f FMT] [-u] -b BACKING [-F FMT] [-t CACHE] [-T CACHE] [-c] [-p]\n"
	"                    [-q] [-U] [--dry-run] [--image-opts] FILE\n"
	"Give an image another backing file. It reads as before: what would read differently\n"
	"is copied into it.\n"
	"\n"
	"  -f, --format FMT           format of the image; without it, the file tells it\n"
	"  -b, --backing BACKING      the new backing file, as FILE is to name it: relative to\n"
	"                             FILE's directory; \"\": none\n"
	"  -F, --backing-format FMT   format of BACKING\n"
	"  -u, --backing-unsafe       change the name alone: BACKING holds the same bytes\n"
	"  -t, --cache CACHE          of FILE: writeback (the default), none, writethrough,\n"
	"                             directsync, unsafe\n"
	"  -T, --source-cache CACHE   the same of BACKING\n"
	"  -c, --compress             compress what is copied\n"
	"  -p, --progress             show how far it is\n"
	"  -q, --quiet                print nothing where all is well\n"
	"  -U, --force-share          also while another process writes to BACKING\n"
	"  --dry-run                  say what would be copied, and change nothing\n"
	"  --image-opts               FILE is a description: driver=qcow2,file.filename=PATH,...\n"
	"  -h, --help                 print this text\n"
	"\n"
	"Interrupted at any moment, FILE reads the same, and another rebase goes on.\n";

enum {
	OPTION_DRY_RUN = 256,
	OPTION_IMAGE_OPTS,
	OPTION_OBJECT,
};

struct rebase {
	struct ox_cli_source source;
	struct ox_rebase_options options;
	bool progress;
	bool quiet;
};

static void say_plan(const struct rebase *rebase, const struct ox_rebase_result *result)
{
	const char *name = rebase->options.backing_file;
	char text[2][OX_CLI_SIZE_MAX];

	if (rebase->quiet)
		return;
	if (!rebase->options.unsafe)
		printf("%s (%" PRIu64 " bytes) of data and %s (%" PRIu64
		       " bytes) of zeroes would be written into '%s'.\n",
		       ox_cli_size_text(result->data_bytes, text[0]), result->data_bytes,
		       ox_cli_size_text(result->zero_bytes, text[1]), result->zero_bytes,
		       rebase->source.path);
	if (name && *name)
		printf("Its backing file would be '%s', of format %s.\n", name,
		       rebase->options.backing_format);
	else
		printf("It would have no backing file.\n");
}

static void say_effects(const struct rebase *rebase, const struct ox_rebase_result *result)
{
	if (rebase->quiet || ox_called_by_old_name() || result->snapshots == 0)
		return;
	ox_cli_error("note: what the %u internal snapshots of '%s' have from the backing file %s "
		     "from the new one",
		     result->snapshots, rebase->source.path,
		     rebase->options.dry_run ? "would be read" : "is now read");
}

static int rebase_image(struct ox_image *image, void *arg)
{
	struct rebase *rebase = arg;
	struct ox_rebase_result result = {0};
	struct ox_cli_progress progress;
	struct ox_error *err = NULL;
	int r;

	rebase->options.progress = ox_cli_progress_report;
	rebase->options.opaque = &progress;
	rebase->options.interrupted = ox_cli_signals_interrupted;
	ox_cli_signals_catch();
	ox_cli_progress_begin(&progress, rebase->progress && !rebase->quiet, stdout);
	ox_cli_progress_report(&progress, 0, 1);
	r = ox_rebase(image, &rebase->options, &result, &err);
	ox_cli_progress_end(&progress, r == 0);
	if (r < 0) {
		ox_cli_error("%s", err ? ox_error_message(err) : strerror(-r));
	} else {
		if (rebase->options.dry_run)
			say_plan(rebase, &result);
		say_effects(rebase, &result);
	}
	ox_error_free(err);
	return r;
}

/* One option. 0 to go on, -1 after --help, else the exit status. */
static int take_option(struct rebase *rebase, int c, char **argv)
{
	switch (c) {
	case 'h':
		ox_called_print_help(help);
		return -1;
	case 'f':
		rebase->source.open.format = optarg;
		return 0;
	case 'b':
		rebase->options.backing_file = optarg;
		return 0;
	case 'F':
		rebase->options.backing_format = optarg;
		return 0;
	case 'u':
		rebase->options.unsafe = true;
		return 0;
	case 't':
		return ox_cli_cache_parse("", optarg, &rebase->source.open.cache) < 0;
	case 'T':
		return ox_cli_cache_parse("source ", optarg, &rebase->options.cache) < 0;
	case 'c':
		rebase->options.compress = true;
		return 0;
	case 'p':
		rebase->progress = true;
		return 0;
	case 'q':
		rebase->quiet = true;
		return 0;
	case 'U':
		rebase->options.share = true;
		return 0;
	case OPTION_DRY_RUN:
		rebase->options.dry_run = true;
		return 0;
	case OPTION_IMAGE_OPTS:
		rebase->source.image_opts = true;
		return 0;
	case OPTION_OBJECT:
		return ox_cli_object_take(optarg) < 0;
	default:
		return ox_cli_option_error("rebase", c, argv);
	}
}

static const struct option longs[] = {
	{"help", no_argument, NULL, 'h'},
	{"format", required_argument, NULL, 'f'},
	{"backing", required_argument, NULL, 'b'},
	{"backing-format", required_argument, NULL, 'F'},
	{"backing-unsafe", no_argument, NULL, 'u'},
	{"cache", required_argument, NULL, 't'},
	{"source-cache", required_argument, NULL, 'T'},
	{"backing-cache", required_argument, NULL, 'T'},
	{"src-cache", required_argument, NULL, 'T'},
	{"compress", no_argument, NULL, 'c'},
	{"progress", no_argument, NULL, 'p'},
	{"quiet", no_argument, NULL, 'q'},
	{"force-share", no_argument, NULL, 'U'},
	{"dry-run", no_argument, NULL, OPTION_DRY_RUN},
	{"image-opts", no_argument, NULL, OPTION_IMAGE_OPTS},
	{"object", required_argument, NULL, OPTION_OBJECT},
	{0},
};

static int run(struct rebase *rebase, const char *name)
{
	const char *backing = rebase->options.backing_file;

	if (backing && !rebase->options.unsafe && ox_cli_refuse_backing_name(name, backing) < 0)
		return 1;
	if (rebase->options.dry_run)
		rebase->source.open.flags |= OX_OPEN_READ_ONLY;
	if (rebase->options.unsafe) /* the old one may be gone, which is what it is for */
		rebase->source.open.flags |= OX_OPEN_NO_BACKING;
	return ox_cli_work_on(&rebase->source, name, rebase_image, rebase) < 0 ? 1 : 0;
}

int ox_cli_rebase(int argc, char **argv)
{
	struct rebase rebase = {.source = OX_CLI_SOURCE_INIT, .options = OX_REBASE_OPTIONS_INIT};
	int c, status = 0;

	opterr = 0;
	while (status == 0 && (c = getopt_long(argc, argv, ":hf:b:F:ut:T:cpqU", longs, NULL)) != -1)
		status = take_option(&rebase, c, argv);
	if (status == 0 && optind + 1 != argc)
		status = ox_cli_usage_error("rebase", "Expecting one image file name");
	else if (status == 0 && !rebase.options.unsafe && !rebase.options.backing_file)
		status = ox_cli_usage_error(
			"rebase", "Must specify backing file (-b) or use unsafe mode (-u)");
	else if (status == 0)
		status = run(&rebase, argv[optind]);
	return ox_cli_finish_output(status < 0 ? 0 : status);
}
