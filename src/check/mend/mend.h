/* SPDX-License-Identifier: MIT */
/*
 * Repairs of structural findings: what changes which clusters the tables name (docs/check.md,
 * steps 1a and 1b). After one that changed anything the walk starts again.
 */
#ifndef OX_CHECK_MEND_H
#define OX_CHECK_MEND_H

#include <stddef.h>

#include "check/ledger/stored.h"
#include "check/mend/seen.h"
#include "check/walk/walk.h"

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

struct ox_unalias;

/* What the running pass keeps; the walk holds it for its visitors. */
struct ox_mend {
	struct ox_places places;
	struct ox_stored stored;
	struct ox_unalias *unalias;
	uint64_t changes; /* entries */
	uint64_t dropped; /* of them, those whose guest range is lost */
};

/* ---- places.c ---- */

/* Reads all L1 tables. 0 or a negative errno. */
int ox_places_read_co(struct ox_walk *w);
/* The places of a table, and how many; NULL: none. */
struct ox_place *ox_places_find(const struct ox_places *places, uint64_t cluster,
				size_t *ret_count);
/* The tables that the trees have at an index, and how many. */
struct ox_place *const *ox_places_at(const struct ox_places *places, uint64_t index,
				     size_t *ret_count);
void ox_places_free(struct ox_places *places);

/* Adds to a finding the guest range of an L2 table's entry, and what became of it. */
void ox_mend_at_entry(const struct ox_walk *w, const struct ox_place *place, uint64_t entry,
		      struct ox_found *what);

/* ---- entries.c ---- */

/* Step 1a: entries that cannot be followed. */
int ox_mend_entries_co(struct ox_walk *w);

/* ---- unalias.c ---- */

/* Step 1b: what is named for several guest offsets, or as guest data and metadata, is copied. */
int ox_mend_aliases_co(struct ox_walk *w);

/* Whether clusters that are added can be counted: no block that cannot be read, or is something
 * else too, would have to. */
bool ox_mend_can_count(const struct ox_walk *w, uint64_t base, uint64_t end);

/* ---- widen.c ---- */

/* Step 1c: counts that are too narrow. *ret_again: they are wider now. */
int ox_mend_width_co(struct ox_walk *w, bool *ret_again);

/* ---- snapshot_table.c ---- */

/* Makes a damaged snapshot table anew. *ret_again: what the walk knows no longer holds. */
int ox_mend_snapshots_co(struct ox_walk *w, bool *ret_again);

/* ---- lost_l1.c ---- */

/* Finds the disk's L1 table where the header leads to none. *ret_again: it did. */
int ox_mend_l1_offset_co(struct ox_walk *w, bool *ret_again);

/* ---- lost_reftable.c ---- */

/* Finds the refcount table, where the header leads to none and counts are asked for. *ret_again: it
 * did. */
int ox_mend_reftable_co(struct ox_walk *w, bool *ret_again);

/* ---- lost_bitmaps.c ---- */

/* Finds the directory of the bitmaps that are vouched for, where no extension tells it, or gives
 * them up. *ret_again: something was changed. */
int ox_mend_lost_bitmaps_co(struct ox_walk *w, bool *ret_again);

/* ---- why.c ---- */

/* For a journal, of a walk: why what was found is left. */
const char *ox_mend_why_not(const void *arg, enum ox_finding_id id, const struct ox_found *what);

/* Damage in the snapshot table, or records of it that lead nowhere. */
static inline uint64_t ox_mend_bad_snapshots(const struct ox_walk *w)
{
	return ox_seen_bad_snapshots(w->j) + w->v.bad_records;
}

/* ---- mend.c ---- */

/* Steps 1, 1a and 1b, as far as this walk's knowledge reaches. *ret_again: something was changed,
 * durably, and what the walk knows no longer holds. */
int ox_mend_co(struct ox_walk *w, bool *ret_again);

#endif
