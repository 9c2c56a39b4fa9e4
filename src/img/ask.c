/* SPDX-License-Identifier: MIT */
#include "img/ask.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/assert.h"
#include "io/io.h"

enum {
	ERRNO_MAX = 4095,
};

/* The descriptor must not outlive an exec of the program that does not know of it. */
static int own(int fd, const char *path, struct ox_error **err)
{
	int flags = fcntl(fd, F_GETFD);
	int r = flags < 0 || fcntl(fd, F_SETFD, flags | FD_CLOEXEC) < 0 ? -errno : 0;

	if (r == 0)
		return fd;
	/* Nothing is closed: there is nothing, or soon something of another thread's. */
	return ox_error_set_errno(err, r, "'%s' was answered with descriptor %d", path, fd);
}

int ox_ask_for_file(const struct ox_open_options *opts, const struct ox_file_wanted *wanted,
		    struct ox_error **err)
{
	int fd;

	ox_assert(opts->open_file);
	fd = opts->open_file(opts->opaque, wanted);
	if (fd >= 0)
		return own(fd, wanted->path, err);
	if (fd < -ERRNO_MAX)
		fd = -EIO;
	return ox_error_set_errno(err, fd, "Could not open '%s'", wanted->path);
}

unsigned ox_ask_store_flags(const struct ox_open_options *opts)
{
	unsigned flags = 0;

	if (opts->flags & OX_OPEN_LOCKS_HELD)
		flags |= OX_IO_NO_LOCK;
	if (opts->open_file)
		flags |= OX_IO_OPEN_NOTHING;
	return flags;
}
