/* SPDX-License-Identifier: MIT */
/*
 * A disk whose clusters are mapped through tables: what qcow2 and QED share. The format brings its
 * tables' encoding, how free clusters are found, and its header, as struct ox_mapped_ops; the order
 * of writes, group commit, the reserve, the locks, zeroes, resizing and the idle time are here.
 * docs/durability.md tells how they keep D1-D9 and S1 together.
 *
 * Each file owns the struct of its own name; struct ox_mapped only holds them.
 *
 * Locks, in the order in which they are taken:
 *   resize_lock > long_lock > guest range lock (per request) > table_lock > alloc.lock > the
 * header's lock, and below all of them the caches' pins, of which a task holds one at most.
 */
#ifndef OX_IMG_MAPPED_MAPPED_H
#define OX_IMG_MAPPED_MAPPED_H

#include "base/arith.h"
#include "base/assert.h"
#include "base/list.h"
#include "base/offset.h"
#include "img/img.h"
#include "meta/cache.h"
#include "meta/order.h"
#include "rt/sync.h"

struct ox_mapped;

/* ---- runs ---- */

enum ox_map_kind {
	OX_MAP_UNALLOCATED, /* the backing file, or zeroes */
	OX_MAP_ZERO,
	OX_MAP_ZERO_ALLOC, /* zeroes, with a host cluster kept for what is to come */
	OX_MAP_DATA,
	OX_MAP_COMPRESSED,
};

/* A stretch of guest clusters whose entries are of one kind and, where they have host clusters,
 * contiguous on the host. */
struct ox_map_run {
	enum ox_map_kind kind;
	bool own;		   /* nothing else names the host clusters: written in place */
	bool durable;		   /* the entries are durable as they are (H1) */
	struct ox_host host;	   /* of the byte asked for; COMPRESSED: of the stream */
	uint64_t length;	   /* bytes from the byte asked for on */
	uint64_t compressed_bytes; /* COMPRESSED */
	uint64_t entry;		   /* the first entry, raw */
};

/* ---- alloc.c: the reserve ---- */

struct ox_alloc_range {
	uint64_t start; /* cluster index */
	uint64_t count; /* clusters */
	bool zero;	/* reads as zeroes, durably (H2) */
	uint32_t note;	/* of it in the state that outlives the process; 0: none (D10) */
};

#define OX_ALLOC_RESERVE_RANGES 32
/* Ranges that a refill takes at most; the rest of the reserve's slots serve what is given back. */
#define OX_ALLOC_REFILL_RANGES (OX_ALLOC_RESERVE_RANGES / 2)
/* No format offset reaches further. */
#define OX_ALLOC_HOST_MAX_BYTES (UINT64_C(1) << 56)

struct ox_alloc {
	struct ox_mutex lock; /* refill, release, growth of the refcount structure */
	struct ox_alloc_range reserve[OX_ALLOC_RESERVE_RANGES];
	unsigned reserve_count;
	uint64_t takes; /* allocations, ever: the idle task sees whether it moves */
	uint64_t taken; /* clusters out of the reserve, ever */
	uint64_t batch; /* clusters of the last refill, or of the first to come */
	uint64_t batch_limit;
	uint64_t refilled_ns; /* when that was */
	bool refilled;	      /* since the guest was idle */
	bool expected;	      /* ox_alloc_expect has said how many will be taken */
};

/* ---- release.c: freed clusters on their way back ---- */

struct ox_freed {
	/* Clusters whose entry is gone from the cache: pending until the next commit has made that
	 * durable, then ready to be released (D4). */
	struct ox_list pending;
	struct ox_list ready;
	uint64_t pending_count;
	uint64_t records; /* in both lists, and on their way between them */
	bool releasing;
	struct ox_freed_record *now; /* what is being released, with alloc.lock held */
	uint32_t note;		     /* of the part of it that is (D10) */
};

/* ---- commit.c: group commit of the mapping tables ---- */

