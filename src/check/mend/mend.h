/* SPDX-License-Identifier: MIT */
/*
 * Repairs: what changes an image, each in the order of writes that docs/check.md gives. Which of
 * them are due, and in which order, is for the table of steps to say (steps.c). After one that
 * changed what the tables name the walk starts again.
 */
#ifndef OX_CHECK_MEND_H
#define OX_CHECK_MEND_H

#include "base/error.h"
#include "check/drive/seen.h"
#include "check/judge/judge.h"
#include "check/ledger/stored.h"

/* An L2 table as an L1 index names it, in one tree or in several. */
struct ox_place {
	uint64_t cluster;
	uint64_t index;
	uint64_t tree; /* the first that does */
	uint32_t refs; /* L1 entries */
	uint64_t copy; /* cluster of the copy that takes its place here; 0: none */
};

/* By cluster, and by index where that is equal. */
struct ox_places {
	struct ox_place *items;
	struct ox_place **indexed; /* the same by index */
	size_t count;
	size_t room;
};

/* The repairs of one walk. */
struct ox_mend {
	/* For the one who leads the walk to set. */
	struct ox_walk *w;
	struct ox_judge *g;
	struct ox_keeper *keeper;
	enum ox_repair repair;
	bool is_last; /* no round follows that puts right what this one leaves */
	struct ox_error **err;
	uint64_t lost; /* what earlier walks took away */

	struct ox_places places; /* once it was read */
	struct ox_stored stored;
	uint64_t changes; /* entries */
	uint64_t dropped; /* of them, those whose guest range is lost; and what else was given up */
	bool has_dropped; /* stale entries */
	bool narrow_copies; /* counts are too narrow for copies that are to be made: */
	uint64_t most_refs;
};

void ox_mend_close(struct ox_mend *m);

/* ---- steps.c ---- */

/* What changes what the tables name, or which tables there are. *ret_again: something did. */
int ox_mend_structure_co(struct ox_mend *m, bool *ret_again);
/* What makes counts and COPIED bits right; what is structural stays. Everything is synced. */
int ox_mend_counts_co(struct ox_mend *m);

/* ---- header.c: writes of the header's cluster ---- */

/* Writes the header's fields, one sector, and syncs. */
int ox_mend_write_header_co(struct ox_io *io, const struct ox_qcow2_header *h);
/* Clears the bits in the header's incompatible word, durably (H9). */
int ox_mend_clear_bits_co(const struct ox_view *v, uint64_t bits);
/* Writes all patches, and syncs. */
int ox_mend_apply_patches_co(struct ox_mend *m, bool *ret_again);

/* ---- lost_reftable.c, lost_bitmaps.c, lost_l1.c, snapshot_table.c: tables that are found again
 * ---- */

/* Whether the header leads to no refcount table, and counts are asked for. */
bool ox_mend_lacks_reftable(const struct ox_mend *m);
/* Finds it. *ret_again: it did. */
int ox_mend_reftable_co(struct ox_mend *m, bool *ret_again);

/* Finds the directory of the bitmaps that are vouched for, where no extension tells it, or gives
 * them up. *ret_again: something was changed. */
int ox_mend_lost_bitmaps_co(struct ox_mend *m, bool *ret_again);
/* Damage in the snapshot table, or records of it that lead nowhere. */
static inline uint64_t ox_mend_bad_snapshots(const struct ox_walk *w)
{
	return ox_seen_bad_snapshots(w->j) + w->v.bad_records;
}

/* Whether the header leads to no L1 table, and everything else in it is sound. */
bool ox_mend_lacks_l1(const struct ox_mend *m);
/* Finds the disk's L1 table then. *ret_again: it did. */
int ox_mend_l1_offset_co(struct ox_mend *m, bool *ret_again);
/* Makes a damaged snapshot table anew. *ret_again: what the walk knows no longer holds. */
int ox_mend_snapshots_co(struct ox_mend *m, bool *ret_again);

/* ---- stale.c ---- */

/* Drops what names bytes that never were, once, and syncs. */
int ox_mend_drop_stale_co(struct ox_mend *m, bool *ret_again);
/* Of L1 entries alone, and not synced. */
int ox_mend_drop_stale_l1_co(struct ox_mend *m);

/* ---- places.c ---- */

/* Reads all L1 tables, once. 0 or a negative errno. */
int ox_mend_read_places_co(struct ox_mend *m);
/* The places of a table, and how many; NULL: none. */
struct ox_place *ox_places_find(const struct ox_places *places, uint64_t cluster,
				size_t *ret_count);
