/* SPDX-License-Identifier: MIT */
#include "check/check.h"

#include <errno.h>
#include <string.h>

#include "base/assert.h"
#include "check/drive/drive.h"
#include "check/form.h"
#include "check/mend/round.h"
#include "check/salvage/salvage.h"
#include "check/undo/edit.h"

/* What the rounds of one check, and the one that judges, hand on. */
struct check {
	const struct ox_check_options *opts;
	struct ox_salvage salvage;
	struct ox_check_result fixed;
	uint64_t lost;
};

/* A round, and why it leaves what it finds. */
struct led {
	struct ox_round round;
	struct ox_why why;
};

static void begin(struct check *c, struct led *l)
{
	*l = (struct led){0};
	l->why = (struct ox_why){
		.asked = c->opts->repair,
		.j = &l->round.j,
		.h = &l->round.w.v.h,
		.keeper = &c->salvage.keeper,
		.lost = c->lost,
	};
	ox_drive_journal(&l->round.j, c->opts, &l->why);
	ox_round_begin(&l->round, c->opts->repair, c->lost, &c->salvage.keeper);
	ox_salvage_begin(&c->salvage, &l->round.m);
}

/* Counts, compares and explains. */
static int look_co(struct check *c, struct ox_round *round, struct ox_io *io, struct ox_error **err)
{
	int r = ox_walk_open_co(&round->w, io, err);

	if (r < 0)
		return r;
	if (round->w.v.dirty && c->opts->repair == OX_REPAIR_NONE)
		ox_journal_recovers(&round->j);
	r = ox_round_look_co(round);
	if (r == 0 && c->opts->salvage)
		r = ox_salvage_find_co(&c->salvage);
	return r < 0 ? ox_drive_failed(io, "check", r, err) : 0;
}

/* ---- repairing ---- */

static int mend_co(struct ox_round *round, bool *ret_again, struct ox_error **err)
{
	int r;

	round->m.err = err;
	r = ox_mend_structure_co(&round->m, ret_again);
	if (r == 0 && !*ret_again && !ox_judge_is_clean(&round->g))
		r = ox_mend_counts_co(&round->m);
	/* A salvage says itself why it cannot be. */
	return r < 0 && !(err && *err) ? ox_drive_failed(round->w.v.io, "repair", r, err) : r;
}

static int repair_round_co(void *arg, struct ox_io *io, unsigned number, bool *ret_again,
			   struct ox_error **err)
{
	struct check *c = arg;
	struct led l;
	struct ox_round *round = &l.round;
	int r;

	begin(c, &l);
	round->j.quiet = true;
	round->m.is_last = number == OX_DRIVE_ROUNDS;
	round->j.mends_told &= !round->m.is_last;
	r = look_co(c, round, io, err);
	if (r == 0)
		r = mend_co(round, ret_again, err);
	c->fixed.corruptions_fixed += round->j.totals.corruptions_fixed;
	c->fixed.leaks_fixed += round->j.totals.leaks_fixed;
	c->lost += round->m.dropped;
	/* The table that an entry named which is gone now may fit another one. */
	if (round->m.dropped > 0)
		ox_keeper_note_dropped(&c->salvage.keeper);
	if (number == 1)
		c->fixed.damaged_l1_entries = round->w.bad_l1_entries;
	/* Mending makes no orphans: where there are none now, none are looked for again. */
	c->salvage.is_over = c->salvage.found == 0;
	ox_round_end(round);
	return r;
}

/* ---- judging ---- */

/* Says what the header says, and clears what no longer holds (D6). */
static int settle_bits_co(struct ox_round *round, bool *ret_cleared)
{
	const struct ox_view *v = &round->w.v;
	enum ox_repair repair = round->m.repair;
	bool is_clean = ox_judge_is_clean(&round->g);
	uint64_t bits = 0;
	int r = 0;

	if (repair != OX_REPAIR_NONE && is_clean)
		bits = v->h.incompatible & OX_QCOW2_INCOMPAT_DIRTY;
	/* Another program's judgement is overruled only by a user who asked for everything. */
	if (repair == OX_REPAIR_ALL && is_clean)
		bits |= v->h.incompatible & OX_QCOW2_INCOMPAT_CORRUPT;
	if (bits)
		r = ox_mend_clear_bits_co(v, bits);
	if (r < 0)
		return r;
	*ret_cleared = bits & OX_QCOW2_INCOMPAT_DIRTY;
	bits = v->h.incompatible & ~bits;
	if (bits & OX_QCOW2_INCOMPAT_DIRTY)
		ox_journal_found(&round->j, OX_FOUND_DIRTY, OX_FOUND(.a = 0));
	if (bits & OX_QCOW2_INCOMPAT_CORRUPT)
		ox_journal_found(&round->j, OX_FOUND_CORRUPT, OX_FOUND(.a = 0));
	return 0;
}

