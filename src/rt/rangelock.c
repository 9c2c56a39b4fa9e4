/* SPDX-License-Identifier: MIT */
/*
 * One list of ranges in order of arrival, held and waiting alike. A range is held once no earlier
 * one conflicts with it, which is both mutual exclusion and fairness. Requests in flight are some
 * dozens, so a scan beats a tree.
 */
#include "base/assert.h"
#include "rt/sync.h"

void ox_rangelock_init(struct ox_rangelock *l)
{
	*l = (struct ox_rangelock){0};
	ox_list_init(&l->ranges);
}

static bool overlap(const struct ox_range *a, const struct ox_range *b)
{
	return a->start < b->end && b->start < a->end;
}

/* Whether range conflicts with one of those before end. */
static bool is_blocked(const struct ox_rangelock *l, const struct ox_range *range,
		       const struct ox_list *end)
{
	const struct ox_list *it;

	if (!range->exclusive && l->exclusive == 0)
		return false;
	for (it = l->ranges.next; it != end; it = it->next) {
		const struct ox_range *earlier = ox_list_entry(it, struct ox_range, link);

		if ((earlier->exclusive || range->exclusive) && overlap(earlier, range))
			return true;
	}
	return false;
}

static struct ox_range range_make(uint64_t start, uint64_t len, bool exclusive)
{
	struct ox_range range = {.start = start, .exclusive = exclusive};

	ox_assert(len > 0);
	if (!ox_add_u64(start, len, &range.end))
		range.end = UINT64_MAX;
	return range;
}

void ox_rangelock_acquire_co(struct ox_rangelock *l, struct ox_range *range, uint64_t start,
			     uint64_t len, bool exclusive)
{
	*range = range_make(start, len, exclusive);
	range->held = !is_blocked(l, range, &l->ranges);
	range->waiter = ox_co_self();
	ox_list_push_back(&l->ranges, &range->link);
	l->exclusive += exclusive;
	l->waiting += !range->held;
	while (!range->held)
		ox_co_suspend_co();
}

bool ox_rangelock_try_acquire(struct ox_rangelock *l, struct ox_range *range, uint64_t start,
			      uint64_t len, bool exclusive)
{
	struct ox_range want = range_make(start, len, exclusive);

	if (is_blocked(l, &want, &l->ranges))
		return false;
	*range = want;
	range->held = true;
	ox_list_push_back(&l->ranges, &range->link);
	l->exclusive += exclusive;
	return true;
}

/* Looks again at those that freed may have been in the way of: later ones that wait. */
static void grant(struct ox_rangelock *l, const struct ox_range *freed, struct ox_list *from)
{
	struct ox_list *it;

	for (it = from; l->waiting > 0 && it != &l->ranges; it = it->next) {
		struct ox_range *range = ox_list_entry(it, struct ox_range, link);

		if (range->held || !overlap(range, freed) || is_blocked(l, range, it))
			continue;
		range->held = true;
		l->waiting--;
		ox_co_wake(range->waiter);
	}
}

void ox_rangelock_release(struct ox_rangelock *l, struct ox_range *range)
{
	struct ox_list *next = range->link.next;

	ox_assert(range->held);
	range->held = false;
	ox_list_del(&range->link);
	l->exclusive -= range->exclusive;
	grant(l, range, next);
}

void ox_rangelock_downgrade(struct ox_rangelock *l, struct ox_range *range)
{
	ox_assert(range->held && range->exclusive);
	range->exclusive = false;
	l->exclusive--;
	grant(l, range, range->link.next);
}

bool ox_rangelock_idle(const struct ox_rangelock *l)
{
	return ox_list_empty(&l->ranges);
}
