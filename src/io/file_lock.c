/* SPDX-License-Identifier: MIT */
#include "io/file_lock.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"

enum {
	BYTE_HELD = 100,
	BYTE_UNSHARED = 200,
	PERM_COUNT = 4,
	ORPHAN_STEPS = 100, /* of 10 ms */
};

/* The names QEMU's messages use, by bit. */
static const char *const perm_names[PERM_COUNT] = {
	"consistent read",
	"write",
	"write unchanged",
	"resize",
};

/* ---- who holds a byte ---- */

struct holder {
	char name[32];
	long pid;
	bool stores; /* systemd, which keeps descriptors of services that have died */
};

/* Whether a "lock:" line of /proc/PID/fdinfo names the inode and covers the byte. */
static bool line_covers(const char *line, uint64_t ino, uint64_t byte)
{
	unsigned long long line_ino;
	unsigned long long start;
	char end_text[24];
	char *end_rest;
	unsigned long long end;

	if (sscanf(line, "lock: %*s %*s %*s %*s %*s %*x:%*x:%llu %llu %23s", &line_ino, &start,
		   end_text) != 3)
		return false;
	if (line_ino != ino || start > byte)
		return false;
	if (strcmp(end_text, "EOF") == 0)
		return true;
	end = strtoull(end_text, &end_rest, 10);
	return *end_rest == '\0' && end >= byte;
}

/* Whether descriptor fd_name of the process has the byte of the file locked. Stats the descriptor
 * only where its lock lines match, as a stat may hang on a dead network mount. */
static bool fd_holds(const char *pid, const char *fd_name, const struct stat *file, uint64_t byte)
{
	char path[64];
	char line[256];
	struct stat st;
	bool found = false;
	FILE *info;

	snprintf(path, sizeof(path), "/proc/%.16s/fdinfo/%.16s", pid, fd_name);
	info = fopen(path, "re");
	if (!info)
		return false;
	while (!found && fgets(line, sizeof(line), info))
		found = line_covers(line, file->st_ino, byte);
	fclose(info);
	if (!found)
		return false;
	snprintf(path, sizeof(path), "/proc/%.16s/fd/%.16s", pid, fd_name);
	return stat(path, &st) == 0 && st.st_dev == file->st_dev && st.st_ino == file->st_ino;
}

/* Whether the other process's descriptor is a duplicate of fd, and has its locks: those are in
 * nobody's way. */
static bool is_duplicate(int fd, const char *pid, const char *fd_name)
{
	long other = strtol(pid, NULL, 10);
	unsigned long number = strtoul(fd_name, NULL, 10);

	if (other == (long)getpid() && number == (unsigned long)fd)
		return true;
	return syscall(SYS_kcmp, getpid(), (pid_t)other, KCMP_FILE, (unsigned long)fd, number) == 0;
}

static bool process_holds(const char *pid, int own_fd, const struct stat *file, uint64_t byte)
{
	char path[64];
	struct dirent *entry;
	bool found = false;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%.16s/fdinfo", pid);
	dir = opendir(path);
	if (!dir)
		return false;
	while (!found && (entry = readdir(dir))) {
		found = entry->d_name[0] != '.' && fd_holds(pid, entry->d_name, file, byte) &&
			!is_duplicate(own_fd, pid, entry->d_name);
	}
	closedir(dir);
	return found;
}

static void read_process_name(const char *pid, char *ret_name, size_t size)
{
	char path[64];
	FILE *comm;

	snprintf(ret_name, size, "a process");
	snprintf(path, sizeof(path), "/proc/%.16s/comm", pid);
	comm = fopen(path, "re");
	if (!comm)
		return;
	if (fgets(ret_name, (int)size, comm))
		ret_name[strcspn(ret_name, "\n")] = '\0';
	fclose(comm);
}

/* Looks through the processes that this one may look into. What a service manager stores is a
 * service's: that one is named if it lives. */
