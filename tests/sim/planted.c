/* SPDX-License-Identifier: MIT */
#include "planted.h"

#include "trace.h"

struct sim_planted sim_stale;
struct sim_planted sim_damage;

int sim_planted_find(const struct sim_planted *p, uint64_t at, uint64_t entry)
{
	for (unsigned k = 0; k < p->count; k++)
		if (p->entries[k].at == at && p->entries[k].entry == entry)
			return (int)k;
	return -1;
}

void sim_planted_add(struct sim_planted *p, uint64_t at, uint64_t entry, uint64_t partner_at)
{
	if (p->count == SIM_PLANTED_MOST)
		sim_fail("sim", "too much is planted");
	p->entries[p->count].at = at;
	p->entries[p->count].entry = entry;
	p->entries[p->count].partner_at = partner_at;
	p->count++;
}

void sim_planted_drop(struct sim_planted *p, unsigned number)
{
	p->entries[number] = p->entries[--p->count];
}
