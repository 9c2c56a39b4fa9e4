/* SPDX-License-Identifier: MIT */
/*
 * The calls that all stores share. They turn whatever the caller has into whole, aligned requests:
 *
 * - a request that is aligned goes to the store as it is, and is repeated for what a short count
 *   left over;
 * - one whose memory is not aligned, or a read that is not aligned in any way, goes through a
 *   bounce buffer;
 * - a write that does not cover whole blocks reads the blocks at its ends first.
 *
 * H5: on a store that has an alignment every write and zeroing holds io->rmw: shared where it
 * covers whole blocks, exclusive on the widened range where it does not, so that nothing else
 * writes a block between its being read and being written back. A write that would lengthen the
 * file to a whole block puts the length right afterwards, and for that holds everything from
 * there on; so does ox_io_set_length_co.
 */
#include "io/io.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/assert.h"

enum {
	BUFFER_ALIGN_BYTES = 4096,
	BOUNCE_BYTES = 1024 * 1024, /* at most for one request at a time */
};

void *ox_io_buffer(size_t size_bytes)
{
	if (size_bytes > SIZE_MAX / 2)
		return NULL;
	return aligned_alloc(BUFFER_ALIGN_BYTES,
			     ox_align_up(ox_max_u64(size_bytes, 1), BUFFER_ALIGN_BYTES));
}

/* ---- places in a list of buffers ---- */

/* What remains of an iovec list. Empty elements at the front are always skipped. */
struct cursor {
	const struct iovec *iov;
	int n;
	size_t skip; /* bytes of the first element that are done */
	struct iovec rest;
};

static void cursor_advance(struct cursor *c, uint64_t bytes)
{
	while (c->n > 0 && bytes >= c->iov->iov_len - c->skip) {
		bytes -= c->iov->iov_len - c->skip;
		c->skip = 0;
		c->iov++;
		c->n--;
	}
	ox_assert(c->n > 0 || bytes == 0);
	c->skip += bytes;
}

static struct cursor cursor_start(const struct iovec *iov, int n)
{
	struct cursor c = {.iov = iov, .n = n};

	cursor_advance(&c, 0);
	return c;
}

/* The next elements to hand to the store, as many as one call takes; *ret lives as long as c. */
static int cursor_window(struct cursor *c, const struct iovec **ret)
{
	if (c->skip == 0) {
		*ret = c->iov;
		return c->n < IOV_MAX ? c->n : IOV_MAX;
	}
	c->rest.iov_base = (char *)c->iov->iov_base + c->skip;
	c->rest.iov_len = c->iov->iov_len - c->skip;
	*ret = &c->rest;
	return 1;
}

enum copy_direction {
	COPY_TO_CALLER,
	COPY_FROM_CALLER,
};

/* Copies between buf and the next bytes of the list. */
static void cursor_copy(struct cursor *c, char *buf, uint64_t bytes, enum copy_direction direction)
{
	while (bytes > 0) {
		size_t part = ox_min_u64(bytes, c->iov->iov_len - c->skip);
		char *theirs = (char *)c->iov->iov_base + c->skip;

		if (direction == COPY_TO_CALLER)
			memcpy(theirs, buf, part);
		else
			memcpy(buf, theirs, part);
		buf += part;
		bytes -= part;
		cursor_advance(c, part);
	}
}

static void cursor_zero_rest(struct cursor *c, uint64_t skip)
{
	cursor_advance(c, skip);
	while (c->n > 0) {
		size_t part = c->iov->iov_len - c->skip;

		memset((char *)c->iov->iov_base + c->skip, 0, part);
		cursor_advance(c, part);
	}
}

/* ---- whole, aligned requests ---- */

static uint64_t mem_align(const struct ox_io *io)
{
	if (io->mem_align_bytes)
		return io->mem_align_bytes;
	return ox_min_u64(io->align_bytes, BUFFER_ALIGN_BYTES);
}