struct ox_commit {
	uint64_t started;
	uint64_t done;
	uint64_t failed; /* last round that failed, with its error */
	int error;
	bool running;
	bool soon;	  /* a background round has been asked for */
	uint64_t entered; /* synchronous writers that began to write data, ever */
	uint64_t left;	  /* and that ended, so that they are about to join a round */
	struct ox_waitq waiters;
	struct ox_waitq leaving;
};

/* ---- dirty.c: the bit that says "not closed" (D5, D6, H6) ---- */

enum ox_dirty_state {
	OX_DIRTY_CLEAN,
	OX_DIRTY_SETTING,
	OX_DIRTY_SET,
	OX_DIRTY_CLEARING,
};

struct ox_dirty {
	enum ox_dirty_state state;
	bool unsure; /* a write of the bit found no room: the disk may say otherwise than state */
	struct ox_waitq changed;
};

/* ---- idle.c: the bounded dirty window ---- */

#define OX_LAZY_IDLE_DEFAULT_MS 5000u

struct ox_idle {
	struct ox_timer timer;
	uint64_t after_ns; /* without allocations; 0: the bit is cleared at close only */
	bool running;
	bool stopping;
};

/* ---- age.c: how old a changed table may get in memory ---- */

#define OX_TABLE_AGE_DEFAULT_MS 5000u

struct ox_age {
	struct ox_timer timer;
	uint64_t after_ns; /* since a table was changed; 0: any time */
	bool running;
	bool stopping;
};

/* ---- tables.c: the clusters that hold tables ---- */

struct ox_table_slot {
	uint64_t cluster; /* 0: empty */
	uint64_t names;	  /* how many entries name it */
};

struct ox_tables {
	uint64_t file_bytes; /* as it was when they were loaded */
	struct ox_table_slot *slots;
	size_t mask;
	size_t used;
};

/* ---- recover.c: an image that was not closed, looked through beside the guest ---- */

struct ox_recover {
	enum ox_recover_mode mode; /* what is done with such an image */
	enum ox_recovery_state state;
	bool lacks_room; /* RUNNING: it finds no room, and waits for some */
	bool told_room;
	bool closing;	/* it is not waited for any more where it finds no room, */
	bool leaves;	/* and not at all: what it has not done is the next opening's */
	bool resumable; /* what a death would need to go on with it lies in the state */
	bool task;	/* the recovering task is alive */
	uint64_t tables_done;
	uint64_t tables_total;
	char obstacle[256]; /* FAILED: why */
	struct ox_timer room;
	struct ox_waitq changed;
};

/* ---- one host range that must not be data ---- */

struct ox_metadata_range {
	uint64_t start;
	uint64_t end;
};

#define OX_MAPPED_FIXED_RANGES 6

/*
 * What a format brings. Functions named "locked" are called with alloc.lock held. Offsets and
 * counts are in clusters, unless they are struct ox_guest or struct ox_host.
 */
struct ox_mapped_ops {
	const char *format;

	/* What lies at guest, at most length bytes on. -EIO where a table or an entry is damaged.
	 */
	int (*lookup_co)(struct ox_mapped *m, struct ox_guest guest, uint64_t length,
			 struct ox_map_run *ret);
	/*
	 * Sets the entries of count clusters from the cluster-aligned guest on. With kind DATA or
	 * ZERO_ALLOC they name consecutive host clusters. after is the barrier they owe (D1). Sets
	 * as many as one slice holds and says how many.
	 */
	int (*set_co)(struct ox_mapped *m, struct ox_guest guest, uint64_t count,
		      enum ox_map_kind kind, struct ox_host host, uint64_t after,
		      uint64_t *ret_done);
	/* Notes every table that is named, by ox_tables_add. */
	int (*load_tables_co)(struct ox_mapped *m);
	/* Reads run->length bytes, of a COMPRESSED run alone, which begin at offset of the disk.
	 * NULL: there are none. */
	int (*read_compressed_co)(struct ox_mapped *m, const struct ox_map_run *run,
				  const struct iovec *iov, int n, uint64_t skip, uint64_t offset);
	/* The same of that run and of COMPRESSED ones behind it, within length bytes from offset
	 * on: many at once. *ret_done: bytes of all of them. */
	int (*read_streams_co)(struct ox_mapped *m, const struct ox_map_run *run,
			       const struct iovec *iov, int n, uint64_t skip, uint64_t offset,
			       uint64_t length, uint64_t *ret_done);

