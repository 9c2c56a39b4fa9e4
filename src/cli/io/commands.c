/* SPDX-License-Identifier: MIT */
/* The commands of a session. */
#include <errno.h>
#include <string.h>

#include "cli/io/session.h"

/* Words of a line; more are an error of the one who typed it. */
#define WORDS_MAX 256

#define HELP_MACHINE "  -C  statistics for a machine: bytes,operations,time,bytes/s,operations/s\n"
#define HELP_QUIET "  -q  no statistics\n"
#define HELP_FILL "  -P  fill with this byte; without it, 0xcd\n"
#define HELP_ASYNC                                                                                 \
	"\nThe command is done as soon as the request is on its way; aio_flush waits for all. "    \
	"An\n"                                                                                     \
	"error of the request is printed, but does not make the command fail.\n"

static int help_command(struct ox_cli_io *io, int argc, char **argv);

/* In the order of 'help'. */
static const struct ox_cli_io_command commands[] = {
	{"abort", NULL, 0, 0, false, false, "", "end the process at once, as a crash would", NULL,
	 ox_cli_io_abort},
	{"aio_flush", NULL, 0, 0, true, false, "", "wait for every aio_* request", NULL,
	 ox_cli_io_aio_flush},
	{"aio_read", NULL, 2, -1, true, false, "[-Ciqv] [-P pattern] off len [len..]",
	 "read beside other requests",
	 "Each length has a buffer of its own.\n"
	 "  -P  every byte must be this one\n"
	 "  -v  print the bytes\n"
	 "  -i  count as an invalid request; nothing is read\n" HELP_MACHINE HELP_QUIET HELP_ASYNC,
	 ox_cli_io_aio_read},
	{"aio_write", NULL, 2, -1, true, true, "[-Cfiquz] [-P pattern] off len [len..]",
	 "write beside other requests",
	 "Each length has a buffer of its own.\n" HELP_FILL "  -z  write zeroes\n"
	 "  -u  with -z: the space may return to the host\n"
	 "  -f  durable before it is done (FUA)\n"
	 "  -i  count as an invalid request; nothing is written\n" HELP_MACHINE HELP_QUIET
		 HELP_ASYNC,
	 ox_cli_io_aio_write},
	{"alloc", NULL, 1, 2, true, false, "offset [count]",
	 "how much of a range the file itself holds", NULL, ox_cli_io_alloc},
	{"break", NULL, 2, 2, false, false, "event tag", "not supported: it needs blkdebug", NULL,
	 ox_cli_io_no_blkdebug},
	{"close", "c", 0, 0, true, false, "", "close the file", NULL, ox_cli_io_close},
	{"discard", "d", 2, -1, true, true, "[-Cq] off len", "give a range back",
	 HELP_MACHINE HELP_QUIET, ox_cli_io_discard},
	{"flush", "f", 0, 0, true, false, "", "make what was written durable", NULL,
	 ox_cli_io_flush},
	{"help", "?", 0, 1, false, false, "[command]", "explain one command, or list them all",
	 NULL, help_command},
	{"info", "i", 0, 0, true, false, "", "say what the file is", NULL, ox_cli_io_info},
	{"length", "l", 0, 0, true, false, "", "print the size of the disk", NULL,
	 ox_cli_io_length},
	{"map", NULL, 0, 0, true, false, "", "list the ranges that the file itself holds", NULL,
	 ox_cli_io_map},
	{"open", "o", 1, -1, false, false, "[-rnU] [-t cache] [-d discard] [-o options] [path]",
	 "open a file",
	 "  -r  read-only\n"
	 "  -n  the same as -t none\n"
	 "  -t  writethrough (the default), writeback, none, directsync, unsafe\n"
	 "  -d  what discards do: unmap or ignore\n"
	 "  -U  take no notice of other users; needs -r\n"
	 "  -o  options as of --image-opts: driver=qcow2,...\n",
	 ox_cli_io_open},
	{"quit", "q", 0, -1, false, false, "", "end the session", NULL, ox_cli_io_quit},
	{"read", "r", 2, -1, true, false, "[-bCqrv] [-P pattern [-s off] [-l len]] off len",
	 "read a range",
	 "  -P  every byte must be this one\n"
	 "  -s  with -P: first byte to compare, counted from off\n"
	 "  -l  with -P: how many bytes to compare\n"
	 "  -v  print the bytes\n"
	 "  -b  from the saved machine state: not supported\n"
	 "  -p, -r  ignored\n" HELP_MACHINE HELP_QUIET,
	 ox_cli_io_read},
	{"readv", NULL, 2, -1, true, false, "[-Cqrv] [-P pattern] off len [len..]",
	 "read a range into several buffers",
	 "  -P  every byte must be this one\n"
	 "  -v  print the bytes\n  -r  ignored\n" HELP_MACHINE HELP_QUIET,
	 ox_cli_io_readv},
	{"reopen", NULL, 0, -1, true, false, "[(-r|-w)] [-c cache] [-o options]",
	 "open the same file in another way",
	 "  -r  read-only\n"
	 "  -w  for writing\n"
	 "  -c  with this cache mode; the file is closed and opened for it\n"
	 "  -o  options as of open that may change\n",
	 ox_cli_io_reopen},
	{"remove_break", NULL, 1, 1, false, false, "tag", "not supported: it needs blkdebug", NULL,
	 ox_cli_io_no_blkdebug},
	{"resume", NULL, 1, 1, false, false, "tag", "not supported: it needs blkdebug", NULL,
	 ox_cli_io_no_blkdebug},
	{"sigraise", NULL, 1, 1, false, false, "signal", "send the process a signal, by number",
	 NULL, ox_cli_io_sigraise},
	{"sleep", NULL, 1, 1, false, false, "ms", "wait so many milliseconds", NULL,
	 ox_cli_io_sleep},
	{"truncate", "t", 1, 3, true, true, "[-m prealloc_mode] off", "set the size of the disk",
	 "  -m  preallocation of what is added: off\n", ox_cli_io_truncate},
	{"wait_break", NULL, 1, 1, false, false, "tag", "not supported: it needs blkdebug", NULL,
	 ox_cli_io_no_blkdebug},
	{"write", "w", 2, -1, true, true, "[-bcCfnqruz] [-P pattern | -s source_file] off len",
	 "write a range",
	 HELP_FILL "  -s  fill with this file's bytes, over and over\n"
		   "  -z  write zeroes\n"
		   "  -u  with -z: the space may return to the host\n"
		   "  -n  with -z: fail rather than write bytes\n"
		   "  -f  durable before it is done (FUA)\n"
		   "  -b  to the saved machine state: not supported\n"
		   "  -c  compressed: whole clusters, or up to the disk's end\n"
		   "  -p, -r  ignored\n" HELP_MACHINE HELP_QUIET,
	 ox_cli_io_write},
	{"writev", NULL, 2, -1, true, true, "[-Cfqr] [-P pattern] off len [len..]",
	 "write a range from several buffers",
	 HELP_FILL "  -f  durable before it is done (FUA)\n  -r  ignored\n" HELP_MACHINE HELP_QUIET,
	 ox_cli_io_writev},
};

