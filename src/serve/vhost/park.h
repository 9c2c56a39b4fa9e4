/* SPDX-License-Identifier: MIT */
/*
 * Where front ends' connections and descriptors are while a server dies: with a process that
 * outlives it, the keeper, which gives them to the next server. What the two say to each other is
 * packets over a socket pair that each server has anew (docs/vhost-user.md, "Deaths").
 *
 * A packet that was sent is the keeper's, whatever becomes of its sender: it hears all of them
 * before the next server begins. So a server sends first, and records then.
 *
 *	keeper   RECORD; CAME and SLOTS of each front end; ALL.  Later CAME, and MARKED
 *	server   PUT, DROP, REPLY, GONE, MARK
 *
 * The keeper looks at kinds, counts, numbers of front ends and slots, and at nothing else: it does
 * not know what a slot is for, nor what a reply says.
 */
#ifndef OX_SERVE_VHOST_PARK_H
#define OX_SERVE_VHOST_PARK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "oxbow.h"

/* Front ends at once. More wait in the queue of the kernel. */
#define OX_PARK_FRONTS 8u
/* Descriptors of one front end: of 509 regions, three for each of 64 rings, two inflight regions, a
 * log and a channel, and twice those of the message that is carried out. */
#define OX_PARK_SLOTS 768u
#define OX_PARK_NO_SLOT 0xffffu
/* Of one packet. */
#define OX_PARK_FDS 64u
#define OX_PARK_BYTES 1100u

enum ox_park_kind {
	/* to the server */
	OX_PARK_RECORD = 1, /* the memory of the sessions (record.h); number: the bits below */
	OX_PARK_CAME,	    /* a connection; number: which of all that there were, from 1 on */
	OX_PARK_SLOTS_ARE,  /* descriptors of a front end, of a dead server's */
	OX_PARK_ALL,	    /* that is what there is at the start */
	OX_PARK_MARKED,	    /* number: 0, or an errno */
	/* from the server */
	OX_PARK_PUT,   /* descriptors, for slots that are empty */
	OX_PARK_DROP,  /* these slots are empty from now on; some may be already */
	OX_PARK_REPLY, /* bytes for the front end, and the descriptor of slots[0], if there is one;
			* number: more than that of the reply before, or it was sent already */
	OX_PARK_GONE,  /* the connection and all of its descriptors are to be closed */
	OX_PARK_MARK,  /* that answers may be lost from now on if all processes die */
	OX_PARK_KINDS
};

/* The image has been marked (MARK). */
#define OX_PARK_IS_MARKED 1u
/* Writes that servers under an earlier keeper had answered may be lost. */
#define OX_PARK_MAY_BE_LOST 2u

struct ox_park_packet {
	enum ox_park_kind kind;
	unsigned front; /* < OX_PARK_FRONTS */
	uint64_t number;
	unsigned slot_count;
	uint16_t slots[OX_PARK_FDS]; /* < OX_PARK_SLOTS */
	size_t byte_count;
	uint8_t bytes[OX_PARK_BYTES];
	unsigned fd_count;
	int fds[OX_PARK_FDS]; /* whose the receiver's are */
};

/* Waits for room if wait is set, else -EAGAIN. The descriptors stay open. Or -errno. */
int ox_park_send(int socket, const struct ox_park_packet *packet, bool wait) OX_CHECKED;
/* 1: a packet, whose numbers are within their bounds; 0: the other side is gone; -EAGAIN: there is
 * none, and wait was not set; -EBADMSG: it is none; -EMFILE: there was no room for its descriptors,
 * none of which came, and all else of it is there. */
int ox_park_receive(int socket, bool wait, struct ox_park_packet *ret) OX_CHECKED;
void ox_park_close_fds(struct ox_park_packet *packet);

#endif