	/* The first change of this opening. */
	int (*prepare_write_co)(struct ox_mapped *m);
	/* Whether it is known what becomes of clusters that entries no longer name; if not,
	 * before_free_co waits for that. It is called without any lock. NULL: it always is. */
	bool (*may_free)(const struct ox_mapped *m);
	int (*before_free_co)(struct ox_mapped *m);

	/* Puts clusters into the empty reserve, at least one of the want that are needed now. */
	int (*refill_locked_co)(struct ox_mapped *m, uint64_t want);
	/* The cluster range that the reserve had, and whose note is a batch's: free again, nothing
	 * named it. The note goes, also where it fails. */
	int (*take_back_locked_co)(struct ox_mapped *m, struct ox_alloc_range *range);
	/* One reference less for clusters from start on, at most most, which is not zero: as many
	 * as *ret_n says, all of them or none. Punched before they can be taken again (D4). Calls
	 * ox_freed_note_release before they lose it. */
	int (*release_locked_co)(struct ox_mapped *m, uint64_t start, uint64_t most,
				 uint64_t *ret_n);
	/* The end of a release that a process was killed in. */
	int (*finish_release_locked_co)(struct ox_mapped *m, uint64_t start, uint64_t n,
					uint64_t count);
	/* Writes what is known of free clusters, where the format has a place for that. Synced by
	 * the caller. At a close nobody else is left, and the lock is not held. */
	int (*settle_locked_co)(struct ox_mapped *m);
	/* Sets or clears the dirty bit: one sector, durable on return. */
	int (*write_dirty_co)(struct ox_mapped *m, bool on);
	/* The image has been found to contradict itself: says so on disk, if that can be said. */
	int (*write_corrupt_co)(struct ox_mapped *m);

	/* Before a growth: room in the tables for a disk of so many bytes. No guest range is held.
	 */
	int (*grow_tables_co)(struct ox_mapped *m, uint64_t new_bytes, struct ox_error **err);
	/* Of a growth: gives the clusters in that range, which no guest sees, their places. -EINTR:
	 * how says to give up. NULL: the format cannot. */
	int (*preallocate_co)(struct ox_mapped *m, uint64_t offset, uint64_t end,
			      const struct ox_resize_options *how);
	/* The size in the header, durably; then in img->size_bytes. */
	int (*write_size_co)(struct ox_mapped *m, uint64_t new_bytes);

	/*
	 * The name of the backing file and its format in the header, durably; NULL: none. All
	 * guest ranges are locked. What does not fit is refused, and nothing is written.
	 */
	int (*write_backing_co)(struct ox_mapped *m, const char *name, const char *format,
				struct ox_error **err);
	/* The table that maps guest, which begins what a table maps, and where that ends; without a
	 * table (0) where the next one may begin. */
	int (*table_at_co)(struct ox_mapped *m, struct ox_guest guest, struct ox_host *ret_table,
			   uint64_t *ret_next);
	/* Nothing names that table any more, in the cache of L1, and none of its slices are
	 * written. The caller has locked what it maps. */
	int (*unlink_table_co)(struct ox_mapped *m, struct ox_guest guest, struct ox_host table);
	/* No table is left, durably. NULL: that is nothing to the format. */
	void (*emptied)(struct ox_mapped *m);

	/* The recovering task's work, from the first table to the cleared bit. */
	int (*recover_co)(struct ox_mapped *m, struct ox_error **err);
	/* It has failed: what the format gives up. */
	void (*recovery_failed)(struct ox_mapped *m);
	/* What the user is told at its beginning, at its end, and, with why, where it failed. */
	const char *recovery_begun;
	const char *recovery_done;
	const char *recovery_failed_for;

