/* SPDX-License-Identifier: MIT */
/*
 * Going through many like things on all cores: tables, refcount blocks. Each worker thread does
 * what it can without waiting for the medium and without changing what others see; what it cannot
 * is left, for a pass of the reactor's.
 */
#ifndef OX_CHECK_CREW_H
#define OX_CHECK_CREW_H

#include <stdbool.h>
#include <stdint.h>

/* Seats that a crew can have. Each may need a bit for every cluster of the file (tables.c). */
#define OX_CREW_SEATS_MAX 6u

struct ox_crew_ops {
	/* On a worker thread; no other one has that seat. 1: done; 0: left; or a negative errno,
	 * which ends it all. */
	int (*try_one)(void *arg, unsigned seat, uint64_t index);
	/* On the reactor's, after so many were done. */
	void (*done)(void *arg, uint64_t count);
};

/* How many seats are worth having for so many things: 0 where one thread is as good. */
unsigned ox_crew_seats(uint64_t count);

/* Tries things [0, count). A bit in *ret_done, which is the caller's to free, for each that is
 * done. Gives up where most are left. 0, -ENOMEM, or what try_one returned. */
int ox_crew_run_co(unsigned seats, uint64_t count, const struct ox_crew_ops *ops, void *arg,
		   uint64_t **ret_done);

/* Of a NULL bitmap: nothing is. */
static inline bool ox_crew_is_done(const uint64_t *done, uint64_t index)
{
	return done && (done[index / 64] >> (index % 64) & 1);
}

#endif
