/* SPDX-License-Identifier: MIT */
/*
 * The process that connects to the server of an export, for the one that serves, whose sandbox has
 * neither the right to nor the user's files. It knows one address, reads nothing but how long it
 * may take, and ends with the worker, whose end of the socket is the only one. Where the export is
 * one by TLS, what it hands over leads to a process of its own for each connection (relay.h).
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "cli/keeper/spawn.h"
#include "cli/keeper/wire.h"
#include "cli/mount/mount.h"
#include "cli/mount/relay.h"

#define FIRST_FD 3
#define LAST_FD (~0U)

/* The answers come in the order of the questions; one that nobody waits for any more is dropped. */
static struct {
	pthread_mutex_t lock;
	int socket;
	uint32_t asked;
	uint32_t answered;
	char *said; /* of struct ox_relay; whoever speaks TLS writes to it: it may hold anything */
} connector = {.lock = PTHREAD_MUTEX_INITIALIZER, .socket = -1};

/* ---- the process ---- */

static int reach(int socket, const char *uri, const struct ox_relay *relay, unsigned limit_ms)
{
	int fd = ox_uri_connect(uri, limit_ms, NULL);
	int far = fd;

	if (fd < 0 || !relay->tls)
		return fd;
	fd = ox_relay_start(relay, far, socket, limit_ms);
	close(far);
	return fd;
}

static int answer(int socket, const char *uri, const struct ox_relay *relay, unsigned limit_ms)
{
	int fd = reach(socket, uri, relay, limit_ms);
	int ret = ox_wire_send(socket, OX_WIRE_CONNECT, fd < 0 ? (uint32_t)-fd : 0, &fd, fd >= 0);

	if (fd >= 0)
		close(fd);
	return ret;
}

static void run(int socket, const char *uri, const struct ox_relay *relay)
{
	struct ox_wire_message message;
	int ret;

	do {
		ret = ox_wire_receive(socket, &message);
		if (ret != 1)
			return;
		ox_wire_close(&message);
		ret = message.kind == OX_WIRE_CONNECT ? answer(socket, uri, relay, message.number)
						      : -EBADMSG;
	} while (ret == 0);
}

/* It says nothing, and keeps open nothing of others: neither the image's locks nor a mount. */
static void become(int socket, const char *uri, const struct ox_relay *relay)
{
	const int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (relay->tls && ox_relay_prepare(relay) < 0)
		_exit(1);		/* it has said why */
	(void)signal(SIGCHLD, SIG_IGN); /* those of its own end as they like */
	(void)prctl(PR_SET_NAME, "oxbow-connect");
	for (int fd = 0; fd < FIRST_FD; fd++)
		if (null >= 0 && null != fd)
			(void)dup2(null, fd);
	if (socket != FIRST_FD && dup2(socket, FIRST_FD) < 0)
		_exit(1);
	(void)close_range(FIRST_FD + 1, LAST_FD, 0);
	if (ox_wire_send(FIRST_FD, OX_WIRE_READY, 0, NULL, 0) == 0)
		run(FIRST_FD, uri, relay);
	_exit(0);
}

static int start(const char *uri, const struct ox_relay *relay, int *ret_socket)
{
	int own = -1;
	int other = -1;
	int ret = ox_spawn_pair(&own, &other);
	pid_t child = ret == 0 ? fork() : -1;

	if (ret == 0 && child < 0)
		ret = -errno;
	if (child == 0)
		become(other, uri, relay);
	if (other >= 0)
		close(other);
	if (ret == 0)
		*ret_socket = own;
	else if (own >= 0)
		close(own);
	return ret;
}

/* ---- for the worker ---- */

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

/* "nbd..." of "nbds...". */
static int make_plain(const char *uri, const char **ret)
{
	char *plain = strdup(uri);
	char *at = plain ? strchr(plain, 's') : NULL;

	if (!at)
		return -ENOMEM;
	memmove(at, at + 1, strlen(at));
	*ret = plain;
	return 0;
}

static int prepare_relay(const char *uri, struct ox_relay *relay, const char **ret_uri)
{
	int ret;

	connector.said = mmap(NULL, OX_RELAY_SAID_MAX, PROT_READ | PROT_WRITE,
			      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (connector.said == MAP_FAILED)
		return -errno;
	relay->said = connector.said;
	ret = ox_uri_tls_read(uri, &relay->tls, NULL);
	*ret_uri = uri;
	return ret == 0 && relay->tls ? make_plain(uri, ret_uri) : ret;
}

int ox_cli_mount_connector_start(const char *uri, const struct ox_sandbox_user *user,
				 const char **ret_uri)
{
	struct ox_relay relay = {.user = *user};
	struct ox_wire_message message;
	int ret = prepare_relay(uri, &relay, ret_uri);

	if (ret == 0)
		ret = start(uri, &relay, &connector.socket);
	ox_uri_tls_free(relay.tls); /* the other process has its own */
	if (ret < 0) {
		ox_cli_error("Cannot start a process: %s", strerror(-ret));
		return ret;
	}
	ret = await(&message, INT64_MAX);
	if (ret == 1 && message.kind == OX_WIRE_READY)
		return 0;
	return ret < 0 && ret != -EPIPE ? ret : -EINVAL; /* it has said why */
}

/* ---- and in the sandbox ---- */

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
	int ret;

	connector.said[0] = '\0';
	ret = ox_wire_send(connector.socket, OX_WIRE_CONNECT, limit_ms, NULL, 0);
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

const char *ox_cli_mount_connector_said(void)
{
	static char text[OX_RELAY_SAID_MAX];

	memcpy(text, connector.said, sizeof(text));
	text[sizeof(text) - 1] = '\0';
	return text;
}
