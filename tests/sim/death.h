/* SPDX-License-Identifier: MIT */
/*
 * The death of a process whose host lives. Its state goes to the next one (D10), its requests land
 * at any moment until that one may begin, and amid what it died is counted.
 */
#ifndef SIM_DEATH_H
#define SIM_DEATH_H

#include <stdint.h>

struct sim_case;
struct sim_totals;

/* What a process with a state dies amid; one death may be of several kinds. */
enum sim_death {
	SIM_DEATH_ADOPTION, /* of what another one had left */
	SIM_DEATH_OPENING,  /* with nothing to adopt */
	SIM_DEATH_RECOVERY, /* beside the guest */
	SIM_DEATH_RESIZE,
	SIM_DEATH_TABLE_MOVE, /* the header names another table, and is not synced yet */
	SIM_DEATH_SETTING,    /* the dirty bit */
	SIM_DEATH_CLEARING,
	SIM_DEATH_FULL_DISK, /* which has refused something */
	SIM_DEATH_CLOSE,
	SIM_DEATH_RINGS,       /* requests in the guest's rings, which the next process answers */
	SIM_DEATH_LANDING,     /* requests landed after it */
	SIM_DEATH_ERROR_TAKEN, /* that of a sync */
	SIM_DEATH_AFTER_CUT,   /* it follows on a power cut */
	SIM_DEATH_BEFORE_CUT,  /* a power cut follows, before anything was closed */
	SIM_DEATHS,
};

void sim_death_print(const struct sim_totals *t);
/* The first kind that did not occur; NULL: each did. */
const char *sim_death_missing(const struct sim_totals *t);

/* Nothing outlives a power cut but the disk. */
void sim_void_state(struct sim_case *c);
/* Ends every task on the dead disk, and the image with them. */
void sim_end_tasks(struct sim_case *c);
/* The guest is gone, with all that it had in flight. */
void sim_give_up_guest(struct sim_case *c);
/* The process dies, and the next one may begin. */
void sim_kill_process(struct sim_case *c);

#endif
