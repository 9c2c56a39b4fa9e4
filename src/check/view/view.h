/* SPDX-License-Identifier: MIT */
/*
 * What a qcow2 image says of itself: its header, with faulty fields made harmless, and its L1
 * tables. Filled while the claims (claims/) are made, and not changed afterwards. It reads the
 * store directly, and is bounded by the file's real length.
 */
#ifndef OX_CHECK_VIEW_H
#define OX_CHECK_VIEW_H

#include "check/counts/counts.h"
#include "check/journal/journal.h"
#include "fmt/qcow2.h"
#include "io/io.h"

/* An L1 table: tree 0 is the active one, the others are snapshots'. */
struct ox_view_tree {
	uint64_t l1_offset;
	uint32_t l1_entries;
	char *name; /* the snapshot's */
};

/* Bytes of the first cluster to be put right, as the rest of the image tells them. */
struct ox_view_patch {
	enum ox_finding_id id;
	uint64_t offset;
	uint8_t bytes[16];
	size_t size;
	struct ox_found what; /* its word is here: */
	char word[104];
};

/* Of one walk; what is more is found by the next. */
#define OX_VIEW_MAX_PATCHES 4096

struct ox_view {
	/* For the one who leads the walk to set. */
	struct ox_journal *j;
	/* After each table and block, where others use the reactor as well. NULL: nobody does. */
	int (*pause_co)(void *arg); /* -ECANCELED: the walk is to end */
	void *pause_arg;

	struct ox_io *io;
	struct ox_qcow2_header h; /* faulty fields made harmless */
	struct ox_qcow2_faults faults;
	uint64_t cluster_bytes;
	uint64_t file_bytes;
	uint64_t file_clusters; /* the last one may be short */
	bool dirty;
	bool is_foreign;    /* not all of it is understood: nothing is written */
	bool has_data_file; /* L2 entries name clusters of another file */
	uint64_t
		fence_bytes; /* of an unfinished recovery (docs/recovery.md); 0: none that counts */
	bool has_fence;
	uint64_t list_end_offset; /* of the extension that holds it */
	uint64_t bitmaps_at;	  /* the data of the bitmaps' extension */
	bool lost_bitmaps;	  /* are vouched for, and no extension tells where they are */

	struct ox_view_patch *patches;
	size_t patch_count;
	size_t patch_room;

	struct ox_view_tree *trees;
	uint64_t tree_count;
	uint64_t tree_room;
	uint64_t snapshot_bytes;     /* of the snapshot table, as far as it can be read */
	uint64_t bad_records;	     /* of snapshots, that lead to no table */
	uint64_t past_end_snapshots; /* places past the end that the table and its records name */
};

/* ---- view.c ---- */

/* Reads the header. An error only where nothing can be made out. */
int ox_view_open_co(struct ox_view *v, struct ox_io *io, struct ox_error **err);
void ox_view_close(struct ox_view *v);

/* Takes over the name. 0 or -ENOMEM. */
int ox_view_add_tree(struct ox_view *v, struct ox_view_tree tree);
/* An L1 table is followed that far, and one that cannot be not at all. */
void ox_view_cut_tree(struct ox_view *v, uint64_t tree, uint32_t l1_entries);
/* How much of the snapshot table there is. */
void ox_view_set_snapshot_bytes(struct ox_view *v, uint64_t size_bytes);
/* Something of a snapshot leads nowhere; so many times past the end. */
void ox_view_note_bad_record(struct ox_view *v, bool leads_nowhere, uint64_t past_end);
/* Bitmaps are vouched for, and no extension tells where they are: a finding. */
void ox_view_lose_bitmaps(struct ox_view *v);
/* For its repair. */
struct ox_found ox_view_lost_bitmaps_found(void);
/* What the list of extensions says of itself. */
void ox_view_set_list(struct ox_view *v, const struct ox_qcow2_extensions *ext,
		      uint64_t bitmaps_at);

/* The snapshot's name; NULL: the disk's. */
static inline const char *ox_view_name_of(const struct ox_view *v, uint64_t tree)
{
	return tree ? v->trees[tree].name : NULL;
}

