/* SPDX-License-Identifier: MIT */
#include "rt/sync.h"

#include "base/assert.h"
#include "rt/internal.h"

/* On the waiting task's stack. */
struct waiter {
	struct ox_list link;
	struct ox_co *co;
	bool woken;
};

void ox_waitq_init(struct ox_waitq *q)
{
	ox_list_init(&q->waiters);
}

void ox_waitq_wait_co(struct ox_waitq *q)
{
	struct waiter waiter = {.co = ox_co_self()};

	ox_assert(waiter.co);
	ox_list_push_back(&q->waiters, &waiter.link);
	while (!waiter.woken)
		ox_co_suspend_co();
}

void ox_waitq_wake_one(struct ox_waitq *q)
{
	struct waiter *waiter;

	if (ox_list_empty(&q->waiters))
		return;
	waiter = ox_list_first(&q->waiters, struct waiter, link);
	ox_list_del(&waiter->link);
	waiter->woken = true;
	ox_co_wake(waiter->co);
}

void ox_waitq_wake_all(struct ox_waitq *q)
{
	while (!ox_list_empty(&q->waiters))
		ox_waitq_wake_one(q);
}

void ox_mutex_init(struct ox_mutex *m)
{
	m->owner = NULL;
	ox_waitq_init(&m->q);
}

void ox_mutex_lock_co(struct ox_mutex *m)
{
	struct ox_co *self = ox_co_self();

	ox_assert(self && m->owner != self);
	if (!m->owner) {
		m->owner = self;
		self->mutexes_held++;
		return;
	}
	/* the unlocker makes the first waiter the owner, so that nobody slips in between */
	ox_waitq_wait_co(&m->q);
	ox_assert(m->owner == self);
}

void ox_mutex_unlock(struct ox_mutex *m)
{
	struct ox_co *self = ox_co_self();

	ox_assert(self && m->owner == self);
	self->mutexes_held--;
	m->owner = NULL;
	if (ox_list_empty(&m->q.waiters))
		return;
	m->owner = ox_list_first(&m->q.waiters, struct waiter, link)->co;
	m->owner->mutexes_held++;
	ox_waitq_wake_one(&m->q);
}

void ox_latch_init(struct ox_latch *l)
{
	l->count = 0;
	ox_waitq_init(&l->q);
}

void ox_latch_add(struct ox_latch *l)
{
	l->count++;
	ox_assert(l->count != 0);
}

void ox_latch_done(struct ox_latch *l)
{
	ox_assert(l->count > 0);
	l->count--;
	if (l->count == 0)
		ox_waitq_wake_all(&l->q);
}

void ox_latch_wait_co(struct ox_latch *l)
{
	while (l->count > 0)
		ox_waitq_wait_co(&l->q);
}
