/* SPDX-License-Identifier: MIT */
/*
 * L2 tables that nothing names any more: recognised among the clusters that the walk has not met,
 * held against the L1 entries that cannot be followed, and linked again where there is no choice.
 * docs/check.md ("Salvage") tells what is taken for a table, when one is SURE, which damage in it
 * is borne with, and why that is enough.
 */
#ifndef OX_CHECK_SALVAGE_H
#define OX_CHECK_SALVAGE_H

#include "base/arith.h"
#include "base/error.h"
#include "check/mend/mend.h"

/* Of orphans, and of gaps, that are told apart. Where there are more nothing is linked by itself.
 */
#define OX_SALVAGE_MAX ((size_t)65536)

#define OX_STORED_UNKNOWN UINT64_MAX

/* A cluster that may be an L2 table. Entries are counted, of those that name host clusters. */
struct ox_orphan {
	uint64_t cluster;
	uint64_t stored;	/* its refcount, or OX_STORED_UNKNOWN */
	uint32_t data;		/* entries with a cluster of their own */
	uint32_t streams;	/* compressed ones */
	uint32_t zeros;		/* entries that name nothing and read as zeroes */
	uint32_t runs;		/* of neighbouring clusters */
	uint32_t unshared;	/* nobody else names what they do */
	uint32_t counted;	/* the refcounts tell of a reference that is missing */
	uint32_t taken;		/* others name it, and no reference is missing */
	uint32_t copied;	/* with COPIED */
	uint32_t copied_agrees; /* COPIED is as the refcount says */
	uint32_t orphans;	/* names other orphans */
	uint32_t used;		/* words that are not zero, those that are no entries among them */
	uint32_t damaged; /* of them; nothing else that is counted here includes these, but taken */
	uint32_t past_end; /* of the damaged ones, those that name what lies past the end */
	bool is_named;	   /* by another orphan, as data */
	bool is_nested;	   /* by one that is none of another's data */
	bool is_placed;	   /* a pointer tells its gap */
	bool lacks_block;  /* something of it has no refcount block */
	uint64_t index;	   /* of L1, where clusters that are shared tell it, or OX_WALK_NO_PLACE */
};

/* An L1 entry that cannot be followed, or whose table is none. */
struct ox_l1_gap {
	uint64_t tree;
	uint64_t index;
	uint64_t raw;
	bool is_fixed; /* its part of the L1 table is something else too, and never written */
	bool is_empty; /* its table is all zero and not counted: it may be none; left to the user */
	enum ox_finding_id id; /* what the walk calls it; OX_FOUND_COUNT: by what the table holds */
	const struct ox_orphan *orphan; /* what it is taken to have named; NULL: not known */
};

struct ox_salvage_look;

struct ox_salvage {
	struct ox_keeper keeper; /* what others ask of it */
	const struct ox_check_options *opts;
	bool by_hand_done;
	bool is_over;	   /* an earlier walk of this repair found no orphan */
	bool is_unsettled; /* this repair changed L1 entries that may have named an orphan */
	uint64_t linked;
	uint64_t found;	     /* and left, as the last walk saw it */
	uint64_t unsearched; /* leaked clusters that were too many to look at */

	/* Of one walk. */
	struct ox_walk *w;
	struct ox_judge *g;
	struct ox_mend *m;
	bool has_looked;	   /* at what leaked */
	bool tells_places;	   /* which L1 index an orphan stood at is asked */
	struct ox_orphan *orphans; /* by cluster */
	size_t count;
	size_t room;
	bool too_many;
	bool has_damaged; /* one of them does not tell all that it named */
	struct ox_counts
		kept; /* META: the clusters of orphans and what they name; DATA: only that */
	struct ox_counts crossed; /* L2 tables that are named at several indexes */
	struct ox_l1_gap *gaps;	  /* by tree and index */
	size_t gap_count;
	size_t gap_room;
	uint64_t used_entries; /* of the active L1 table, that are not zero */

	/* Of a scan. */
	struct ox_stored stored;
	uint64_t *hosts;	      /* as many as a table has entries */
	uint64_t next;		      /* cluster, */
	uint64_t end;		      /* and where the stretch of the file ends that is scanned */
	bool is_linking;	      /* what the entries to be changed name is forgotten by now */
	struct ox_salvage_look *look; /* while what leaked is looked at */
};

static inline uint32_t ox_orphan_named(const struct ox_orphan *o)
{
	return o->data + o->streams;
}

