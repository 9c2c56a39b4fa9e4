/* SPDX-License-Identifier: MIT */
/*
 * One case: an image lives through generations. Each opens it (recovering it where it is dirty),
 * lets the guest work, and ends with a power cut, a killed process, or a close; cuts also strike in
 * the midst of opening, recovery, repair and closing. After each the oracle looks at the disk.
 */
#ifndef SIM_CASE_H
#define SIM_CASE_H

#include <stdbool.h>
#include <stdint.h>

#include "death.h"

struct sim_rings_totals {
	uint64_t cases;
	uint64_t requests;  /* that were answered */
	uint64_t recovered; /* of them, those that a dead process had taken */
};

struct sim_totals {
	uint64_t cases;
	uint64_t cuts;
	uint64_t cuts_opening; /* of them, those during opening, recovery or repair */
	uint64_t cuts_closing;
	uint64_t glances; /* at what a cut would have left */
	uint64_t kills;
	uint64_t deaths[SIM_DEATHS];
	uint64_t adoptions; /* of them: the next process had the state, and recovered nothing */
	uint64_t closes;
	uint64_t recoveries;
	uint64_t faults;
	uint64_t memory_faults;
	uint64_t requests;
	struct sim_rings_totals rings;
	uint64_t checked; /* images that qemu-img looked at */
};

struct sim_run {
	int verbose;
	bool all_rings;	      /* every guest's disk is one over vhost-user, not just some */
	const char *qemu_dir; /* a folder for images to be checked by qemu-img; NULL: none */
	unsigned qemu_every;  /* one of so many surviving images */
	struct sim_totals totals;
};

struct sim_format;

void sim_case_run(struct sim_run *run, const struct sim_format *format, uint64_t seed);

#endif
