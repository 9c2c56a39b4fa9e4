/* SPDX-License-Identifier: MIT */
/* Preallocation, of a new disk and of what a larger one gains: every cluster gets its place before
 * the guest comes. */
#include <errno.h>

#include "img/qcow2/qcow2.h"

/* Clusters of one step. */
#define PIECE UINT64_C(1024)

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

/* What is to be done, of a creation or a growth. */
struct work {
	enum ox_preallocation mode;
	void (*progress)(void *opaque, uint64_t done, uint64_t total);
	int (*interrupted)(void *opaque);
	void *opaque;
};

/* The next clusters at, which get places where they have none. */
static int place_some_co(struct ox_qcow2 *q, uint64_t at, uint64_t end, const struct work *w,
			 uint64_t *ret_clusters)
{
	struct ox_map_run run;
	struct ox_range range;
	uint64_t n;
	int r;

	ox_mapped_lock_co(&q->m, &range, at, ox_min_u64(end - at, PIECE * q->m.cluster_bytes),
			  true);
	r = ox_mapped_lookup_co(&q->m, ox_guest(at), end - at, &run);
	n = r == 0 ? ox_min_u64(run.length >> q->m.cluster_bits, PIECE) : 0;
	/* Where a backing file reaches this far the entries say zero. */
	if (r == 0 && (run.kind == OX_MAP_UNALLOCATED || run.kind == OX_MAP_ZERO))
		r = allocate_run_co(q, at, n, w->mode, &n);
	ox_rangelock_release(&q->m.guest, &range);
	if (r == 0)
		*ret_clusters = n;
	return r;
}

static int preallocate_co(struct ox_qcow2 *q, uint64_t start, uint64_t end, const struct work *w)
{
	uint64_t n = 0;
	int r = 0;

	ox_alloc_expect(&q->m, (end - start) >> q->m.cluster_bits);
	for (uint64_t at = start; r == 0 && at < end; at += n * q->m.cluster_bytes) {
		if (w->interrupted && w->interrupted(w->opaque))
			r = -EINTR;
		else
			r = place_some_co(q, at, end, w, &n);
		if (r == 0 && w->progress)
			w->progress(w->opaque, at - start, end - start);
	}
	if (r == 0 && w->progress)
		w->progress(w->opaque, end - start, end - start);
	ox_alloc_expect(&q->m, 0);
	return r;
}

int ox_qcow2_preallocate_co(struct ox_image *img, const struct ox_create_options *opts)
{
	struct ox_qcow2 *q = ox_qcow2_of(img);
	struct work w = {opts->preallocation, opts->progress, opts->interrupted, opts->opaque};
	int r = preallocate_co(q, 0, ox_align_up(img->size_bytes, q->m.cluster_bytes), &w);

	return r < 0 ? r : ox_commit_co(&q->m);
}

int ox_qcow2_preallocate_new_co(struct ox_mapped *m, uint64_t offset, uint64_t end,
				const struct ox_resize_options *how)
{
	struct work w = {how->preallocation, how->progress, how->interrupted, how->opaque};

	return preallocate_co(ox_qcow2_of_mapped(m), offset, end, &w);
}
