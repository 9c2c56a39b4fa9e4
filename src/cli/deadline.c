/* SPDX-License-Identifier: MIT */
#include "cli/deadline.h"

#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

static const char *volatile message_at_end;

/* Calls nothing but what a signal handler may call. */
static void give_up(int signal_number)
{
	struct pollfd standard_error = {.fd = STDERR_FILENO, .events = POLLOUT};
	const char *message = message_at_end;

	(void)signal_number;
	/* Whoever reads may have stopped as well. */
	if (poll(&standard_error, 1, 0) == 1 && (standard_error.revents & POLLOUT))
		(void)!write(STDERR_FILENO, message, strlen(message));
	_exit(1);
}

static void set_timer(unsigned ms)
{
	const struct itimerval timer = {
		.it_value = {.tv_sec = ms / 1000, .tv_usec = (long)(ms % 1000) * 1000},
	};

	(void)setitimer(ITIMER_REAL, &timer, NULL);
}

void ox_cli_deadline_begin(unsigned ms, const char *message)
{
	struct sigaction action = {.sa_handler = give_up};

	message_at_end = message;
	(void)sigaction(SIGALRM, &action, NULL);
	set_timer(ms);
}

void ox_cli_deadline_end(void)
{
	set_timer(0);
}
