/* SPDX-License-Identifier: MIT */
/* Each becomes a request of the library; its end is an answer. One whose asker is gone is carried
 * out all the same, and its answer is nobody's. */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <unistd.h>

#include "serve/fuse/disk.h"

/* ---- their life ---- */

static struct ox_fuse_request *begin(fuse_req_t asked, enum ox_op op,
				     void (*done)(struct ox_fuse_request *request))
{
	struct ox_fuse_disk *disk = ox_fuse_disk_of(asked);
	struct ox_fuse_request *request = disk->unused;

	if (request)
		disk->unused = request->next;
	else
		request = malloc(sizeof(*request));
	if (!request) {
		ox_fuse.reply_err(asked, ENOMEM);
		return NULL;
	}
	*request = (struct ox_fuse_request){
		.op = {.op = op, .user = request},
		.disk = disk,
		.asked = asked,
		.done = done,
		.next = disk->first,
		.link = &disk->first,
	};
	if (disk->first)
		disk->first->link = &request->next;
	disk->first = request;
	disk->request_count++;
	return request;
}

static void end(struct ox_fuse_request *request)
{
	struct ox_fuse_disk *disk = request->disk;

	*request->link = request->next;
	if (request->next)
		request->next->link = request->link;
	if (request->buffer)
		ox_fuse_buffer_put(disk, request->buffer, request->was_received);
	request->next = disk->unused;
	disk->unused = request;
	disk->request_count--;
}

static void fail(struct ox_fuse_request *request, int code)
{
	ox_fuse.reply_err(request->asked, -code);
	end(request);
}

static void submit(struct ox_fuse_request *request)
{
	int ret = ox_queue_submit(request->disk->queue, &request->op);

	if (ret < 0)
		fail(request, ret);
	else
		request->disk->part.loop->submitted = true;
}

void ox_fuse_complete(struct ox_fuse_request *request)
{
	if (request->op.result < 0)
		fail(request, request->op.result);
	else
		request->done(request);
}

void ox_fuse_cancel_ranges(struct ox_fuse_disk *disk)
{
	for (struct ox_fuse_request *request = disk->first; request; request = request->next)
		if (request->op.op == OX_OP_WRITE_ZEROES) {
			int ret = ox_queue_cancel(disk->queue, &request->op);

			(void)ret; /* it is the library's, and completes */
		}
}

void ox_fuse_free_requests(struct ox_fuse_disk *disk)
{
	while (disk->unused) {
		struct ox_fuse_request *request = disk->unused;

		disk->unused = request->next;
		free(request);
	}
}

/* ---- bytes ---- */

/* As many of them as the disk has from there on. */
static size_t clip(const struct ox_fuse_disk *disk, off_t offset, size_t count)
{
	const uint64_t at = (uint64_t)offset;

	if (offset < 0 || at >= disk->size_bytes)
		return 0;
	return disk->size_bytes - at < count ? (size_t)(disk->size_bytes - at) : count;
}

static void has_read(struct ox_fuse_request *request)
{
	ox_fuse.reply_iov(request->asked, &request->iov, 1);
	end(request);
}

static void transfer(struct ox_fuse_request *request, void *bytes, size_t count, off_t offset)
{
	request->iov = (struct iovec){bytes, count};
	request->op.iov = &request->iov;
	request->op.iov_count = 1;
	request->op.offset = (uint64_t)offset;
	submit(request);
}

void ox_fuse_read(fuse_req_t asked, fuse_ino_t inode, size_t count, off_t offset,
		  struct fuse_file_info *file)
{
	struct ox_fuse_disk *disk = ox_fuse_disk_of(asked);
	struct ox_fuse_request *request;

	(void)inode;
	(void)file;
	count = clip(disk, offset, count);
	if (count == 0 || count > OX_FUSE_TRANSFER_BYTES) {
		if (count == 0)
			ox_fuse.reply_buf(asked, NULL, 0);
		else
			ox_fuse.reply_err(asked, EINVAL);
		return;
	}
	request = begin(asked, OX_OP_READ, has_read);
	if (!request)
		return;
	request->buffer = ox_fuse_buffer_get(disk);
	if (request->buffer)
		transfer(request, request->buffer, count, offset);
	else
		fail(request, -ENOMEM);
}

static void note_write(struct ox_fuse_disk *disk)
{
	disk->writes++;
	(void)clock_gettime(CLOCK_REALTIME, &disk->written);
}

static void has_written(struct ox_fuse_request *request)
{
	note_write(request->disk);
	ox_fuse.reply_write(request->asked, request->iov.iov_len);
	end(request);
}

void ox_fuse_write(fuse_req_t asked, fuse_ino_t inode, const char *bytes, size_t count,
		   off_t offset, struct fuse_file_info *file)
{
	struct ox_fuse_disk *disk = ox_fuse_disk_of(asked);
	struct ox_fuse_request *request;

	(void)inode;
	count = clip(disk, offset, count);
	if (disk->read_only || count == 0) {
		ox_fuse.reply_err(asked, disk->read_only ? EROFS : ENOSPC);
		return;
	}
	request = begin(asked, OX_OP_WRITE, has_written);
	if (!request)
		return;
	/* The bytes stay where they were received. */
	request->buffer = disk->incoming.mem;
	request->was_received = true;
	disk->incoming.mem = NULL;
	if (file->flags & O_DSYNC) /* which O_SYNC has as well */
		request->op.flags = OX_REQ_FUA;
	transfer(request, (void *)(uintptr_t)bytes, count, offset);
}

