/* SPDX-License-Identifier: MIT */
#include "cli/notify.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define TEXT_BYTES 1024
#define READY_MS 5000

struct ox_notify_packet {
	struct ox_notify_packet *next;
	int fd; /* its own; -1: none */
	size_t length;
	char text[];
};

/* ---- the socket ---- */

/* A path, or a name of the abstract namespace behind an '@'. */
static int connect_to(int fd, const char *name)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	size_t length = strlen(name);

	if ((name[0] != '/' && name[0] != '@') || length < 2 || length >= sizeof(address.sun_path))
		return -EINVAL;
	memcpy(address.sun_path, name, length);
	if (name[0] == '@')
		address.sun_path[0] = '\0';
	length += offsetof(struct sockaddr_un, sun_path) + (name[0] == '/' ? 1 : 0);
	return connect(fd, (struct sockaddr *)&address, (socklen_t)length) < 0 ? -errno : 0;
}

static bool parse_number(const char *text, unsigned long long max, unsigned long long *ret)
{
	char *end;

	if (!text || text[0] < '0' || text[0] > '9')
		return false;
	errno = 0;
	*ret = strtoull(text, &end, 10);
	return errno == 0 && *end == '\0' && *ret <= max;
}

int64_t ox_notify_watchdog_ms(const char *usec, const char *pid, long own_pid)
{
	unsigned long long number;

	if (pid && (!parse_number(pid, INT64_MAX, &number) || (long long)number != own_pid))
		return 0;
	if (!parse_number(usec, INT64_MAX, &number) || number == 0)
		return 0;
	return number < 2000 ? 1 : (int64_t)(number / 1000);
}

int ox_notify_open(struct ox_notify *n)
{
	const char *name = getenv("NOTIFY_SOCKET");
	int ret = 0;

	*n = (struct ox_notify){.socket = -1};
	n->last = &n->first;
	if (name && name[0]) {
		n->socket = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		ret = n->socket < 0 ? -errno : connect_to(n->socket, name);
		n->watchdog_ms = ox_notify_watchdog_ms(getenv("WATCHDOG_USEC"),
						       getenv("WATCHDOG_PID"), (long)getpid());
	}
	if (ret < 0)
		ox_notify_close(n);
	(void)unsetenv("NOTIFY_SOCKET");
	(void)unsetenv("WATCHDOG_USEC");
	(void)unsetenv("WATCHDOG_PID");
	return ret;
}

static void forget_first(struct ox_notify *n)
{
	struct ox_notify_packet *packet = n->first;

	n->first = packet->next;
	if (!n->first)
		n->last = &n->first;
	if (packet->fd >= 0)
		close(packet->fd);
	free(packet);
}

void ox_notify_close(struct ox_notify *n)
{
	while (n->first)
		forget_first(n);
	if (n->socket >= 0)
		close(n->socket);
	n->socket = -1;
	n->watchdog_ms = 0;
}

static void give_up(struct ox_notify *n, int error)
{
	ox_notify_close(n);
	n->error = error;
}

/* ---- messages ---- */

union control {
	char bytes[CMSG_SPACE(sizeof(int))];
	struct cmsghdr align;
};

static int send_one(const struct ox_notify *n, int fd, const char *text, size_t length)
{
	struct iovec iov = {(void *)(uintptr_t)text, length};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	union control control;
	ssize_t sent;

	if (fd >= 0) {
		memset(&control, 0, sizeof(control));
		msg.msg_control = &control;
		msg.msg_controllen = sizeof(control);
		control.align.cmsg_len = CMSG_LEN(sizeof(int));
		control.align.cmsg_level = SOL_SOCKET;
		control.align.cmsg_type = SCM_RIGHTS;
		memcpy(CMSG_DATA(&control.align), &fd, sizeof(int));
	}
	do {
		sent = sendmsg(n->socket, &msg, MSG_NOSIGNAL);
	} while (sent < 0 && errno == EINTR);
	return sent < 0 ? -errno : 0;
}

static int enqueue(struct ox_notify *n, int fd, const char *text, size_t length)
{
	struct ox_notify_packet *packet = malloc(sizeof(*packet) + length);
	int own = -1;

	if (packet && fd >= 0)
		own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (!packet || (fd >= 0 && own < 0)) {
		free(packet);
		return packet ? -errno : -ENOMEM;
	}
	*packet = (struct ox_notify_packet){.fd = own, .length = length};
	memcpy(packet->text, text, length);
	*n->last = packet;
	n->last = &packet->next;
	return 0;
}

void ox_notify_send(struct ox_notify *n, int fd, const char *format, ...)
{
	char text[TEXT_BYTES];
	int ret = -EAGAIN;
	va_list args;
	int length;

	if (n->socket < 0)
		return;
	va_start(args, format);
	length = vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	if (length < 0 || length >= TEXT_BYTES)
		return; /* only a status is ever as long */
	if (!n->first)
		ret = send_one(n, fd, text, (size_t)length);
	if (ret == -EAGAIN)
		ret = enqueue(n, fd, text, (size_t)length);
	if (ret < 0)
		give_up(n, ret);
}

bool ox_notify_waits(const struct ox_notify *n)
{
	return n->first != NULL;
}

void ox_notify_go_on(struct ox_notify *n)
{
	while (n->first) {
		int ret = send_one(n, n->first->fd, n->first->text, n->first->length);

		if (ret == -EAGAIN)
			return;
		if (ret < 0) {
			give_up(n, ret);
			return;
		}
		forget_first(n);
	}
}

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

bool ox_notify_drain(struct ox_notify *n, int64_t most_ms)
{
	int64_t end = now_ms() + most_ms;

	ox_notify_go_on(n);
	while (n->first) {
		struct pollfd p = {.fd = n->socket, .events = POLLOUT};
		int64_t left = end - now_ms();

		if (left <= 0 || (poll(&p, 1, (int)left) < 0 && errno != EINTR))
			return false;
		ox_notify_go_on(n);
	}
	return n->error == 0;
}

int ox_notify_ready(void)
{
	struct ox_notify n;
	int ret = ox_notify_open(&n);

	ox_notify_send(&n, -1, "READY=1");
	if (ret == 0 && !ox_notify_drain(&n, READY_MS))
		ret = n.error < 0 ? n.error : -EAGAIN;
	ox_notify_close(&n);
	return ret;
}
