/* SPDX-License-Identifier: MIT */
/* oxbow undo */
#include <getopt.h>
#include <inttypes.h>
#include <string.h>

#include "cli/cli.h"

static const char help[] =
	"usage: oxbow undo [--force] UNDO FILE\n"
	"Put FILE back to what it was before 'oxbow check -r ... --undo UNDO', which wrote UNDO.\n"
	"\n"
	"The repair may have been interrupted. An undo that was interrupted may be run again.\n"
	"An image that is not as the repair left it is refused: the old bytes would damage what\n"
	"was written since.\n"
	"\n"
	"  --force             put the old bytes back even then\n"
	"  -h, --help          print this text\n";

enum {
	OPTION_FORCE = 256,
};

static void report(const char *path, const struct ox_undo_result *res)
{
	if (!res->complete)
		printf("The repair had not come to its end.\n");
	if (res->foreign_sectors)
		printf("%" PRIu64 " sectors were not as the repair left them.\n",
		       res->foreign_sectors);
	if (res->restored_blocks == 0 && res->image_length == res->image_length_found) {
		printf("'%s' is as it was before the repair: nothing to put back.\n", path);
		return;
	}
	printf("Put back %" PRIu64 " blocks (%" PRIu64 " bytes) of '%s'.\n", res->restored_blocks,
	       res->restored_bytes, path);
	if (res->image_length != res->image_length_found)
		printf("Its length went from %" PRIu64 " to %" PRIu64 " bytes.\n",
		       res->image_length_found, res->image_length);
}

static int run(const char *undo_path, const char *path, const struct ox_undo_options *opts)
{
	struct ox_undo_result res;
	struct ox_context *ctx;
	struct ox_error *err = NULL;
	int r;

	if (ox_cli_context_new(OX_ENGINE_DEFAULT, &ctx) < 0)
		return 1;
	r = ox_image_undo(ctx, undo_path, path, opts, &res, &err);
	ox_context_free(ctx);
	if (r < 0)
		ox_cli_error("%s", err ? ox_error_message(err) : strerror(-r));
	else
		report(path, &res);
	ox_error_free(err);
	return r < 0;
}

int ox_cli_undo(int argc, char **argv)
{
	static const struct option longs[] = {
		{"help", no_argument, NULL, 'h'},
		{"force", no_argument, NULL, OPTION_FORCE},
		{0},
	};
	struct ox_undo_options opts = OX_UNDO_OPTIONS_INIT;
	struct ox_cli_name name;
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, ":h", longs, NULL)) != -1) {
		if (c == 'h') {
			fputs(help, stdout);
			return ox_cli_finish_output(0);
		}
		if (c != OPTION_FORCE)
			return ox_cli_finish_output(ox_cli_option_error("undo", c, argv));
		opts.force = true;
	}
	if (optind + 2 != argc)
		return ox_cli_usage_error("undo", "Expecting an undo file and an image");
	if (ox_cli_name_parse(argv[optind + 1], &name) < 0) {
		ox_cli_error("Could not open '%s': Unknown protocol '%s'", argv[optind + 1],
			     name.protocol);
		return 1;
	}
	opts.flags = name.flags;
	return ox_cli_finish_output(run(argv[optind], name.path, &opts));
}