static void sum_up(const struct check *c, const struct ox_round *round, struct ox_check_result *ret)
{
	const struct ox_walk *w = &round->w;

	*ret = (struct ox_check_result){
		.format = "qcow2",
		.image_end_offset = round->g.stored_end * w->v.cluster_bytes,
		.total_clusters = w->total_clusters,
		.allocated_clusters = w->allocated,
		.fragmented_clusters = w->fragmented,
		.compressed_clusters = w->compressed,
		.damaged_l1_entries = c->opts->repair == OX_REPAIR_NONE
					      ? w->bad_l1_entries
					      : c->fixed.damaged_l1_entries,
		.lost_tables = c->salvage.found,
		.linked_tables = c->salvage.linked,
	};
	ox_journal_sum_up(&round->j, ret);
	ret->corruptions_fixed += c->fixed.corruptions_fixed;
	ret->leaks_fixed += c->fixed.leaks_fixed;
}

/* The round that decides: reports all there is. */
static int judge_co(struct check *c, struct ox_round *round, struct ox_io *io,
		    struct ox_check_result *ret, struct ox_error **err)
{
	bool cleared = false;
	int r = look_co(c, round, io, err);

	if (r < 0)
		return r;
	r = ox_salvage_look_co(&c->salvage);
	if (r == 0)
		r = ox_judge_report_co(&round->g);
	if (r == 0)
		ox_salvage_report(&c->salvage);
	if (r == 0 && c->opts->verify_data)
		r = ox_judge_verify_co(&round->w);
	if (r < 0)
		return ox_drive_failed(io, "check", r, err);
	r = settle_bits_co(round, &cleared);
	if (r < 0)
		return ox_drive_failed(io, "mark clean", r, err);
	sum_up(c, round, ret);
	ret->dirty_cleared = cleared;
	return 0;
}

static int check_co(struct ox_io *io, const struct ox_check_options *opts,
		    struct ox_check_result *ret, struct ox_error **err)
{
	struct check c = {.opts = opts};
	struct led l;
	int r = 0;

	ox_assert(!opts->dry_run || ox_edit_is_dry(io));
	ox_salvage_init(&c.salvage, opts);
	if (opts->repair != OX_REPAIR_NONE)
		r = ox_drive_rounds_co(io, repair_round_co, &c, err);
	if (r == 0) {
		begin(&c, &l);
		r = judge_co(&c, &l.round, io, ret, err);
		ox_round_end(&l.round);
	}
	ox_salvage_forget(&c.salvage);
	return r;
}

/* ---- a header without which nothing can be followed ---- */

static void tell_form(const struct ox_check_options *opts, const char *word, bool repaired)
{
	struct ox_why why = {.asked = opts->repair};
	struct ox_journal j;

	ox_drive_journal(&j, opts, &why);
	if (repaired)
		ox_journal_mended(&j, OX_FOUND_HEADER_FORM, OX_FOUND(.word = word));
	else
		ox_journal_found(&j, OX_FOUND_HEADER_FORM, OX_FOUND(.word = word));
	ox_journal_end(&j);
}

/* A check looks at the image as it would be. */
static int check_layer_co(struct ox_io *io, const struct ox_check_options *opts,
			  const uint8_t *sector, struct ox_check_result *ret, struct ox_error **err)
{
	struct ox_io *layer;
	int r = ox_edit_open(io, NULL, &layer);

	if (r < 0)
		return ox_drive_failed(io, "check", r, err);
	r = ox_io_pwrite_co(layer, sector, OX_FORM_BYTES, 0, 0);
	r = r < 0 ? ox_drive_failed(io, "check", r, err) : check_co(layer, opts, ret, err);
	ox_io_close(layer);
	if (r == 0)
		ret->corruptions++;
	return r;
}

static int write_form_co(struct ox_io *io, const uint8_t *sector, struct ox_error **err)
{
	int r = ox_io_pwrite_co(io, sector, OX_FORM_BYTES, 0, 0);

	if (r == 0)
		r = ox_io_sync_co(io);
	return r < 0 ? ox_drive_failed(io, "repair", r, err) : 0;
}

int ox_check_qcow2_co(struct ox_io *io, const struct ox_check_options *opts,
		      struct ox_check_result *ret, struct ox_error **err)
{
	uint8_t sector[OX_FORM_BYTES];
	const char *word = NULL;
	int r = opts->repair == OX_REPAIR_LEAKS ? 0 : ox_form_find_co(io, sector, &word);

	if (r < 0)
		return ox_drive_failed(io, "check", r, err);
	if (!word)
		return check_co(io, opts, ret, err);
	tell_form(opts, word, opts->repair == OX_REPAIR_ALL);
	if (opts->repair != OX_REPAIR_ALL)
		return check_layer_co(io, opts, sector, ret, err);
	r = write_form_co(io, sector, err);
	if (r == 0)
		r = check_co(io, opts, ret, err);
	if (r == 0)
		ret->corruptions_fixed++;
	return r;
}
