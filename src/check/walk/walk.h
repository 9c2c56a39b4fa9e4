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

#include "check/counts/counts.h"
#include "check/walk/digest.h"
#include "fmt/qcow2.h"
#include "io/io.h"

enum ox_finding_id {
#define OX_FINDING(id, name, severity, class, lead, text, meaning, fix) OX_FOUND_##id,
#include "check/findings.def"
#undef OX_FINDING
	OX_FOUND_COUNT
};

/* What a finding's message is made of, and where it is. */
struct ox_found {
	const char *word;
	uint64_t a, b, c;
	uint64_t host_offset; /* 0: none */
	uint64_t guest_offset;
	uint64_t guest_length; /* 0: no guest range */
	uint64_t tree;	       /* of the guest range */
	const char *fate;      /* of it after a repair: "lost", "in doubt"; or NULL */
	bool is_told;	       /* the rest of the image tells what is right */
	bool is_apart;	       /* and no reference hangs on it */
	bool loses;	       /* a repair of it gives something up, which may look like leaks */
};

#define OX_FOUND(...) ((struct ox_found){__VA_ARGS__})

/* Neighbouring clusters of which the same is to be told. */
struct ox_walk_run {
	enum ox_finding_id id;
	bool repaired;
	uint64_t length;      /* clusters; 0: there is none */
	struct ox_found what; /* of the first */
	const char *why_not;
};

/* An L1 table: tree 0 is the active one, the others are snapshots'. */
struct ox_walk_tree {
	uint64_t l1_offset;
	uint32_t l1_entries;
	char *name; /* the snapshot's */
};

enum ox_walk_block_state {
	OX_BLOCK_NONE, /* the table has no block here */
	OX_BLOCK_SOUND,
	OX_BLOCK_BROKEN, /* there is an entry, but no block of its own that could be read */
};

/* One refcount table entry. */
struct ox_walk_block {
	uint8_t state; /* enum ox_walk_block_state */
	bool raise;    /* holds a count that is too low */
	bool lower;    /* holds a leak */
	uint8_t found; /* BROKEN: enum ox_finding_id */
};

/* Bytes of the first cluster to be put right: patches.c. */
struct ox_walk_patch {
	enum ox_finding_id id;
	uint64_t offset;
	uint8_t bytes[16];
	size_t size;
	struct ox_found what; /* its word is here: */
	char word[104];
};

/* Of one walk; what is more is found by the next. */
#define OX_WALK_MAX_PATCHES 4096

/* The guest clusters for which a suspect is named, from the first to the last; unless it is a
 * table.
 */
struct ox_walk_reach {
	uint64_t first; /* UINT64_MAX: none was met */
	uint64_t last;
	uint64_t tree; /* of the first that was met */
};

struct ox_walk_copied_pass;
struct ox_mend;
struct ox_salvage;

struct ox_walk {
	struct ox_io *io;
	enum ox_repair repair; /* of the walk that is to repair */
	enum ox_repair asked;  /* what the caller wants, also in the walk that judges */
	bool is_last;	       /* no walk follows that puts right what this one finds */
	bool dry_run;	       /* says what would be repaired */
	void (*finding)(void *opaque, const struct ox_finding *finding);
	void (*progress)(void *opaque, uint64_t done, uint64_t total);
	/* Clusters [first, end) were claimed as exclusive metadata. NULL: nobody asks. 0 or
	 * -ENOMEM.
	 */
	int (*claimed)(struct ox_walk *w, const char *word, uint64_t first, uint64_t end);
	/* After each table and block, where others use the reactor as well. NULL: nobody does. */
	void (*pause_co)(struct ox_walk *w);
	void *opaque;

	struct ox_qcow2_header h; /* faulty fields made harmless */
	struct ox_qcow2_faults faults;
	uint64_t cluster_bytes;
	uint64_t file_bytes;
	uint64_t file_clusters; /* the last one may be short */
	uint64_t block_entries;
	bool dirty;
	bool is_foreign;    /* not all of it is understood: nothing is written */
	bool has_data_file; /* L2 entries name clusters of another file */
	bool verify_data;   /* decompress what is compressed */
	uint64_t
		fence_bytes; /* of an unfinished recovery (docs/recovery.md); 0: none that counts */
	bool has_fence;
	uint64_t list_end_offset; /* of the extension that holds it */
	uint64_t bitmaps_at;	  /* the data of the bitmaps' extension */
	bool lost_bitmaps;	  /* are vouched for, and no extension tells where they are */

