/* SPDX-License-Identifier: MIT */
/*
 * The opener. It alone opens paths, among them those that an image names, and it may hang over
 * them. It reads the images of the chain for their backing files' names, under the same policy and
 * with the same words as a server without a keeper, and writes nothing.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/keeper/kept.h"
#include "cli/keeper/wire.h"

struct opening {
	struct ox_kept *kept;
	const struct ox_open_options *options; /* as the worker will have them */
	struct ox_error *error;		       /* why a file could not be handed to the library */
	unsigned error_depth;
};

static bool is_writer(const struct ox_open_options *options)
{
	return !(options->flags & OX_OPEN_READ_ONLY);
}

/* ---- the chain, opened and locked ---- */

enum ox_lock ox_kept_lock_of(const struct ox_open_options *options)
{
	if (options->flags & OX_OPEN_FORCE_SHARE)
		return OX_LOCK_SHARE;
	return is_writer(options) ? OX_LOCK_WRITE : OX_LOCK_READ;
}

enum ox_lock ox_kept_lock_at(const struct ox_open_options *options, unsigned depth)
{
	enum ox_lock lock = ox_kept_lock_of(options);

	return depth > 0 && lock == OX_LOCK_WRITE ? OX_LOCK_READ : lock;
}

/* A chain that is a loop is refused by the library, and is not in its own way before. */
static bool is_in_chain(const struct ox_kept *kept, int fd)
{
	struct stat st;
	struct stat other;

	if (fstat(fd, &st) < 0)
		return false;
	for (unsigned i = 0; i < kept->locked_count; i++)
		if (fstat(kept->locked[i], &other) == 0 && other.st_dev == st.st_dev &&
		    other.st_ino == st.st_ino && other.st_rdev == st.st_rdev)
			return true;
	return false;
}

static int open_one(struct opening *opening, const struct ox_file_wanted *wanted)
{
	struct ox_file_wanted own = *wanted;

	if (wanted->depth == 0 && opening->kept->given >= 0)
		return opening->kept->given;
	own.read_only = wanted->depth > 0 || !is_writer(opening->options);
	return ox_open_wanted(&own, opening->options, &opening->error);
}

/* For the library, which gets a duplicate. */
static int open_and_lock(void *opaque, const struct ox_file_wanted *wanted)
{
	struct opening *opening = opaque;
	struct ox_kept *kept = opening->kept;
	int fd;
	int ret;

	opening->error_depth = wanted->depth;
	if (wanted->depth != kept->locked_count || wanted->depth == OX_KEPT_CHAIN_MAX)
		return -EINVAL;
	fd = open_one(opening, wanted);
	if (fd < 0)
		return fd;
	if (is_in_chain(kept, fd))
		return fd;
	ret = ox_lock_fd(fd, wanted->path, OX_LOCK_NONE,
			 ox_kept_lock_at(opening->options, wanted->depth), &opening->error);
	if (ret < 0) {
		close(fd);
		return ret;
	}
	kept->locked[kept->locked_count] = fd;
	kept->paths[kept->locked_count] = strdup(wanted->path);
	if (!kept->paths[kept->locked_count++])
		return -ENOMEM;
	ret = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	return ret < 0 ? -errno : ret;
}

static void tell_failure(const struct opening *opening, const char *image,
			 const struct ox_error *error)
{
	const char *prefix = opening->error_depth > 0 ? "Could not open backing file: " : "";
	const char *said = opening->kept->said ? opening->kept->said() : "";

	if (opening->error)
		ox_cli_error("%s '%s': %s%s", ox_called_could_not_open(), image, prefix,
			     ox_error_message(opening->error));
	else
		ox_cli_error("%s '%s': %s%s%s", ox_called_could_not_open(), image,
			     ox_error_message(error), *said ? ": " : "", said);
}

