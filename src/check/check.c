/* SPDX-License-Identifier: MIT */
#include "check/check.h"

#include <errno.h>
#include <string.h>

#include "base/assert.h"
#include "check/mend/mend.h"
#include "check/salvage/salvage.h"
#include "check/undo/edit.h"
#include "check/walk/walk.h"

/* Each one ends with fewer structural findings than the last: an image needs a few. */
#define MAX_ROUNDS 16u

int ox_check_failed(struct ox_io *io, const char *doing, int r, struct ox_error **err)
{
	if (r == -ENOBUFS && ox_edit_is_dry(io))
		return ox_error_set(err, r,
				    "A dry run of this repair needs more than %llu MiB of "
				    "memory",
				    (unsigned long long)(OX_EDIT_DRY_BYTES >> 20));
	return ox_error_set_errno(err, r, "Could not %s '%s'", doing, io->name);
}

/* Counts, compares and explains. */
static int look_co(struct ox_walk *w, struct ox_io *io, struct ox_error **err)
{
	int r = ox_walk_open_co(w, io, err);

	if (r < 0)
		return r;
	r = ox_walk_count_co(w);
	if (r == 0)
		r = ox_walk_compare_co(w);
	if (r == 0)
		r = ox_walk_explain_co(w);
	if (r == 0 && w->salvage)
		r = ox_salvage_find_co(w);
	return r < 0 ? ox_check_failed(io, "check", r, err) : 0;
}

static void prepare(struct ox_walk *w, struct ox_journal *j, const struct ox_check_options *opts,
		    struct ox_salvage *salvage)
{
	*j = (struct ox_journal){
		.finding = opts->finding,
		.progress = opts->progress,
		.opaque = opts->opaque,
		.why_not = opts->repair == OX_REPAIR_NONE ? NULL : ox_mend_why_not,
		.why_arg = w,
		.dry_run = opts->dry_run,
		.mends_told = opts->repair == OX_REPAIR_ALL,
	};
	*w = (struct ox_walk){
		.j = j,
		.asked = opts->repair,
		.salvage = opts->salvage ? salvage : NULL,
	};
}

/* Says what the header says, and clears what no longer holds (D6). */
static int settle_bits_co(struct ox_walk *w, enum ox_repair repair, bool *ret_cleared)
{
	uint64_t bits = 0;
	int r;

	if (repair != OX_REPAIR_NONE && ox_walk_is_clean(w))
		bits = w->v.h.incompatible & OX_QCOW2_INCOMPAT_DIRTY;
	/* Another program's judgement is overruled only by a user who asked for everything. */
	if (repair == OX_REPAIR_ALL && ox_walk_is_clean(w))
		bits |= w->v.h.incompatible & OX_QCOW2_INCOMPAT_CORRUPT;
	if (bits) {
		r = ox_walk_clear_bits_co(w, bits);
		if (r < 0)
			return r;
	}
	*ret_cleared = bits & OX_QCOW2_INCOMPAT_DIRTY;
	bits = w->v.h.incompatible & ~bits;
	if (bits & OX_QCOW2_INCOMPAT_DIRTY)
		ox_journal_found(w->j, OX_FOUND_DIRTY, OX_FOUND(.a = 0));
	if (bits & OX_QCOW2_INCOMPAT_CORRUPT)
		ox_journal_found(w->j, OX_FOUND_CORRUPT, OX_FOUND(.a = 0));
	return 0;
}

/* The pass that decides: reports all there is. */
static int judge_co(struct ox_walk *w, struct ox_io *io, struct ox_salvage *salvage,
		    struct ox_check_result *ret, struct ox_error **err)
{
	enum ox_repair repair = salvage->opts->repair;
	bool cleared = false;
	int r = look_co(w, io, err);

	if (r < 0)
		return r;
	if (!w->salvage)
		r = ox_salvage_look_co(w, salvage);
	if (r == 0)
		r = ox_walk_report_co(w);
	if (r == 0 && w->salvage)
		ox_salvage_report(w);
	if (r == 0 && w->verify_data)
		r = ox_walk_verify_co(w);
	if (r < 0)
		return ox_check_failed(io, "check", r, err);
	r = settle_bits_co(w, repair, &cleared);
	if (r < 0)
		return ox_check_failed(io, "mark clean", r, err);
	*ret = w->result;
	ox_journal_sum_up(w->j, ret);
	ret->dirty_cleared = cleared;
	strcpy(ret->format, "qcow2");
	return 0;
}

static void add_fixed(struct ox_check_result *sum, const struct ox_check_result *part)
{
	sum->corruptions_fixed += part->corruptions_fixed;
	sum->leaks_fixed += part->leaks_fixed;
}

/* Entries are changed and clusters copied only where both are what they seem: an encrypted cluster
 * is bound to its place, a table of a snapshot that is not seen may be anyone's.
 */
static bool is_mendable(const struct ox_walk *w)
{
	return !w->v.is_foreign && !ox_seen_hides_trees(w->j) &&
	       w->v.h.crypt_method == OX_QCOW2_CRYPT_NONE;
}

