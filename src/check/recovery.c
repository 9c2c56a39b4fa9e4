/* SPDX-License-Identifier: MIT */
/* The recovery of a dirty image at open: a repair that must leave nothing. */
#include <errno.h>

#include "check/check.h"
#include "check/drive/drive.h"
#include "check/mend/round.h"
#include "check/salvage/salvage.h"

static int refuse(const struct ox_round *round, struct ox_error **err)
{
	const struct ox_journal *j = &round->j;
	const struct ox_view *v = &round->w.v;
	const char *first = j->first_structural ? j->first_structural : "no memory for details";

	if (j->seen[OX_FOUND_OVERFLOW] > 0 && j->seen[OX_FOUND_OVERFLOW] == j->structural &&
	    v->h.version >= 3)
		return ox_error_set(err, -EIO,
				    "The counts are too narrow for what is shared ('oxbow check -r "
				    "all' on '%s' makes them wider): %s",
				    v->io->name, first);
	return ox_error_set(err, -EIO,
			    "The image is damaged and cannot be recovered (%s). Run "
			    "'oxbow check' on '%s' to see what is wrong",
			    first, v->io->name);
}

static int recover_co(struct ox_round *round, struct ox_io *io, struct ox_error **err)
{
	int r = ox_drive_settle_co(io, err);

	if (r == 0)
		r = ox_walk_open_co(&round->w, io, err);
	if (r < 0)
		return r;
	r = ox_round_look_co(round);
	/* Nothing is written where the end cannot be reached. */
	if (r == 0 && round->j.structural > 0)
		return refuse(round, err);
	if (r == 0)
		r = ox_salvage_count_lost_co(&round->m);
	if (r == 0)
		r = ox_mend_counts_co(&round->m);
	if (r < 0)
		return ox_error_set_errno(err, r, "Could not recover '%s'", io->name);
	return round->j.structural > 0 ? refuse(round, err) : 0;
}

int ox_check_rebuild_co(struct ox_io *io, struct ox_error **err,
			void (*progress)(void *opaque, uint64_t done, uint64_t total), void *opaque)
{
	struct ox_round round = {.j = {.quiet = true, .progress = progress, .opaque = opaque}};
	int r;

	ox_round_begin(&round, OX_REPAIR_ALL, 0, NULL);
	r = recover_co(&round, io, err);
	ox_round_end(&round);
	return r;
}
