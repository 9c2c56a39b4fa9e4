/* SPDX-License-Identifier: MIT */
/*
 * What a walk counted, held against what the image says: counts, COPIED bits, what is named twice,
 * and compressed data. Nothing is written here but COPIED bits, for a repair that asks for it.
 */
#ifndef OX_CHECK_JUDGE_H
#define OX_CHECK_JUDGE_H

#include "check/drive/keeper.h"
#include "check/walk/walk.h"

/* The guest clusters for which a suspect is named, from the first to the last; unless it is a
 * table.
 */
struct ox_reach {
	uint64_t first; /* UINT64_MAX: none was met */
	uint64_t last;
	uint64_t tree; /* of the first that was met */
};

struct ox_judge {
	struct ox_walk *w;
	bool lacks_entries; /* an earlier walk of the repair took some away; for its leader to set
			     */

	uint64_t leaks;
	uint64_t cut_off; /* clusters that are counted, and that the file had */
	uint64_t too_low;
	uint64_t copied_wrong;	/* against the stored counts */
	uint64_t copied_to_fix; /* against the counted ones */
	uint64_t stored_end;	/* one past the highest cluster with a count or a reference */

	struct ox_clusters suspects; /* ascending once they are explained */
	struct ox_reach *reaches;
	uint64_t most_refs; /* of those that overflow */
};

void ox_judge_close(struct ox_judge *g);
/* Whether nothing at all is wrong. */
bool ox_judge_is_clean(const struct ox_judge *g);

/* ---- compare.c: stored counts against references ---- */

int ox_judge_compare_co(struct ox_judge *g);
/* Tells what differs, COPIED bits among it. */
int ox_judge_report_co(struct ox_judge *g);

/* ---- suspects.c: what is named more than once ---- */

int ox_judge_explain_co(struct ox_judge *g);
/* The finding of a suspect, by its index, that is explained and overflows. False: it does not. */
bool ox_judge_overflow_of(const struct ox_judge *g, uint64_t at, struct ox_found *ret);

/* ---- copied.c ---- */

enum ox_copied {
	OX_COPIED_REPORT,    /* against the stored counts */
	OX_COPIED_FIX,	     /* to the counted ones */
	OX_COPIED_FIX_LEAKS, /* where lowering a leak makes a count one */
};
int ox_judge_copied_co(struct ox_walk *w, enum ox_copied how, const struct ox_keeper *keeper);

/* ---- verify.c ---- */

/* Decompresses every compressed cluster. */
int ox_judge_verify_co(struct ox_walk *w);

#endif
