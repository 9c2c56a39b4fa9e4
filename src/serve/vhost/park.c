/* SPDX-License-Identifier: MIT */
#include "serve/vhost/park.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* As it is sent: a head, the slots, the bytes. */
struct head {
	uint32_t kind;
	uint32_t front;
	uint64_t number;
	uint32_t slot_count;
	uint32_t byte_count;
};

struct buffer {
	struct head head;
	uint8_t rest[OX_PARK_FDS * sizeof(uint16_t) + OX_PARK_BYTES];
};

union control {
	char bytes[CMSG_SPACE(OX_PARK_FDS * sizeof(int))];
	struct cmsghdr align;
};

static void attach(struct msghdr *msg, union control *control, const int *fds, unsigned count)
{
	memset(control, 0, sizeof(*control));
	msg->msg_control = control;
	msg->msg_controllen = CMSG_SPACE(count * sizeof(int));
	control->align.cmsg_len = CMSG_LEN(count * sizeof(int));
	control->align.cmsg_level = SOL_SOCKET;
	control->align.cmsg_type = SCM_RIGHTS;
	memcpy(CMSG_DATA(&control->align), fds, count * sizeof(int));
}

int ox_park_send(int socket, const struct ox_park_packet *packet, bool wait)
{
	const size_t slot_bytes = packet->slot_count * sizeof(packet->slots[0]);
	struct buffer buffer = {
		.head = {(uint32_t)packet->kind, packet->front, packet->number, packet->slot_count,
			 (uint32_t)packet->byte_count},
	};
	struct iovec iov = {&buffer, sizeof(buffer.head) + slot_bytes + packet->byte_count};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	union control control;
	ssize_t sent;

	memcpy(buffer.rest, packet->slots, slot_bytes);
	memcpy(buffer.rest + slot_bytes, packet->bytes, packet->byte_count);
	if (packet->fd_count > 0)
		attach(&msg, &control, packet->fds, packet->fd_count);
	do {
		sent = sendmsg(socket, &msg, MSG_NOSIGNAL | (wait ? 0 : MSG_DONTWAIT));
	} while (sent < 0 && errno == EINTR);
	return sent < 0 ? -errno : 0;
}

/* Of whatever else comes along with a packet the socket was not asked for. */
static void take_fds(struct msghdr *msg, struct ox_park_packet *packet)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		packet->fd_count = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(packet->fds, CMSG_DATA(c), packet->fd_count * sizeof(int));
	}
}

static bool decode(const struct buffer *buffer, size_t got, struct ox_park_packet *packet)
{
	const struct head *head = &buffer->head;
	const size_t slot_bytes = head->slot_count * sizeof(packet->slots[0]);

	if (got < sizeof(*head) || head->kind == 0 || head->kind >= OX_PARK_KINDS ||
	    head->front >= OX_PARK_FRONTS || head->slot_count > OX_PARK_FDS ||
	    head->byte_count > OX_PARK_BYTES ||
	    got != sizeof(*head) + slot_bytes + head->byte_count)
		return false;
	packet->kind = (enum ox_park_kind)head->kind;
	packet->front = head->front;
	packet->number = head->number;
	packet->slot_count = head->slot_count;
	packet->byte_count = head->byte_count;
	memcpy(packet->slots, buffer->rest, slot_bytes);
	memcpy(packet->bytes, buffer->rest + slot_bytes, packet->byte_count);
	for (unsigned i = 0; i < packet->slot_count; i++)
		if (packet->slots[i] >= OX_PARK_SLOTS)
			return false;
	return true;
}

int ox_park_receive(int socket, bool wait, struct ox_park_packet *ret)
{
	struct buffer buffer;
	struct iovec iov = {&buffer, sizeof(buffer)};
	union control control;
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = &control,
			     .msg_controllen = sizeof(control)};
	ssize_t got;

	ret->fd_count = 0;
	do {
		/* A reset tells, once, that the other side has died with something unread. What it
		 * had said before comes after that. */
		got = recvmsg(socket, &msg, MSG_CMSG_CLOEXEC | (wait ? 0 : MSG_DONTWAIT));
	} while (got < 0 && (errno == EINTR || errno == ECONNRESET));
	if (got < 0)
		return -errno;
	take_fds(&msg, ret);
	if (got == 0 && ret->fd_count == 0)
		return 0;
	if ((msg.msg_flags & MSG_TRUNC) || !decode(&buffer, (size_t)got, ret)) {
		ox_park_close_fds(ret);
		return -EBADMSG;
	}
	if (msg.msg_flags & MSG_CTRUNC) {
		ox_park_close_fds(ret);
		return -EMFILE;
	}
	return 1;
}

void ox_park_close_fds(struct ox_park_packet *packet)
{
	while (packet->fd_count > 0)
		close(packet->fds[--packet->fd_count]);
}
