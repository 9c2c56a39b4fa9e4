/* SPDX-License-Identifier: MIT */
/*
 * A part of a store as a store of its own: an image that lies somewhere in a file, such as in an
 * archive or in a partition. From offset on, as far as the file goes (then it may grow), or for a
 * stated length (then it cannot). The store below has the locks, and any alignment that it asks for
 * is its own affair.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/assert.h"
#include "base/iov.h"
#include "io/io.h"

#define SECTOR_BYTES 512u

/* What is let go of at a time. */
#define RANGES_A_TIME 32

struct window_store {
	struct ox_io io;
	struct ox_io *below; /* owned */
	uint64_t offset;
	bool is_fixed;
};

static struct window_store *window_of(const struct ox_io *io)
{
	return ox_container_of(io, struct window_store, io);
}

static int64_t window_preadv_co(struct ox_io *io, const struct iovec *iov, int n, uint64_t offset)
{
	const struct window_store *w = window_of(io);
	uint64_t length = ox_iov_bytes(iov, n);
	int r;

	if (offset >= io->length)
		return 0;
	length = ox_min_u64(length, io->length - offset);
	r = ox_io_preadv_part_co(w->below, iov, n, 0, length, w->offset + offset);
	return r < 0 ? r : (int64_t)length;
}

static int64_t window_pwritev_co(struct ox_io *io, const struct iovec *iov, int n, uint64_t offset,
				 unsigned flags)
{
	const struct window_store *w = window_of(io);
	uint64_t length = ox_iov_bytes(iov, n);
	int r;

	if (!io->can_grow && !ox_range_within(offset, length, io->length))
		return -ENOSPC;
	r = ox_io_pwritev_co(w->below, iov, n, w->offset + offset, flags);
	return r < 0 ? r : (int64_t)length;
}

static int window_sync_co(struct ox_io *io)
{
	return ox_io_sync_co(window_of(io)->below);
}

static int window_sync_by_co(struct ox_io *io, int fd)
{
	struct ox_io *below = window_of(io)->below;

	return below->ops->sync_by_co ? below->ops->sync_by_co(below, fd) : -EOPNOTSUPP;
}

/* The range calls of the store below take any alignment; those past a fixed end are no request. */
static int range_co(struct ox_io *io, uint64_t offset, uint64_t length,
		    int (*below_co)(struct ox_io *io, uint64_t offset, uint64_t length))
{
	const struct window_store *w = window_of(io);

	if (!io->can_grow && !ox_range_within(offset, length, io->length))
		return -ENOSPC;
	return below_co(w->below, w->offset + offset, length);
}

static int window_punch_co(struct ox_io *io, uint64_t offset, uint64_t length)
{
	return range_co(io, offset, length, ox_io_punch_co);
}

static int window_zero_co(struct ox_io *io, uint64_t offset, uint64_t length)
{
	return range_co(io, offset, length, ox_io_zero_co);
}

static int window_trim_co(struct ox_io *io, uint64_t offset, uint64_t length)
{
	return range_co(io, offset, length, ox_io_trim_co);
}

static int window_reserve_co(struct ox_io *io, uint64_t offset, uint64_t length)
{
	return range_co(io, offset, length, ox_io_reserve_co);
}

static int window_set_length_co(struct ox_io *io, uint64_t length)
{
	const struct window_store *w = window_of(io);

	return length > INT64_MAX - w->offset ? -EFBIG
					      : ox_io_set_length_co(w->below, w->offset + length);
}

/* Past the end there are zeroes without one, whatever the file has behind the window. */
static bool is_past_end(const struct ox_io *io, uint64_t offset, struct ox_io_extent *ret)
{
	if (offset < io->length)
		return false;
	*ret = (struct ox_io_extent){.length = UINT64_MAX - offset, .zero = true};
	return true;
}

static int window_extents_co(struct ox_io *io, uint64_t offset, uint64_t limit,
			     struct ox_io_extent *ret, int max)
{
	const struct window_store *w = window_of(io);
	uint64_t left;
	int r;

	if (is_past_end(io, offset, ret))
		return 1;
	left = io->length - offset;
	r = ox_io_extents_co(w->below, w->offset + offset, ox_min_u64(limit, left), ret, max);
	for (int i = 0; i < r; i++) {
		if (ret[i].length >= left) {
			ret[i].length = left;
			return i + 1;
		}
		left -= ret[i].length;
	}
	return r;
}

static int window_extent_co(struct ox_io *io, uint64_t offset, struct ox_io_extent *ret)
{
	const struct window_store *w = window_of(io);
	int r;

	if (is_past_end(io, offset, ret))
		return 0;
	r = ox_io_extent_co(w->below, w->offset + offset, ret);
	if (r == 0)
		ret->length = ox_min_u64(ret->length, io->length - offset);
	return r;
}

static int window_measure_co(struct ox_io *io, uint64_t *ret_length)
{
	const struct window_store *w = window_of(io);

	if (!w->is_fixed)
		ox_io_has_grown_co(w->below);
	*ret_length = w->is_fixed || w->below->length < w->offset ? io->length
								  : w->below->length - w->offset;
	return 0;
}