static uint64_t zero_align(const struct ox_io *io)
{
	return io->zero_align_bytes ? io->zero_align_bytes : io->align_bytes;
}

static void check_store(const struct ox_io *io)
{
	ox_assert(ox_co_reactor() == io->reactor);
	ox_assert(ox_is_pow2(io->align_bytes) && ox_is_pow2(mem_align(io)));
	ox_assert(mem_align(io) <= BUFFER_ALIGN_BYTES && zero_align(io) >= io->align_bytes);
}

/* The sum of the list's lengths, or -EINVAL where the request leaves the numbers a file has. */
static int64_t request_bytes(const struct iovec *iov, int n, uint64_t offset)
{
	uint64_t total = 0;

	for (int i = 0; i < n; i++)
		if (!ox_add_u64(total, iov[i].iov_len, &total))
			return -EINVAL;
	return ox_range_within(offset, total, INT64_MAX) ? (int64_t)total : -EINVAL;
}

static bool memory_is_aligned(const struct ox_io *io, const struct iovec *iov, int n)
{
	if (io->align_bytes == 1)
		return true;
	for (int i = 0; i < n; i++)
		if (!ox_is_aligned((uintptr_t)iov[i].iov_base, mem_align(io)) ||
		    !ox_is_aligned(iov[i].iov_len, io->align_bytes))
			return false;
	return true;
}

/* What a store's answer is worth: whole blocks. A part of a block happens at the end of the file
 * (or of the space on it) alone. */
static uint64_t whole_blocks(const struct ox_io *io, int64_t got)
{
	return ox_align_down((uint64_t)got, io->align_bytes);
}

static int read_whole_co(struct ox_io *io, struct cursor *c, uint64_t offset)
{
	while (c->n > 0) {
		const struct iovec *iov;
		int n = cursor_window(c, &iov);
		int64_t got = io->ops->preadv_co(io, iov, n, offset);

		if (got == -EINTR)
			continue;
		if (got < 0)
			return (int)got;
		io->counts[OX_IO_COUNT_READS]++;
		io->counts[OX_IO_COUNT_READ_BYTES] += (uint64_t)got;
		if (io->behind)
			ox_io_behind_touched(io, offset, (uint64_t)got, false);
		if (whole_blocks(io, got) == 0) {
			cursor_zero_rest(c, (uint64_t)got);
			return 0;
		}
		offset += whole_blocks(io, got);
		cursor_advance(c, whole_blocks(io, got));
	}
	return 0;
}

static int write_whole_co(struct ox_io *io, struct cursor *c, uint64_t offset, unsigned flags)
{
	while (c->n > 0) {
		const struct iovec *iov;
		int n = cursor_window(c, &iov);
		int64_t put = io->ops->pwritev_co(io, iov, n, offset, flags);

		if (put == -EINTR)
			continue;
		if (put < 0)
			return (int)put;
		io->counts[OX_IO_COUNT_WRITES]++;
		io->counts[OX_IO_COUNT_WRITE_BYTES] += (uint64_t)put;
		if (io->behind)
			ox_io_behind_touched(io, offset, (uint64_t)put, true);
		if (io->can_grow)
			io->length = ox_max_u64(io->length, offset + (uint64_t)put);
		if (whole_blocks(io, put) == 0)
			return -ENOSPC;
		offset += whole_blocks(io, put);
		cursor_advance(c, whole_blocks(io, put));
	}
	return 0;
}

/* ---- bounce buffers ---- */

/* One buffer's worth of a request: the bytes [start, end) of the store, and the blocks they lie
 * in. */
struct bounce {
	char *buf;
	uint64_t buf_bytes;
	uint64_t start;
	uint64_t end;
	uint64_t wide_start;
	uint64_t wide_end;
};

