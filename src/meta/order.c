/* SPDX-License-Identifier: MIT */
#include "meta/order.h"

#include "base/assert.h"

void ox_order_init(struct ox_order *o, struct ox_io *io, bool skip_syncs)
{
	*o = (struct ox_order){.io = io, .skip_syncs = skip_syncs};
	ox_waitq_init(&o->waiters);
}

/* Carries out the next sync for everybody who waits. */
static void lead_sync_co(struct ox_order *o)
{
	uint64_t number;
	int r;

	o->running = true;
	/* Tasks whose writes completed in this turn still run before the sync is submitted, and
	 * find their tickets covered by it. */
	ox_co_yield_co();
	number = ++o->started;
	r = o->skip_syncs && o->forced == 0 ? 0 : ox_io_sync_co(o->io);
	o->running = false;
	if (r < 0)
		ox_order_poison(o, r); /* M3 */
	else
		o->done = number;
	ox_waitq_wake_all(&o->waiters);
}

void ox_order_poison(struct ox_order *o, int error)
{
	ox_assert(error < 0);
	if (o->error == 0)
		o->error = error;
	if (o->state)
		ox_state_set_poison(o->state, error);
}

int ox_order_wait_co(struct ox_order *o, uint64_t ticket)
{
	ox_assert(ticket <= o->started + 1);
	while (!ox_order_reached(o, ticket)) {
		if (o->error)
			return o->error;
		if (o->running)
			ox_waitq_wait_co(&o->waiters);
		else
			lead_sync_co(o);
	}
	return o->error;
}

int ox_order_sync_always_co(struct ox_order *o)
{
	int r;

	o->forced++;
	r = ox_order_wait_co(o, ox_order_ticket(o));
	o->forced--;
	return r;
}
