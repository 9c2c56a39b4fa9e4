/* SPDX-License-Identifier: MIT */
/*
 * One front end: its socket, what it has negotiated, its guest's memory, its rings.
 *
 *	message.c  messages as bytes
 *	session.c  messages are carried out one by one
 *	handler.h  what each of them asks for, and the answer
 *	vring.c    rings start, run and stop
 *	keep.h     what of it outlives the process
 *	room.c     changes that find no room on the host
 *	server.c   front ends come and go; the library's answers
 *
 * A message is carried out before the next is read. One that must not be carried out while requests
 * are in flight (GET_VRING_BASE, a new memory table, a reset) waits for them: no chain is taken
 * meanwhile, and the front end is not read from.
 *
 * Every message may come at any time, any number of times. What cannot be done is refused: the
 * reply says so where one was asked for (REPLY_ACK), else the session ends, because the front end
 * would go on as if it had been done. A guest's own writes to the configuration space, and messages
 * that nobody knows, end nothing.
 *
 * A ring runs while four things hold: the front end has started it (SET_VRING_KICK; GET_VRING_BASE
 * ends that), it is enabled, it is described (size and addresses, memory, features), and the device
 * is the session's. Any number of front ends may be connected to one disk; it is that one's whose
 * ring starts first, until none of its rings runs. A disk that is read-only is everybody's.
 */
#ifndef OX_SERVE_VHOST_SESSION_H
#define OX_SERVE_VHOST_SESSION_H

#include "serve/loop.h"
#include "serve/vhost/blk.h"
#include "serve/vhost/inflight.h"
#include "serve/vhost/log.h"
#include "serve/vhost/memory.h"
#include "serve/vhost/message.h"
#include "serve/vhost/park.h"
#include "serve/vhost/record.h"
#include "serve/vhost/ring.h"
#include "serve/vhost/signal.h"

/* Of what a front end negotiates beside the device's features. */
#define OX_VHOST_F_LOG_ALL (UINT64_C(1) << 26) /* whatever is written into the guest is logged */
#define OX_VHOST_F_PROTOCOL_FEATURES (UINT64_C(1) << 30)

#define OX_VHOST_PROTOCOL_MQ (UINT64_C(1) << 0)
#define OX_VHOST_PROTOCOL_LOG_SHMFD (UINT64_C(1) << 1)
#define OX_VHOST_PROTOCOL_REPLY_ACK (UINT64_C(1) << 3)
#define OX_VHOST_PROTOCOL_BACKEND_REQ (UINT64_C(1) << 5)
#define OX_VHOST_PROTOCOL_CONFIG (UINT64_C(1) << 9)
#define OX_VHOST_PROTOCOL_INFLIGHT_SHMFD (UINT64_C(1) << 12)
#define OX_VHOST_PROTOCOL_RESET_DEVICE (UINT64_C(1) << 13)
#define OX_VHOST_PROTOCOL_CONFIGURE_MEM_SLOTS (UINT64_C(1) << 15)
#define OX_VHOST_PROTOCOL_STATUS (UINT64_C(1) << 16)

/* Bits 21 and 22 are never among them: front ends differ in what they mean. */
#define OX_VHOST_PROTOCOL_OFFERED                                                                  \
	(OX_VHOST_PROTOCOL_MQ | OX_VHOST_PROTOCOL_LOG_SHMFD | OX_VHOST_PROTOCOL_REPLY_ACK |        \
	 OX_VHOST_PROTOCOL_BACKEND_REQ | OX_VHOST_PROTOCOL_CONFIG |                                \
	 OX_VHOST_PROTOCOL_INFLIGHT_SHMFD | OX_VHOST_PROTOCOL_RESET_DEVICE |                       \
	 OX_VHOST_PROTOCOL_CONFIGURE_MEM_SLOTS | OX_VHOST_PROTOCOL_STATUS)

struct ox_vhost_keep;
struct ox_vhost_session;

