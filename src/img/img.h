/* SPDX-License-Identifier: MIT */
/*
 * An open disk: guest offsets in, host offsets out. A format implements struct ox_img_ops; img.c
 * holds what every format shares: bounds, cache mode, the backing chain, recovery at open.
 */
#ifndef OX_IMG_IMG_H
#define OX_IMG_IMG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/offset.h"
#include "img/notice.h"
#include "io/io.h"
#include "oxbow.h"

struct ox_img_ops {
	const char *format;
	/* Ranges are within the image and longer than zero. */
	int (*preadv_co)(struct ox_image *img, const struct iovec *iov, int n, uint64_t offset,
			 uint64_t length);
	/* Of an image that backs another: reads the beginning of the range out of this image alone,
	 * into bytes skip and on of the list. *length becomes what was read; or, with *ret_below
	 * true, what is to be read from the backing file instead. */
	int (*read_part_co)(struct ox_image *img, const struct iovec *iov, int n, uint64_t skip,
			    uint64_t offset, uint64_t *length, bool *ret_below);
	int (*pwritev_co)(struct ox_image *img, const struct iovec *iov, int n, uint64_t offset,
			  uint64_t length, unsigned flags);
	/* The same of whole clusters, the last of which the disk's end may cut short. NULL: the
	 * format has no compressed clusters. */
	int (*pwritev_compressed_co)(struct ox_image *img, const struct iovec *iov, int n,
				     uint64_t offset, uint64_t length, unsigned flags);
	int (*zero_co)(struct ox_image *img, uint64_t offset, uint64_t length, unsigned flags);
	int (*discard_co)(struct ox_image *img, uint64_t offset, uint64_t length);
	/* With durable false (cache mode unsafe) the metadata reaches the host, unsynced. */
	int (*flush_co)(struct ox_image *img, bool durable);
	/* The image's own layer only: neither DATA nor ZERO means "ask the backing file". holes:
	 * the store is asked what is a hole under the image's clusters, be that likely or not. */
	int (*extent_co)(struct ox_image *img, uint64_t offset, uint64_t length, bool holes,
			 struct ox_extent *ret);
	/* Up to max of them, one behind the other, with holes, for who is going to ask for all: how
	 * many, at least one, or a negative errno. One that means "ask the backing file" is the
	 * last. NULL: one at a time. */
	int (*extents_co)(struct ox_image *img, uint64_t offset, uint64_t length,
			  struct ox_extent *ret, int max);
	/* how: to the byte, and what else is asked for; NULL: by the format's unit, and no more. */
	int (*resize_co)(struct ox_image *img, uint64_t new_bytes,
			 const struct ox_resize_options *how, struct ox_error **err);
	/*
	 * Names another backing file (NULL: none) in the header, and takes over its chain (NULL:
	 * it stays closed), on success alone. At each moment the header on disk is the old one or
	 * the new one. NULL: the format has no place for a name.
	 */
	int (*set_backing_co)(struct ox_image *img, const char *name, const char *format,
			      struct ox_image *chain, struct ox_error **err);
	/* Takes away all that the image has of its own, durably: it reads its backing file, which
	 * holds the same. NULL: not known. */
	int (*empty_co)(struct ox_image *img);
	unsigned (*snapshots)(const struct ox_image *img); /* its own. NULL: there are none */
	/* The store has become writable (or is about to be read-only): recover, commit. */
	int (*activate_co)(struct ox_image *img, struct ox_error **err);
	int (*deactivate_co)(struct ox_image *img, struct ox_error **err);
	/* Keeps the header as it is on disk until the same task lets go of it. NULL: it has none.
	 */
	void (*hold_header_co)(struct ox_image *img, bool hold);
	/* Frees the format's state; the store is closed by img.c. deactivate_co came before. */
	void (*free)(struct ox_image *img);
	uint64_t (*cluster_bytes)(const struct ox_image *img); /* NULL: there are none */
	void (*stats)(const struct ox_image *img, struct ox_image_stats *ret);
	/* The error since which nothing is written any more (M3); 0: none. */
	int (*error)(const struct ox_image *img);
	/* A request that was to change the range has ended with -EUCLEAN: it would have written
	 * over metadata. NULL: there is none. */
	void (*refused)(struct ox_image *img, uint64_t offset, uint64_t length);
	/* NULL: the format knows no recovery. The message lives as long as the image is not used.
	 */
	void (*recovery)(const struct ox_image *img, struct ox_recovery_status *ret);
	void (*leave_recovery)(struct ox_image *img); /* NULL: there is none */
};

