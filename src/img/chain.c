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

#include "base/arith.h"
#include "base/iov.h"
#include "base/path.h"
#include "img/ask.h"
#include "img/probe.h"
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

/* Where the chain goes on: the image that names the next one, and the chain above it. */
struct place {
	const struct ox_image *top;
	const struct ox_image *above;
	unsigned depth;	  /* of the next one */
	const char *path; /* the next one's, beside the image that names it */
	bool is_loop;	  /* it is one of the chain above */
};

/* The image of the chain up to now whose file that is; NULL: none. Found by device and inode,
 * before the file's locks are asked for. */
static const struct ox_image *find_in_chain(const struct place *at, const struct stat *st)
{
	uint64_t dev[2];
	uint64_t ino[2];

	ox_io_file_identity_of(st, &dev[0], &ino[0]);
	for (const struct ox_image *img = at->top;; img = img->backing) {
		if (ox_io_file_identity(img->io, &dev[1], &ino[1]) && dev[0] == dev[1] &&
		    ino[0] == ino[1])
			return img;
		if (img == at->above)
			return NULL;
	}
}

static int refuse_loop(struct place *at, struct ox_error **err)
{
	at->is_loop = true;
	return ox_error_set(err, -ELOOP,
			    "The backing chain is an endless loop: '%s' names '%s', which is one "
			    "of the images above it",
			    at->above->filename, at->path);
}

static int open_by_path(struct place *at, const struct ox_open_options *opts, struct ox_io **ret,
			struct ox_error **err)
{
	struct ox_reactor *reactor = at->above->reactor;
	struct stat st;
	int fd = -1;
	int r;

	/* Where there is nothing to look at, opening it tells why. */
	if (stat(at->path, &st) == 0 && find_in_chain(at, &st))
		return refuse_loop(at, err);
	if (opts->backing_policy != OX_BACKING_UNDER)
		return ox_io_file_open(reactor, at->path, store_flags(opts), ret, err);
	r = open_under(opts->backing_dir, at->path, &fd, err);
	if (r < 0)
		return r;
	r = ox_io_file_open_fd(reactor, fd, at->path, store_flags(opts), ret, err);
	if (r < 0)
		close(fd);
	return r;
}

int ox_chain_open_file(const struct ox_file_wanted *wanted, const struct ox_open_options *opts,
		       struct ox_error **err)
{
	unsigned flags = store_flags(opts);
	int fd = -1;
	int r;

	if (!wanted->read_only)
		flags &= ~(unsigned)(OX_IO_READ_ONLY | OX_IO_FORCE_SHARE);
	if (wanted->depth > 0 && opts->backing_policy == OX_BACKING_DENY)
		return ox_error_set(err, -EACCES, "The backing policy does not allow '%s'",
				    wanted->path);
	if (wanted->depth == 0 || opts->backing_policy != OX_BACKING_UNDER)
		return ox_io_file_open_path(wanted->path, flags, err);
	r = open_under(opts->backing_dir, wanted->path, &fd, err);
	return r < 0 ? r : fd;
}

/* The policy as far as names alone tell: where a link leads, only who opens the file can see. */
static int check_place(const struct place *at, const struct ox_open_options *opts,
		       struct ox_error **err)
{
	int r = 0;

	if (opts->backing_policy == OX_BACKING_UNDER)
		r = ox_path_is_under(opts->backing_dir, at->path);
	if (r < 0)
		return ox_error_set(err, r, "Out of memory");
	if (opts->backing_policy == OX_BACKING_UNDER && r == 0)
		return ox_error_set(err, -EACCES, "Backing file '%s' does not lie under '%s'",
				    at->path, opts->backing_dir);
	return 0;
}

/* The same by a descriptor that the program is asked for. Nothing is done by path. */
static int open_by_asking(struct place *at, const struct ox_open_options *opts, struct ox_io **ret,
			  struct ox_error **err)
{
	const struct ox_file_wanted wanted = {
		.name = at->above->backing_name,
		.path = at->path,
		.named_by = at->above->filename,
		.depth = at->depth,
		.read_only = true,
	};
	const struct ox_image *same = NULL;
	struct stat st;
	int r = check_place(at, opts, err);
	int fd;

