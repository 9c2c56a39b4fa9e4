/* SPDX-License-Identifier: MIT */
/*
 * The qcow2 engine's parts, over those that all mapped disks share. Each file owns the struct of
 * its own name; struct ox_qcow2 only holds them. docs/durability.md tells how they keep D1-D9 and
 * S1 together.
 *
 * Locks: as in img/mapped/mapped.h; the header's is header.lock.
 */
#ifndef OX_IMG_QCOW2_QCOW2_H
#define OX_IMG_QCOW2_QCOW2_H

#include "codec/codec.h"
#include "fmt/qcow2.h"
#include "img/mapped/mapped.h"

/* One thread is at work on each. */
#define OX_PACKERS_MAX 18u

/* ---- header.c: the header on disk ---- */

struct ox_header {
	struct ox_qcow2_header fields; /* as they are on disk */
	uint8_t sector[512];	       /* the first sector as it is on disk */
	struct ox_mutex lock;
};

/* ---- alloc.c, release.c: free clusters, as the refcounts have them ---- */

struct ox_space {
	uint64_t cursor; /* no cluster below it is known to be free */
	uint64_t floor;	 /* the file is not cut below this many clusters at close */
	bool named;	 /* the refcount table has got entries that may not be durable (S1) */
};

/* ---- recover.c, recover_finish.c: a dirty image, recovered beside the guest ---- */

/* A refcount table that moves ends one and begins another. */
#define OX_RECOVER_OWN_RANGES 4

struct ox_rebuilding {
	struct ox_rebuild *walk; /* while RUNNING or FAILED */
	uint64_t fence;		 /* host bytes: a stale entry names this or more, from below */
	uint64_t frozen_end;	 /* host bytes: tables below it do not change; 0: none */
	/* What the allocator has taken past the old end, ascending; it goes on at the last one's
	 * end. No old table names anything there (R3). */
	struct ox_alloc_range own[OX_RECOVER_OWN_RANGES];
	unsigned own_count;
	uint64_t limit_clusters; /* the file, as old tables may name it */
	bool may_grow;		 /* the fence is durable, or nothing is stale any more */
	bool no_room;		 /* there can be no fence: allocations wait */
	bool scrubs;		 /* frozen tables may have lost stale entries in the cache */
	struct ox_io *opened; /* the store as it was when a recovery began that is gone on with */
};

/* ---- compressed.c: compressed clusters, as they are read ---- */

/* A cluster that was decompressed, known by its L2 entry. */
struct ox_unpacked {
	uint64_t entry; /* 0: none */
	uint8_t *data;
	uint64_t used; /* the last use's number */
	bool loading;
};

#define OX_UNPACKED_KEPT 8u

struct ox_unpacking {
	struct ox_unpacked kept[OX_UNPACKED_KEPT];
	uint64_t uses;
	unsigned jobs;	   /* under way */
	uint64_t last;	   /* cluster of the disk that was read a part of, */
	unsigned in_order; /* and how many in order before it */
	struct ox_waitq loaded;
	struct ox_waitq ended;
	struct ox_arena *arena; /* for streams that are read together; NULL: not needed yet */
};

/* ---- compress.c: compressed clusters, as they are written ---- */

struct ox_packing {
	/* The host cluster in which the next stream begins, and how much of it is in use; one
	 * reference of it is ours. 0: none. Under alloc.lock. */
	uint64_t cluster;
	uint64_t used_bytes;
	uint32_t note; /* of that reference (D10) */
	/* Requests in the order in which they began: that of their streams in the file. */
	uint64_t begun;
	uint64_t placed;
	struct ox_waitq turn;
	int level;
	struct ox_codec_packer *idle[OX_PACKERS_MAX];
	struct ox_arena *arena; /* for streams, until they are stored; NULL: not needed yet */
	unsigned idle_count;
	unsigned packers; /* made, idle or at work */
	struct ox_waitq free_packer;
};

/* Words of the state that outlives the process (D10). */
enum ox_qcow2_line {
	OX_QCOW2_LINE_OPENED_BYTES, /* of a recovery: the file's, when it began */
	OX_QCOW2_LINE_FENCE,	    /* as of ox_rebuilding */
	OX_QCOW2_LINE_FLOOR,	    /* as of ox_space */
};

struct ox_qcow2 {
	struct ox_mapped m; /* first: the image's state */
	struct ox_qcow2_extensions ext;
	struct ox_header header;
	struct ox_cache counts; /* slices of the refcount table and of refcount blocks */
	uint64_t tables_left;	/* L2 tables that gave way to a copy, ever */
	struct ox_space space;
	struct ox_rebuilding rebuild;
	struct ox_unpacking unpack;
	struct ox_packing pack;
};

_Static_assert(offsetof(struct ox_qcow2, m) == 0, "an image's state is both");

static inline const struct ox_qcow2_header *ox_qcow2_hdr(const struct ox_qcow2 *q)
{
	return &q->header.fields;
}

static inline struct ox_qcow2 *ox_qcow2_of(struct ox_image *img)
{
	return img->state;
}