	/* The store has become writable, nothing is cached: recover, load the tables. */
	int (*activate_locked_co)(struct ox_mapped *m, struct ox_error **err);
	/* The last step of a close, the reserve given back: cuts the file, and writes what
	 * settle_locked_co does. */
	int (*shrink_co)(struct ox_mapped *m);
	/* Whether more clusters are named than the file has space for. NULL: that is not known. */
	bool (*looks_preallocated_co)(struct ox_mapped *m);
};

struct ox_mapped {
	struct ox_image *img;
	struct ox_io *io;
	const struct ox_mapped_ops *ops;
	uint64_t cluster_bytes;
	unsigned cluster_bits;
	unsigned table_clusters; /* of one table */
	size_t slice_bytes;
	bool has_zero;	     /* entries can say "zeroes", */
	bool has_zero_alloc; /* and that with a host cluster kept */
	bool prepared;	     /* first write of this opening has been announced (prepare.c) */
	bool reread;	     /* another program may have changed the header since it was read */
	bool looked_sparse;  /* it is known whether */
	bool sparse;	     /* there are holes of the file under clusters (extent.c) */
	bool damaged;	     /* a check would not call it clean: the dirty bit stays (D6) */
	uint64_t header_durable_at; /* ticket: of what the header said when it was opened */
	unsigned allocating;	    /* requests under way that may take clusters and name them */
	bool refused; /* something would have overwritten a table: no more changes (refuse.c) */
	struct ox_state *state; /* that outlives the process (D10); NULL: none */
	struct ox_notes *notes; /* its; or of nothing */
	struct ox_notes no_notes;
	uint64_t copy_bytes;	 /* for the format's own, in it */
	struct ox_cache *counts; /* the refcounts', if the format has any */
	struct ox_order order;
	struct ox_cache map; /* slices of the active L1 table and of L2 tables */
	struct ox_tables tables;
	struct ox_mutex table_lock; /* making and copying L2 tables */
	struct ox_rangelock guest;
	struct ox_mutex resize_lock;
	struct ox_mutex long_lock; /* whose turn it is among the long requests (zero.c) */
	struct ox_alloc alloc;
	struct ox_freed freed;
	struct ox_commit commit;
	struct ox_dirty dirty;
	struct ox_idle idle;
	struct ox_age age;
	struct ox_recover recover;
	struct ox_latch background;
	/* The header, fixed tables. */
	struct ox_metadata_range fixed[OX_MAPPED_FIXED_RANGES];
	unsigned fixed_count;
};

/* The format's state begins with it. */
static inline struct ox_mapped *ox_mapped_of(struct ox_image *img)
{
	return img->state;
}

static inline int ox_mapped_lookup_co(struct ox_mapped *m, struct ox_guest guest, uint64_t length,
				      struct ox_map_run *ret)
{
	return m->ops->lookup_co(m, guest, length, ret);
}

/* Around what the format does to the header before a first change. 0, a refusal, or the order's
 * error. */
int ox_prepare_begin_co(struct ox_mapped *m) __attribute__((warn_unused_result));
void ox_prepare_end(struct ox_mapped *m);
/* From a process that died; opening: the ticket of the sync that opens the image. */
void ox_prepare_adopt(struct ox_mapped *m, uint64_t opening);
void ox_prepare_forget(struct ox_mapped *m);

void ox_age_start(struct ox_mapped *m);

static inline int ox_mapped_set_co(struct ox_mapped *m, struct ox_guest guest, uint64_t count,
				   enum ox_map_kind kind, struct ox_host host, uint64_t after,
				   uint64_t *ret_done)
{
	int r = m->ops->set_co(m, guest, count, kind, host, after, ret_done);

	if (r == 0)
		ox_age_start(m);
	return r;
}

/* ---- open.c: an image's life ---- */

/* Of a struct that is zeroed. */
void ox_mapped_init(struct ox_mapped *m, struct ox_image *img, const struct ox_mapped_ops *ops,
		    const struct ox_open_options *opts);
/* Once that is known. */
void ox_mapped_set_cluster(struct ox_mapped *m, unsigned cluster_bits);
/* The cache of the tables, for a disk of so many bytes, and the state that outlives the process;
 * counts: the cache of refcounts, or NULL. */
