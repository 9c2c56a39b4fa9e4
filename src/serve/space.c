/* SPDX-License-Identifier: MIT */
#include "serve/space.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

/* Of a file system that has no place in linux/magic.h. */
#define XFS_MAGIC 0x58465342
/* How long the end waits for an answer of the file system. */
#define END_SECONDS 1

struct ox_space {
	int fd;
	uint64_t low_bytes;
	int news; /* eventfds */
	int stop;
	pthread_t thread;
	/* The thread's, read by others. */
	bool is_low;
	uint64_t free_bytes;
};

/* Those that take the room of a write when it is made, though they place it later. */
static bool reserves(const struct statfs *fs)
{
	switch ((unsigned long)fs->f_type) {
	case EXT4_SUPER_MAGIC: /* ext2 and ext3 as well */
	case XFS_MAGIC:
	case TMPFS_MAGIC:
		return true;
	default:
		return false;
	}
}

bool ox_space_is_told_at_write(int fd, enum ox_cache_mode cache)
{
	struct statfs fs;
	struct stat st;

	if (cache == OX_CACHE_NONE || cache == OX_CACHE_DIRECTSYNC || fstat(fd, &st) < 0)
		return true;
	return !S_ISBLK(st.st_mode) && (fstatfs(fd, &fs) < 0 || reserves(&fs));
}

bool ox_space_is_low(uint64_t free_bytes, uint64_t low_bytes, bool was_low)
{
	return free_bytes < low_bytes + (was_low ? low_bytes / 8 : 0);
}

static int ask(int fd, uint64_t *ret_bytes)
{
	struct statfs fs;

	if (fstatfs(fd, &fs) < 0)
		return -errno;
	*ret_bytes = (uint64_t)fs.f_bavail * (uint64_t)(fs.f_frsize ? fs.f_frsize : fs.f_bsize);
	return 0;
}

static void tell(int fd)
{
	const uint64_t one = 1;
	ssize_t ignored = write(fd, &one, sizeof(one)); /* full: it is readable already */

	(void)ignored;
}

static void look(struct ox_space *space)
{
	const bool was_low = space->is_low;
	uint64_t free_bytes = 0;
	bool is_low;

	if (ask(space->fd, &free_bytes) < 0)
		return; /* of a file system that was asked before: it may answer again */
	is_low = ox_space_is_low(free_bytes, space->low_bytes, was_low);
	__atomic_store_n(&space->free_bytes, free_bytes, __ATOMIC_RELAXED);
	__atomic_store_n(&space->is_low, is_low, __ATOMIC_RELEASE);
	if (is_low != was_low)
		tell(space->news);
}

static void *run(void *opaque)
{
	struct ox_space *space = opaque;
	struct pollfd stop = {.fd = space->stop, .events = POLLIN};

	do
		look(space);
	while (poll(&stop, 1, OX_SPACE_LOOK_MS) == 0);
	return NULL;
}

static void release(struct ox_space *space)
{
	if (space->fd >= 0)
		close(space->fd);
	if (space->news >= 0)
		close(space->news);
	if (space->stop >= 0)
		close(space->stop);
	free(space);
}

int ox_space_begin(int fd, uint64_t low_bytes, struct ox_space **ret)
{
	struct ox_space *space;
	struct stat st;
	int code;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (S_ISBLK(st.st_mode))
		return -ENOTSUP;
	space = calloc(1, sizeof(*space));
	if (!space)
		return -ENOMEM;
	*space = (struct ox_space){.low_bytes = low_bytes};
	space->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0); /* the thread may outlive the caller's */
	code = ask(fd, &space->free_bytes);
	space->news = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	space->stop = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (code == 0 && (space->fd < 0 || space->news < 0 || space->stop < 0))
		code = -EMFILE;
	if (code == 0)
		code = -pthread_create(&space->thread, NULL, run, space);
	if (code < 0) {
		release(space);
		return code;
	}
	*ret = space;
	return 0;
}

void ox_space_end(struct ox_space *space)
{
	struct timespec until;

	if (!space)
		return;
	tell(space->stop);
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += END_SECONDS;
	if (pthread_clockjoin_np(space->thread, NULL, CLOCK_MONOTONIC, &until) == 0)
		release(space);
}

int ox_space_fd(const struct ox_space *space)
{
	return space->news;
}

bool ox_space_low(struct ox_space *space)
{
	uint64_t count;
	ssize_t ignored = read(space->news, &count, sizeof(count));

	(void)ignored;
	return __atomic_load_n(&space->is_low, __ATOMIC_ACQUIRE);
}

uint64_t ox_space_free_bytes(const struct ox_space *space)
{
	return __atomic_load_n(&space->free_bytes, __ATOMIC_RELAXED);
}