/* What is served, to all front ends. */
struct ox_vhost_device {
	struct ox_serve_loop *loop;
	struct ox_queue *queue;
	struct ox_vhost_signals *signals;
	struct ox_flight *flight;   /* NULL: nothing is noted */
	struct ox_vhost_keep *keep; /* NULL: sessions end with the process */
	struct ox_vhost_blk blk;    /* as a session begins with it */
	struct ox_vhost_session *sessions;
	struct ox_vhost_session *owner; /* whose rings run; NULL: nobody's, or it is read-only */
	/* Held back until no suspect is carried out. */
	struct ox_vhost_blk_request *held_first;
	struct ox_vhost_blk_request *held_last;
	size_t held_count;
	bool told_of_write_through;
	/* Inflight regions that began here, where nothing else has them (keep.h); NULL: unknown. */
	struct ox_vhost_record *regions;
	bool may_be_lost;      /* writes that servers who died had answered */
	bool is_marked;	       /* that ours may be, if all of this dies */
	int64_t mark_again_ms; /* not before it is tried again */
	/* blk.wce is what guests have set: a ring has run here, or at a server that died. */
	bool knows_cache;
};

struct ox_vhost_vring {
	struct ox_watched kick; /* first; fd -1: none */
	struct ox_vhost_session *session;
	int call; /* -1: none, as of the others */
	int error;
	uint16_t kick_slot; /* where the keeper has them (park.h) */
	uint16_t call_slot;
	uint16_t error_slot;
	struct ox_vhost_ring *ring;
	struct ox_vhost_blk_ring *blk_ring;
	struct ox_vhost_ring_setup setup; /* as the front end has described it so far */
	bool has_addresses;
	bool logs_used; /* what is written into its used ring is logged, at log_address */
	uint64_t log_address;
	bool started; /* by the front end */
	bool enabled;
	bool running;
	bool goes_on;  /* it ran when the last server died: what is recorded of it counts */
	bool stopping; /* what is in flight is waited for */
	bool ready;    /* there may be something to take */
	bool quiet;    /* kicks are off */
	bool answers;  /* there may be something to publish */
	struct ox_limit_waiter turn;
};

struct ox_vhost_session {
	struct ox_watched watched; /* first: its socket */
	struct ox_vhost_device *device;
	struct ox_vhost_session *next; /* in the device's list */
	unsigned number;
	struct ox_vhost_incoming incoming;
	bool readable; /* there may be more to read */
	bool waits;    /* incoming is whole, and waits for requests in flight */
	bool paused;   /* no chain is taken: the memory table changes */
	bool has_features;
	bool flushing;	 /* flush is the library's: the cache was turned off */
	bool flushed;	 /* it is done; flush.result has how */
	bool ended;	 /* nothing is read, and no chain is taken */
	const char *why; /* it ended, a literal */
	uint64_t protocol_features;
	uint32_t status;
	/* For messages of ours (SET_BACKEND_REQ_FD); -1: none. */
	int channel;
	/* The capacity that the front end has read; 0: it has not, or found none. */
	uint64_t read_size_bytes;
	struct ox_vhost_memory *memory;
	struct ox_vhost_inflight *inflight;
	struct ox_vhost_log *log; /* NULL: none */
	bool logs_all;		  /* buffers too */
	struct ox_vhost_blk blk;
	struct ox_request flush;
	/* Of one that outlives the process (keep.h). */
	struct ox_vhost_keep *keep;		/* NULL: it does not */
	unsigned front;				/* of the keeper's */
	uint64_t held[OX_PARK_SLOTS / 64];	/* slots that are not empty, a bit each */
	uint64_t reply_number;			/* the last one's */
	bool has_reply;				/* to the message that is carried out */
	struct ox_vhost_inflight *own_inflight; /* where the front end has none */
	uint16_t own_slot;
	uint16_t channel_slot;
	struct ox_vhost_shared inflight_is; /* what was handed in */
	struct ox_vhost_shared log_is;
	unsigned vring_count;
	struct ox_vhost_vring vrings[];
};

/* socket is the session's from here on, also on failure (-errno). front: the keeper's, of a device
 * that has one. */
int ox_vhost_session_new(struct ox_vhost_device *device, int socket, unsigned front,
			 struct ox_vhost_session **ret) OX_CHECKED;
