/* SPDX-License-Identifier: MIT */
/*
 * Front ends of vhost-user, whose connections and descriptors outlive workers (docs/vhost-user.md,
 * "Deaths"). The keeper takes connections in, and holds what its worker hands it in numbered slots.
 * It sends replies, so that it knows which it has sent; it does not look at what they say, nor at
 * the memory in which workers record the rest. A worker that says what it must not is to be killed:
 * all that it can harm is the front ends of its own disk.
 */
#ifndef OX_CLI_KEEPER_FRONTS_H
#define OX_CLI_KEEPER_FRONTS_H

#include <stdbool.h>
#include <stdint.h>

#include "serve/vhost/park.h"

struct ox_front {
	uint64_t number; /* of its connection; 0: there is none */
	int connection;
	bool is_lost;	  /* nothing is held for it any more; its worker is about to notice */
	uint64_t replied; /* the number of the last reply */
	int *fds;	  /* OX_PARK_SLOTS of them; -1: the slot is empty */
};

struct ox_fronts {
	int memory;	      /* of what workers record; -1: no front ends are served */
	int socket;	      /* to the worker; -1: none runs */
	uint64_t connections; /* so far */
	uint64_t word;	      /* OX_PARK_IS_MARKED, OX_PARK_MAY_BE_LOST */
	/* Marks the image; -errno. */
	int (*mark)(void *opaque);
	void *opaque;
	int64_t again_ms; /* not before then is a connection taken in: there was no room for one */
	struct ox_front fronts[OX_PARK_FRONTS];
};

/* As one that serves no front ends. */
void ox_fronts_init(struct ox_fronts *fronts);
/* The memory; -errno. */
int ox_fronts_make(struct ox_fronts *fronts) OX_CHECKED;
void ox_fronts_free(struct ox_fronts *fronts);

/* Front ends are let go, all of them: no worker can go on with what there is of them. */
void ox_fronts_forget(struct ox_fronts *fronts);

/* For the next worker: the end of a socket over which it is told all, or -errno. */
int ox_fronts_begin(struct ox_fronts *fronts) OX_CHECKED;
/* It has died: what it said last counts. */
void ox_fronts_end(struct ox_fronts *fronts);
/* All that the worker has said. -EBADMSG: it must not say that. */
int ox_fronts_hear(struct ox_fronts *fronts) OX_CHECKED;

/* Whether a connection can be taken in. */
bool ox_fronts_may_accept(const struct ox_fronts *fronts, int64_t now_ms);
/* Takes connections in; -errno: the worker cannot be told. */
int ox_fronts_accept(struct ox_fronts *fronts, int listener, int64_t now_ms) OX_CHECKED;

#endif
