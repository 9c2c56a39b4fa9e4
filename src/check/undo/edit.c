/* SPDX-License-Identifier: MIT */
#include "check/undo/edit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/assert.h"
#include "base/iov.h"

/* Between two syncs; then blocks go to the image before the sync. */
#define HELD_BYTES (UINT64_C(32) << 20)
#define RUN_BLOCKS ((size_t)256)

struct edit {
	struct ox_io io;
	struct ox_io *base;
	struct ox_undo_log *undo; /* NULL: a dry run */
	struct ox_blocks held;
	size_t block_bytes;
	uint64_t flushes; /* ended; a read that one of them crossed is repeated */
	bool flushing;
};

static const struct ox_io_ops edit_ops;

static struct edit *edit_of(const struct ox_io *io)
{
	return ox_container_of(io, struct edit, io);
}

/* ---- handing on ---- */

/* Old bytes first, durably, and every length that the image is about to have. */
static int save_held_co(struct edit *e)
{
	if (e->held.count == 0) {
		int r = ox_undo_log_length_co(e->undo, e->io.length);

		return r < 0 ? r : ox_undo_log_sync_co(e->undo);
	}
	for (size_t i = 0; i < e->held.count; i++) {
		int r = ox_undo_log_block_co(e->undo, e->held.items[i].number,
					     e->held.items[i].bytes, e->io.length);

		if (r < 0)
			return r;
	}
	return ox_undo_log_sync_co(e->undo);
}

/* A run of neighbours, from items[first] on; returns how many. */
static int write_run_co(struct edit *e, size_t first, size_t *ret_count)
{
	const struct ox_block_item *items = e->held.items + first;
	uint64_t start = items[0].number * e->block_bytes;
	struct iovec iov[RUN_BLOCKS];
	size_t n = 0;

	while (first + n < e->held.count && n < RUN_BLOCKS &&
	       items[n].number == items[0].number + n) {
		uint64_t offset = start + n * e->block_bytes;

		ox_assert(offset < e->io.length);
		iov[n].iov_base = items[n].bytes;
		iov[n].iov_len = ox_min_u64(e->block_bytes, e->io.length - offset);
		n++;
	}
	*ret_count = n;
	return ox_io_pwritev_co(e->base, iov, (int)n, start, 0);
}

static int write_held_co(struct edit *e)
{
	size_t count;
	int r = 0;

	if (e->io.length > e->base->length)
		r = ox_io_set_length_co(e->base, e->io.length);
	for (size_t at = 0; at < e->held.count && r == 0; at += count)
		r = write_run_co(e, at, &count);
	return r;
}

static int flush_co(struct edit *e)
{
	int r;

	if (e->held.count == 0 && e->io.length == e->base->length)
		return 0;
	ox_assert(!e->flushing);
	e->flushing = true;
	r = save_held_co(e);
	if (r == 0)
		r = write_held_co(e);
	if (r == 0)
		ox_blocks_clear(&e->held);
	e->flushes++;
	e->flushing = false;
	return r;
}

/* ---- the store ---- */

/* What is held, over what base has. */
static void lay_over(const struct edit *e, const struct iovec *iov, int n, uint64_t offset)
{
	for (int i = 0; i < n; i++) {
		for (size_t at = 0; at < iov[i].iov_len; at += e->block_bytes) {
			uint64_t number = (offset + at) / e->block_bytes;
			size_t place = ox_blocks_find(&e->held, number);

			if (place != OX_BLOCKS_NONE)
				memcpy((uint8_t *)iov[i].iov_base + at, e->held.items[place].bytes,
				       e->block_bytes);
		}
		offset += iov[i].iov_len;
	}
}

static int64_t edit_preadv_co(struct ox_io *io, const struct iovec *iov, int n, uint64_t offset)
{
	struct edit *e = edit_of(io);
	uint64_t flushes;

	if (offset >= io->length)
		return 0;
	do {
		int r;

		flushes = e->flushes;
		r = ox_io_preadv_co(e->base, iov, n, offset);
		if (r < 0)
			return r;
	} while (flushes != e->flushes);
	lay_over(e, iov, n, offset);
	return (int64_t)ox_iov_bytes(iov, n);
}

static int hold(struct edit *e, uint64_t offset, const void *bytes)
{
	uint64_t number = offset / e->block_bytes;
	size_t place = ox_blocks_find(&e->held, number);
	uint8_t *copy;

	if (place != OX_BLOCKS_NONE) {
		memcpy(e->held.items[place].bytes, bytes, e->block_bytes);
		return 0;
	}
	if (!e->undo && (e->held.count + 1) * e->block_bytes > OX_EDIT_DRY_BYTES)
		return -ENOBUFS;
	copy = malloc(e->block_bytes);
	if (!copy || ox_blocks_add(&e->held, number, copy) < 0) {
		free(copy);
		return -ENOMEM;
	}
	memcpy(copy, bytes, e->block_bytes);
	return 0;
}

static int64_t edit_pwritev_co(struct ox_io *io, const struct iovec *iov, int n, uint64_t offset,
			       unsigned flags)
{
	struct edit *e = edit_of(io);
	uint64_t count = ox_iov_bytes(iov, n);
	int r = 0;

	(void)flags;
	ox_assert(!e->flushing);
	if (!io->can_grow && !ox_range_within(offset, count, io->length))
		return -ENOSPC;
	if (e->undo && e->held.count * e->block_bytes > HELD_BYTES)
		r = flush_co(e);
	for (int i = 0; i < n; i++) {
		for (size_t at = 0; at < iov[i].iov_len && r == 0; at += e->block_bytes)
			r = hold(e, offset + at, (const uint8_t *)iov[i].iov_base + at);
		offset += iov[i].iov_len;
	}
	return r < 0 ? r : (int64_t)count;
}

