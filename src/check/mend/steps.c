/* SPDX-License-Identifier: MIT */
/* The steps of a repair, in their order: what each looks for, and what it needs to be true. */
#include <errno.h>

#include "base/arith.h"
#include "check/mend/mend.h"

/* ---- what has to be true ---- */

enum need {
	ALL = 1,     /* the user asked for all repairs */
	KNOWN = 2,   /* all features are: else what the tables mean is not */
	ROUND = 4,   /* another round sees what this one uncovers */
	TREES = 8,   /* all are seen: else what seems to be the disk's alone may be a snapshot's */
	PLAIN = 16,  /* an encrypted cluster is bound to its place */
	HEADER = 32, /* all its fields are right: entries mean what they are taken for */
	INSIDE = 64, /* nothing names a place past the end, beneath which the file would grow */
	OWN_DATA = 128, /* guest data lie in this file */
	WHOLE = 512,	/* no table was cut off with the file: that is nowhere else in it */
	SOUND = 256, /* nothing structural is left: what it should have named looks like a leak */
};

/* Those of the needs that are true. */
static unsigned truths(const struct ox_mend *m)
{
	const struct ox_view *v = &m->w->v;
	const struct ox_journal *j = m->w->j;

	return (m->repair == OX_REPAIR_ALL ? ALL : 0u) | (v->is_foreign ? 0u : KNOWN) |
	       (m->is_last ? 0u : ROUND) | (ox_seen_hides_trees(j) ? 0u : TREES) |
	       (v->h.crypt_method == OX_QCOW2_CRYPT_NONE ? PLAIN : 0u) |
	       (ox_view_has_fault_but(v, OX_QCOW2_FAULT_COUNT) ? 0u : HEADER) |
	       (ox_seen_past_end(j) == 0 ? INSIDE : 0u) | (v->has_data_file ? 0u : OWN_DATA) |
	       (j->structural == 0 ? SOUND : 0u) | (ox_seen_cut(j) ? 0u : WHOLE);
}

/* ---- what each step looks for ---- */

static uint64_t bad_entries(const struct ox_mend *m)
{
	return ox_seen_bad_entries(m->w->j) + m->w->header_streams;
}

static bool has_bad_entries(const struct ox_mend *m)
{
	return bad_entries(m) > 0;
}

static bool has_stale(const struct ox_mend *m)
{
	return m->w->stale > 0;
}

static bool has_stale_beside_bad(const struct ox_mend *m)
{
	return has_stale(m) && bad_entries(m) + ox_seen_aliases(m->w->j) > 0;
}

static bool has_aliases(const struct ox_mend *m)
{
	return ox_seen_aliases(m->w->j) > 0 && !ox_keeper_awaits_alias(m->keeper);
}

static bool has_patches(const struct ox_mend *m)
{
	return m->w->v.patch_count > 0;
}

static bool has_lost_bitmaps(const struct ox_mend *m)
{
	return m->w->v.lost_bitmaps;
}

static bool has_bad_snapshots(const struct ox_mend *m)
{
	return ox_mend_bad_snapshots(m->w) > 0;
}

static bool has_keeper(const struct ox_mend *m)
{
	return m->keeper;
}

static bool may_free(const struct ox_mend *m)
{
	return m->keeper && !ox_judge_is_clean(m->g);
}

static bool has_any(const struct ox_mend *m)
{
	(void)m;
	return true;
}

/* ---- what others do ---- */

static int link_co(struct ox_mend *m, bool *ret_again)
{
	return m->keeper->link_co(m->keeper, ret_again, m->err);
}

static int look_co(struct ox_mend *m, bool *ret_again)
{
	(void)ret_again;
	return m->keeper->look_co(m->keeper);
}

/* ---- the steps ---- */

struct step {
	unsigned needs;
	bool (*is_due)(const struct ox_mend *m);
	/* *ret_again: what the walk knew no longer holds, and it is to start again. */
	int (*run_co)(struct ox_mend *m, bool *ret_again);
};

