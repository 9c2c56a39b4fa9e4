/* SPDX-License-Identifier: MIT */
/*
 * Memory that runs out: the program is linked so that the engine's allocations, its tasks' stacks
 * and zlib's state come through here (meson.build names them). They fail as planned while the
 * engine runs; the simulator's own (sim_alloc, sim_buffer) never do.
 */
#ifndef SIM_MEMORY_H
#define SIM_MEMORY_H

#include <stdbool.h>

struct sim_memory {
	unsigned after; /* allocations that still succeed */
	unsigned left;	/* allocations that fail then */
	unsigned hits;
	bool armed; /* the engine runs */
};

/* One for the program, as malloc is. */
extern struct sim_memory sim_memory;

#endif