static bool find_holder(const struct ox_file_lock_taker *taker, uint64_t byte, struct holder *ret)
{
	struct dirent *entry;
	bool found = false;
	struct stat file;
	DIR *proc;

	if (taker->opens_nothing || fstat(taker->fd, &file) < 0)
		return false;
	proc = opendir("/proc");
	if (!proc)
		return false;
	while ((!found || ret->stores) && (entry = readdir(proc))) {
		if (!isdigit((unsigned char)entry->d_name[0]) ||
		    !process_holds(entry->d_name, taker->fd, &file, byte))
			continue;
		found = true;
		ret->pid = strtol(entry->d_name, NULL, 10);
		read_process_name(entry->d_name, ret->name, sizeof(ret->name));
		ret->stores = strcmp(ret->name, "systemd") == 0;
	}
	closedir(proc);
	return found;
}

/* Whether the "lock:" lines of the descriptor have the byte. */
static bool own_lines_cover(FILE *info, uint64_t ino, uint64_t byte)
{
	char line[256];

	rewind(info);
	while (fgets(line, sizeof(line), info))
		if (strstr(line, " OFDLCK ") && line_covers(line, ino, byte))
			return true;
	return false;
}

int ox_file_lock_is_held(int fd, struct ox_file_lock lock)
{
	bool held = true;
	char path[64];
	struct stat st;
	FILE *info;

	if (fstat(fd, &st) < 0)
		return -errno;
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	info = fopen(path, "re");
	if (!info)
		return -errno;
	for (int i = 0; i < PERM_COUNT && held; i++) {
		if (lock.held & 1U << i)
			held = own_lines_cover(info, st.st_ino, BYTE_HELD + (unsigned)i);
		if (held && (lock.unshared & 1U << i))
			held = own_lines_cover(info, st.st_ino, BYTE_UNSHARED + (unsigned)i);
	}
	fclose(info);
	return held;
}

/* ---- single bytes ---- */

/* 0, or a negative errno; -EAGAIN where someone holds an exclusive lock. */
static int byte_set(int fd, int type, int byte)
{
	struct flock lock = {
		.l_type = (short)type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};

	if (fcntl(fd, F_OFD_SETLK, &lock) == 0)
		return 0;
	return errno == EACCES ? -EAGAIN : -errno;
}

/* 0 where no other has the byte locked, -EAGAIN where one has. */
static int byte_test(int fd, int byte)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};

	if (fcntl(fd, F_OFD_GETLK, &lock) < 0)
		return -errno;
	return lock.l_type == F_UNLCK ? 0 : -EAGAIN;
}

/*
 * As byte_test, but patient with the dead: what a killed process had in flight at the kernel keeps
 * its locks for some milliseconds, and so does what a service manager has been told to let go.
 * Where no other living process is seen to hold the byte, that is waited out, for a bounded time.
 */
static int byte_test_patiently(const struct ox_file_lock_taker *taker, int byte)
{
	const struct timespec step = {.tv_nsec = 10000000};
	struct holder who;
	int r = byte_test(taker->fd, byte);

	for (int i = 0; r == -EAGAIN && i < ORPHAN_STEPS; i++) {
		if (find_holder(taker, (uint64_t)byte, &who) && !who.stores)
			break;
		nanosleep(&step, NULL);
		r = byte_test(taker->fd, byte);
	}
	return r;
}

/*
 * Whether the user goes on without locks: where the kernel or the file system has none. -ENOLCK
 * is given by a lock service that is down as well, and others may have locks then: only one who
 * refuses nothing to them goes on.
 */
static bool can_do_without(int code, struct ox_file_lock want)
{
	return code == -EINVAL || code == -EOPNOTSUPP || code == -ENOSYS ||
	       (code == -ENOLCK && want.unshared == 0);
}

static int lock_failed(const char *name, int code, struct ox_error **err)
{
	if (code != -ENOLCK)
		return ox_error_set_errno(err, code, "Failed to lock '%s'", name);
	return ox_error_set(err, code,
			    "Failed to lock '%s': %s\n"
			    "The file system has no locks, or its lock service does not answer. "
			    "The image can be read without: -U, or file.locking=off",
			    name, strerror(-code));
}

/* Sets (F_RDLCK) or clears (F_UNLCK) the bytes of perms. On failure some are set. */
static int bytes_set(int fd, int type, int first_byte, unsigned perms)
{
	for (int i = 0; i < PERM_COUNT; i++) {
		int r = (perms & 1U << i) ? byte_set(fd, type, first_byte + i) : 0;

		if (r < 0)
			return r;
	}
	return 0;
}

/* Unlocking cannot fail where locking worked; a failure would leave a lock too many, which is on
 * the safe side and goes when the descriptor is closed. */
