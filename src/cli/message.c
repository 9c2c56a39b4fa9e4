/* SPDX-License-Identifier: MIT */
/* Messages of the command: all on stderr, all beginning with its name. */
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/log.h"

/* Of the thread's messages; NULL: there is one only. */
static _Thread_local const char *subject;

void ox_cli_message_about(const char *name)
{
	subject = name;
}

static void print_message(const char *format, va_list args) OX_CLI_PRINTF(1, 0);

static void print_message(const char *format, va_list args)
{
	char *message;
	char *said;
	char *line;

	/* What was said before must stand before, also when both go to one file. */
	fflush(stdout);
	if (vasprintf(&said, format, args) < 0)
		return;
	/* A name in it is somebody else's word, and makes no line of its own. */
	message = ox_cli_printable(said, strchr(format, '\n'));
	free(said);
	if (!message)
		return;
	if (asprintf(&line, "%s: %s%s%s\n", ox_called_name(), subject ? subject : "",
		     subject ? ": " : "", message) >= 0) {
		if (!ox_cli_log_take(line, strlen(line)))
			fputs(line, stderr);
		free(line);
	}
	free(message);
}

void ox_cli_error(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	print_message(format, args);
	va_end(args);
}

int ox_cli_usage_error(const char *verb, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	print_message(format, args);
	va_end(args);
	if (subject)
		return 1; /* it stands in no command line */
	if (verb && !ox_called_by_old_name())
		fprintf(stderr, "Try 'oxbow %s --help' for more information\n", verb);
	else if (ox_called_as() == OX_CALLED_QEMU_NBD)
		fputs("Try `qemu-nbd --help' for more information.\n", stderr);
	else
		fprintf(stderr, "Try '%s --help' for more information\n", ox_called_name());
	return 1;
}

int ox_cli_unknown_verb(const char *verb)
{
	static const struct {
		const char *verb;
		const char *instead;
	} missing[] = {
		{"amend", "an image is changed by 'convert' alone"},
		{"bitmap", "persistent bitmaps are listed by 'info', and not made or copied"},
		{"snapshot", "internal snapshots are listed by 'info' and copied by 'convert -l', "
			     "and not made or removed"},
	};

	for (size_t i = 0; i < sizeof(missing) / sizeof(missing[0]); i++)
		if (strcmp(verb, missing[i].verb) == 0)
			return ox_cli_usage_error(NULL, "Command not found: %s: %s", verb,
						  missing[i].instead);
	return ox_cli_usage_error(NULL, "Command not found: %s", verb);
}

int ox_cli_option_error(const char *verb, int c, char **argv)
{
	const char *what = c == ':' ? "missing argument for" : "unrecognized";

	/* optind has not moved yet if the option stands within a cluster of short ones. */
	if (c == '?' && optopt > 0 && optopt < 128)
		return ox_cli_usage_error(verb, "%s option '-%c'", what, optopt);
	return ox_cli_usage_error(verb, "%s option '%s'", what, argv[optind - 1]);
}

void ox_cli_warn(void *opaque, const char *message)
{
	(void)opaque;
	ox_cli_error("warning: %s", message);
}

int ox_cli_finish_output(int status)
{
	if (fflush(stdout) == 0 && !ferror(stdout))
		return status;
	ox_cli_error("standard output: %m");
	return status ? status : 1;
}
