/* SPDX-License-Identifier: MIT */
/*
 * A disk as the one file of a mount, DIR/disk. What the kernel asks comes through a descriptor, and
 * becomes requests of the library, which are answered in whatever order they complete:
 *
 *	server.c    the part of the loop: receives, answers, ends
 *	names.c     what is there: the folder and its file, and what they are like
 *	requests.c  what is done with the disk's bytes
 *
 * The file has the disk's length, and keeps it. It behaves as a block device where a regular file
 * would grow: what is written past the end fails with ENOSPC.
 */
#ifndef OX_SERVE_FUSE_DISK_H
#define OX_SERVE_FUSE_DISK_H

#include <stdbool.h>
#include <time.h>

#include "serve/fuse/api.h"
#include "serve/loop.h"

#define OX_FUSE_ROOT_INODE FUSE_ROOT_ID
#define OX_FUSE_DISK_INODE 2
#define OX_FUSE_NAME "disk"
/* What one request carries; the kernel's most for a page of 4 KiB. */
#define OX_FUSE_TRANSFER_BYTES (1u << 20)
/* What is received and not answered: more waits in the kernel. */
#define OX_FUSE_MEMORY_BYTES (64u << 20)

struct ox_fuse_buffer {
	struct ox_fuse_buffer *next;
};

struct ox_fuse_disk;

struct ox_fuse_request {
	struct ox_request op; /* user: this struct */
	struct ox_fuse_disk *disk;
	struct ox_fuse_request *next; /* in the disk's list, or among those that are free */
	struct ox_fuse_request **link;
	fuse_req_t asked;
	void (*done)(struct ox_fuse_request *request);
	void *buffer;	   /* NULL: none */
	bool was_received; /* it is one of those that something was received in */
	struct iovec iov;
	struct ox_extent found;
	int whence;	 /* of lseek */
	uint64_t writes; /* of flush: how many there had been */
};

struct ox_fuse_disk {
	struct ox_serve_part part; /* first */
	struct ox_watched watched; /* second */
	const struct ox_serve_fuse_options *options;
	struct fuse_session *session;
	struct ox_queue *queue;
	struct fuse_buf incoming;
	uint64_t size_bytes;
	bool read_only;
	bool readable;
	bool draining;
	bool has_ended;		       /* the kernel asks nothing any more */
	struct ox_fuse_request *first; /* in the library's hands */
	struct ox_fuse_request *unused;
	unsigned request_count;
	/* Those that are free. libfuse makes what it receives in, and knows their length. */
	struct ox_fuse_buffer *to_receive;
	struct ox_fuse_buffer *to_read;
	unsigned buffer_count;	 /* of both, in use or not */
	uint64_t writes;	 /* that have been answered */
	uint64_t flushed_writes; /* of those, how many a flush has followed */
	struct timespec written;
};

static inline struct ox_fuse_disk *ox_fuse_disk_of(fuse_req_t asked)
{
	return ox_fuse.req_userdata(asked);
}

/* ---- server.c ---- */

/* For a read of the largest size; NULL: memory is short. */
void *ox_fuse_buffer_get(struct ox_fuse_disk *disk);
void ox_fuse_buffer_put(struct ox_fuse_disk *disk, void *buffer, bool was_received);

/* ---- requests.c ---- */

void ox_fuse_read(fuse_req_t asked, fuse_ino_t inode, size_t count, off_t offset,
		  struct fuse_file_info *file);
void ox_fuse_write(fuse_req_t asked, fuse_ino_t inode, const char *bytes, size_t count,
		   off_t offset, struct fuse_file_info *file);
void ox_fuse_close(fuse_req_t asked, fuse_ino_t inode, struct fuse_file_info *file);
void ox_fuse_fsync(fuse_req_t asked, fuse_ino_t inode, int data_only, struct fuse_file_info *file);
void ox_fuse_fallocate(fuse_req_t asked, fuse_ino_t inode, int mode, off_t offset, off_t length,
		       struct fuse_file_info *file);
void ox_fuse_lseek(fuse_req_t asked, fuse_ino_t inode, off_t offset, int whence,
		   struct fuse_file_info *file);
/* It has been reaped. */
void ox_fuse_complete(struct ox_fuse_request *request);
/* Long work on ranges, for which nobody waits any more. */
void ox_fuse_cancel_ranges(struct ox_fuse_disk *disk);
void ox_fuse_free_requests(struct ox_fuse_disk *disk);

/* ---- names.c ---- */

void ox_fuse_lookup(fuse_req_t asked, fuse_ino_t parent, const char *name);
void ox_fuse_getattr(fuse_req_t asked, fuse_ino_t inode, struct fuse_file_info *file);
void ox_fuse_setattr(fuse_req_t asked, fuse_ino_t inode, struct stat *attributes, int which,
		     struct fuse_file_info *file);
void ox_fuse_open(fuse_req_t asked, fuse_ino_t inode, struct fuse_file_info *file);
void ox_fuse_readdir(fuse_req_t asked, fuse_ino_t inode, size_t count, off_t offset,
		     struct fuse_file_info *file);
void ox_fuse_statfs(fuse_req_t asked, fuse_ino_t inode);
/* EPERM, or EROFS: there is one file, and it stays what it is. */
void ox_fuse_refuse_name(fuse_req_t asked, fuse_ino_t parent, const char *name);
void ox_fuse_refuse_folder(fuse_req_t asked, fuse_ino_t parent, const char *name, mode_t mode);
void ox_fuse_refuse_node(fuse_req_t asked, fuse_ino_t parent, const char *name, mode_t mode,
			 dev_t device);
void ox_fuse_refuse_file(fuse_req_t asked, fuse_ino_t parent, const char *name, mode_t mode,
			 struct fuse_file_info *file);
void ox_fuse_refuse_symlink(fuse_req_t asked, const char *to, fuse_ino_t parent, const char *name);
void ox_fuse_refuse_link(fuse_req_t asked, fuse_ino_t inode, fuse_ino_t parent, const char *name);
void ox_fuse_refuse_rename(fuse_req_t asked, fuse_ino_t parent, const char *name,
			   fuse_ino_t new_parent, const char *new_name, unsigned flags);

#endif
