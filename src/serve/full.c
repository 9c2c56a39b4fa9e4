/* SPDX-License-Identifier: MIT */
#include "serve/full.h"

#include <assert.h>

static void enqueue(struct ox_full *full, struct ox_full_waiter *waiter)
{
	waiter->state = OX_FULL_WAITS;
	waiter->next = NULL;
	if (full->first)
		full->last->next = waiter;
	else
		full->first = waiter;
	full->last = waiter;
	full->waiting++;
}

static struct ox_full_waiter *dequeue(struct ox_full *full)
{
	struct ox_full_waiter *waiter = full->first;

	full->first = waiter->next;
	full->waiting--;
	return waiter;
}

static void tell(struct ox_full *full, enum ox_full_news news)
{
	if (full->tell)
		full->tell(full->opaque, news);
}

static void settle(struct ox_full *full)
{
	if (full->since_ms == 0 || full->waiting > 0 || full->tried > 0)
		return;
	full->since_ms = 0;
	tell(full, full->any_was_done ? OX_FULL_ROOM : OX_FULL_ENDS);
}

static void begin(struct ox_full *full, int64_t now_ms)
{
	full->since_ms = now_ms;
	full->any_was_done = false;
	full->all = false;
	full->retry_ms = now_ms + OX_FULL_RETRY_MS;
	tell(full, OX_FULL_BEGINS);
}

bool ox_full_completed(struct ox_full *full, struct ox_full_waiter *waiter, void *owner, int result,
		       bool may_wait, int64_t now_ms)
{
	const bool was_tried = waiter->state == OX_FULL_TRIED;

	assert(waiter->state != OX_FULL_WAITS && now_ms > 0);
	if (was_tried) {
		full->tried--;
		waiter->state = OX_FULL_ANSWERED;
	}
	if (ox_full_is_full(result) && full->pauses && may_wait) {
		if (was_tried && !full->all)
			full->retry_ms = now_ms + OX_FULL_RETRY_MS;
		waiter->owner = owner;
		enqueue(full, waiter);
		if (full->since_ms == 0)
			begin(full, now_ms);
		return true;
	}
	if (was_tried && !ox_full_is_full(result)) {
		full->any_was_done = full->any_was_done || result == 0;
		ox_full_resume(full);
	}
	settle(full);
	return false;
}

void ox_full_forget(struct ox_full *full, struct ox_full_waiter *waiter)
{
	if (waiter->state == OX_FULL_ANSWERED)
		return;
	/* Those that wait are given up. */
	assert(waiter->state == OX_FULL_TRIED);
	full->tried--;
	waiter->state = OX_FULL_ANSWERED;
	settle(full);
}

void ox_full_give_up(struct ox_full *full, const void *owner,
		     void (*end)(struct ox_full_waiter *waiter))
{
	struct ox_full_waiter *left = full->first;

	full->first = full->last = NULL;
	full->waiting = 0;
	while (left) {
		struct ox_full_waiter *waiter = left;

		left = left->next;
		if (waiter->owner == owner) {
			waiter->state = OX_FULL_ANSWERED;
			end(waiter);
		} else {
			enqueue(full, waiter);
		}
	}
	settle(full);
}

void ox_full_try(struct ox_full *full, int64_t now_ms)
{
	size_t count = full->all ? full->waiting : 1;

	/* A round at a time: one that finds room for any is followed by the next at once. */
	if (!full->first || full->tried > 0 || now_ms < full->retry_ms)
		return;
	full->all = false;
	full->retry_ms = now_ms + OX_FULL_RETRY_MS;
	/* Whoever is tried may be answered at once. */
	for (; count > 0 && full->first; count--) {
		struct ox_full_waiter *waiter = dequeue(full);

		waiter->state = OX_FULL_TRIED;
		full->tried++;
		waiter->retry(waiter);
	}
}

int64_t ox_full_due_ms(const struct ox_full *full)
{
	return full->first && full->tried == 0 ? full->retry_ms : INT64_MAX;
}

void ox_full_resume(struct ox_full *full)
{
	full->all = true;
	full->retry_ms = 0;
}