struct ox_census_ops;
struct ox_rebuild; /* the walk of a dirty image under way: check's */

/*
 * Recovery, as img asks for it and check provides it (dependencies point down, so the walker above
 * is reached through this). What it cannot mend is an obstacle, in words. The caller clears the
 * dirty bit.
 */
struct ox_recovery {
	/*
	 * All of it in one go, on an image that stands still: rebuilds every refcount from the
	 * tables, makes them durable, and returns 0 only if they are then known to be right (D6).
	 * It changes nothing but refcount structures, COPIED bits and stale entries. *ret_kept: L2
	 * tables that nothing names and that look lost; they stay counted, with all they name.
	 */
	int (*rebuild_co)(struct ox_io *io, struct ox_error **err,
			  void (*progress)(void *opaque, uint64_t done, uint64_t total),
			  void *opaque, uint64_t *ret_kept);

	/*
	 * Beside the guest (docs/recovery.md): begin, walk the L2 tables, judge, write the counts
	 * of the blocks that there are, ask for the rest. begin_co counts everything but what L2
	 * tables name, and durably drops stale L1 entries; all that was written before is synced.
	 * From then on no table that it has seen may change. Once *leaves is set the work ends
	 * with -ECANCELED.
	 */
	int (*begin_co)(struct ox_io *io, const bool *leaves, struct ox_rebuild **ret,
			struct ox_error **err);
	void (*end)(struct ox_rebuild *b);
	/* False: stale entries were kept, that a longer file would give a meaning. */
	bool (*may_grow)(const struct ox_rebuild *b);
	/* Counts what L2 tables name, and yields now and then. progress: tables done, of total. */
	int (*walk_co)(struct ox_rebuild *b,
		       void (*progress)(void *opaque, uint64_t done, uint64_t total), void *opaque);
	/* Why the counts cannot be known, as found up to now; NULL: nothing stands in the way. */
	const char *(*obstacle)(const struct ox_rebuild *b);
	/* Holds the blocks on disk against the counts. 1: the tables must stand still for a
	 * judgement; 0: they need not; or a negative errno. */
	int (*judge_co)(struct ox_rebuild *b);
	/* As ret_kept of rebuild_co, once judge_co was through. */
	uint64_t (*kept)(const struct ox_rebuild *b);
	/* Writes the blocks that differ. Not synced. */
	int (*write_counts_co)(struct ox_rebuild *b);
	/* Whether the refcount table's entry names a block that write_counts_co has set right. */
	bool (*has_block)(const struct ox_rebuild *b, uint64_t index);
	uint64_t (*count)(const struct ox_rebuild *b, uint64_t cluster);
	/* The lowest cluster at or after from, below end, with a count; end if there is none. */
	uint64_t (*next_counted)(const struct ox_rebuild *b, uint64_t from, uint64_t end);
	/* One past the highest. */
	uint64_t (*end_counted)(const struct ox_rebuild *b);
	/* The same as next_counted of one without. */
	uint64_t (*next_free)(const struct ox_rebuild *b, uint64_t from, uint64_t end);
	/* Counts a cluster that had no count, once. */
	int (*take)(struct ox_rebuild *b, uint64_t cluster);
	/* Whether the cluster is named more than once, or in ways that exclude each other, as far
	 * as is known: then COPIED does not hold. */
	bool (*is_shared)(const struct ox_rebuild *b, uint64_t cluster);
	/* The first table at or after the cluster that has stale entries; UINT64_MAX: none. */
	uint64_t (*next_stale)(const struct ox_rebuild *b, uint64_t from);

