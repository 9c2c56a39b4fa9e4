/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/iov.h"
#include "io/io.h"

#define FILL_BYTES (256u * 1024u)

int ox_io_fill_zero_co(struct ox_io *io, uint64_t offset, uint64_t length)
{
	size_t bytes = ox_min_u64(length, FILL_BYTES);
	uint8_t *buf = ox_io_buffer(bytes);
	int r = 0;

	if (!buf)
		return -ENOMEM;
	memset(buf, 0, bytes);
	while (r == 0 && length > 0) {
		size_t n = ox_min_u64(length, bytes);

		r = ox_io_pwrite_co(io, buf, n, offset, 0);
		offset += n;
		length -= n;
	}
	free(buf);
	return r;
}

int ox_io_preadv_part_co(struct ox_io *io, const struct iovec *iov, int n, uint64_t skip,
			 uint64_t count, uint64_t offset)
{
	struct ox_iov part;
	int r = ox_iov_cut(&part, iov, n, skip, count);

	if (r < 0)
		return r;
	r = ox_io_preadv_co(io, part.v, part.n, offset);
	ox_iov_free(&part);
	return r;
}

int ox_io_reserve_or_fill_co(struct ox_io *io, uint64_t offset, uint64_t length)
{
	int r = ox_io_reserve_co(io, offset, length);

	return r == -EOPNOTSUPP ? ox_io_fill_zero_co(io, offset, length) : r;
}