/* The library must have nothing of it. */
void ox_vhost_session_free(struct ox_vhost_session *session);
/* Starts the rings that ran when the last server died. */
void ox_vhost_session_go_on(struct ox_vhost_session *session);
/* Nothing is read from it any more, and no chain is taken; an earlier reason stands. */
void ox_vhost_session_end(struct ox_vhost_session *session, const char *why);
/* Reads and answers messages, takes chains, publishes answers. */
void ox_vhost_session_serve(struct ox_vhost_session *session);
/* Has every ring that is idle asked to kick. True: there is more to do at once. */
bool ox_vhost_session_listen(struct ox_vhost_session *session);
/* Whether requests are in the library's hands, or held back. */
bool ox_vhost_session_in_flight(const struct ox_vhost_session *session);
/* Whether any ring runs. */
bool ox_vhost_session_runs(const struct ox_vhost_session *session);
/* Whether a ring runs that has no kick descriptor: it is looked at from time to time. */
bool ox_vhost_session_is_polled(const struct ox_vhost_session *session);
/* Looks at all rings, at the next serve. */
void ox_vhost_session_look(struct ox_vhost_session *session);

/* The size of the device has changed. */
void ox_vhost_session_resized(struct ox_vhost_session *session);
/* Has the front end read the configuration again where it does not know the size, and can be told.
 * Nothing is waited for. */
void ox_vhost_session_tell_size(struct ox_vhost_session *session);

/* ---- vring.c ---- */

int ox_vhost_vring_init(struct ox_vhost_session *session, unsigned index) OX_CHECKED;
void ox_vhost_vring_free(struct ox_vhost_vring *vring);
/* Takes a descriptor, or -1 for none, in place of the one that is there; slot: the keeper's.
 * -EINVAL: it is no eventfd; -errno. It stays the caller's on failure. */
int ox_vhost_vring_set_kick(struct ox_vhost_vring *vring, int fd, uint16_t slot) OX_CHECKED;
int ox_vhost_vring_set_call(struct ox_vhost_vring *vring, int fd, uint16_t slot) OX_CHECKED;
int ox_vhost_vring_set_error(struct ox_vhost_vring *vring, int fd, uint16_t slot) OX_CHECKED;
/* Starts it if all holds that it needs; 0 also where it does not. */
int ox_vhost_vring_start(struct ox_vhost_vring *vring) OX_CHECKED;
/* True: it does not run any more. False: requests are in flight;
 * to be asked again. */
bool ox_vhost_vring_stop(struct ox_vhost_vring *vring) OX_CHECKED;
void ox_vhost_vring_serve(struct ox_vhost_vring *vring);
void ox_vhost_vring_publish(struct ox_vhost_vring *vring);
bool ox_vhost_vring_listen(struct ox_vhost_vring *vring);

/* ---- server.c ---- */

/* For a server that follows on the death of this one. */
void ox_vhost_device_note_cache(struct ox_vhost_device *device, enum ox_vhost_wce wce);

/* Hands a request to the library, or holds it back, as far as the deaths of processes before this
 * one allow it; -errno: it fails. */
int ox_vhost_device_begin(struct ox_vhost_device *device,
			  struct ox_vhost_blk_request *request) OX_CHECKED;
/* Its result is there: answers it, unless it waits for room. */
void ox_vhost_device_completed(struct ox_vhost_device *device,
			       struct ox_vhost_blk_request *request);

/* For struct ox_vhost_blk, whose opaque is the device. */
int ox_vhost_device_submit(void *opaque, struct ox_vhost_blk_request *request) OX_CHECKED;

/* ---- room.c ---- */

/* A request of the ring has completed. True: it is not to be answered, because it waits for room,
 * or is left to the next session. */
bool ox_vhost_room_takes(struct ox_vhost_vring *vring,
			 struct ox_vhost_blk_request *request) OX_CHECKED;
/* What waits for room is answered with an error: the ring stops, or the memory changes. */
void ox_vhost_room_give_up(struct ox_vhost_vring *vring);
/* Nothing of a session that has ended waits for room. */
void ox_vhost_room_end(struct ox_vhost_session *session);

#endif
