/* SPDX-License-Identifier: MIT */
/*
 * One walk over an image: the state that its passes share (docs/check.md).
 *
 * Order of calls: ox_walk_open_co, ox_walk_count_co, ox_walk_compare_co, ox_walk_explain_co, then
 * ox_walk_report_co or ox_walk_repair_co, then ox_walk_close. Each returns a negative errno only
 * where the check cannot go on (no memory, a write that failed); what is wrong with the image is
 * a finding.
 */
#ifndef OX_CHECK_WALK_H
#define OX_CHECK_WALK_H

#include <stdbool.h>
#include <stdint.h>

#include "check/ledger/ledger.h"
#include "check/walk/digest.h"

/* The guest clusters for which a suspect is named, from the first to the last; unless it is a
 * table.
 */
struct ox_walk_reach {
	uint64_t first; /* UINT64_MAX: none was met */
	uint64_t last;
	uint64_t tree; /* of the first that was met */
};

struct ox_walk_copied_pass;
struct ox_walk_verify_pass;
struct ox_mend;
struct ox_salvage;

struct ox_walk {
	struct ox_journal *j;
	struct ox_view v;
	struct ox_ledger k;
	enum ox_repair repair; /* of the walk that is to repair */
	enum ox_repair asked;  /* what the caller wants, also in the walk that judges */
	bool is_last;	       /* no walk follows that puts right what this one finds */
	bool verify_data;      /* decompress what is compressed */

	uint64_t *l2_clusters; /* every L2 table, ascending */
	uint64_t l2_count;
	uint64_t l2_room;

	uint64_t *l2_places; /* of l2_clusters, once someone asked (ox_walk_place_tables_co) */

	uint64_t *no_tables; /* of l2_clusters, those that hold no table, or cannot be read */
	uint64_t no_table_count;
	uint64_t no_table_room;

	uint64_t *suspects; /* clusters; ascending once they are explained */
	struct ox_walk_reach *reaches;
	uint64_t suspect_count;
	uint64_t suspect_room;

	struct ox_digest digest;	    /* of ox_walk_count_l2_table_co */
	struct ox_walk_copied_pass *copied; /* while ox_walk_copied_co runs */
	struct ox_walk_verify_pass *verify; /* while ox_walk_verify_co runs */
	struct ox_mend *mend;		    /* while ox_mend_co runs */
	struct ox_salvage *salvage;	    /* NULL: there is nothing to salvage */
	bool changes_entries;		    /* the running pass may change L1 and L2 entries */

	/* What the passes saw. */
	uint64_t stale;		 /* entries to drop */
	uint64_t header_streams; /* compressed entries in the header's cluster */
	uint64_t bad_l1_entries; /* and those that name what is no table */
	uint64_t most_refs;	 /* of these; and of copies that were not made for it: */
	bool narrow_copies;
	uint64_t lost; /* entries that this repair took away, with all its walks */
	uint64_t leaks;
	uint64_t cut_off; /* clusters that are counted, and that the file had */
	uint64_t too_low;
	uint64_t copied_wrong;	/* against the stored counts */
	uint64_t copied_to_fix; /* against the counted ones */
	uint64_t compressed_copied;
	uint64_t stored_end; /* one past the highest cluster with a count or a reference */
	struct ox_check_result result;
};

/* ---- walk.c: opening, exclusive metadata ---- */

int ox_walk_open_co(struct ox_walk *w, struct ox_io *io, struct ox_error **err);
void ox_walk_close(struct ox_walk *w);
/* Its beginning: the claims, what L1 entries name, and the list of L2 tables. */
int ox_walk_claim_co(struct ox_walk *w);
int ox_walk_count_co(struct ox_walk *w);
/* Whether nothing at all is wrong. */
bool ox_walk_is_clean(const struct ox_walk *w);

/* ---- located.c: which guest range an L2 entry stands for ---- */

#define OX_WALK_NO_PLACE UINT64_MAX

