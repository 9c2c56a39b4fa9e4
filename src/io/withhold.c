/* SPDX-License-Identifier: MIT */
#include "io/withhold.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/assert.h"
#include "base/iov.h"

#define SECTOR_BYTES 512u

struct withhold_store {
	struct ox_io io;
	struct ox_withheld *w;
};

static struct ox_withheld *held(const struct ox_io *io)
{
	return ox_container_of(io, struct withhold_store, io)->w;
}

/* How many of the bytes from offset on lie in memory. */
static uint64_t held_part(const struct ox_withheld *w, uint64_t offset, uint64_t length)
{
	return offset < w->length ? ox_min_u64(length, w->length - offset) : 0;
}

static int64_t withhold_preadv_co(struct ox_io *io, const struct iovec *iov, int n, uint64_t offset)
{
	struct ox_withheld *w = held(io);
	uint64_t length = ox_iov_bytes(iov, n);
	uint64_t part = held_part(w, offset, length);
	int r = 0;

	if (offset >= io->length)
		return 0;
	length = ox_min_u64(length, io->length - offset);
	if (part > 0)
		ox_iov_from_buf(iov, n, 0, w->bytes + offset, part);
	if (length > part)
		r = ox_io_preadv_part_co(w->below, iov, n, part, length - part, offset + part);
	return r < 0 ? r : (int64_t)ox_max_u64(length, part);
}

static bool withhold_read_cached(const struct ox_io *io, void *buf, size_t count, uint64_t offset)
{
	const struct ox_withheld *w = held(io);

	return held_part(w, offset, count) == 0 && ox_io_read_cached(w->below, buf, count, offset);
}

static int64_t withhold_pwritev_co(struct ox_io *io, const struct iovec *iov, int n,
				   uint64_t offset, unsigned flags)
{
	struct ox_withheld *w = held(io);
	uint64_t length = ox_iov_bytes(iov, n);
	uint64_t part = held_part(w, offset, length);
	struct ox_iov rest;
	int r;

	if (part > 0) {
		ox_iov_to_buf(iov, n, 0, w->bytes + offset, part);
		w->changed = true;
	}
	if (length > part) {
		r = ox_iov_cut(&rest, iov, n, part, length - part);
		if (r < 0)
			return r;
		r = ox_io_pwritev_co(w->below, rest.v, rest.n, offset + part,
				     w->skip_syncs ? flags & ~(unsigned)OX_IO_FUA : flags);
		ox_iov_free(&rest);
		if (r < 0)
			return r;
	}
	/* A file that the bytes in memory alone lie in is as long as they say. */
	if (io->can_grow && offset + length > w->below->length) {
		r = ox_io_set_length_co(w->below, offset + length);
		if (r < 0)
			return r;
	}
	if (part > 0 && (flags & OX_IO_FUA)) {
		r = io->ops->sync_co(io);
		if (r < 0)
			return r;
	}
	return (int64_t)length;
}

static int withhold_sync_co(struct ox_io *io)
{
	struct ox_withheld *w = held(io);
	bool changed = w->changed;
	int r;

	if (w->skip_syncs)
		return 0;
	r = ox_io_sync_co(w->below);
	if (r < 0 || !changed || !w->keep_co)
		return r;
	w->changed = false;
	r = w->keep_co(w->opaque);
	if (r < 0)
		w->changed = true;
	return r;
}

static int zero_co(struct ox_io *io, uint64_t offset, uint64_t length,
		   int (*below_co)(struct ox_io *io, uint64_t offset, uint64_t length))
{
	struct ox_withheld *w = held(io);
	uint64_t part = held_part(w, offset, length);

	if (part > 0) {
		memset(w->bytes + offset, 0, part);
		w->changed = true;
	}
	return length > part ? below_co(w->below, offset + part, length - part) : 0;
}

static int withhold_punch_co(struct ox_io *io, uint64_t offset, uint64_t length)
{
	return zero_co(io, offset, length, ox_io_punch_co);
}

