/* SPDX-License-Identifier: MIT */
/*
 * Who names each cluster, and what the image's own counts say: the cells, and the refcount
 * structure. Claims, references and whatever a repair adds are written here; what they mean is
 * judged above.
 */
#ifndef OX_CHECK_LEDGER_H
#define OX_CHECK_LEDGER_H

#include "check/counts/counts.h"
#include "check/view/view.h"

enum ox_block_state {
	OX_BLOCK_NONE, /* the table has no block here */
	OX_BLOCK_SOUND,
	OX_BLOCK_BROKEN, /* there is an entry, but no block of its own that could be read */
};

/* One refcount table entry. */
struct ox_block {
	uint8_t state; /* enum ox_block_state */
	bool raise;    /* holds a count that is too low */
	bool lower;    /* holds a leak */
	uint8_t found; /* BROKEN: enum ox_finding_id */
};

/* A refcount structure. */
struct ox_refcounts {
	uint64_t offset; /* of the table; 0 clusters: there is none */
	uint32_t clusters;
	unsigned order;
	uint64_t block_entries;
	struct ox_be64 *table; /* as on disk, index_count entries */
	struct ox_block *blocks;
	uint64_t index_count;
	uint64_t table_entries; /* those of the table on disk; index_count may be more */
};

struct ox_ledger {
	const struct ox_view *v;
	/* Clusters [first, end) were claimed as exclusive metadata. NULL: nobody asks. 0 or
	 * -ENOMEM. */
	int (*claimed)(void *arg, const char *word, uint64_t first, uint64_t end);
	void *claimed_arg;
	struct ox_counts cells;
	struct ox_refcounts rc;
	uint64_t broken_blocks; /* that the table has */
	uint64_t grown_from;	/* clusters from here on, */
	uint64_t grown_end;	/* and before here, were added by a repair */
};

/* ---- ledger.c ---- */

/* 0 or -ENOMEM. */
int ox_ledger_open(struct ox_ledger *k, const struct ox_view *v);
void ox_ledger_close(struct ox_ledger *k);
/* Claims a range as exclusive metadata. 1: it is; 0: a finding was reported; or -ENOMEM. */
int ox_ledger_claim(struct ox_ledger *k, const char *word, uint64_t offset, uint64_t size_bytes);
/* 1: the file ends before the end of a range, and a count tells that it was longer; 0 or -ENOMEM.
 */
int ox_ledger_was_cut_co(const struct ox_ledger *k, uint64_t offset, uint64_t size_bytes);
/* Claims and reads the refcount table, and claims its blocks. 0 or -ENOMEM. */
int ox_ledger_claim_refcounts_co(struct ox_ledger *k);

/* Whether a refcount block can be written without harm to something else that claims its place. */
bool ox_ledger_block_is_own(const struct ox_ledger *k, uint64_t index);
/* Whether a count of the image's width cannot say how often a cluster is named. */
bool ox_ledger_overflows(const struct ox_ledger *k, struct ox_cell cell);
/* Where blocks lie in the file, and tables have their entries. */
static inline uint64_t ox_ledger_block_offset(const struct ox_ledger *k, uint64_t index)
{
	return ox_be64_get(k->rc.table[index]);
}

/* The block that counts a cluster is to be visited by those who raise, or lower, counts. */
void ox_ledger_mark(struct ox_ledger *k, uint64_t cluster, bool raise, bool lower);

/* ---- what a repair adds ---- */

/* Room for clusters that are added. 0 or -ENOMEM. */
int ox_ledger_grow(struct ox_ledger *k, uint64_t end);
/* From here on, and before end, it was the repair that put something there. */
void ox_ledger_note_grown(struct ox_ledger *k, uint64_t from, uint64_t end);
/* Whether the repair itself put something into the cluster: what it counts there mends nothing. */
static inline bool ox_ledger_is_grown(const struct ox_ledger *k, uint64_t cluster)
{
	return cluster >= k->grown_from && cluster < k->grown_end;
}

/* Counts references of a cluster that is added. 0 or -ENOMEM. */
int ox_ledger_add(struct ox_ledger *k, uint64_t cluster, unsigned state, uint64_t refs);
/* Larger arrays for a larger table; what is new in them is zero. 0 or -ENOMEM. */
int ox_ledger_grow_table(struct ox_ledger *k, uint64_t index_count);
/* The table, as it will be written, names a block; cluster 0: none. */
void ox_ledger_name_block(struct ox_ledger *k, uint64_t index, uint64_t cluster);
/* The table lies elsewhere now, as long as its arrays. What it took is nobody's. 0 or -ENOMEM. */
int ox_ledger_move_table(struct ox_ledger *k, uint64_t offset, uint32_t clusters);
/* Goes on with another structure. */
void ox_ledger_exchange(struct ox_ledger *k, struct ox_refcounts *other);
void ox_refcounts_free(struct ox_refcounts *rc);

/* ---- slots.c: the ways through the counts ---- */

/* One cluster whose stored count is in block (NULL where there is no block) at index. */
struct ox_slot {
	uint64_t cluster;
	uint64_t stored;
	struct ox_cell cell;
	void *block;
	uint64_t index;
	bool changed; /* set by a visitor that changed the block */
};
typedef int (*ox_slot_fn)(void *arg, struct ox_slot *slot);
enum ox_slots { OX_SLOTS_ALL, OX_SLOTS_RAISE, OX_SLOTS_LOWER };

/* Visits every cluster with a count or a reference, of the refcount blocks selected; changed
 * blocks are written. */
int ox_slots_co(struct ox_ledger *k, enum ox_slots select, ox_slot_fn visit, void *arg);
/* Visits all of them in which something differs; first on all cores. */
int ox_slots_compare_co(struct ox_ledger *k, ox_slot_fn visit, void *arg);
/* What a finding says of a slot. */
struct ox_found ox_slot_found(const struct ox_ledger *k, const struct ox_slot *slot);
/* Changes the count of a slot. */
void ox_slot_set(const struct ox_ledger *k, struct ox_slot *slot, uint64_t count);

#endif
