/* SPDX-License-Identifier: MIT */
/* One walk, from the header to what its tables name. */
#include "check/walk/walk.h"

#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "check/claims/claims.h"

/* Whether the largest table that there may be can count every cluster that is named. */
static void judge_limit(struct ox_walk *w)
{
	uint64_t most = OX_QCOW2_MAX_REFTABLE_BYTES / 8 * w->k.rc.block_entries;

	if (w->k.cells.end > most)
		ox_journal_found(w->j, OX_FOUND_TABLE_TOO_SMALL, OX_FOUND(.a = w->k.cells.end - 1));
}

int ox_walk_claim_co(struct ox_walk *w)
{
	int r = ox_claims_make_co(&w->v, &w->k);

	return r == 0 ? ox_walk_count_l1_co(w) : r;
}

int ox_walk_count_co(struct ox_walk *w)
{
	int r = ox_walk_claim_co(w);

	if (r == 0)
		r = ox_walk_count_l2_co(w);
	if (r == 0)
		judge_limit(w);
	return r;
}

int ox_walk_open_co(struct ox_walk *w, struct ox_io *io, struct ox_error **err)
{
	int r;

	w->v.j = w->j;
	r = ox_view_open_co(&w->v, io, err);
	if (r < 0)
		return r;
	w->total_clusters = ox_div_up(w->v.h.size_bytes, w->v.cluster_bytes);
	return ox_ledger_open(&w->k, &w->v) < 0 ? ox_error_set(err, -ENOMEM, "Out of memory") : 0;
}

void ox_walk_close(struct ox_walk *w)
{
	if (w->v.j)
		ox_view_close(&w->v);
	ox_ledger_close(&w->k);
	ox_digest_clear(&w->digest);
	ox_clusters_free(&w->tables);
	ox_clusters_free(&w->no_tables);
	free(w->places);
}