static int edit_sync_co(struct ox_io *io)
{
	struct edit *e = edit_of(io);
	int r;

	if (!e->undo)
		return 0;
	r = flush_co(e);
	return r < 0 ? r : ox_io_sync_co(e->base);
}

/* Its old bytes go to the undo file, so that no more of them is lost than where it is written. */
static int save_punched_co(struct edit *e, uint64_t offset, uint64_t length)
{
	static const uint8_t zeroes[OX_UNDO_BLOCK_BYTES];
	int r = flush_co(e);

	for (uint64_t at = offset; at < offset + length && r == 0; at += e->block_bytes)
		r = ox_undo_log_block_co(e->undo, at / e->block_bytes, zeroes, e->io.length);
	return r == 0 ? ox_undo_log_sync_co(e->undo) : r;
}

/* A dry run keeps nothing of it: what is punched is what no walk reads again. */
static int edit_punch_co(struct ox_io *io, uint64_t offset, uint64_t length)
{
	struct edit *e = edit_of(io);
	int r = e->undo ? save_punched_co(e, offset, length) : 0;

	return r == 0 && e->undo ? ox_io_punch_co(e->base, offset, length) : r;
}

/* No repair takes anything off the image: an undo could not tell what it grew by since. */
static int edit_set_length_co(struct ox_io *io, uint64_t length)
{
	return length < edit_of(io)->base->length ? -EINVAL : 0;
}

/* The first block from start on, below end, that is held; end if there is none. */
static uint64_t next_held(const struct edit *e, uint64_t start, uint64_t end)
{
	uint64_t block_bytes = e->block_bytes;
	uint64_t next = end;

	if ((end - start) / block_bytes < e->held.count) {
		for (next = ox_align_down(start, block_bytes); next < end; next += block_bytes) {
			if (ox_blocks_find(&e->held, next / block_bytes) != OX_BLOCKS_NONE)
				break;
		}
		return ox_min_u64(ox_max_u64(next, start), end);
	}
	for (size_t i = 0; i < e->held.count; i++) {
		uint64_t at = e->held.items[i].number * block_bytes;

		if (at + block_bytes > start && at < next)
			next = ox_max_u64(at, start);
	}
	return next;
}

/* A hole of the image is one as far as nothing is held in it. */
static int edit_extent_co(struct ox_io *io, uint64_t offset, struct ox_io_extent *ret)
{
	struct edit *e = edit_of(io);
	uint64_t held;
	int r = ox_io_extent_co(e->base, offset, ret);

	if (r < 0 || !ret->zero)
		return r;
	held = next_held(e, offset, offset + ret->length);
	if (held > offset) {
		ret->length = held - offset;
	} else {
		ret->zero = false;
		ret->length = ox_min_u64(ret->length, e->block_bytes - offset % e->block_bytes);
	}
	return 0;
}

static void edit_close(struct ox_io *io)
{
	struct edit *e = edit_of(io);

	ox_blocks_clear(&e->held);
	free(io->name);
	free(e);
}

static const struct ox_io_ops edit_ops = {
	.name = "edit",
	.preadv_co = edit_preadv_co,
	.pwritev_co = edit_pwritev_co,
	.sync_co = edit_sync_co,
	.punch_co = edit_punch_co,
	.set_length_co = edit_set_length_co,
	.extent_co = edit_extent_co,
	.close = edit_close,
};

/* A device whose last block would be short has shorter ones: a write at its end is then whole. */
size_t ox_edit_block_bytes(const struct ox_io *base)
{
	if (base->can_grow || ox_is_aligned(base->length, OX_UNDO_BLOCK_BYTES))
		return OX_UNDO_BLOCK_BYTES;
	return OX_UNDO_SECTOR_BYTES;
}

int ox_edit_open(struct ox_io *base, struct ox_undo_log *undo, struct ox_io **ret)
{
	struct edit *e = calloc(1, sizeof(*e));

	if (!e)
		return -ENOMEM;
	e->base = base;
	e->undo = undo;
	e->block_bytes = ox_edit_block_bytes(base);
	e->io = (struct ox_io){
		.ops = &edit_ops,
		.reactor = base->reactor,
		.name = strdup(base->name),
		.length = base->length,
		.align_bytes = (uint32_t)e->block_bytes,
		.mem_align_bytes = 1,
		.can_grow = base->can_grow,
	};
	ox_rangelock_init(&e->io.rmw);
	if (!e->io.name) {
		edit_close(&e->io);
		return -ENOMEM;
	}
	*ret = &e->io;
	return 0;
}

bool ox_edit_is_dry(const struct ox_io *io)
{
	return io->ops == &edit_ops && !edit_of(io)->undo;
}

int ox_edit_write_data_co(struct ox_io *io, const void *bytes, size_t count, uint64_t offset)
{
	if (!ox_edit_is_dry(io))
		return ox_io_pwrite_co(io, bytes, count, offset, 0);
	if (io->length >= offset + count)
		return 0;
	return ox_io_set_length_co(io, offset + count);
}
