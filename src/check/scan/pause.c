/* SPDX-License-Identifier: MIT */
#include "check/scan/pause.h"

#include <errno.h>

#include "rt/co.h"
#include "rt/reactor.h"

/* The longest that requests wait for the walk's turn to end, and the pause after it. */
#define WORK_NS UINT64_C(500000)
#define PAUSE_NS UINT64_C(100000)

int ox_pause_co(void *pause)
{
	struct ox_pause *p = pause;

	if (ox_reactor_now_ns(ox_co_reactor()) - p->resumed_ns < WORK_NS) {
		ox_co_yield_co();
	} else {
		ox_reactor_sleep_co(PAUSE_NS);
		p->resumed_ns = ox_reactor_now_ns(ox_co_reactor());
	}
	return p->leaves && *p->leaves ? -ECANCELED : 0;
}
