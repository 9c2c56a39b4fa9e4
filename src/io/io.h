/* SPDX-License-Identifier: MIT */
/*
 * A byte store: what an image lies on. Offsets are bytes of the store. Every call is made from a
 * task of the reactor that the store was opened on.
 *
 * The medium's promises (M1-M3 of docs/durability.md) are made here: ox_io_sync_co covers every
 * write, zeroing, punch and length change that completed before it was called.
 *
 * Implementations give whole, aligned requests to their ops; io.c meets any alignment the caller
 * has (bounce buffers; read-modify-write under a range lock, H5) and loops over short counts.
 */
#ifndef OX_IO_IO_H
#define OX_IO_IO_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "base/error.h"
#include "io/file_lock.h"
#include "rt/reactor.h"
#include "rt/sync.h"

struct ox_io;

enum ox_io_write_flags {
	OX_IO_FUA = 1 << 0, /* this write alone is durable when it returns (RWF_DSYNC) */
};

/* One range of ox_io_extent_co. */
struct ox_io_extent {
	uint64_t length; /* bytes from the offset asked for; > 0 */
	bool zero;	 /* reads as zeroes (a hole) */
};

/* Bytes from start on, up to end. */
struct ox_io_range {
	uint64_t start;
	uint64_t end;
};

struct ox_io_ops {
	const char *name;
	/* Aligned as align_bytes and mem_align_bytes say. Byte count or negative errno; a read at
	 * or past the end returns 0. */
	int64_t (*preadv_co)(struct ox_io *io, const struct iovec *iov, int n, uint64_t offset);
	int64_t (*pwritev_co)(struct ox_io *io, const struct iovec *iov, int n, uint64_t offset,
			      unsigned flags);
	int (*sync_co)(struct ox_io *io);
	/* The same by another description of the store's file. NULL: there is none. */
	int (*sync_by_co)(struct ox_io *io, int fd);
	/* Aligned to zero_align_bytes. Range reads as zeroes afterwards. punch gives the space
	 * back, zero keeps or takes it. -EOPNOTSUPP where the store cannot. Never changes the
	 * length. */
	int (*punch_co)(struct ox_io *io, uint64_t offset, uint64_t length);
	int (*zero_co)(struct ox_io *io, uint64_t offset, uint64_t length);
	/* What the range reads as afterwards is not known. NULL: punch_co says more. */
	int (*trim_co)(struct ox_io *io, uint64_t offset, uint64_t length);
	/* Takes space for the range (it reads as before, new space as zeroes), growing the length
	 * if need be. */
	int (*reserve_co)(struct ox_io *io, uint64_t offset, uint64_t length);
	int (*set_length_co)(struct ox_io *io, uint64_t length);
	int (*extent_co)(struct ox_io *io, uint64_t offset, struct ox_io_extent *ret);
	/* Up to max of them, one behind the other from offset on, as far as limit bytes: how many,
	 * or a negative errno. NULL: one at a time. */
	int (*extents_co)(struct ox_io *io, uint64_t offset, uint64_t limit,
			  struct ox_io_extent *ret, int max);
	/* The length as it is now. NULL: nobody else changes it. */
	int (*measure_co)(struct ox_io *io, uint64_t *ret_length);
	/* The space that it takes. NULL: it cannot tell. */
	int (*actual_bytes)(const struct ox_io *io, uint64_t *ret);
	/* Of ox_io_read_cached. NULL: never. */
	bool (*read_cached)(const struct ox_io *io, void *buf, size_t count, uint64_t offset);
	/* Of ox_io_let_go_co. It needs the ranges no more once it suspends. NULL: it keeps no
	 * pages. */
	int (*let_go_co)(struct ox_io *io, const struct ox_io_range *ranges, int count,
			 unsigned how);
	/* Of ox_io_reopen. NULL: the store stays what it is. */
	int (*reopen)(struct ox_io *io, bool read_only, struct ox_error **err);
	void (*close)(struct ox_io *io);
};

/* What of a range's pages is not needed again. */
enum ox_io_let_go {
	OX_IO_LET_GO_START = 1 << 0, /* begin to write out what is dirty */
	OX_IO_LET_GO_WAIT = 1 << 1,  /* write it out; no sync (the medium's cache, the metadata) */
	OX_IO_LET_GO_DROP = 1 << 2,  /* forget the clean ones */
};

enum ox_io_witness_state {
	OX_IO_WITNESS_NONE,
	OX_IO_WITNESS_WAITING,
	OX_IO_WITNESS_RUNNING,
	OX_IO_WITNESS_FAILED,
};

