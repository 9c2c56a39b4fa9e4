/* SPDX-License-Identifier: MIT */
/*
 * Regular files and block devices.
 *
 * Reads, writes, syncs and fallocate go through the reactor's engine. lseek and ftruncate have no
 * asynchronous form and may wait (for the file's lock, for requests in flight, for the journal),
 * so a worker thread makes them: one long truncation must not stop every task of the reactor.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/arith.h"
#include "base/assert.h"
#include "io/file_align.h"
#include "io/file_lock.h"
#include "io/io.h"

#define SPACE_MIN_BYTES 512u
#define SPACE_MAX_BYTES 4096u
/* The largest piece that Linux reads ahead into; it drops none that a range covers in part. */
#define FOLIO_BYTES (UINT64_C(2) << 20)
#define PAGE_BYTES 4096u

struct file_store {
	struct ox_io io;
	int fd;
	bool fd_given; /* by the caller: it is never replaced, and its mode is what it is */
	bool is_block;
	bool direct;
	bool no_dsync; /* what the file system was found not to have */
	bool no_punch;
	bool no_zero_range;
	unsigned open_flags; /* enum ox_io_open_flags */
	uint64_t dev;
	uint64_t ino;
	struct ox_file_lock lock;
};

static struct file_store *file_of(const struct ox_io *io)
{
	return ox_container_of(io, struct file_store, io);
}

/* ---- requests ---- */

static int64_t file_preadv_co(struct ox_io *io, const struct iovec *iov, int n, uint64_t offset)
{
	return ox_aio_preadv_co(file_of(io)->fd, iov, n, offset);
}

static bool file_read_cached(const struct ox_io *io, void *buf, size_t count, uint64_t offset)
{
	const struct file_store *f = file_of(io);
	struct iovec iov = {.iov_base = buf, .iov_len = count};

	/* Past the page cache there is nothing but the medium. */
	return !f->direct && preadv2(f->fd, &iov, 1, (off_t)offset, RWF_NOWAIT) == (ssize_t)count;
}

static int64_t file_pwritev_co(struct ox_io *io, const struct iovec *iov, int n, uint64_t offset,
			       unsigned flags)
{
	struct file_store *f = file_of(io);
	const int direct = f->direct ? OX_AIO_DIRECT : 0;
	bool fua = flags & OX_IO_FUA;
	int64_t put;
	int r;

	if (fua && !f->no_dsync) {
		put = ox_aio_pwritev_co(f->fd, iov, n, offset, RWF_DSYNC | direct);
		if (put != -EOPNOTSUPP)
			return put;
		f->no_dsync = true;
	}
	put = ox_aio_pwritev_co(f->fd, iov, n, offset, direct);
	if (put <= 0 || !fua)
		return put;
	r = ox_aio_fdatasync_co(f->fd);
	if (r < 0)
		return r;
	io->counts[OX_IO_COUNT_SYNCS]++;
	return put;
}

static int file_sync_co(struct ox_io *io)
{
	return ox_aio_fdatasync_co(file_of(io)->fd);
}

static int file_sync_by_co(struct ox_io *io, int fd)
{
	(void)io;
	return ox_aio_fdatasync_co(fd);
}

/* fallocate, with the ways to say "cannot" made one. */
static int fallocate_co(struct file_store *f, int mode, uint64_t offset, uint64_t length)
{
	int r;

	do {
		r = ox_aio_fallocate_co(f->fd, mode, offset, length);
	} while (r == -EINTR);
	return r == -ENOSYS || r == -ENOTTY || r == -ENODEV ? -EOPNOTSUPP : r;
}

static int file_punch_co(struct ox_io *io, uint64_t offset, uint64_t length)
{
	struct file_store *f = file_of(io);
	int r;

	if (f->no_punch)
		return -EOPNOTSUPP;
	r = fallocate_co(f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length);
	f->no_punch = r == -EOPNOTSUPP;
	return r;
}

