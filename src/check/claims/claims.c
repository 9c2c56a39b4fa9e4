/* SPDX-License-Identifier: MIT */
#include "check/claims/claims.h"

#include "base/arith.h"

int ox_claims_tell_cut_co(const struct ox_ledger *k, const char *word, uint64_t offset,
			  uint64_t size_bytes)
{
	int r = ox_ledger_was_cut_co(k, offset, size_bytes);

	if (r > 0)
		ox_journal_found(k->v->j, OX_FOUND_TABLE_CUT,
				 OX_FOUND(.word = word, .a = offset, .b = size_bytes,
					  .host_offset = offset));
	return r;
}

int ox_claims_cut_l1(struct ox_view *v, struct ox_ledger *k, uint64_t tree, const char *word)
{
	struct ox_view_tree t = v->trees[tree];
	uint64_t within = ox_view_entries_within(v, t.l1_offset, t.l1_entries);
	uint64_t mapped = ox_view_mapped(v, within);
	struct ox_found what = {.word = word,
				.a = t.l1_offset,
				.b = UINT64_C(8) * t.l1_entries,
				.host_offset = t.l1_offset,
				.fate = "lost"};
	int r;

	ox_view_set_range(v, &what, tree, mapped, ox_view_mapped(v, t.l1_entries) - mapped);
	ox_journal_found(v->j, OX_FOUND_TABLE_CUT, what);
	r = ox_ledger_claim(k, word, t.l1_offset, 8 * within);
	ox_view_cut_tree(v, tree, r > 0 ? (uint32_t)within : 0);
	return r < 0 ? r : 0;
}

/* Of one that reaches past the end more is to be known, once the counts are. */
static int claim_active_l1(struct ox_view *v, struct ox_ledger *k)
{
	struct ox_view_tree tree = {
		.l1_offset = v->h.l1_offset,
		.l1_entries = v->h.l1_entries,
	};
	uint64_t size_bytes = UINT64_C(8) * v->h.l1_entries;
	int r = 0;

	/* Followed even where it overlaps something: it is read once, and what it names is used. */
	if (!ox_view_is_cut(v, tree.l1_offset, size_bytes))
		r = ox_ledger_claim(k, "Active L1 table", tree.l1_offset, size_bytes);
	return r < 0 ? r : ox_view_add_tree(v, tree);
}

static int settle_active_l1_co(struct ox_view *v, struct ox_ledger *k)
{
	uint64_t size_bytes = UINT64_C(8) * v->h.l1_entries;
	int r;

	if (!ox_view_is_cut(v, v->h.l1_offset, size_bytes))
		return 0;
	r = ox_ledger_was_cut_co(k, v->h.l1_offset, size_bytes);
	if (r > 0)
		return ox_claims_cut_l1(v, k, 0, "L1 table");
	ox_view_cut_tree(v, 0, 0);
	return r < 0 ? r : ox_ledger_claim(k, "Active L1 table", v->h.l1_offset, size_bytes);
}

int ox_claims_make_co(struct ox_view *v, struct ox_ledger *k)
{
	int r;

	ox_view_judge_header(v);
	/* The first cluster may be short, as long as the header is whole. */
	r = ox_ledger_claim(k, "Header", 0, ox_min_u64(v->cluster_bytes, v->file_bytes));
	if (r >= 0)
		r = claim_active_l1(v, k);
	if (r >= 0)
		r = ox_ledger_claim_refcounts_co(k);
	if (r >= 0)
		r = settle_active_l1_co(v, k);
	if (r >= 0)
		r = ox_claims_snapshots_co(v, k);
	if (r >= 0)
		r = ox_claims_extensions_co(v, k);
	return r < 0 ? r : 0;
}