/* Whom the first sync asks, in the place of the store's own description (witness.c). */
struct ox_io_witness {
	enum ox_io_witness_state state;
	int fd;	   /* owned; negative: none is left, and the first sync fails */
	int error; /* FAILED */
	struct ox_waitq waiters;
	void (*synced)(void *opaque);
	void *opaque;
};

/* Common part of every store; the first member of each implementation's struct. */
struct ox_io {
	const struct ox_io_ops *ops;
	struct ox_reactor *reactor;
	char *name;		   /* for messages: the path or what the caller said */
	uint64_t length;	   /* bytes, as known: growth by our own calls is followed */
	uint32_t align_bytes;	   /* of offset and of each iovec's length; 1 = any */
	uint32_t mem_align_bytes;  /* of each iovec's base, at most 4096; 0: as align_bytes */
	uint32_t zero_align_bytes; /* of punch_co and zero_co; 0: as align_bytes */
	/* Of the smallest piece that takes space of its own: one with a byte that is not zero has
	 * it, so that overwriting it cannot fail for want of room. 0: what lies within the length
	 * has. */
	uint32_t space_bytes;
	bool read_only;
	bool can_grow;	 /* false: a block device */
	bool is_remote;	 /* name is a URI, and no path: nothing lies beside it */
	uint64_t device; /* of the file, and its number there; 0: it is none */
	uint64_t inode;
	struct ox_io_witness witness;
	struct ox_io_behind *behind; /* NULL: what was read and written stays in the page cache */
	int write_out_error;	     /* of ox_io_let_go_co: what syncs say from then on */
	struct ox_io_letting_go *letting_go; /* calls of it that have not ended, the newest first */
	uint64_t let_go_count;		     /* calls that have begun */
	struct ox_rangelock rmw; /* writes that are not aligned, against all writes (H5) */
	/* What was last told to be data: believed until something is punched or cut. */
	struct {
		uint64_t start;
		uint64_t end;
		uint64_t changes;
	} data;
	uint64_t counts[8]; /* calls of ops carried out, and bytes, by enum ox_io_count */
};

enum ox_io_count {
	OX_IO_COUNT_READS,
	OX_IO_COUNT_WRITES,
	OX_IO_COUNT_SYNCS,
	OX_IO_COUNT_PUNCHES,
	OX_IO_COUNT_ZEROES,
	OX_IO_COUNT_LENGTHS,
	OX_IO_COUNT_READ_BYTES,
	OX_IO_COUNT_WRITE_BYTES,
};

/* Reads exactly the bytes asked for; what lies past the end reads as zeroes. 0 or -errno. */
int ox_io_preadv_co(struct ox_io *io, const struct iovec *iov, int n, uint64_t offset);
int ox_io_pread_co(struct ox_io *io, void *buf, size_t count, uint64_t offset);
/* The same into count bytes of the list, from its byte skip on. */
int ox_io_preadv_part_co(struct ox_io *io, const struct iovec *iov, int n, uint64_t skip,
			 uint64_t count, uint64_t offset);
/* Copies what is in memory (the page cache), without waiting for the medium. False: not all of it
 * is there, and buf holds anything. From any thread, while nobody writes to the store, closes or
 * reopens it. */
bool ox_io_read_cached(const struct ox_io *io, void *buf, size_t count, uint64_t offset);
/* Writes every byte or fails; may grow a store that can grow. 0 or -errno. */
int ox_io_pwritev_co(struct ox_io *io, const struct iovec *iov, int n, uint64_t offset,
		     unsigned flags);
int ox_io_pwrite_co(struct ox_io *io, const void *buf, size_t count, uint64_t offset,
		    unsigned flags);
int ox_io_sync_co(struct ox_io *io);
/*
 * Before the first sync: that one goes to fd, a description of the same file that is the store's
 * from then on; or, where fd is negative, fails with -EIO. Until it has ended well nothing counts
 * as durable: other syncs wait for it, and no write bears OX_IO_FUA (H1). If it fails, so do all.
 * synced (NULL: nobody) is called once, when it has ended well.
 */
void ox_io_set_witness(struct ox_io *io, int fd, void (*synced)(void *opaque), void *opaque);
/* Whether that sync has still to come, goes on or has failed. */
static inline bool ox_io_has_witness(const struct ox_io *io)
{
	return io->witness.state != OX_IO_WITNESS_NONE;
}
/* For io.c. */
int ox_io_sync_past_witness_co(struct ox_io *io);
void ox_io_close_witness(struct ox_io *io);
/* Both fall back to nothing: -EOPNOTSUPP is the caller's to handle. Any alignment: edges that the
 * store's alignment cuts off are written as zero bytes. */
