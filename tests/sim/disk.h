/* SPDX-License-Identifier: MIT */
/*
 * The simulated disk: a byte store of io/io.h whose requests take a random time, and which can lose
 * its power.
 *
 * Two contents are kept. The volatile one is what reads see: a request changes it when it
 * completes. The durable one is what a sync has made safe; what lies between is the journal, in the
 * order of completion. A sync makes durable what had completed when the sync was submitted (M1).
 *
 * A power cut keeps the durable content, any subset of the 512-byte sectors of the journal and of
 * the writes in flight, each old or new (M2), and the file at any of the lengths it had since.
 * A sync that fails leaves of the journal a part that no later sync brings back (M3).
 *
 * When a process dies its requests live on in the kernel: each lands on the next process's disk, as
 * a whole, in part or not at all, at any later moment. And a sync of it that was on its way may
 * have taken an error along: it is told once to each description, so that the next process learns
 * of it only from one that the dead one had not used (witness).
 *
 * Holes may need room that is not there (space.h): writes into them then fail with ENOSPC, after
 * the part that had room.
 *
 * Faults are answers, not damage: the contents stay what the requests that were carried out made.
 */
#ifndef SIM_DISK_H
#define SIM_DISK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "bytes.h"
#include "io/io.h"
#include "random.h"
#include "space.h"
#include "trace.h"

enum sim_fault_class {
	SIM_FAULT_READ = 1 << 0,
	SIM_FAULT_WRITE = 1 << 1,
	SIM_FAULT_SYNC = 1 << 2,
	SIM_FAULT_GROW = 1 << 3,
	SIM_FAULT_PUNCH = 1 << 4,
	SIM_FAULT_HEADER = 1 << 5, /* writes of the first sector */
};

/* The requests of the classes fail with error, once after come and gone, until left are spent. */
struct sim_fault {
	unsigned classes;
	unsigned after; /* requests of the classes that still succeed */
	unsigned left;	/* requests that fail then */
	int error;	/* negative */
};

struct sim_disk_options {
	uint32_t align_bytes;
	uint32_t zero_align_bytes;
	bool can_punch;
	bool can_zero;
	uint64_t fixed_bytes; /* a block device of this size, with old bytes on it; 0: a file */
	bool short_counts;    /* requests do less than asked for, now and then */
	uint32_t space_bytes; /* holes need room, in blocks of so many bytes; 0: they do not */
};

struct sim_disk {
	struct ox_io io;
	struct sim_disk_options options;
	struct sim_random random;
	struct sim_trace *trace;
	struct sim_bytes durable;
	struct sim_bytes current; /* the volatile content; its length is the file's */
	struct sim_space space;	  /* its room is endless until the case says otherwise */
	struct ox_list journal;	  /* struct sim_change, completed and not durable */
	struct ox_list in_flight; /* struct sim_change */
	unsigned strays;	  /* of them, those of a dead process that are under way */
	uint64_t completed;	  /* number of the last change that completed */
	struct sim_fault fault;
	unsigned faults_hit;
	unsigned refusals; /* for want of room */
	bool instant;	   /* requests take no time: for setting up and looking */
	bool dead;	   /* the power is gone: every request fails */
	bool sync_failed;
	unsigned syncing;   /* syncs on their way */
	uint64_t sync_upto; /* what the last of them covers */
	bool error_taken;   /* by a dead process: only a description of its time still tells it */
	bool has_witness;   /* there is such a description, for who opens the image next */
	uint64_t requests;
	uint64_t header_writes; /* completed writes of the first sector */
	uint64_t syncs;		/* begun */
	uint64_t growths;	/* of the file's length */
	uint64_t grown_from;	/* before the last */
};

/* The contents are taken over; journal may be NULL or another disk's, which is left empty. */
struct sim_disk *sim_disk_open(struct ox_reactor *r, const struct sim_disk_options *options,
			       struct sim_bytes *durable, struct sim_random *random,
			       struct sim_trace *trace);

/* What a power cut at this instant leaves. The disk is dead from then on. */
void sim_disk_cut(struct sim_disk *d, struct sim_bytes *ret, struct sim_space *ret_space);
/* What one would leave, and the disk goes on. */
void sim_disk_imagine(struct sim_disk *d, struct sim_bytes *ret);

/*
 * The process dies and the host lives: d is dead, and the returned disk has its contents and its
 * journal. What was in flight lands there from sim_disk_let_land on; room is made for it then.
 */
struct sim_disk *sim_disk_kill(struct sim_disk *d);
/* Starts the strays, if there are any: tasks that have landed when strays is 0. */
void sim_disk_let_land(struct sim_disk *d);
/* The sync that is on its way fails, and its caller alone is told. */
void sim_disk_take_error(struct sim_disk *d, struct sim_disk *next);

/* Frees a disk whose tasks have ended (ox_io_close leaves it alone). NULL is allowed. */
void sim_disk_free(struct sim_disk *d);

#endif
