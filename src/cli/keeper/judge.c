/* SPDX-License-Identifier: MIT */
/* The opener's judgement of what a service manager has stored: its files are adopted only if their
 * locks were never let go, and if they are what the command names. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/cli.h"
#include "cli/keeper/kept.h"

static int refuse(const char *image, const char *why)
{
	ox_cli_error("What the last server left with the service manager is not adopted: %s: '%s' "
		     "is opened as after a power cut",
		     why, image);
	return -ENOTRECOVERABLE;
}

/* Also where the file system has no locks: who wrote meanwhile is not known. */
static int judge_locks(const struct ox_kept *kept, const char *image,
		       const struct ox_open_options *options)
{
	for (unsigned i = 0; i < kept->locked_count; i++) {
		enum ox_lock lock = ox_kept_lock_at(options, i);

		if (ox_lock_is_held(kept->locked[i], lock) != 1 ||
		    ox_lock_fd(kept->locked[i], image, OX_LOCK_NONE, lock, NULL) < 0)
			return refuse(image, "its locks are not unbroken");
	}
	return 0;
}

int ox_kept_judge(const struct ox_kept *kept, const char *image,
		  const struct ox_open_options *options)
{
	struct stat stored;
	struct stat named;
	int ret = kept->given >= 0 ? fstat(kept->given, &named) : stat(image, &named);

	if (ret < 0) {
		ret = -errno;
		ox_cli_error("Could not open '%s': %s", image, strerror(-ret));
		return ret;
	}
	if (fstat(kept->locked[0], &stored) < 0 || stored.st_dev != named.st_dev ||
	    stored.st_ino != named.st_ino || stored.st_rdev != named.st_rdev)
		return refuse(image, "it is of another file");
	return judge_locks(kept, image, options);
}