/* The library reads the chain; which files that takes is all that is wanted of it. */
static int open_chain(struct opening *opening, const char *image)
{
	struct ox_open_options options = *opening->options;
	struct ox_error *error = NULL;
	struct ox_context *ctx;
	struct ox_image *opened;
	int ret = ox_cli_context_new(OX_ENGINE_DEFAULT, &ctx);

	if (ret < 0)
		return ret;
	options.flags |= OX_OPEN_READ_ONLY | OX_OPEN_LOCKS_HELD;
	if (options.backing_policy == OX_BACKING_UNDER)
		options.backing_policy = OX_BACKING_ALLOW; /* ox_open_wanted sees to it */
	options.open_file = open_and_lock;
	options.warn = NULL; /* the worker warns */
	options.progress = NULL;
	options.opaque = opening;
	ret = ox_image_open(ctx, opening->kept->uri ? opening->kept->uri : image, &options, &opened,
			    &error);
	if (ret == 0)
		ret = ox_image_close(opened, &error);
	if (ret < 0)
		tell_failure(opening, image, error);
	ox_error_free(error);
	ox_error_free(opening->error);
	ox_context_free(ctx);
	return ret;
}

/* ---- fresh descriptions of what is open ---- */

/* Of the same file, whatever has become of its name, and no more than the old one allows. */
static int open_again(int fd)
{
	int mode = fcntl(fd, F_GETFL);
	char path[32];
	int fresh;

	if (mode < 0)
		return -errno;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	fresh = open(path, (mode & O_ACCMODE) | O_CLOEXEC | O_NOCTTY);
	return fresh < 0 ? -errno : fresh;
}

static int freshen(struct ox_kept *kept, int *ret_witnesses, unsigned witnesses)
{
	for (unsigned i = 0; i < kept->locked_count; i++) {
		int fd = open_again(kept->locked[i]);

		if (fd < 0)
			return fd;
		kept->fresh[kept->fresh_count++] = fd;
	}
	for (unsigned i = 0; i < witnesses; i++) {
		ret_witnesses[i] = open_again(kept->locked[0]);
		if (ret_witnesses[i] < 0)
			return ret_witnesses[i];
	}
	return 0;
}

static int hand_over(const struct ox_kept *kept, bool with_locked, const int *witnesses,
		     unsigned witness_count)
{
	int ret = 0;

	if (with_locked)
		ret = ox_wire_send_list(kept->socket, OX_WIRE_LOCKED, kept->locked,
					kept->locked_count);
	if (ret == 0)
		ret = ox_wire_send_list(kept->socket, OX_WIRE_FRESH, kept->fresh,
					kept->fresh_count);
	if (ret == 0 && witness_count > 0)
		ret = ox_wire_send(kept->socket, OX_WIRE_WITNESS, 0, witnesses, witness_count);
	return ret;
}

int ox_kept_lock_chain(struct ox_kept *kept, const char *image,
		       const struct ox_open_options *options)
{
	struct opening opening = {.kept = kept, .options = options};

	if (options->flags & OX_OPEN_URI) /* nobody is asked for it */
		kept->locked[kept->locked_count++] = -1;
	return open_chain(&opening, image);
}

int ox_kept_open(struct ox_kept *kept, const char *image, const struct ox_open_options *options)
{
	unsigned witness_count = is_writer(options) ? OX_KEPT_WITNESSES : 0;
	bool first = kept->locked_count == 0;
	int witnesses[OX_KEPT_WITNESSES];
	int ret = 0;

	if (first)
		ret = ox_kept_lock_chain(kept, image, options);
	else if (kept->is_stored)
		ret = ox_kept_judge(kept, image, options);
	if (ret < 0)
		return ret;
	ret = freshen(kept, witnesses, witness_count);
	if (ret < 0) {
		ox_cli_error("Could not open '%s' anew through /proc/self/fd: %s; serve with "
			     "--no-keeper",
			     image, strerror(-ret));
		return ret;
	}
	ret = hand_over(kept, first, witnesses, witness_count);
	if (ret < 0)
		ox_cli_error("Could not hand '%s' over: %s", image, strerror(-ret));
	return ret;
}
