/* SPDX-License-Identifier: MIT */
/*
 * What an operator asks of a disk while it is served, passed on by the process that keeps the
 * server (docs/control.md). A message of one size each, over the socket that also tells the end;
 * the answer is a number, given by ox_serve_handed.answer, in any order.
 */
#ifndef OX_SERVE_COMMAND_H
#define OX_SERVE_COMMAND_H

#include <stddef.h>
#include <stdint.h>

#include "serve/loop.h"

enum ox_serve_command_kind {
	OX_SERVE_FLUSH = 1, /* as a client's */
	OX_SERVE_RESIZE,    /* values: bytes, enum ox_serve_resize_flags */
	OX_SERVE_LIMIT,	    /* values: those of struct ox_serve_limits, in their order */
	OX_SERVE_RESUME,    /* what waits for room on the host is tried at once */
	OX_SERVE_COMMAND_KINDS,
	/* Not asked by operators: TLS credentials, a descriptor that comes along. */
	OX_SERVE_RENEW_TLS
};

enum ox_serve_resize_flags {
	OX_SERVE_RESIZE_MORE = 1,    /* the bytes are what it grows by */
	OX_SERVE_RESIZE_SHRINKS = 2, /* it may become smaller */
};

#define OX_SERVE_COMMAND_VALUES 4

struct ox_serve_command {
	uint32_t kind;
	uint32_t id; /* of whoever asks */
	uint64_t values[OX_SERVE_COMMAND_VALUES];
};

/* Whether a message of so many bytes is one; else it stands for a signal. */
static inline bool ox_serve_is_command(size_t bytes)
{
	return bytes == sizeof(struct ox_serve_command);
}

/*
 * A part of the loop that carries commands out. An answer is 0 or a negative errno:
 *
 *	-EBUSY		a resize is under way, or many flushes are
 *	-EPERM		the disk would become smaller, and that is not said to be meant
 *	-EROFS		it is read-only
 *	-ESHUTDOWN	the server ends
 *	-EINVAL		no such command, or values that make no sense
 *	others		what the library says, and the log of the server why
 */
int ox_commands_new(struct ox_serve_loop *loop, struct ox_serve_part **ret_part,
		    struct ox_serve_error *error) OX_CHECKED;
/* The next message of the socket: its bytes, or read(2)'s -1. *ret_fd: what came along, the
 * caller's; -1: nothing. A message of another size leaves command as it is. */
ssize_t ox_commands_receive(int socket, struct ox_serve_command *command, int *ret_fd);
/* Carries it out, or begins to. fd stays the caller's. */
void ox_commands_take(struct ox_serve_part *part, const struct ox_serve_command *command, int fd);

#endif