int ox_io_punch_co(struct ox_io *io, uint64_t offset, uint64_t length);
int ox_io_zero_co(struct ox_io *io, uint64_t offset, uint64_t length);
/* Gives up what the range holds, where the store can; it may read as anything afterwards. */
int ox_io_trim_co(struct ox_io *io, uint64_t offset, uint64_t length);
/* Writes zero bytes: works on every store. */
int ox_io_fill_zero_co(struct ox_io *io, uint64_t offset, uint64_t length);
int ox_io_reserve_co(struct ox_io *io, uint64_t offset, uint64_t length);
/* Of a range that reads as zeroes: where the store cannot reserve, zeroes are written. */
int ox_io_reserve_or_fill_co(struct ox_io *io, uint64_t offset, uint64_t length);
int ox_io_set_length_co(struct ox_io *io, uint64_t length);
/* The store is asked, but within the stretch that was last told to be data. So a hole is one at
 * this moment, and what is called data may have become a hole by another program's hand. */
int ox_io_extent_co(struct ox_io *io, uint64_t offset, struct ox_io_extent *ret);
/* Several, one behind the other, for one who is going to ask for them all: at least one, and no
 * more than max or than limit bytes need. How many, or -errno. */
int ox_io_extents_co(struct ox_io *io, uint64_t offset, uint64_t limit, struct ox_io_extent *ret,
		     int max);
/* The space that the store takes where it lies (st_blocks); -ENOTSUP where it cannot tell. */
int ox_io_actual_bytes(const struct ox_io *io, uint64_t *ret) __attribute__((warn_unused_result));
/*
 * Long work that leaves the page cache as it was (behind.c). From begin to end what is read and
 * written is remembered; in between ox_io_behind_co, now and then, with none of the image's locks
 * held, lets go of it. Nothing is done on stores that have no page cache. 0, or the error of
 * writing something out. Every sync and every FUA of the store that ends later tells it too.
 */
void ox_io_behind_begin(struct ox_io *io);
int ox_io_behind_co(struct ox_io *io);
int ox_io_behind_end_co(struct ox_io *io);
/* For io.c, where io->behind is set. */
void ox_io_behind_touched(struct ox_io *io, uint64_t offset, uint64_t length, bool written);
/* how: enum ox_io_let_go. -EOPNOTSUPP where there is nothing to let go of. */
int ox_io_let_go_co(struct ox_io *io, const struct ox_io_range *ranges, int count, unsigned how);
/* For io.c: until those have ended that have begun. */
void ox_io_wait_for_letting_go_co(struct ox_io *io);
/*
 * Others may lengthen a device, and a file that is open read-only. For who has met the end as it
 * was known: whether it has moved since. A file that is open for writing is as long as we have made
 * it.
 */
bool ox_io_has_grown_co(struct ox_io *io);
/* Turns a read-only store into a writable one or back; the old state stays on failure. */
int ox_io_reopen(struct ox_io *io, bool read_only, struct ox_error **err)
	__attribute__((warn_unused_result));
/* Gives up the store and its locks. NULL is allowed. Outside or inside a task. */
void ox_io_close(struct ox_io *io);

/* Buffers that satisfy any store's memory alignment (4096). Freed with free(). */
void *ox_io_buffer(size_t size_bytes);

/* Whether the error says that there is no room, and that there may be some later. */
static inline bool ox_io_is_full(int error)
{
	return error == -ENOSPC || error == -EDQUOT;
}

/* ---- implementations ---- */

enum ox_io_open_flags {
	OX_IO_READ_ONLY = 1 << 0,
	OX_IO_DIRECT = 1 << 1,	    /* bypass the page cache (O_DIRECT) */
	OX_IO_FORCE_SHARE = 1 << 2, /* take no notice of others' locks (qemu's -U) */
	OX_IO_NO_LOCK = 1 << 3,	    /* the caller has them, or takes the risk */
	OX_IO_CREATE = 1 << 4, /* make the file, or empty one that is there, after locking it */
	OX_IO_NEW = 1 << 6,    /* make the file; -EEXIST where there is one, or a link */
	OX_IO_SHARE_WRITE = 1 << 5,  /* a read-only user that lets others write (backing files
					keep others from writing instead) */
	OX_IO_OPEN_NOTHING = 1 << 7, /* of a given fd: no path is opened, not even in /proc to see
					who has the file locked */
};

/*
 * A regular file or a block device (found out by fstat), with QEMU's byte-range locks
 * (io/file_lock.h). Calls that set up run synchronously; from a task or outside of any.
 * Takes no ownership of fd on failure. Refuses directories, pipes, sockets, character devices.
 * A given fd loses O_APPEND and O_NONBLOCK, and gets O_DIRECT where that is asked for; its
 * duplicates share those flags, and the locks until the store is closed.
 */
