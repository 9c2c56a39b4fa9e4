/* SPDX-License-Identifier: MIT */
/* Called as qemu-img: its options before the verb, and its verbs. */
#include <getopt.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/compat/called.h"

/* Those of them that main.c's table has are there. */
static const char *const verbs[] = {
	"amend", "bench", "bitmap", "check",   "commit", "compare", "convert",	"create",
	"dd",	 "info",  "map",    "measure", "rebase", "resize",  "snapshot",
};

static void print_version(void)
{
	printf("qemu-img version " OX_CALLED_VERSION " (oxbow %s)\n", ox_version());
}

/* Scripts look for -U in it, and take the formats from the last line. */
static void print_help(void)
{
	print_version();
	printf("usage: qemu-img [STANDARD OPTIONS] VERB [OPTIONS] [ARGUMENTS]\n"
	       "Virtual-disk images, by oxbow under the name of QEMU's tool.\n"
	       "\n"
	       "Standard options:\n"
	       "  -h, --help     print this text\n"
	       "  -V, --version  print the version\n"
	       "  -T, --trace    [[enable=]PATTERN][,events=FILE][,file=FILE]: accepted and "
	       "ignored\n"
	       "\n"
	       "Verbs, each of which tells its options with 'qemu-img VERB --help':\n");
	for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++) {
		const struct ox_cli_verb *verb = ox_cli_verb_find(verbs[i]);

		if (verb)
			printf("  %-10s %s\n", verb->name, verb->summary);
	}
	printf("\nVerbs that only read an image take -U (--force-share): also while another "
	       "process "
	       "has\nit open for writing.\n"
	       "\n"
	       "Supported formats: qcow2 qed raw\n");
}

static const struct ox_cli_verb *find_verb(const char *name)
{
	for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++) {
		if (strcmp(name, verbs[i]) == 0)
			return ox_cli_verb_find(name);
	}
	return NULL;
}

int ox_compat_img(int argc, char **argv)
{
	static const struct option longs[] = {
		{"help", no_argument, NULL, 'h'},
		{"version", no_argument, NULL, 'V'},
		{"trace", required_argument, NULL, 'T'},
		{0},
	};
	const struct ox_cli_verb *verb;
	int c, first;

	opterr = 0;
	while ((c = getopt_long(argc, argv, "+:hVT:", longs, NULL)) != -1) {
		switch (c) {
		case 'h':
			print_help();
			return ox_cli_finish_output(0);
		case 'V':
			print_version();
			return ox_cli_finish_output(0);
		case 'T':
			break;
		default:
			return ox_cli_option_error(NULL, c, argv);
		}
	}
	first = optind;
	if (first >= argc)
		return ox_cli_usage_error(NULL, "Not enough arguments");
	if (strcmp(argv[first], "help") == 0) {
		print_help();
		return ox_cli_finish_output(0);
	}
	verb = find_verb(argv[first]);
	if (!verb)
		return ox_cli_unknown_verb(argv[first]);
	optind = 0; /* anew, for the verb's own options */
	return verb->run(argc - first, argv + first);
}
