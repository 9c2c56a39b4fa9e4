/* SPDX-License-Identifier: MIT */
/*
 * The dirty bit as a small machine (H6):
 *
 *   CLEAN --ox_dirty_set_co--> SETTING --durable--> SET
 *     ^                                              |
 *     +------durable------ CLEARING <--ox_dirty_clear_co
 *
 * D5: an allocation passes ox_dirty_set_co first and goes on only in SET. D6: whoever calls
 * ox_dirty_clear_co has made durable all that the bit covers. An allocation that arrives in
 * CLEARING waits and sets the bit again. A failure leaves the state that was before; the disk may
 * have either bit, so that it is written anew by whoever needs it in one state.
 */
#include "img/mapped/mapped.h"

void ox_dirty_init(struct ox_mapped *m)
{
	m->dirty = (struct ox_dirty){.state = OX_DIRTY_CLEAN};
	ox_waitq_init(&m->dirty.changed);
}

static int change_co(struct ox_mapped *m, enum ox_dirty_state via, enum ox_dirty_state to,
		     enum ox_dirty_state after_failure)
{
	int r;

	m->dirty.state = via;
	r = m->ops->write_dirty_co(m, to == OX_DIRTY_SET);
	m->dirty.state = r < 0 ? after_failure : to;
	m->dirty.unsure = r < 0;
	ox_waitq_wake_all(&m->dirty.changed);
	return r;
}

int ox_dirty_set_co(struct ox_mapped *m)
{
	while (m->dirty.state == OX_DIRTY_SETTING || m->dirty.state == OX_DIRTY_CLEARING)
		ox_waitq_wait_co(&m->dirty.changed);
	if (m->dirty.state == OX_DIRTY_SET && !m->dirty.unsure)
		return 0;
	return change_co(m, OX_DIRTY_SETTING, OX_DIRTY_SET, OX_DIRTY_CLEAN);
}

int ox_dirty_clear_co(struct ox_mapped *m)
{
	ox_assert(m->dirty.state == OX_DIRTY_CLEAN || m->dirty.state == OX_DIRTY_SET);
	if (m->dirty.state == OX_DIRTY_CLEAN && !m->dirty.unsure)
		return 0;
	return change_co(m, OX_DIRTY_CLEARING, OX_DIRTY_CLEAN, OX_DIRTY_SET);
}
