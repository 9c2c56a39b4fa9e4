/* SPDX-License-Identifier: MIT */
/*
 * What outlives a server of its front ends' sessions: a sealed memory file that the keeper holds,
 * with a part for each front end. Descriptors are in it as numbers of slots (park.h).
 *
 *	in hand    a message that is being carried out, or waits to be
 *	the state  all that was negotiated, and the last reply
 *
 * The state lies there twice. One word says which of the two holds, and whether a message is in
 * hand, so that each change is one store:
 *
 *	take       the message is written, then the word says that it is in hand
 *	commit     the other state is written, then the word says that it holds, and, where a
 *		   message was carried out, that none is in hand any more
 *
 * What lies there is taken for a stranger's: a process that went astray has written it. It is
 * copied once, and each number is held to its bounds. What a state means is for whoever restores it
 * to check (keep.c).
 */
#ifndef OX_SERVE_VHOST_RECORD_H
#define OX_SERVE_VHOST_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "oxbow.h"
#include "serve/serve.h"
#include "serve/vhost/memory.h"
#include "serve/vhost/message.h"
#include "serve/vhost/park.h"

/* A region, a log: bytes of the file in a slot. */
struct ox_vhost_shared {
	uint64_t offset;
	uint64_t bytes;
	uint16_t slot;	 /* OX_PARK_NO_SLOT: there is none */
	uint16_t queues; /* of an inflight region, as queue_size */
	uint16_t queue_size;
	uint16_t unused;
};

/* Flags of a ring. */
#define OX_VHOST_RING_HAS_ADDRESSES 1u
#define OX_VHOST_RING_LOGS_USED 2u
#define OX_VHOST_RING_IS_STARTED 4u
#define OX_VHOST_RING_IS_ENABLED 8u
#define OX_VHOST_RING_RUNS 16u

struct ox_vhost_state_ring {
	uint64_t descriptors;
	uint64_t available;
	uint64_t used;
	uint64_t log_address;
	uint32_t size;
	uint16_t base; /* of one that does not run */
	uint16_t flags;
	uint16_t kick; /* slots */
	uint16_t call;
	uint16_t error;
	uint16_t unused;
};

struct ox_vhost_state_region {
	struct ox_vhost_region is;
	uint16_t slot;
	uint16_t unused[3];
};

/* Flags of a session. */
#define OX_VHOST_STATE_HAS_FEATURES 1u
#define OX_VHOST_STATE_LOGS_ALL 2u
#define OX_VHOST_STATE_FAILS 4u

struct ox_vhost_state_reply {
	uint64_t number; /* 0: there was none */
	uint32_t bytes;
	uint16_t slot; /* of the descriptor that goes along */
	uint16_t unused;
	uint8_t data[OX_PARK_BYTES];
};

struct ox_vhost_state {
	uint64_t features;
	uint64_t protocol_features;
	uint64_t read_size_bytes;
	uint32_t status;
	uint32_t flags;
	uint32_t wce; /* enum ox_vhost_wce */
	uint16_t channel;
	uint16_t own_inflight; /* a region of ours */
	struct ox_vhost_shared inflight;
	struct ox_vhost_shared log;
	uint32_t ring_count;
	uint32_t region_count;
	struct ox_vhost_state_reply reply;
	struct ox_vhost_state_ring rings[OX_SERVE_VHOST_QUEUES_MAX];
	struct ox_vhost_state_region regions[OX_VHOST_REGIONS_MAX];
};

struct ox_vhost_record;

/* Makes the memory: a descriptor of it, or -errno. */
int ox_vhost_record_make(void) OX_CHECKED;
/* fd stays the caller's. -EINVAL: it is no such memory. */
int ox_vhost_record_open(int fd, struct ox_vhost_record **ret) OX_CHECKED;
/* NULL is allowed. */
void ox_vhost_record_close(struct ox_vhost_record *record);

/* ---- for all front ends ---- */

/* Inflight regions that were fresh when they were handed in, by the inodes of their files. */
void ox_vhost_record_know(struct ox_vhost_record *record, uint64_t inode);
bool ox_vhost_record_knows(const struct ox_vhost_record *record, uint64_t inode);

/* ---- of a front end ---- */

/* Begins anew, with a state: number is the connection's (OX_PARK_CAME). */
void ox_vhost_record_begin(struct ox_vhost_record *record, unsigned front, uint64_t number,
			   const struct ox_vhost_state *state);
/* Nobody is to go on with it. */
void ox_vhost_record_end(struct ox_vhost_record *record, unsigned front);

/* The message is in hand; its descriptors are in these slots. */
void ox_vhost_record_take(struct ox_vhost_record *record, unsigned front,
			  const struct ox_vhost_message *message);
/* The state holds; done: and nothing is in hand. */
void ox_vhost_record_commit(struct ox_vhost_record *record, unsigned front,
			    const struct ox_vhost_state *state, bool done);

enum ox_vhost_found {
	OX_VHOST_FOUND_NOTHING, /* it was never begun */
	OX_VHOST_FOUND_ENDED,
	OX_VHOST_FOUND_STATE,
	OX_VHOST_FOUND_MESSAGE, /* a state, and a message in hand */
	OX_VHOST_FOUND_BLAMED,	/* it was in hand when two servers died of themselves */
	OX_VHOST_FOUND_NONSENSE,
};

/*
 * What the last server has left. All slots are within their bounds, or none; counts are.
 * *ret_message has slots and no descriptors. The message in hand is blamed if is_blamed: the server
 * has died of itself.
 */
enum ox_vhost_found ox_vhost_record_find(const struct ox_vhost_record *record, unsigned front,
					 uint64_t number, bool is_blamed,
					 struct ox_vhost_state *ret_state,
					 struct ox_vhost_message *ret_message);

#endif