int ox_mapped_open_caches(struct ox_mapped *m, uint64_t disk_bytes, struct ox_cache *counts,
			  const struct ox_img_open *how, struct ox_error **err);
void ox_mapped_fini(struct ox_mapped *m);
/* The size of a cache of L2 entries, in slices, where the user states none: enough to map the whole
 * disk, within bounds. */
uint64_t ox_mapped_cache_bytes(uint64_t disk_bytes, uint64_t cluster_bytes, size_t slice_bytes);
/* What no entry may name as its host cluster, beside the tables. */
void ox_mapped_add_fixed(struct ox_mapped *m, uint64_t start, uint64_t bytes);
/* Whether host bytes may be what an entry says: within the file, and not on top of those. */
bool ox_mapped_host_ok(const struct ox_mapped *m, struct ox_host host, uint64_t bytes);
/* Whether an entry that looks damaged is to be looked at again: what lies past the end, as a reader
 * knew it, may have been written since (-U). */
bool ox_mapped_has_grown_co(struct ox_mapped *m);
/* Of struct ox_img_ops. */
int ox_mapped_activate_co(struct ox_image *img, struct ox_error **err);
int ox_mapped_deactivate_co(struct ox_image *img, struct ox_error **err);
/* Of the image's file. The state knows of it: a file that somebody else has cut is not adopted. */
int ox_mapped_set_length_co(struct ox_mapped *m, uint64_t bytes);
int ox_mapped_flush_co(struct ox_image *img, bool durable);
int ox_mapped_error(const struct ox_image *img);
void ox_mapped_recovery(const struct ox_image *img, struct ox_recovery_status *ret);

/* ---- adopt.c: what a process that died has left (D10). During an activation ---- */

/* Whether it knew what is free: then nothing is to be recovered. */
bool ox_mapped_adopts(const struct ox_mapped *m);
/* Whether it was recovering the image, which is gone on with. */
bool ox_mapped_resumes(const struct ox_mapped *m);
/* Its changed tables, and its poison. */
int ox_adopt_co(struct ox_mapped *m, struct ox_error **err);
/* The clusters it has noted: by the format, once the tables are noted, and before anything can come
 * to an end that was begun here. */
int ox_adopt_notes_co(struct ox_mapped *m, struct ox_error **err);

/* ---- the request paths, one file each: of struct ox_img_ops, where they take an image ---- */

int ox_mapped_preadv_co(struct ox_image *img, const struct iovec *iov, int n, uint64_t offset,
			uint64_t length);
int ox_mapped_read_part_co(struct ox_image *img, const struct iovec *iov, int n, uint64_t skip,
			   uint64_t offset, uint64_t *length, bool *ret_below);
/* What the guest reads there without taking a lock: for copy-on-write under the writer's lock. */
int ox_mapped_read_unlocked_co(struct ox_mapped *m, const struct iovec *iov, int n, uint64_t offset,
			       uint64_t length);
int ox_mapped_pwritev_co(struct ox_image *img, const struct iovec *iov, int n, uint64_t offset,
			 uint64_t length, unsigned flags);
int ox_mapped_zero_co(struct ox_image *img, uint64_t offset, uint64_t length, unsigned flags);
int ox_mapped_discard_co(struct ox_image *img, uint64_t offset, uint64_t length);
int ox_mapped_extent_co(struct ox_image *img, uint64_t offset, uint64_t length, bool holes,
			struct ox_extent *ret);
int ox_mapped_extents_co(struct ox_image *img, uint64_t offset, uint64_t length,
			 struct ox_extent *ret, int max);
int ox_mapped_resize_co(struct ox_image *img, uint64_t new_bytes,
			const struct ox_resize_options *how, struct ox_error **err);
/* Of struct ox_img_ops: backing.c, empty.c. */
int ox_mapped_set_backing_co(struct ox_image *img, const char *name, const char *format,
			     struct ox_image *chain, struct ox_error **err);
int ox_mapped_empty_co(struct ox_image *img);
/*
 * The writer's inner part, for a caller that holds the range exclusively from *done on. fua: a
 * commit follows. It begins at *done, and sets it to where it stopped: a caller that gives up its
 * lock and calls again does not write a byte twice.
 */