static int file_zero_co(struct ox_io *io, uint64_t offset, uint64_t length)
{
	struct file_store *f = file_of(io);
	int r;

	if (!f->no_zero_range) {
		r = fallocate_co(f, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, length);
		if (r != -EOPNOTSUPP)
			return r;
		f->no_zero_range = true;
	}
	/* A hole that is filled again is zeroes with space; a device has no space to fill. */
	r = file_punch_co(io, offset, length);
	if (r < 0 || f->is_block)
		return r;
	return fallocate_co(f, FALLOC_FL_KEEP_SIZE, offset, length);
}

static int file_reserve_co(struct ox_io *io, uint64_t offset, uint64_t length)
{
	struct file_store *f = file_of(io);

	if (f->is_block)
		return ox_range_within(offset, length, io->length) ? 0 : -ENOSPC;
	return fallocate_co(f, 0, offset, length);
}

/* ---- what worker threads do ---- */

struct set_length_work {
	int fd;
	uint64_t length;
};

static int set_length_work(void *arg)
{
	struct set_length_work *w = arg;
	int r;

	do {
		r = ftruncate(w->fd, (off_t)w->length);
	} while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : 0;
}

static int file_set_length_co(struct ox_io *io, uint64_t length)
{
	struct set_length_work w = {.fd = file_of(io)->fd, .length = length};

	return ox_aio_work_co(set_length_work, &w);
}

struct measure_work {
	int fd;
	uint64_t length;
};

static int measure_work(void *arg)
{
	struct measure_work *w = arg;
	off_t end = lseek(w->fd, 0, SEEK_END);

	if (end < 0)
		return -errno;
	w->length = (uint64_t)end;
	return 0;
}

static int file_measure_co(struct ox_io *io, uint64_t *ret_length)
{
	struct measure_work w = {.fd = file_of(io)->fd};
	int r = ox_aio_work_co(measure_work, &w);

	if (r == 0)
		*ret_length = w.length;
	return r;
}

struct let_go_work {
	int fd;
	unsigned how;
	int count;
	struct ox_io_range ranges[];
};

static int let_go(const struct let_go_work *w, off_t offset, off_t length)
{
	int flags = 0;

	if (w->how & OX_IO_LET_GO_WAIT)
		flags = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
			SYNC_FILE_RANGE_WAIT_AFTER;
	else if (w->how & OX_IO_LET_GO_START)
		flags = SYNC_FILE_RANGE_WRITE;
	if (flags && sync_file_range(w->fd, offset, length, (unsigned)flags) < 0)
		return errno == EINVAL || errno == ENOSYS || errno == ESPIPE ? -EOPNOTSUPP : -errno;
	if (w->how & OX_IO_LET_GO_DROP)
		posix_fadvise(w->fd, offset, length, POSIX_FADV_DONTNEED);
	return 0;
}

/* Of a long range the pieces at its ends go as well; beside a short one they may yet be needed. */
static int let_go_work(void *arg)
{
	const struct let_go_work *w = arg;
	int r = 0;

	for (int i = 0; r == 0 && i < w->count; i++) {
		const struct ox_io_range *range = &w->ranges[i];
		uint64_t align = range->end - range->start < FOLIO_BYTES ? PAGE_BYTES : FOLIO_BYTES;
		uint64_t start = ox_align_down(range->start, align);

		r = let_go(w, (off_t)start, (off_t)(ox_align_up(range->end, align) - start));
	}
	return r;
}

/* Write-out waits where the device is busy, and dropping takes time by the page. */
static int file_let_go_co(struct ox_io *io, const struct ox_io_range *ranges, int count,
			  unsigned how)
{
	const struct file_store *f = file_of(io);
	struct let_go_work *w;
	int r;

	if (f->direct)
		return -EOPNOTSUPP;
	w = malloc(sizeof(*w) + (size_t)count * sizeof(w->ranges[0]));
	if (!w)
		return 0; /* the pages stay */
	w->fd = f->fd;
	w->how = how;
	w->count = count;
	memcpy(w->ranges, ranges, (size_t)count * sizeof(w->ranges[0]));
	r = ox_aio_work_co(let_go_work, w);
	free(w);
	return r;
}