	struct ox_walk_patch *patches;
	size_t patch_count;
	size_t patch_room;

	struct ox_counts counts;
	struct ox_walk_tree *trees;
	uint64_t tree_count;
	uint64_t snapshot_bytes; /* of the snapshot table, as far as it can be read */
	uint64_t *l2_clusters;	 /* every L2 table, ascending */
	uint64_t l2_count;
	uint64_t l2_room;

	struct ox_be64 *reftable; /* as on disk, index_count entries */
	struct ox_walk_block *blocks;
	uint64_t index_count;
	uint64_t table_entries; /* those of the table on disk; index_count may be more */

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
	struct ox_mend *mend;		    /* while ox_mend_co runs */
	struct ox_salvage *salvage;	    /* NULL: there is nothing to salvage */
	bool changes_entries;		    /* the running pass may change L1 and L2 entries */

	/* What the passes saw. */
	uint64_t structural; /* STRUCTURAL and UNREADABLE findings */
	uint64_t stale;	     /* entries to drop */
	bool hides_trees;    /* snapshots may share what seems to be the disk's alone */
	uint64_t bad_entries;
	uint64_t bad_l1_entries; /* and those that name what is no table */
	uint64_t bad_snapshots;
	uint64_t past_end;	     /* entries and tables */
	uint64_t past_end_snapshots; /* of them, what the snapshot table and its records name */
	uint64_t aliases;	     /* cross-links and overlaps */
	uint64_t cross_links;	     /* of them */
	uint64_t overflows;	     /* clusters named more often than a count can say */
	uint64_t most_refs;	     /* of these; and of copies that were not made for it: */
	bool narrow_copies;
	uint64_t lost; /* entries that this repair took away, with all its walks */
	uint64_t broken_blocks;
	uint64_t leaks;
	uint64_t too_low;
	uint64_t copied_wrong;	/* against the stored counts */
	uint64_t copied_to_fix; /* against the counted ones */
	uint64_t compressed_copied;
	uint64_t stored_end;	/* one past the highest cluster with a count or a reference */
	char *first_structural; /* its message */
	uint64_t grown_from;	/* clusters from here on, */
	uint64_t grown_end;	/* and before here, were added by the repair */
	bool quiet;		/* findings are counted and not told: a repair comes first */
	struct ox_walk_run run; /* what is still to be told */
	uint64_t work_done;
	uint64_t work_total;
	struct ox_check_result result;
};

/* ---- findings.c ---- */

/* Something is wrong and stays so. */
void ox_walk_found(struct ox_walk *w, enum ox_finding_id id, struct ox_found what);
/* The same of so many neighbouring clusters, of a finding that is told of clusters. */
void ox_walk_found_run(struct ox_walk *w, enum ox_finding_id id, struct ox_found what,
		       uint64_t clusters);
/* A table that cannot be read is a finding, and the walk goes on: 0. Want of memory says nothing of
 * the image, and ends it: -ENOMEM. */
int ox_walk_unreadable(struct ox_walk *w, const char *word, uint64_t offset, int error);
/* Something was wrong and has been mended on disk. */
void ox_walk_mended(struct ox_walk *w, enum ox_finding_id id, struct ox_found what);
/* Findings of neighbouring clusters are held back, to be told as one: tells them. */
void ox_walk_tell_run(struct ox_walk *w);
void ox_walk_progress(struct ox_walk *w, uint64_t work);

/* ---- header.c ---- */

/* Fills in h and faults. An error only where nothing can be made out. */
int ox_walk_read_header_co(struct ox_walk *w, struct ox_error **err);
/* Reports what is wrong with the header's fields. */
void ox_walk_judge_header(struct ox_walk *w);
/* Tells that a fault, where there is one, has been mended. */
void ox_walk_mended_fault(struct ox_walk *w, enum ox_qcow2_fault fault);

/* ---- patches.c ---- */

/* A finding, and the bytes that are right, at most 16 within one sector. */
void ox_walk_patch(struct ox_walk *w, enum ox_finding_id id, struct ox_found what, uint64_t offset,
		   const void *bytes, size_t size);
/* Writes them all, and syncs. The walk is then to start anew. */
int ox_walk_apply_patches_co(struct ox_walk *w);

/* ---- extensions.c: a list that cannot be followed. cluster is the first one. ---- */