static inline uint64_t ox_walk_place_tree(uint64_t place)
{
	return place >> 32;
}

static inline uint64_t ox_walk_place_index(uint64_t place)
{
	return place & UINT32_MAX;
}

/* Where value stands in an ascending array; count if it does not. */
uint64_t ox_walk_find(const uint64_t *values, uint64_t count, uint64_t value);
/* Notes, once, at which place of an L1 table each L2 table is named first. */
int ox_walk_place_tables_co(struct ox_walk *w);
/* Then: the place of a table, or OX_WALK_NO_PLACE. */
uint64_t ox_walk_place_of(const struct ox_walk *w, uint64_t l2_cluster);
/* ox_walk_found, with the guest range of an L2 table's entry. 0, or what reading L1 tables gave. */
int ox_walk_found_in_l2_co(struct ox_walk *w, uint64_t l2_cluster, uint64_t index,
			   enum ox_finding_id id, struct ox_found what);

/* ---- verify.c ---- */

/* Decompresses every compressed cluster. */
int ox_walk_verify_co(struct ox_walk *w);

/* ---- trees.c: the ways through L1 and L2 tables ---- */

/* One L1 entry, in place. Where the pass changes_entries, the changed sectors are written. */
typedef int (*ox_walk_l1_fn)(struct ox_walk *w, uint64_t tree, uint64_t index,
			     struct ox_be64 *entry);
/* A whole L2 table, likewise. */
typedef int (*ox_walk_l2_fn)(struct ox_walk *w, uint64_t cluster, struct ox_cell cell,
			     struct ox_be64 *table);

/* Visits L1 entries of the active tree, or of all. The visitors with _co may suspend. */
int ox_walk_l1_co(struct ox_walk *w, bool all_trees, ox_walk_l1_fn visit_co);
/* Visits L2 tables, each once, in host order. */
int ox_walk_l2_co(struct ox_walk *w, bool active_only, ox_walk_l2_fn visit_co);

/* All but those that were done before (crew.h), by their index in l2_clusters. */
int ox_walk_l2_but_co(struct ox_walk *w, const uint64_t *done, ox_walk_l2_fn visit_co);

/* ---- mapping.c: counting what L1 and L2 entries name ---- */

int ox_walk_count_l1_co(struct ox_walk *w);
/* What is odd in a table whose runs have been counted. */
int ox_walk_settle_digest_co(struct ox_walk *w, const struct ox_digest *d, uint64_t cluster,
			     struct ox_cell cell);
/* Notes a cluster that L1 names and that is no table; in ascending order, others are left out. */
int ox_walk_note_no_table(struct ox_walk *w, uint64_t cluster);
bool ox_walk_is_no_table(const struct ox_walk *w, uint64_t cluster);
/* ---- tables.c: counting L2 tables, all of them or one ---- */

int ox_walk_count_l2_co(struct ox_walk *w);
int ox_walk_count_l2_table_co(struct ox_walk *w, uint64_t cluster, struct ox_cell cell,
			      struct ox_be64 *table);

/* ---- compare.c ---- */

int ox_walk_compare_co(struct ox_walk *w);
int ox_walk_report_co(struct ox_walk *w);

/* ---- suspects.c ---- */

int ox_walk_suspect(struct ox_walk *w, uint64_t cluster);
int ox_walk_explain_co(struct ox_walk *w);
/* The finding of a suspect, by its index, that is explained and overflows. False: it does not. */
bool ox_walk_overflow_of(const struct ox_walk *w, uint64_t at, struct ox_found *ret);

/* ---- copied.c ---- */

enum ox_walk_copied {
	OX_COPIED_REPORT,    /* against the stored counts */
	OX_COPIED_FIX,	     /* to the counted ones */
	OX_COPIED_FIX_LEAKS, /* where lowering a leak makes a count one */
};
int ox_walk_copied_co(struct ox_walk *w, enum ox_walk_copied how);
int ox_walk_drop_stale_co(struct ox_walk *w);
int ox_walk_drop_stale_l1_co(struct ox_walk *w);

