/* SPDX-License-Identifier: MIT */
/*
 * Entries that other programs' crashes leave, as the simulator plants them into an image that is
 * marked.
 */
#ifndef SIM_PLANTED_H
#define SIM_PLANTED_H

#include <stdbool.h>
#include <stdint.h>

#define SIM_PLANTED_MOST 8u

struct sim_planted {
	unsigned count;
	struct {
		uint64_t at; /* of the entry in the file */
		uint64_t entry;
		uint64_t partner_at; /* of the other entry that names the same; 0: there is none */
	} entries[SIM_PLANTED_MOST];
};

/* They name what never became durable, past the file's end. While the image is marked they say
 * nothing. One for the program, as are the next. */
extern struct sim_planted sim_stale;

/* They name a cluster that another entry names, or no place where a cluster can be. The mark stays
 * as long as one of them is there. What the guest finds under them is not judged (the model calls
 * it wild). */
extern struct sim_planted sim_damage;

/* The number of the one that stands at this place; -1: none does. */
int sim_planted_find(const struct sim_planted *p, uint64_t at, uint64_t entry);
void sim_planted_add(struct sim_planted *p, uint64_t at, uint64_t entry, uint64_t partner_at);
void sim_planted_drop(struct sim_planted *p, unsigned number);

#endif
