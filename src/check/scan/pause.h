/* SPDX-License-Identifier: MIT */
/* The manners of a walk beside a guest. */
#ifndef OX_CHECK_PAUSE_H
#define OX_CHECK_PAUSE_H

#include <stdbool.h>
#include <stdint.h>

/* All-zero: it has not run yet. */
struct ox_pause {
	uint64_t resumed_ns;
	const bool *leaves; /* set: the walk is not waited for any more; NULL: it is */
};

/*
 * To be called every few hundred microseconds, with a struct ox_pause. Requests come in between.
 * Where all is in the page cache nothing ever waits, and the reactor's run would not end: so the
 * walk sleeps now and then, and whoever turns the reactor sees to his clients. -ECANCELED: the walk
 * is to end here.
 */
int ox_pause_co(void *pause);

#endif
