/* SPDX-License-Identifier: MIT */
#include "serve/nbd/budget.h"

#include <assert.h>

size_t ox_nbd_budget_min_bytes(unsigned connections)
{
	return NBD_COMMON_MIN_BYTES + connections * NBD_SHARE_MIN_BYTES;
}

void ox_nbd_budget_init(struct ox_nbd_budget *budget, size_t limit_bytes, unsigned connections)
{
	size_t common_bytes = limit_bytes / 32 * 15;

	assert(connections > 0 && limit_bytes >= ox_nbd_budget_min_bytes(connections));
	if (common_bytes < NBD_COMMON_MIN_BYTES)
		common_bytes = NBD_COMMON_MIN_BYTES;
	*budget = (struct ox_nbd_budget){
		.limit_bytes = limit_bytes,
		.common_bytes = common_bytes,
		.share_bytes = (limit_bytes - common_bytes) / connections,
	};
}

static size_t beyond(const struct ox_nbd_budget *budget, size_t held_bytes)
{
	return held_bytes > budget->share_bytes ? held_bytes - budget->share_bytes : 0;
}

size_t ox_nbd_budget_beyond(const struct ox_nbd_budget *budget, const struct ox_nbd_share *share)
{
	return beyond(budget, share->held_bytes);
}

/* What of bytes the common part would have to give. */
static size_t need_of(const struct ox_nbd_budget *budget, const struct ox_nbd_share *share,
		      size_t bytes)
{
	return beyond(budget, share->held_bytes + bytes) - beyond(budget, share->held_bytes);
}

static bool fits(const struct ox_nbd_budget *budget, const struct ox_nbd_share *share,
		 size_t need_bytes)
{
	const size_t spared_bytes =
		ox_nbd_budget_beyond(budget, share) > 0 ? NBD_COMMON_SPARED_BYTES : 0;

	return need_bytes + spared_bytes <= budget->common_bytes - budget->common_used_bytes;
}

static bool ranks_before(const struct ox_nbd_budget *budget, const struct ox_nbd_share *a,
			 const struct ox_nbd_share *b)
{
	const size_t beyond_a = ox_nbd_budget_beyond(budget, a);
	const size_t beyond_b = ox_nbd_budget_beyond(budget, b);

	return beyond_a != beyond_b ? beyond_a < beyond_b : a->ticket < b->ticket;
}

static bool is_first(const struct ox_nbd_budget *budget, const struct ox_nbd_share *share)
{
	for (const struct ox_nbd_share *other = budget->waiting; other; other = other->next_waiting)
		if (other != share && ranks_before(budget, other, share))
			return false;
	return true;
}

bool ox_nbd_budget_take(struct ox_nbd_budget *budget, struct ox_nbd_share *share, size_t bytes)
{
	const size_t need_bytes = need_of(budget, share, bytes);

	assert(bytes > 0);
	if (share->wanted_bytes == 0)
		share->ticket = budget->next_ticket;
	if (need_bytes == 0 || (fits(budget, share, need_bytes) && is_first(budget, share))) {
		ox_nbd_budget_leave(budget, share);
		share->held_bytes += bytes;
		budget->used_bytes += bytes;
		budget->common_used_bytes += need_bytes;
		assert(budget->used_bytes <= budget->limit_bytes);
		return true;
	}
	if (share->wanted_bytes == 0) {
		budget->next_ticket++;
		share->next_waiting = budget->waiting;
		budget->waiting = share;
	}
	share->wanted_bytes = bytes;
	return false;
}

void ox_nbd_budget_give(struct ox_nbd_budget *budget, struct ox_nbd_share *share, size_t bytes)
{
	const size_t before_bytes = ox_nbd_budget_beyond(budget, share);

	assert(bytes <= share->held_bytes);
	share->held_bytes -= bytes;
	budget->used_bytes -= bytes;
	budget->common_used_bytes -= before_bytes - ox_nbd_budget_beyond(budget, share);
	budget->eased = true;
}

void ox_nbd_budget_leave(struct ox_nbd_budget *budget, struct ox_nbd_share *share)
{
	struct ox_nbd_share **link = &budget->waiting;

	if (share->wanted_bytes == 0)
		return;
	while (*link != share)
		link = &(*link)->next_waiting;
	*link = share->next_waiting;
	share->next_waiting = NULL;
	share->wanted_bytes = 0;
	budget->eased = true; /* for those that ranked behind it */
}

struct ox_nbd_share *ox_nbd_budget_next(struct ox_nbd_budget *budget)
{
	struct ox_nbd_share *first = NULL;

	if (!budget->eased)
		return NULL;
	for (struct ox_nbd_share *share = budget->waiting; share; share = share->next_waiting) {
		if (need_of(budget, share, share->wanted_bytes) == 0)
			return share;
		if (!first || ranks_before(budget, share, first))
			first = share;
	}
	if (first && fits(budget, first, need_of(budget, first, first->wanted_bytes)))
		return first;
	budget->eased = false;
	return NULL;
}

bool ox_nbd_budget_others_wait(const struct ox_nbd_budget *budget, const struct ox_nbd_share *share)
{
	const struct ox_nbd_share *waiting = budget->waiting;

	return waiting && (waiting != share || waiting->next_waiting);
}