struct extents_work {
	int fd;
	uint64_t offset;
	uint64_t limit;
	struct ox_io_extent *out;
	int max;
};

/* From a place within the file on. False: the file cannot tell, and all of the rest is data. */
static bool one_extent(int fd, off_t offset, off_t end, struct ox_io_extent *ret)
{
	off_t data = lseek(fd, offset, SEEK_DATA);
	off_t hole;

	*ret = (struct ox_io_extent){.length = (uint64_t)(end - offset), .zero = false};
	if (data > offset) {
		*ret = (struct ox_io_extent){.length = (uint64_t)(data - offset), .zero = true};
	} else if (data < 0) {
		ret->zero = errno == ENXIO; /* a hole to the end */
		return ret->zero;
	} else {
		hole = lseek(fd, offset, SEEK_HOLE);
		if (hole > offset)
			ret->length = (uint64_t)(hole - offset);
	}
	return true;
}

/* How many there are, or a negative errno. */
static int extents_work(void *arg)
{
	struct extents_work *w = arg;
	uint64_t at = w->offset;
	off_t end = lseek(w->fd, 0, SEEK_END);
	int n = 0;

	if (end < 0)
		return -errno;
	while (n < w->max && at - w->offset < w->limit && at < (uint64_t)end) {
		bool tells = one_extent(w->fd, (off_t)at, end, &w->out[n]);

		at += w->out[n++].length;
		if (!tells)
			break;
	}
	if (n == 0)
		w->out[n++] = (struct ox_io_extent){.length = UINT64_MAX - w->offset, .zero = true};
	return n;
}

static int file_extents_co(struct ox_io *io, uint64_t offset, uint64_t limit,
			   struct ox_io_extent *ret, int max)
{
	struct extents_work w = {file_of(io)->fd, offset, limit, ret, max};

	return ox_aio_work_co(extents_work, &w);
}

static int file_extent_co(struct ox_io *io, uint64_t offset, struct ox_io_extent *ret)
{
	struct extents_work w = {file_of(io)->fd, offset, 1, ret, 1};
	int r = ox_aio_work_co(extents_work, &w);

	return r < 0 ? r : 0;
}

static int file_actual_bytes(const struct ox_io *io, uint64_t *ret)
{
	struct stat st;

	if (fstat(file_of(io)->fd, &st) < 0)
		return -errno;
	*ret = (uint64_t)st.st_blocks * 512; /* the unit of st_blocks, whatever st_blksize says */
	return 0;
}

/* ---- opening and closing ---- */

static void file_free(struct file_store *f)
{
	free(f->io.name);
	free(f);
}

static void file_close(struct ox_io *io)
{
	struct file_store *f = file_of(io);

	/* A descriptor of the caller's may be a duplicate, whose locks would live on. */
	ox_file_lock_keep(f->fd, &f->lock, OX_FILE_LOCK_OF_NOBODY);
	close(f->fd);
	file_free(f);
}

static const struct ox_io_ops file_ops = {
	.name = "file",
	.preadv_co = file_preadv_co,
	.pwritev_co = file_pwritev_co,
	.sync_co = file_sync_co,
	.sync_by_co = file_sync_by_co,
	.punch_co = file_punch_co,
	.zero_co = file_zero_co,
	.reserve_co = file_reserve_co,
	.set_length_co = file_set_length_co,
	.extent_co = file_extent_co,
	.extents_co = file_extents_co,
	.measure_co = file_measure_co,
	.actual_bytes = file_actual_bytes,
	.read_cached = file_read_cached,
	.let_go_co = file_let_go_co,
	.reopen = ox_io_file_reopen,
	.close = file_close,
};

