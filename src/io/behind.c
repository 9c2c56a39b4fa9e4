/* SPDX-License-Identifier: MIT */
/*
 * Long work that leaves the page cache as it was: what it reads is read once, and what it writes is
 * not read again.
 *
 * The ranges that are touched make up a lot. Once a lot has LOT_BYTES its write-out begins; when
 * the next lot is that large it is waited for, and its pages are given up. So the dirty pages of a
 * conversion have a bound (J5), and the pages of requests in flight are let be.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/assert.h"
#include "io/io.h"

#define LOT_BYTES (UINT64_C(8) << 20)
/* Between two ranges that count as one: those of requests that end out of their order. */
#define GAP_BYTES (UINT64_C(2) << 20)
#define RANGES 16

struct range {
	uint64_t start;
	uint64_t end;
};

struct lot {
	struct range ranges[RANGES];
	int count;
	uint64_t bytes;
	bool written;
};

struct ox_io_behind {
	struct lot now;
	struct lot last; /* on its way to the medium */
	bool cannot;	 /* the store */
};

/* ---- what was touched ---- */

static uint64_t distance(const struct range *a, const struct range *b)
{
	if (a->start > b->end)
		return a->start - b->end;
	return b->start > a->end ? b->start - a->end : 0;
}

static void touch(struct lot *lot, struct range range)
{
	struct range *nearest = NULL;
	uint64_t least = UINT64_MAX;

	for (int i = 0; i < lot->count; i++) {
		uint64_t d = distance(&lot->ranges[i], &range);

		if (!nearest || d < least) {
			nearest = &lot->ranges[i];
			least = d;
		}
	}
	if (!nearest || (least > GAP_BYTES && lot->count < RANGES)) {
		lot->ranges[lot->count++] = range;
		return;
	}
	nearest->start = ox_min_u64(nearest->start, range.start);
	nearest->end = ox_max_u64(nearest->end, range.end);
}

void ox_io_behind_touched(struct ox_io *io, uint64_t offset, uint64_t length, bool written)
{
	struct lot *lot = &io->behind->now;

	if (length == 0)
		return;
	touch(lot, (struct range){offset, offset + length});
	lot->bytes += length;
	lot->written |= written;
}

/* ---- letting go of it ---- */

static int let_go_co(struct ox_io *io, const struct lot *lot, unsigned how)
{
	int r = 0;

	for (int i = 0; r == 0 && i < lot->count; i++) {
		const struct range *range = &lot->ranges[i];

		r = ox_io_let_go_co(io, range->start, range->end - range->start, how);
	}
	if (r == -EOPNOTSUPP) {
		io->behind->cannot = true;
		return 0;
	}
	return r;
}

static int drop_co(struct ox_io *io, const struct lot *lot)
{
	return let_go_co(io, lot, OX_IO_LET_GO_DROP | (lot->written ? OX_IO_LET_GO_WAIT : 0));
}

void ox_io_behind_begin(struct ox_io *io)
{
	if (!io->behind && io->ops->let_go_co)
		io->behind = calloc(1, sizeof(*io->behind)); /* without it, pages stay */
}

int ox_io_behind_co(struct ox_io *io)
{
	struct ox_io_behind *b = io->behind;
	struct lot last;
	struct lot now;
	int r = 0;

	if (!b || b->now.bytes < LOT_BYTES)
		return 0;
	/* Others touch, and come here, while this one waits. */
	last = b->last;
	now = b->now;
	b->last = now;
	memset(&b->now, 0, sizeof(b->now));
	if (b->cannot)
		return 0;
	if (now.written)
		r = let_go_co(io, &now, OX_IO_LET_GO_START);
	return r < 0 ? r : drop_co(io, &last);
}

int ox_io_behind_end_co(struct ox_io *io)
{
	struct ox_io_behind *b = io->behind;
	int r = 0;

	if (!b)
		return 0;
	if (!b->cannot)
		r = drop_co(io, &b->last);
	if (r == 0 && !b->cannot)
		r = drop_co(io, &b->now);
	io->behind = NULL;
	free(b);
	return r;
}

int ox_io_let_go_co(struct ox_io *io, uint64_t offset, uint64_t length, unsigned how)
{
	int r = io->ops->let_go_co ? io->ops->let_go_co(io, offset, length, how) : -EOPNOTSUPP;

	/* Linux tells an error of write-out once for each description: no sync would tell this one
	 * (docs/process-death.md). */
	if (r < 0 && r != -EOPNOTSUPP)
		io->write_out_error = r;
	return r;
}
