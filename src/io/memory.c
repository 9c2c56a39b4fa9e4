/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/assert.h"
#include "io/io.h"

struct memory_store {
	struct ox_io io;
	uint8_t *bytes;
	uint64_t capacity; /* bytes that are there; those past io.length are zero */
};

static struct memory_store *memory_of(const struct ox_io *io)
{
	return ox_container_of(io, struct memory_store, io);
}

static int grow(struct memory_store *m, uint64_t length)
{
	uint64_t capacity = ox_max_u64(length, ox_max_u64(m->capacity * 2, 4096));
	uint8_t *bytes;

	if (length <= m->capacity)
		return 0;
	if (length > SIZE_MAX / 2)
		return -EFBIG;
	bytes = realloc(m->bytes, capacity);
	if (!bytes)
		return -ENOMEM;
	memset(bytes + m->capacity, 0, capacity - m->capacity);
	m->bytes = bytes;
	m->capacity = capacity;
	return 0;
}

static int64_t memory_preadv_co(struct ox_io *io, const struct iovec *iov, int n, uint64_t offset)
{
	struct memory_store *m = memory_of(io);
	uint64_t done = 0;

	for (int i = 0; i < n && offset + done < io->length; i++) {
		size_t part = ox_min_u64(iov[i].iov_len, io->length - offset - done);

		if (part > 0)
			memcpy(iov[i].iov_base, m->bytes + offset + done, part);
		done += part;
	}
	return (int64_t)done;
}

/* Nobody writes meanwhile: the bytes may move when the store grows. */
static bool memory_read_cached(const struct ox_io *io, void *buf, size_t count, uint64_t offset)
{
	memcpy(buf, memory_of(io)->bytes + offset, count);
	return true;
}

static int64_t memory_pwritev_co(struct ox_io *io, const struct iovec *iov, int n, uint64_t offset,
				 unsigned flags)
{
	struct memory_store *m = memory_of(io);
	uint64_t done = 0;

	(void)flags;
	for (int i = 0; i < n; i++) {
		int r = grow(m, offset + done + iov[i].iov_len);

		if (r < 0)
			return done > 0 ? (int64_t)done : r;
		if (iov[i].iov_len > 0)
			memcpy(m->bytes + offset + done, iov[i].iov_base, iov[i].iov_len);
		done += iov[i].iov_len;
	}
	return (int64_t)done;
}

static int memory_sync_co(struct ox_io *io)
{
	(void)io;
	return 0;
}

static int memory_zero_co(struct ox_io *io, uint64_t offset, uint64_t length)
{
	struct memory_store *m = memory_of(io);

	if (offset < io->length)
		memset(m->bytes + offset, 0, ox_min_u64(length, io->length - offset));
	return 0;
}

static int memory_reserve_co(struct ox_io *io, uint64_t offset, uint64_t length)
{
	return grow(memory_of(io), offset + length);
}

static int memory_set_length_co(struct ox_io *io, uint64_t length)
{
	struct memory_store *m = memory_of(io);
	int r = grow(m, length);

	if (r < 0)
		return r;
	if (length < io->length)
		memset(m->bytes + length, 0, io->length - length);
	return 0;
}

static int memory_extent_co(struct ox_io *io, uint64_t offset, struct ox_io_extent *ret)
{
	bool past_end = offset >= io->length;

	*ret = (struct ox_io_extent){
		.length = past_end ? UINT64_MAX - offset : io->length - offset,
		.zero = past_end,
	};
	return 0;
}

static void memory_close(struct ox_io *io)
{
	struct memory_store *m = memory_of(io);

	free(m->bytes);
	free(io->name);
	free(m);
}

static const struct ox_io_ops memory_ops = {
	.name = "memory",
	.preadv_co = memory_preadv_co,
	.read_cached = memory_read_cached,
	.pwritev_co = memory_pwritev_co,
	.sync_co = memory_sync_co,
	.punch_co = memory_zero_co,
	.zero_co = memory_zero_co,
	.reserve_co = memory_reserve_co,
	.set_length_co = memory_set_length_co,
	.extent_co = memory_extent_co,
	.close = memory_close,
};

int ox_io_memory_open(struct ox_reactor *r, uint64_t length, struct ox_io **ret)
{
	struct memory_store *m = calloc(1, sizeof(*m));
	int err;

	if (!m)
		return -ENOMEM;
	m->io = (struct ox_io){
		.ops = &memory_ops,
		.reactor = r,
		.name = strdup("memory"),
		.length = length,
		.align_bytes = 1,
		.can_grow = true,
	};
	ox_rangelock_init(&m->io.rmw);
	err = m->io.name ? grow(m, length) : -ENOMEM;
	if (err < 0) {
		memory_close(&m->io);
		return err;
	}
	*ret = &m->io;
	return 0;
}

uint8_t *ox_io_memory_bytes(struct ox_io *io)
{
	ox_assert(io->ops == &memory_ops);
	return memory_of(io)->bytes;
}