static struct ox_file_lock wanted_lock(unsigned flags, bool read_only)
{
	if (flags & OX_IO_NO_LOCK)
		return OX_FILE_LOCK_OF_NOBODY;
	if (!read_only)
		return OX_FILE_LOCK_OF_WRITER;
	if (flags & (OX_IO_FORCE_SHARE | OX_IO_SHARE_WRITE))
		return OX_FILE_LOCK_OF_SHARER;
	return OX_FILE_LOCK_OF_READER;
}

static struct ox_file_lock_taker taker_of(const struct file_store *f)
{
	return (struct ox_file_lock_taker){
		.fd = f->fd,
		.name = f->io.name,
		.opens_nothing = f->open_flags & OX_IO_OPEN_NOTHING,
	};
}

/* Looks at the descriptor, which must be that of a file that can hold an image. */
static int examine(int fd, const char *name, struct stat *ret, struct ox_error **err)
{
	if (fstat(fd, ret) < 0)
		return ox_error_set_errno(err, -errno, "Could not look at '%s'", name);
	if (!S_ISREG(ret->st_mode) && !S_ISBLK(ret->st_mode))
		return ox_error_set(err, S_ISDIR(ret->st_mode) ? -EISDIR : -EINVAL,
				    "'%s' is neither a regular file nor a block device", name);
	return 0;
}

void ox_io_file_identity_of(const struct stat *st, uint64_t *ret_dev, uint64_t *ret_ino)
{
	/* A device may have several nodes; its number is what it is known by. */
	*ret_dev = S_ISBLK(st->st_mode) ? st->st_rdev : st->st_dev;
	*ret_ino = S_ISBLK(st->st_mode) ? 0 : st->st_ino;
}

static int file_examine(struct file_store *f, struct ox_error **err)
{
	struct stat st;
	int r = examine(f->fd, f->io.name, &st, err);

	if (r < 0)
		return r;
	f->is_block = S_ISBLK(st.st_mode);
	f->io.can_grow = !f->is_block;
	ox_io_file_identity_of(&st, &f->dev, &f->ino);
	f->io.device = f->dev;
	f->io.inode = f->ino;
	return 0;
}

/* The file system's block. Some count in larger units than they allocate, so that more than the
 * usual block is not believed; thin devices have larger pieces. */
static uint32_t space_bytes_of(const struct file_store *f)
{
	struct statfs st;

	if (f->is_block)
		return SPACE_MAX_BYTES;
	if (fstatfs(f->fd, &st) < 0 || st.f_frsize <= 0 || !ox_is_pow2((uint64_t)st.f_frsize))
		return SPACE_MIN_BYTES;
	return (uint32_t)ox_max_u64(ox_min_u64((uint64_t)st.f_frsize, SPACE_MAX_BYTES),
				    SPACE_MIN_BYTES);
}

/* Takes the length and alignment: under the locks, as a writer could still change them before. */
static int file_measure(struct file_store *f, struct ox_error **err)
{
	off_t end = lseek(f->fd, 0, SEEK_END);
	int r;

	if (end < 0)
		return ox_error_set_errno(err, -errno, "Could not get the length of '%s'",
					  f->io.name);
	f->io.length = (uint64_t)end;
	f->io.space_bytes = space_bytes_of(f);
	r = ox_file_align_find(f->fd, f->direct, f->is_block, &f->io);
	if (r < 0)
		return ox_error_set_errno(err, r, "Could not find out the alignment of '%s'",
					  f->io.name);
	return 0;
}

/* Empties a regular file. Only its locks' holder may. */
static int file_empty(struct file_store *f, struct ox_error **err)
{
	if (f->is_block)
		return 0;
	if (ftruncate(f->fd, 0) < 0)
		return ox_error_set_errno(err, -errno, "Could not empty '%s'", f->io.name);
	f->io.length = 0;
	return 0;
}

