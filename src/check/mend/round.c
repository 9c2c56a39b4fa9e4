/* SPDX-License-Identifier: MIT */
#include "check/mend/round.h"

#include <errno.h>

#include "base/arith.h"

void ox_round_begin(struct ox_round *r, enum ox_repair repair, uint64_t lost,
		    struct ox_keeper *keeper)
{
	r->w.j = &r->j;
	r->g.w = &r->w;
	r->g.lacks_entries = lost > 0;
	r->m = (struct ox_mend){
		.w = &r->w,
		.g = &r->g,
		.keeper = keeper,
		.repair = repair,
		.lost = lost,
	};
}

void ox_round_end(struct ox_round *r)
{
	ox_mend_close(&r->m);
	ox_judge_close(&r->g);
	ox_walk_close(&r->w);
	ox_journal_end(&r->j);
}

int ox_round_look_co(struct ox_round *round)
{
	int r = ox_walk_count_co(&round->w);

	if (r == 0)
		r = ox_judge_compare_co(&round->g);
	return r == 0 ? ox_judge_explain_co(&round->g) : r;
}
