/* SPDX-License-Identifier: MIT */
/*
 * The qcow2 engine's parts. Each file owns the struct of its own name; struct ox_qcow2 only holds
 * them. docs/durability.md tells how they keep D1-D9 and S1 together.
 *
 * Locks, in the order in which they are taken:
 *   resize_lock > long_lock > guest range lock (per request) > table_lock > alloc.lock >
 * header.lock and below all of them the caches' pins, of which a task holds one at most.
 */
#ifndef OX_IMG_QCOW2_QCOW2_H
#define OX_IMG_QCOW2_QCOW2_H

#include "base/arith.h"
#include "base/assert.h"
#include "base/list.h"
#include "base/offset.h"
#include "fmt/qcow2.h"
#include "img/img.h"
#include "meta/cache.h"
#include "meta/order.h"
#include "rt/sync.h"

/* ---- header.c: the header on disk ---- */

struct ox_header {
	struct ox_qcow2_header fields; /* as they are on disk */
	uint8_t sector[512];	       /* the first sector as it is on disk */
	struct ox_mutex lock;
};

/* ---- lazy.c: the dirty bit (D5, D6, H6) ---- */

enum ox_lazy_state {
	OX_LAZY_CLEAN,
	OX_LAZY_SETTING,
	OX_LAZY_DIRTY,
	OX_LAZY_CLEARING,
};

