/* SPDX-License-Identifier: MIT */
#include "cli/keeper/wire.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct packet {
	uint32_t kind;
	uint32_t number;
};

union control {
	char bytes[CMSG_SPACE(OX_WIRE_FDS * sizeof(int))];
	struct cmsghdr align;
};

int ox_wire_send_bytes(int socket, const void *bytes, size_t count, const int *fds,
		       unsigned fd_count)
{
	struct iovec iov = {(void *)(uintptr_t)bytes, count};
	union control control;
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	ssize_t sent;

	if (fd_count > OX_WIRE_FDS)
		return -EINVAL;
	if (fd_count > 0) {
		memset(&control, 0, sizeof(control));
		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
		control.align.cmsg_len = CMSG_LEN(fd_count * sizeof(int));
		control.align.cmsg_level = SOL_SOCKET;
		control.align.cmsg_type = SCM_RIGHTS;
		memcpy(CMSG_DATA(&control.align), fds, fd_count * sizeof(int));
	}
	do {
		sent = sendmsg(socket, &msg, MSG_NOSIGNAL);
	} while (sent < 0 && errno == EINTR);
	return sent < 0 ? -errno : 0;
}

int ox_wire_send(int socket, enum ox_wire_kind kind, uint32_t number, const int *fds,
		 unsigned fd_count)
{
	const struct packet packet = {(uint32_t)kind, number};

	return ox_wire_send_bytes(socket, &packet, sizeof(packet), fds, fd_count);
}

int ox_wire_send_list(int socket, enum ox_wire_kind kind, const int *fds, unsigned fd_count)
{
	unsigned part;
	int ret = 0;

	for (unsigned at = 0; ret == 0 && at < fd_count; at += part) {
		part = fd_count - at < OX_WIRE_FDS ? fd_count - at : OX_WIRE_FDS;
		ret = ox_wire_send(socket, kind, at, fds + at, part);
	}
	return ret;
}

/* Whatever else comes along with a message is not asked for by the socket. */
static void take_fds(struct msghdr *msg, int *fds, unsigned *ret_count)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		size_t bytes = c->cmsg_len - CMSG_LEN(0);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		*ret_count = (unsigned)(bytes / sizeof(int));
		memcpy(fds, CMSG_DATA(c), bytes);
	}
}

int ox_wire_receive_bytes(int socket, void *bytes, size_t count, int *ret_fds,
			  unsigned *ret_fd_count)
{
	struct iovec iov = {bytes, count};
	union control control;
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = &control,
			     .msg_controllen = sizeof(control)};
	unsigned fd_count = 0;
	ssize_t got;

	do {
		/* A reset tells, once, that the other side has died with something unread. What it
		 * had said before comes after that. */
		got = recvmsg(socket, &msg, MSG_CMSG_CLOEXEC);
	} while (got < 0 && (errno == EINTR || errno == ECONNRESET));
	if (got < 0)
		return -errno;
	take_fds(&msg, ret_fds, &fd_count);
	if (got == 0 && fd_count == 0)
		return 0;
	if ((size_t)got != count || (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC))) {
		while (fd_count > 0)
			close(ret_fds[--fd_count]);
		return -EBADMSG;
	}
	*ret_fd_count = fd_count;
	return 1;
}

int ox_wire_receive(int socket, struct ox_wire_message *ret)
{
	struct ox_wire_message message = {0};
	struct packet packet;
	int got = ox_wire_receive_bytes(socket, &packet, sizeof(packet), message.fds,
					&message.fd_count);

	if (got <= 0)
		return got;
	if (packet.kind == 0 || packet.kind >= OX_WIRE_KINDS) {
		ox_wire_close(&message);
		return -EBADMSG;
	}
	message.kind = (enum ox_wire_kind)packet.kind;
	message.number = packet.number;
	*ret = message;
	return 1;
}

void ox_wire_close(struct ox_wire_message *message)
{
	while (message->fd_count > 0)
		close(message->fds[--message->fd_count]);
}

int ox_wire_take_list(struct ox_wire_message *message, int *list, unsigned *count, unsigned max)
{
	if (message->number != *count || message->fd_count == 0 ||
	    message->fd_count > max - *count) {
		ox_wire_close(message);
		return -EBADMSG;
	}
	memcpy(list + *count, message->fds, message->fd_count * sizeof(int));
	*count += message->fd_count;
	message->fd_count = 0;
	return 0;
}
