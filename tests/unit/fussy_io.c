/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/arith.h"
#include "base/assert.h"
#include "fussy_io.h"

struct fussy {
	struct ox_io io;
	struct ox_io *memory;
	unsigned seed;
};

static struct fussy *fussy_of(struct ox_io *io)
{
	return ox_container_of(io, struct fussy, io);
}

/* How many whole elements of the list to carry out, or a negative errno. Another task may run in
 * between. */
static int fussy_take_co(struct fussy *f, const struct iovec *iov, int n, uint64_t offset)
{
	unsigned draw = (unsigned)rand_r(&f->seed);

	ox_assert(n > 0 && n <= 1024 && ox_is_aligned(offset, FUSSY_ALIGN_BYTES));
	for (int i = 0; i < n; i++) {
		ox_assert(ox_is_aligned(iov[i].iov_len, FUSSY_ALIGN_BYTES));
		ox_assert(ox_is_aligned((uintptr_t)iov[i].iov_base, FUSSY_ALIGN_BYTES));
	}
	if (draw & 1)
		ox_co_yield_co();
	if ((draw & 0xe) == 0)
		return -EINTR;
	return (draw & 0x30) ? n : 1;
}

static int64_t fussy_preadv_co(struct ox_io *io, const struct iovec *iov, int n, uint64_t offset)
{
	struct fussy *f = fussy_of(io);
	int take = fussy_take_co(f, iov, n, offset);
	struct iovec first = iov[0];

	if (take < 0)
		return take;
	if (take == 1 && first.iov_len > FUSSY_ALIGN_BYTES) {
		first.iov_len = FUSSY_ALIGN_BYTES;
		iov = &first;
	}
	return f->memory->ops->preadv_co(f->memory, iov, take, offset);
}

static int64_t fussy_pwritev_co(struct ox_io *io, const struct iovec *iov, int n, uint64_t offset,
				unsigned flags)
{
	struct fussy *f = fussy_of(io);
	int take = fussy_take_co(f, iov, n, offset);
	struct iovec first = iov[0];
	int64_t put;

	if (take < 0)
		return take;
	if (take == 1 && first.iov_len > FUSSY_ALIGN_BYTES) {
		first.iov_len = FUSSY_ALIGN_BYTES;
		iov = &first;
	}
	put = f->memory->ops->pwritev_co(f->memory, iov, take, offset, flags);
	if (put > 0)
		f->memory->length = ox_max_u64(f->memory->length, offset + (uint64_t)put);
	return put;
}

static int fussy_sync_co(struct ox_io *io)
{
	(void)io;
	return 0;
}

static int fussy_zero_co(struct ox_io *io, uint64_t offset, uint64_t length)
{
	struct ox_io *memory = fussy_of(io)->memory;

	ox_assert(length > 0 && ox_is_aligned(offset | length, FUSSY_ALIGN_BYTES));
	ox_co_yield_co();
	return memory->ops->zero_co(memory, offset, length);
}

static int fussy_reserve_co(struct ox_io *io, uint64_t offset, uint64_t length)
{
	return ox_io_reserve_co(fussy_of(io)->memory, offset, length);
}

static int fussy_set_length_co(struct ox_io *io, uint64_t length)
{
	return ox_io_set_length_co(fussy_of(io)->memory, length);
}

static int fussy_extent_co(struct ox_io *io, uint64_t offset, struct ox_io_extent *ret)
{
	return ox_io_extent_co(fussy_of(io)->memory, offset, ret);
}

static void fussy_close(struct ox_io *io)
{
	ox_io_close(fussy_of(io)->memory);
	free(fussy_of(io));
}

static const struct ox_io_ops fussy_ops = {
	.name = "fussy",
	.preadv_co = fussy_preadv_co,
	.pwritev_co = fussy_pwritev_co,
	.sync_co = fussy_sync_co,
	.punch_co = fussy_zero_co,
	.zero_co = fussy_zero_co,
	.reserve_co = fussy_reserve_co,
	.set_length_co = fussy_set_length_co,
	.extent_co = fussy_extent_co,
	.close = fussy_close,
};

struct ox_io *fussy_io_open(struct ox_reactor *r)
{
	struct fussy *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	assert_int_equal(ox_io_memory_open(r, 0, &f->memory), 0);
	f->seed = 1;
	f->io = (struct ox_io){.ops = &fussy_ops,
			       .reactor = r,
			       .align_bytes = FUSSY_ALIGN_BYTES,
			       .can_grow = true};
	ox_rangelock_init(&f->io.rmw);
	return &f->io;
}
