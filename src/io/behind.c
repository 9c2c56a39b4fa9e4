/* SPDX-License-Identifier: MIT */
/*
 * Long work that leaves the page cache as it was: what it reads is read once, and what it writes is
 * not read again.
 *
 * The ranges that are touched make up a lot. Once a lot has LOT_BYTES its write-out begins; when
 * the next lot is that large it is waited for, and its pages are given up. So the dirty pages of a
 * conversion have a bound (J5), and the pages of requests in flight are let be.
 *
 * A lot knows its ranges rather exactly: a source that is read here and there is not to lose the
 * pages between, which are read later. At the end all that was touched goes once more, in coarse
 * ranges: pages that the kernel has read ahead lie beside those that were asked for.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "base/assert.h"
#include "io/io.h"

#define LOT_BYTES (UINT64_C(8) << 20)

/* Ranges so close to each other count as one. There are never more than so many. */
#define LOT_GAP_BYTES (UINT64_C(64) << 10)
#define LOT_RANGES 256
#define ALL_GAP_BYTES (UINT64_C(2) << 20)
#define ALL_RANGES 16

struct lot {
	int count;
	uint64_t bytes;
	bool written;
	struct ox_io_range ranges[LOT_RANGES];
};

struct ox_io_behind {
	struct lot *now;
	struct lot *last; /* on its way to the medium */
	int all_count;
	struct ox_io_range all[ALL_RANGES];
	bool written;
	bool cannot; /* the store */
};

/* ---- what was touched ---- */

static uint64_t distance(const struct ox_io_range *a, const struct ox_io_range *b)
{
	if (a->start > b->end)
		return a->start - b->end;
	return b->start > a->end ? b->start - a->end : 0;
}

static void touch(struct ox_io_range *ranges, int *count, int max, uint64_t gap_bytes,
		  const struct ox_io_range *range)
{
	struct ox_io_range *nearest = NULL;
	uint64_t least = UINT64_MAX;

	for (int i = *count - 1; i >= 0 && least > 0; i--) {
		uint64_t d = distance(&ranges[i], range);

		if (!nearest || d < least) {
			nearest = &ranges[i];
			least = d;
		}
	}
	if (!nearest || (least > gap_bytes && *count < max)) {
		ranges[(*count)++] = *range;
		return;
	}
	nearest->start = ox_min_u64(nearest->start, range->start);
	nearest->end = ox_max_u64(nearest->end, range->end);
}

void ox_io_behind_touched(struct ox_io *io, uint64_t offset, uint64_t length, bool written)
{
	struct ox_io_behind *b = io->behind;
	const struct ox_io_range range = {offset, offset + length};

	if (length == 0)
		return;
	touch(b->now->ranges, &b->now->count, LOT_RANGES, LOT_GAP_BYTES, &range);
	b->now->bytes += length;
	b->now->written |= written;
	touch(b->all, &b->all_count, ALL_RANGES, ALL_GAP_BYTES, &range);
	b->written |= written;
}

/* ---- letting go of it ---- */

static int let_go_co(struct ox_io *io, const struct ox_io_range *ranges, int count, unsigned how)
{
	int r = count > 0 ? ox_io_let_go_co(io, ranges, count, how) : 0;

	if (r == -EOPNOTSUPP) {
		io->behind->cannot = true;
		return 0;
	}
	return r;
}

static unsigned drop_flags(bool written)
{
	return OX_IO_LET_GO_DROP | (written ? OX_IO_LET_GO_WAIT : 0);
}

void ox_io_behind_begin(struct ox_io *io)
{
	struct ox_io_behind *b;

	if (io->behind || !io->ops->let_go_co)
		return;
	b = calloc(1, sizeof(*b));
	if (b)
		b->now = calloc(1, sizeof(*b->now));
	if (b && b->now)
		io->behind = b;
	else /* without it, pages stay */
		free(b);
}

int ox_io_behind_co(struct ox_io *io)
{
	struct ox_io_behind *b = io->behind;
	struct lot *now;
	struct lot *next;
	struct lot *last;
	int r = 0;

	if (!b || b->now->bytes < LOT_BYTES)
		return 0;
	next = calloc(1, sizeof(*next));
	if (!next)
		return 0; /* the lot grows */
	/* Others touch, and come here, while this one waits: from then on the lot of now is theirs
	 * to drop. */
	last = b->last;
	now = b->now;
	b->last = now;
	b->now = next;
	if (now->written && !b->cannot)
		r = let_go_co(io, now->ranges, now->count, OX_IO_LET_GO_START);
	if (r == 0 && last && !b->cannot)
		r = let_go_co(io, last->ranges, last->count, drop_flags(last->written));
	free(last);
	return r;
}

int ox_io_behind_end_co(struct ox_io *io)
{
	struct ox_io_behind *b = io->behind;
	int r = 0;

	if (!b)
		return 0;
	if (!b->cannot)
		r = let_go_co(io, b->all, b->all_count, drop_flags(b->written));
	io->behind = NULL;
	free(b->now);
	free(b->last);
	free(b);
	return r;
}

/* On its way, on the stack of the task that waits for it. */
struct ox_io_letting_go {
	struct ox_io_letting_go *next; /* began earlier */
	uint64_t number;
	struct ox_waitq ended;
};

static void unlink_letting_go(struct ox_io *io, const struct ox_io_letting_go *own)
{
	struct ox_io_letting_go **at = &io->letting_go;

	while (*at != own)
		at = &(*at)->next;
	*at = own->next;
}

int ox_io_let_go_co(struct ox_io *io, const struct ox_io_range *ranges, int count, unsigned how)
{
	struct ox_io_letting_go own = {.next = io->letting_go, .number = io->let_go_count};
	int r;

	if (!io->ops->let_go_co)
		return -EOPNOTSUPP;
	io->let_go_count++;
	ox_waitq_init(&own.ended);
	io->letting_go = &own;
	r = io->ops->let_go_co(io, ranges, count, how);
	/* Linux tells an error of write-out once for each description: no sync would tell this one
	 * (docs/process-death.md). */
	if (r < 0 && r != -EOPNOTSUPP)
		io->write_out_error = r;
	unlink_letting_go(io, &own);
	ox_waitq_wake_all(&own.ended);
	return r;
}

void ox_io_wait_for_letting_go_co(struct ox_io *io)
{
	const uint64_t begun = io->let_go_count;
	struct ox_io_letting_go *at = io->letting_go;

	while (at) {
		if (at->number < begun) {
			ox_waitq_wait_co(&at->ended);
			at = io->letting_go;
		} else {
			at = at->next;
		}
	}
}