	if (r < 0)
		return r;
	fd = ox_ask_for_file(opts, &wanted, err);
	if (fd < 0)
		return fd;
	if (fstat(fd, &st) == 0)
		same = find_in_chain(at, &st);
	r = same ? refuse_loop(at, err)
		 : ox_io_file_open_fd(at->above->reactor, fd, at->path,
				      store_flags(opts) | ox_ask_store_flags(opts), ret, err);
	/* A descriptor that was handed over twice is closed with the image that got it first. */
	if (r < 0 && !(same && ox_io_file_has_fd(same->io, fd)))
		close(fd);
	return r;
}

static int check_policy(const struct ox_image *img, const struct ox_open_options *opts,
			struct ox_error **err)
{
	if (opts->backing_policy == OX_BACKING_DENY)
		return ox_error_set(err, -EACCES,
				    "Image '%s' needs the backing file '%s', and the backing "
				    "policy allows none (--allow-backing)",
				    img->filename, img->backing_name);
	return 0;
}

static int refuse_unstated(const struct ox_image *img, struct ox_error **err)
{
	if (img->backing_format_unsayable)
		return ox_error_set(err, -EINVAL,
				    "Image '%s' is of a format that cannot state the format of its "
				    "backing file '%s', and guessing it is not safe: state it "
				    "(--backing-format, or backing.driver=)",
				    img->filename, img->backing_name);
	return ox_error_set(err, -EINVAL,
			    "Image '%s' does not state the format of its backing file '%s', and "
			    "guessing it is not safe: state it with 'qemu-img rebase -u -F FORMAT "
			    "-b ...'",
			    img->filename, img->backing_name);
}

/*
 * The format that is stated for the image's backing file, by the image or the caller. The caller's
 * word holds for the backing file of the image at the top, and where nothing else helps for those
 * of images below that have no place for it. NULL with 0: its own bytes are to tell it.
 */
static int stated_format(const struct ox_image *top, const struct ox_image *img,
			 const struct ox_open_options *opts, const char **ret_format,
			 struct ox_error **err)
{
	bool probes = img->backing_format_unsayable && (opts->flags & OX_OPEN_PROBE);

	*ret_format = img->backing_format;
	if (!*ret_format && (img == top || (img->backing_format_unsayable && !probes)))
		*ret_format = opts->backing_format;
	return *ret_format || probes ? 0 : refuse_unstated(img, err);
}

/* The format of a backing file whose image says no more than that it is not raw: what its own bytes
 * tell, and never raw, whose guest may have written them. */
static int probe_co(struct ox_image *above, struct ox_io *io, const char **ret_format,
		    struct ox_error **err)
{
	int r = ox_img_probe_co(io, ret_format, err);

	if (r == 0 && strcmp(*ret_format, "raw") == 0)
		r = refuse_unstated(above, err);
	return r;
}

static int open_image_co(struct ox_image *above, const struct ox_img_open *how, struct ox_io *io,
			 const char *format, struct ox_error **err)
{
	struct ox_open_options opts = *how->opts;
	struct ox_img_open below = {.opts = &opts, .recovery = how->recovery};
	int r = format ? 0 : probe_co(above, io, &format, err);

	if (r < 0)
		return r;
	opts.format = format;
	opts.flags &= ~(unsigned)(OX_OPEN_PROBE | OX_OPEN_URI);
	opts.flags |= OX_OPEN_READ_ONLY;
	opts.snapshot = opts.snapshot_id = opts.snapshot_name = NULL;
	return ox_chain_open_image_co(io, &below, &above->backing, err);
}

/* "nbd://host", "json:{...}": what QEMU follows, and what is no more than a strange path here. */
static bool looks_like_protocol(const char *name)
{
	const size_t length = strcspn(name, ":/");

	return length > 0 && name[length] == ':';
}

