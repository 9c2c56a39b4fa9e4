/* SPDX-License-Identifier: MIT */
/* A check of a QED image, from header to verdict: rounds of walking and mending. */
#include "check/qed/qed.h"

#include <string.h>

#include "check/check.h"
#include "check/mend/mend.h"

/* Each one ends with fewer findings than the last: an image needs a few. */
#define MAX_ROUNDS 16u

static void prepare(struct ox_qed *q, const struct ox_check_options *opts)
{
	*q = (struct ox_qed){
		.w = {.j = &q->j, .asked = opts->repair},
		.j =
			{
				.finding = opts->finding,
				.progress = opts->progress,
				.opaque = opts->opaque,
				.why_not = opts->repair == OX_REPAIR_NONE ? NULL : ox_mend_why_not,
				.why_arg = &q->w,
				.dry_run = opts->dry_run,
			},
	};
}

static int look_co(struct ox_qed *q, struct ox_io *io, struct ox_error **err)
{
	int r = ox_qed_open_co(q, io, err);

	if (r < 0)
		return r;
	r = ox_qed_walk_co(q);
	return r < 0 ? ox_check_failed(io, "check", r, err) : 0;
}

static int repair_co(struct ox_io *io, const struct ox_check_options *opts,
		     struct ox_check_result *fixed, struct ox_error **err)
{
	bool again = true;
	int r = 0;

	for (unsigned round = 0; again && r == 0 && round < MAX_ROUNDS; round++) {
		struct ox_qed q;

		prepare(&q, opts);
		q.w.repair = opts->repair;
		q.j.quiet = true;
		again = false;
		/* What a process left in the page cache is durable before it is judged (D9). */
		if (round == 0)
			r = ox_walk_settle_co(&q.w, io, err);
		if (r == 0)
			r = look_co(&q, io, err);
		if (r == 0) {
			r = ox_qed_mend_co(&q, &again);
			if (r < 0)
				ox_check_failed(io, "repair", r, err);
		}
		fixed->corruptions_fixed += q.w.j->totals.corruptions_fixed;
		ox_qed_close(&q);
	}
	return r;
}

/* Clears NEED_CHECK only where nothing is wrong (D6); lost space does no harm. */
static int settle_co(struct ox_qed *q, const struct ox_check_options *opts,
		     struct ox_check_result *ret)
{
	const struct ox_journal_totals *seen = &q->j.totals;
	int r = 0;

	if (!q->w.v.dirty)
		return 0;
	if (opts->repair != OX_REPAIR_NONE && seen->corruptions == 0 && seen->check_errors == 0)
		r = ox_qed_clear_need_check_co(q);
	else
		ox_journal_found(q->w.j, OX_FOUND_QED_NEED_CHECK, OX_FOUND(.a = 0));
	ret->dirty_cleared = r == 0 && !(q->h.features & OX_QED_NEED_CHECK);
	return r;
}

int ox_check_qed_co(struct ox_io *io, const struct ox_check_options *opts,
		    struct ox_check_result *ret, struct ox_error **err)
{
	struct ox_check_result fixed = {0};
	struct ox_qed q;
	bool cleared;
	int r = 0;

	if (opts->repair == OX_REPAIR_ALL)
		r = repair_co(io, opts, &fixed, err);
	if (r < 0)
		return r;
	prepare(&q, opts);
	r = look_co(&q, io, err);
	if (r == 0) {
		r = settle_co(&q, opts, &fixed);
		if (r < 0)
			ox_check_failed(io, "mark clean", r, err);
	}
	cleared = fixed.dirty_cleared;
	if (r == 0) {
		*ret = q.w.result;
		ox_journal_sum_up(&q.j, ret);
		ret->corruptions_fixed += fixed.corruptions_fixed;
		ret->dirty_cleared = cleared;
		strcpy(ret->format, "qed");
	}
	ox_qed_close(&q);
	return r;
}
