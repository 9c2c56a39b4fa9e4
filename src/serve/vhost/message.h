/* SPDX-License-Identifier: MIT */
/*
 * The messages of vhost-user (specification of vhost-user, "Message Specification"), as they come
 * over a stream socket: a header, a payload of the length that it states, and descriptors along
 * with any part of it.
 *
 * All of it is a stranger's. A message that is too long, has more descriptors than any message, or
 * another version ends the connection: nobody could say where the next one begins. Whatever comes
 * within those bounds is a message, and is judged by whoever takes it (handler.h).
 */
#ifndef OX_SERVE_VHOST_MESSAGE_H
#define OX_SERVE_VHOST_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "oxbow.h"

/* As many as a memory table has regions. */
#define OX_VHOST_FDS_MAX 8u
#define OX_VHOST_HEADER_BYTES 12u
/* No message that is known has more than a configuration space and its head. */
#define OX_VHOST_PAYLOAD_MAX 1024u

enum ox_vhost_request {
	OX_VHOST_GET_FEATURES = 1,
	OX_VHOST_SET_FEATURES = 2,
	OX_VHOST_SET_OWNER = 3,
	OX_VHOST_RESET_OWNER = 4,
	OX_VHOST_SET_MEM_TABLE = 5,
	OX_VHOST_SET_LOG_BASE = 6,
	OX_VHOST_SET_LOG_FD = 7,
	OX_VHOST_SET_VRING_NUM = 8,
	OX_VHOST_SET_VRING_ADDR = 9,
	OX_VHOST_SET_VRING_BASE = 10,
	OX_VHOST_GET_VRING_BASE = 11,
	OX_VHOST_SET_VRING_KICK = 12,
	OX_VHOST_SET_VRING_CALL = 13,
	OX_VHOST_SET_VRING_ERR = 14,
	OX_VHOST_GET_PROTOCOL_FEATURES = 15,
	OX_VHOST_SET_PROTOCOL_FEATURES = 16,
	OX_VHOST_GET_QUEUE_NUM = 17,
	OX_VHOST_SET_VRING_ENABLE = 18,
	OX_VHOST_SET_BACKEND_REQ_FD = 21,
	OX_VHOST_GET_CONFIG = 24,
	OX_VHOST_SET_CONFIG = 25,
	OX_VHOST_GET_INFLIGHT_FD = 31,
	OX_VHOST_SET_INFLIGHT_FD = 32,
	OX_VHOST_RESET_DEVICE = 34,
	OX_VHOST_GET_MAX_MEM_SLOTS = 36,
	OX_VHOST_ADD_MEM_REG = 37,
	OX_VHOST_REM_MEM_REG = 38,
	OX_VHOST_SET_STATUS = 39,
	OX_VHOST_GET_STATUS = 40,
};

/* What a back end asks for by itself, over the channel of SET_BACKEND_REQ_FD. */
#define OX_VHOST_BACKEND_CONFIG_CHANGE 2u

/* Of a header's flags; the lowest two bits are the version. */
#define OX_VHOST_VERSION UINT32_C(1)
#define OX_VHOST_VERSION_MASK UINT32_C(3)
#define OX_VHOST_REPLY UINT32_C(4)
#define OX_VHOST_NEED_REPLY UINT32_C(8)

/* In the byte order of the machine, on which both ends run. */
struct ox_vhost_header {
	uint32_t request; /* enum ox_vhost_request, or anything */
	uint32_t flags;
	uint32_t bytes; /* of the payload */
};

struct ox_vhost_message {
	struct ox_vhost_header header;
	uint8_t payload[OX_VHOST_PAYLOAD_MAX];
	unsigned fd_count;
	int fds[OX_VHOST_FDS_MAX]; /* whoever takes one puts -1 in its place */
	/* Where the keeper has them (park.h), of a session that outlives the process. */
	uint16_t slots[OX_VHOST_FDS_MAX];
};

/* A message that comes in parts. */
struct ox_vhost_incoming {
	struct ox_vhost_message message;
	size_t got_bytes; /* header and payload */
};

/* Reads on. 1: the message is whole; 0: the other side is gone; -EAGAIN: that is all there is for
 * now; -EBADMSG: it is none, and the connection is to end; or another errno of the socket. */
int ox_vhost_receive(int socket, struct ox_vhost_incoming *incoming) OX_CHECKED;
/*
 * The same, but nothing is taken off the socket, and a message that is not whole is looked at again
 * from its beginning. The socket's own peek offset (SO_PEEK_OFF), which outlives the process, then
 * says how much of the message is still to be taken off: its length, until ox_vhost_consume.
 *
 * Behind the message's descriptors may be those of the next: Linux, asked to look at bytes that
 * came without any, looks for them one packet further on.
 */
int ox_vhost_peek(int socket, struct ox_vhost_incoming *incoming) OX_CHECKED;
/* Takes off what was peeked at, or what is left of it. Returns how many descriptors came along,
 * which are closed; -EBADMSG: more than a message has; or another errno. */
int ox_vhost_consume(int socket) OX_CHECKED;
/* Closes those behind the first so many. */
void ox_vhost_message_cut_fds(struct ox_vhost_message *message, unsigned count);
/* Closes the descriptors that nobody has taken, and makes room for the next message. */
void ox_vhost_incoming_clear(struct ox_vhost_incoming *incoming);

/* Sends a reply, with a descriptor unless fd is -1, which stays open. The socket is not waited for:
 * -EAGAIN where the front end has not read what it was sent before. */
int ox_vhost_reply(int socket, uint32_t request, const void *payload, size_t bytes,
		   int fd) OX_CHECKED;

/* Sends a message that nobody has asked for, without a payload and without a wish for a reply. The
 * socket is not waited for: -EAGAIN where the front end has not read what it was sent before. */
int ox_vhost_tell(int socket, uint32_t request) OX_CHECKED;

/* For messages to people; "an unknown message" for others. */
const char *ox_vhost_request_name(uint32_t request);

#endif