int ox_mapped_write_locked_co(struct ox_mapped *m, const struct iovec *iov, int n, uint64_t offset,
			      uint64_t length, bool fua, uint64_t *done);
/* For a resize: zeroes what a larger disk will show, or removes what a smaller one no longer shows,
 * piece by piece, for a caller that holds no range (zero.c). */
int ox_mapped_zero_new_co(struct ox_mapped *m, uint64_t offset, uint64_t end);
int ox_mapped_drop_co(struct ox_mapped *m, uint64_t offset, uint64_t end);
/* Locks the clusters under [offset, offset + length). */
void ox_mapped_lock_co(struct ox_mapped *m, struct ox_range *range, uint64_t offset,
		       uint64_t length, bool exclusive);
/* Whether the bytes from offset on to the cluster's end, or the whole disk's end, come from the
 * backing file where the image has none of its own. */
bool ox_mapped_is_backed(const struct ox_mapped *m, uint64_t offset);

/* ---- alloc.c ---- */

void ox_alloc_init(struct ox_mapped *m);
/* So many clusters are going to be taken in one go: refills may be as large. 0: no longer. */
void ox_alloc_expect(struct ox_mapped *m, uint64_t clusters);
/* The guest is idle: the next batch is as small as the first. */
void ox_alloc_calm(struct ox_mapped *m);
/* Clusters in the reserve. */
uint64_t ox_alloc_reserved(const struct ox_alloc *a);
/*
 * Takes up to want clusters, contiguous, out of the reserve. They lie within the file's durable
 * length (D8), what the format says of them is durable or covered by the dirty bit (D3, D5), and
 * zero tells whether they durably read as zeroes (H2). -ERESTART: ox_recover_restart_co.
 */
int ox_alloc_take_co(struct ox_mapped *m, uint64_t want, struct ox_alloc_range *ret)
	__attribute__((warn_unused_result));
/*
 * Whoever has taken clusters says for whom, at once: guest clusters from guest on are going to name
 * them, or a table is to lie there. A death finds out whether that has come to pass.
 */
void ox_alloc_note_data(struct ox_mapped *m, struct ox_alloc_range *range, struct ox_guest guest);
void ox_alloc_note_table(struct ox_mapped *m, struct ox_alloc_range *range);
/* The first count clusters of the range are named now, and no longer part of it. */
void ox_alloc_named(struct ox_mapped *m, struct ox_alloc_range *range, uint64_t count);
/* The same for one who holds alloc.lock, and for one who knows that there is a reserve. */
int ox_alloc_take_locked_co(struct ox_mapped *m, uint64_t want, struct ox_alloc_range *ret)
	__attribute__((warn_unused_result));
void ox_alloc_pop(struct ox_mapped *m, uint64_t want, struct ox_alloc_range *ret);
/* Exactly count clusters in one piece, if a range of the reserve has as many. */
bool ox_alloc_pop_run(struct ox_mapped *m, uint64_t count, struct ox_alloc_range *ret);
/* Clusters that were taken and that no entry has named: the next request finds them. zero: nothing
 * was written to them either. */
void ox_alloc_give_back(struct ox_mapped *m, const struct ox_alloc_range *range);
/* Whether the clusters hold the header or a table that is in use: no data, not to be freed. */
bool ox_alloc_overlaps_metadata(const struct ox_mapped *m, uint64_t start, uint64_t count);
/* Makes [start, start + count) part of the file and zero: *ret_zero false where the store cannot
 * zero. Not durable yet. */
int ox_alloc_make_zero_co(struct ox_mapped *m, uint64_t start, uint64_t count, bool *ret_zero)
	__attribute__((warn_unused_result));
/* Of a refill: how many clusters it is to take, for one who wants some now. */
uint64_t ox_alloc_batch(struct ox_mapped *m, uint64_t want);
/* Of a refill: what it has chosen, before anything says that it is not free; and when it comes to
 * nothing. */