/* Makes a store of fd, which has been opened as flags say and stays the caller's on failure. */
static int file_make(struct ox_reactor *reactor, int fd, bool fd_given, const char *name,
		     unsigned flags, struct ox_io **ret, struct ox_error **err)
{
	struct file_store *f = calloc(1, sizeof(*f));
	struct ox_file_lock_taker taker;
	int r;

	if (!f)
		return ox_error_set_errno(err, -ENOMEM, "Could not open '%s'", name);
	f->io.ops = &file_ops;
	f->io.reactor = reactor;
	f->io.name = strdup(name);
	f->io.read_only = flags & OX_IO_READ_ONLY;
	ox_rangelock_init(&f->io.rmw);
	f->fd = fd;
	f->fd_given = fd_given;
	f->direct = flags & OX_IO_DIRECT;
	f->open_flags = flags;
	if (!f->io.name) {
		r = ox_error_set_errno(err, -ENOMEM, "Could not open '%s'", name);
		goto fail;
	}
	r = file_examine(f, err);
	if (r < 0)
		goto fail;
	taker = taker_of(f);
	r = ox_file_lock_take(&taker, &f->lock, wanted_lock(flags, f->io.read_only), err);
	if (r < 0)
		goto fail;
	r = file_measure(f, err);
	if (r == 0 && (flags & OX_IO_CREATE))
		r = file_empty(f, err);
	if (r < 0) {
		ox_file_lock_keep(fd, &f->lock, OX_FILE_LOCK_OF_NOBODY);
		goto fail;
	}
	*ret = &f->io;
	return 0;
fail:
	file_free(f);
	return r;
}

static int check_flags(unsigned flags, struct ox_error **err)
{
	ox_assert(!(flags & (OX_IO_CREATE | OX_IO_NEW)) || !(flags & OX_IO_READ_ONLY));
	if ((flags & OX_IO_FORCE_SHARE) && !(flags & OX_IO_READ_ONLY))
		return ox_error_set(err, -EINVAL,
				    "Only read-only images can be opened without regard to locks");
	return 0;
}

/* Makes the entry of a new file durable: a sync of the file does not promise that. A directory
 * that may not be read, or whose file system cannot sync it, is let be. */
int ox_io_file_sync_directory(const char *path)
{
	const char *slash = strrchr(path, '/');
	char *dir = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
	int fd;
	int r = 0;

	if (!dir)
		return -ENOMEM;
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	free(dir);
	if (fd < 0)
		return 0;
	if (fsync(fd) < 0 && errno != EINVAL && errno != EROFS)
		r = -errno;
	close(fd);
	return r;
}

/* Makes the file, durably; or, unless it must be new, opens the one that is there, perhaps at the
 * end of a link. */
static int create_path(const char *path, int mode, bool must_be_new)
{
	int fd = open(path, mode | O_CREAT | O_EXCL, 0644);
	int r;

	if (fd < 0 && (must_be_new || errno != EEXIST))
		return -errno;
	if (fd < 0) {
		fd = open(path, mode);
		return fd < 0 ? -errno : fd;
	}
	r = ox_io_file_sync_directory(path);
	if (r == 0)
		return fd;
	close(fd);
	return r;
}

/* A descriptor, or a negative errno. O_NONBLOCK keeps a pipe in the path's place from stopping the
 * program; it is taken off again as io_uring heeds it. */
static int open_path(const char *path, unsigned flags)
{
	int mode = (flags & OX_IO_READ_ONLY) ? O_RDONLY : O_RDWR;
	int fd;
	int r;

	mode |= O_CLOEXEC | O_NONBLOCK | O_NOCTTY | ((flags & OX_IO_DIRECT) ? O_DIRECT : 0);
	if (flags & (OX_IO_CREATE | OX_IO_NEW)) {
		fd = create_path(path, mode, flags & OX_IO_NEW);
	} else {
		fd = open(path, mode);
		fd = fd < 0 ? -errno : fd;
	}
	if (fd < 0)
		return fd;
	if (fcntl(fd, F_SETFL, mode & ~O_NONBLOCK) < 0) {
		r = -errno;
		close(fd);
		return r;
	}
	return fd;
}

