/* SPDX-License-Identifier: MIT */
/*
 * What passes through a relay: bytes in the clear on one side, TLS on the other, until either ends.
 * Each way has one buffer, which is filled again when it is empty: so whoever does not read keeps
 * the other side from sending, and nobody's bytes pile up here.
 */
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "cli/mount/relay.h"

#define BUFFER_BYTES (256u << 10)

struct way {
	uint8_t bytes[BUFFER_BYTES];
	size_t start;
	size_t end;
};

struct pump {
	struct ox_tls_session *session;
	struct pollfd far;
	struct pollfd plain;
	struct way up; /* to the server */
	struct way down;
	bool is_over;
	bool is_heard;	/* the server has said something */
	bool is_mute;	/* it ended without */
	bool has_moved; /* something, in this turn */
};

static bool is_empty(const struct way *way)
{
	return way->start == way->end;
}

/* What a read or a write has come to: of the socket that stands in the way, what is waited for. */
static size_t settle(struct pump *p, ssize_t done, struct pollfd *socket, short events)
{
	if (done > 0) {
		p->has_moved = true;
		return (size_t)done;
	}
	if (done == -EAGAIN)
		socket->events = (short)(socket->events | events);
	else
		p->is_over = true;
	return 0;
}

static short of_tls(const struct pump *p)
{
	return ox_tls_waits_to_send(p->session) ? POLLOUT : POLLIN;
}

static ssize_t plain_receive(int fd, struct way *way)
{
	ssize_t got;

	do {
		got = recv(fd, way->bytes, sizeof(way->bytes), MSG_DONTWAIT);
	} while (got < 0 && errno == EINTR);
	return got < 0 ? -errno : got;
}

static ssize_t plain_send(int fd, const struct way *way)
{
	struct iovec iov = {(void *)(uintptr_t)(way->bytes + way->start), way->end - way->start};
	const struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};
	ssize_t sent;

	do {
		sent = sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
	} while (sent < 0 && errno == EINTR);
	return sent < 0 ? -errno : sent;
}

static void move_down(struct pump *p)
{
	struct way *way = &p->down;
	ssize_t got;

	if (is_empty(way)) {
		got = ox_tls_receive(p->session, way->bytes, sizeof(way->bytes));
		way->start = 0;
		way->end = settle(p, got, &p->far, got == -EAGAIN ? of_tls(p) : 0);
		p->is_heard |= way->end > 0;
		p->is_mute = p->is_over && !p->is_heard;
	}
	if (!is_empty(way))
		way->start += settle(p, plain_send(p->plain.fd, way), &p->plain, POLLOUT);
}

static void move_up(struct pump *p)
{
	struct way *way = &p->up;
	ssize_t sent;

	if (is_empty(way)) {
		way->start = 0;
		way->end = settle(p, plain_receive(p->plain.fd, way), &p->plain, POLLIN);
	}
	if (!is_empty(way)) {
		const struct iovec iov = {way->bytes + way->start, way->end - way->start};

		sent = ox_tls_send(p->session, &iov, 1);
		way->start += settle(p, sent, &p->far, sent == -EAGAIN ? of_tls(p) : 0);
	}
}

/* Both sides have said that they cannot go on. */
static void wait(struct pump *p)
{
	struct pollfd fds[2] = {p->far, p->plain};

	/* Whose connection is gone is told at once by poll, whatever is asked of it: what was read
	 * of it before has first to go where it is waited for. */
	if (!p->far.events)
		fds[0].fd = -1;
	if (poll(fds, 2, -1) < 0 && errno != EINTR)
		p->is_over = true;
	/* Who is gone, and is not read from, is told nothing more. */
	if ((fds[1].revents & (POLLHUP | POLLERR)) && !(p->plain.events & POLLIN))
		p->is_over = true;
}

bool ox_cli_mount_pump(struct ox_tls_session *session, int far, int plain)
{
	struct pump *p = calloc(1, sizeof(*p));
	bool is_mute;

	if (!p)
		return false;
	p->session = session;
	p->far.fd = far;
	p->plain.fd = plain;
	while (!p->is_over) {
		p->far.events = p->plain.events = 0;
		p->has_moved = false;
		move_down(p);
		if (!p->is_over)
			move_up(p);
		if (!p->is_over && !p->has_moved)
			wait(p);
	}
	ox_tls_say_goodbye(session);
	is_mute = p->is_mute;
	free(p);
	return is_mute;
}
