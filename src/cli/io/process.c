/* SPDX-License-Identifier: MIT */
/* Commands about the session's own process. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>

#include "cli/io/session.h"

/* Requests that are held at events of QEMU's own code, which there are none of here. */
int ox_cli_io_no_blkdebug(struct ox_cli_io *io, int argc, char **argv)
{
	(void)io;
	(void)argc;
	ox_cli_error("%s needs blkdebug, which is not supported", argv[0]);
	return -ENOTSUP;
}

int ox_cli_io_abort(struct ox_cli_io *io, int argc, char **argv)
{
	(void)io;
	(void)argc;
	(void)argv;
	abort();
}

static long elapsed_ms(const struct timespec *start)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (now.tv_sec - start->tv_sec) * 1000 + (now.tv_nsec - start->tv_nsec) / 1000000;
}

/* Requests in flight go on meanwhile. */
int ox_cli_io_sleep(struct ox_cli_io *io, int argc, char **argv)
{
	struct pollfd ready = {.fd = ox_context_fd(io->ctx), .events = POLLIN};
	struct timespec start;
	char *end;
	long ms, left;

	(void)argc;
	errno = 0;
	ms = strtol(argv[1], &end, 0);
	if (errno || end == argv[1] || *end || ms < 0) {
		printf("%s is not a valid number\n", argv[1]);
		return -EINVAL;
	}
	clock_gettime(CLOCK_MONOTONIC, &start);
	fflush(stdout);
	while ((left = ms - elapsed_ms(&start)) > 0) {
		bool busy = io->queue && ox_queue_pending(io->queue) > 0;
		int timeout = left > 60000 ? 60000 : (int)left;

		if (poll(&ready, busy ? 1 : 0, timeout) < 0 && errno != EINTR)
			return -errno;
		ox_cli_io_aio_poll(io);
	}
	return 0;
}

int ox_cli_io_sigraise(struct ox_cli_io *io, int argc, char **argv)
{
	uint64_t number;
	int r = ox_cli_io_parse_number(argv[1], &number);

	(void)io;
	(void)argc;
	if (r < 0)
		return r;
	if (number > (uint64_t)SIGRTMAX) {
		printf("signal argument '%s' is too large to be a valid signal\n", argv[1]);
		return -EINVAL;
	}
	fflush(stdout);
	raise((int)number);
	return 0;
}

int ox_cli_io_quit(struct ox_cli_io *io, int argc, char **argv)
{
	(void)argc;
	(void)argv;
	io->quit = true;
	return 0;
}