void ox_alloc_note_batch(struct ox_mapped *m, struct ox_alloc_range *range);
void ox_alloc_drop_batch(struct ox_mapped *m, struct ox_alloc_range *range);
/* Of a refill: into the reserve, all that is owed being durable. Its note goes with it. */
void ox_alloc_push(struct ox_mapped *m, const struct ox_alloc_range *range);
/* Gives the unused reserve back, for a caller that holds alloc.lock. */
int ox_alloc_return_reserve_locked_co(struct ox_mapped *m) __attribute__((warn_unused_result));

/* ---- release.c ---- */

void ox_freed_init(struct ox_mapped *m);
/* The entry that named these bytes is gone from the cache: one reference less for each cluster
 * under them once a commit has made that durable (D4). */
void ox_alloc_free_later(struct ox_mapped *m, struct ox_host host, uint64_t bytes);
/* Of a release: the first n clusters are about to have count references, as whoever adopts would
 * have to see to (D10). */
void ox_freed_note_release(struct ox_mapped *m, uint64_t n, uint64_t count);
/* For whoever adopts: freed by a process that died. -ENOMEM. */
int ox_freed_adopt(struct ox_mapped *m, uint64_t start, uint64_t count, uint32_t note)
	__attribute__((warn_unused_result));
/* Of a commit round: what was freed before it began; all of it is ready, or still pending. */
void ox_freed_begin_round(struct ox_mapped *m, struct ox_list *freed);
void ox_freed_end_round(struct ox_mapped *m, struct ox_list *freed, bool is_durable);
/* Keeps what one long request has freed from filling the memory: waits until it is released. */
int ox_alloc_breathe_co(struct ox_mapped *m) __attribute__((warn_unused_result));
/* Works through what is ready. Allocations get in between. */
int ox_alloc_release_co(struct ox_mapped *m) __attribute__((warn_unused_result));
/* The host has no room: what was freed is released now, and not at the guest's next flush. False:
 * there is nothing that would bring room. The caller may hold a guest range, and is not on its way
 * to a commit (ox_commit_enter). */
bool ox_alloc_reclaim_co(struct ox_mapped *m);
/* Starts the work on what is ready beside the caller, unless it is under way or has to wait. */
void ox_alloc_start_release(struct ox_mapped *m);
/* Forgets what was to be released, and the reserve. */
void ox_alloc_forget(struct ox_mapped *m);
void ox_freed_fini(struct ox_mapped *m);

/* ---- tables.c ---- */

/* Notes the tables anew. On failure those that were known stay. 0 or -errno. */
int ox_tables_load_co(struct ox_mapped *m) __attribute__((warn_unused_result));
void ox_tables_fini(struct ox_mapped *m);
int ox_tables_add(struct ox_mapped *m, struct ox_host table) __attribute__((warn_unused_result));
void ox_tables_remove(struct ox_mapped *m, struct ox_host table);
/* Whether exactly one entry names the table. */
bool ox_tables_unique(const struct ox_mapped *m, struct ox_host table);
/* The same of one that an entry names now. Beside a writer one may have come since the tables were
 * loaded. */
bool ox_tables_is_known(struct ox_mapped *m, struct ox_host table);
/* Whether any cluster under the bytes is a table's. */
bool ox_tables_overlap(const struct ox_mapped *m, struct ox_host host, uint64_t bytes);

/* ---- commit.c ---- */

void ox_commit_init(struct ox_mapped *m);
/* Makes every entry set so far, and all data that had been written, durable (D7). */
int ox_commit_co(struct ox_mapped *m) __attribute__((warn_unused_result));
/*
 * A synchronous writer says when its data is on its way and when it has arrived: the leader of a
 * round waits for those that were on their way, so that one sync serves them all. Called with the
 * guest range held, so that whoever waits for that range is not waited for.
 */
void ox_commit_enter(struct ox_mapped *m);
void ox_commit_leave(struct ox_mapped *m);
/* For a writer that is alone: writes the tables beside its data. The round that follows finds them
 * written, or writes what failed. */
void ox_commit_start_tables(struct ox_mapped *m);
/* The same in the background, for a guest that frees much and never flushes. */
void ox_commit_soon(struct ox_mapped *m);

/* ---- dirty.c ---- */

