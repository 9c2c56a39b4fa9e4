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

struct ox_io_ops {
	const char *name;
	/* Aligned as align_bytes and mem_align_bytes say. Byte count or negative errno; a read at
	 * or past the end returns 0. */
	int64_t (*preadv_co)(struct ox_io *io, const struct iovec *iov, int n, uint64_t offset);
	int64_t (*pwritev_co)(struct ox_io *io, const struct iovec *iov, int n, uint64_t offset,
			      unsigned flags);
	int (*sync_co)(struct ox_io *io);
	/* Aligned to zero_align_bytes. Range reads as zeroes afterwards. punch gives the space
	 * back, zero keeps or takes it. -EOPNOTSUPP where the store cannot. Never changes the
	 * length. */
	int (*punch_co)(struct ox_io *io, uint64_t offset, uint64_t length);
	int (*zero_co)(struct ox_io *io, uint64_t offset, uint64_t length);
	/* Takes space for the range (it reads as before, new space as zeroes), growing the length
	 * if need be. */
	int (*reserve_co)(struct ox_io *io, uint64_t offset, uint64_t length);
	int (*set_length_co)(struct ox_io *io, uint64_t length);
	int (*extent_co)(struct ox_io *io, uint64_t offset, struct ox_io_extent *ret);
	/* The length as it is now. NULL: nobody else changes it. */
	int (*measure_co)(struct ox_io *io, uint64_t *ret_length);
	/* Of ox_io_read_cached. NULL: never. */
	bool (*read_cached)(const struct ox_io *io, void *buf, size_t count, uint64_t offset);
	void (*close)(struct ox_io *io);
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
	uint64_t device; /* of the file, and its number there; 0: it is none */
	uint64_t inode;
	struct ox_rangelock rmw; /* writes that are not aligned, against all writes (H5) */
	uint64_t counts[8];	 /* calls of ops carried out, and bytes, by enum ox_io_count */
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
/* Both fall back to nothing: -EOPNOTSUPP is the caller's to handle. Any alignment: edges that the
 * store's alignment cuts off are written as zero bytes. */
int ox_io_punch_co(struct ox_io *io, uint64_t offset, uint64_t length);
int ox_io_zero_co(struct ox_io *io, uint64_t offset, uint64_t length);
/* Writes zero bytes: works on every store. */
int ox_io_fill_zero_co(struct ox_io *io, uint64_t offset, uint64_t length);
int ox_io_reserve_co(struct ox_io *io, uint64_t offset, uint64_t length);
/* Of a range that reads as zeroes: where the store cannot reserve, zeroes are written. */
int ox_io_reserve_or_fill_co(struct ox_io *io, uint64_t offset, uint64_t length);
int ox_io_set_length_co(struct ox_io *io, uint64_t length);
int ox_io_extent_co(struct ox_io *io, uint64_t offset, struct ox_io_extent *ret);
/*
 * Others may lengthen a device, and a file that is open read-only. For who has met the end as it
 * was known: whether it has moved since. A file that is open for writing is as long as we have made
 * it.
 */
bool ox_io_has_grown_co(struct ox_io *io);
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

/* The space that a file takes on its file system (st_blocks). 0 or -errno. */
int ox_io_file_actual_bytes(const struct ox_io *io, uint64_t *ret)
	__attribute__((warn_unused_result));

/* A growing store in memory, zero-filled. */
int ox_io_memory_open(struct ox_reactor *r, uint64_t length, struct ox_io **ret)
	__attribute__((warn_unused_result));
/* Its bytes, for tests; valid until the next growth. */
uint8_t *ox_io_memory_bytes(struct ox_io *io);

#endif
