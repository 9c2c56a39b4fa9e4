/* SPDX-License-Identifier: MIT */
/*
 * The engine of a simulated run: no kernel, no threads, no clock. Time stands still while a task is
 * ready and then jumps to the first deadline, so that everything that takes time is a sleep. Work
 * is done on the spot. The same seed gives the same run, task switches included.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/assert.h"
#include "rt/internal.h"

static int simulated_create(struct ox_reactor *r)
{
	r->simulated = true;
	return 0;
}

static void simulated_destroy(struct ox_reactor *r)
{
	(void)r;
}

/* Bytes are the simulated store's matter, and it sleeps; what comes here is work. */
static void simulated_start(struct ox_reactor *r, struct ox_aio *aio)
{
	ox_assert(aio->kind == OX_AIO_WORK);
	ox_aio_execute(aio);
	r->requests--;
	aio->done = true;
}

static int simulated_turn(struct ox_reactor *r, bool wait)
{
	if (wait && r->armed_ns != OX_NO_DEADLINE && r->armed_ns > r->simulated_ns)
		r->simulated_ns = r->armed_ns;
	if (r->armed_ns <= r->simulated_ns)
		r->armed_ns = OX_NO_DEADLINE;
	return 0;
}

static int simulated_arm_timer(struct ox_reactor *r, uint64_t deadline_ns)
{
	r->armed_ns = deadline_ns;
	return 0;
}

static void simulated_enter(struct ox_reactor *r)
{
	(void)r;
}

static bool simulated_leave(struct ox_reactor *r)
{
	(void)r;
	return false;
}

static void simulated_kick(struct ox_reactor *r)
{
	(void)r;
}

static int simulated_fd(const struct ox_reactor *r)
{
	(void)r;
	return -1;
}

const struct ox_engine_ops ox_simulated_ops = {
	.kind = OX_ENGINE_DEFAULT,
	.create = simulated_create,
	.destroy = simulated_destroy,
	.start = simulated_start,
	.turn = simulated_turn,
	.arm_timer = simulated_arm_timer,
	.enter = simulated_enter,
	.leave = simulated_leave,
	.kick = simulated_kick,
	.fd = simulated_fd,
};