void ox_dirty_init(struct ox_mapped *m);
/* Before the first entry that a crash would leave uncovered (D5). */
int ox_dirty_set_co(struct ox_mapped *m) __attribute__((warn_unused_result));
/* After all that it covers is durable and right (D6). */
int ox_dirty_clear_co(struct ox_mapped *m) __attribute__((warn_unused_result));

/* ---- idle.c ---- */

/* lazy_idle_ms: as in struct ox_open_options. */
void ox_idle_init(struct ox_mapped *m, uint32_t lazy_idle_ms);
/* The reserve has been filled, the dirty bit may be set: watch for quiet. */
void ox_idle_start(struct ox_mapped *m);
/* Gives back the reserve, settles and clears the dirty bit, unless something was allocated since
 * takes. */
int ox_idle_settle_co(struct ox_mapped *m, uint64_t takes) __attribute__((warn_unused_result));
/* Ends the watch, which is a background task, until ox_idle_allow. */
void ox_idle_stop(struct ox_mapped *m);
void ox_idle_allow(struct ox_mapped *m);

/* ---- age.c ---- */

/* table_age_ms: as in struct ox_open_options. */
void ox_age_init(struct ox_mapped *m, uint32_t table_age_ms);
/* Ends the watch, which is a background task that ox_age_start begins, until ox_age_allow. */
void ox_age_stop(struct ox_mapped *m);
void ox_age_allow(struct ox_mapped *m);

/* ---- recover.c ---- */

void ox_recover_init(struct ox_mapped *m, enum ox_recover_mode mode);
/* Whether it is not known (yet) what is free: RUNNING or FAILED. */
static inline bool ox_recover_active(const struct ox_mapped *m)
{
	return m->recover.state == OX_RECOVERY_RUNNING || m->recover.state == OX_RECOVERY_FAILED;
}
/* Starts the task that does ops->recover_co. */
int ox_recover_spawn_co(struct ox_mapped *m) __attribute__((warn_unused_result));
/* For ops->recover_co: it has ended well, whoever waits goes on. */
void ox_recover_done(struct ox_mapped *m);
/* The image stays as it is, for that reason. */
void ox_recover_fail(struct ox_mapped *m, const char *why);
/* For the progress of a walk: opaque is the image. */
void ox_recover_on_progress(void *opaque, uint64_t done, uint64_t total);
/*
 * After a request has ended with *r, and given back its guest range: whether it is to be made
 * again, because it lacked a cluster that only the recovery can find. Waits for that; *r is -ENOSPC
 * where the recovery has tried once more, and lacks room.
 */
bool ox_recover_restart_co(struct ox_mapped *m, int *r);
/* Until it has ended, well or not, or lacks room, for a caller that holds nothing it may need. */
void ox_recover_wait_co(struct ox_mapped *m);
/* The same for the image's close: a recovery that lacks room ends without success. */
void ox_recover_end_co(struct ox_mapped *m);
/* It is not waited for any more: the image stays as it is, and dirty. */
void ox_recover_leave(struct ox_image *img);
/* It found no room: waits until it may be worth another attempt. False: give up. */
bool ox_recover_await_room_co(struct ox_mapped *m);
/* Tells the user, of the image. */
void ox_mapped_tell(const struct ox_mapped *m, const char *message);

/* ---- refuse.c ---- */

/* A damaged place, told as the check names it; the caller fails with -EIO. */
void ox_mapped_tell_damage(struct ox_mapped *m, const char *finding, struct ox_host host,
			   uint64_t host_bytes, struct ox_guest guest, uint64_t guest_bytes);
/* The host range holds metadata and was about to be written over, or freed. */
void ox_mapped_refuse(struct ox_mapped *m, const char *finding, struct ox_host host,
		      uint64_t bytes);
/* The same, met by a request on the guest range (struct ox_img_ops). */
void ox_mapped_refused(struct ox_image *img, uint64_t offset, uint64_t length);
/* Before a change: -EIO once the order is poisoned (M3), or about to be after a refusal. */
int ox_mapped_check_change(const struct ox_mapped *m);

#endif