static int bounce_init(const struct ox_io *io, struct bounce *b, uint64_t offset, uint64_t count)
{
	uint64_t wide = ox_align_up(offset + count, io->align_bytes) -
			ox_align_down(offset, io->align_bytes);

	b->buf_bytes = ox_min_u64(wide, ox_max_u64(BOUNCE_BYTES, io->align_bytes));
	b->buf = ox_io_buffer(b->buf_bytes);
	b->end = offset;
	return b->buf ? 0 : -ENOMEM;
}

/* Moves on to the next piece of a request that ends at request_end. */
static bool bounce_next(const struct ox_io *io, struct bounce *b, uint64_t request_end)
{
	if (b->end == request_end)
		return false;
	b->start = b->end;
	b->wide_start = ox_align_down(b->start, io->align_bytes);
	b->end = ox_min_u64(request_end, b->wide_start + b->buf_bytes);
	b->wide_end = ox_align_up(b->end, io->align_bytes);
	return true;
}

static int bounce_read_co(struct ox_io *io, struct bounce *b, uint64_t from, uint64_t to)
{
	struct iovec part = {b->buf + (from - b->wide_start), to - from};
	struct cursor c = cursor_start(&part, 1);

	return read_whole_co(io, &c, from);
}

static int read_bounced_co(struct ox_io *io, struct cursor *c, uint64_t offset, uint64_t count)
{
	struct bounce b;
	int r = bounce_init(io, &b, offset, count);

	while (r == 0 && bounce_next(io, &b, offset + count)) {
		r = bounce_read_co(io, &b, b.wide_start, b.wide_end);
		if (r == 0)
			cursor_copy(c, b.buf + (b.start - b.wide_start), b.end - b.start,
				    COPY_TO_CALLER);
	}
	free(b.buf);
	return r;
}

/* Reads the blocks that the piece covers only a part of. */
static int bounce_fill_edges_co(struct ox_io *io, struct bounce *b)
{
	uint64_t last = b->wide_end - io->align_bytes;
	bool head = b->start != b->wide_start;
	int r = 0;

	if (head)
		r = bounce_read_co(io, b, b->wide_start, b->wide_start + io->align_bytes);
	if (r == 0 && b->end != b->wide_end && !(head && last == b->wide_start))
		r = bounce_read_co(io, b, last, b->wide_end);
	return r;
}

static int write_bounced_co(struct ox_io *io, struct cursor *c, uint64_t offset, uint64_t count,
			    unsigned flags)
{
	struct bounce b;
	int r = bounce_init(io, &b, offset, count);

	while (r == 0 && bounce_next(io, &b, offset + count)) {
		struct iovec part = {b.buf, b.wide_end - b.wide_start};
		struct cursor whole = cursor_start(&part, 1);

		r = bounce_fill_edges_co(io, &b);
		if (r < 0)
			break;
		cursor_copy(c, b.buf + (b.start - b.wide_start), b.end - b.start, COPY_FROM_CALLER);
		r = write_whole_co(io, &whole, b.wide_start, flags);
	}
	free(b.buf);
	return r;
}

/* ---- reading and writing ---- */

int ox_io_preadv_co(struct ox_io *io, const struct iovec *iov, int n, uint64_t offset)
{
	struct cursor c = cursor_start(iov, n);
	int64_t count = request_bytes(iov, n, offset);

	check_store(io);
	if (count <= 0)
		return (int)count;
	if (ox_is_aligned(offset, io->align_bytes) && memory_is_aligned(io, iov, n))
		return read_whole_co(io, &c, offset);
	return read_bounced_co(io, &c, offset, (uint64_t)count);
}

int ox_io_pread_co(struct ox_io *io, void *buf, size_t count, uint64_t offset)
{
	struct iovec iov = {buf, count};

	return ox_io_preadv_co(io, &iov, 1, offset);
}

bool ox_io_read_cached(const struct ox_io *io, void *buf, size_t count, uint64_t offset)
{
	return io->ops->read_cached && ox_range_within(offset, count, io->length) &&
	       io->ops->read_cached(io, buf, count, offset);
}

