/* SPDX-License-Identifier: MIT */
/* Guest reads: under a shared lock, so that nothing that an entry names is freed meanwhile (H4). */
#include <errno.h>

#include "base/iov.h"
#include "img/chain.h"
#include "img/mapped/mapped.h"

void ox_mapped_lock_co(struct ox_mapped *m, struct ox_range *range, uint64_t offset,
		       uint64_t length, bool exclusive)
{
	uint64_t start = ox_align_down(offset, m->cluster_bytes);
	uint64_t end = ox_align_up(offset + length, m->cluster_bytes);

	ox_rangelock_acquire_co(&m->guest, range, start, end - start, exclusive);
}

bool ox_mapped_is_backed(const struct ox_mapped *m, uint64_t offset)
{
	const struct ox_image *backing = m->img->backing;

	/* An image whose chain was left closed must not read as if it had none. */
	if (!backing)
		return m->img->backing_name;
	return offset < backing->size_bytes;
}

static int read_run_co(struct ox_mapped *m, const struct ox_map_run *run, const struct iovec *iov,
		       int n, uint64_t skip, uint64_t offset)
{
	switch (run->kind) {
	case OX_MAP_DATA:
		return ox_io_preadv_part_co(m->io, iov, n, skip, run->length, run->host.bytes);
	case OX_MAP_UNALLOCATED: /* and no backing file has it */
	case OX_MAP_ZERO:
	case OX_MAP_ZERO_ALLOC:
		ox_iov_zero(iov, n, skip, run->length);
		return 0;
	case OX_MAP_COMPRESSED:
		return m->ops->read_compressed_co(m, run, iov, n, skip, offset);
	}
	return -EIO;
}

/* Whether the backing file has the run, or its beginning. */
static bool is_below(const struct ox_mapped *m, const struct ox_map_run *run, uint64_t offset)
{
	return run->kind == OX_MAP_UNALLOCATED && ox_mapped_is_backed(m, offset);
}

int ox_mapped_read_unlocked_co(struct ox_mapped *m, const struct iovec *iov, int n, uint64_t offset,
			       uint64_t length)
{
	struct ox_image *backing = m->img->backing;
	struct ox_map_run run;
	uint64_t done = 0;
	int r;

	while (done < length) {
		r = ox_mapped_lookup_co(m, ox_guest(offset + done), length - done, &run);
		if (r < 0)
			return r;
		if (run.kind == OX_MAP_COMPRESSED && run.length < length - done)
			r = m->ops->read_streams_co(m, &run, iov, n, done, offset + done,
						    length - done, &run.length);
		else if (!is_below(m, &run, offset + done))
			r = read_run_co(m, &run, iov, n, done, offset + done);
		else if (backing)
			r = ox_chain_read_co(backing, iov, n, done, offset + done, run.length);
		else
			r = -EIO;
		if (r < 0)
			return r;
		done += run.length;
	}
	return 0;
}

int ox_mapped_preadv_co(struct ox_image *img, const struct iovec *iov, int n, uint64_t offset,
			uint64_t length)
{
	struct ox_mapped *m = ox_mapped_of(img);
	struct ox_range range;
	int r;

	ox_mapped_lock_co(m, &range, offset, length, false);
	r = ox_mapped_read_unlocked_co(m, iov, n, offset, length);
	ox_rangelock_release(&m->guest, &range);
	return r;
}

int ox_mapped_read_part_co(struct ox_image *img, const struct iovec *iov, int n, uint64_t skip,
			   uint64_t offset, uint64_t *length, bool *ret_below)
{
	struct ox_mapped *m = ox_mapped_of(img);
	struct ox_map_run run;
	struct ox_range range;
	int r;

	ox_mapped_lock_co(m, &range, offset, *length, false);
	r = ox_mapped_lookup_co(m, ox_guest(offset), *length, &run);
	if (r == 0) {
		*length = run.length;
		*ret_below = is_below(m, &run, offset);
		if (!*ret_below)
			r = read_run_co(m, &run, iov, n, skip, offset);
	}
	ox_rangelock_release(&m->guest, &range);
	return r;
}