/* What the image itself tells of what cannot be followed: header fields, then lost tables. */
static int find_again_co(struct ox_walk *w, bool *ret_again)
{
	int r = 0;

	if (w->v.patch_count > 0) {
		*ret_again = true;
		return ox_walk_apply_patches_co(w);
	}
	/* What was cut off is nowhere else. */
	if (ox_seen_cut(w->j))
		return 0;
	r = ox_mend_reftable_co(w, ret_again);
	if (r == 0 && !*ret_again && w->v.lost_bitmaps)
		return ox_mend_lost_bitmaps_co(w, ret_again);
	if (r == 0 && !*ret_again)
		r = ox_mend_l1_offset_co(w, ret_again);
	if (r == 0 && !*ret_again && ox_mend_bad_snapshots(w) > 0)
		r = ox_mend_snapshots_co(w, ret_again);
	return r;
}

/* What changes what the tables name, or which tables there are. Once anything did, the walk starts
 * again. */
static int mend_structure_co(struct ox_walk *w, struct ox_salvage *salvage, bool *ret_again,
			     struct ox_error **err)
{
	uint64_t lost = w->lost;
	int r = 0;

	if (!ox_walk_is_clean(w) && !w->v.is_foreign)
		r = find_again_co(w, ret_again);
	if (r == 0 && !*ret_again && w->salvage) {
		r = ox_salvage_link_co(w, ret_again, err);
		if (r < 0)
			return r;
	} else if (r == 0 && !*ret_again && !ox_seen_hides_trees(w->j)) {
		r = ox_salvage_link_sure_co(w, salvage, ret_again, err);
		if (r < 0)
			return r;
	}
	if (r == 0 && !*ret_again && !ox_walk_is_clean(w) && is_mendable(w))
		r = ox_mend_co(w, ret_again);
	/* The table that an entry named which is gone now may fit another one. */
	salvage->is_unsettled |= w->lost > lost;
	/* Counts that are made anew leave out what is not kept. */
	if (r == 0 && !*ret_again && !w->salvage)
		r = ox_salvage_look_co(w, salvage);
	if (r == 0 && !*ret_again)
		r = ox_mend_width_co(w, ret_again);
	return r < 0 ? ox_check_failed(w->v.io, "repair", r, err) : 0;
}

/* Repairs what one walk can, *ret_again where another one may see more. */
static int repair_once_co(struct ox_walk *w, struct ox_io *io, struct ox_salvage *salvage,
			  bool *ret_again, struct ox_error **err)
{
	int r = look_co(w, io, err);

	if (r == 0 && w->repair == OX_REPAIR_ALL && !w->is_last)
		r = mend_structure_co(w, salvage, ret_again, err);
	if (r < 0 || *ret_again || ox_walk_is_clean(w))
		return r;
	if (!w->salvage)
		r = ox_salvage_look_co(w, salvage);
	if (r == 0)
		r = ox_walk_repair_co(w);
	return r < 0 ? ox_check_failed(io, "repair", r, err) : 0;
}

/* What the walks of one repair, and the one that judges, hand on. */
struct sequel {
	struct ox_check_result fixed;
	uint64_t lost;
	struct ox_salvage salvage;
};

static int repair_co(struct ox_io *io, const struct ox_check_options *opts, struct sequel *q,
		     struct ox_error **err)
{
	bool again = true;
	int r = 0;

	for (unsigned round = 1; again && r == 0; round++) {
		struct ox_journal j;
		struct ox_walk w;

		prepare(&w, &j, opts, &q->salvage);
		w.repair = opts->repair;
		j.quiet = true;
		w.lost = q->lost;
		w.is_last = round == MAX_ROUNDS;
		j.mends_told &= !w.is_last;
		again = false;
		if (round == 1)
			r = ox_walk_settle_co(&w, io, err);
		if (r == 0)
			r = repair_once_co(&w, io, &q->salvage, &again, err);
		q->fixed.corruptions_fixed += j.totals.corruptions_fixed;
		q->fixed.leaks_fixed += j.totals.leaks_fixed;
		q->lost = w.lost;
		if (round == 1)
			q->fixed.damaged_l1_entries = w.bad_l1_entries;
		/* Mending makes no orphans: where there are none now, none are looked for again. */
		q->salvage.is_over = q->salvage.found == 0;
		ox_walk_close(&w);
		ox_journal_end(&j);
	}
	return r;
}

static int check_co(struct ox_io *io, const struct ox_check_options *opts, struct sequel *q,
		    struct ox_check_result *ret, struct ox_error **err)
{
	struct ox_journal j;
	struct ox_walk w;
	int r = 0;

	if (opts->repair != OX_REPAIR_NONE)
		r = repair_co(io, opts, q, err);
	if (r < 0)
		return r;
	prepare(&w, &j, opts, &q->salvage);
	w.lost = q->lost;
	w.verify_data = opts->verify_data;
	r = judge_co(&w, io, &q->salvage, ret, err);
	if (r == 0 && opts->repair == OX_REPAIR_NONE)
		q->fixed.damaged_l1_entries = w.bad_l1_entries;
	ox_walk_close(&w);
	ox_journal_end(&j);
	return r;
}

int ox_check_qcow2_co(struct ox_io *io, const struct ox_check_options *opts,
		      struct ox_check_result *ret, struct ox_error **err)
{
	struct sequel q = {.salvage = {.opts = opts}};
	int r;

	ox_assert(!opts->dry_run || ox_edit_is_dry(io));
	r = check_co(io, opts, &q, ret, err);
	ox_salvage_forget(&q.salvage);
	if (r < 0)
		return r;
	add_fixed(ret, &q.fixed);
	ret->damaged_l1_entries = q.fixed.damaged_l1_entries;
	ret->lost_tables = q.salvage.found;
	ret->linked_tables = q.salvage.linked;
	return 0;
}
