/* SPDX-License-Identifier: MIT */
#include "check/mend/mend.h"
#include "check/mend/seen.h"

static uint64_t bad_entries(const struct ox_walk *w)
{
	return ox_seen_bad_entries(w->j) + w->header_streams;
}

static int mend_all_co(struct ox_walk *w)
{
	int r = 0;

	if (w->stale > 0) {
		r = ox_walk_drop_stale_co(w);
		if (r == 0)
			r = ox_io_sync_co(w->v.io);
	}
	if (r == 0)
		r = ox_places_read_co(w);
	if (r == 0 && bad_entries(w) > 0)
		r = ox_mend_entries_co(w);
	/* A file that grows for copies must not grow beneath an entry. */
	if (r == 0 && w->mend->changes == 0 && ox_seen_past_end(w->j) == 0 &&
	    ox_seen_aliases(w->j) > 0 && !w->v.has_data_file && !ox_salvage_awaits_alias(w))
		r = ox_mend_aliases_co(w);
	return r;
}

/* Whether entries mean what these repairs take them for, and counts are where the header says. */
static bool is_plain(const struct ox_walk *w)
{
	for (size_t i = 0; i < OX_QCOW2_FAULT_COUNT; i++) {
		if (w->v.faults.found[i])
			return false;
	}
	return true;
}

int ox_mend_co(struct ox_walk *w, bool *ret_again)
{
	struct ox_mend mend = {0};
	int r = 0;

	if (bad_entries(w) + ox_seen_aliases(w->j) > 0 && is_plain(w)) {
		w->mend = &mend;
		r = mend_all_co(w);
		w->mend = NULL;
		ox_places_free(&mend.places);
		ox_stored_free(&mend.stored);
	}
	w->lost += mend.dropped;
	*ret_again = mend.changes > 0;
	return r;
}
