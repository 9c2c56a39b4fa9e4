/* SPDX-License-Identifier: MIT */
/*
 * The process that connects to the server of an export, for the one that serves, whose sandbox has
 * neither the right to nor the user's files. It knows one address, reads nothing but how long it
 * may take, and ends with the worker, whose end of the socket is the only one.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "cli/keeper/spawn.h"
#include "cli/keeper/wire.h"
#include "cli/mount/mount.h"

#define FIRST_FD 3
#define LAST_FD (~0U)

/* The answers come in the order of the questions; one that nobody waits for any more is dropped. */
static struct {
	pthread_mutex_t lock;
	int socket;
	uint32_t asked;
	uint32_t answered;
} connector = {.lock = PTHREAD_MUTEX_INITIALIZER, .socket = -1};

/* ---- the process ---- */

static int answer(int socket, const char *uri, unsigned limit_ms)
{
	int fd = ox_uri_connect(uri, limit_ms, NULL);
	int ret = ox_wire_send(socket, OX_WIRE_CONNECT, fd < 0 ? (uint32_t)-fd : 0, &fd, fd >= 0);

	if (fd >= 0)
		close(fd);
	return ret;
}

static void run(int socket, const char *uri)
{
	struct ox_wire_message message;
	int ret;

	do {
		ret = ox_wire_receive(socket, &message);
		if (ret != 1)
			return;
		ox_wire_close(&message);
		ret = message.kind == OX_WIRE_CONNECT ? answer(socket, uri, message.number)
						      : -EBADMSG;
	} while (ret == 0);
}

/* It says nothing, and keeps open nothing of others: neither the image's locks nor a mount. */
static void become(int socket, const char *uri)
{
	const int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	(void)prctl(PR_SET_NAME, "oxbow-connect");
	for (int fd = 0; fd < FIRST_FD; fd++)
		if (null >= 0 && null != fd)
			(void)dup2(null, fd);
	if (socket != FIRST_FD && dup2(socket, FIRST_FD) < 0)
		_exit(1);
	(void)close_range(FIRST_FD + 1, LAST_FD, 0);
	run(FIRST_FD, uri);
	_exit(0);
}

int ox_cli_mount_connector_start(const char *uri)
{
	int own = -1;
	int other = -1;
	int ret = ox_spawn_pair(&own, &other);
	pid_t child = ret == 0 ? fork() : -1;

	if (ret == 0 && child < 0)
		ret = -errno;
	if (child == 0)
		become(other, uri);
	if (other >= 0)
		close(other);
	if (ret < 0) {
		if (own >= 0)
			close(own);
		ox_cli_error("Cannot start a process: %s", strerror(-ret));
		return ret;
	}
	connector.socket = own;
	return 0;
}

/* ---- for the worker, in the sandbox ---- */

static int64_t now_ms(void)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* 1: a message. */
static int await(struct ox_wire_message *ret, int64_t until_ms)
{
	for (;;) {
		struct pollfd polled = {.fd = connector.socket, .events = POLLIN};
		const int64_t left_ms = until_ms - now_ms();
		int got;

		if (left_ms <= 0)
			return -ETIMEDOUT;
		if (poll(&polled, 1, (int)(left_ms < 60000 ? left_ms : 60000)) < 0 &&
		    errno != EINTR)
			return -errno;
		got = ox_wire_receive(connector.socket, ret);
		if (got != -EAGAIN)
			return got == 0 ? -EPIPE : got;
	}
}

static int take(struct ox_wire_message *message)
{
	int fd = -EBADMSG;

	if (message->kind == OX_WIRE_CONNECT && message->number > 0 &&
	    message->number < OX_WIRE_ERRORS)
		fd = -(int)message->number;
	if (message->kind == OX_WIRE_CONNECT && message->number == 0 && message->fd_count == 1) {
		fd = message->fds[0];
		message->fd_count = 0;
	}
	ox_wire_close(message);
	return fd;
}

static int ask(unsigned limit_ms)
{
	const int64_t until_ms = now_ms() + limit_ms;
	const uint32_t ticket = connector.asked + 1;
	struct ox_wire_message message;
	int ret = ox_wire_send(connector.socket, OX_WIRE_CONNECT, limit_ms, NULL, 0);

	if (ret < 0)
		return ret;
	connector.asked = ticket;
	for (;;) {
		ret = await(&message, until_ms);
		if (ret < 0)
			return ret;
		if (++connector.answered == ticket)
			return take(&message);
		ox_wire_close(&message);
	}
}

int ox_cli_mount_connect(void *opaque, unsigned limit_ms)
{
	int ret;

	(void)opaque;
	(void)pthread_mutex_lock(&connector.lock);
	ret = ask(limit_ms);
	(void)pthread_mutex_unlock(&connector.lock);
	return ret;
}
