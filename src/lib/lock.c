/* SPDX-License-Identifier: MIT */
/* ox_lock_fd, ox_lock_is_held: the locks of an image for a program that holds them itself. */
#include <errno.h>

#include "io/io.h"
#include "lib/context.h"

/* Each includes the one before, so that a step from one to another only adds or only takes away. */
static struct ox_file_lock locks_of(enum ox_lock lock)
{
	switch (lock) {
	case OX_LOCK_NONE:
		break;
	case OX_LOCK_SHARE:
		return OX_FILE_LOCK_OF_SHARER;
	case OX_LOCK_READ:
		return OX_FILE_LOCK_OF_READER;
	case OX_LOCK_WRITE:
		return OX_FILE_LOCK_OF_WRITER;
	}
	return OX_FILE_LOCK_OF_NOBODY;
}

OX_EXPORT int ox_lock_fd(int fd, const char *name, enum ox_lock have, enum ox_lock want,
			 struct ox_error **err)
{
	if (!name)
		return ox_error_set(err, -EINVAL, "No name of an image was given");
	if ((unsigned)have > OX_LOCK_WRITE || (unsigned)want > OX_LOCK_WRITE)
		return ox_error_set(err, -EINVAL, "There is no lock with the number %d",
				    (unsigned)have > OX_LOCK_WRITE ? (int)have : (int)want);
	return ox_io_file_lock_fd(fd, name, locks_of(have), locks_of(want), err);
}

OX_EXPORT int ox_lock_is_held(int fd, enum ox_lock lock)
{
	if ((unsigned)lock > OX_LOCK_WRITE)
		return -EINVAL;
	return ox_file_lock_is_held(fd, locks_of(lock));
}
