/* SPDX-License-Identifier: MIT */
/* The command: the table of verbs, and what it says of itself. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/compat/called.h"

static const struct ox_cli_verb verbs[] = {
	{"create", ox_cli_create, "make an image"},
	{"convert", ox_cli_convert, "copy images into a new one, of whatever format"},
	{"dd", ox_cli_dd, "copy a part of an image into a new one"},
	{"info", ox_cli_info, "say what an image is"},
	{"check", ox_cli_check, "look for inconsistencies, and repair them"},
	{"undo", ox_cli_undo, "take back a repair"},
	{"measure", ox_cli_measure, "say how large an image would be"},
	{"compare", ox_cli_compare, "say whether two disks read the same"},
	{"checksum", ox_cli_checksum, "sum up what a disk reads"},
	{"map", ox_cli_map, "list where the data of an image is"},
	{"resize", ox_cli_resize, "make the disk of an image larger or smaller"},
	{"commit", ox_cli_commit, "copy an image into its backing file"},
	{"rebase", ox_cli_rebase, "give an image another backing file"},
	{"bench", ox_cli_bench, "measure how long requests take"},
	{"io", ox_cli_io, "read, write, discard and flush by hand"},
	{"serve", ox_cli_serve, "serve an image over NBD"},
	{"vhost-user-blk", ox_cli_vhost_user_blk, "the same for a guest, as its manager starts it"},
	{"mount", ox_cli_mount, "show an image's disk as a file"},
	{"ctl", ox_cli_ctl, "look into a server, and tell it what to do"},
	{"help", ox_cli_help, "explain a verb"},
	{"version", ox_cli_version, "print the version"},
};

const struct ox_cli_verb *ox_cli_verb_find(const char *name)
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
	       "Virtual-disk images: qcow2, QED and raw.\n"
	       "\n"
	       "Verbs:\n");
	for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++)
		printf("  %-14s %s\n", verbs[i].name, verbs[i].summary);
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
	const struct ox_cli_verb *verb;
	char *arguments[3];

	if (argc > 2)
		return ox_cli_usage_error(NULL, "Unexpected argument: %s", argv[2]);
	if (argc < 2 || strcmp(argv[1], "help") == 0 || argv[1][0] == '-') {
		print_overview();
		return ox_cli_finish_output(0);
	}
	verb = ox_cli_verb_find(argv[1]);
	if (!verb)
		return ox_cli_unknown_verb(argv[1]);
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

/* A standard descriptor that came closed would be the number of what is opened next, and texts
 * would be written there. What takes its place can neither be read as input nor written as output:
 * who tries gets the error that a closed one gives. */
static int occupy_standard_descriptors(void)
{
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
		if (fcntl(fd, F_GETFD) >= 0 || errno != EBADF)
			continue;
		if (open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) != fd)
			return -1;
	}
	return 0;
}

static int run_as_oxbow(int argc, char **argv)
{
	static char help_verb[] = "help";
	const struct ox_cli_verb *verb;

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
	verb = ox_cli_verb_find(argv[1]);
	if (!verb)
		return ox_cli_unknown_verb(argv[1]);
	return verb->run(argc - 1, argv + 1);
}

int main(int argc, char **argv)
{
	if (occupy_standard_descriptors() < 0)
		return 1;
	ignore_signals_of_limits();
	if (argc > 0)
		ox_called_set(argv[0]);
	switch (ox_called_as()) {
	case OX_CALLED_VHOST_USER_BLK: /* which management software looks for */
		return ox_cli_vhost_user_blk(argc, argv);
	case OX_CALLED_QEMU_IMG:
		return ox_compat_img(argc, argv);
	case OX_CALLED_QEMU_IO:
		return ox_cli_io(argc, argv);
	case OX_CALLED_QEMU_NBD:
		return ox_compat_nbd(argc, argv);
	default:
		return run_as_oxbow(argc, argv);
	}
}
