/* SPDX-License-Identifier: MIT */
/* The simulator's own dice, apart from the reactor's, so that each can be replayed. */
#ifndef SIM_RANDOM_H
#define SIM_RANDOM_H

#include <stdbool.h>
#include <stdint.h>

struct sim_random {
	uint64_t state;
};

/* splitmix64: every state, zero too, is a good one. */
static inline uint64_t sim_random_next(struct sim_random *r)
{
	uint64_t z = r->state += 0x9e3779b97f4a7c15;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

/* In [0, n). */
static inline uint64_t sim_random_below(struct sim_random *r, uint64_t n)
{
	return n == 0 ? 0 : sim_random_next(r) % n;
}

/* In [low, high]. */
static inline uint64_t sim_random_between(struct sim_random *r, uint64_t low, uint64_t high)
{
	return low + sim_random_below(r, high - low + 1);
}

static inline bool sim_random_percent(struct sim_random *r, unsigned percent)
{
	return sim_random_below(r, 100) < percent;
}

#endif