/* ---- rebuild.c ---- */

/* Refcount blocks to be added, and the larger table that may take. All-zero: nothing. */
struct ox_walk_plan {
	uint64_t *indexes;
	uint64_t *block_clusters;
	uint64_t count;
	uint64_t table_cluster; /* 0: the table stays where it is */
	uint64_t table_clusters;
	uint64_t end; /* clusters that the file then has */
};

/* Chooses places past everything and counts them as references. 0 also where it cannot be done,
 * with a finding. */
int ox_walk_plan_blocks(struct ox_walk *w, struct ox_walk_plan *ret);
void ox_walk_plan_free(struct ox_walk_plan *plan);
/* The blocks' content: nothing names them yet. */
int ox_walk_write_blocks_co(struct ox_walk *w, const struct ox_walk_plan *plan);
/* Links what was written and has been synced. Syncs. */
int ox_walk_link_blocks_co(struct ox_walk *w, const struct ox_walk_plan *plan);

/* ---- salvage.c ---- */

/* Whether a cluster belongs to an L2 table that nothing names, as far as that can be read. */
bool ox_salvage_keeps(const struct ox_walk *w, uint64_t cluster);
/* Whether it may belong to one, so that its count is not lowered. */
bool ox_salvage_keeps_count(const struct ox_walk *w, uint64_t cluster);
/* And then why it is not. */
const char *ox_salvage_why_kept(const struct ox_walk *w);
/* Whether an orphan may be what an L1 entry named: then nothing is taken away that tells so. */
bool ox_salvage_awaits(const struct ox_walk *w, uint64_t tree, uint64_t index);
/* An L1 entry was taken away: what it named may be among the orphans, so none is the only one. */
void ox_salvage_note_dropped(struct ox_walk *w);
/* Whether one may belong where L1 names something else's clusters: then that is not copied. */
bool ox_salvage_awaits_alias(const struct ox_walk *w);
/* The lowest cluster at or after from, below end, that is kept; end if there is none. */
uint64_t ox_salvage_next_kept(const struct ox_walk *w, uint64_t from, uint64_t end);

/* ---- patches.c ---- */

/* Writes them all, and syncs. The walk is then to start anew. */
int ox_walk_apply_patches_co(struct ox_walk *w);

/* ---- repair.c ---- */

/* Whether a count stays, though it is higher than the references: what was lost may be in a cluster
 * that nobody names, or in an L2 table that nothing names. */
bool ox_walk_keeps_leak(const struct ox_walk *w, uint64_t cluster, struct ox_cell cell);
/* Makes every count that is too low right, durably, in the blocks that there are. */
int ox_walk_raise_counts_co(struct ox_walk *w);
/* Makes what was planned durable, with every count that is too low, and then links it. */
int ox_walk_publish_counts_co(struct ox_walk *w, const struct ox_walk_plan *plan);

/* Before a walk that repairs: makes durable what it is about to judge. A process that died may have
 * left tables that only the page cache has, and a count that was lowered for their sake would
 * outlive them (D3, D9). */
int ox_walk_settle_co(const struct ox_walk *w, struct ox_io *io, struct ox_error **err);
/* Steps 1 to 5 of a repair; what is structural stays. Everything is synced. */
int ox_walk_repair_co(struct ox_walk *w);
/* Sets every count of the blocks that there are to what was counted. Not synced. */
int ox_walk_write_counts_co(struct ox_walk *w);
/* Clears the bits in the header's incompatible word, durably (H9). */
int ox_walk_clear_bits_co(struct ox_walk *w, uint64_t bits);
/* Writes the header's fields, one sector, and syncs. */
int ox_walk_write_header_co(struct ox_walk *w, const struct ox_qcow2_header *h);

#endif
