/* SPDX-License-Identifier: MIT */
/*
 * The QED engine's parts, over those that all mapped disks share: docs/qed.md. A table has
 * several clusters, entries name clusters that nothing else names, and no record is kept of free
 * ones: they are known by looking through the tables (census.c), or are lost.
 *
 * Locks: as in img/mapped/mapped.h; the header's is header_lock.
 */
#ifndef OX_IMG_QED_QED_H
#define OX_IMG_QED_QED_H

#include "fmt/qed.h"
#include "img/mapped/mapped.h"
#include "meta/ranges.h"

#define OX_QED_SECTOR_BYTES 512u

struct ox_qed_image {
	struct ox_mapped m; /* first: the image's state */
	struct ox_qed_header h;
	uint8_t sector[OX_QED_SECTOR_BYTES]; /* the header's, as it is on disk */
	struct ox_mutex header_lock;
	uint64_t table_bytes;
	uint64_t table_entries;
	uint64_t noted; /* L1 entries whose tables are noted (map.c) */

	/* L2 slices, by their number in the disk's order, that have got entries of this session: in
	 * any other, one that names what lies behind the opened file is damage (map.c). */
	struct ox_ranges changed;

	/* ---- census.c ---- */
	uint64_t opened_clusters; /* the file's, when it was opened for writing: the rest is ours */
	uint64_t stale_from; /* host bytes: an entry that names this or more is stale; 0: none */
	bool may_grow;	     /* no entry is known that names what is past the end */
	bool knows;	     /* no two entries name one cluster: what is freed is free, */
	bool distrusts;	     /* or some do, or may: what is freed is leaked */
	bool contradicts;    /* a damaged entry was met: no error that only kept us from looking */
	bool l1_is_ours;     /* the file has grown, so that no L1 entry was past its end */
	struct ox_mutex census_lock;
	struct ox_census *census; /* while RUNNING or FAILED */

	/* ---- alloc.c ---- */
	struct ox_ranges free; /* clusters that nothing names, durably, and nobody has taken */
};

_Static_assert(offsetof(struct ox_qed_image, m) == 0, "an image's state is both");

static inline struct ox_qed_image *ox_qed_of(struct ox_mapped *m)
{
	return (struct ox_qed_image *)m;
}

/* ---- header.c ---- */

/* Reads and judges the header. */
int ox_qed_read_header_co(struct ox_qed_image *q, struct ox_error **err);
/* The name of the backing file, as the header places it; NULL: there is none. To be freed. */
int ox_qed_backing_name_co(struct ox_io *io, const struct ox_qed_header *h, char **ret,
			   struct ox_error **err) __attribute__((warn_unused_result));
/* One sector, durable on return, for a caller that holds the header's lock; name: of the backing
 * file, where it lies in that sector. A failure poisons (M3), but for one that lacks room where the
 * caller can live with either version on the disk. */
int ox_qed_write_header_co(struct ox_qed_image *q, const struct ox_qed_header *h, const char *name)
	__attribute__((warn_unused_result));
/* Of struct ox_mapped_ops. */
int ox_qed_prepare_write_co(struct ox_mapped *m);
int ox_qed_write_need_check_co(struct ox_mapped *m, bool on);
int ox_qed_write_corrupt_co(struct ox_mapped *m);
int ox_qed_write_size_co(struct ox_mapped *m, uint64_t new_bytes);
int ox_qed_grow_tables_co(struct ox_mapped *m, uint64_t new_bytes, struct ox_error **err);

/* ---- map.c ---- */

/* Of struct ox_mapped_ops. */
int ox_qed_lookup_co(struct ox_mapped *m, struct ox_guest guest, uint64_t length,
		     struct ox_map_run *ret);
int ox_qed_set_co(struct ox_mapped *m, struct ox_guest guest, uint64_t count, enum ox_map_kind kind,
		  struct ox_host host, uint64_t after, uint64_t *ret_done);
int ox_qed_load_tables_co(struct ox_mapped *m);
/* Whether the L2 entry of that number in the disk's order is in a slice that has got entries of
 * this session. */
bool ox_qed_is_ours(const struct ox_qed_image *q, uint64_t entry);
/* Whether an entry of an L2 table names what never became durable. */
bool ox_qed_is_stale(const struct ox_qed_image *q, uint64_t value);
/* Notes the tables of a disk of so many bytes. */
int ox_qed_note_tables_co(struct ox_qed_image *q, uint64_t disk_bytes)
	__attribute__((warn_unused_result));

/* For an image that is emptied. Of struct ox_mapped_ops. */
int ox_qed_table_at_co(struct ox_mapped *m, struct ox_guest guest, struct ox_host *ret_table,
		       uint64_t *ret_next);
int ox_qed_unlink_table_co(struct ox_mapped *m, struct ox_guest guest, struct ox_host table);

/* ---- backing.c: of struct ox_mapped_ops ---- */

int ox_qed_write_backing_co(struct ox_mapped *m, const char *name, const char *format,
			    struct ox_error **err);

/* ---- alloc.c ---- */

/* The clusters of a table, in one piece. As ox_alloc_take_co. */
int ox_qed_take_table_co(struct ox_qed_image *q, struct ox_alloc_range *ret)
	__attribute__((warn_unused_result));
/* Of struct ox_mapped_ops. */
int ox_qed_refill_co(struct ox_mapped *m, uint64_t want);
int ox_qed_take_back_co(struct ox_mapped *m, struct ox_alloc_range *range);
int ox_qed_finish_release_co(struct ox_mapped *m, uint64_t start, uint64_t n, uint64_t count);
int ox_qed_release_co(struct ox_mapped *m, uint64_t start, uint64_t most, uint64_t *ret_n);
int ox_qed_settle_co(struct ox_mapped *m);
int ox_qed_shrink_co(struct ox_mapped *m);

/* ---- open.c ---- */

/* For whoever adopts (D10): what this session knows of the image, after each change of it. */
void ox_qed_note_session(struct ox_qed_image *q);

/* ---- census.c ---- */

/* An image that needs a check, before its first request. */
int ox_qed_recover_start_co(struct ox_qed_image *q, struct ox_error **err)
	__attribute__((warn_unused_result));
/* Whether other entries name the cluster too, as far as is known by now. */
bool ox_qed_is_shared(const struct ox_qed_image *q, struct ox_host host);
/* An entry has been met that the check will not pass over: the mark stays (D6). */
void ox_qed_note_damage(struct ox_qed_image *q);
void ox_qed_census_fini(struct ox_qed_image *q);
/* Of struct ox_mapped_ops. */
bool ox_qed_may_free(const struct ox_mapped *m);
int ox_qed_before_free_co(struct ox_mapped *m);
int ox_qed_recover_co(struct ox_mapped *m, struct ox_error **err);
void ox_qed_recovery_failed(struct ox_mapped *m);

#endif