static inline struct ox_qcow2 *ox_qcow2_of_mapped(struct ox_mapped *m)
{
	return (struct ox_qcow2 *)m;
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

/* ---- fence.c ---- */

/* Makes the old end durable in the header, which has room for it. */
int ox_fence_set_co(struct ox_qcow2 *q, uint64_t old_end_bytes) __attribute__((warn_unused_result));
bool ox_fence_has_room(const struct ox_qcow2 *q);
/* Takes it away, durably; nothing happens where there is none. */
int ox_fence_remove_co(struct ox_qcow2 *q) __attribute__((warn_unused_result));

/* ---- recover.c ---- */

/* The header has been read: a dirty image may have a fence, which readers heed as well. */
void ox_recover_note_fence(struct ox_qcow2 *q);
/* Of the L1 table, for one who goes on with a recovery after a death (D10). */
uint64_t ox_recover_copy_bytes(const struct ox_qcow2 *q);
/* A dirty image, before its first request: counts what is quickly counted, and starts the rest; or
 * goes on with what a process that died had begun. */
int ox_recover_start_co(struct ox_qcow2 *q, struct ox_error **err)
	__attribute__((warn_unused_result));
/* A table that is being counted: it is not changed, but copied (R1). */
static inline bool ox_recover_is_frozen(const struct ox_qcow2 *q, struct ox_host table)
{
	return table.bytes < q->rebuild.frozen_end;
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
/* Says that a recovery has kept so many tables that look lost. */
void ox_recover_tell_kept(const struct ox_qcow2 *q, uint64_t tables);
/* Something changes that a walk begun anew would not find as it was. */
void ox_recover_is_past_resuming(struct ox_qcow2 *q);
/* An activation: what an earlier one had to recover may be another image by now. */
void ox_recover_forget(struct ox_qcow2 *q);
/* Gives up what a failed recovery knows. */
void ox_recover_fini(struct ox_qcow2 *q);
/* Of struct ox_mapped_ops. */
int ox_qcow2_recover_co(struct ox_mapped *m, struct ox_error **err);
void ox_qcow2_recovery_failed(struct ox_mapped *m);

/* ---- opened.c ---- */

/* A store over the image's own, to be closed before it, with the L1 table that lies in the state.
 */
int ox_qcow2_opened_io(struct ox_qcow2 *q, uint64_t length_bytes, struct ox_io **ret)
	__attribute__((warn_unused_result));

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
/* Takes the refcount block that lies on the cluster out of the table, if it counts nothing but
 * itself. The cluster is free once that is durable. */
int ox_refcount_drop_lone_block_co(struct ox_qcow2 *q, uint64_t cluster, bool *ret_dropped)
	__attribute__((warn_unused_result));
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

/* Whether the dirty bit stands for counts that lag behind. */
bool ox_qcow2_is_lazy(const struct ox_qcow2 *q);

/* The file is not cut below so many clusters at close; and whoever adopts does not cut it either.
 */
void ox_space_set_floor(struct ox_qcow2 *q, uint64_t clusters);
/* Exactly count clusters in one piece, for tables that must be contiguous. Their note is a batch's
 * still. */
int ox_alloc_take_contiguous_co(struct ox_qcow2 *q, uint64_t count, struct ox_alloc_range *ret)
	__attribute__((warn_unused_result));
/* A cluster for a refcount block that is to describe cluster; the caller holds alloc.lock. */
int ox_alloc_make_block_co(struct ox_qcow2 *q, uint64_t cluster)
	__attribute__((warn_unused_result));
/* Of struct ox_mapped_ops. */
int ox_qcow2_refill_co(struct ox_mapped *m, uint64_t want);
int ox_qcow2_take_back_co(struct ox_mapped *m, struct ox_alloc_range *range);
int ox_qcow2_finish_release_co(struct ox_mapped *m, uint64_t start, uint64_t n, uint64_t count);
int ox_qcow2_release_co(struct ox_mapped *m, uint64_t start, uint64_t most, uint64_t *ret_n);
int ox_qcow2_settle_co(struct ox_mapped *m);
int ox_qcow2_shrink_co(struct ox_mapped *m);

/* ---- map.c, map_table.c ---- */

/* Of struct ox_mapped_ops. */
int ox_map_lookup_co(struct ox_mapped *m, struct ox_guest guest, uint64_t length,
		     struct ox_map_run *ret);
int ox_map_set_co(struct ox_mapped *m, struct ox_guest guest, uint64_t count, enum ox_map_kind kind,
		  struct ox_host host, uint64_t after, uint64_t *ret_done);
int ox_map_load_tables_co(struct ox_mapped *m);
/* The entry of one cluster: the stream of so many bytes at host, wherever that is. */
int ox_map_set_compressed_co(struct ox_qcow2 *q, struct ox_guest guest, struct ox_host host,
			     uint64_t bytes, uint64_t after) __attribute__((warn_unused_result));
/* The L2 table of guest for writing: made or copied if need be (map_table.c). */
int ox_map_table_co(struct ox_qcow2 *q, struct ox_guest guest, struct ox_host *ret)
	__attribute__((warn_unused_result));
/* Reads the L1 entry; -EIO where it is damaged. */
int ox_map_l1_co(struct ox_qcow2 *q, uint64_t index, struct ox_qcow2_l1_entry *ret,
		 bool *ret_durable) __attribute__((warn_unused_result));

/* ---- corrupt.c: each tells what is wrong; the caller fails with -EIO ---- */

/* The L1 entry of that index, or the L2 entry of guest, which is at that place, as it was read. The
 * latter returns -EIO, or -EUCLEAN where it names metadata: a writer's refusal, as img.c knows. */
void ox_corrupt_l1(struct ox_qcow2 *q, uint64_t index, uint64_t raw);
int ox_corrupt_l2(struct ox_qcow2 *q, struct ox_guest guest, struct ox_host at, uint64_t raw);
/* Something in the refcount structure, by the name of a finding. */
void ox_corrupt_counts(struct ox_qcow2 *q, const char *finding, struct ox_host host,
		       uint64_t bytes);
void ox_corrupt_stream(struct ox_qcow2 *q, struct ox_host host, uint64_t bytes);
/* Of struct ox_mapped_ops. */
int ox_qcow2_write_corrupt_co(struct ox_mapped *m);

/* ---- compressed.c ---- */

int ox_qcow2_read_compressed_co(struct ox_mapped *m, const struct ox_map_run *run,
				const struct iovec *iov, int n, uint64_t skip, uint64_t offset);

/* The same of that run and of COMPRESSED ones behind it, within length bytes from offset on: many
 * at once. *ret_done: bytes of all of them. */
int ox_qcow2_read_streams_co(struct ox_mapped *m, const struct ox_map_run *run,
			     const struct iovec *iov, int n, uint64_t skip, uint64_t offset,
			     uint64_t length, uint64_t *ret_done);
void ox_unpack_init(struct ox_qcow2 *q);
void ox_unpack_fini(struct ox_qcow2 *q);
void ox_unpack_forget_all(struct ox_qcow2 *q);
/* A new stream begins there: what was read there before is forgotten. */
void ox_unpack_forget(struct ox_qcow2 *q, struct ox_host host);

/* ---- backing.c, empty.c: of struct ox_mapped_ops ---- */

int ox_qcow2_write_backing_co(struct ox_mapped *m, const char *name, const char *format,
			      struct ox_error **err);
int ox_qcow2_table_at_co(struct ox_mapped *m, struct ox_guest guest, struct ox_host *ret_table,
			 uint64_t *ret_next);
int ox_qcow2_unlink_table_co(struct ox_mapped *m, struct ox_guest guest, struct ox_host table);
void ox_qcow2_emptied(struct ox_mapped *m);

/* ---- compress.c ---- */

/* The level as of struct ox_open_options; -EINVAL where the image's codec has no such. */
int ox_pack_init(struct ox_qcow2 *q, int level, struct ox_error **err);
void ox_pack_fini(struct ox_qcow2 *q);
/* Of struct ox_img_ops. */
int ox_qcow2_pwritev_compressed_co(struct ox_image *img, const struct iovec *iov, int n,
				   uint64_t offset, uint64_t length, unsigned flags);

/* ---- snapshot.c ---- */

/* The header in memory is that of the snapshot which the options name, if they name one. */
int ox_snapshot_enter_co(struct ox_qcow2 *q, const struct ox_open_options *opts,
			 struct ox_error **err) __attribute__((warn_unused_result));

/* ---- pack_place.c: where streams lie ---- */

/* A place for a stream, counted in the cache: one reference more for each cluster under it. The
 * caller holds alloc.lock. -EFBIG: so far behind no stream may lie. */
int ox_pack_place_locked_co(struct ox_qcow2 *q, uint64_t bytes, struct ox_host *ret)
	__attribute__((warn_unused_result));
/* The next stream begins in another cluster, for a caller that holds alloc.lock or is alone. */
int ox_pack_leave_locked_co(struct ox_qcow2 *q) __attribute__((warn_unused_result));
/* An activation: what an earlier session had is gone. */
void ox_pack_forget(struct ox_qcow2 *q);

/* ---- sparse.c ---- */

bool ox_qcow2_looks_preallocated_co(struct ox_mapped *m);

/* ---- resize.c ---- */

int ox_qcow2_resize_co(struct ox_image *img, uint64_t new_bytes,
		       const struct ox_resize_options *how, struct ox_error **err);
int ox_qcow2_grow_tables_co(struct ox_mapped *m, uint64_t new_bytes, struct ox_error **err);
int ox_qcow2_write_size_co(struct ox_mapped *m, uint64_t new_bytes);

/* ---- preallocate.c: of struct ox_mapped_ops ---- */

int ox_qcow2_preallocate_new_co(struct ox_mapped *m, uint64_t offset, uint64_t end,
				const struct ox_resize_options *how);

#endif
