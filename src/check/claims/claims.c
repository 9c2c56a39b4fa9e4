/* SPDX-License-Identifier: MIT */
#include "check/claims/claims.h"

static int claim_active_l1(struct ox_view *v, struct ox_ledger *k)
{
	struct ox_view_tree tree = {.l1_offset = v->h.l1_offset};
	uint64_t size_bytes = UINT64_C(8) * v->h.l1_entries;
	int r = ox_ledger_claim(k, "Active L1 table", v->h.l1_offset, size_bytes);

	if (r < 0)
		return r;
	/* Followed even where it overlaps something: it is read once, and what it names is used. */
	if (size_bytes > 0 && !ox_view_past_end(v, v->h.l1_offset, size_bytes))
		tree.l1_entries = v->h.l1_entries;
	return ox_view_add_tree(v, tree);
}

int ox_claims_make_co(struct ox_view *v, struct ox_ledger *k)
{
	int r;

	ox_view_judge_header(v);
	r = ox_ledger_claim(k, "Header", 0, v->cluster_bytes);
	if (r >= 0)
		r = claim_active_l1(v, k);
	if (r >= 0)
		r = ox_ledger_claim_refcounts_co(k);
	if (r >= 0)
		r = ox_claims_snapshots_co(v, k);
	if (r >= 0)
		r = ox_claims_extensions_co(v, k);
	return r < 0 ? r : 0;
}