/* Whether there is a patch; then cluster and h are as it will leave them. */
bool ox_walk_mend_extensions(struct ox_walk *w, uint8_t *cluster, const char *error);
bool ox_walk_mend_header_length(struct ox_walk *w, uint8_t *cluster);
/* Where the name's place or length is wrong; of a list that can be followed. */
bool ox_walk_mend_backing(struct ox_walk *w, uint8_t *cluster,
			  const struct ox_qcow2_extensions *ext);
/* Whether the bitmaps that are vouched for have their extension, and the right numbers in it: else
 * a patch, where their directory tells. 0 or -ENOMEM. */
int ox_walk_judge_bitmaps_co(struct ox_walk *w, uint8_t *cluster);
/* Of a list that can be followed: where an extension's data is; 0: there is none. */
uint64_t ox_walk_find_extension(struct ox_walk *w, uint8_t *cluster, uint32_t type);
void ox_walk_judge_list_end(struct ox_walk *w, uint8_t *cluster, uint64_t end_offset);

/* Guest bytes under one L1 entry. */
static inline uint64_t ox_walk_l1_span(const struct ox_walk *w)
{
	return ox_qcow2_l2_entries(&w->h) << w->h.cluster_bits;
}

/* Guest bytes under so many, or UINT64_MAX. */
static inline uint64_t ox_walk_mapped(const struct ox_walk *w, uint64_t l1_entries)
{
	uint64_t bytes;

	return ox_mul_u64(l1_entries, ox_walk_l1_span(w), &bytes) ? bytes : UINT64_MAX;
}

/* ---- walk.c: opening, exclusive metadata ---- */

int ox_walk_open_co(struct ox_walk *w, struct ox_io *io, struct ox_error **err);
void ox_walk_close(struct ox_walk *w);
/* Its parts: exclusive metadata; L1 entries, and the list of L2 tables; what those name. */
int ox_walk_claim_all_co(struct ox_walk *w);
int ox_walk_count_co(struct ox_walk *w);
/* Whether nothing at all is wrong. */
bool ox_walk_is_clean(const struct ox_walk *w);

/* Claims a range as exclusive metadata. 1: it is; 0: a finding was reported; or -ENOMEM. */
int ox_walk_claim(struct ox_walk *w, const char *word, uint64_t offset, uint64_t size_bytes);
/* Whether a range reaches a whole cluster or more past the file's end. */
bool ox_walk_past_end(const struct ox_walk *w, uint64_t offset, uint64_t size_bytes);
/* Counts times references of a kind (OX_CELL_L2, OX_CELL_DATA with flags, OX_CELL_COMPRESSED) for
 * a cluster that ox_walk_past_end lets pass. 1; 0 where it is in use as something else (it is then
 * BROKEN, and the caller reports it); or -ENOMEM. */
int ox_walk_refer(struct ox_walk *w, uint64_t cluster, unsigned state, uint32_t times);

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
/* The guest range of a finding, cut at the end of the disk. */
void ox_walk_set_range(const struct ox_walk *w, struct ox_found *what, uint64_t tree,
		       uint64_t offset, uint64_t length);
/* ox_walk_found, with the guest range of an L2 table's entry. 0, or what reading L1 tables gave. */
int ox_walk_found_in_l2_co(struct ox_walk *w, uint64_t l2_cluster, uint64_t index,
			   enum ox_finding_id id, struct ox_found what);

/* ---- names.c ---- */

/* Names that must be unique. */
struct ox_walk_names {
	struct ox_walk_name *list;
	uint64_t count;
	uint64_t room;
};

/* Takes over name. 0 or -ENOMEM; name is then freed. */
int ox_walk_names_add(struct ox_walk_names *names, char *name, uint64_t number);
/* A finding for each that is there twice; frees the names. */
void ox_walk_names_judge(struct ox_walk *w, struct ox_walk_names *names, enum ox_finding_id id);

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
/* What is wrong with an L1 entry that cannot be followed, and its finding. */
struct ox_found ox_walk_bad_l1_entry(const struct ox_walk *w, uint64_t tree, uint64_t index,
				     uint64_t raw, enum ox_finding_id *ret_id);
/* What entries of the L2 table may name ends here: at the fence for a table below it. */
uint64_t ox_walk_limit_of(const struct ox_walk *w, uint64_t l2_cluster);
/* Whether an entry of a dirty image's own, unshared tables names bytes that never were. */
bool ox_walk_entry_is_stale(const struct ox_walk *w, uint64_t l2_cluster, struct ox_cell l2_cell,
			    uint64_t host_offset);