/* The tables that the trees have at an index, and how many. */
struct ox_place *const *ox_places_at(const struct ox_places *places, uint64_t index,
				     size_t *ret_count);
/* Adds to a finding the guest range of an L2 table's entry. */
void ox_mend_at_entry(const struct ox_view *v, const struct ox_place *place, uint64_t entry,
		      struct ox_found *what);

/* ---- entries.c ---- */

/* Entries that cannot be followed. *ret_again: some were changed. */
int ox_mend_entries_co(struct ox_mend *m, bool *ret_again);
/* Whether an L1 entry cannot be followed, names nothing in the file, and no lost table may be what
 * it named. Where entries.c left it, nothing tells what that was. */
bool ox_mend_is_given_up(const struct ox_mend *m, uint64_t tree, uint64_t index, uint64_t raw);

/* ---- zeroes.c ---- */

/* Whether there are L1 entries that cannot be followed, and that only a table of explicit zeroes
 * can take the place of. */
bool ox_mend_lacks_zeroes(const struct ox_mend *m);
/* Makes such tables, once nothing else was to be done about entries. *ret_again: it did. */
int ox_mend_zeroes_co(struct ox_mend *m, bool *ret_again);

/* ---- unalias.c ---- */

/* Clusters that may be added to the file, of copies or of tables. */
static inline uint64_t ox_mend_budget(const struct ox_walk *w)
{
	return w->v.file_clusters > 1024 ? w->v.file_clusters : 1024;
}
/* What is named for several guest offsets, or as guest data and metadata, is copied. */
int ox_mend_aliases_co(struct ox_mend *m, bool *ret_again);
/* Whether clusters that are added can be counted: no block that cannot be read, or is something
 * else too, would have to. */
bool ox_mend_can_count(const struct ox_ledger *k, uint64_t base, uint64_t end);

/* ---- widen.c ---- */

/* Whether counts are too narrow, and can be made wider. */
bool ox_mend_is_narrow(const struct ox_mend *m);
/* Makes them wider. *ret_again: they are. */
int ox_mend_width_co(struct ox_mend *m, bool *ret_again);

/* ---- rebuild.c ---- */

/* Refcount blocks to be added, and the larger table that may take. All-zero: nothing. */
struct ox_plan {
	uint64_t *indexes;
	uint64_t *block_clusters;
	uint64_t count;
	uint64_t room;
	uint64_t table_cluster; /* 0: the table stays where it is */
	uint64_t table_clusters;
	uint64_t end; /* clusters that the file then has */
};

/* Where something can be put past everything that is in use. */
uint64_t ox_mend_end_of_all(const struct ox_mend *m);
/* Chooses places past everything and counts them as references. 0 also where it cannot be done,
 * with a finding. */
int ox_plan_make(const struct ox_mend *m, struct ox_plan *ret);
void ox_plan_free(struct ox_plan *plan);
/* The blocks' content: nothing names them yet. */
int ox_plan_write_co(struct ox_walk *w, const struct ox_plan *plan);
/* Links what was written and has been synced. Syncs. */
int ox_plan_link_co(struct ox_walk *w, const struct ox_plan *plan);

/* ---- counts.c ---- */

/* Whether a count stays, though it is higher than the references: what was lost may be in a cluster
 * that nobody names, or in an L2 table that nothing names. */
bool ox_mend_keeps_leak(const struct ox_mend *m, uint64_t cluster, struct ox_cell cell);
/* Makes every count that is too low right, durably, in the blocks that there are. */
int ox_mend_raise_counts_co(struct ox_walk *w);
/* Makes what was planned durable, with every count that is too low, and then links it. */
int ox_mend_publish_counts_co(struct ox_walk *w, const struct ox_plan *plan);
/* Both for all counts that are too low. */
int ox_mend_raise_and_link_co(struct ox_mend *m, bool *ret_again);
/* COPIED bits, of the active tables. */
bool ox_mend_copied_is_due(const struct ox_mend *m);
int ox_mend_copied_co(struct ox_mend *m, bool *ret_again);
/* Frees what leaked. */
int ox_mend_lower_co(struct ox_mend *m, bool *ret_again);
/* Sets every count of the blocks that there are to what was counted. Not synced. */
int ox_mend_write_counts_co(struct ox_mend *m);

#endif