static int open_failed(const char *name, unsigned flags, int code, struct ox_error **err)
{
	char link[PATH_MAX];
	ssize_t n = code == -ENOENT ? readlink(name, link, sizeof(link)) : -1;

	if (n > 0)
		return ox_error_set(err, code, "Could not open '%s': %s (it is a link to '%.*s')",
				    name, strerror(ENOENT), (int)n, link);
	if (code == -EINVAL && (flags & OX_IO_DIRECT))
		return ox_error_set(err, code,
				    "Could not open '%s': filesystem does not support O_DIRECT",
				    name);
	return ox_error_set_errno(err, code, "Could not open '%s'", name);
}

int ox_io_file_open_path(const char *path, unsigned flags, struct ox_error **err)
{
	int fd = open_path(path, flags);

	return fd < 0 ? open_failed(path, flags, fd, err) : fd;
}

int ox_io_file_open(struct ox_reactor *r, const char *path, unsigned flags, struct ox_io **ret,
		    struct ox_error **err)
{
	int code = check_flags(flags, err);
	int fd;

	ox_assert(!(flags & OX_IO_OPEN_NOTHING));
	if (code < 0)
		return code;
	fd = open_path(path, flags);
	if (fd < 0)
		return open_failed(path, flags, fd, err);
	code = file_make(r, fd, false, path, flags, ret, err);
	if (code < 0)
		close(fd);
	return code;
}

/* Whether a descriptor of the caller's can carry a store with these flags; puts right what can be
 * put right on it. */
static int prepare_given_fd(int fd, const char *name, unsigned flags, struct ox_error **err)
{
	int mode = fcntl(fd, F_GETFL);
	struct stat st;
	int wanted;
	int r;

	if (mode < 0)
		return ox_error_set_errno(err, -errno, "Could not use descriptor '%s'", name);
	r = examine(fd, name, &st, err);
	if (r < 0)
		return r;
	if ((mode & O_PATH) || (mode & O_ACCMODE) == O_WRONLY)
		return ox_error_set(err, -EBADF, "Descriptor '%s' is not open for reading", name);
	if (!(flags & OX_IO_READ_ONLY) && (mode & O_ACCMODE) != O_RDWR)
		return ox_error_set(err, -EACCES, "Descriptor '%s' is not open for writing", name);
	/* Linux appends whatever the offset of a write says. */
	wanted = mode & ~(O_APPEND | O_NONBLOCK);
	if (flags & OX_IO_DIRECT)
		wanted |= O_DIRECT;
	if (wanted != mode && fcntl(fd, F_SETFL, wanted) < 0)
		return open_failed(name, flags, -errno, err);
	return 0;
}

int ox_io_file_open_fd(struct ox_reactor *r, int fd, const char *name, unsigned flags,
		       struct ox_io **ret, struct ox_error **err)
{
	int code = check_flags(flags, err);

	if (code < 0)
		return code;
	code = prepare_given_fd(fd, name, flags, err);
	if (code < 0)
		return code;
	if (fcntl(fd, F_GETFL) & O_DIRECT)
		flags |= OX_IO_DIRECT;
	return file_make(r, fd, true, name, flags, ret, err);
}

/* ---- reopening ---- */

/* Opens the very file of f in another mode: through /proc where it is mounted, which a rename
 * does not disturb, else by name. */
static int open_again(const struct file_store *f, unsigned flags)
{
	struct stat st;
	char path[32];
	int fd;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", f->fd);
	fd = open_path(path, flags);
	if (fd == -ENOENT)
		fd = open_path(f->io.name, flags);
	if (fd < 0)
		return fd;
	if (fstat(fd, &st) == 0 && (f->is_block ? st.st_rdev : st.st_dev) == f->dev &&
	    (f->is_block || st.st_ino == f->ino))
		return fd;
	close(fd);
	return -ESTALE;
}