static int window_actual_bytes(const struct ox_io *io, uint64_t *ret)
{
	return ox_io_actual_bytes(window_of(io)->below, ret);
}

static bool window_read_cached(const struct ox_io *io, void *buf, size_t count, uint64_t offset)
{
	const struct window_store *w = window_of(io);

	return ox_range_within(offset, count, io->length) &&
	       ox_io_read_cached(w->below, buf, count, w->offset + offset);
}

static int window_let_go_co(struct ox_io *io, const struct ox_io_range *ranges, int count,
			    unsigned how)
{
	const struct window_store *w = window_of(io);
	struct ox_io_range shifted[RANGES_A_TIME];
	int r = 0;

	for (int at = 0; r == 0 && at < count; at += RANGES_A_TIME) {
		int n = count - at < RANGES_A_TIME ? count - at : RANGES_A_TIME;

		for (int i = 0; i < n; i++)
			shifted[i] = (struct ox_io_range){ranges[at + i].start + w->offset,
							  ranges[at + i].end + w->offset};
		r = ox_io_let_go_co(w->below, shifted, n, how);
	}
	return r;
}

/* A sector of the image that lies in two of the medium is not written as a whole (M2). */
static int check_writable(uint64_t offset, struct ox_error **err)
{
	return offset % SECTOR_BYTES == 0
		       ? 0
		       : ox_error_set(err, -EINVAL,
				      "What begins within a sector of its file (at byte %" PRIu64
				      ") can be opened read-only alone",
				      offset);
}

static int window_reopen(struct ox_io *io, bool read_only, struct ox_error **err)
{
	int r = read_only ? 0 : check_writable(window_of(io)->offset, err);

	if (r == 0)
		r = ox_io_reopen(window_of(io)->below, read_only, err);
	if (r == 0)
		io->read_only = read_only;
	return r;
}

static void window_close(struct ox_io *io)
{
	struct window_store *w = window_of(io);

	ox_io_close(w->below);
	free(w->io.name);
	free(w);
}

static const struct ox_io_ops window_ops = {
	.name = "window",
	.preadv_co = window_preadv_co,
	.pwritev_co = window_pwritev_co,
	.sync_co = window_sync_co,
	.sync_by_co = window_sync_by_co,
	.punch_co = window_punch_co,
	.zero_co = window_zero_co,
	.trim_co = window_trim_co,
	.reserve_co = window_reserve_co,
	.set_length_co = window_set_length_co,
	.extent_co = window_extent_co,
	.extents_co = window_extents_co,
	.measure_co = window_measure_co,
	.actual_bytes = window_actual_bytes,
	.read_cached = window_read_cached,
	.let_go_co = window_let_go_co,
	.reopen = window_reopen,
	.close = window_close,
};

const struct ox_io *ox_io_below_window(const struct ox_io *io)
{
	while (io->ops == &window_ops)
		io = window_of(io)->below;
	return io;
}

uint64_t ox_io_window_offset(const struct ox_io *io)
{
	uint64_t offset = 0;

	for (; io->ops == &window_ops; io = window_of(io)->below)
		offset += window_of(io)->offset;
	return offset;
}

bool ox_io_window_is_fixed(const struct ox_io *io)
{
	return io->ops == &window_ops && window_of(io)->is_fixed;
}

static int check_place(const struct ox_io *below, uint64_t offset, uint64_t length,
		       struct ox_error **err)
{
	if (offset > below->length)
		return ox_error_set(err, -EINVAL,
				    "Offset (%" PRIu64 ") cannot be greater than size of the "
				    "containing file (%" PRIu64 ")",
				    offset, below->length);
	if (length > below->length - offset)
		return ox_error_set(err, -EINVAL,
				    "The sum of offset (%" PRIu64 ") and size (%" PRIu64 ") has to "
				    "be smaller or equal to the actual size of the containing "
				    "file (%" PRIu64 ")",
				    offset, length, below->length);
	return 0;
}

int ox_io_window_open(struct ox_io *below, uint64_t offset, uint64_t length, struct ox_io **ret,
		      struct ox_error **err)
{
	struct window_store *w;
	int r = check_place(below, offset, length, err);

	if (r == 0 && !below->read_only)
		r = check_writable(offset, err);
	if (r < 0)
		return r;
	w = calloc(1, sizeof(*w));
	if (!w)
		return ox_error_set(err, -ENOMEM, "Out of memory");
	w->below = below;
	w->offset = offset;
	w->is_fixed = length > 0;
	w->io = (struct ox_io){
		.ops = &window_ops,
		.reactor = below->reactor,
		.name = strdup(below->name),
		.length = w->is_fixed ? length : below->length - offset,
		.align_bytes = 1,
		/* Where the pieces are cut elsewhere, only what is not zero surely has space. */
		.space_bytes =
			below->space_bytes && offset % below->space_bytes ? 1 : below->space_bytes,
		.read_only = below->read_only,
		.can_grow = below->can_grow && !w->is_fixed,
		.is_remote = below->is_remote,
		.device = below->device,
		.inode = below->inode,
	};
	if (!w->io.name) {
		free(w);
		return ox_error_set(err, -ENOMEM, "Out of memory");
	}
	ox_rangelock_init(&w->io.rmw);
	*ret = &w->io;
	return 0;
}