int ox_io_file_open(struct ox_reactor *r, const char *path, unsigned flags, struct ox_io **ret,
		    struct ox_error **err) __attribute__((warn_unused_result));
int ox_io_file_open_fd(struct ox_reactor *r, int fd, const char *name, unsigned flags,
		       struct ox_io **ret, struct ox_error **err)
	__attribute__((warn_unused_result));
/* The descriptor alone, as a store of that path would open it; no locks are taken. */
int ox_io_file_open_path(const char *path, unsigned flags, struct ox_error **err)
	__attribute__((warn_unused_result));
/* Turns a read-only file store into a writable one or back, with its locks; the old state stays on
 * failure. A store made from an fd cannot become more than the fd allows. */
int ox_io_file_reopen(struct ox_io *io, bool read_only, struct ox_error **err)
	__attribute__((warn_unused_result));
/* Makes the entry of a path's file durable, as a sync of the file does not. A directory that may
 * not be read, or whose file system cannot sync it, is let be. 0 or -errno. */
int ox_io_file_sync_directory(const char *path) __attribute__((warn_unused_result));
/* When the file's bytes were last changed. False: that cannot be told, as of a device. */
bool ox_io_file_changed_ns(const struct ox_io *io, uint64_t *ret);
/* Device and inode numbers, to find loops in backing chains. False for memory. */
bool ox_io_file_identity(const struct ox_io *io, uint64_t *ret_dev, uint64_t *ret_ino);
/* The same of a file that was looked at. */
void ox_io_file_identity_of(const struct stat *st, uint64_t *ret_dev, uint64_t *ret_ino);
/* Whether the store owns the descriptor. */
bool ox_io_file_has_fd(const struct ox_io *io, int fd);
/* Takes or gives up locks on a descriptor without a store: from what it has to what it is to have,
 * of which one includes the other. On failure it has what it had. */
int ox_io_file_lock_fd(int fd, const char *name, struct ox_file_lock have, struct ox_file_lock want,
		       struct ox_error **err) __attribute__((warn_unused_result));

struct ox_nbd_connector; /* nbd/address.h */

/*
 * An export of an NBD server, by libnbd, which is loaded for it; uri as nbd/address.h says. No
 * locks are taken: the server has them. Blocks until the server has answered; from a task or
 * outside of any, on the reactor's thread or a worker.
 */
int ox_io_nbd_open(struct ox_reactor *r, const char *uri, unsigned flags,
		   const struct ox_nbd_connector *connector, struct ox_io **ret,
		   struct ox_error **err) __attribute__((warn_unused_result));
/* Looks at the URI and loads libnbd, for a process that opens no file later. */
int ox_io_nbd_prepare(const char *uri, struct ox_error **err) __attribute__((warn_unused_result));
/* A connected socket, or a negative errno: for a connector. Blocks. */
int ox_io_nbd_connect(const char *uri, unsigned limit_ms, struct ox_error **err)
	__attribute__((warn_unused_result));

/* A disk that holds nothing (null.c): where a program has stated a URI, never where an image has.
 */
bool ox_io_null_is_uri(const char *uri);
int ox_io_null_open(struct ox_reactor *r, const char *uri, unsigned flags, struct ox_io **ret,
		    struct ox_error **err) __attribute__((warn_unused_result));

/*
 * A part of the store below as a store (window.c): length bytes from offset on, and no more; or,
 * where length is 0, all behind offset, which grows with the file. Takes below, but not on failure.
 * -EINVAL where the file is too short for it, and where below can be written and offset is no
 * multiple of 512 (M2).
 */
int ox_io_window_open(struct ox_io *below, uint64_t offset, uint64_t length, struct ox_io **ret,
		      struct ox_error **err) __attribute__((warn_unused_result));
/* The store that windows lie in; the store itself, where it is none. */
const struct ox_io *ox_io_below_window(const struct ox_io *io);
/* Where in that store it begins. */
uint64_t ox_io_window_offset(const struct ox_io *io);
/* Whether it is a window of a stated length. */
bool ox_io_window_is_fixed(const struct ox_io *io);

/* A growing store in memory, zero-filled. */
int ox_io_memory_open(struct ox_reactor *r, uint64_t length, struct ox_io **ret)
	__attribute__((warn_unused_result));
/* Its bytes, for tests; valid until the next growth. */
uint8_t *ox_io_memory_bytes(struct ox_io *io);

#endif
