/* SPDX-License-Identifier: MIT */
#include "serve/vhost/message.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

_Static_assert(sizeof(struct ox_vhost_header) == OX_VHOST_HEADER_BYTES, "it is sent as it is");

/* Room for as many descriptors as a message may have: the kernel closes any others, and says so. */
union control {
	char bytes[CMSG_SPACE(OX_VHOST_FDS_MAX * sizeof(int))];
	struct cmsghdr align;
};

/* False: there are too many; those that are taken in are the message's to close. */
static bool take_fds(struct msghdr *msg, struct ox_vhost_message *message)
{
	bool fits = !(msg->msg_flags & MSG_CTRUNC);

	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < count; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
			if (message->fd_count < OX_VHOST_FDS_MAX) {
				message->fds[message->fd_count++] = fd;
			} else {
				close(fd);
				fits = false;
			}
		}
	}
	return fits;
}

/* What is missing, of which no more is read: descriptors come along with the bytes of theirs. */
static struct iovec missing(struct ox_vhost_incoming *incoming)
{
	struct ox_vhost_message *message = &incoming->message;
	const size_t got = incoming->got_bytes;

	if (got < OX_VHOST_HEADER_BYTES)
		return (struct iovec){(uint8_t *)&message->header + got,
				      OX_VHOST_HEADER_BYTES - got};
	return (struct iovec){message->payload + (got - OX_VHOST_HEADER_BYTES),
			      OX_VHOST_HEADER_BYTES + message->header.bytes - got};
}

static bool is_sane(const struct ox_vhost_header *header)
{
	return header->bytes <= OX_VHOST_PAYLOAD_MAX &&
	       (header->flags & OX_VHOST_VERSION_MASK) == OX_VHOST_VERSION &&
	       !(header->flags & OX_VHOST_REPLY);
}

static int receive_part(int socket, struct iovec *iov, int flags, struct ox_vhost_message *fds)
{
	union control control;
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 1};
	ssize_t got;

	if (fds) {
		msg.msg_control = &control;
		msg.msg_controllen = sizeof(control);
	}
	do {
		got = recvmsg(socket, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT | flags);
	} while (got < 0 && errno == EINTR);
	if (got < 0)
		return errno == ECONNRESET ? 0 : -errno;
	if (fds && !take_fds(&msg, fds) && !(flags & MSG_PEEK))
		return -EBADMSG;
	return (int)got;
}

int ox_vhost_receive(int socket, struct ox_vhost_incoming *incoming)
{
	for (;;) {
		struct iovec iov = missing(incoming);
		int got;

		if (iov.iov_len == 0)
			return 1;
		got = receive_part(socket, &iov, 0, &incoming->message);
		if (got <= 0)
			return got;
		incoming->got_bytes += (size_t)got;
		if (incoming->got_bytes == OX_VHOST_HEADER_BYTES &&
		    !is_sane(&incoming->message.header))
			return -EBADMSG;
	}
}

/* ---- peeking ---- */

/* So many bytes, or as ox_vhost_receive. A part of a message is looked at once with descriptors, as
 * each look makes new ones. */
static int peek(int socket, uint8_t *bytes, size_t count, struct ox_vhost_message *fds)
{
	const int start = 0;
	int got;

	if (setsockopt(socket, SOL_SOCKET, SO_PEEK_OFF, &start, sizeof(start)) < 0)
		return -errno;
	for (size_t done = 0; done < count; done += (size_t)got) {
		struct iovec iov = {bytes + done, count - done};

		got = receive_part(socket, &iov, MSG_PEEK, fds);
		if (got <= 0)
			return got;
	}
	return 1;
}

int ox_vhost_peek(int socket, struct ox_vhost_incoming *incoming)
{
	uint8_t bytes[OX_VHOST_HEADER_BYTES + OX_VHOST_PAYLOAD_MAX];
	struct ox_vhost_message *message = &incoming->message;
	int ret = peek(socket, bytes, OX_VHOST_HEADER_BYTES, NULL);

	if (ret != 1)
		return ret;
	memcpy(&message->header, bytes, sizeof(message->header));
	if (!is_sane(&message->header))
		return -EBADMSG;
	ret = peek(socket, bytes, OX_VHOST_HEADER_BYTES + message->header.bytes, message);
	if (ret != 1) {
		ox_vhost_incoming_clear(incoming);
		return ret;
	}
	memcpy(message->payload, bytes + OX_VHOST_HEADER_BYTES, message->header.bytes);
	return 1;
}

void ox_vhost_message_cut_fds(struct ox_vhost_message *message, unsigned count)
{
	while (message->fd_count > count) {
		const int fd = message->fds[--message->fd_count];

		if (fd >= 0)
			close(fd);
	}
}

int ox_vhost_consume(int socket)
{
	uint8_t bytes[OX_VHOST_HEADER_BYTES + OX_VHOST_PAYLOAD_MAX];
	struct ox_vhost_message came = {.fd_count = 0};
	unsigned count;
	int ret = 1;

	while (ret > 0) {
		int left = 0;
		socklen_t length = sizeof(left);
		struct iovec iov = {bytes, sizeof(bytes)};

		if (getsockopt(socket, SOL_SOCKET, SO_PEEK_OFF, &left, &length) < 0)
			ret = -errno;
		else if (left <= 0)
			break;
		if (ret > 0 && (size_t)left < iov.iov_len)
			iov.iov_len = (size_t)left;
		if (ret > 0)
			ret = receive_part(socket, &iov, 0, &came);
	}
	count = came.fd_count;
	ox_vhost_message_cut_fds(&came, 0);
	if (ret <= 0)
		return ret < 0 ? ret : -ECONNRESET;
	return (int)count;
}