/* Opens the image that the last one of top's chain up to now names, which is so deep. */
static int open_backing_co(struct ox_image *top, struct ox_image *above, unsigned depth,
			   const struct ox_img_open *how, const char *format, struct ox_error **err)
{
	char *path = above->io->is_remote ? strdup(above->backing_name)
					  : ox_path_beside(above->filename, above->backing_name);
	struct place at = {.top = top, .above = above, .depth = depth, .path = path};
	struct ox_io *io = NULL;
	int r;

	if (!path)
		return ox_error_set(err, -ENOMEM, "Out of memory");
	if (above->io->is_remote && *path != '/') {
		free(path);
		return ox_error_set(err, -EINVAL,
				    "Could not open backing file: its name '%s' is relative, and "
				    "leads nowhere from '%s'",
				    above->backing_name, above->filename);
	}
	r = how->opts->open_file ? open_by_asking(&at, how->opts, &io, err)
				 : open_by_path(&at, how->opts, &io, err);
	if (r == 0) {
		r = open_image_co(above, how, io, format, err);
		if (r < 0)
			ox_io_close(io);
	} else if (!at.is_loop && r == -ENOENT && looks_like_protocol(above->backing_name)) {
		ox_error_prefix(err, "Could not open backing file, whose name is taken for a path "
				     "as each name in an image is: ");
	} else if (!at.is_loop) {
		ox_error_prefix(err, "Could not open backing file: ");
	}
	free(path);
	return r;
}

int ox_chain_open_co(struct ox_image *img, const struct ox_img_open *how, struct ox_error **err)
{
	unsigned depth = 0;
	int r = 0;

	if (how->opts->flags & OX_OPEN_NO_BACKING)
		return 0;
	for (struct ox_image *last = img; last->backing_name; last = last->backing) {
		const char *format;

		if (ox_co_is_cancelled())
			return ox_error_set(err, -ECANCELED, "The opening was cancelled");
		r = check_policy(last, how->opts, err);
		if (r < 0)
			return r;
		if (++depth >= OX_IMG_MAX_CHAIN)
			return ox_error_set(err, -ELOOP,
					    "The backing chain is longer than %d images",
					    OX_IMG_MAX_CHAIN);
		r = stated_format(img, last, how->opts, &format, err);
		if (r == 0)
			r = open_backing_co(img, last, depth, how, format, err);
		if (r < 0)
			return r;
	}
	return 0;
}

int ox_chain_open_other_co(const struct ox_image *img, const char *name, const char *format,
			   const struct ox_img_open *how, struct ox_image **ret,
			   struct ox_error **err)
{
	/* All that is looked at of an image at the top: where it is, and what it names. */
	struct ox_image top = {
		.reactor = img->reactor,
		.io = img->io,
		.filename = img->filename,
		.backing_name = strdup(name),
		.backing_format = format ? strdup(format) : NULL,
		.backing_format_unsayable = !format,
	};
	int r = -ENOMEM;

	if (top.backing_name && (!format || top.backing_format))
		r = ox_chain_open_co(&top, how, err);
	else
		ox_error_set(err, r, "Out of memory");
	free(top.backing_name);
	free(top.backing_format);
	if (r == 0)
		*ret = top.backing;
	else
		ox_chain_free_co(top.backing);
	return r;
}

void ox_chain_free_co(struct ox_image *first)
{
	struct ox_image *next;

	for (; first; first = next) {
		next = first->backing;
		ox_chain_free_image(first); /* read-only: nothing to lose */
	}
}

void ox_chain_close_co(struct ox_image *img)
{
	ox_chain_free_co(img->backing);
	img->backing = NULL;
}

/* The beginning of the range, from whichever image has it. *length becomes what was read. */
static int read_part_co(struct ox_image *img, const struct iovec *iov, int n, uint64_t skip,
			uint64_t offset, uint64_t *length)
{
	bool is_below = true;
	int r;

	for (; img; img = img->backing) {
		if (offset >= img->size_bytes) {
			ox_iov_zero(iov, n, skip, *length);
			return 0;
		}
		*length = ox_min_u64(*length, img->size_bytes - offset);
		r = img->ops->read_part_co(img, iov, n, skip, offset, length, &is_below);
		if (r < 0 || !is_below)
			return r;
	}
	return -EIO; /* the chain was left closed, and must not read as if it ended here */
}

int ox_chain_read_co(struct ox_image *img, const struct iovec *iov, int n, uint64_t skip,
		     uint64_t offset, uint64_t length)
{
	while (length > 0) {
		uint64_t part = length;
		int r = read_part_co(img, iov, n, skip, offset, &part);

		/* Nothing is written to a backing file, whatever its entries name. */
		if (r < 0)
			return r == -EUCLEAN ? -EIO : r;
		skip += part;
		offset += part;
		length -= part;
	}
	return 0;
}