struct ox_lazy {
	enum ox_lazy_state state;
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

/* ---- alloc.c: the reserve and the freed clusters ---- */

struct ox_alloc_range {
	uint64_t start; /* cluster index */
	uint64_t count; /* clusters */
	bool zero;	/* reads as zeroes, durably (H2) */
};

#define OX_ALLOC_RESERVE_RANGES 32

struct ox_alloc {
	struct ox_mutex lock; /* refill, release, growth of the refcount structure */
	struct ox_alloc_range reserve[OX_ALLOC_RESERVE_RANGES];
	unsigned reserve_count;
	uint64_t takes;	 /* allocations, ever: the idle task sees whether it moves */
	uint64_t taken;	 /* clusters out of the reserve, ever */
	uint64_t cursor; /* no cluster below it is known to be free */
	uint64_t batch;	 /* clusters of the last refill, or of the first to come */
	uint64_t batch_limit;
	uint64_t refilled_ns; /* when that was */
	bool refilled;	      /* since the guest was idle */
	bool expected;	      /* ox_alloc_expect has said how many will be taken */
	uint64_t floor;	      /* the file is not cut below this many clusters at close */
	bool named;	      /* the refcount table has got entries that may not be durable (S1) */
	/* Clusters whose entry is gone from the cache: pending until the next commit has made that
	 * durable, then ready to be released (D4). */
	struct ox_list pending;
	struct ox_list ready;
	uint64_t pending_count;
	uint64_t records; /* in both lists, and on their way between them */
	bool releasing;
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

/* ---- tables.c: the clusters that hold L2 tables and refcount blocks ---- */

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

/* ---- recover.c, recover_finish.c: a dirty image, recovered beside the guest ---- */

/* A refcount table that moves ends one and begins another. */
#define OX_RECOVER_OWN_RANGES 4

struct ox_recover {
	enum ox_recover_mode mode; /* what is done with a dirty image */
	enum ox_recovery_state state;
	struct ox_rebuild *rebuild; /* while RUNNING or FAILED */
	uint64_t fence;		    /* host bytes: a stale entry names this or more, from below */
	uint64_t frozen_end;	    /* host bytes: tables below it do not change; 0: none */
	/* What the allocator has taken past the old end, ascending; it goes on at the last one's
	 * end. No old table names anything there (R3). */
	struct ox_alloc_range own[OX_RECOVER_OWN_RANGES];
	unsigned own_count;
	uint64_t limit_clusters; /* the file, as old tables may name it */
	bool may_grow;		 /* the fence is durable, or nothing is stale any more */
	bool no_room;		 /* there can be no fence: allocations wait */
	bool lacks_room;	 /* RUNNING: the counts find no room, and wait for some */
	bool told_room;
	bool closing; /* it is not waited for any more */
	bool scrubs;  /* frozen tables may have lost stale entries in the cache */
	bool task;    /* the recovering task is alive */
	uint64_t started_ns;
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

struct ox_qcow2 {
	struct ox_image *img;
	struct ox_io *io;
	uint64_t cluster_bytes;
	unsigned cluster_bits;
	size_t slice_bytes;
	bool prepared; /* first write of this opening has been announced (prepare_write_co) */
	bool reread;   /* another program may have changed the header since it was read */
	bool refused;  /* something would have overwritten a table: no more changes (corrupt.c) */
	struct ox_qcow2_extensions ext;
	struct ox_header header;
	struct ox_order order;
	struct ox_cache map;	/* slices of the active L1 table and of L2 tables */
	struct ox_cache counts; /* slices of the refcount table and of refcount blocks */
	struct ox_tables tables;
	struct ox_mutex table_lock; /* making and copying L2 tables */
	uint64_t tables_left;	    /* L2 tables that gave way to a copy, ever */
	struct ox_rangelock guest;
	struct ox_mutex resize_lock;
	struct ox_mutex long_lock; /* whose turn it is among the long requests (zero.c) */
	struct ox_alloc alloc;
	struct ox_commit commit;
	struct ox_lazy lazy;
	struct ox_idle idle;
	struct ox_recover recover;
	struct ox_latch background;
	struct ox_metadata_range fixed[6]; /* header, L1, refcount table, snapshots, bitmaps */
	unsigned fixed_count;
	/* The last cluster that was decompressed, by its L2 entry. */
	uint8_t *unpacked;
	uint64_t unpacked_entry;
	struct ox_mutex unpack_lock;
};

static inline const struct ox_qcow2_header *ox_qcow2_hdr(const struct ox_qcow2 *q)
{
	return &q->header.fields;
}

static inline struct ox_qcow2 *ox_qcow2_of(struct ox_image *img)
{
	return img->state;
}

/* ---- header.c ---- */

void ox_header_init(struct ox_header *h);
/*
 * Between lock and unlock: copy the fields, change the copy, and write it. The write is one
 * sector (H9), and durable on return. fields is taken over only if all went well. A failure poisons
 * (M3) but for one that lacks room, where the caller has to live with either version on the disk.
 */
void ox_header_lock_co(struct ox_qcow2 *q);
int ox_header_write_co(struct ox_qcow2 *q, const struct ox_qcow2_header *fields)
	__attribute__((warn_unused_result));
void ox_header_unlock(struct ox_qcow2 *q);
/* Reads and decodes header and extensions into q. */
int ox_header_read_co(struct ox_qcow2 *q, uint8_t **ret_cluster, size_t *ret_count,
		      struct ox_error **err);

/* ---- lazy.c ---- */

void ox_lazy_init(struct ox_qcow2 *q);
/* Before the first entry that the refcounts on disk do not cover (D5). */
int ox_lazy_mark_co(struct ox_qcow2 *q) __attribute__((warn_unused_result));
/* After every refcount is durable and right (D6). */
int ox_lazy_clear_co(struct ox_qcow2 *q) __attribute__((warn_unused_result));

/* ---- idle.c ---- */

/* lazy_idle_ms: as in struct ox_open_options. */
void ox_idle_init(struct ox_qcow2 *q, uint32_t lazy_idle_ms);
/* The reserve has been filled, the dirty bit may be set: watch for quiet. */
void ox_idle_start(struct ox_qcow2 *q);
/* Gives back the reserve, commits the counts and clears the dirty bit, unless something was
 * allocated since takes. */
int ox_idle_commit_counts_co(struct ox_qcow2 *q, uint64_t takes)
	__attribute__((warn_unused_result));
/* Ends the watch, which is a background task, until ox_idle_allow. */
void ox_idle_stop(struct ox_qcow2 *q);
void ox_idle_allow(struct ox_qcow2 *q);

/* ---- fence.c ---- */

/* Makes the old end durable in the header, which has room for it. */
int ox_fence_set_co(struct ox_qcow2 *q, uint64_t old_end_bytes) __attribute__((warn_unused_result));
bool ox_fence_has_room(const struct ox_qcow2 *q);
/* Takes it away, durably; nothing happens where there is none. */
int ox_fence_remove_co(struct ox_qcow2 *q) __attribute__((warn_unused_result));

/* ---- recover.c ---- */

void ox_recover_init(struct ox_qcow2 *q, enum ox_recover_mode mode);
/* The header has been read: a dirty image may have a fence, which readers heed as well. */
void ox_recover_note_fence(struct ox_qcow2 *q);
/* A dirty image, before its first request: counts what is quickly counted, and starts the rest. */
int ox_recover_start_co(struct ox_qcow2 *q, struct ox_error **err)
	__attribute__((warn_unused_result));
/* Whether the counts are not known (yet): RUNNING or FAILED. */
static inline bool ox_recover_active(const struct ox_qcow2 *q)
{
	return q->recover.state == OX_RECOVERY_RUNNING || q->recover.state == OX_RECOVERY_FAILED;
}
/* A table that is being counted: it is not changed, but copied (R1). */
static inline bool ox_recover_is_frozen(const struct ox_qcow2 *q, struct ox_host table)
{
	return table.bytes < q->recover.frozen_end;
}
/* Whether the entry of the table names what never became durable. */
bool ox_recover_is_stale(const struct ox_qcow2 *q, struct ox_host table,
			 const struct ox_qcow2_entry *e);
/* The same of an L1 entry; for writing they have gone when the recovery began. */
bool ox_recover_is_stale_table(const struct ox_qcow2 *q, struct ox_host table);
/* Whether COPIED in an entry that names the cluster is a lie, as far as is known by now (D2). */
bool ox_recover_is_shared(const struct ox_qcow2 *q, struct ox_host host);
/* How many stale entries the table's bytes have. */
uint64_t ox_recover_stale_in(const struct ox_qcow2 *q, struct ox_host table,
			     const struct ox_be64 *entries, uint64_t count);
/* Takes the stale entries out of the table's bytes. Returns how many there were. */
uint64_t ox_recover_scrub(const struct ox_qcow2 *q, struct ox_host table, struct ox_be64 *entries,
			  uint64_t count);
/* The first cluster past all that is in use, for the allocator, which holds its lock. -ERESTART:
 * there is none before the recovery has ended; -EIO: nor then. */
int ox_recover_place_co(struct ox_qcow2 *q, uint64_t *ret_start)
	__attribute__((warn_unused_result));
/* The allocator has taken count clusters there. */
void ox_recover_placed(struct ox_qcow2 *q, uint64_t count);
/*
 * After a request has ended with r, and given back its guest range: whether it is to be made again,
 * because it lacked a cluster that only the recovery can find. Waits for that.
 */
bool ox_recover_restart_co(struct ox_qcow2 *q, int r);
/* Until it has ended, well or not, or lacks room, for a caller that holds nothing it may need. */
void ox_recover_wait_co(struct ox_qcow2 *q);
/* The same for the image's close: a recovery that lacks room ends without success. */
void ox_recover_end_co(struct ox_qcow2 *q);
/* The counts found no room: waits until it may be worth another attempt. False: give up. */
bool ox_recover_await_room_co(struct ox_qcow2 *q);
/* Says that a recovery has kept so many tables that look lost. */
void ox_recover_tell_kept(const struct ox_qcow2 *q, uint64_t tables);
/* Gives up what a failed recovery knows. */
void ox_recover_fini(struct ox_qcow2 *q);

/* ---- recover_finish.c ---- */

/* All tables are visited: writes the counts, removes the fence, clears the dirty bit. 1: that needs
 * a halted guest. */
int ox_recover_finish_co(struct ox_qcow2 *q) __attribute__((warn_unused_result));

/* ---- open.c ---- */

/* The whole recovery of an image that no request is using: refcounts, header, tables, bit. */
int ox_qcow2_recover_halted_co(struct ox_qcow2 *q, struct ox_error **err)
	__attribute__((warn_unused_result));
/* Whether the refcounts may be a base for allocation. */
int ox_qcow2_check_refcounts_co(struct ox_qcow2 *q, struct ox_error **err)
	__attribute__((warn_unused_result));

/* ---- refcount.c, refcount_grow.c ---- */

int ox_refcount_get_co(struct ox_qcow2 *q, uint64_t cluster, uint64_t *ret)
	__attribute__((warn_unused_result));
/* Sets count clusters to value; their refcount blocks must exist (-EIO otherwise). */
int ox_refcount_set_co(struct ox_qcow2 *q, uint64_t cluster, uint64_t count, uint64_t value)
	__attribute__((warn_unused_result));
/* The first run of free clusters at or after from, at most most long. Reaches past every table:
 * what no block describes is free. */
int ox_refcount_find_free_co(struct ox_qcow2 *q, uint64_t from, uint64_t most, uint64_t *ret_start,
			     uint64_t *ret_count) __attribute__((warn_unused_result));
/*
 * Makes sure that a refcount block describes the free cluster; clusters of one block's range have
 * or lack it together. *ret_used: the refcount structure took the cluster itself; search again.
 */
int ox_refcount_ensure_co(struct ox_qcow2 *q, uint64_t cluster, bool *ret_used)
	__attribute__((warn_unused_result));
/* The same for any run of clusters at once: range, one cluster of the reserve, becomes the block
 * that describes cluster. */
int ox_refcount_make_block_co(struct ox_qcow2 *q, uint64_t cluster,
			      const struct ox_alloc_range *range)
	__attribute__((warn_unused_result));
int ox_refcount_has_block_co(struct ox_qcow2 *q, uint64_t cluster, bool *ret)
	__attribute__((warn_unused_result));
/* Empties the refcount table's entry, whatever it says. */
int ox_refcount_cut_entry_co(struct ox_qcow2 *q, uint64_t index)
	__attribute__((warn_unused_result));
/* Blocks that the refcount table has room for. */
uint64_t ox_refcount_table_entries(const struct ox_qcow2 *q);
/* -EIO where an entry of the refcount table is damaged, or two name one block. */
int ox_refcount_check_table_co(struct ox_qcow2 *q) __attribute__((warn_unused_result));
/* A larger refcount table, with the blocks that describe it, at or after the cluster from and past
 * all that the old one describes. *ret_area: what it took, valid where the error is 0. */
int ox_refcount_grow_table_co(struct ox_qcow2 *q, uint64_t need_blocks, uint64_t from,
			      struct ox_alloc_range *ret_area) __attribute__((warn_unused_result));

/* ---- alloc.c, release.c ---- */

void ox_alloc_init(struct ox_qcow2 *q);
/* So many clusters are going to be taken in one go: refills may be as large. 0: no longer. */
void ox_alloc_expect(struct ox_qcow2 *q, uint64_t clusters);
/* The guest is idle: the next batch is as small as the first. */
void ox_alloc_calm(struct ox_qcow2 *q);
/* Clusters in the reserve. */
uint64_t ox_alloc_reserved(const struct ox_alloc *a);
/*
 * Takes up to want clusters, contiguous, out of the reserve. They lie within the file's durable
 * length (D8), their refcounts are durable or covered by the dirty bit (D3, D5), and zero tells
 * whether they durably read as zeroes (H2). -ERESTART: ox_recover_restart_co.
 */
int ox_alloc_take_co(struct ox_qcow2 *q, uint64_t want, struct ox_alloc_range *ret)
	__attribute__((warn_unused_result));
/* Clusters that were taken and that no entry has named: the next request finds them. zero: nothing
 * was written to them either. */
void ox_alloc_give_back(struct ox_qcow2 *q, const struct ox_alloc_range *range);
/* Whether the clusters hold the header or a table that is in use: no data, not to be freed. */
bool ox_alloc_overlaps_metadata(const struct ox_qcow2 *q, uint64_t start, uint64_t count);
/* Exactly count clusters in one piece, for tables that must be contiguous. */
int ox_alloc_take_contiguous_co(struct ox_qcow2 *q, uint64_t count, struct ox_alloc_range *ret)
	__attribute__((warn_unused_result));
/* Makes [start, start + count) part of the file and zero: *ret_zero false where the store cannot
 * zero. Not durable yet. */
int ox_alloc_make_zero_co(struct ox_qcow2 *q, uint64_t start, uint64_t count, bool *ret_zero)
	__attribute__((warn_unused_result));
/* The entry that named these bytes is gone from the cache: one reference less for each cluster
 * under them once a commit has made that durable (D4). */
void ox_alloc_free_later(struct ox_qcow2 *q, struct ox_host host, uint64_t bytes);
/* Keeps what one long request has freed from filling the memory: waits until it is released. */
int ox_alloc_breathe_co(struct ox_qcow2 *q) __attribute__((warn_unused_result));
/* Works through alloc.ready: punches, then lowers refcounts. Allocations get in between. */
int ox_alloc_release_co(struct ox_qcow2 *q) __attribute__((warn_unused_result));
/* The host has no room: what was freed is released now, and not at the guest's next flush. False:
 * there is nothing that would bring room. The caller may hold a guest range, and is not on its way
 * to a commit (ox_commit_enter). */
bool ox_alloc_reclaim_co(struct ox_qcow2 *q);
/* Starts the work on alloc.ready beside the caller, unless it is under way or has to wait. */
void ox_alloc_start_release(struct ox_qcow2 *q);
/* A cluster for a refcount block that is to describe cluster; the caller holds alloc.lock. */
int ox_alloc_make_block_co(struct ox_qcow2 *q, uint64_t cluster)
	__attribute__((warn_unused_result));
/* Forgets what was to be released, and the reserve: the counts are made anew without them. */
void ox_alloc_forget(struct ox_qcow2 *q);
/* Gives the unused reserve back, in the cache, for a caller that holds alloc.lock. */
int ox_alloc_return_reserve_co(struct ox_qcow2 *q) __attribute__((warn_unused_result));
/* The same, and writes the counts, and cuts free clusters off the file's end, at close. */
int ox_alloc_shrink_co(struct ox_qcow2 *q) __attribute__((warn_unused_result));
void ox_alloc_fini(struct ox_qcow2 *q);

/* ---- tables.c ---- */

/* Reads the active L1 and the refcount table, and notes the tables they name. 0 or -errno. */
int ox_tables_load_co(struct ox_qcow2 *q) __attribute__((warn_unused_result));
void ox_tables_fini(struct ox_qcow2 *q);
int ox_tables_add(struct ox_qcow2 *q, struct ox_host table) __attribute__((warn_unused_result));
void ox_tables_remove(struct ox_qcow2 *q, struct ox_host table);
/* Whether exactly one entry names the table. */
bool ox_tables_unique(const struct ox_qcow2 *q, struct ox_host table);
/* Whether any cluster under the bytes is a table. */
bool ox_tables_overlap(const struct ox_qcow2 *q, struct ox_host host, uint64_t bytes);

/* ---- commit.c ---- */

void ox_commit_init(struct ox_qcow2 *q);
/* Makes every entry set so far, and all data that had been written, durable (D7). */
int ox_commit_co(struct ox_qcow2 *q) __attribute__((warn_unused_result));
/*
 * A synchronous writer says when its data is on its way and when it has arrived: the leader of a
 * round waits for those that were on their way, so that one sync serves them all. Called with the
 * guest range held, so that whoever waits for that range is not waited for.
 */
void ox_commit_enter(struct ox_qcow2 *q);
void ox_commit_leave(struct ox_qcow2 *q);
/* For a writer that is alone: writes the tables beside its data. The round that follows finds them
 * written, or writes what failed. */
void ox_commit_start_tables(struct ox_qcow2 *q);
/* The same in the background, for a guest that frees much and never flushes. */
void ox_commit_soon(struct ox_qcow2 *q);

/* ---- map.c, map_table.c ---- */

/* A stretch of guest clusters whose entries are of one kind and, where they have host clusters,
 * contiguous on the host. */
struct ox_map_run {
	enum ox_qcow2_entry_kind kind;
	bool copied;
	bool durable;		   /* the entries are durable as they are (H1) */
	struct ox_host host;	   /* of the byte asked for; COMPRESSED: of the stream */
	uint64_t length;	   /* bytes from the byte asked for on */
	uint64_t compressed_bytes; /* COMPRESSED */
	uint64_t entry;		   /* the first entry, raw */
};

/* What lies at guest, at most length bytes on. -EIO where a table or an entry is damaged. */
int ox_map_lookup_co(struct ox_qcow2 *q, struct ox_guest guest, uint64_t length,
		     struct ox_map_run *ret) __attribute__((warn_unused_result));

/*
 * Sets the entries of count clusters from the cluster-aligned guest on. With kind DATA or
 * ZERO_ALLOC they name consecutive host clusters and get COPIED. after is the barrier they owe
 * (D1). Sets as many as one slice holds and says how many.
 */
int ox_map_set_co(struct ox_qcow2 *q, struct ox_guest guest, uint64_t count,
		  enum ox_qcow2_entry_kind kind, struct ox_host host, uint64_t after,
		  uint64_t *ret_done) __attribute__((warn_unused_result));
/* The L2 table of guest for writing: made or copied if need be (map_table.c). */
int ox_map_table_co(struct ox_qcow2 *q, struct ox_guest guest, struct ox_host *ret)
	__attribute__((warn_unused_result));
/* Reads the L1 entry; -EIO where it is damaged. */
int ox_map_l1_co(struct ox_qcow2 *q, uint64_t index, struct ox_qcow2_l1_entry *ret,
		 bool *ret_durable) __attribute__((warn_unused_result));
/* Whether host clusters may be what an entry says: aligned by decode, within the file, and not on
 * top of the fixed tables. */
bool ox_map_host_ok(const struct ox_qcow2 *q, struct ox_host host, uint64_t bytes);

/* ---- corrupt.c: each tells what is wrong; the caller fails with -EIO ---- */

/* The L1 entry of that index, or the L2 entry of guest, which is at that place, as it was read. The
 * latter returns -EIO, or -EUCLEAN where it names metadata: a writer's refusal, as img.c knows. */
void ox_corrupt_l1(struct ox_qcow2 *q, uint64_t index, uint64_t raw);
int ox_corrupt_l2(struct ox_qcow2 *q, struct ox_guest guest, struct ox_host at, uint64_t raw);
/* Something in the refcount structure, by the name of a finding. */
void ox_corrupt_counts(struct ox_qcow2 *q, const char *finding, struct ox_host host,
		       uint64_t bytes);
void ox_corrupt_stream(struct ox_qcow2 *q, struct ox_host host, uint64_t bytes);
/* The host range holds metadata and was about to be written over, or freed. */
void ox_corrupt_refuse(struct ox_qcow2 *q, const char *finding, struct ox_host host,
		       uint64_t bytes);
/* The same, met by a request on the guest range (struct ox_img_ops). */
void ox_qcow2_refused(struct ox_image *img, uint64_t offset, uint64_t length);

/* ---- the request paths, one file each ---- */

/* The first change of this opening: clears autoclear bits that we do not keep (D6's sibling for
 * bitmaps), durably. */
int ox_qcow2_prepare_write_co(struct ox_qcow2 *q) __attribute__((warn_unused_result));
int ox_qcow2_read_part_co(struct ox_image *img, const struct iovec *iov, int n, uint64_t skip,
			  uint64_t offset, uint64_t *length, bool *ret_below);
int ox_qcow2_preadv_co(struct ox_image *img, const struct iovec *iov, int n, uint64_t offset,
		       uint64_t length);
/* What the guest reads there without taking a lock: for copy-on-write under the writer's lock. */
int ox_qcow2_read_unlocked_co(struct ox_qcow2 *q, const struct iovec *iov, int n, uint64_t offset,
			      uint64_t length);
int ox_qcow2_pwritev_co(struct ox_image *img, const struct iovec *iov, int n, uint64_t offset,
			uint64_t length, unsigned flags);
int ox_qcow2_zero_co(struct ox_image *img, uint64_t offset, uint64_t length, unsigned flags);
int ox_qcow2_discard_co(struct ox_image *img, uint64_t offset, uint64_t length);
int ox_qcow2_flush_co(struct ox_image *img, bool durable);
int ox_qcow2_extent_co(struct ox_image *img, uint64_t offset, uint64_t length,
		       struct ox_extent *ret);
int ox_qcow2_resize_co(struct ox_image *img, uint64_t new_bytes, struct ox_error **err);
/*
 * The writer's inner part, for a caller that holds the range exclusively from *done on. fua: a
 * commit follows. It begins at *done, and sets it to where it stopped: a caller that gives up its
 * lock and calls again does not write a byte twice.
 */
int ox_qcow2_write_locked_co(struct ox_qcow2 *q, const struct iovec *iov, int n, uint64_t offset,
			     uint64_t length, bool fua, uint64_t *done);
/* For a resize: zeroes what a larger disk will show, or removes what a smaller one no longer shows,
 * piece by piece, for a caller that holds no range (zero.c). */
int ox_qcow2_zero_new_co(struct ox_qcow2 *q, uint64_t offset, uint64_t end);
int ox_qcow2_drop_co(struct ox_qcow2 *q, uint64_t offset, uint64_t end);
/* Reads the host cluster of a compressed run into a cluster-sized buffer. */
int ox_qcow2_unpack_co(struct ox_qcow2 *q, const struct ox_map_run *run, uint8_t *cluster);

/* Locks the clusters under [offset, offset + length). */
void ox_qcow2_lock_co(struct ox_qcow2 *q, struct ox_range *range, uint64_t offset, uint64_t length,
		      bool exclusive);
/* Whether the bytes from offset on to the cluster's end, or the whole disk's end, come from the
 * backing file where the image has none of its own. */
bool ox_qcow2_backing_covers(const struct ox_qcow2 *q, uint64_t offset);

#endif
