/* SPDX-License-Identifier: MIT */
/* The guest: tasks that read, write, zero, discard and flush, and tell the model. */
#ifndef SIM_WORKLOAD_H
#define SIM_WORKLOAD_H

#include <stdbool.h>
#include <stdint.h>

#include "img/img.h"
#include "model.h"
#include "random.h"
#include "space.h"
#include "trace.h"

enum sim_guest_op {
	SIM_GUEST_READ,
	SIM_GUEST_WRITE,
	SIM_GUEST_WRITE_FUA,
	SIM_GUEST_ZERO,
	SIM_GUEST_DISCARD,
	SIM_GUEST_FLUSH,
	SIM_GUEST_EXTENT,
	SIM_GUEST_OPS,
};

struct sim_rings;

struct sim_workload {
	struct ox_image *img;
	struct sim_rings *rings; /* which requests go through (rings.h); NULL: straight to img */
	struct sim_model *model;
	struct sim_trace *trace;
	struct sim_random random;
	uint64_t cluster_bytes;
	uint64_t sectors;    /* that the tasks use */
	unsigned tasks;	     /* still running */
	unsigned operations; /* of each task */
	uint64_t hot_first;  /* sectors where most requests fall */
	uint64_t hot_count;
	uint64_t most_sectors;		 /* of one request */
	unsigned quiet_percent;		 /* pauses between requests */
	unsigned compressed_percent;	 /* of writes of whole clusters, where the format can */
	unsigned compressing;		 /* such writes under way */
	unsigned whole_percent;		 /* requests for the whole disk, if not to write */
	unsigned weights[SIM_GUEST_OPS]; /* how often each kind of request comes */
	uint64_t resize_sectors; /* beside the tasks, the disk gets this size; 0: it does not */
	uint64_t linger_ns;	 /* the longest pause at the end, and now and then amid */
	bool errors_allowed;	 /* a fault was injected, or the power is gone */
	bool may_be_full;	 /* -ENOSPC is no surprise to who needs a cluster */
	struct sim_space *space; /* of a disk whose room ends; NULL: another */
	uint64_t room_comes_ns;	 /* after so long there is room; 0: there is none till the end */
	uint64_t freed_clusters; /* at the most, by requests that can */
	bool resizing;
	bool stop;
};

/* Starts the tasks; they have ended when tasks is 0. Returns false where one could not start. */
bool sim_workload_start(struct sim_workload *w, struct ox_reactor *r, unsigned tasks);

#endif
