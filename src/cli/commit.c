/* SPDX-License-Identifier: MIT */
/* oxbow commit */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/signals.h"

static const char help[] =
	"usage: oxbow commit [-f FMT] [-b BASE] [-d] [-t CACHE] [-r RATE] [-p] [-q]\n"
	"                    [--dry-run] [--image-opts] FILE\n"
	"Copy what an image has into its backing file, and empty it: it reads as before.\n"
	"\n"
	"  -f, --format FMT      format of the image; without it, the file tells it\n"
	"  -b, --base BASE       the image of the chain that takes the data, with that of all\n"
	"                        between; nothing is emptied, as with -d\n"
	"  -d, --drop            do not empty FILE: it is to be removed\n"
	"  -t, --cache CACHE     writeback (the default), none, writethrough, directsync, unsafe\n"
	"  -r, --rate RATE       copy so many bytes a second at the most\n"
	"  -p, --progress        show how far it is\n"
	"  -q, --quiet           print nothing where all is well\n"
	"  --dry-run             say what would be copied, and change nothing\n"
	"  --image-opts          FILE is a description: driver=qcow2,file.filename=PATH,...\n"
	"  -h, --help            print this text\n"
	"\n"
	"A shorter base grows. Any other image that rests on BASE reads differently afterwards.\n"
	"Interrupted at any moment, FILE reads the same, and another commit goes on.\n";

enum {
	OPTION_DRY_RUN = 256,
	OPTION_IMAGE_OPTS,
	OPTION_OBJECT,
};

struct commit {
	struct ox_cli_source source;
	struct ox_commit_options options;
	bool progress;
	bool quiet;
};

/* What the user should know, on the error stream: the old names say nothing of it. */
static void say_effects(const struct commit *commit, const struct ox_commit_result *result)
{
	const char *will = commit->options.dry_run ? "would read" : "now reads";

	if (commit->quiet || ox_called_by_old_name() ||
	    result->data_bytes + result->zero_bytes == 0)
		return;
	ox_cli_error("note: any other image whose backing file is '%s' %s differently",
		     result->base, will);
	if (result->snapshots > 0)
		ox_cli_error("note: so %s what the %u internal snapshots of '%s' have from "
			     "there",
			     commit->options.dry_run ? "would" : "does", result->snapshots,
			     commit->source.path);
}

static void say_plan(const struct commit *commit, const struct ox_commit_result *result)
{
	char text[2][OX_CLI_SIZE_MAX];

	if (commit->quiet)
		return;
	printf("%s (%" PRIu64 " bytes) of data and %s (%" PRIu64
	       " bytes) of zeroes would go into '%s'.\n",
	       ox_cli_size_text(result->data_bytes, text[0]), result->data_bytes,
	       ox_cli_size_text(result->zero_bytes, text[1]), result->zero_bytes, result->base);
	if (result->new_base_bytes != result->base_bytes)
		printf("It would grow from %" PRIu64 " to %" PRIu64 " bytes.\n", result->base_bytes,
		       result->new_base_bytes);
}

static int commit_image(struct ox_image *image, void *arg)
{
	struct commit *commit = arg;
	struct ox_commit_result result = {0};
	struct ox_cli_progress progress;
	struct ox_error *err = NULL;
	int r;

	commit->options.progress = ox_cli_progress_report;
	commit->options.opaque = &progress;
	commit->options.interrupted = ox_cli_signals_interrupted;
	ox_cli_signals_catch();
	ox_cli_progress_begin(&progress, commit->progress && !commit->quiet, stdout);
	ox_cli_progress_report(&progress, 0, 1);
	r = ox_commit(image, &commit->options, &result, &err);
	ox_cli_progress_end(&progress, r == 0);
	if (r < 0) {
		ox_cli_error("%s", err ? ox_error_message(err) : strerror(-r));
	} else {
		if (commit->options.dry_run)
			say_plan(commit, &result);
		say_effects(commit, &result);
	}
	ox_error_free(err);
	return r;
}

static int parse_rate(const char *text, uint64_t *ret)
{
	if (ox_cli_size_parse(text, ret) == 0)
		return 0;
	ox_cli_error("Invalid rate limit specified. You may use k, M, G, T, P or E suffixes for");
	ox_cli_error("kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.");
	return 1;
}

/* One option. 0 to go on, -1 after --help, else the exit status. */
static int take_option(struct commit *commit, int c, char **argv)
{
	switch (c) {
	case 'h':
		ox_called_print_help(help);
		return -1;
	case 'f':
		commit->source.open.format = optarg;
		return 0;
	case 'b':
		commit->options.base = optarg;
		commit->options.keep = true;
		return 0;
	case 'd':
		commit->options.keep = true;
		return 0;
	case 't':
		return ox_cli_cache_parse("", optarg, &commit->source.open.cache) < 0;
	case 'r':
		return parse_rate(optarg, &commit->options.rate_bytes);
	case 'p':
		commit->progress = true;
		return 0;
	case 'q':
		commit->quiet = true;
		return 0;
	case OPTION_DRY_RUN:
		commit->options.dry_run = true;
		return 0;
	case OPTION_IMAGE_OPTS:
		commit->source.image_opts = true;
		return 0;
	case OPTION_OBJECT:
		return ox_cli_object_take(optarg) < 0;
	default:
		return ox_cli_option_error("commit", c, argv);
	}
}

static const struct option longs[] = {
	{"help", no_argument, NULL, 'h'},
	{"format", required_argument, NULL, 'f'},
	{"base", required_argument, NULL, 'b'},
	{"drop", no_argument, NULL, 'd'},
	{"cache", required_argument, NULL, 't'},
	{"rate", required_argument, NULL, 'r'},
	{"rate-limit", required_argument, NULL, 'r'},
	{"progress", no_argument, NULL, 'p'},
	{"quiet", no_argument, NULL, 'q'},
	{"dry-run", no_argument, NULL, OPTION_DRY_RUN},
	{"image-opts", no_argument, NULL, OPTION_IMAGE_OPTS},
	{"object", required_argument, NULL, OPTION_OBJECT},
	{0},
};

static int run(struct commit *commit, const char *name)
{
	int r;

	if (commit->options.dry_run)
		commit->source.open.flags |= OX_OPEN_READ_ONLY;
	r = ox_cli_work_on(&commit->source, name, commit_image, commit);
	if (r == 0 && !commit->quiet && !commit->options.dry_run)
		printf("Image committed.\n");
	return r < 0 ? 1 : 0;
}

int ox_cli_commit(int argc, char **argv)
{
	struct commit commit = {.source = OX_CLI_SOURCE_INIT, .options = OX_COMMIT_OPTIONS_INIT};
	int c, status = 0;

	opterr = 0;
	while (status == 0 && (c = getopt_long(argc, argv, ":hf:b:dt:r:pq", longs, NULL)) != -1)
		status = take_option(&commit, c, argv);
	if (status == 0 && optind + 1 != argc)
		status = ox_cli_usage_error("commit", "Expecting one image file name");
	else if (status == 0)
		status = run(&commit, argv[optind]);
	return ox_cli_finish_output(status < 0 ? 0 : status);
}