/* Eight words of random bits are standard entries of a file of 2^24 clusters with 2^-288, and 32
 * are compressed ones with 2^-320. */
static inline bool ox_orphan_is_telling(const struct ox_orphan *o)
{
	return 4 * o->data + o->streams >= 32;
}

/* One entry of a cluster that may be a table. */
struct ox_orphan_entry {
	struct ox_qcow2_entry e;
	bool names;	  /* clusters, which are counted for it once the table is named */
	bool is_zero;	  /* reads as zeroes, also in part */
	bool is_damaged;  /* cannot be followed as it is */
	bool is_past_end; /* for that reason */
};

static inline const struct ox_salvage *ox_salvage_of(const struct ox_keeper *keeper)
{
	return ox_container_of(keeper, struct ox_salvage, keeper);
}

/* ---- salvage.c: recognising ---- */

void ox_salvage_init(struct ox_salvage *s, const struct ox_check_options *opts);
/* For a walk that begins, which may ask s.keeper. */
void ox_salvage_begin(struct ox_salvage *s, struct ox_mend *m);
struct ox_orphan_entry ox_salvage_entry(const struct ox_walk *w, uint64_t cluster,
					const struct ox_be64 *entry);

/* Looks through all clusters that are in no cell. A negative errno only for want of memory. */
int ox_salvage_find_co(struct ox_salvage *s);
/* Judges the bytes of a cluster that no cell has: *ret_why is NULL where it may be a table, and
 * else says why not. 0 or a negative errno. Inside a scan, or between prepare and finish. */
int ox_salvage_judge_co(struct ox_salvage *s, uint64_t cluster, const struct ox_be64 *table,
			struct ox_orphan *ret, const char **ret_why);
int ox_salvage_prepare(struct ox_salvage *s);
void ox_salvage_finish(struct ox_salvage *s);
/* Notes an orphan; and that of its table what it names is kept. 0 or -ENOMEM. */
int ox_salvage_add(struct ox_salvage *s, const struct ox_orphan *orphan,
		   const struct ox_be64 *table);
int ox_salvage_keep(struct ox_salvage *s, uint64_t cluster, const struct ox_be64 *table);
/* What to keep of a walk that ends, and of the last one. */
void ox_salvage_forget(struct ox_salvage *s);

/* ---- leaked.c: where nobody asked for salvage ---- */

/* Looks, once a walk, for lost tables that are SURE among what leaked, where a repair would free
 * it. 0 or a negative errno. */
int ox_salvage_look_co(struct ox_salvage *s);

/* The same for a recovery, also of a dirty image: what would be kept counts as if it were named. 0
 * or a negative errno. */
int ox_salvage_count_lost_co(struct ox_mend *m);
/* Links such tables to damaged L1 entries, where there is no choice, before these are taken away.
 * *ret_again: the walk is to start anew. None is known afterwards. */
int ox_salvage_link_sure_co(struct ox_salvage *s, bool *ret_again, struct ox_error **err);

/* ---- kin.c: orphans beside each other and beside live tables ---- */

/* Takes out orphans that are another one's data, and notes L1 indexes. 0 or a negative errno. */
int ox_salvage_relate_co(struct ox_salvage *s);
/* The orphan in a cluster, or NULL. */
struct ox_orphan *ox_salvage_at(const struct ox_salvage *s, uint64_t cluster);

/* ---- fit.c: which L1 entry ---- */

/* Lists the gaps, and gives each the orphan that it named, where one alone comes into question. */
int ox_salvage_fit_co(struct ox_salvage *s);
/* Whether the counts tell that an orphan is a table of the disk (tree 0), or of a snapshot. */
bool ox_orphan_is_sure(const struct ox_orphan *o, uint64_t tree);
/* Whether it may be linked there. */
bool ox_orphan_fits(const struct ox_orphan *o, const struct ox_l1_gap *gap);

bool ox_salvage_awaits(const struct ox_keeper *keeper, uint64_t tree, uint64_t index);
bool ox_salvage_awaits_alias(const struct ox_keeper *keeper);

struct ox_l1_gap *ox_salvage_gap(const struct ox_salvage *s, uint64_t tree, uint64_t index);

/* ---- link.c ---- */

/* Links what the user named and what has no choice. *ret_again: the walk is to start anew. */
int ox_salvage_link_co(struct ox_salvage *s, bool *ret_again, struct ox_error **err);
/* Tells of each orphan that is left. */
void ox_salvage_report(struct ox_salvage *s);

#endif
