/* SPDX-License-Identifier: MIT */
#include "shared_store.h"

#include <stdlib.h>
#include <string.h>

#include "base/arith.h"

uint64_t shared_store_room;

static uint64_t room(void)
{
	return shared_store_room ? shared_store_room : SHARED_STORE_MOST;
}

struct shared_store {
	struct ox_io io;
	struct shared_bytes *shared;
	void (*step)(void);
};

static struct shared_store *store_of(const struct ox_io *io)
{
	return ox_container_of(io, struct shared_store, io);
}

static void step(const struct shared_store *s)
{
	if (s->step)
		s->step();
}

/* Others run meanwhile, as they do while a disk works. */
static void wait_co(void)
{
	ox_co_yield_co();
	ox_co_yield_co();
}

static int64_t shared_preadv_co(struct ox_io *io, const struct iovec *iov, int n, uint64_t offset)
{
	struct shared_store *s = store_of(io);
	uint64_t done = 0;

	wait_co();
	for (int i = 0; i < n && offset + done < s->shared->length; i++) {
		size_t part = ox_min_u64(iov[i].iov_len, s->shared->length - offset - done);

		memcpy(iov[i].iov_base, s->shared->bytes + offset + done, part);
		done += part;
	}
	return (int64_t)done;
}

static void write_part(struct shared_store *s, const struct iovec *iov, uint64_t from, uint64_t to,
		       uint64_t offset)
{
	if (to <= from)
		return;
	memcpy(s->shared->bytes + offset + from, (const uint8_t *)iov->iov_base + from, to - from);
	s->shared->length = ox_max_u64(s->shared->length, offset + to);
	step(s);
}

static int64_t shared_pwritev_co(struct ox_io *io, const struct iovec *iov, int n, uint64_t offset,
				 unsigned flags)
{
	struct shared_store *s = store_of(io);
	uint64_t done = 0;

	(void)flags;
	wait_co();
	for (int i = 0; i < n; i++) {
		uint64_t length = iov[i].iov_len;
		uint64_t half = ox_align_down(length / 2, 512);

		if (offset + done + length > room())
			return done > 0 ? (int64_t)done : -ENOSPC;
		write_part(s, &iov[i], 0, half, offset + done);
		write_part(s, &iov[i], half, length, offset + done);
		done += length;
	}
	wait_co();
	return (int64_t)done;
}

static int shared_sync_co(struct ox_io *io)
{
	(void)io;
	wait_co();
	return 0;
}

static int shared_zero_co(struct ox_io *io, uint64_t offset, uint64_t length)
{
	struct shared_store *s = store_of(io);

	wait_co();
	if (offset < s->shared->length) {
		memset(s->shared->bytes + offset, 0,
		       ox_min_u64(length, s->shared->length - offset));
		step(s);
	}
	wait_co();
	return 0;
}

static int shared_set_length_co(struct ox_io *io, uint64_t length)
{
	struct shared_store *s = store_of(io);

	wait_co();
	if (length > room())
		return -ENOSPC;
	if (length < s->shared->length)
		memset(s->shared->bytes + length, 0, s->shared->length - length);
	s->shared->length = length;
	step(s);
	wait_co();
	return 0;
}

static int shared_reserve_co(struct ox_io *io, uint64_t offset, uint64_t length)
{
	if (offset + length <= store_of(io)->shared->length)
		return 0;
	return shared_set_length_co(io, offset + length);
}

#define BLOCK 4096u

static bool is_hole(const struct shared_bytes *b, uint64_t block)
{
	const uint8_t *at = b->bytes + block * BLOCK;

	return at[0] == 0 && memcmp(at, at + 1, BLOCK - 1) == 0;
}

/* Blocks of zeroes are holes. */
static int shared_extent_co(struct ox_io *io, uint64_t offset, struct ox_io_extent *ret)
{
	const struct shared_bytes *b = store_of(io)->shared;
	uint64_t block = offset / BLOCK;
	bool past_end = offset >= io->length;

	wait_co();
	ret->zero = past_end || is_hole(b, block);
	while (!past_end && block * BLOCK < io->length && is_hole(b, block) == ret->zero)
		block++;
	ret->length =
		past_end ? UINT64_MAX - offset : ox_min_u64(block * BLOCK, io->length) - offset;
	return 0;
}

static void shared_close(struct ox_io *io)
{
	free(io->name);
	free(store_of(io));
}

static const struct ox_io_ops shared_ops = {
	.name = "shared",
	.preadv_co = shared_preadv_co,
	.pwritev_co = shared_pwritev_co,
	.sync_co = shared_sync_co,
	.punch_co = shared_zero_co,
	.zero_co = shared_zero_co,
	.reserve_co = shared_reserve_co,
	.set_length_co = shared_set_length_co,
	.extent_co = shared_extent_co,
	.close = shared_close,
};

struct ox_io *shared_store_open(struct ox_reactor *r, struct shared_bytes *bytes,
				void (*step_fn)(void))
{
	struct shared_store *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	*s = (struct shared_store){
		.io = {.ops = &shared_ops,
		       .reactor = r,
		       .name = strdup("shared"),
		       .length = bytes->length,
		       .align_bytes = 1,
		       .can_grow = true},
		.shared = bytes,
		.step = step_fn,
	};
	ox_rangelock_init(&s->io.rmw);
	if (!s->io.name) {
		free(s);
		return NULL;
	}
	return &s->io;
}

void shared_bytes_copy(struct shared_bytes *to, const struct shared_bytes *from)
{
	if (to->length > from->length)
		memset(to->bytes + from->length, 0, to->length - from->length);
	memcpy(to->bytes, from->bytes, from->length);
	to->length = from->length;
}
