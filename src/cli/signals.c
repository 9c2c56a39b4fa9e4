/* SPDX-License-Identifier: MIT */
#include "cli/signals.h"

#include <signal.h>

static volatile sig_atomic_t end_asked;
static volatile sig_atomic_t line_asked;

static void note_end(int number)
{
	end_asked = number;
}

static void note_line(int number)
{
	(void)number;
	line_asked = 1;
}

void ox_cli_signals_catch(void)
{
	static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
	struct sigaction end = {.sa_handler = note_end, .sa_flags = SA_RESETHAND};
	struct sigaction line = {.sa_handler = note_line, .sa_flags = SA_RESTART};

	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
		struct sigaction old;

		if (sigaction(numbers[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
			sigaction(numbers[i], &end, NULL);
	}
	sigaction(SIGUSR1, &line, NULL);
}

int ox_cli_signals_interrupted(void *opaque)
{
	const struct ox_cli_progress *progress = opaque;

	if (line_asked) {
		line_asked = 0;
		fprintf(stderr, "    (%3.2f/100%%)\n",
			progress->total ? (double)progress->done / (double)progress->total * 100
					: 0.0);
	}
	return end_asked != 0;
}

void ox_cli_signals_die(void)
{
	if (!end_asked)
		return;
	fflush(stdout);
	signal(end_asked, SIG_DFL);
	raise(end_asked);
}