static const struct ox_cli_io_command *find_command(const char *name)
{
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		if (strcmp(commands[i].name, name) == 0 ||
		    (commands[i].alias && strcmp(commands[i].alias, name) == 0))
			return &commands[i];
	}
	return NULL;
}

static void print_line(const struct ox_cli_io_command *command)
{
	printf("%s%s%s -- %s\n", command->name, *command->args ? " " : "", command->args,
	       command->summary);
}

int ox_cli_io_usage(const char *name)
{
	print_line(find_command(name));
	return -EINVAL;
}

static int help_command(struct ox_cli_io *io, int argc, char **argv)
{
	const struct ox_cli_io_command *command;

	(void)io;
	if (argc == 1) {
		for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
			print_line(&commands[i]);
		printf("\nUse 'help commandname' for extended help.\n");
		return 0;
	}
	command = find_command(argv[1]);
	if (!command) {
		printf("command %s not found\n", argv[1]);
		return -EINVAL;
	}
	print_line(command);
	if (command->help)
		printf("\n%s\n", command->help);
	return 0;
}

static int check_count(const struct ox_cli_io_command *command, const char *name, int args)
{
	if (args >= command->min_args && (command->max_args < 0 || args <= command->max_args))
		return 0;
	fflush(stdout);
	fprintf(stderr, "bad argument count %d to %s, expected ", args, name);
	if (command->max_args < 0)
		fprintf(stderr, "at least %d arguments\n", command->min_args);
	else if (command->min_args == command->max_args)
		fprintf(stderr, "%d arguments\n", command->min_args);
	else
		fprintf(stderr, "between %d and %d arguments\n", command->min_args,
			command->max_args);
	return -EINVAL;
}

static int run_words(struct ox_cli_io *io, int count, char **words)
{
	const struct ox_cli_io_command *command = find_command(words[0]);

	if (!command) {
		fflush(stdout);
		fprintf(stderr, "command \"%s\" not found\n", words[0]);
		return -EINVAL;
	}
	if (check_count(command, words[0], count - 1) < 0)
		return -EINVAL;
	if (command->needs_image && !io->image) {
		fflush(stdout);
		fprintf(stderr, "no file open, try 'help open'\n");
		return -ENOENT;
	}
	if (command->writes && ox_image_is_read_only(io->image)) {
		ox_cli_error("Block node is read-only");
		return -EROFS;
	}
	return command->run(io, count, words);
}

int ox_cli_io_run_line(struct ox_cli_io *io, char *line)
{
	char *words[WORDS_MAX + 1], *rest = NULL, *word;
	int count = 0, r;

	for (word = strtok_r(line, " \n", &rest); word; word = strtok_r(NULL, " \n", &rest)) {
		if (count == WORDS_MAX) {
			ox_cli_error("a command has more than %d words", WORDS_MAX);
			return -E2BIG;
		}
		words[count++] = word;
	}
	if (count == 0)
		return 0;
	words[count] = NULL;
	r = run_words(io, count, words);
	ox_cli_io_aio_poll(io);
	return r;
}
