/* SPDX-License-Identifier: MIT */
/*
 * The store as it was when a recovery began that died, for the walk that goes on with it: no longer
 * than then, and with the L1 table of then. All else that the walk reads has not changed since (R1
 * of docs/recovery.md).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/iov.h"
#include "img/qcow2/qcow2.h"

struct opened {
	struct ox_io io;
	struct ox_io *base;
	const uint8_t *l1;
	uint64_t l1_offset;
	uint64_t l1_bytes;
};

static struct opened *opened_of(const struct ox_io *io)
{
	return ox_container_of(io, struct opened, io);
}

/* Lays the table of then over what is read of it. */
static void lay_over(const struct opened *o, uint8_t *buf, size_t count, uint64_t offset)
{
	uint64_t from = ox_max_u64(offset, o->l1_offset);
	uint64_t to = ox_min_u64(offset + count, o->l1_offset + o->l1_bytes);

	if (from < to)
		memcpy(buf + (from - offset), o->l1 + (from - o->l1_offset), to - from);
}

static int64_t opened_preadv_co(struct ox_io *io, const struct iovec *iov, int n, uint64_t offset)
{
	const struct opened *o = opened_of(io);
	int64_t done = 0;
	int r = ox_io_preadv_co(o->base, iov, n, offset);

	if (r < 0)
		return r;
	for (int i = 0; i < n; i++) {
		lay_over(o, iov[i].iov_base, iov[i].iov_len, offset + (uint64_t)done);
		done += (int64_t)iov[i].iov_len;
	}
	if (offset >= io->length)
		return 0;
	return (int64_t)ox_min_u64((uint64_t)done, io->length - offset);
}

static int64_t opened_pwritev_co(struct ox_io *io, const struct iovec *iov, int n, uint64_t offset,
				 unsigned flags)
{
	int64_t bytes = 0;
	int r = ox_io_pwritev_co(opened_of(io)->base, iov, n, offset, flags);

	for (int i = 0; i < n; i++)
		bytes += (int64_t)iov[i].iov_len;
	return r < 0 ? r : bytes;
}

static int opened_sync_co(struct ox_io *io)
{
	return ox_io_sync_co(opened_of(io)->base);
}

static int opened_extent_co(struct ox_io *io, uint64_t offset, struct ox_io_extent *ret)
{
	return ox_io_extent_co(opened_of(io)->base, offset, ret);
}

static bool opened_read_cached(const struct ox_io *io, void *buf, size_t count, uint64_t offset)
{
	const struct opened *o = opened_of(io);

	if (!ox_io_read_cached(o->base, buf, count, offset))
		return false;
	lay_over(o, buf, count, offset);
	return true;
}

static void opened_close(struct ox_io *io)
{
	free(io->name);
	free(opened_of(io));
}

static const struct ox_io_ops opened_ops = {
	.name = "opened",
	.preadv_co = opened_preadv_co,
	.pwritev_co = opened_pwritev_co,
	.sync_co = opened_sync_co,
	.extent_co = opened_extent_co,
	.read_cached = opened_read_cached,
	.close = opened_close,
};

int ox_qcow2_opened_io(struct ox_qcow2 *q, uint64_t length_bytes, struct ox_io **ret)
{
	const struct ox_qcow2_header *h = ox_qcow2_hdr(q);
	struct ox_io *base = q->m.io;
	struct opened *o = calloc(1, sizeof(*o));

	if (!o)
		return -ENOMEM;
	o->base = base;
	o->l1 = q->m.state->copy;
	o->l1_offset = h->l1_offset;
	o->l1_bytes = (uint64_t)h->l1_entries * 8;
	o->io = (struct ox_io){
		.ops = &opened_ops,
		.reactor = base->reactor,
		.name = strdup(base->name),
		.length = length_bytes,
		.align_bytes = 1,
		.space_bytes = base->space_bytes,
		.can_grow = base->can_grow,
		.device = base->device,
		.inode = base->inode,
	};
	ox_rangelock_init(&o->io.rmw);
	if (!o->io.name) {
		free(o);
		return -ENOMEM;
	}
	*ret = &o->io;
	return 0;
}
