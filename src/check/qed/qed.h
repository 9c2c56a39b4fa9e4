/* SPDX-License-Identifier: MIT */
/*
 * Checking and repairing QED images (docs/check.md). The findings, the cells and the store that is
 * read are those of the walk over qcow2 images; the walk itself is another, for there are neither
 * reference counts nor snapshots.
 */
#ifndef OX_CHECK_QED_H
#define OX_CHECK_QED_H

#include "base/arith.h"
#include "check/counts/counts.h"
#include "check/drive/drive.h"
#include "fmt/qed.h"

/* An L2 table that can be followed, or a second L1 entry that names one. */
struct ox_qed_table {
	uint64_t offset;
	uint32_t index;	      /* in L1 */
	uint32_t first_index; /* of a second entry: the one that has the table */
	uint32_t more_names;  /* other L1 entries that name it */
	uint32_t used;	      /* data entries, */
	uint32_t odd;	      /* and those of them that no offset of a cluster is */
	bool is_crossed;      /* another table claims a part of it: it is not written */
	bool is_doubtful;     /* it may be guest data: no entry of it is taken away */
};

struct ox_qed_tables {
	struct ox_qed_table *list;
	size_t count;
	size_t room;
};

/* A cluster that several entries name. */
struct ox_qed_shared {
	uint64_t cluster;
	uint64_t first_entry; /* its number; UINT64_MAX: not met yet */
};

struct ox_qed_mend;

struct ox_qed {
	struct ox_journal j;
	struct ox_why why;
	struct ox_io *io;
	struct ox_qed_header h;
	uint64_t cluster_bytes;
	uint64_t file_bytes; /* as far as the walk goes */
	uint64_t file_clusters;
	bool dirty;
	bool is_foreign;
	struct ox_counts cells;
	uint64_t table_bytes;
	uint64_t table_entries;
	uint64_t header_bytes;
	bool has_l1;
	struct ox_qed_tables tables;	 /* by L1 index; each once */
	struct ox_qed_tables more_names; /* of tables that another L1 entry has */
	struct ox_qed_shared *shared;	 /* ascending */
	uint64_t shared_count;
	uint64_t total_clusters;
	uint64_t allocated;
	uint64_t fragmented;
	uint64_t stale;	      /* entries to drop */
	uint64_t guessed;     /* entries mended, whose ranges are lost or in doubt */
	uint64_t on_metadata; /* data entries */
	uint64_t bad_l1;      /* entries that lead nowhere, */
	bool l1_is_crossed;   /* and the whole table: as of an L2 table */
	bool has_doubtful;    /* tables */
	bool is_short;	      /* the last cluster in use is not whole */
	bool changes_entries;
	/* After each piece of a table. NULL: nobody waits meanwhile. */
	int (*pause_co)(void *arg); /* -ECANCELED: the walk is to end */
	void *pause_arg;
	uint64_t last_l1_index; /* of the data entry that was counted last */
	uint64_t next_contiguous;
	struct ox_qed_mend *mend; /* while ox_qed_mend_co runs */
};

/* Where an entry stands, and what it stands for. */
struct ox_qed_slot {
	uint64_t l1_index;
	uint64_t entry;	       /* the data entry's number in the disk's order, or the first's */
	uint64_t guest_offset; /* UINT64_MAX: past what offsets can say */
	struct ox_qed_table *table; /* NULL: it is the L1 entry */
};

/* One entry that is not 0. Where the pass changes_entries, what is changed is written. */
typedef int (*ox_qed_entry_fn)(struct ox_qed *q, const struct ox_qed_slot *slot, uint64_t *entry);

/* ---- walk.c ---- */

/* Of the file's first file_bytes, or all of it where it has no more. */
int ox_qed_open_co(struct ox_qed *q, struct ox_io *io, uint64_t file_bytes, struct ox_error **err);
void ox_qed_close(struct ox_qed *q);
/* Counts, and finds what is wrong, but for leaks. 0; -ENOMEM; or what a write gave. */
int ox_qed_walk_co(struct ox_qed *q);

/* Its parts, in this order, for those who go on from one to the next in their own way: a visit of
 * every L1 entry follows the first, one of every L2 entry the third. 0 or -ENOMEM. */
int ox_qed_judge_header(struct ox_qed *q);
int ox_qed_collect_table(struct ox_qed *q, const struct ox_qed_slot *slot, uint64_t *entry);
int ox_qed_claim_tables(struct ox_qed *q);
int ox_qed_count_data(struct ox_qed *q, const struct ox_qed_slot *slot, uint64_t *entry);

static inline uint64_t ox_qed_guest_offset(const struct ox_qed *q, uint64_t entry)
{
	uint64_t offset;

	return ox_mul_u64(entry, q->cluster_bytes, &offset) ? offset : UINT64_MAX;
}

/* Of an L1 entry; tables have so few entries that their numbers fit. */
static inline struct ox_qed_slot ox_qed_l1_slot(const struct ox_qed *q, uint64_t l1_index)
{
	uint64_t entry = l1_index * q->table_entries;

	return (struct ox_qed_slot){
		.l1_index = l1_index,
		.entry = entry,
		.guest_offset = ox_qed_guest_offset(q, entry),
	};
}

static inline enum ox_qed_place ox_qed_place_of(const struct ox_qed *q, uint64_t offset,
						uint64_t size_bytes)
{
	return ox_qed_judge_place(&q->h, offset, size_bytes, q->file_bytes);
}

/* What an entry that leads nowhere is called. */
enum ox_finding_id ox_qed_bad_entry(const struct ox_qed *q, const struct ox_qed_slot *slot,
				    enum ox_qed_place place);
struct ox_found ox_qed_found(const struct ox_qed *q, const struct ox_qed_slot *slot,
			     uint64_t entry);
/* For qsort and bsearch of tables: by their L1 index. */
int ox_qed_by_index(const void *one, const void *other);
/* The cluster among the shared ones; NULL: it is not. */
struct ox_qed_shared *ox_qed_find_shared(const struct ox_qed *q, uint64_t cluster);

/* ---- entries.c: the ways through the tables ---- */

/* What a pass over a table adds to the progress. */
uint64_t ox_qed_table_pieces(const struct ox_qed *q);
int ox_qed_l1_co(struct ox_qed *q, ox_qed_entry_fn visit_co);
/* All tables that can be followed, by L1 index. */
int ox_qed_l2_co(struct ox_qed *q, ox_qed_entry_fn visit_co);

/* ---- mend.c ---- */

/* Mends what one walk can. *ret_again: another one may see more. */
int ox_qed_mend_co(struct ox_qed *q, bool *ret_again);
/* Clears the bits that vouch for what only other programs keep true, durably: before anything else
 * is changed. */
int ox_qed_clear_autoclear_co(struct ox_qed *q);
/* Clears NEED_CHECK, durably, and what a program that changes the image has to clear. */
int ox_qed_clear_need_check_co(struct ox_qed *q);

/* ---- leaks.c ---- */

struct ox_qed_leaks_how {
	bool frees;   /* if nothing speaks against it */
	bool guessed; /* this repair did: what is right may be among the leaks */
	bool frees_lost_tables;
};

/* After the walk that judges: tells what nothing names and takes space, and gives it back. */
int ox_qed_leaks_co(struct ox_qed *q, const struct ox_qed_leaks_how *how);

#endif