void ox_vhost_incoming_clear(struct ox_vhost_incoming *incoming)
{
	struct ox_vhost_message *message = &incoming->message;

	ox_vhost_message_cut_fds(message, 0);
	incoming->got_bytes = 0;
}

static void attach(struct msghdr *msg, union control *control, int fd)
{
	memset(control, 0, sizeof(*control));
	msg->msg_control = control;
	msg->msg_controllen = CMSG_SPACE(sizeof(int));
	control->align.cmsg_len = CMSG_LEN(sizeof(int));
	control->align.cmsg_level = SOL_SOCKET;
	control->align.cmsg_type = SCM_RIGHTS;
	memcpy(CMSG_DATA(&control->align), &fd, sizeof(int));
}

static int send_message(int socket, const struct ox_vhost_header *header, const void *payload,
			int fd)
{
	uint8_t whole[OX_VHOST_HEADER_BYTES + OX_VHOST_PAYLOAD_MAX];
	struct iovec iov = {whole, sizeof(*header) + header->bytes};
	union control control;
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	ssize_t sent;

	memcpy(whole, header, sizeof(*header));
	if (header->bytes > 0)
		memcpy(whole + sizeof(*header), payload, header->bytes);
	if (fd >= 0)
		attach(&msg, &control, fd);
	do {
		sent = sendmsg(socket, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	} while (sent < 0 && errno == EINTR);
	if (sent < 0)
		return -errno;
	/* A part of one could only be followed by the rest, and nobody reads there. */
	return (size_t)sent == iov.iov_len ? 0 : -EAGAIN;
}

int ox_vhost_reply(int socket, uint32_t request, const void *payload, size_t bytes, int fd)
{
	const struct ox_vhost_header header = {request, OX_VHOST_VERSION | OX_VHOST_REPLY,
					       (uint32_t)bytes};

	if (bytes > OX_VHOST_PAYLOAD_MAX)
		return -EINVAL;
	return send_message(socket, &header, payload, fd);
}

int ox_vhost_tell(int socket, uint32_t request)
{
	const struct ox_vhost_header header = {request, OX_VHOST_VERSION, 0};

	return send_message(socket, &header, NULL, -1);
}

const char *ox_vhost_request_name(uint32_t request)
{
	static const char *const names[] = {
		[OX_VHOST_GET_FEATURES] = "GET_FEATURES",
		[OX_VHOST_SET_FEATURES] = "SET_FEATURES",
		[OX_VHOST_SET_OWNER] = "SET_OWNER",
		[OX_VHOST_RESET_OWNER] = "RESET_OWNER",
		[OX_VHOST_SET_MEM_TABLE] = "SET_MEM_TABLE",
		[OX_VHOST_SET_LOG_BASE] = "SET_LOG_BASE",
		[OX_VHOST_SET_LOG_FD] = "SET_LOG_FD",
		[OX_VHOST_SET_VRING_NUM] = "SET_VRING_NUM",
		[OX_VHOST_SET_VRING_ADDR] = "SET_VRING_ADDR",
		[OX_VHOST_SET_VRING_BASE] = "SET_VRING_BASE",
		[OX_VHOST_GET_VRING_BASE] = "GET_VRING_BASE",
		[OX_VHOST_SET_VRING_KICK] = "SET_VRING_KICK",
		[OX_VHOST_SET_VRING_CALL] = "SET_VRING_CALL",
		[OX_VHOST_SET_VRING_ERR] = "SET_VRING_ERR",
		[OX_VHOST_GET_PROTOCOL_FEATURES] = "GET_PROTOCOL_FEATURES",
		[OX_VHOST_SET_PROTOCOL_FEATURES] = "SET_PROTOCOL_FEATURES",
		[OX_VHOST_GET_QUEUE_NUM] = "GET_QUEUE_NUM",
		[OX_VHOST_SET_VRING_ENABLE] = "SET_VRING_ENABLE",
		[OX_VHOST_SET_BACKEND_REQ_FD] = "SET_BACKEND_REQ_FD",
		[OX_VHOST_GET_CONFIG] = "GET_CONFIG",
		[OX_VHOST_SET_CONFIG] = "SET_CONFIG",
		[OX_VHOST_GET_INFLIGHT_FD] = "GET_INFLIGHT_FD",
		[OX_VHOST_SET_INFLIGHT_FD] = "SET_INFLIGHT_FD",
		[OX_VHOST_RESET_DEVICE] = "RESET_DEVICE",
		[OX_VHOST_GET_MAX_MEM_SLOTS] = "GET_MAX_MEM_SLOTS",
		[OX_VHOST_ADD_MEM_REG] = "ADD_MEM_REG",
		[OX_VHOST_REM_MEM_REG] = "REM_MEM_REG",
		[OX_VHOST_SET_STATUS] = "SET_STATUS",
		[OX_VHOST_GET_STATUS] = "GET_STATUS",
	};

	if (request < sizeof(names) / sizeof(names[0]) && names[request])
		return names[request];
	return "an unknown message";
}
