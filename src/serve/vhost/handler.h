/* SPDX-License-Identifier: MIT */
/*
 * What each message of a front end asks for, and the answer: a table for each thing that messages
 * are about.
 *
 *	handler_device.c  features, the configuration space, the device's status and resets
 *	handler_memory.c  the guest's memory
 *	handler_ring.c    one ring
 *	handler_shared.c  what else the front end shares: the inflight region, the dirty log
 *
 * A handler is run with a payload of at least the bytes that its entry states. It may be run again
 * with the same message, where it has said that it waits.
 */
#ifndef OX_SERVE_VHOST_HANDLER_H
#define OX_SERVE_VHOST_HANDLER_H

#include "serve/vhost/session.h"

/* Of SET_VRING_KICK and its like: no descriptor comes along. */
#define OX_VHOST_RING_NO_FD 0x100u

enum ox_vhost_verdict {
	OX_VHOST_DONE,	  /* to be acknowledged, if that was asked for */
	OX_VHOST_REPLIED, /* it had a reply of its own */
	OX_VHOST_WAIT,	  /* for requests in flight; it is carried out again then */
	OX_VHOST_REFUSED,
	OX_VHOST_IGNORED, /* refused, but nothing of the front end's rests on it */
};

struct ox_vhost_handler {
	uint32_t request;
	enum ox_vhost_verdict (*run)(struct ox_vhost_session *session,
				     struct ox_vhost_message *message);
	uint32_t min_bytes;
	bool replies; /* by itself */
};

/* Each ends with an entry whose run is NULL. */
extern const struct ox_vhost_handler ox_vhost_device_handlers[];
extern const struct ox_vhost_handler ox_vhost_memory_handlers[];
extern const struct ox_vhost_handler ox_vhost_ring_handlers[];
extern const struct ox_vhost_handler ox_vhost_shared_handlers[];

/* NULL: nobody knows such a message. */
const struct ox_vhost_handler *ox_vhost_handler_find(uint32_t request);

/* How many descriptors a message is to have. */
unsigned ox_vhost_handler_fds(const struct ox_vhost_message *message);

/* ---- what they have in common ---- */

/* The number at a place of the payload. */
uint64_t ox_vhost_get64(const struct ox_vhost_message *message, size_t at);
uint32_t ox_vhost_get32(const struct ox_vhost_message *message, size_t at);
uint16_t ox_vhost_get16(const struct ox_vhost_message *message, size_t at);

/* The first of its descriptors, which is the caller's from then on; -1: it has none. */
int ox_vhost_take_fd(struct ox_vhost_message *message) OX_CHECKED;

/* Replies to the message that is carried out, with a descriptor unless fd is -1, which stays open.
 * A front end that cannot be told ends its session. */
void ox_vhost_session_reply(struct ox_vhost_session *session, const void *payload, size_t bytes,
			    int fd);
enum ox_vhost_verdict ox_vhost_session_reply64(struct ox_vhost_session *session, uint64_t value);

/* Starts the rings that are to run; REFUSED where one of them does not. */
enum ox_vhost_verdict ox_vhost_session_start(struct ox_vhost_session *session);
/* False: requests are in flight; to be asked again. */
bool ox_vhost_session_stop(struct ox_vhost_session *session) OX_CHECKED;
/* NULL: there is no such ring. */
struct ox_vhost_vring *ox_vhost_session_vring(struct ox_vhost_session *session, uint64_t index);
/* Tells everybody who writes into the guest which log there is, if any. */
void ox_vhost_session_set_log(struct ox_vhost_session *session);

#endif
