/* SPDX-License-Identifier: MIT */
/*
 * What the walk knows of each host cluster: what it is, and how often it is named.
 *
 * Cells lie in regions of 4096 clusters. Nearly always one kind of cell fills nearly all of a
 * region (a data cluster that one active entry names, with COPIED), so a region begins as a
 * bitmap for that kind and a short list of exceptions. Where that does not fit it takes a byte a
 * cell, and four where one is named more than 15 times. A region exists only once something in it
 * is named, and only clusters below the limit (which comes from the file's real length) have
 * cells. Counts stop at OX_COUNT_MAX.
 */
#ifndef OX_CHECK_COUNTS_H
#define OX_CHECK_COUNTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define OX_COUNT_MAX UINT32_C(0x0fffffff)

/*
 * What a cluster is. The two flags of L2 and DATA say how active entries name it; neither means
 * that snapshots alone do. BROKEN: named in ways that exclude each other (a structural finding
 * has been reported), so nothing about it is repaired.
 */
enum ox_cell_state {
	OX_CELL_NONE,
	OX_CELL_META, /* named once, shared with nothing */
	OX_CELL_COMPRESSED,
	OX_CELL_BROKEN,
	OX_CELL_L2 = 4,
	OX_CELL_DATA = 8,
	OX_CELL_BROKEN_L2 = 12,
	OX_CELL_COPIED = 1, /* flag: by an entry with COPIED */
	OX_CELL_PLAIN = 2,  /* flag: by an entry without */
};

struct ox_cell {
	unsigned state; /* enum ox_cell_state */
	uint32_t count;
};

static inline bool ox_cell_is_l2(struct ox_cell c)
{
	return (c.state & ~3u) == OX_CELL_L2 || (c.state & ~3u) == OX_CELL_BROKEN_L2;
}

static inline bool ox_cell_is_data(struct ox_cell c)
{
	return (c.state & ~3u) == OX_CELL_DATA;
}

static inline bool ox_cell_is_broken(struct ox_cell c)
{
	return c.state == OX_CELL_BROKEN || (c.state & ~3u) == OX_CELL_BROKEN_L2;
}

/* The OX_CELL_COPIED and OX_CELL_PLAIN flags of a sound L2 or data cluster; 0 for others. */
static inline unsigned ox_cell_active(struct ox_cell c)
{
	return c.state >= OX_CELL_L2 && c.state < OX_CELL_BROKEN_L2 ? c.state & 3u : 0;
}

/* What the references of data and compressed entries, and no others, are together. */
static inline struct ox_cell ox_cell_add(struct ox_cell a, struct ox_cell b)
{
	struct ox_cell sum = {.state = a.state | b.state, .count = OX_COUNT_MAX};

	/* A compressed stream's last sectors may lie in a cluster that others use. */
	if (a.state == OX_CELL_COMPRESSED && ox_cell_is_data(b))
		sum.state = b.state;
	else if (b.state == OX_CELL_COMPRESSED && ox_cell_is_data(a))
		sum.state = a.state;
	if (a.count < OX_COUNT_MAX - b.count)
		sum.count = a.count + b.count;
	return sum;
}

struct ox_counts_region;

struct ox_counts {
	uint64_t limit; /* clusters that can have a cell */
	struct ox_counts_region **top;
	uint64_t top_count;
	uint64_t end;	     /* one past the highest cluster that was ever set */
	uint64_t wide_bytes; /* memory of regions that were given more than a bit a cell */
};

/* 0 or -ENOMEM. */
int ox_counts_init(struct ox_counts *k, uint64_t limit_clusters);
void ox_counts_free(struct ox_counts *k);
/* Makes room for clusters that a repair adds to the file. 0 or -ENOMEM. */
int ox_counts_extend(struct ox_counts *k, uint64_t limit_clusters);

/* Past the limit: NONE. */
struct ox_cell ox_counts_get(const struct ox_counts *k, uint64_t cluster);
/* The cluster must be below the limit. 0 or -ENOMEM. */
int ox_counts_set(struct ox_counts *k, uint64_t cluster, struct ox_cell cell);
/* Counts times references of a kind (OX_CELL_META; OX_CELL_L2, OX_CELL_DATA with flags;
 * OX_CELL_COMPRESSED). 1; 0 where the cluster is in use as something else (it is then BROKEN, and
 * the caller reports it); or -ENOMEM. */
int ox_counts_refer(struct ox_counts *k, uint64_t cluster, unsigned state, uint32_t times);
/* Sets those of the clusters [first, first + count) that come first and are all NONE, as many as
 * is quick; the range must be below the limit. May stop anywhere, also before the first one: that
 * one is then for ox_counts_set. Returns how many were set, or -ENOMEM. */
int64_t ox_counts_fill(struct ox_counts *k, uint64_t first, uint64_t count, struct ox_cell cell);
/* Adds what other counts, which are of data and compressed entries alone wherever both have
 * something. Of the same limit. Other is empty afterwards, also without memory. 0 or -ENOMEM. */
int ox_counts_merge(struct ox_counts *k, struct ox_counts *other);
/* Has the CPU fetch the cell that is to be set soon. */
void ox_counts_prefetch(const struct ox_counts *k, uint64_t cluster);
/* Whether no cluster of the range has a cell but NONE. */
bool ox_counts_is_none(const struct ox_counts *k, uint64_t first, uint64_t count);
/* The lowest cluster at or after from, below end, whose cell is not NONE; end if there is none. */
uint64_t ox_counts_next(const struct ox_counts *k, uint64_t from, uint64_t end);
/* The same of a cell that is NONE. */
uint64_t ox_counts_next_none(const struct ox_counts *k, uint64_t from, uint64_t end);

/* 64 cells at once, the first in bit 0. Those in neither are NONE. */
struct ox_counts_mask {
	uint64_t once; /* named once, and nothing is wrong with them if their refcount is one */
	uint64_t other;
};

/* Of the cells from a multiple of 64 on. */
struct ox_counts_mask ox_counts_mask(const struct ox_counts *k, uint64_t from);

#endif
