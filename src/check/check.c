/* SPDX-License-Identifier: MIT */
#include "check/check.h"

#include <errno.h>
#include <string.h>

#include "base/assert.h"
#include "check/edit.h"
#include "check/walk.h"

static int cannot_go_on(struct ox_io *io, const char *doing, int r, struct ox_error **err)
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
	return r < 0 ? cannot_go_on(io, "check", r, err) : 0;
}

static void prepare(struct ox_walk *w, const struct ox_check_options *opts)
{
	*w = (struct ox_walk){
		.finding = opts->finding,
		.progress = opts->progress,
		.opaque = opts->opaque,
		.dry_run = opts->dry_run,
	};
}

/* Says what the header says, and clears what no longer holds (D6). */
static int settle_bits_co(struct ox_walk *w, enum ox_repair repair, bool *ret_cleared)
{
	uint64_t bits = 0;
	int r;

	if (repair != OX_REPAIR_NONE && ox_walk_is_clean(w))
		bits = w->h.incompatible & OX_QCOW2_INCOMPAT_DIRTY;
	/* Another program's judgement is overruled only by a user who asked for everything. */
	if (repair == OX_REPAIR_ALL && ox_walk_is_clean(w))
		bits |= w->h.incompatible & OX_QCOW2_INCOMPAT_CORRUPT;
	if (bits) {
		r = ox_walk_clear_bits_co(w, bits);
		if (r < 0)
			return r;
	}
	*ret_cleared = bits & OX_QCOW2_INCOMPAT_DIRTY;
	if (w->h.incompatible & OX_QCOW2_INCOMPAT_DIRTY)
		ox_walk_found(w, OX_FOUND_DIRTY, OX_FOUND(.a = 0));
	if (w->h.incompatible & OX_QCOW2_INCOMPAT_CORRUPT)
		ox_walk_found(w, OX_FOUND_CORRUPT, OX_FOUND(.a = 0));
	return 0;
}

/* The pass that decides: reports all there is. */
static int judge_co(struct ox_walk *w, struct ox_io *io, enum ox_repair repair,
		    struct ox_check_result *ret, struct ox_error **err)
{
	bool cleared = false;
	int r = look_co(w, io, err);

	if (r < 0)
		return r;
	r = ox_walk_report_co(w);
	if (r < 0)
		return cannot_go_on(io, "check", r, err);
	r = settle_bits_co(w, repair, &cleared);
	if (r < 0)
		return cannot_go_on(io, "mark clean", r, err);
	*ret = w->result;
	ret->dirty_cleared = cleared;
	strcpy(ret->format, "qcow2");
	return 0;
}

int ox_check_qcow2_co(struct ox_io *io, const struct ox_check_options *opts,
		      struct ox_check_result *ret, struct ox_error **err)
{
	struct ox_check_result fixed = {0};
	struct ox_walk w;
	int r;

	ox_assert(!opts->dry_run || ox_edit_is_dry(io));
	if (opts->repair != OX_REPAIR_NONE) {
		prepare(&w, opts);
		w.repair = opts->repair;
		w.quiet = true;
		r = ox_walk_settle_co(&w, io, err);
		if (r == 0)
			r = look_co(&w, io, err);
		if (r == 0 && !ox_walk_is_clean(&w)) {
			r = ox_walk_repair_co(&w);
			if (r < 0)
				r = cannot_go_on(io, "repair", r, err);
		}
		fixed = w.result;
		ox_walk_close(&w);
		if (r < 0)
			return r;
	}
	prepare(&w, opts);
	r = judge_co(&w, io, opts->repair, ret, err);
	ox_walk_close(&w);
	if (r < 0)
		return r;
	ret->corruptions_fixed = fixed.corruptions_fixed;
	ret->leaks_fixed = fixed.leaks_fixed;
	return 0;
}
