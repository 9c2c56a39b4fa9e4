/* SPDX-License-Identifier: MIT */
/* The command: the table of verbs, and what it says of itself. */
#include <getopt.h>
#include <signal.h>
#include <string.h>

#include "cli/cli.h"

static const struct verb {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *summary;
} verbs[] = {
	{"create", ox_cli_create, "make an image"},
	{"info", ox_cli_info, "say what an image is"},
	{"check", ox_cli_check, "look for inconsistencies, and repair them"},
	{"undo", ox_cli_undo, "take back a repair"},
	{"map", ox_cli_map, "list where the data of an image is"},
	{"io", ox_cli_io, "read, write, discard and flush by hand"},
	{"serve", ox_cli_serve, "serve an image over NBD"},
	{"help", ox_cli_help, "explain a verb"},
	{"version", ox_cli_version, "print the version"},
};

static const struct verb *find_verb(const char *name)
{
	for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++) {
		if (strcmp(verbs[i].name, name) == 0)
			return &verbs[i];
	}
	return NULL;
}

static void print_overview(void)
{
	printf("usage: oxbow VERB [OPTIONS] [ARGUMENTS]\n"
	       "       oxbow --help | --version\n"
	       "Virtual-disk images: qcow2 and raw.\n"
	       "\n"
	       "Verbs:\n");
	for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++)
		printf("  %-9s %s\n", verbs[i].name, verbs[i].summary);
	printf("\n'oxbow help VERB' or 'oxbow VERB --help' lists the options of a verb.\n"
	       "OXBOW_IO=threads in the environment uses threads, and not io_uring.\n");
}

int ox_cli_version(int argc, char **argv)
{
	(void)argv;
	if (argc > 1 && strcmp(argv[1], "--help") != 0 && strcmp(argv[1], "-h") != 0)
		return ox_cli_usage_error("version", "Unexpected argument: %s", argv[1]);
	if (argc > 1)
		printf("usage: oxbow version\nPrint the version.\n");
	else
		printf("oxbow version %s\n", ox_version());
	return ox_cli_finish_output(0);
}

int ox_cli_help(int argc, char **argv)
{
	static char flag[] = "--help";
	const struct verb *verb;
	char *arguments[3];

	if (argc > 2)
		return ox_cli_usage_error(NULL, "Unexpected argument: %s", argv[2]);
	if (argc < 2 || strcmp(argv[1], "help") == 0 || argv[1][0] == '-') {
		print_overview();
		return ox_cli_finish_output(0);
	}
	verb = find_verb(argv[1]);
	if (!verb)
		return ox_cli_usage_error(NULL, "Command not found: %s", argv[1]);
	arguments[0] = argv[1];
	arguments[1] = flag;
	arguments[2] = NULL;
	return verb->run(2, arguments);
}

/* A limit that is met, or a reader who is gone, is an error of the call that met it (EFBIG, EPIPE),
 * not the end of a process that may have an image open for writing. io_uring sends SIGXFSZ to the
 * main thread, whatever threads of a pool block. */
static void ignore_signals_of_limits(void)
{
	(void)signal(SIGXFSZ, SIG_IGN);
	(void)signal(SIGPIPE, SIG_IGN);
}

int main(int argc, char **argv)
{
	static char help_verb[] = "help";
	const struct verb *verb;

	ignore_signals_of_limits();
	if (argc < 2)
		return ox_cli_usage_error(NULL, "Not enough arguments");
	if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0)
		return ox_cli_version(1, argv);
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
		argv[1] = help_verb;
		return ox_cli_help(argc - 1, argv + 1);
	}
	if (argv[1][0] == '-')
		return ox_cli_usage_error(NULL, "unrecognized option '%s'", argv[1]);
	verb = find_verb(argv[1]);
	if (!verb)
		return ox_cli_usage_error(NULL, "Command not found: %s", argv[1]);
	return verb->run(argc - 1, argv + 1);
}
