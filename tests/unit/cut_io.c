/* SPDX-License-Identifier: MIT */
#include "cut_io.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/assert.h"

#define SECTOR 512u
#define BLOCK 4096u
#define ROOM_BYTES (UINT64_C(1) << 20)

struct image_bytes {
	uint8_t *bytes;
	uint64_t length;
};

struct cut_store {
	struct ox_io io;
	struct cut *cut;
	struct image_bytes current;
	struct image_bytes durable;
	uint64_t room_bytes; /* of either */
	bool unsynced;
};

static struct cut_store *store_of(struct ox_io *io)
{
	return ox_container_of(io, struct cut_store, io);
}

static void keep(struct cut_store *s)
{
	uint64_t most = ox_max_u64(s->current.length, s->durable.length);

	memcpy(s->durable.bytes, s->current.bytes, most);
	s->durable.length = s->current.length;
	s->unsynced = false;
}

static bool is_cut(struct cut_store *s)
{
	if (s->cut->after && s->cut->changes >= s->cut->after)
		return true;
	s->cut->changes++;
	return false;
}

static int64_t cut_preadv_co(struct ox_io *io, const struct iovec *iov, int n, uint64_t offset)
{
	struct cut_store *s = store_of(io);
	int64_t done = 0;

	for (int i = 0; i < n && offset < s->current.length; i++) {
		size_t part = ox_min_u64(iov[i].iov_len, s->current.length - offset);

		memcpy(iov[i].iov_base, s->current.bytes + offset, part);
		offset += part;
		done += (int64_t)part;
	}
	return done;
}

static int64_t cut_pwritev_co(struct ox_io *io, const struct iovec *iov, int n, uint64_t offset,
			      unsigned flags)
{
	struct cut_store *s = store_of(io);
	int64_t done = 0;

	(void)flags;
	if (is_cut(s))
		return -EIO;
	for (int i = 0; i < n; i++) {
		ox_assert(offset + iov[i].iov_len <= s->room_bytes);
		memcpy(s->current.bytes + offset, iov[i].iov_base, iov[i].iov_len);
		offset += iov[i].iov_len;
		done += (int64_t)iov[i].iov_len;
	}
	s->current.length = ox_max_u64(s->current.length, offset);
	s->unsynced = true;
	return done;
}

static int cut_set_length_co(struct ox_io *io, uint64_t length)
{
	struct cut_store *s = store_of(io);

	ox_assert(length <= s->room_bytes);
	if (is_cut(s))
		return -EIO;
	if (length < s->current.length)
		memset(s->current.bytes + length, 0, s->current.length - length);
	s->current.length = length;
	s->unsynced = true;
	return 0;
}

static int cut_sync_co(struct ox_io *io)
{
	struct cut_store *s = store_of(io);

	if (is_cut(s))
		return -EIO;
	if (++s->cut->syncs == s->cut->deaf)
		return 0;
	keep(s);
	return 0;
}

static void cut_close(struct ox_io *io)
{
	struct cut_store *s = store_of(io);

	free(s->current.bytes);
	free(s->durable.bytes);
	free(io->name);
	free(s);
}

static int cut_punch_co(struct ox_io *io, uint64_t offset, uint64_t length)
{
	struct cut_store *s = store_of(io);

	if (!s->cut->sparse)
		return -EOPNOTSUPP;
	if (s->cut->punch_error)
		return s->cut->punch_error;
	if (is_cut(s))
		return -EIO;
	memset(s->current.bytes + offset, 0, length);
	s->cut->punches++;
	s->unsynced = true;
	return 0;
}

static bool is_zero_block(const struct cut_store *s, uint64_t offset)
{
	const uint8_t *bytes = s->current.bytes + offset / BLOCK * BLOCK;

	return bytes[0] == 0 && memcmp(bytes, bytes + 1, BLOCK - 1) == 0;
}

static int cut_extent_co(struct ox_io *io, uint64_t offset, struct ox_io_extent *ret)
{
	struct cut_store *s = store_of(io);
	bool past_end = offset >= io->length;
	uint64_t end = offset;

	if (s->cut->sparse && !past_end) {
		bool zero = is_zero_block(s, offset);

		while (end < io->length && is_zero_block(s, end) == zero)
			end = (end / BLOCK + 1) * BLOCK;
		*ret = (struct ox_io_extent){.length = end - offset, .zero = zero};
		return 0;
	}
	*ret = (struct ox_io_extent){
		.length = past_end ? UINT64_MAX - offset : io->length - offset,
		.zero = past_end,
	};
	return 0;
}

static const struct ox_io_ops cut_ops = {
	.name = "cut",
	.preadv_co = cut_preadv_co,
	.pwritev_co = cut_pwritev_co,
	.sync_co = cut_sync_co,
	.punch_co = cut_punch_co,
	.set_length_co = cut_set_length_co,
	.extent_co = cut_extent_co,
	.close = cut_close,
};

struct ox_io *cut_open(struct ox_reactor *r, struct cut *cut, const uint8_t *bytes, uint64_t length)
{
	struct cut_store *s = calloc(1, sizeof(*s));

	ox_assert(s);
	s->room_bytes = length + (cut->room_bytes ? cut->room_bytes : ROOM_BYTES);
	s->current.bytes = calloc(1, s->room_bytes);
	s->durable.bytes = calloc(1, s->room_bytes);
	ox_assert(s->current.bytes && s->durable.bytes);
	s->io = (struct ox_io){
		.ops = &cut_ops,
		.reactor = r,
		.name = strdup("cut"),
		.length = length,
		.align_bytes = 1,
		.can_grow = true,
	};
	ox_rangelock_init(&s->io.rmw);
	s->cut = cut;
	if (bytes)
		memcpy(s->current.bytes, bytes, length);
	s->current.length = length;
	keep(s);
	return &s->io;
}

const uint8_t *cut_bytes(struct ox_io *io)
{
	return store_of(io)->current.bytes;
}

bool cut_is_unsynced(struct ox_io *io)
{
	return store_of(io)->unsynced;
}

/* A coin for each sector, each cut and each seed. */
static bool is_kept(const struct cut_store *s, unsigned seed, uint64_t at)
{
	uint64_t x =
		(at / SECTOR << 32 ^ s->cut->changes << 16 ^ seed) + UINT64_C(0x9e3779b97f4a7c15);

	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return (x ^ x >> 31) & 1;
}

void cut_recover(struct ox_io *io, unsigned seed)
{
	struct cut_store *s = store_of(io);
	struct image_bytes *left = &s->durable;

	if (is_kept(s, seed, UINT64_MAX))
		left->length = s->current.length;
	for (uint64_t at = 0; at < left->length; at += SECTOR) {
		/* What was cut off is there as long as the length is. */
		if (at < s->current.length && is_kept(s, seed, at))
			memcpy(left->bytes + at, s->current.bytes + at, SECTOR);
	}
	if (left->length < s->current.length)
		memset(left->bytes + left->length, 0, s->current.length - left->length);
	memcpy(s->current.bytes, left->bytes, ox_max_u64(left->length, s->current.length));
	s->current.length = left->length;
	s->io.length = left->length;
	s->unsynced = false;
	s->cut->changes = 0;
}
