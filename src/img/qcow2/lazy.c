/* SPDX-License-Identifier: MIT */
/*
 * The dirty bit as a small machine (H6):
 *
 *   CLEAN --ox_lazy_mark_co--> SETTING --durable--> DIRTY
 *     ^                                               |
 *     +------durable------ CLEARING <--ox_lazy_clear_co+
 *
 * D5: an allocation passes ox_lazy_mark_co first and goes on only in DIRTY. D6: whoever calls
 * ox_lazy_clear_co has made every refcount durable. An allocation that arrives in CLEARING waits
 * and sets the bit again. A failure leaves the state that was before; the disk may have either bit,
 * so that it is written anew by whoever needs it in one state.
 */
#include "img/qcow2/qcow2.h"

void ox_lazy_init(struct ox_qcow2 *q)
{
	q->lazy = (struct ox_lazy){.state = OX_LAZY_CLEAN};
	ox_waitq_init(&q->lazy.changed);
}

static int set_bit_co(struct ox_qcow2 *q, bool on)
{
	struct ox_qcow2_header fields;
	int r;

	ox_header_lock_co(q);
	fields = *ox_qcow2_hdr(q);
	fields.incompatible &= ~(uint64_t)OX_QCOW2_INCOMPAT_DIRTY;
	if (on)
		fields.incompatible |= OX_QCOW2_INCOMPAT_DIRTY;
	r = ox_header_write_co(q, &fields);
	ox_header_unlock(q);
	return r;
}

static int change_co(struct ox_qcow2 *q, enum ox_lazy_state via, enum ox_lazy_state to,
		     enum ox_lazy_state after_failure)
{
	int r;

	q->lazy.state = via;
	r = set_bit_co(q, to == OX_LAZY_DIRTY);
	q->lazy.state = r < 0 ? after_failure : to;
	q->lazy.unsure = r < 0;
	ox_waitq_wake_all(&q->lazy.changed);
	return r;
}

int ox_lazy_mark_co(struct ox_qcow2 *q)
{
	while (q->lazy.state == OX_LAZY_SETTING || q->lazy.state == OX_LAZY_CLEARING)
		ox_waitq_wait_co(&q->lazy.changed);
	if (q->lazy.state == OX_LAZY_DIRTY && !q->lazy.unsure)
		return 0;
	return change_co(q, OX_LAZY_SETTING, OX_LAZY_DIRTY, OX_LAZY_CLEAN);
}

int ox_lazy_clear_co(struct ox_qcow2 *q)
{
	ox_assert(q->lazy.state == OX_LAZY_CLEAN || q->lazy.state == OX_LAZY_DIRTY);
	if (q->lazy.state == OX_LAZY_CLEAN && !q->lazy.unsure)
		return 0;
	ox_assert(!ox_cache_is_busy(&q->counts)); /* D6: nobody changes them meanwhile */
	return change_co(q, OX_LAZY_CLEARING, OX_LAZY_CLEAN, OX_LAZY_DIRTY);
}
