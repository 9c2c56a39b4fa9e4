/* SPDX-License-Identifier: MIT */
/* create -o preallocation=: every cluster gets its place before the guest comes. */
#include <errno.h>

#include "img/qcow2/qcow2.h"

static int fill_range_co(struct ox_qcow2 *q, const struct ox_alloc_range *range,
			 enum ox_preallocation mode)
{
	uint64_t at = range->start * q->m.cluster_bytes;
	uint64_t bytes = range->count * q->m.cluster_bytes;
	int r = 0;

	if (mode == OX_PREALLOC_FULL || (mode != OX_PREALLOC_OFF && !range->zero))
		return ox_io_fill_zero_co(q->m.io, at, bytes);
	if (mode == OX_PREALLOC_FALLOC)
		r = ox_io_reserve_or_fill_co(q->m.io, at, bytes);
	return r;
}

/* One stretch of clusters, all of them unallocated before. */
static int allocate_run_co(struct ox_qcow2 *q, uint64_t offset, uint64_t clusters,
			   enum ox_preallocation mode, uint64_t *ret_done)
{
	struct ox_alloc_range range;
	uint64_t after;
	uint64_t done;
	int r;

	r = ox_alloc_take_co(&q->m, clusters, &range);
	if (r < 0)
		return r;
	*ret_done = range.count;
	r = fill_range_co(q, &range, mode);
	after = range.zero ? OX_TICKET_NONE : ox_order_ticket(&q->m.order);
	while (r == 0 && range.count > 0) {
		r = ox_mapped_set_co(&q->m, ox_guest(offset), range.count, OX_MAP_DATA,
				     ox_host(range.start * q->m.cluster_bytes), after, &done);
		if (r < 0)
			break;
		range.start += done;
		range.count -= done;
		offset += done * q->m.cluster_bytes;
	}
	if (r < 0)
		ox_alloc_free_later(&q->m, ox_host(range.start * q->m.cluster_bytes),
				    range.count * q->m.cluster_bytes);
	return r;
}

static int preallocate_co(struct ox_qcow2 *q, const struct ox_create_options *opts)
{
	uint64_t end = ox_align_up(q->m.img->size_bytes, q->m.cluster_bytes);
	struct ox_map_run run;
	uint64_t n;
	int r;

	for (uint64_t at = 0; at < end; at += n * q->m.cluster_bytes) {
		if (opts->interrupted && opts->interrupted(opts->opaque))
			return -EINTR;
		r = ox_mapped_lookup_co(&q->m, ox_guest(at), end - at, &run);
		if (r < 0)
			return r;
		n = ox_min_u64(run.length >> q->m.cluster_bits, 1024);
		if (run.kind == OX_MAP_UNALLOCATED) {
			r = allocate_run_co(q, at, n, opts->preallocation, &n);
			if (r < 0)
				return r;
		}
		if (opts->progress)
			opts->progress(opts->opaque, at, end);
	}
	if (opts->progress)
		opts->progress(opts->opaque, end, end);
	return ox_commit_co(&q->m);
}

int ox_qcow2_preallocate_co(struct ox_image *img, const struct ox_create_options *opts)
{
	struct ox_qcow2 *q = ox_qcow2_of(img);
	int r;

	ox_alloc_expect(&q->m, ox_div_up(img->size_bytes, q->m.cluster_bytes));
	r = preallocate_co(q, opts);
	ox_alloc_expect(&q->m, 0);
	return r;
}
