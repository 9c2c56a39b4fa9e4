/* SPDX-License-Identifier: MIT */
/*
 * A split virtqueue, as its device sees it (virtio 1.2, 2.7): chains of descriptors are taken from
 * the available ring, and answered in the used ring. It has no sockets and knows no requests.
 *
 *	STOPPED  -- ox_vhost_ring_start ->  STARTED
 *	STARTED  -- ox_vhost_ring_stop ->   STOPPED (nothing in flight, nothing to be recovered)
 *	STARTED  -- what the driver wrote makes no sense ->  BROKEN
 *	BROKEN   -- ox_vhost_ring_stop ->   STOPPED
 *
 * A broken ring gives no more chains; those that were taken are answered as ever. Where the memory
 * itself is broken (ox_vhost_memory_is_broken, ox_vhost_inflight_is_broken) nothing is answered.
 *
 * The driver may change whatever lies in its memory at any moment. So each index, descriptor and
 * indirect table is copied once, and what is checked and used is the copy. next_avail, used_index
 * and the heads in flight are the device's own.
 *
 * With an inflight region (inflight.h) each chain is recorded, and a ring that starts takes first
 * what was recorded and not answered. The next index is then the used index plus what is in flight,
 * and never the front end's base, which may lie (Cloud Hypervisor sends the driver's own index).
 *Nor is it with a region that was never used, where the base would pass over requests that wait.
 *
 *	take, take, ...		until nothing is there, or who carries them out has enough
 *	answer, answer, ...	of what is complete, in any order
 *	publish			the driver sees these answers, all at once; signal it if so said
 *	quiet / listen		kicks off while rings are looked at anyway; on, before a sleep
 */
#ifndef OX_SERVE_VHOST_RING_H
#define OX_SERVE_VHOST_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "oxbow.h"
#include "serve/vhost/inflight.h"
#include "serve/vhost/memory.h"

#define OX_VHOST_RING_SIZE_MAX 32768u
/* Pieces of memory of one chain. */
#define OX_VHOST_PIECES_MAX 1024
/* A ring shorter than this may have indirect tables as long as this: drivers go by seg_max. */
#define OX_VHOST_INDIRECT_MIN 128u
/* Chains of one ring that are taken and not published; more wait in the ring. */
#define OX_VHOST_IN_FLIGHT_MAX 1024u

enum ox_vhost_ring_state {
	OX_VHOST_RING_STOPPED,
	OX_VHOST_RING_STARTED,
	OX_VHOST_RING_BROKEN,
};

/* What the front end has said of the ring when it starts. */
struct ox_vhost_ring_setup {
	uint32_t size;	      /* a power of two, OX_VHOST_RING_SIZE_MAX at most */
	uint64_t descriptors; /* front-end addresses */
	uint64_t available;
	uint64_t used;
	bool event_idx; /* features that were negotiated */
	bool indirect;
	struct ox_vhost_inflight *inflight; /* NULL: none */
	uint16_t index;			    /* of the ring in it */
	/* It ran when its server died, between any two starts: what the region does not record is
	 * answered, and the base is that of long ago. */
	bool goes_on;
};

/* A chain that was taken; all of it is copied but what the pieces point to. */
struct ox_vhost_chain {
	uint16_t head;
	/* First those that the device reads, then those that it writes; none is empty. Valid until
	 * the next chain is taken. */
	const struct iovec *pieces;
	int readable_count;
	int writable_count;
	uint64_t readable_bytes;
	uint64_t writable_bytes;
};

struct ox_vhost_ring;

int ox_vhost_ring_new(struct ox_vhost_memory *memory, struct ox_vhost_ring **ret) OX_CHECKED;
/* Stopped, or given up with its device: nothing is in flight. NULL is allowed. */
void ox_vhost_ring_free(struct ox_vhost_ring *ring);

/*
 * A stopped ring starts. -EINVAL: its size, or an address that is not aligned; -EFAULT: an address
 * that is in no region, or whose ring does not end in it; or what ox_vhost_inflight_begin says.
 * Signal the driver once after each start: what was answered before may not have been told.
 */
int ox_vhost_ring_start(struct ox_vhost_ring *ring,
			const struct ox_vhost_ring_setup *setup) OX_CHECKED;
/* Nothing is in flight. Returns the next available index, for GET_VRING_BASE; of a ring that is
 * stopped already the same as before. */
uint16_t ox_vhost_ring_stop(struct ox_vhost_ring *ring);
/* The next available index. */
uint16_t ox_vhost_ring_next(const struct ox_vhost_ring *ring);
/* The next index of a ring that is to be started: what GET_VRING_BASE says of one that never was.
 */
void ox_vhost_ring_set_base(struct ox_vhost_ring *ring, uint16_t base);
/* The memory's regions are others: the same addresses are looked up again. As of
 * ox_vhost_ring_start; on failure it is broken. A stopped ring: 0. */
int ox_vhost_ring_remap(struct ox_vhost_ring *ring) OX_CHECKED;

enum ox_vhost_ring_state ox_vhost_ring_state(const struct ox_vhost_ring *ring);
/* Why it is broken, for the log; "" where it is not. */
const char *ox_vhost_ring_why_broken(const struct ox_vhost_ring *ring);
/* For who finds that a chain cannot be answered at all. */
void ox_vhost_ring_break(struct ox_vhost_ring *ring, const char *why);
/* Taken and not answered. */
unsigned ox_vhost_ring_in_flight(const struct ox_vhost_ring *ring);
/* Recorded by a predecessor, and not taken yet. */
unsigned ox_vhost_ring_to_recover(const struct ox_vhost_ring *ring);
/* Gives nothing but what is to be recovered, for a ring that is about to stop; false: all again.
 * A start resets it. */
void ox_vhost_ring_set_draining(struct ox_vhost_ring *ring, bool draining);
/* Who is told that the used ring is written into, at log_address (VHOST_VRING_F_LOG) of the guest
 * for its first byte. NULL: nobody. Stays valid. */
void ox_vhost_ring_set_dirty(struct ox_vhost_ring *ring, const struct ox_vhost_dirty *dirty,
			     uint64_t log_address);

/* Takes the next chain. 1; 0: none is there, or OX_VHOST_IN_FLIGHT_MAX are taken, or it does not
 * run; -EPROTO: the ring has just broken. */
int ox_vhost_ring_take(struct ox_vhost_ring *ring, struct ox_vhost_chain *ret) OX_CHECKED;
/* Answers a chain into which so many bytes were written; seen at the next publish. */
void ox_vhost_ring_answer(struct ox_vhost_ring *ring, uint16_t head, uint32_t written_bytes);
/* A chain stays recorded as in flight, and this ring neither answers it nor takes it again: it is
 * about to be freed. */
void ox_vhost_ring_leave(struct ox_vhost_ring *ring, uint16_t head);
/* Returns whether the driver is to be signalled. */
bool ox_vhost_ring_publish(struct ox_vhost_ring *ring) OX_CHECKED;

/* Asks the driver not to kick; it may all the same. */
void ox_vhost_ring_quiet(struct ox_vhost_ring *ring);
/* Asks for a kick at the next chain. True: there is something to take already. */
bool ox_vhost_ring_listen(struct ox_vhost_ring *ring) OX_CHECKED;
/* Whether there is something to take, for whoever polls. False while OX_VHOST_IN_FLIGHT_MAX are
 * taken: whoever publishes some takes again. */
bool ox_vhost_ring_has_more(struct ox_vhost_ring *ring) OX_CHECKED;

#endif
