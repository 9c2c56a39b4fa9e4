/* SPDX-License-Identifier: MIT */
/*
 * A disk that holds nothing: reads give zeroes, and writes are forgotten. A source and a target for
 * measuring what lies between. With read-zeroes it says that it reads so; without, it is data to
 * whoever asks, so that all of it is read.
 *
 *   null-co://[?size=BYTES][&read-zeroes=on|off]
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/iov.h"
#include "io/io.h"

#define PREFIX "null-co://"
#define DEFAULT_BYTES (UINT64_C(1) << 30)

struct null_store {
	struct ox_io io;
	bool reads_zero;
};

static struct null_store *null_of(const struct ox_io *io)
{
	return ox_container_of(io, struct null_store, io);
}

static int64_t null_preadv_co(struct ox_io *io, const struct iovec *iov, int n, uint64_t offset)
{
	uint64_t done = 0;

	for (int i = 0; i < n && offset + done < io->length; i++) {
		size_t part = ox_min_u64(iov[i].iov_len, io->length - offset - done);

		if (part > 0)
			memset(iov[i].iov_base, 0, part);
		done += part;
	}
	return (int64_t)done;
}

static int64_t null_pwritev_co(struct ox_io *io, const struct iovec *iov, int n, uint64_t offset,
			       unsigned flags)
{
	uint64_t bytes = ox_iov_bytes(iov, n);

	(void)flags;
	return offset + bytes > io->length ? -ENOSPC : (int64_t)bytes;
}

static int null_sync_co(struct ox_io *io)
{
	(void)io;
	return 0;
}

static int null_zero_co(struct ox_io *io, uint64_t offset, uint64_t length)
{
	(void)io;
	(void)offset;
	(void)length;
	return 0;
}

static int null_reserve_co(struct ox_io *io, uint64_t offset, uint64_t length)
{
	return offset + length > io->length ? -ENOSPC : 0;
}

static int null_set_length_co(struct ox_io *io, uint64_t length)
{
	return length == io->length ? 0 : -EOPNOTSUPP;
}

static int null_extent_co(struct ox_io *io, uint64_t offset, struct ox_io_extent *ret)
{
	bool past_end = offset >= io->length;

	*ret = (struct ox_io_extent){
		.length = past_end ? UINT64_MAX - offset : io->length - offset,
		.zero = past_end || null_of(io)->reads_zero,
	};
	return 0;
}

static int null_actual_bytes(const struct ox_io *io, uint64_t *ret)
{
	(void)io;
	*ret = 0;
	return 0;
}

static int null_reopen(struct ox_io *io, bool read_only, struct ox_error **err)
{
	(void)err;
	io->read_only = read_only;
	return 0;
}

static void null_close(struct ox_io *io)
{
	free(io->name);
	free(null_of(io));
}

static const struct ox_io_ops null_ops = {
	.name = "null",
	.preadv_co = null_preadv_co,
	.pwritev_co = null_pwritev_co,
	.sync_co = null_sync_co,
	.punch_co = null_zero_co,
	.zero_co = null_zero_co,
	.reserve_co = null_reserve_co,
	.set_length_co = null_set_length_co,
	.extent_co = null_extent_co,
	.actual_bytes = null_actual_bytes,
	.reopen = null_reopen,
	.close = null_close,
};

bool ox_io_null_is_uri(const char *uri)
{
	return strncmp(uri, PREFIX, strlen(PREFIX)) == 0;
}

static bool take_size(const char *text, size_t count, uint64_t *ret)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < count; i++) {
		if (text[i] < '0' || text[i] > '9' || bytes > (uint64_t)INT64_MAX / 10)
			return false;
		bytes = bytes * 10 + (uint64_t)(text[i] - '0');
	}
	*ret = bytes;
	return count > 0 && bytes <= INT64_MAX - 511;
}

/* One KEY=VALUE of so many bytes. */
static bool take(struct null_store *s, const char *text, size_t count)
{
	static const char size[] = "size=", on[] = "read-zeroes=on", off[] = "read-zeroes=off";
	size_t n = strlen(size);

	if (count > n && strncmp(text, size, n) == 0)
		return take_size(text + n, count - n, &s->io.length);
	s->reads_zero = count == strlen(on) && strncmp(text, on, count) == 0;
	return s->reads_zero || (count == strlen(off) && strncmp(text, off, count) == 0);
}

static int parse(struct null_store *s, struct ox_error **err)
{
	const char *at = s->io.name + strlen(PREFIX);
	bool good = *at == '\0' || *at == '?';

	while (good && *at) {
		size_t count = strcspn(++at, "&");

		good = take(s, at, count);
		at += count;
	}
	return good ? 0
		    : ox_error_set(err, -EINVAL,
				   "'%s' is not of the form " PREFIX
				   "[?size=BYTES][&read-zeroes=on|off]",
				   s->io.name);
}

int ox_io_null_open(struct ox_reactor *r, const char *uri, unsigned flags, struct ox_io **ret,
		    struct ox_error **err)
{
	struct null_store *s = calloc(1, sizeof(*s));
	int e;

	if (!s)
		return ox_error_set(err, -ENOMEM, "Out of memory");
	s->io = (struct ox_io){
		.ops = &null_ops,
		.reactor = r,
		.name = strdup(uri),
		.length = DEFAULT_BYTES,
		.align_bytes = 1,
		.read_only = flags & OX_IO_READ_ONLY,
		.is_remote = true,
	};
	ox_rangelock_init(&s->io.rmw);
	e = s->io.name ? parse(s, err) : ox_error_set(err, -ENOMEM, "Out of memory");
	if (e < 0) {
		null_close(&s->io);
		return e;
	}
	*ret = &s->io;
	return 0;
}
