/* SPDX-License-Identifier: MIT */
/* The disk of a mount, as a part of the loop of all servers (serve/loop.h). */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "serve/fuse/disk.h"

#define READS_A_TURN 64
#define REAPS_A_CALL 64
/* Of what is read: direct I/O needs no copy then. */
#define ALIGNMENT 4096
#define BUFFERS (OX_FUSE_MEMORY_BYTES / OX_FUSE_TRANSFER_BYTES)

static struct ox_fuse_disk *disk_of(struct ox_serve_part *part)
{
	return (struct ox_fuse_disk *)part;
}

/* ---- buffers ---- */

static void *take(struct ox_fuse_buffer **list)
{
	struct ox_fuse_buffer *buffer = *list;

	if (buffer)
		*list = buffer->next;
	return buffer;
}

static void free_all(struct ox_fuse_buffer **list)
{
	void *buffer;

	while ((buffer = take(list)))
		free(buffer);
}

void *ox_fuse_buffer_get(struct ox_fuse_disk *disk)
{
	void *buffer = take(&disk->to_read);

	if (!buffer) {
		buffer = aligned_alloc(ALIGNMENT, OX_FUSE_TRANSFER_BYTES);
		disk->buffer_count += buffer != NULL;
	}
	return buffer;
}

void ox_fuse_buffer_put(struct ox_fuse_disk *disk, void *memory, bool was_received)
{
	struct ox_fuse_buffer **list = was_received ? &disk->to_receive : &disk->to_read;
	struct ox_fuse_buffer *buffer = memory;

	buffer->next = *list;
	*list = buffer;
}

/* ---- what the kernel asks ---- */

static void begin(void *opaque, struct fuse_conn_info *connection)
{
	struct ox_fuse_disk *disk = opaque;
	/* Splicing is for those that pass on what they do not look at. What the kernel has cached
	 * is right: nobody else writes. */
	const unsigned unwanted = FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE |
				  FUSE_CAP_SPLICE_MOVE | FUSE_CAP_AUTO_INVAL_DATA |
				  FUSE_CAP_WRITEBACK_CACHE | FUSE_CAP_READDIRPLUS;
	const unsigned wanted = FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO | FUSE_CAP_ATOMIC_O_TRUNC;

	(void)disk;
	connection->want &= ~unwanted;
	connection->want |= connection->capable & wanted;
	if (connection->max_write > OX_FUSE_TRANSFER_BYTES)
		connection->max_write = OX_FUSE_TRANSFER_BYTES;
	connection->max_background = OX_FUSE_MEMORY_BYTES / OX_FUSE_TRANSFER_BYTES;
	connection->congestion_threshold = connection->max_background * 3 / 4;
}

static const struct fuse_lowlevel_ops asked = {
	.init = begin,
	.lookup = ox_fuse_lookup,
	.getattr = ox_fuse_getattr,
	.setattr = ox_fuse_setattr,
	.open = ox_fuse_open,
	.read = ox_fuse_read,
	.write = ox_fuse_write,
	.flush = ox_fuse_close,
	.fsync = ox_fuse_fsync,
	.readdir = ox_fuse_readdir,
	.statfs = ox_fuse_statfs,
	.fallocate = ox_fuse_fallocate,
	.lseek = ox_fuse_lseek,
	.create = ox_fuse_refuse_file,
	.link = ox_fuse_refuse_link,
	.mkdir = ox_fuse_refuse_folder,
	.mknod = ox_fuse_refuse_node,
	.rename = ox_fuse_refuse_rename,
	.rmdir = ox_fuse_refuse_name,
	.symlink = ox_fuse_refuse_symlink,
	.unlink = ox_fuse_refuse_name,
};

/* Each may hold a buffer, whatever it is; those that are kept for the other kind are given back
 * where they are in the way. */
static bool has_room(const struct ox_fuse_disk *disk)
{
	return disk->request_count < BUFFERS;
}

static void trim(struct ox_fuse_disk *disk)
{
	while (disk->buffer_count > BUFFERS + disk->request_count) {
		void *buffer = take(disk->to_read ? &disk->to_read : &disk->to_receive);

		if (!buffer)
			return;
		free(buffer);
		disk->buffer_count--;
	}
}

static void connection_has_ended(struct ox_fuse_disk *disk, int code)
{
	disk->has_ended = true;
	disk->readable = false;
	disk->part.loop->wants_end = true;
	if (code < 0)
		ox_serve_warn(disk->part.loop, "The mount cannot be heard any more: %s",
			      strerror(-code));
}

static void receive(struct ox_fuse_disk *disk)
{
	for (int i = 0; i < READS_A_TURN && disk->readable && has_room(disk); i++) {
		bool has_buffer;
		int got;

		if (!disk->incoming.mem)
			disk->incoming.mem = take(&disk->to_receive);
		has_buffer = disk->incoming.mem != NULL;
		got = ox_fuse.session_receive_buf(disk->session, &disk->incoming);
		disk->buffer_count += !has_buffer && disk->incoming.mem;
		if (got > 0)
			ox_fuse.session_process_buf(disk->session, &disk->incoming);
		else if (got == -EAGAIN)
			disk->readable = false;
		else if (got != -EINTR)
			connection_has_ended(disk, got == -ENODEV ? 0 : got);
	}
}

