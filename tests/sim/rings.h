/* SPDX-License-Identifier: MIT */
/*
 * The guest's disk over vhost-user: what the guest asks for goes through split rings in its memory,
 * and the unchanged code of src/serve/vhost takes it, hands it to the image, and answers.
 *
 *	rings_driver.c   the guest: its memory, its requests, what it was promised of each
 *	rings_device.c   the process that serves: what it knows of the rings, and its turns
 *
 * The guest outlives the death of a process whose state is kept: what it has in flight then is
 * answered by the next one, from the inflight region. It has no two changes of the same sectors in
 * flight, as they may be carried out twice. A power cut, or a death that leaves no state, takes the
 * guest along.
 *
 * What is promised is judged here from the table in docs/vhost-user.md ("The write cache").
 */
#ifndef SIM_RINGS_H
#define SIM_RINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "case.h"
#include "serve/vhost/blk.h"
#include "workload.h"

#define RINGS 2u
#define RING_SIZE 64u
#define RING_SLOTS 12u
#define SLOT_DESCRIPTORS 4u
#define SLOT_DATA_BYTES 16384u

_Static_assert(RING_SLOTS *SLOT_DESCRIPTORS <= RING_SIZE, "each slot has descriptors of its own");

/* ---- as it lies in the guest's memory ---- */

struct ring_descriptor {
	uint64_t address;
	uint32_t bytes;
	uint16_t flags;
	uint16_t next;
};

struct ring_slot {
	struct ring_descriptor table[SLOT_DESCRIPTORS];
	struct {
		uint32_t type;
		uint32_t reserved;
		uint64_t sector;
	} header;
	struct {
		uint64_t sector;
		uint32_t count;
		uint32_t flags;
	} range;
	uint8_t status;
	/* as drivers have it: no page, and so no region, ends amid a sector */
	uint8_t data[SLOT_DATA_BYTES] __attribute__((aligned(512)));
};

struct ring_memory {
	struct ring_descriptor descriptors[RING_SIZE];
	struct {
		uint16_t flags;
		uint16_t index;
		uint16_t ring[RING_SIZE];
		uint16_t used_event;
	} avail;
	struct {
		uint16_t flags;
		uint16_t index;
		struct {
			uint32_t head;
			uint32_t bytes;
		} ring[RING_SIZE];
		uint16_t avail_event;
	} used __attribute__((aligned(4)));
};

struct guest_memory {
	struct ring_memory rings[RINGS];
	struct ring_slot slots[RINGS][RING_SLOTS] __attribute__((aligned(4096)));
};

/* ---- the guest ---- */

/* A request in flight. */
struct ring_request {
	bool busy;
	struct ox_co *waiter; /* NULL: nobody waits, or not any more */
	enum sim_guest_op op;
	struct sim_write write; /* of a change */
	uint64_t began;		/* of a read or a flush */
	uint64_t first;
	uint64_t count;
	bool may_fail;	   /* there was no room when it was asked for */
	bool is_through;   /* it was asked for while writes were to be durable */
	uint64_t settings; /* of the cache, when it was asked for */
};

struct sim_rings {
	struct sim_random random;
	struct sim_workload *workload; /* that the guest works on now */
	struct sim_model *model;
	enum ox_cache_mode mode;
	struct sim_rings_totals *totals;

	/* the guest: until a power cut */
	int memory_fd;
	struct guest_memory *memory;
	uint64_t split; /* where the second region begins */
	int inflight_fd;
	uint8_t *inflight;
	uint64_t acked;
	enum ox_vhost_wce wce; /* as the guest has set it, and was told */
	bool is_setting;
	uint64_t settings;	    /* of it, so far */
	enum ox_vhost_wce kept_wce; /* as the process has it, for the next one */
	uint16_t avail_index[RINGS];
	uint16_t used_index[RINGS];
	struct ring_request requests[RINGS][RING_SLOTS];

	struct sim_device *device; /* the process; NULL: none serves */
	/* what the guest's memory and the inflight region held when it died */
	uint8_t *memory_then;
	uint8_t *inflight_then;
};

struct sim_rings *sim_rings_new(struct sim_model *model, enum ox_cache_mode mode, uint64_t seed,
				struct sim_rings_totals *totals);
/* Nothing serves. NULL is allowed, as below. */
void sim_rings_free(struct sim_rings *rings);

/* ---- for the case; outside of tasks ---- */

/* The image of the workload is served from now on; what a dead process left comes first. */
void sim_rings_start(struct sim_rings *rings, struct sim_workload *w);
/* How many requests the guest waits for. */
unsigned sim_rings_in_flight(const struct sim_rings *rings);
/* Nothing is in flight: the process takes nothing more. Once it has stopped comes sim_rings_end. */
void sim_rings_stop(struct sim_rings *rings);
bool sim_rings_have_stopped(const struct sim_rings *rings);
/* The process dies, or the power goes: from here on neither the guest nor what outlives the process
 * sees what its tasks still do. */
void sim_rings_die(struct sim_rings *rings);
/* All of its tasks have ended. */
void sim_rings_end(struct sim_rings *rings);
/* The guest is gone, with all that it had asked for. */
void sim_rings_forget(struct sim_rings *rings);

/* ---- for the guest's tasks ---- */

/* Asks for one request, and waits for its answer, or for the end of the process. */
void sim_rings_request_co(struct sim_rings *rings, enum sim_guest_op op, uint64_t first,
			  uint64_t count);

/* ---- between the two files ---- */

/* Another process serves: the driver is signalled once, and what it waits for meets another disk.
 */
void sim_driver_go_on(struct sim_rings *rings);
/* Takes what was answered. */
void sim_driver_reap(struct sim_rings *rings, unsigned ring);
/* Whether a write that is taken now is to be durable before it is answered. */
bool sim_driver_is_through(const struct sim_rings *rings);

/* The driver has kicked. */
void sim_device_kick(struct sim_device *device);
/* Its tasks go on to their end, and nobody sees what they do. */
void sim_device_die(struct sim_device *device);
/* Its tasks have ended. The next available index of each ring. */
void sim_device_free(struct sim_device *device, uint16_t *ret_bases);
/* Turns the cache on or off, and off only once all is durable. -EINVAL: it cannot be turned on. */
int sim_device_set_cache_co(struct sim_device *device, bool on);

#endif