static int set_length_locked_co(struct ox_io *io, uint64_t length)
{
	int r = io->ops->set_length_co(io, length);

	if (r < 0)
		return r;
	io->counts[OX_IO_COUNT_LENGTHS]++;
	io->length = length;
	return 0;
}

/* A write to a store that has an alignment. */
static int write_aligned_store_co(struct ox_io *io, struct cursor *c, uint64_t offset,
				  uint64_t count, unsigned flags)
{
	uint64_t end = offset + count;
	uint64_t wide_start = ox_align_down(offset, io->align_bytes);
	uint64_t wide_end = ox_align_up(end, io->align_bytes);
	bool whole = wide_start == offset && wide_end == end;
	bool lengthens = !whole && io->can_grow && wide_end > ox_max_u64(io->length, end);
	struct ox_range range;
	uint64_t length;
	int r;

	ox_rangelock_acquire_co(&io->rmw, &range, wide_start,
				(lengthens ? UINT64_MAX : wide_end) - wide_start, !whole);
	length = ox_max_u64(io->length, end);
	if (whole && memory_is_aligned(io, c->iov, c->n))
		r = write_whole_co(io, c, offset, flags);
	else
		r = write_bounced_co(io, c, offset, count, flags);
	/* Whatever happened, the length is the caller's to choose. */
	if (lengthens && io->length > length) {
		int trim = set_length_locked_co(io, length);

		r = r < 0 ? r : trim;
	}
	ox_rangelock_release(&io->rmw, &range);
	return r;
}

/* After something became durable: a letting go that was under way may have been told an error that
 * this was not. */
static int write_out_error_co(struct ox_io *io)
{
	ox_io_wait_for_letting_go_co(io);
	return io->write_out_error;
}

int ox_io_pwritev_co(struct ox_io *io, const struct iovec *iov, int n, uint64_t offset,
		     unsigned flags)
{
	struct cursor c = cursor_start(iov, n);
	int64_t count = request_bytes(iov, n, offset);
	int r;

	check_store(io);
	ox_assert(!(flags & OX_IO_FUA) || !ox_io_has_witness(io)); /* H1: nothing is durable yet */
	if (io->read_only)
		return -EROFS;
	if (count <= 0)
		return (int)count;
	if (io->align_bytes == 1)
		r = write_whole_co(io, &c, offset, flags);
	else
		r = write_aligned_store_co(io, &c, offset, (uint64_t)count, flags);
	return r == 0 && (flags & OX_IO_FUA) ? write_out_error_co(io) : r;
}

int ox_io_pwrite_co(struct ox_io *io, const void *buf, size_t count, uint64_t offset,
		    unsigned flags)
{
	struct iovec iov = {(void *)buf, count};

	return ox_io_pwritev_co(io, &iov, 1, offset, flags);
}

int ox_io_sync_co(struct ox_io *io)
{
	int r;

	check_store(io);
	r = ox_io_has_witness(io) ? ox_io_sync_past_witness_co(io) : io->ops->sync_co(io);
	if (r == 0)
		r = write_out_error_co(io);
	if (r < 0)
		return r;
	io->counts[OX_IO_COUNT_SYNCS]++;
	return 0;
}

/* ---- zeroes ---- */

typedef int (*range_fn)(struct ox_io *io, uint64_t offset, uint64_t length);

/* A range operation of the store, shut out from the blocks that are being rewritten (H5). */
static int range_op_co(struct ox_io *io, range_fn op_co, uint64_t offset, uint64_t length)
{
	struct ox_range range;
	int r;

	if (io->align_bytes == 1)
		return op_co(io, offset, length);
	ox_rangelock_acquire_co(&io->rmw, &range, offset, length, false);
	r = op_co(io, offset, length);
	ox_rangelock_release(&io->rmw, &range);
	return r;
}