static void event(struct ox_watched *watched, uint32_t events)
{
	char *at = (char *)watched - offsetof(struct ox_fuse_disk, watched);
	struct ox_fuse_disk *disk = (struct ox_fuse_disk *)(void *)at;

	(void)events;
	disk->readable = !disk->has_ended;
}

/* ---- the part ---- */

static void serve(struct ox_serve_part *part)
{
	receive(disk_of(part));
}

static bool reap(struct ox_serve_part *part)
{
	struct ox_fuse_disk *disk = disk_of(part);
	struct ox_request *requests[REAPS_A_CALL];
	bool any = false;
	size_t count;

	do {
		count = ox_queue_reap(disk->queue, requests, REAPS_A_CALL);
		for (size_t i = 0; i < count; i++)
			ox_fuse_complete(requests[i]->user);
		any = any || count > 0;
	} while (count == REAPS_A_CALL);
	return any;
}

static void settle(struct ox_serve_part *part)
{
	trim(disk_of(part));
}

static bool is_busy(const struct ox_serve_part *part)
{
	const struct ox_fuse_disk *disk = (const struct ox_fuse_disk *)part;

	return disk->readable && has_room(disk);
}

static int64_t deadline_ms(const struct ox_serve_part *part)
{
	(void)part;
	return INT64_MAX;
}

static void expire(struct ox_serve_part *part, int64_t now_ms)
{
	(void)part;
	(void)now_ms;
}

/* Nothing more is received: what is asked from here on fails once the descriptor is closed. */
static void drain(struct ox_serve_part *part)
{
	struct ox_fuse_disk *disk = disk_of(part);

	disk->draining = true;
	disk->has_ended = true;
	disk->readable = false;
	ox_fuse_cancel_ranges(disk);
}

static size_t pending(const struct ox_serve_part *part)
{
	return ((const struct ox_fuse_disk *)part)->request_count;
}

static bool is_over(const struct ox_serve_part *part)
{
	return pending(part) == 0;
}

static void free_disk(struct ox_serve_part *part, bool requests_lost)
{
	struct ox_fuse_disk *disk = disk_of(part);

	if (requests_lost)
		return; /* the library still knows them, and their buffers */
	if (disk->session)
		ox_fuse.session_destroy(disk->session); /* and closes the descriptor */
	ox_queue_free(disk->queue);
	ox_fuse_free_requests(disk);
	free(disk->incoming.mem);
	free_all(&disk->to_receive);
	free_all(&disk->to_read);
	free(disk);
}

static const struct ox_serve_part_ops ops = {
	.serve = serve,
	.reap = reap,
	.settle = settle,
	.is_busy = is_busy,
	.deadline_ms = deadline_ms,
	.expire = expire,
	.drain = drain,
	.pending = pending,
	.is_over = is_over,
	.free = free_disk,
};

/* ---- beginning ---- */

/* It would write to standard error by itself. */
static void drop_log(enum fuse_log_level level, const char *format, va_list args)
{
	(void)level;
	(void)format;
	(void)args;
}

static int begin_session(struct ox_fuse_disk *disk, int fd, struct ox_serve_error *error)
{
	char name[] = "oxbow";
	char *argv[] = {name, NULL};
	struct fuse_args args = {.argc = 1, .argv = argv};
	char path[32];

	ox_fuse.set_log_func(drop_log);
	snprintf(path, sizeof(path), "/dev/fd/%d", fd); /* which is not opened */
	disk->session = ox_fuse.session_new(&args, &asked, sizeof(asked), disk);
	ox_fuse.opt_free_args(&args);
	if (!disk->session || ox_fuse.session_mount(disk->session, path) != 0)
		return ox_serve_fail(error, -EIO, "Cannot take the mount over");
	if (fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK) < 0)
		return ox_serve_fail(error, -errno, "Cannot take the mount over");
	disk->watched = (struct ox_watched){fd, event};
	disk->readable = true;
	return ox_serve_watch(disk->part.loop, EPOLL_CTL_ADD, &disk->watched, EPOLLIN | EPOLLET) < 0
		       ? ox_serve_fail(error, -errno, "Cannot set up the event loop")
		       : 0;
}

int ox_fuse_server_new(struct ox_serve_loop *loop, struct ox_serve_part **ret_part,
		       struct ox_serve_error *error)
{
	struct ox_fuse_disk *disk = calloc(1, sizeof(*disk));
	int ret;

	if (!disk)
		return ox_serve_fail(error, -ENOMEM, "Cannot serve the mount");
	disk->part = (struct ox_serve_part){&ops, loop};
	disk->options = &loop->options->fuse;
	disk->size_bytes = ox_image_size(loop->image);
	disk->read_only = ox_image_is_read_only(loop->image);
	(void)clock_gettime(CLOCK_REALTIME, &disk->written);
	ret = ox_queue_new(loop->image, &disk->queue);
	if (ret < 0)
		ox_serve_fail(error, ret, "Cannot make a request queue");
	else
		ret = begin_session(disk, loop->options->handed->fuse_fd, error);
	if (ret < 0) {
		free_disk(&disk->part, false);
		return ret;
	}
	*ret_part = &disk->part;
	return 0;
}