#define LOST (ALL | KNOWN | ROUND | WHOLE)
#define ENTRIES (ALL | KNOWN | ROUND | TREES | PLAIN | HEADER)

static const struct step structure[] = {
	/* 0a. Writes fields of the first cluster, each within its sector: what the rest of the
	 * image tells. Keeps the leaks where a field was given up. */
	{ALL | KNOWN | ROUND, has_patches, ox_mend_apply_patches_co},
	/* 0b. Writes the place of the refcount table, or of the disk's L1 table, found again; the
	 * extension of the bitmaps; or a new table of snapshots and its counts, and then the
	 * header's sector. Keeps records that somebody may yet read. */
	{LOST, ox_mend_lacks_reftable, ox_mend_reftable_co},
	{LOST, has_lost_bitmaps, ox_mend_lost_bitmaps_co},
	{LOST, ox_mend_lacks_l1, ox_mend_l1_offset_co},
	{LOST, has_bad_snapshots, ox_mend_snapshots_co},
	/* 0c. Writes the counts of lost L2 tables, and the L1 entries that named them; before what
	 * tells where one belongs is taken away. */
	{ALL | ROUND, has_keeper, link_co},
	/* 1. Takes away what never became durable; before the file grows beneath it. */
	{ENTRIES, has_stale_beside_bad, ox_mend_drop_stale_co},
	/* 1a. Leads entries to what nobody else names, or to nothing. Keeps those that the table of
	 * an orphan may stand for, and what a backing file would show through. */
	{ENTRIES, has_bad_entries, ox_mend_entries_co},
	/* 1b. Of the latter, writes tables of zeroes and their counts, and then leads L1 entries to
	 * them. Asks itself what else names a place past the end. */
	{ENTRIES | OWN_DATA, ox_mend_lacks_zeroes, ox_mend_zeroes_co},
	/* 1c. Writes copies and their counts, and then leads all but one of those who name a
	 * cluster to them. The metadata, and compressed streams, keep theirs. */
	{ENTRIES | INSIDE | OWN_DATA, has_aliases, ox_mend_aliases_co},
	/* Before counts are lowered: what of the leaks is a lost table's is kept from here on. */
	{ALL | ROUND, may_free, look_co},
	/* 1d. Writes all counts anew, wider. Keeps, as if it were named, what is not lowered. */
	{ALL | ROUND, ox_mend_is_narrow, ox_mend_width_co},
};

static const struct step counts[] = {
	{0, may_free, look_co},
	/* 1. Where nothing else of the entries was due. */
	{ALL | KNOWN, has_stale, ox_mend_drop_stale_co},
	/* 2, 3. Writes counts that are too low (D3), and new blocks; then links these. Makes no
	 * block anew while something is structural. */
	{ALL | KNOWN, has_any, ox_mend_raise_and_link_co},
	/* 4. Writes COPIED bits, as counts that are not too low say (D2). */
	{KNOWN, ox_mend_copied_is_due, ox_mend_copied_co},
	/* 5. Lowers counts (D4). Keeps what a lost table, or a lost entry, may need. */
	{KNOWN | SOUND, has_any, ox_mend_lower_co},
};

/* Until the walk is to start again. */
static int run_co(struct ox_mend *m, const struct step *steps, size_t count, bool *ret_again)
{
	int r = 0;

	for (size_t i = 0; i < count && r == 0 && !*ret_again; i++) {
		if ((steps[i].needs & ~truths(m)) == 0 && steps[i].is_due(m))
			r = steps[i].run_co(m, ret_again);
	}
	return r;
}

int ox_mend_structure_co(struct ox_mend *m, bool *ret_again)
{
	return run_co(m, structure, OX_ARRAY_SIZE(structure), ret_again);
}

int ox_mend_counts_co(struct ox_mend *m)
{
	bool again = false;

	if (m->w->v.io->read_only)
		return -EROFS;
	return run_co(m, counts, OX_ARRAY_SIZE(counts), &again);
}