static int write_zero_bytes_co(struct ox_io *io, uint64_t start, uint64_t end)
{
	void *buf;
	int r;

	if (start == end)
		return 0;
	buf = ox_io_buffer(end - start);
	if (!buf)
		return -ENOMEM;
	memset(buf, 0, end - start);
	r = ox_io_pwrite_co(io, buf, end - start, start, 0);
	free(buf);
	return r;
}

/* Where a zeroing of [offset, offset + length) has to end: what lies past the end of the store
 * reads as zeroes as it is, and a last block that the end cuts off may be zeroed whole. */
static uint64_t zero_end(const struct ox_io *io, uint64_t offset, uint64_t length)
{
	if (length < io->length - offset)
		return offset + length;
	return io->can_grow ? ox_align_up(io->length, zero_align(io)) : io->length;
}

static int zero_range_co(struct ox_io *io, range_fn op_co, enum ox_io_count kind, uint64_t offset,
			 uint64_t length)
{
	uint64_t end;
	uint64_t middle;
	uint64_t middle_end;
	int r;

	check_store(io);
	if (io->read_only)
		return -EROFS;
	if (!op_co)
		return -EOPNOTSUPP;
	if (offset >= io->length || length == 0)
		return 0;
	end = zero_end(io, offset, length);
	middle = ox_align_up(offset, zero_align(io));
	middle_end = ox_align_down(end, zero_align(io));
	if (middle >= middle_end)
		return write_zero_bytes_co(io, offset, ox_min_u64(end, io->length));
	r = range_op_co(io, op_co, middle, middle_end - middle);
	if (r < 0)
		return r;
	io->counts[kind]++;
	r = write_zero_bytes_co(io, offset, middle);
	return r < 0 ? r : write_zero_bytes_co(io, middle_end, end);
}

int ox_io_punch_co(struct ox_io *io, uint64_t offset, uint64_t length)
{
	return zero_range_co(io, io->ops->punch_co, OX_IO_COUNT_PUNCHES, offset, length);
}

int ox_io_trim_co(struct ox_io *io, uint64_t offset, uint64_t length)
{
	uint64_t start = ox_align_up(offset, io->align_bytes);
	uint64_t end = ox_align_down(ox_min_u64(offset + length, io->length), io->align_bytes);

	check_store(io);
	if (!io->ops->trim_co)
		return ox_io_punch_co(io, offset, length);
	if (io->read_only)
		return -EROFS;
	/* A part of a block is not worth a write. */
	if (!ox_range_within(offset, length, INT64_MAX) || start >= end)
		return 0;
	return range_op_co(io, io->ops->trim_co, start, end - start);
}

int ox_io_zero_co(struct ox_io *io, uint64_t offset, uint64_t length)
{
	return zero_range_co(io, io->ops->zero_co, OX_IO_COUNT_ZEROES, offset, length);
}

/* ---- length and extents ---- */

int ox_io_reserve_co(struct ox_io *io, uint64_t offset, uint64_t length)
{
	int r;

	check_store(io);
	if (io->read_only)
		return -EROFS;
	if (!ox_range_within(offset, length, INT64_MAX))
		return -EINVAL;
	if (!io->ops->reserve_co)
		return -EOPNOTSUPP;
	if (length == 0)
		return 0;
	r = range_op_co(io, io->ops->reserve_co, offset, length);
	if (r < 0)
		return r;
	if (io->can_grow)
		io->length = ox_max_u64(io->length, offset + length);
	return 0;
}

