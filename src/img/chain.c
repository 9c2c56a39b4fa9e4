/* SPDX-License-Identifier: MIT */
#include "img/chain.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/path.h"
#include "rt/co.h"

/* Opens path if, all links resolved, it lies under dir. */
static int open_under(const char *dir, const char *path, int *ret_fd, struct ox_error **err)
{
	struct open_how how = {.flags = O_RDONLY | O_CLOEXEC, .resolve = RESOLVE_BENEATH};
	char *real_dir = realpath(dir, NULL);
	char *real_path = realpath(path, NULL);
	size_t n = real_dir ? strlen(real_dir) : 0;
	int r = -EACCES;
	long fd = -1;
	int dir_fd;

	if (!real_path) {
		r = ox_error_set_errno(err, -errno, "Could not open backing file '%s'", path);
	} else if (!real_dir || strncmp(real_path, real_dir, n) != 0 || real_path[n] != '/') {
		r = ox_error_set(err, -EACCES, "Backing file '%s' does not lie under '%s'", path,
				 dir);
	} else {
		/* The kernel checks again: a link that is swapped meanwhile leads nowhere. */
		dir_fd = open(real_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (dir_fd >= 0) {
			fd = syscall(SYS_openat2, dir_fd, real_path + n + 1, &how, sizeof(how));
			r = fd < 0 ? -errno : 0;
			close(dir_fd);
		}
		if (fd < 0)
			ox_error_set_errno(err, r, "Could not open backing file '%s'", path);
	}
	free(real_dir);
	free(real_path);
	if (fd >= 0)
		*ret_fd = (int)fd;
	return r;
}

static unsigned store_flags(const struct ox_open_options *opts)
{
	unsigned flags = OX_IO_READ_ONLY;

	if (opts->cache == OX_CACHE_NONE || opts->cache == OX_CACHE_DIRECTSYNC)
		flags |= OX_IO_DIRECT;
	if (opts->flags & OX_OPEN_FORCE_SHARE)
		flags |= OX_IO_FORCE_SHARE;
	return flags;
}

static int open_store(const struct ox_image *img, const struct ox_open_options *opts,
		      const char *path, struct ox_io **ret, struct ox_error **err)
{
	int fd = -1;
	int r;

	if (opts->backing_policy != OX_BACKING_UNDER)
		return ox_io_file_open(img->reactor, path, store_flags(opts), ret, err);
	r = open_under(opts->backing_dir, path, &fd, err);
	if (r < 0)
		return r;
	r = ox_io_file_open_fd(img->reactor, fd, path, store_flags(opts), ret, err);
	if (r < 0)
		close(fd);
	return r;
}

/* An image that bears, directly or not, its own file: found by device and inode, before its locks
 * are asked for. */
static bool closes_loop(const struct ox_img_open *how, const char *path)
{
	struct stat st;
	uint64_t dev;
	uint64_t ino;

	if (stat(path, &st) < 0)
		return false; /* opening it tells why */
	for (const struct ox_img_open *up = how; up; up = up->above) {
		if (ox_io_file_identity(up->io, &dev, &ino) && dev == st.st_dev && ino == st.st_ino)
			return true;
	}
	return false;
}

static int check_policy(const struct ox_image *img, const struct ox_open_options *opts,
			struct ox_error **err)
{
	if (opts->backing_policy == OX_BACKING_DENY)
		return ox_error_set(err, -EACCES,
				    "Image '%s' needs the backing file '%s', which is not allowed "
				    "(see --allow-backing)",
				    img->filename, img->backing_name);
	return 0;
}

static int open_layer_co(struct ox_image *img, const struct ox_img_open *how, struct ox_io *io,
			 const char *format, struct ox_error **err)
{
	struct ox_open_options opts = *how->opts;
	struct ox_img_open below = {
		.opts = &opts,
		.recovery = how->recovery,
		.depth = how->depth + 1,
		.above = how,
		.io = io,
	};

	opts.format = format;
	opts.flags = (opts.flags & ~(unsigned)OX_OPEN_PROBE) | OX_OPEN_READ_ONLY;
	opts.backing_format = NULL;
	return ox_img_open_co(io, &below, &img->backing, err);
}

int ox_chain_open_backing_co(struct ox_image *img, const struct ox_img_open *how,
			     struct ox_error **err)
{
	const char *format = img->backing_format ? img->backing_format : how->opts->backing_format;
	struct ox_io *io = NULL;
	char *path;
	int r;

	if (how->opts->flags & OX_OPEN_NO_BACKING)
		return 0;
	if (ox_co_is_cancelled())
		return ox_error_set(err, -ECANCELED, "The opening was cancelled");
	r = check_policy(img, how->opts, err);
	if (r < 0)
		return r;
	if (how->depth + 1 >= OX_IMG_MAX_CHAIN)
		return ox_error_set(err, -ELOOP, "The backing chain is longer than %d images",
				    OX_IMG_MAX_CHAIN);
	if (!format)
		return ox_error_set(
			err, -EINVAL,
			"Image '%s' does not state the format of its backing file '%s', "
			"and guessing it is not safe: state it with 'qemu-img rebase -u "
			"-F FORMAT -b ...'",
			img->filename, img->backing_name);
	path = ox_path_beside(img->filename, img->backing_name);
	if (!path)
		return ox_error_set(err, -ENOMEM, "Out of memory");
	if (closes_loop(how, path))
		r = ox_error_set(err, -ELOOP, "Backing file '%s' of '%s' makes a loop", path,
				 img->filename);
	else
		r = open_store(img, how->opts, path, &io, err);
	if (r < 0) {
		ox_error_prefix(err, "Could not open backing file: ");
	} else {
		r = open_layer_co(img, how, io, format, err);
		if (r < 0)
			ox_io_close(io);
	}
	free(path);
	return r;
}