/* Puts a descriptor of the wanted mode, with the locks given, in the place of f's. */
static int replace_fd(struct file_store *f, unsigned flags, struct ox_file_lock lock,
		      struct ox_error **err)
{
	int fd = open_again(f, flags);
	int r;

	if (fd < 0)
		return open_failed(f->io.name, flags, fd, err);
	r = ox_file_lock_copy(fd, f->io.name, lock, err);
	/* The number stays, so that there is no moment without a descriptor; the locks of the old
	 * one go with it. */
	if (r == 0 && dup3(fd, f->fd, O_CLOEXEC) < 0)
		r = ox_error_set_errno(err, -errno, "Could not reopen '%s'", f->io.name);
	close(fd);
	if (r == 0)
		f->lock = lock;
	return r;
}

/* The old descriptor takes the locks that a writer needs first, so that a refusal leaves all as it
 * was; those that a reader does not need it keeps until all else has succeeded. */
int ox_io_file_reopen(struct ox_io *io, bool read_only, struct ox_error **err)
{
	struct file_store *f = file_of(io);
	unsigned flags = f->open_flags & ~(OX_IO_READ_ONLY | OX_IO_CREATE | OX_IO_NEW);
	struct ox_file_lock_taker taker = taker_of(f);
	struct ox_file_lock old = f->lock;
	struct ox_file_lock lock;
	int r;

	ox_assert(io->ops == &file_ops);
	if (read_only == io->read_only)
		return 0;
	flags |= read_only ? OX_IO_READ_ONLY : 0;
	r = check_flags(flags, err);
	if (r == 0 && f->fd_given)
		r = prepare_given_fd(f->fd, io->name, flags, err);
	if (r < 0)
		return r;
	lock = wanted_lock(flags, read_only);
	if (!read_only) {
		r = ox_file_lock_take(&taker, &f->lock, lock, err);
		if (r < 0)
			return r;
		lock = f->lock; /* nothing where there are no locks */
	} else {
		lock = (struct ox_file_lock){old.held & lock.held, old.unshared & lock.unshared};
	}
	r = file_measure(f, err);
	if (r == 0 && !f->fd_given)
		r = replace_fd(f, flags, lock, err);
	ox_file_lock_keep(f->fd, &f->lock, r < 0 ? old : lock);
	if (r < 0)
		return r;
	f->open_flags = flags;
	io->read_only = read_only;
	return 0;
}

/* ---- what is asked of files ---- */

int ox_io_file_lock_fd(int fd, const char *name, struct ox_file_lock have, struct ox_file_lock want,
		       struct ox_error **err)
{
	struct ox_file_lock_taker taker = {.fd = fd, .name = name};
	struct stat st;
	int r = examine(fd, name, &st, err);

	if (r < 0)
		return r;
	if ((have.held & ~want.held) == 0 && (have.unshared & ~want.unshared) == 0)
		return ox_file_lock_take(&taker, &have, want, err);
	ox_file_lock_keep(fd, &have, want);
	return 0;
}

bool ox_io_file_changed_ns(const struct ox_io *io, uint64_t *ret)
{
	struct stat st;

	io = ox_io_below_window(io);
	if (io->ops != &file_ops || file_of(io)->is_block || fstat(file_of(io)->fd, &st) < 0)
		return false;
	*ret = (uint64_t)st.st_mtim.tv_sec * UINT64_C(1000000000) + (uint64_t)st.st_mtim.tv_nsec;
	return true;
}

bool ox_io_file_identity(const struct ox_io *io, uint64_t *ret_dev, uint64_t *ret_ino)
{
	io = ox_io_below_window(io);
	if (io->ops != &file_ops)
		return false;
	*ret_dev = file_of(io)->dev;
	*ret_ino = file_of(io)->ino;
	return true;
}

bool ox_io_file_has_fd(const struct ox_io *io, int fd)
{
	io = ox_io_below_window(io);
	return io->ops == &file_ops && file_of(io)->fd == fd;
}
