/* SPDX-License-Identifier: MIT */
/* The recovery of a dirty image at open: a repair that must leave nothing. */
#include <errno.h>

#include "check/check.h"
#include "check/walk/walk.h"

static int refuse(const struct ox_walk *w, struct ox_error **err)
{
	if (w->j->seen[OX_FOUND_OVERFLOW] > 0 &&
	    w->j->seen[OX_FOUND_OVERFLOW] == w->j->structural && w->v.h.version >= 3)
		return ox_error_set(err, -EIO,
				    "The counts are too narrow for what is shared ('oxbow check -r "
				    "all' on '%s' makes them wider): %s",
				    w->v.io->name,
				    w->j->first_structural ? w->j->first_structural
							   : "no memory for details");
	return ox_error_set(err, -EIO,
			    "The image is damaged and cannot be recovered (%s). Run "
			    "'oxbow check' on '%s' to see what is wrong",
			    w->j->first_structural ? w->j->first_structural
						   : "no memory for details",
			    w->v.io->name);
}

static int recover_co(struct ox_walk *w, struct ox_io *io, struct ox_error **err)
{
	int r = ox_walk_settle_co(w, io, err);

	if (r == 0)
		r = ox_walk_open_co(w, io, err);
	if (r < 0)
		return r;
	r = ox_walk_count_co(w);
	if (r == 0)
		r = ox_walk_compare_co(w);
	if (r == 0)
		r = ox_walk_explain_co(w);
	/* Nothing is written where the end cannot be reached. */
	if (r == 0 && w->j->structural > 0)
		return refuse(w, err);
	if (r == 0)
		r = ox_walk_repair_co(w);
	if (r < 0)
		return ox_error_set_errno(err, r, "Could not recover '%s'", io->name);
	return w->j->structural > 0 ? refuse(w, err) : 0;
}

int ox_check_rebuild_co(struct ox_io *io, struct ox_error **err,
			void (*progress)(void *opaque, uint64_t done, uint64_t total), void *opaque)
{
	struct ox_journal j = {.quiet = true, .progress = progress, .opaque = opaque};
	struct ox_walk w = {.j = &j, .repair = OX_REPAIR_ALL};
	int r = recover_co(&w, io, err);

	ox_walk_close(&w);
	ox_journal_end(&j);
	return r;
}