/* ---- flushes ---- */

static void has_flushed(struct ox_fuse_request *request)
{
	if (request->writes > request->disk->flushed_writes)
		request->disk->flushed_writes = request->writes;
	ox_fuse.reply_err(request->asked, 0);
	end(request);
}

void ox_fuse_fsync(fuse_req_t asked, fuse_ino_t inode, int data_only, struct fuse_file_info *file)
{
	struct ox_fuse_request *request = begin(asked, OX_OP_FLUSH, has_flushed);

	(void)inode;
	(void)data_only;
	(void)file;
	if (!request)
		return;
	request->writes = request->disk->writes;
	submit(request);
}

/* An unmount tells nothing, and waits for nobody: so what was written is durable once its file is
 * closed, which comes before. */
void ox_fuse_close(fuse_req_t asked, fuse_ino_t inode, struct fuse_file_info *file)
{
	const struct ox_fuse_disk *disk = ox_fuse_disk_of(asked);

	if (disk->read_only || disk->writes == disk->flushed_writes)
		ox_fuse.reply_err(asked, 0);
	else
		ox_fuse_fsync(asked, inode, 0, file);
}

/* ---- holes ---- */

static void has_zeroed(struct ox_fuse_request *request)
{
	note_write(request->disk);
	ox_fuse.reply_err(request->asked, 0);
	end(request);
}

/* What is there to be done; a negative errno. */
static int check_range(const struct ox_fuse_disk *disk, int mode, off_t offset, off_t length,
		       uint64_t *ret_length)
{
	const uint64_t size = disk->size_bytes;
	const int known = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE;
	uint64_t end_bytes;

	if ((mode & ~known) || !(mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)))
		return -EOPNOTSUPP;
	if (disk->read_only)
		return -EROFS;
	if (offset < 0 || length <= 0 ||
	    __builtin_add_overflow((uint64_t)offset, (uint64_t)length, &end_bytes))
		return -EINVAL;
	if (end_bytes > size && !(mode & FALLOC_FL_KEEP_SIZE))
		return -ENOSPC; /* it would grow */
	*ret_length = (uint64_t)offset >= size ? 0
		      : end_bytes > size       ? size - (uint64_t)offset
					       : (uint64_t)length;
	return 0;
}

void ox_fuse_fallocate(fuse_req_t asked, fuse_ino_t inode, int mode, off_t offset, off_t length,
		       struct fuse_file_info *file)
{
	struct ox_fuse_request *request;
	uint64_t clipped = 0;
	int ret = check_range(ox_fuse_disk_of(asked), mode, offset, length, &clipped);

	(void)inode;
	(void)file;
	if (ret < 0 || clipped == 0) {
		ox_fuse.reply_err(asked, -ret);
		return;
	}
	request = begin(asked, OX_OP_WRITE_ZEROES, has_zeroed);
	if (!request)
		return;
	request->op.flags = mode & FALLOC_FL_PUNCH_HOLE ? OX_REQ_MAY_UNMAP : 0;
	request->op.offset = (uint64_t)offset;
	request->op.length = clipped;
	submit(request);
}

static void look_further(struct ox_fuse_request *request)
{
	const struct ox_fuse_disk *disk = request->disk;

	if (request->op.offset < disk->size_bytes) {
		request->op.length = disk->size_bytes - request->op.offset;
		submit(request);
	} else if (request->whence == SEEK_HOLE) { /* there is one at the end of each file */
		ox_fuse.reply_lseek(request->asked, (off_t)disk->size_bytes);
		end(request);
	} else {
		fail(request, -ENXIO);
	}
}

static void has_looked(struct ox_fuse_request *request)
{
	const bool is_hole = request->found.flags & OX_EXTENT_ZERO;

	if (is_hole == (request->whence == SEEK_HOLE)) {
		ox_fuse.reply_lseek(request->asked, (off_t)request->op.offset);
		end(request);
		return;
	}
	request->op.offset += request->found.length;
	look_further(request);
}

void ox_fuse_lseek(fuse_req_t asked, fuse_ino_t inode, off_t offset, int whence,
		   struct fuse_file_info *file)
{
	const struct ox_fuse_disk *disk = ox_fuse_disk_of(asked);
	struct ox_fuse_request *request;

	(void)inode;
	(void)file;
	if (whence != SEEK_HOLE && whence != SEEK_DATA) {
		ox_fuse.reply_err(asked, EINVAL);
		return;
	}
	if (offset < 0 || (uint64_t)offset >= disk->size_bytes) {
		ox_fuse.reply_err(asked, ENXIO);
		return;
	}
	request = begin(asked, OX_OP_EXTENT, has_looked);
	if (!request)
		return;
	request->whence = whence;
	request->op.extent = &request->found;
	request->op.offset = (uint64_t)offset;
	look_further(request);
}
