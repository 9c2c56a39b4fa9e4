/* SPDX-License-Identifier: MIT */
#include "cli/pid_file.h"

#include <errno.h>
#include <fcntl.h>
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

int ox_cli_pid_file_open(struct ox_cli_pid_file *file)
{
	if (!file->path)
		return 0;
	file->fd = open(file->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	file->created = file->fd >= 0;
	if (file->fd < 0 && errno == EEXIST)
		file->fd = open(file->path, O_WRONLY | O_CLOEXEC | O_NONBLOCK);
	return file->fd < 0 ? fail(file, -errno) : 0;
}

int ox_cli_pid_file_write(struct ox_cli_pid_file *file)
{
	struct stat st;

	if (fstat(file->fd, &st) < 0 || (S_ISREG(st.st_mode) && ftruncate(file->fd, 0) < 0))
		return fail(file, -errno);
	file->written = true;
	return dprintf(file->fd, "%ld\n", (long)getpid()) < 0 ? fail(file, -errno) : 0;
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