static void locks_clear(int fd, struct ox_file_lock locks)
{
	(void)bytes_set(fd, F_UNLCK, BYTE_HELD, locks.held);
	(void)bytes_set(fd, F_UNLCK, BYTE_UNSHARED, locks.unshared);
}

static int locks_set(int fd, struct ox_file_lock locks)
{
	int r = bytes_set(fd, F_RDLCK, BYTE_HELD, locks.held);

	return r < 0 ? r : bytes_set(fd, F_RDLCK, BYTE_UNSHARED, locks.unshared);
}

/* ---- the protocol ---- */

static int conflict(const struct ox_file_lock_taker *taker, const char *kind, int perm, int byte,
		    struct ox_error **err)
{
	struct holder who;

	if (!err)
		return -EAGAIN;
	if (!find_holder(taker, (uint64_t)byte, &who))
		return ox_error_set(err, -EAGAIN,
				    "Failed to get %s\"%s\" lock\n"
				    "Is another process using the image [%s]?",
				    kind, perm_names[perm], taker->name);
	if (who.pid == (long)getpid()) /* the image is named twice */
		return ox_error_set(err, -EAGAIN,
				    "Failed to get %s\"%s\" lock\n"
				    "Is another process using the image [%s]?\n"
				    "(held by this process itself)",
				    kind, perm_names[perm], taker->name);
	return ox_error_set(err, -EAGAIN,
			    "Failed to get %s\"%s\" lock\n"
			    "Is another process using the image [%s]?\n"
			    "(held by %s, process %ld%s)",
			    kind, perm_names[perm], taker->name, who.name, who.pid,
			    who.stores ? ", for a service that has died and may be started again"
				       : "");
}

/* Tests the bytes of perms from first_byte on. */
static int bytes_test(const struct ox_file_lock_taker *taker, const char *kind, int first_byte,
		      unsigned perms, struct ox_error **err)
{
	for (int i = 0; i < PERM_COUNT; i++) {
		int byte = first_byte + i;
		int r = (perms & 1U << i) ? byte_test_patiently(taker, byte) : 0;

		if (r == -EAGAIN)
			return conflict(taker, kind, i, byte, err);
		if (r < 0)
			return ox_error_set_errno(err, r, "Failed to test lock byte %d of '%s'",
						  byte, taker->name);
	}
	return 0;
}

static int locks_test(const struct ox_file_lock_taker *taker, struct ox_file_lock want,
		      struct ox_error **err)
{
	int r = bytes_test(taker, "", BYTE_UNSHARED, want.held, err);

	return r < 0 ? r : bytes_test(taker, "shared ", BYTE_HELD, want.unshared, err);
}

static struct ox_file_lock locks_minus(struct ox_file_lock a, struct ox_file_lock b)
{
	return (struct ox_file_lock){a.held & ~b.held, a.unshared & ~b.unshared};
}

int ox_file_lock_take(const struct ox_file_lock_taker *taker, struct ox_file_lock *have,
		      struct ox_file_lock want, struct ox_error **err)
{
	struct ox_file_lock more = locks_minus(want, *have);
	int fd = taker->fd;
	int r;

	ox_assert((want.held | want.unshared) < 1U << PERM_COUNT);
	ox_assert((have->held & ~want.held) == 0 && (have->unshared & ~want.unshared) == 0);
	if (can_do_without(byte_test(fd, 0), want))
		return 0;
	/* Lock first, then test: of two that come at once at least one sees the other. */
	r = locks_set(fd, more);
	if (r < 0) {
		locks_clear(fd, more);
		return can_do_without(r, want) ? 0 : lock_failed(taker->name, r, err);
	}
	r = locks_test(taker, want, err);
	if (r < 0) {
		locks_clear(fd, more);
		return r;
	}
	*have = want;
	return 0;
}

int ox_file_lock_copy(int fd, const char *name, struct ox_file_lock have, struct ox_error **err)
{
	int r = locks_set(fd, have);

	return r < 0 ? ox_error_set_errno(err, r, "Failed to lock '%s'", name) : 0;
}

void ox_file_lock_keep(int fd, struct ox_file_lock *have, struct ox_file_lock keep)
{
	locks_clear(fd, locks_minus(*have, keep));
	have->held &= keep.held;
	have->unshared &= keep.unshared;
}
