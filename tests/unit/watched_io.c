/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "base/arith.h"
#include "base/assert.h"
#include "watched_io.h"

#define BLOCK 4096u

struct watched_io watched;

static const struct ox_io_ops *memory_ops;
static struct ox_io_ops watched_ops;
static struct watched_write in_flight[64]; /* length 0: free */

static int64_t watched_preadv_co(struct ox_io *io, const struct iovec *iov, int n, uint64_t offset)
{
	bool held = watched.hold_read && offset == watched.hold_read_at;

	watched.reads++;
	if (held)
		watched.hold_read = false;
	do
		ox_co_yield_co();
	while (held && !watched.let_go);
	if (watched.read_error < 0)
		return watched.read_error;
	return memory_ops->preadv_co(io, iov, n, offset);
}

static struct watched_write *begin_write(uint64_t offset, uint64_t length)
{
	struct watched_write *slot = NULL;

	for (size_t i = 0; i < OX_ARRAY_SIZE(in_flight); i++) {
		struct watched_write *other = &in_flight[i];

		if (other->length == 0)
			slot = other;
		else if (offset < other->offset + other->length && other->offset < offset + length)
			watched.overlaps++;
	}
	ox_assert(slot && watched.write_count < OX_ARRAY_SIZE(watched.writes));
	*slot = (struct watched_write){offset, length, watched.syncs};
	watched.writes[watched.write_count++] = *slot;
	return slot;
}

/* 0 stands for anywhere. */
static bool covers(uint64_t offset, uint64_t length, uint64_t at)
{
	return at == 0 || (offset <= at && at < offset + length);
}

static int64_t watched_pwritev_co(struct ox_io *io, const struct iovec *iov, int n, uint64_t offset,
				  unsigned flags)
{
	struct watched_write *slot;
	uint64_t length = 0;
	bool held;

	for (int i = 0; i < n; i++)
		length += iov[i].iov_len;
	slot = begin_write(offset, length);
	held = watched.hold_write && offset == watched.hold_write_at;
	if (held)
		watched.hold_write = false;
	do
		ox_co_yield_co();
	while (watched.hold_writes || (held && !watched.let_go));
	slot->length = 0;
	if (watched.write_error < 0 && covers(offset, length, watched.write_error_at))
		return watched.write_error;
	return memory_ops->pwritev_co(io, iov, n, offset, flags);
}

static int watched_sync_co(struct ox_io *io)
{
	(void)io;
	watched.syncs_asked++;
	do
		ox_co_yield_co();
	while (watched.hold_syncs);
	if (watched.sync_error < 0)
		return watched.sync_error;
	watched.syncs++;
	return 0;
}

static int watched_sync_by_co(struct ox_io *io, int fd)
{
	(void)io;
	(void)fd;
	watched.witness_asked++;
	do
		ox_co_yield_co();
	while (watched.hold_syncs);
	if (watched.witness_error < 0)
		return watched.witness_error;
	watched.syncs++;
	return 0;
}

static bool is_hole(const uint8_t *bytes, uint64_t offset)
{
	const uint8_t *at = bytes + ox_align_down(offset, BLOCK);

	return at[0] == 0 && memcmp(at, at + 1, BLOCK - 1) == 0;
}

static int watched_extent_co(struct ox_io *io, uint64_t offset, struct ox_io_extent *ret)
{
	const uint8_t *bytes;
	uint64_t end = offset;

	while (watched.hold_extent_at != 0 && offset == watched.hold_extent_at && !watched.let_go) {
		watched.extent_held = true;
		ox_co_yield_co();
	}
	if (!watched.is_sparse || offset >= ox_align_down(io->length, BLOCK))
		return memory_ops->extent_co(io, offset, ret);
	bytes = watched_bytes(io);
	ret->zero = is_hole(bytes, offset);
	while (end + BLOCK <= io->length && is_hole(bytes, end) == ret->zero)
		end = ox_align_down(end, BLOCK) + BLOCK;
	ret->length = end - offset;
	return 0;
}

/* An image that is closed takes its store along; this one is looked at afterwards. */
static void watched_close(struct ox_io *io)
{
	(void)io;
}

struct ox_io *watched_io_open(struct ox_reactor *r, uint64_t length)
{
	struct ox_io *io;

	assert_int_equal(ox_io_memory_open(r, length, &io), 0);
	watched = (struct watched_io){0};
	memory_ops = io->ops;
	watched_ops = *memory_ops;
	watched_ops.preadv_co = watched_preadv_co;
	watched_ops.pwritev_co = watched_pwritev_co;
	watched_ops.sync_co = watched_sync_co;
	watched_ops.sync_by_co = watched_sync_by_co;
	watched_ops.extent_co = watched_extent_co;
	watched_ops.close = watched_close;
	io->ops = &watched_ops;
	return io;
}

uint8_t *watched_bytes(struct ox_io *io)
{
	uint8_t *bytes;

	io->ops = memory_ops; /* by which ox_io_memory_bytes knows it */
	bytes = ox_io_memory_bytes(io);
	io->ops = &watched_ops;
	return bytes;
}

void watched_io_close(struct ox_io *io)
{
	io->ops = memory_ops;
	ox_io_close(io);
}
