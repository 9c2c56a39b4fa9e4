/* SPDX-License-Identifier: MIT */
/*
 * One walk over a qcow2 image: it makes the claims, then goes through the L1 and L2 tables and
 * counts what they name. Others go the same ways with visitors, and state, of their own.
 *
 * A negative errno is returned only where the check cannot go on (no memory, a write that failed);
 * what is wrong with the image is a finding.
 */
#ifndef OX_CHECK_WALK_H
#define OX_CHECK_WALK_H

#include "check/counts/clusters.h"
#include "check/ledger/ledger.h"
#include "check/walk/digest.h"

struct ox_walk {
	struct ox_journal *j; /* for the one who leads the walk to set */
	struct ox_view v;
	struct ox_ledger k;

	struct ox_clusters tables;    /* every L2 table, ascending */
	struct ox_clusters no_tables; /* of them, those that hold no table, or cannot be read */
	uint64_t *places;	 /* of each table, once someone asked (ox_walk_place_tables_co) */
	struct ox_digest digest; /* of ox_walk_count_l2_table_co */

	/* What was met. */
	uint64_t total_clusters; /* of the disk */
	uint64_t allocated;
	uint64_t fragmented;
	uint64_t compressed;
	uint64_t stale;		 /* entries to drop */
	uint64_t header_streams; /* compressed entries in the header's cluster */
	uint64_t bad_l1_entries; /* and those that name what is no table */
	uint64_t compressed_copied;
};

/* ---- walk.c ---- */

/* Of an all-zero walk that has its journal. */
int ox_walk_open_co(struct ox_walk *w, struct ox_io *io, struct ox_error **err);
void ox_walk_close(struct ox_walk *w);
int ox_walk_count_co(struct ox_walk *w);
/* Its beginning: the claims, what L1 entries name, and the list of L2 tables. */
int ox_walk_claim_co(struct ox_walk *w);

/* ---- trees.c: the ways through L1 and L2 tables ---- */

/* One L1 entry that is not zero, in place. */
typedef int (*ox_walk_l1_fn)(void *arg, uint64_t tree, uint64_t index, struct ox_be64 *entry);
/* A whole L2 table. */
typedef int (*ox_walk_l2_fn)(void *arg, uint64_t cluster, struct ox_cell cell,
			     struct ox_be64 *table);

enum ox_ways {
	OX_WAYS_ALL = 0,
	OX_WAYS_ACTIVE = 1, /* of the active tree alone */
	OX_WAYS_CHANGE = 2, /* sectors that a visitor changes are written */
};

/* Visits L1 entries. The visitors with _co may suspend. */
int ox_walk_l1_co(struct ox_walk *w, unsigned ways, ox_walk_l1_fn visit_co, void *arg);
/* Visits L2 tables, each once, in host order. */
int ox_walk_l2_co(struct ox_walk *w, unsigned ways, ox_walk_l2_fn visit_co, void *arg);
/* All but those that were done before (scan/crew.h), by their index in tables. */
int ox_walk_l2_but_co(struct ox_walk *w, const uint64_t *done, ox_walk_l2_fn visit_co, void *arg);

/* ---- mapping.c, tables.c: counting what L1 and L2 entries name ---- */

int ox_walk_count_l1_co(struct ox_walk *w);
int ox_walk_count_l2_co(struct ox_walk *w);
int ox_walk_count_l2_table_co(struct ox_walk *w, uint64_t cluster, struct ox_cell cell,
			      const struct ox_be64 *table);
/* What is odd in a table whose runs have been counted. */
int ox_walk_settle_digest_co(struct ox_walk *w, const struct ox_digest *d, uint64_t cluster,
			     struct ox_cell cell);
/* Notes a cluster that L1 names and that is no table; in ascending order, others are left out. */
int ox_walk_note_no_table(struct ox_walk *w, uint64_t cluster);
bool ox_walk_is_no_table(const struct ox_walk *w, uint64_t cluster);

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

/* Notes, once, at which place of an L1 table each L2 table is named first. */
int ox_walk_place_tables_co(struct ox_walk *w);
/* Then: the place of a table, or OX_WALK_NO_PLACE. */
uint64_t ox_walk_place_of(const struct ox_walk *w, uint64_t l2_cluster);
/* ox_journal_found, with the guest range of an L2 table's entry. 0, or what reading L1 tables gave.
 */
int ox_walk_found_in_l2_co(struct ox_walk *w, uint64_t l2_cluster, uint64_t index,
			   enum ox_finding_id id, struct ox_found what);

#endif
