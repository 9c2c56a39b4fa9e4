/* SPDX-License-Identifier: MIT */
/*
 * A freed cluster loses a reference. D4: the hole is punched while the refcount still holds the
 * cluster, and only then is the refcount lowered, so that nobody can be handed the cluster with a
 * punch still under way.
 */
#include <errno.h>

#include "img/qcow2/qcow2.h"

/* How many clusters from start on have refcount value, up to most. */
static int count_alike_co(struct ox_qcow2 *q, uint64_t start, uint64_t most, uint64_t *ret_value,
			  uint64_t *ret_n)
{
	uint64_t value;
	uint64_t other;
	uint64_t n = 1;
	int r;

	r = ox_refcount_get_co(q, start, &value);
	while (r == 0 && n < most) {
		r = ox_refcount_get_co(q, start + n, &other);
		if (r < 0 || other != value)
			break;
		n++;
	}
	*ret_value = value;
	*ret_n = n;
	return r;
}

static int release_run_co(struct ox_qcow2 *q, uint64_t start, uint64_t n, uint64_t value)
{
	uint64_t bytes = n * q->m.cluster_bytes;
	uint64_t at = start * q->m.cluster_bytes;
	int r;

	if (value == 0) { /* freed twice: the counts are wrong, touch nothing */
		ox_corrupt_counts(q, "refcount-too-low", ox_host(at), bytes);
		return -EIO;
	}
	if (ox_alloc_overlaps_metadata(&q->m, start, n)) {
		ox_mapped_refuse(&q->m, "metadata-overlap", ox_host(at), bytes);
		return -EIO;
	}
	if (value > 1)
		return ox_refcount_set_co(q, start, n, value - 1);
	if (at < q->m.io->length) {
		r = ox_io_punch_co(q->m.io, at, ox_min_u64(bytes, q->m.io->length - at));
		/* Without a hole it is free all the same: whoever takes it sees to its bytes. */
		if (r < 0 && r != -EOPNOTSUPP && !ox_io_is_full(r))
			return r;
	}
	r = ox_refcount_set_co(q, start, n, 0);
	if (r == 0)
		q->space.cursor = ox_min_u64(q->space.cursor, start);
	return r;
}

/*
 * No run crosses a slice of counts, so that it is lowered as a whole or not at all: what found no
 * room is tried again, and must not be lowered twice (D3).
 */
int ox_qcow2_release_co(struct ox_mapped *m, uint64_t start, uint64_t most, uint64_t *ret_n)
{
	struct ox_qcow2 *q = ox_qcow2_of_mapped(m);
	uint64_t per_slice = m->slice_bytes * 8 >> ox_qcow2_hdr(q)->refcount_order;
	uint64_t value;
	int r;

	most = ox_min_u64(most, per_slice - start % per_slice);
	r = count_alike_co(q, start, most, &value, ret_n);
	return r < 0 ? r : release_run_co(q, start, *ret_n, value);
}

int ox_qcow2_take_back_co(struct ox_mapped *m, const struct ox_alloc_range *range)
{
	struct ox_qcow2 *q = ox_qcow2_of_mapped(m);
	int r = ox_refcount_set_co(q, range->start, range->count, 0);

	if (r == 0)
		q->space.cursor = ox_min_u64(q->space.cursor, range->start);
	return r;
}

int ox_qcow2_settle_co(struct ox_mapped *m)
{
	return ox_cache_flush_co(&ox_qcow2_of_mapped(m)->counts);
}

int ox_qcow2_shrink_co(struct ox_mapped *m)
{
	struct ox_qcow2 *q = ox_qcow2_of_mapped(m);
	uint64_t end;
	uint64_t old_end = ox_div_up(q->m.io->length, q->m.cluster_bytes);
	uint64_t floor = ox_max_u64(q->space.floor, 1);
	uint64_t value;
	int r;

	ox_mutex_lock_co(&q->m.alloc.lock);
	r = ox_alloc_return_reserve_locked_co(&q->m);
	if (r == 0)
		r = ox_cache_flush_co(&q->counts);
	/* What this opening has not added it does not cut: a refcount that was lost would take
	 * the cluster's bytes with it. */
	for (end = old_end; r == 0 && end > floor; end--) {
		r = ox_refcount_get_co(q, end - 1, &value);
		if (r < 0 || value > 0)
			break;
	}
	if (r == 0 && end < old_end && q->m.io->can_grow)
		r = ox_io_set_length_co(q->m.io, end * q->m.cluster_bytes);
	ox_mutex_unlock(&q->m.alloc.lock);
	return r;
}