/* Whether a range reaches a whole cluster or more past the file's end. */
bool ox_view_past_end(const struct ox_view *v, uint64_t offset, uint64_t size_bytes);
/* Whether the file ends before the end of a range. */
bool ox_view_is_cut(const struct ox_view *v, uint64_t offset, uint64_t size_bytes);
/* How many of so many table entries lie in the file. */
uint64_t ox_view_entries_within(const struct ox_view *v, uint64_t offset, uint64_t entries);
/* What entries of the L2 table may name ends here: at the fence for a table below it. */
uint64_t ox_view_limit_of(const struct ox_view *v, uint64_t l2_cluster);
/* Whether an entry of a dirty image's own, unshared tables names bytes that never were. */
bool ox_view_entry_is_stale(const struct ox_view *v, uint64_t l2_cluster, struct ox_cell l2_cell,
			    uint64_t host_offset);
/* The guest range of a finding, cut at the end of the disk. */
void ox_view_set_range(const struct ox_view *v, struct ox_found *what, uint64_t tree,
		       uint64_t offset, uint64_t length);
/* What is wrong with an L1 entry that cannot be followed, and its finding. */
struct ox_found ox_view_bad_l1_entry(const struct ox_view *v, uint64_t tree, uint64_t index,
				     uint64_t raw, enum ox_finding_id *ret_id);

/* One entry of an L2 table. */
static inline struct ox_qcow2_entry ox_view_l2_entry(const struct ox_view *v,
						     const struct ox_be64 *table, uint64_t index)
{
	return ox_qcow2_l2_decode(&v->h, ox_be64_get(table[index * ox_qcow2_l2_words(&v->h)]));
}

/* Guest bytes under one L1 entry. */
static inline uint64_t ox_view_l1_span(const struct ox_view *v)
{
	return ox_qcow2_l2_entries(&v->h) << v->h.cluster_bits;
}

/* Guest bytes under so many, or UINT64_MAX. */
uint64_t ox_view_mapped(const struct ox_view *v, uint64_t l1_entries);

/* A finding, and the bytes that are right, at most 16 within one sector. */
void ox_view_patch(struct ox_view *v, enum ox_finding_id id, struct ox_found what, uint64_t offset,
		   const void *bytes, size_t size);
struct ox_found ox_view_patch_found(const struct ox_view_patch *p);

/* ---- header.c ---- */

/* Whether a field of the header is wrong, other than one; OX_QCOW2_FAULT_COUNT: any. */
bool ox_view_has_fault_but(const struct ox_view *v, enum ox_qcow2_fault but);

/* Fills in h and faults. */
int ox_view_read_header_co(struct ox_view *v, struct ox_error **err);
/* Reports what is wrong with the header's fields. */
void ox_view_judge_header(struct ox_view *v);
/* Tells that a fault, where there is one, has been mended. */
void ox_view_mended_fault(const struct ox_view *v, enum ox_qcow2_fault fault);

/* ---- extensions.c: a list that cannot be followed. cluster is the first one. ---- */

/* Whether there is a patch; then cluster and h are as it will leave them. */
bool ox_view_mend_extensions(struct ox_view *v, uint8_t *cluster, const char *error);
bool ox_view_mend_header_length(struct ox_view *v, uint8_t *cluster);
/* Where the name's place or length is wrong; of a list that can be followed. */
bool ox_view_mend_backing(struct ox_view *v, uint8_t *cluster,
			  const struct ox_qcow2_extensions *ext);
/* Of the list, as far as it can be followed: where an extension's data is; 0: there is none. */
uint64_t ox_view_find_extension(struct ox_view *v, uint8_t *cluster, uint32_t type);
/* The same of one that is of no known type, or ends the list, and has so many bytes of data; at a
 * place from on. */
uint64_t ox_view_find_length(struct ox_view *v, uint8_t *cluster, uint32_t bytes, uint64_t from);
void ox_view_judge_list_end(struct ox_view *v, uint8_t *cluster, uint64_t end_offset);

/* ---- names.c ---- */

/* Names that must be unique. */
struct ox_names {
	struct ox_name *list;
	uint64_t count;
	uint64_t room;
};

/* Takes over name. 0 or -ENOMEM; name is then freed. */
int ox_names_add(struct ox_names *names, char *name, uint64_t number);
/* A finding for each that is there twice; frees the names. */
void ox_names_judge(struct ox_names *names, struct ox_journal *j, enum ox_finding_id id);

#endif
