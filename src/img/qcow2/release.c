/* SPDX-License-Identifier: MIT */
/*
 * A freed cluster loses a reference. D4: the hole is punched while the refcount still holds the
 * cluster, and only then is the refcount lowered, so that nobody can be handed the cluster with a
 * punch still under way.
 */
#include <errno.h>

#include "img/qcow2/qcow2.h"

void ox_space_set_floor(struct ox_qcow2 *q, uint64_t clusters)
{
	q->space.floor = clusters;
	if (q->m.state)
		ox_state_set_line(q->m.state, OX_QCOW2_LINE_FLOOR, clusters);
}

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
	if (value > 1) {
		ox_freed_note_release(&q->m, n, value - 1);
		return ox_qcow2_finish_release_co(&q->m, start, n, value - 1);
	}
	if (at < q->m.io->length) {
		r = ox_io_punch_co(q->m.io, at, ox_min_u64(bytes, q->m.io->length - at));
		/* Without a hole it is free all the same: whoever takes it sees to its bytes. */
		if (r < 0 && r != -EOPNOTSUPP && !ox_io_is_full(r))
			return r;
	}
	ox_freed_note_release(&q->m, n, 0);
	return ox_qcow2_finish_release_co(&q->m, start, n, 0);
}

int ox_qcow2_finish_release_co(struct ox_mapped *m, uint64_t start, uint64_t n, uint64_t count)
{
	struct ox_qcow2 *q = ox_qcow2_of_mapped(m);
	int r;

	if (count > ox_qcow2_refcount_max(ox_qcow2_hdr(q)->refcount_order))
		return -EINVAL; /* another process's word */
	r = ox_refcount_set_co(q, start, n, count);
	if (r == 0 && count == 0)
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

int ox_qcow2_take_back_co(struct ox_mapped *m, struct ox_alloc_range *range)
{
	struct ox_qcow2 *q = ox_qcow2_of_mapped(m);
	int r = ox_refcount_set_co(q, range->start, range->count, 0);

	if (r == 0)
		q->space.cursor = ox_min_u64(q->space.cursor, range->start);
	ox_alloc_drop_batch(m, range);
	return r;
}

int ox_qcow2_settle_co(struct ox_mapped *m)
{
	struct ox_qcow2 *q = ox_qcow2_of_mapped(m);
	int r = ox_pack_leave_locked_co(q);

	return r < 0 ? r : ox_cache_flush_co(&q->counts);
}

/*
 * The end of the file without what is free there, and without the refcount blocks that a reserve
 * has left behind, which count themselves alone. Their entries are durably gone before the file is
 * cut: no entry ever names what is not there.
 */
static int find_end_co(struct ox_qcow2 *q, uint64_t floor, uint64_t *ret_end)
{
	bool dropped = false;
	bool any = false;
	uint64_t value;
	int r = 0;

	for (; *ret_end > floor; --*ret_end) {
		r = ox_refcount_get_co(q, *ret_end - 1, &value);
		if (r < 0)
			return r;
		if (value == 0)
			continue;
		if (value == 1 && q->m.io->can_grow)
			r = ox_refcount_drop_lone_block_co(q, *ret_end - 1, &dropped);
		if (r < 0 || value > 1 || !dropped)
			break;
		any = true;
		dropped = false;
	}
	if (ox_io_is_full(r))
		r = 0; /* that block stays */
	if (r == 0 && any)
		r = ox_cache_flush_co(&q->counts);
	if (r == 0 && any)
		r = ox_order_wait_co(&q->m.order, ox_order_ticket(&q->m.order));
	return r;
}

int ox_qcow2_shrink_co(struct ox_mapped *m)
{
	struct ox_qcow2 *q = ox_qcow2_of_mapped(m);
	uint64_t old_end = ox_div_up(q->m.io->length, q->m.cluster_bytes);
	uint64_t floor = ox_max_u64(q->space.floor, 1);
	uint64_t end = old_end;
	int r;

	ox_mutex_lock_co(&q->m.alloc.lock);
	r = ox_pack_leave_locked_co(q);
	if (r == 0)
		r = ox_alloc_return_reserve_locked_co(&q->m);
	if (r == 0)
		r = ox_cache_flush_co(&q->counts);
	/* What this opening has not added it does not cut: a refcount that was lost would take
	 * the cluster's bytes with it. */
	if (r == 0)
		r = find_end_co(q, floor, &end);
	if (r == 0 && end < old_end && q->m.io->can_grow)
		r = ox_mapped_set_length_co(&q->m, end * q->m.cluster_bytes);
	ox_mutex_unlock(&q->m.alloc.lock);
	return r;
}
