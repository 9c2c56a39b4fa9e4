/* SPDX-License-Identifier: MIT */
#include "serve/vhost/signal.h"

#include <errno.h>
#include <linux/aio_abi.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Completions that lie there before they are thrown away. */
#define KEPT 64

struct ox_vhost_signals {
	aio_context_t aio; /* 0: there is none */
	int nothing;	   /* what is read: an empty memory file */
	unsigned kept;
};

int ox_vhost_signals_new(struct ox_vhost_signals **ret)
{
	struct ox_vhost_signals *signals = calloc(1, sizeof(*signals));

	if (!signals)
		return -ENOMEM;
	signals->nothing = memfd_create("oxbow-signal", MFD_CLOEXEC);
	if (signals->nothing < 0 || syscall(SYS_io_setup, KEPT, &signals->aio) < 0)
		signals->aio = 0;
	*ret = signals;
	return 0;
}

void ox_vhost_signals_free(struct ox_vhost_signals *signals)
{
	if (!signals)
		return;
	if (signals->aio)
		(void)syscall(SYS_io_destroy, signals->aio);
	if (signals->nothing >= 0)
		close(signals->nothing);
	free(signals);
}

static void throw_away(struct ox_vhost_signals *signals)
{
	struct io_event events[KEPT];
	struct timespec at_once = {0};

	(void)syscall(SYS_io_getevents, signals->aio, 0, KEPT, events, &at_once);
	signals->kept = 0;
}

/* 0, also where it is no eventfd; -errno: it was not signalled. */
static int signal_by_kernel(struct ox_vhost_signals *signals, int fd)
{
	struct iocb read_nothing = {
		.aio_lio_opcode = IOCB_CMD_PREAD,
		.aio_fildes = (uint32_t)signals->nothing,
		.aio_flags = IOCB_FLAG_RESFD,
		.aio_resfd = (uint32_t)fd,
	};
	struct iocb *list[1] = {&read_nothing};

	if (!signals->aio)
		return -ENOSYS;
	if (signals->kept == KEPT)
		throw_away(signals);
	if (syscall(SYS_io_submit, signals->aio, 1, list) == 1) {
		signals->kept++;
		return 0;
	}
	return errno == EINVAL ? 0 : -errno;
}

void ox_vhost_signal(struct ox_vhost_signals *signals, int fd)
{
	const uint64_t one = 1;
	struct pollfd p = {.fd = fd, .events = POLLOUT};
	ssize_t ignored;

	if (fd < 0 || signal_by_kernel(signals, fd) == 0)
		return;
	if (poll(&p, 1, 0) != 1 || !(p.revents & POLLOUT))
		return;
	ignored = write(fd, &one, sizeof(one));
	(void)ignored;
}
