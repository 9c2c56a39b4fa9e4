/* SPDX-License-Identifier: MIT */
/*
 * What the keeper and its children say to each other (docs/processes.md): messages of one size,
 * with descriptors, over a socket pair that each child has anew. A message from the other side
 * counts as hostile: its size, kind and number of descriptors are looked at before anything else.
 */
#ifndef OX_CLI_KEEPER_WIRE_H
#define OX_CLI_KEEPER_WIRE_H

#include <stdint.h>

#include "oxbow.h"

#define OX_WIRE_FDS 32

/* Descriptors of a chain come in its order; number is the depth of the first one. */
enum ox_wire_kind {
	/* either way */
	OX_WIRE_LOCKED = 1, /* the keeper's own, with the locks */
	OX_WIRE_FRESH,	    /* other descriptions of the same files, for the worker */
	OX_WIRE_WITNESS,    /* one or more of the image, for a successor's first sync */
	/* to a child */
	OX_WIRE_GIVEN,	 /* --fd */
	OX_WIRE_BARRIER, /* the write end of a pipe */
	OX_WIRE_STATE,	 /* the memory that outlives the worker */
	OX_WIRE_GO,	 /* all is handed over; number: the keeper's process id */
	OX_WIRE_LISTEN,	 /* listening sockets; number: whether they are of unix */
	OX_WIRE_STOP,
	/* from a worker */
	OX_WIRE_SYNCED, /* the witness has told no error */
	OX_WIRE_OPENED,
	OX_WIRE_READY,
	OX_WIRE_KINDS
};

struct ox_wire_message {
	enum ox_wire_kind kind;
	uint32_t number;
	unsigned fd_count;
	int fds[OX_WIRE_FDS]; /* whose the receiver's are */
};

/* 0 or a negative errno; waits unless the socket is non-blocking. The descriptors stay open. */
int ox_wire_send(int socket, enum ox_wire_kind kind, uint32_t number, const int *fds,
		 unsigned fd_count) OX_CHECKED;
/* A list of any length, in several messages. */
int ox_wire_send_list(int socket, enum ox_wire_kind kind, const int *fds,
		      unsigned fd_count) OX_CHECKED;
/* 1: a message; 0: the other side is gone; -EAGAIN; -EBADMSG: it is none of ours. */
int ox_wire_receive(int socket, struct ox_wire_message *ret) OX_CHECKED;
void ox_wire_close(struct ox_wire_message *message);
/* Appends a message's descriptors to a list, of which they are the next part; else -EBADMSG, and
 * they are closed. */
int ox_wire_take_list(struct ox_wire_message *message, int *list, unsigned *count,
		      unsigned max) OX_CHECKED;

#endif