	const struct ox_census_ops *census; /* of formats without refcounts */
};

struct ox_census_view {
	uint64_t end_bytes;
	bool at_rest;
	const bool *leaves; /* once it is set the walk ends with -ECANCELED; NULL: never */
	bool (*is_ours)(const void *opaque, uint64_t entry); /* not at rest */
	const void *opaque;
};

struct ox_census; /* what the tables of an image without refcounts name: check's */

/*
 * The same for a format without refcounts (docs/qed.md): which clusters entries name, each of them
 * once at the most. All clusters are numbers of whole clusters in the file.
 */
struct ox_census_ops {
	/*
	 * Reads the header and L1. what->end_bytes is the end of the file as the walk sees it.
	 * Whoever is at rest has handed out nothing behind it, and the image is NEED_CHECK: then
	 * entries that name what lies there are stale (D8), and those of L1 are durably dropped
	 * here. Not at rest they are the caller's own, and passed over, in L1 and where is_ours
	 * says so of the L2 entry of a number in the disk's order; any others are damage.
	 */
	int (*begin_co)(struct ox_io *io, const struct ox_census_view *what, struct ox_census **ret,
			struct ox_error **err);
	void (*end)(struct ox_census *c);
	/* Reads the L2 tables, and yields now and then. Entries that get another value meanwhile
	 * lose none that they had, but for stale ones. progress: pieces done, of total. */
	int (*walk_co)(struct ox_census *c,
		       void (*progress)(void *opaque, uint64_t done, uint64_t total), void *opaque);
	/* Why a check would not call the image clean, or leaks alone, as found up to now; stale
	 * entries are no reason. NULL: nothing stands in the way. */
	const char *(*obstacle)(const struct ox_census *c);
	/* Whether all stale entries are among those of next_stale: no table was unreadable, and
	 * those of L1 were dropped. If not, a longer file would give one a meaning. */
	bool (*knows_stale)(const struct ox_census *c);
	/* The table whose entries are among the stale ones: the byte where the first such at or
	 * after from begins; UINT64_MAX: none. */
	uint64_t (*next_stale)(const struct ox_census *c, uint64_t from_bytes);
	/* The lowest cluster at or after from, below end, that nothing names, or that something
	 * does; end if there is none. */
	uint64_t (*next_free)(const struct ox_census *c, uint64_t from, uint64_t end);
	uint64_t (*next_named)(const struct ox_census *c, uint64_t from, uint64_t end);
	/* Whether the cluster is named more than once, or as a table and as data, as far as is
	 * known. */
	bool (*is_shared)(const struct ox_census *c, uint64_t cluster);
};

struct ox_img_open {
	const struct ox_open_options *opts;
	const struct ox_recovery *recovery;
	/* State that outlives the process, in the place of opts->state_fd: for tests. */
	void *state;
	uint64_t state_bytes;
};

struct ox_image {
	struct ox_reactor *reactor;
	const struct ox_img_ops *ops;
	struct ox_io *io;	  /* owned */
	struct ox_image *backing; /* owned; NULL: none (or not opened) */
	const struct ox_recovery *recovery;
	char *filename;
	char *backing_name;   /* as the image has it; NULL: none */
	char *backing_format; /* as the image has it; NULL: not stated */
	/* The image's format has no place for the name of that one: only "raw" can be said. */
	bool backing_format_unsayable;
	uint64_t size_bytes; /* virtual */
	enum ox_cache_mode cache;
	unsigned open_flags; /* enum ox_open_flags */
	bool read_only;
	bool is_snapshot; /* one of the image's, which is not written to */
	bool rebasing; /* it is to get another backing file: zeroes are said, not left to this one
			*/
	void *state;   /* the format's: struct ox_qcow2 * */
	struct ox_notices notices;
	/* lib's: */
	struct ox_context *ctx;
	struct ox_list queues;	/* struct ox_queue */
	struct ox_list waiting; /* requests that have no task yet */
	unsigned tasks;		/* of requests */
	unsigned jobs;		/* of its control plane, under way or not ended */
	bool reopening;
	bool is_built; /* under construction: its builder alone closes it */
	void (*warn)(void *opaque, const char *message);
	void (*progress)(void *opaque, uint64_t done, uint64_t total);
	void *opaque;
};

