/* SPDX-License-Identifier: MIT */
/* One round of a check or a repair of a qcow2 image: a walk, what is judged of it, its repairs. */
#ifndef OX_CHECK_ROUND_H
#define OX_CHECK_ROUND_H

#include "check/mend/mend.h"

struct ox_round {
	struct ox_journal j;
	struct ox_walk w;
	struct ox_judge g;
	struct ox_mend m;
};

/* Of an all-zero round, but for a journal that is set up. keeper: or NULL. */
void ox_round_begin(struct ox_round *r, enum ox_repair repair, uint64_t lost,
		    struct ox_keeper *keeper);
void ox_round_end(struct ox_round *r);
/* Counts, compares and explains, once the walk is open. */
int ox_round_look_co(struct ox_round *r);

#endif