static int withhold_zero_co(struct ox_io *io, uint64_t offset, uint64_t length)
{
	return zero_co(io, offset, length, ox_io_zero_co);
}

static int withhold_reserve_co(struct ox_io *io, uint64_t offset, uint64_t length)
{
	return ox_io_reserve_co(held(io)->below, offset, length);
}

static int withhold_set_length_co(struct ox_io *io, uint64_t length)
{
	struct ox_withheld *w = held(io);
	int r = ox_io_set_length_co(w->below, length);

	if (r == 0 && length < w->length) {
		memset(w->bytes + length, 0, w->length - length);
		w->changed = true;
	}
	return r;
}

static int withhold_extent_co(struct ox_io *io, uint64_t offset, struct ox_io_extent *ret)
{
	const struct ox_withheld *w = held(io);

	if (offset >= w->length)
		return ox_io_extent_co(w->below, offset, ret);
	*ret = (struct ox_io_extent){.length = w->length - offset};
	return 0;
}

static int withhold_actual_bytes(const struct ox_io *io, uint64_t *ret)
{
	return ox_io_actual_bytes(held(io)->below, ret);
}

static int withhold_let_go_co(struct ox_io *io, const struct ox_io_range *ranges, int count,
			      unsigned how)
{
	return ox_io_let_go_co(held(io)->below, ranges, count, how);
}

static void withhold_close(struct ox_io *io)
{
	struct withhold_store *s = ox_container_of(io, struct withhold_store, io);

	free(s->io.name);
	free(s);
}

static const struct ox_io_ops withhold_ops = {
	.name = "withhold",
	.preadv_co = withhold_preadv_co,
	.pwritev_co = withhold_pwritev_co,
	.sync_co = withhold_sync_co,
	.punch_co = withhold_punch_co,
	.zero_co = withhold_zero_co,
	.reserve_co = withhold_reserve_co,
	.set_length_co = withhold_set_length_co,
	.extent_co = withhold_extent_co,
	.read_cached = withhold_read_cached,
	.actual_bytes = withhold_actual_bytes,
	.let_go_co = withhold_let_go_co,
	.close = withhold_close,
};

int ox_withhold_open(struct ox_withheld *w, struct ox_io **ret)
{
	struct withhold_store *s = calloc(1, sizeof(*s));
	const struct ox_io *below = w->below;

	ox_assert(w->length <= OX_WITHHOLD_BYTES && w->length % below->align_bytes == 0);
	if (!s)
		return -ENOMEM;
	s->w = w;
	s->io = (struct ox_io){
		.ops = &withhold_ops,
		.reactor = below->reactor,
		.name = strdup(below->name),
		.length = below->length,
		.align_bytes = below->align_bytes,
		.mem_align_bytes = below->mem_align_bytes,
		.zero_align_bytes = below->zero_align_bytes,
		.space_bytes = below->space_bytes,
		.can_grow = below->can_grow,
		.device = below->device,
		.inode = below->inode,
	};
	if (!s->io.name) {
		free(s);
		return -ENOMEM;
	}
	ox_rangelock_init(&s->io.rmw);
	*ret = &s->io;
	return 0;
}

static int write_held_co(const struct ox_withheld *w, uint32_t from, uint32_t to)
{
	return from < to ? ox_io_pwrite_co(w->below, w->bytes + from, to - from, from, 0) : 0;
}

int ox_withhold_publish_co(struct ox_withheld *w)
{
	uint32_t length = (uint32_t)ox_min_u64(w->length, w->below->length);
	int r = write_held_co(w, SECTOR_BYTES, length);

	if (r == 0)
		r = ox_io_sync_co(w->below);
	if (r < 0 || length == 0)
		return r;
	r = write_held_co(w, 0, SECTOR_BYTES); /* from here on it is an image */
	return r < 0 ? r : ox_io_sync_co(w->below);
}
