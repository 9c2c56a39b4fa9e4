/* SPDX-License-Identifier: MIT */
/*
 * How a session outlives the process (docs/vhost-user.md, "Deaths"). Its connection and descriptors
 * are the keeper's (park.h), its state is in a memory (record.h). Of a message:
 *
 *	ox_vhost_peek		it is whole; nothing is taken off the socket
 *	ox_vhost_keep_take	its descriptors are the keeper's, it is recorded as in hand, and
 *				only then it is taken off
 *	the handler		carries it out; its reply is noted (ox_vhost_keep_reply)
 *	ox_vhost_keep_commit	the state is recorded, with the reply, and nothing is in hand; then
 *				the reply is handed to the keeper, which sends it
 *
 * Who finds a message in hand carries it out again, from the state before it. Who finds a reply
 * hands it to the keeper again, which knows the number of the last one that it has sent.
 */
#ifndef OX_SERVE_VHOST_KEEP_H
#define OX_SERVE_VHOST_KEEP_H

#include "serve/vhost/record.h"
#include "serve/vhost/session.h"

struct ox_vhost_keep {
	int socket; /* to the keeper */
	struct ox_vhost_record *record;
	struct ox_vhost_state state; /* of the session that is recorded next */
	bool is_marked;		     /* the image */
	bool may_be_lost;	     /* what servers under an earlier keeper had answered */
	/* What the keeper said while something else was waited for. */
	struct ox_park_packet came[OX_PARK_FRONTS];
	unsigned came_count;
};

/* What the keeper has of one front end. */
struct ox_vhost_kept_front {
	uint64_t number; /* of its connection; 0: there is none */
	int connection;
	int fds[OX_PARK_SLOTS]; /* -1: the slot is empty */
};

/* Takes over from the keeper, which is waited for. socket is the keep's from here on, also on
 * failure (-errno). fronts: OX_PARK_FRONTS, all empty; their descriptors are the caller's. */
int ox_vhost_keep_new(int socket, struct ox_vhost_kept_front *fronts,
		      struct ox_vhost_keep **ret) OX_CHECKED;
/* NULL is allowed. */
void ox_vhost_keep_free(struct ox_vhost_keep *keep);
/* As ox_park_receive, not waiting. */
int ox_vhost_keep_hear(struct ox_vhost_keep *keep, struct ox_park_packet *ret) OX_CHECKED;

/* Has the image marked, before the first answer to a write that is not durable. -errno: it cannot
 * be. */
int ox_vhost_keep_mark(struct ox_vhost_keep *keep) OX_CHECKED;

/* A session that begins: it has its connection and its front. -errno. */
int ox_vhost_keep_begin(struct ox_vhost_session *session) OX_CHECKED;
/* A new session becomes what a dead server has left of it; its rings do not run yet. Takes
 * descriptors out of front. is_blamed: the server died of itself. 1: done; 0: it was never begun;
 * -EPIPE: it had ended; -ENOTRECOVERABLE: servers die of its message; -errno. */
int ox_vhost_keep_restore(struct ox_vhost_session *session, struct ox_vhost_kept_front *front,
			  bool is_blamed) OX_CHECKED;
/* A message that was peeked at is taken off the socket. -errno. */
int ox_vhost_keep_take(struct ox_vhost_session *session) OX_CHECKED;
/* The reply to the message in hand. fd, unless -1, stays open. -errno. */
int ox_vhost_keep_reply(struct ox_vhost_session *session, uint32_t request, const void *payload,
			size_t bytes, int fd) OX_CHECKED;
/* Records the session as it is; done: the message in hand is carried out. -errno. */
int ox_vhost_keep_commit(struct ox_vhost_session *session, bool done) OX_CHECKED;
/* Nobody is to go on with it. */
void ox_vhost_keep_end(struct ox_vhost_session *session);
/* The keeper may close what it has of it. */
void ox_vhost_keep_let_go(struct ox_vhost_keep *keep, unsigned front);

#endif