/* ---- tables.c: counting L2 tables, all of them or one ---- */

int ox_walk_count_l2_co(struct ox_walk *w);
int ox_walk_count_l2_table_co(struct ox_walk *w, uint64_t cluster, struct ox_cell cell,
			      struct ox_be64 *table);

/* ---- directory.c: data is that of a bitmaps' extension ---- */

/* Patches, there and in data, the one of its two numbers that the directory refutes. 0 or -ENOMEM.
 */
int ox_walk_mend_directory_co(struct ox_walk *w, uint8_t *data);
/* 1: it leads to a directory that holds just what it says; 0 or -ENOMEM. */
int ox_walk_is_directory_co(struct ox_walk *w, const uint8_t *data);
/* 1: a cluster holds a directory and nothing else, which *ret then describes; 0 or -ENOMEM. */
int ox_walk_read_directory_co(struct ox_walk *w, uint64_t offset, struct ox_qcow2_bitmaps_ext *ret);

/* ---- snapshots.c, bitmaps.c, extras.c: what the header leads to ---- */

#define OX_WALK_LOST_BITMAPS "bitmaps are vouched for, and no header extension tells where they are"

int ox_walk_claim_snapshots_co(struct ox_walk *w);
/* Where the header's number or place of them is wrong: a patch, if the table tells. */
int ox_walk_judge_snapshot_fields_co(struct ox_walk *w);
/* Where there are said to be none: a patch, if their table is there nevertheless. */
int ox_walk_judge_no_snapshots_co(struct ox_walk *w);
int ox_walk_claim_bitmaps_co(struct ox_walk *w, const struct ox_qcow2_bitmaps_ext *ext);
/* The extensions, the encryption header, the files that are named. */
int ox_walk_claim_extensions_co(struct ox_walk *w);
/* A finding where a file that the image names is not there. NULL names none. 0 or -ENOMEM. */
int ox_walk_judge_file(struct ox_walk *w, const char *name, enum ox_finding_id id);

/* ---- compare.c ---- */

/* One cluster whose stored count is in block (NULL where there is no block) at index. */
struct ox_walk_slot {
	uint64_t cluster;
	uint64_t stored;
	struct ox_cell cell;
	void *block;
	uint64_t index;
	bool changed; /* set by a visitor that changed the block */
};
typedef int (*ox_walk_slot_fn)(struct ox_walk *w, struct ox_walk_slot *slot);
enum ox_walk_select { OX_BLOCKS_ALL, OX_BLOCKS_RAISE, OX_BLOCKS_LOWER };

/* Visits every cluster with a count or a reference, of the refcount blocks selected; changed
 * blocks are written. */
int ox_walk_slots_co(struct ox_walk *w, enum ox_walk_select select, ox_walk_slot_fn visit);
/* Whether a refcount block can be written without harm to something else that claims its place. */
bool ox_walk_block_is_own(const struct ox_walk *w, uint64_t index);
int ox_walk_compare_co(struct ox_walk *w);
int ox_walk_report_co(struct ox_walk *w);

/* ---- suspects.c ---- */

int ox_walk_suspect(struct ox_walk *w, uint64_t cluster);
int ox_walk_explain_co(struct ox_walk *w);
/* Whether a count of the image's width cannot say how often a cluster is named. */
bool ox_walk_overflows(const struct ox_walk *w, struct ox_cell cell);
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

/* ---- repair.c ---- */

/* Whether a count stays, though it is higher than the references: what was lost may be in a cluster
 * that nobody names, or in an L2 table that nothing names. */
bool ox_walk_keeps_leak(const struct ox_walk *w, uint64_t cluster, struct ox_cell cell);
/* Makes every count that is too low right, durably, in the blocks that there are. */
int ox_walk_raise_counts_co(struct ox_walk *w);
/* Makes what was planned durable, with every count that is too low, and then links it. */
int ox_walk_publish_counts_co(struct ox_walk *w, const struct ox_walk_plan *plan);

/* Whether the repair itself put something into the cluster: what it counts there mends nothing. */
static inline bool ox_walk_is_grown(const struct ox_walk *w, uint64_t cluster)
{
	return cluster >= w->grown_from && cluster < w->grown_end;
}

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