/* Images of the longest chain that is opened: about as many as a process may have files open. Every
 * way along a chain is a loop, so that its length costs no stack. */
#define OX_IMG_MAX_CHAIN 1000

/* Takes the store over, on success alone. */
int ox_img_open_co(struct ox_io *io, const struct ox_img_open *how, struct ox_image **ret,
		   struct ox_error **err);
/* Commits and frees, whatever happens; returns the first error. */
int ox_img_close_co(struct ox_image *img, struct ox_error **err);
int ox_img_reopen_co(struct ox_image *img, bool read_only, struct ox_error **err);

int ox_img_preadv_co(struct ox_image *img, const struct iovec *iov, int n, uint64_t offset);
int ox_img_pwritev_co(struct ox_image *img, const struct iovec *iov, int n, uint64_t offset,
		      unsigned flags);
int ox_img_zero_co(struct ox_image *img, uint64_t offset, uint64_t length, unsigned flags);
int ox_img_discard_co(struct ox_image *img, uint64_t offset, uint64_t length);
int ox_img_flush_co(struct ox_image *img);
int ox_img_extent_co(struct ox_image *img, uint64_t offset, uint64_t length, struct ox_extent *ret);
/* Several, one behind the other, for one who is going to ask for them all: how many, at least one,
 * or -errno. They are as they were at one moment. */
int ox_img_extents_co(struct ox_image *img, uint64_t offset, uint64_t length, struct ox_extent *ret,
		      int max);
/* The same for long work, to which a hole saves a read: holes of the file are looked for under all
 * clusters, and not only where an image looks preallocated. */
int ox_img_holes_co(struct ox_image *img, uint64_t offset, uint64_t length, struct ox_extent *ret);
int ox_img_resize_co(struct ox_image *img, uint64_t new_bytes, struct ox_error **err);
/* To the byte, with what opts ask for. */
int ox_img_resize_with_co(struct ox_image *img, uint64_t new_bytes,
			  const struct ox_resize_options *opts, struct ox_error **err);

/* Formats, each with an open that reads the header and fills img->ops, state, size_bytes. */
int ox_qcow2_open_co(struct ox_image *img, const struct ox_img_open *how, struct ox_error **err);
int ox_qed_open_image_co(struct ox_image *img, const struct ox_img_open *how,
			 struct ox_error **err);
int ox_raw_open_co(struct ox_image *img, const struct ox_img_open *how, struct ox_error **err);

/* Creation. Whether the options are such that an image can be made: nothing is written. */
int ox_qcow2_create_check(const struct ox_create_options *opts, struct ox_error **err);
/* Lays out an empty image on an empty store and syncs it. Preallocation METADATA and beyond is done
 * afterwards through ox_qcow2_preallocate_co on the opened image. */
int ox_qcow2_create_co(struct ox_io *io, const struct ox_create_options *opts,
		       struct ox_error **err);
int ox_qed_create_check(const struct ox_create_options *opts, struct ox_error **err);
int ox_qed_create_co(struct ox_io *io, const struct ox_create_options *opts, struct ox_error **err);
/* Makes every cluster of the image allocated, as the options say. -EINTR where they tell it to
 * stop. */
int ox_qcow2_preallocate_co(struct ox_image *img, const struct ox_create_options *opts);

#endif
