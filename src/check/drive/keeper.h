/* SPDX-License-Identifier: MIT */
/*
 * Who knows of L2 tables that nothing names: asked before a count is lowered, or what may tell
 * where such a table belongs is taken away. NULL knows of none.
 */
#ifndef OX_CHECK_KEEPER_H
#define OX_CHECK_KEEPER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct ox_keeper {
	/* Whether a cluster belongs to such a table, as far as that can be read. */
	bool (*keeps)(const struct ox_keeper *keeper, uint64_t cluster);
	/* Whether it may belong to one, so that its count is not lowered; */
	bool (*keeps_count)(const struct ox_keeper *keeper, uint64_t cluster);
	/* and then why it is not. */
	const char *(*why_kept)(const struct ox_keeper *keeper);
	/* The lowest cluster at or after from, below end, that is kept; end if there is none. */
	uint64_t (*next_kept)(const struct ox_keeper *keeper, uint64_t from, uint64_t end);
	/* Whether one may be what an L1 entry named: then nothing is taken away that tells so. */
	bool (*awaits)(const struct ox_keeper *keeper, uint64_t tree, uint64_t index);
	/* Whether one may belong where L1 names something else's clusters: that is not copied. */
	bool (*awaits_alias)(const struct ox_keeper *keeper);
	/* Links those that have no choice. *ret_again: the walk is to start anew. */
	int (*link_co)(struct ox_keeper *keeper, bool *ret_again, struct ox_error **err);
	/* Finds out, once a walk, what is to be kept of what leaked. */
	int (*look_co)(struct ox_keeper *keeper);
	/* An L1 entry was taken away: what it named may be such a table, so none is the only one.
	 */
	void (*note_dropped)(struct ox_keeper *keeper);
};

static inline bool ox_keeper_keeps(const struct ox_keeper *keeper, uint64_t cluster)
{
	return keeper && keeper->keeps(keeper, cluster);
}

static inline bool ox_keeper_keeps_count(const struct ox_keeper *keeper, uint64_t cluster)
{
	return keeper && keeper->keeps_count(keeper, cluster);
}

static inline uint64_t ox_keeper_next_kept(const struct ox_keeper *keeper, uint64_t from,
					   uint64_t end)
{
	return keeper ? keeper->next_kept(keeper, from, end) : end;
}

static inline bool ox_keeper_awaits(const struct ox_keeper *keeper, uint64_t tree, uint64_t index)
{
	return keeper && keeper->awaits(keeper, tree, index);
}

static inline bool ox_keeper_awaits_alias(const struct ox_keeper *keeper)
{
	return keeper && keeper->awaits_alias(keeper);
}

static inline void ox_keeper_note_dropped(struct ox_keeper *keeper)
{
	if (keeper)
		keeper->note_dropped(keeper);
}

#endif
