/* SPDX-License-Identifier: MIT */
/*
 * What the keeper and its children say to each other (docs/processes.md): messages of one size,
 * with descriptors, over a socket pair that each child has anew. A message from the other side
 * counts as hostile: its size, kind and number of descriptors are looked at before anything else.
 */
#ifndef OX_CLI_KEEPER_WIRE_H
#define OX_CLI_KEEPER_WIRE_H

#include <stddef.h>
#include <stdint.h>

#include "oxbow.h"

#define OX_WIRE_FDS 32

/* Descriptors of a chain come in its order; number is the depth of the first one. */
enum ox_wire_kind {
	/* either way */
	OX_WIRE_LOCKED = 1, /* the keeper's own, with the locks */
	OX_WIRE_FRESH,	    /* other descriptions of the same files, for the worker */
	OX_WIRE_WITNESS,    /* of the image, for a successor's first sync: all that there will be,
			       or one; to a worker none: the last one is used up */
	/* to a child */
	OX_WIRE_GIVEN,	 /* --fd */
	OX_WIRE_STORED,	 /* as LOCKED, out of a service manager's store: to be judged first */
	OX_WIRE_BARRIER, /* the write end of a pipe */
	OX_WIRE_STATE,	 /* the memory that outlives the worker */
	OX_WIRE_FLIGHT,	 /* serve/flight.h; number: twice the time of the last death, and 1
			  * where somebody else had killed the worker */
	OX_WIRE_STATS,	 /* serve/stats.h */
	OX_WIRE_TLS,	 /* credentials (serve/tls/files.h) */
	OX_WIRE_GO,	 /* all is handed over; number: the keeper's process id */
	OX_WIRE_LISTEN,	 /* listening sockets of a protocol; number: OX_WIRE_UNIX and so on. Of
			  * vhost-user the end of a socket pair (serve/vhost/park.h): the keeper
			  * itself  takes connections in */
	OX_WIRE_STOP,
	OX_WIRE_DISK,	 /* to a process of several: a socket for one of them, its name and words */
	OX_WIRE_CONTROL, /* the listening socket of the control process */
	/* from a worker */
	OX_WIRE_ANSWERED, /* a command (serve/command.h); number: OX_WIRE_ANSWER */
	OX_WIRE_SYNCED,	  /* the witness has told no error, at any time after GO */
	OX_WIRE_OPENED,	  /* number: the thread that serves */
	OX_WIRE_READY,
	OX_WIRE_ENDED, /* of one disk of several; number: what a process of its own would exit with
			*/
	/* between the worker of a mount and who connects for it; from the worker: number: within
	 * how many milliseconds; to it: an error's number, or 0 and a socket */
	OX_WIRE_CONNECT,
	OX_WIRE_KINDS
};

/* Of ANSWERED: which command, and how it went; both sides keep the ids below OX_WIRE_IDS. */
#define OX_WIRE_IDS (1u << 20)
/* The keeper's own command, OX_SERVE_RENEW_TLS, of which a worker has one at a time. */
#define OX_WIRE_TLS_ID (OX_WIRE_IDS - 1)
#define OX_WIRE_ERRORS 4096u
#define OX_WIRE_ANSWER(id, code) ((uint32_t)(id)*OX_WIRE_ERRORS + (uint32_t) - (code))

/* Of LISTEN: one message for each protocol that is served. */
#define OX_WIRE_UNIX 1u
#define OX_WIRE_VHOST 2u
#define OX_WIRE_FUSE 4u /* the descriptor of a mount; else NBD */

struct ox_wire_message {
	enum ox_wire_kind kind;
	uint32_t number;
	unsigned fd_count;
	int fds[OX_WIRE_FDS]; /* whose the receiver's are */
};

/* Messages of other kinds, of a size that both sides know: as ox_wire_send, and below as
 * ox_wire_receive; ret_fds has room for OX_WIRE_FDS. */
int ox_wire_send_bytes(int socket, const void *bytes, size_t count, const int *fds,
		       unsigned fd_count) OX_CHECKED;
int ox_wire_receive_bytes(int socket, void *bytes, size_t count, int *ret_fds,
			  unsigned *ret_fd_count) OX_CHECKED;

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
