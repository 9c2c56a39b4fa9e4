/* SPDX-License-Identifier: MIT */
/*
 * The first change of an opening: the header is told of it, durably, before anything else (H9). A
 * process that adopts finds it told where the dead one had done that; else what the header says may
 * be what the dead one wrote last, and is waited for like anything that it has not synced (H1).
 */
#include "img/mapped/mapped.h"

int ox_prepare_begin_co(struct ox_mapped *m)
{
	int r = ox_mapped_check_change(m);

	if (r < 0 || m->prepared)
		return r;
	return ox_order_wait_co(&m->order, m->header_durable_at);
}

void ox_prepare_end(struct ox_mapped *m)
{
	m->prepared = true;
	if (m->state)
		ox_state_set_prepared(m->state, true);
}

void ox_prepare_adopt(struct ox_mapped *m, uint64_t opening)
{
	m->prepared = ox_state_is_prepared(m->state);
	m->header_durable_at = opening;
}

void ox_prepare_forget(struct ox_mapped *m)
{
	m->prepared = false;
	m->header_durable_at = OX_TICKET_NONE;
	if (m->state)
		ox_state_set_prepared(m->state, false);
}
