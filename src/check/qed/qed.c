/* SPDX-License-Identifier: MIT */
/* A check of a QED image, from header to verdict: rounds of walking and mending. */
#include "check/qed/qed.h"

#include "check/check.h"

struct check {
	const struct ox_check_options *opts;
	uint64_t corruptions_fixed; /* by all rounds */
	uint64_t guessed;	    /* likewise */
};

static void begin(const struct check *c, struct ox_qed *q)
{
	*q = (struct ox_qed){.why = {.asked = c->opts->repair, .j = &q->j}};
	ox_drive_journal(&q->j, c->opts, &q->why);
}

static int look_co(struct ox_qed *q, struct ox_io *io, struct ox_error **err)
{
	int r = ox_qed_open_co(q, io, UINT64_MAX, err);

	if (r < 0)
		return r;
	r = ox_qed_walk_co(q);
	return r < 0 ? ox_drive_failed(io, "check", r, err) : 0;
}

static int repair_round_co(void *arg, struct ox_io *io, unsigned number, bool *ret_again,
			   struct ox_error **err)
{
	struct check *c = arg;
	struct ox_qed q;
	int r;

	(void)number;
	begin(c, &q);
	q.j.quiet = true;
	r = look_co(&q, io, err);
	if (r == 0) {
		r = ox_qed_mend_co(&q, ret_again);
		if (r < 0)
			ox_drive_failed(io, "repair", r, err);
	}
	c->corruptions_fixed += q.j.totals.corruptions_fixed;
	c->guessed += q.guessed;
	ox_qed_close(&q);
	return r;
}

/* Clears NEED_CHECK only where nothing is wrong (D6); lost space does no harm. */
static int settle_co(struct ox_qed *q, enum ox_repair repair, bool *ret_cleared)
{
	const struct ox_journal_totals *seen = &q->j.totals;
	int r = 0;

	if (!q->dirty)
		return 0;
	if (repair != OX_REPAIR_NONE && seen->corruptions == 0 && seen->check_errors == 0)
		r = ox_qed_clear_need_check_co(q);
	else
		ox_journal_found(&q->j, OX_FOUND_QED_NEED_CHECK, OX_FOUND(.a = 0));
	*ret_cleared = r == 0 && !(q->h.features & OX_QED_NEED_CHECK);
	return r;
}

static int judge_co(const struct check *c, struct ox_qed *q, struct ox_io *io,
		    struct ox_check_result *ret, struct ox_error **err)
{
	struct ox_qed_leaks_how how = {
		.frees = c->opts->repair != OX_REPAIR_NONE,
		.guessed = c->guessed > 0,
		.frees_lost_tables = c->opts->free_lost_tables,
	};
	bool cleared = false;
	int r = look_co(q, io, err);

	if (r < 0)
		return r;
	r = ox_qed_leaks_co(q, &how);
	if (r < 0)
		return ox_drive_failed(io, how.frees ? "repair" : "check", r, err);
	r = settle_co(q, c->opts->repair, &cleared);
	if (r < 0)
		return ox_drive_failed(io, "mark clean", r, err);
	*ret = (struct ox_check_result){
		.format = "qed",
		.total_clusters = q->total_clusters,
		.allocated_clusters = q->allocated,
		.fragmented_clusters = q->fragmented,
		.dirty_cleared = cleared,
	};
	ox_journal_sum_up(&q->j, ret);
	ret->corruptions_fixed += c->corruptions_fixed;
	return 0;
}

int ox_check_qed_co(struct ox_io *io, const struct ox_check_options *opts,
		    struct ox_check_result *ret, struct ox_error **err)
{
	struct check c = {.opts = opts};
	struct ox_qed q;
	int r = 0;

	if (opts->repair == OX_REPAIR_ALL)
		r = ox_drive_rounds_co(io, repair_round_co, &c, err);
	if (r < 0)
		return r;
	begin(&c, &q);
	r = judge_co(&c, &q, io, ret, err);
	ox_qed_close(&q);
	return r;
}