int ox_io_set_length_co(struct ox_io *io, uint64_t length)
{
	struct ox_range range;
	uint64_t start;
	int r;

	check_store(io);
	if (io->read_only)
		return -EROFS;
	if (length > INT64_MAX)
		return -EFBIG;
	if (!io->can_grow)
		return length == io->length ? 0 : -EOPNOTSUPP;
	if (io->align_bytes == 1)
		return set_length_locked_co(io, length);
	/* The kernel zeroes the rest of the old end's page through the page cache (zero_align). */
	start = ox_align_down(ox_min_u64(length, io->length), zero_align(io));
	ox_rangelock_acquire_co(&io->rmw, &range, start, UINT64_MAX - start, true);
	r = set_length_locked_co(io, length);
	ox_rangelock_release(&io->rmw, &range);
	return r;
}

/* Of what makes holes of data. */
static uint64_t changes_of(const struct ox_io *io)
{
	return io->counts[OX_IO_COUNT_PUNCHES] + io->counts[OX_IO_COUNT_ZEROES] +
	       io->counts[OX_IO_COUNT_LENGTHS];
}

/* A hole is never believed twice: a write may have filled it. */
static bool is_known_data(const struct ox_io *io, uint64_t offset, struct ox_io_extent *ret)
{
	if (io->data.changes != changes_of(io) || offset < io->data.start || offset >= io->data.end)
		return false;
	*ret = (struct ox_io_extent){.length = io->data.end - offset};
	return true;
}

/* What was told of the offset when there had been so many changes. */
static void remember_data(struct ox_io *io, uint64_t offset, const struct ox_io_extent *e,
			  uint64_t changes)
{
	if (e->zero)
		return;
	io->data.start = offset;
	io->data.end = offset + e->length;
	io->data.changes = changes;
}

int ox_io_extent_co(struct ox_io *io, uint64_t offset, struct ox_io_extent *ret)
{
	uint64_t changes = changes_of(io);
	struct ox_io_extent e;
	int r;

	check_store(io);
	if (offset > INT64_MAX)
		return -EINVAL;
	if (is_known_data(io, offset, ret))
		return 0;
	r = io->ops->extent_co(io, offset, &e);
	if (r < 0)
		return r;
	remember_data(io, offset, &e, changes);
	*ret = e;
	return 0;
}

int ox_io_actual_bytes(const struct ox_io *io, uint64_t *ret)
{
	return io->ops->actual_bytes ? io->ops->actual_bytes(io, ret) : -ENOTSUP;
}

int ox_io_extents_co(struct ox_io *io, uint64_t offset, uint64_t limit, struct ox_io_extent *ret,
		     int max)
{
	uint64_t changes = changes_of(io);
	int r;

	check_store(io);
	ox_assert(max > 0 && limit > 0);
	if (offset > INT64_MAX)
		return -EINVAL;
	if (is_known_data(io, offset, ret))
		return 1;
	if (io->ops->extents_co) {
		r = io->ops->extents_co(io, offset, limit, ret, max);
	} else {
		r = io->ops->extent_co(io, offset, ret);
		r = r < 0 ? r : 1;
	}
	for (int i = 0; i + 1 < r; i++)
		offset += ret[i].length;
	if (r > 0) /* a long stretch is the last one: nobody asks for more behind it */
		remember_data(io, offset, &ret[r - 1], changes);
	return r;
}

bool ox_io_has_grown_co(struct ox_io *io)
{
	uint64_t length;

	check_store(io);
	if (!io->ops->measure_co || (io->can_grow && !io->read_only))
		return false;
	if (io->ops->measure_co(io, &length) < 0 || length <= io->length)
		return false;
	io->length = length;
	return true;
}

int ox_io_reopen(struct ox_io *io, bool read_only, struct ox_error **err)
{
	if (read_only == io->read_only)
		return 0;
	if (!io->ops->reopen)
		return ox_error_set(err, -ENOTSUP, "'%s' cannot be reopened", io->name);
	return io->ops->reopen(io, read_only, err);
}

void ox_io_close(struct ox_io *io)
{
	if (!io)
		return;
	ox_assert(ox_rangelock_idle(&io->rmw));
	ox_io_close_witness(io);
	free(io->behind);
	io->ops->close(io);
}
