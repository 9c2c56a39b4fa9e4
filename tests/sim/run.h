/* SPDX-License-Identifier: MIT */
/*
 * A case under way: its image, its disk, what is known of both, and what turns the reactor. case.c
 * decides what happens; making.c makes the image, guest.c lets the guest work on it.
 */
#ifndef SIM_RUN_H
#define SIM_RUN_H

#include <stdbool.h>
#include <stdint.h>

#include "case.h"
#include "config.h"
#include "format.h"
#include "img/img.h"
#include "model.h"
#include "oracle.h"
#include "rings.h"
#include "workload.h"

#define SIM_SNAPSHOTS_MOST 2u
/* More than the caches of the small images take. */
#define SIM_STATE_BYTES ((size_t)8 << 20)

struct sim_case {
	struct sim_run *run;
	struct sim_config config;
	struct sim_random random;
	struct sim_trace trace;
	struct ox_reactor *reactor;
	struct sim_disk *disk;
	struct sim_disk *backing_disk;
	struct sim_backing backing;
	struct sim_model *model;
	struct sim_frozen frozen[SIM_SNAPSHOTS_MOST];
	unsigned frozen_count;
	struct sim_vouched vouched;
	struct sim_bytes made;	 /* the empty image */
	struct sim_bytes sealed; /* the image whose damage the engine knows */
	bool is_sealed;
	bool has_extras;  /* vouched is filled in */
	bool bitmap_kept; /* as far as was seen: the autoclear bit is set */
	struct sim_workload workload;
	struct sim_rings *rings; /* the guest's, if its requests go through such */
	struct ox_image *img;
	struct ox_image *ending; /* it is being closed */
	uint64_t growths;	 /* of the disk when the last was looked at */
	uint64_t glanced;	 /* syncs of the disk when the last was looked at */
	uint64_t lost;		 /* clusters that nothing named when the guest began */
	bool resumed;		 /* a recovery goes on that a process had begun which died */
	bool may_leak;		 /* a crash, or an error, may have left leaks */
	uint64_t freed_before;	 /* freed_clusters of those that were killed, and adopted since */
	bool kept;		 /* the last recovery kept tables that looked lost to it */
	bool prepared;		 /* the image is made: cuts and faults may come */
	bool recovering;	 /* it was dirty when it was opened, and is recovered meanwhile */
	bool recovery_hit;	 /* by a fault: it may fail, and what it would allow as well */
	bool adopting;		 /* a process died, and the next one has its state */
	uint8_t *state;		 /* SIM_STATE_BYTES */
	bool has_died; /* a process, with its state kept, and nothing was cut or closed since */
	bool was_cut;  /* the power, and no process has died or closed since */
	bool over;     /* nothing is promised of the image any more */
};

/*
 * When the power goes: after so many steps, or, as the dangerous moments are few, when the first
 * sector has been written and not yet synced, or when a sync is on its way.
 */
struct sim_cut_plan {
	uint64_t steps;
	uint64_t header_writes; /* of the disk, absolute */
	uint64_t syncs;
	uint64_t moves_from; /* after so many of those, when a table moves */
};

#define SIM_NO_CUT ((struct sim_cut_plan){UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX})
#define SIM_STEPS_MOST 2000000u

/* A task of the case, that works on the image. */
struct sim_job {
	struct sim_case *c;
	void (*fn)(struct sim_job *job);
	int result;
	bool done;
	enum ox_repair repair;
	bool free_lost_tables;
	const struct sim_bytes *bytes; /* what the guest must read */
	struct ox_check_result found;
};

/* Whether the header that the disk durably has names another L1 or refcount table. */
bool sim_tables_move(const struct sim_case *c);
bool sim_is_due(const struct sim_case *c, const struct sim_cut_plan *plan, uint64_t step);
/* Goes on to the next instant at which something happens. */
void sim_step(struct sim_case *c, unsigned *stuck);
/* Runs the job to its end, or up to the cut. Returns whether it ended. */
bool sim_run_job(struct sim_case *c, struct sim_job *job, const struct sim_cut_plan *plan);
void sim_run_whole_job(struct sim_case *c, struct sim_job *job);
/* Until every task has ended. */
void sim_drain(struct sim_case *c);
void sim_note(struct sim_case *c, const char *what);
/* Whether anything was made to fail that has not been forgotten. */
bool sim_faulted(const struct sim_case *c);
void sim_forget_fault(struct sim_case *c);

void sim_open_job_co(struct sim_job *job);
void sim_close_job_co(struct sim_job *job);
void sim_check_job_co(struct sim_job *job);
/* The engine reads what is on the disk. */
void sim_read_all_job_co(struct sim_job *job);

/* The same, held against what the guest was promised. */
void sim_read_promised_job_co(struct sim_job *job);

/* Whether the mark is set. */
bool sim_is_dirty(const struct sim_bytes *bytes);
/* What the format has to know of a disk. */
void sim_notice(struct sim_case *c, const struct sim_bytes *bytes);
/* What every question of the case to the oracle has in common. */
struct sim_expect sim_expectation(struct sim_case *c);
/* Whether the mark is set. */
bool sim_ask(struct sim_case *c, const struct sim_bytes *bytes, const struct sim_expect *expect);
bool sim_ask_oracle(struct sim_case *c, const struct sim_bytes *bytes, bool exact, bool clean);

typedef void (*sim_settle_fn)(struct sim_model *m, uint64_t sector, const uint8_t *bytes);
void sim_settle_model(struct sim_case *c, const struct sim_bytes *bytes, sim_settle_fn settle);

/* ---- guest.c ---- */

/* Lets the guest work until it has done or up to the cut. Returns whether it has done. */
bool sim_guest_phase(struct sim_case *c, const struct sim_cut_plan *plan);

/* ---- making.c ---- */

/* The disk with the case's image on it, and its backing file. */
void sim_make_image(struct sim_case *c);

/* For the formats: the image, with some content if the guest shall work on it, closed. The bytes
 * are the caller's to change, and end as the disk's; clean: sound, as if closed. */
void sim_begin_edit(struct sim_case *c, struct sim_bytes *ret, bool work);
void sim_end_edit(struct sim_case *c, struct sim_bytes *bytes, bool clean);
/* What the guest sees now. */
void sim_freeze(struct sim_case *c, const struct sim_bytes *bytes, struct sim_frozen *ret);

#endif
