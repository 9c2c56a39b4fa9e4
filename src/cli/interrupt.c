/* SPDX-License-Identifier: MIT */
/* Signals that end a verb whose work has something to put in order first. */
#include <signal.h>
#include <stdio.h>

#include "cli/cli.h"

static volatile sig_atomic_t signal_met;

static void note_signal(int number)
{
	signal_met = number;
}

int ox_cli_was_interrupted(void *opaque)
{
	(void)opaque;
	return signal_met != 0;
}

void ox_cli_catch_signals(void)
{
	static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
	struct sigaction action = {.sa_handler = note_signal, .sa_flags = SA_RESETHAND};

	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
		struct sigaction old;

		if (sigaction(numbers[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
			sigaction(numbers[i], &action, NULL);
	}
}

void ox_cli_die_of_signal(void)
{
	if (!signal_met)
		return;
	fflush(stdout);
	signal(signal_met, SIG_DFL);
	raise(signal_met);
}
