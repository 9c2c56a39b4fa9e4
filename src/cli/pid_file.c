/* SPDX-License-Identifier: MIT */
#include "cli/pid_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cli.h"

static int fail(const struct ox_cli_pid_file *file, int code)
{
	ox_cli_error("Cannot write '%s': %s", file->path, strerror(-code));
	return code;
}

/* A file without a name, in the folder of the path. -EOPNOTSUPP: there are none such. */
static int open_unnamed(const char *path)
{
	char folder[PATH_MAX];
	const char *slash = strrchr(path, '/');
	size_t length = slash ? (size_t)(slash - path) + 1 : 0;
	int fd;

	if (length >= sizeof(folder))
		return -ENAMETOOLONG;
	memcpy(folder, path, length);
	folder[length] = '\0';
	fd = open(slash ? folder : ".", O_WRONLY | O_TMPFILE | O_CLOEXEC, 0666);
	return fd < 0 ? -errno : fd;
}

int ox_cli_pid_file_open(struct ox_cli_pid_file *file)
{
	struct stat st;

	if (!file->path)
		return 0;
	if (lstat(file->path, &st) == 0) {
		file->fd = open(file->path, O_WRONLY | O_CLOEXEC | O_NONBLOCK);
		return file->fd < 0 ? fail(file, -errno) : 0;
	}
	file->fd = open_unnamed(file->path);
	file->unnamed = file->fd >= 0;
	if (file->fd == -EOPNOTSUPP || file->fd == -EISDIR) {
		file->fd = open(file->path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0666);
		file->fd = file->fd < 0 ? -errno : file->fd;
	}
	file->created = file->fd >= 0;
	return file->fd < 0 ? fail(file, file->fd) : 0;
}

static int write_pid(const struct ox_cli_pid_file *file)
{
	struct stat st;

	if (fstat(file->fd, &st) < 0 || (S_ISREG(st.st_mode) && ftruncate(file->fd, 0) < 0))
		return -errno;
	return dprintf(file->fd, "%ld\n", (long)getpid()) < 0 ? -errno : 0;
}

/* Another file has the name by now, or there is no /proc: a file of the name is written. */
static int write_named(struct ox_cli_pid_file *file)
{
	int fd = open(file->path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0666);

	if (fd < 0)
		return -errno;
	close(file->fd);
	file->fd = fd;
	return write_pid(file);
}

int ox_cli_pid_file_write(struct ox_cli_pid_file *file)
{
	char own[64];
	int r = write_pid(file);

	if (r == 0 && file->unnamed) {
		(void)snprintf(own, sizeof(own), "/proc/self/fd/%d", file->fd);
		if (linkat(AT_FDCWD, own, AT_FDCWD, file->path, AT_SYMLINK_FOLLOW) < 0)
			r = write_named(file);
		file->unnamed = false;
	}
	if (r < 0)
		return fail(file, r);
	file->written = true;
	return 0;
}

/* Whether the name still leads to the file. */
static bool is_named(const struct ox_cli_pid_file *file)
{
	struct stat own;
	struct stat named;

	return fstat(file->fd, &own) == 0 && lstat(file->path, &named) == 0 &&
	       S_ISREG(named.st_mode) && own.st_dev == named.st_dev && own.st_ino == named.st_ino;
}

void ox_cli_pid_file_remove(struct ox_cli_pid_file *file)
{
	if (!file->path)
		return;
	if ((file->created || file->written) && is_named(file))
		(void)unlink(file->path);
	close(file->fd);
}
