/* SPDX-License-Identifier: MIT */
/*
 * Free clusters, as the refcounts have them: what a refill of the reserve takes, and long runs for
 * tables that must be in one piece. The order that a batch owes is told in mapped/alloc.c; in a
 * lazy image the dirty bit stands for the counts (D5).
 */
#include <errno.h>

#include "img/qcow2/qcow2.h"

bool ox_qcow2_is_lazy(const struct ox_qcow2 *q)
{
	const struct ox_qcow2_header *h = ox_qcow2_hdr(q);

	return h->version >= 3 && (h->compatible & OX_QCOW2_COMPAT_LAZY_REFCOUNTS);
}

/* Clusters that the store may have. */
static uint64_t host_limit(const struct ox_qcow2 *q)
{
	return (q->m.io->can_grow ? OX_ALLOC_HOST_MAX_BYTES : q->m.io->length) / q->m.cluster_bytes;
}

/* The next free run, within the store's limit and off the tables. */
static int next_free_co(struct ox_qcow2 *q, uint64_t most, uint64_t *ret_start, uint64_t *ret_count)
{
	uint64_t limit;
	uint64_t start;
	uint64_t count;
	int r;

	r = ox_refcount_find_free_co(q, q->space.cursor, most, &start, &count);
	if (r < 0)
		return r;
	limit = host_limit(q);
	if (start >= limit && ox_io_has_grown_co(q->m.io))
		limit = host_limit(q);
	if (start >= limit)
		return -ENOSPC;
	count = ox_min_u64(count, limit - start);
	if (ox_alloc_overlaps_metadata(&q->m, start, count)) {
		ox_mapped_refuse(&q->m, "refcount-too-low", ox_host(start * q->m.cluster_bytes),
				 count * q->m.cluster_bytes);
		return -EIO;
	}
	*ret_start = start;
	*ret_count = count;
	return 0;
}

/* A batch that failed half way was never handed out: its counts may go back at any time (H8). If
 * even that fails it is leaked. */
static int abandon_batch_co(struct ox_qcow2 *q, struct ox_alloc_range *ranges, unsigned n,
			    int error)
{
	for (unsigned i = 0; i < n; i++) {
		int r = ox_qcow2_take_back_co(&q->m, &ranges[i]);

		(void)r;
	}
	return error;
}

/* Noted before it is counted: a death in between finds it (D10). */
static int count_batch_co(struct ox_qcow2 *q, struct ox_alloc_range *range)
{
	int r;

	ox_alloc_note_batch(&q->m, range);
	r = ox_refcount_set_co(q, range->start, range->count, 1);
	return r < 0 ? abandon_batch_co(q, range, 1, r) : 0;
}

/* Behind the batch's last range, or a range of its own. */
static void join_batch(struct ox_qcow2 *q, struct ox_alloc_range *ranges, unsigned *n,
		       const struct ox_alloc_range *more)
{
	struct ox_alloc_range *last = *n > 0 ? &ranges[*n - 1] : NULL;

	if (!last || last->start + last->count != more->start) {
		ranges[(*n)++] = *more;
		return;
	}
	last->count += more->count;
	ox_note_move_end(q->m.notes, last->note, last->start + last->count);
	ox_note_drop(q->m.notes, more->note); /* both say so for a moment */
}

/* Step 1 of a refill: free clusters, counted in the cache. */
static int choose_batch_co(struct ox_qcow2 *q, uint64_t want, struct ox_alloc_range *ranges,
			   unsigned *ret_n)
{
	uint64_t left = ox_alloc_batch(&q->m, want);
	unsigned n = 0;
	bool used;
	int r = 0;

	while (left > 0 && n < OX_ALLOC_REFILL_RANGES) {
		struct ox_alloc_range range = {0};

		r = next_free_co(q, left, &range.start, &range.count);
		if (r == 0)
			r = ox_refcount_ensure_co(q, range.start, &used);
		if (r < 0)
			break;
		q->space.cursor = range.start + 1;
		q->space.named = q->space.named || used;
		if (used)
			continue;
		r = count_batch_co(q, &range);
		if (r < 0)
			break;
		q->space.cursor = range.start + range.count;
		left -= range.count;
		join_batch(q, ranges, &n, &range);
	}
	*ret_n = n;
	return n > 0 ? 0 : r;
}

/*
 * Step 2: zero, long enough, counted, and all of it durable. In a lazy image the counts may wait,
 * but not the names of new refcount blocks: on a full disk a recovery could make no others (S1).
 */
static int settle_batch_co(struct ox_qcow2 *q, struct ox_alloc_range *ranges, unsigned n)
{
	bool flush = !ox_qcow2_is_lazy(q) || q->space.named;
	int r;

	for (unsigned i = 0; i < n; i++) {
		r = ox_alloc_make_zero_co(&q->m, ranges[i].start, ranges[i].count, &ranges[i].zero);
		if (r < 0)
			return r;
	}
	if (flush) {
		r = ox_cache_flush_co(&q->counts);
		if (r < 0)
			return r;
	}
	r = ox_order_wait_co(&q->m.order, ox_order_ticket(&q->m.order));
	if (r == 0 && flush)
		q->space.named = false;
	return r;
}

/* While the counts are not known: past all that anything may name (docs/recovery.md). */
static int refill_past_end_co(struct ox_qcow2 *q, uint64_t want)
{
	struct ox_alloc_range range = {.count = ox_alloc_batch(&q->m, want)};
	uint64_t end;
	int r;

	ox_assert(q->m.dirty.state == OX_DIRTY_SET); /* D5: the counts are behind */
	r = ox_recover_place_co(q, &range.start);
	if (r < 0)
		return r;
	if (!ox_mul_u64(range.start + range.count, q->m.cluster_bytes, &end) ||
	    end > OX_ALLOC_HOST_MAX_BYTES)
		return -ENOSPC;
	ox_alloc_note_batch(&q->m, &range);
	r = ox_alloc_make_zero_co(&q->m, range.start, range.count, &range.zero);
	if (r == 0)
		r = ox_order_wait_co(&q->m.order, ox_order_ticket(&q->m.order));
	if (r < 0) {
		ox_alloc_drop_batch(&q->m, &range);
		return r;
	}
	ox_recover_placed(q, range.count);
	ox_alloc_push(&q->m, &range);
	return 0;
}

int ox_qcow2_refill_co(struct ox_mapped *m, uint64_t want)
{
	struct ox_qcow2 *q = ox_qcow2_of_mapped(m);
	struct ox_alloc_range ranges[OX_ALLOC_REFILL_RANGES];
	uint64_t start;
	uint64_t count;
	unsigned n;
	int r;

	if (ox_recover_active(&q->m))
		return refill_past_end_co(q, want);
	/* An image that is too damaged to allocate from is not touched, the dirty bit included. */
	r = next_free_co(q, 1, &start, &count);
	if (r == 0 && ox_qcow2_is_lazy(q))
		r = ox_dirty_set_co(&q->m);
	if (r < 0)
		return r;
	ox_idle_start(&q->m);
	ox_assert(!ox_qcow2_is_lazy(q) || q->m.dirty.state == OX_DIRTY_SET); /* D5 */
	r = choose_batch_co(q, want, ranges, &n);
	if (r < 0)
		return r;
	r = settle_batch_co(q, ranges, n);
	if (r < 0)
		return abandon_batch_co(q, ranges, n, r);
	ox_assert(ox_qcow2_is_lazy(q) || !ox_cache_is_busy(&q->counts)); /* D3 */
	ox_assert(!q->space.named);					 /* S1 */
	for (unsigned i = 0; i < n; i++)
		ox_alloc_push(&q->m, &ranges[i]);
	return 0;
}

/* A cluster that nothing names, on a store that cannot grow, as soon as all is counted. Its own
 * count is set here, or with the others of the block that it becomes. */
static int take_uncounted_co(struct ox_qcow2 *q, uint64_t cluster, struct ox_alloc_range *ret)
{
	const struct ox_recovery *ops = q->m.img->recovery;
	uint64_t per_block = ox_qcow2_refblock_entries(ox_qcow2_hdr(q));
	uint64_t limit = q->m.io->length / q->m.cluster_bytes;
	bool has = false;
	int r = 0;

	for (uint64_t c = 1; r == 0; c++) {
		c = ops->next_free(q->rebuild.walk, c, limit);
		if (c >= limit)
			return -ENOSPC;
		if (c / per_block != cluster / per_block)
			r = ox_refcount_has_block_co(q, c, &has);
		else
			has = true;
		if (r < 0 || !has)
			continue;
		r = ops->take(q->rebuild.walk, c);
		if (r == 0 && c / per_block != cluster / per_block)
			r = ox_refcount_set_co(q, c, 1, 1);
		*ret = (struct ox_alloc_range){.start = c, .count = 1};
		break;
	}
	return r;
}

/* A cluster out of the reserve becomes the block that describes cluster, or goes back. */
static int make_block_of_co(struct ox_qcow2 *q, uint64_t cluster, struct ox_alloc_range *range)
{
	int r;

	ox_alloc_note_table(&q->m, range);
	r = ox_refcount_make_block_co(q, cluster, range);
	if (r == 0) {
		ox_alloc_named(&q->m, range, 1);
	} else {
		range->zero = false;
		ox_alloc_give_back(&q->m, range);
	}
	return r;
}

int ox_alloc_make_block_co(struct ox_qcow2 *q, uint64_t cluster)
{
	struct ox_alloc_range range;
	int r;

	if (!q->m.io->can_grow) {
		r = take_uncounted_co(q, cluster, &range);
		return r < 0 ? r : ox_refcount_make_block_co(q, cluster, &range);
	}
	r = ox_alloc_take_locked_co(&q->m, 1, &range);
	return r < 0 ? r : make_block_of_co(q, cluster, &range);
}

/* A run of count free clusters: behind the file's end, or anywhere on a store that cannot grow. */
static int find_run_co(struct ox_qcow2 *q, uint64_t count, uint64_t *ret_start)
{
	uint64_t from = q->m.io->can_grow ? ox_div_up(q->m.io->length, q->m.cluster_bytes) : 1;
	uint64_t have = 0;
	uint64_t start;
	uint64_t n;
	int r;

	while (have < count) {
		r = ox_refcount_find_free_co(q, from + have, count - have, &start, &n);
		if (r < 0)
			return r;
		if (start + n > host_limit(q) &&
		    (!ox_io_has_grown_co(q->m.io) || start + n > host_limit(q)))
			return -ENOSPC;
		if (start != from + have) {
			from = start;
			have = 0;
		}
		have += n;
	}
	if (ox_alloc_overlaps_metadata(&q->m, from, count)) {
		ox_mapped_refuse(&q->m, "refcount-too-low", ox_host(from * q->m.cluster_bytes),
				 count * q->m.cluster_bytes);
		return -EIO;
	}
	*ret_start = from;
	return 0;
}

/* Refcount blocks for the run, out of the reserve, so that the run itself stays whole. */
static int cover_run_co(struct ox_qcow2 *q, uint64_t start, uint64_t count)
{
	uint64_t per_block = ox_qcow2_refblock_entries(ox_qcow2_hdr(q));
	struct ox_alloc_range range;
	bool has;
	int r = 0;

	for (uint64_t c = start; r == 0 && c < start + count; c = (c / per_block + 1) * per_block) {
		r = ox_refcount_has_block_co(q, c, &has);
		if (r < 0 || has)
			continue;
		ox_alloc_pop(&q->m, 1, &range);
		r = make_block_of_co(q, c, &range);
	}
	return r;
}

/* A free run whose refcount blocks exist. What the search needs for itself is taken first, so that
 * nothing lands in the run; a refcount table that has to grow moves the file's end. */
static int find_contiguous_co(struct ox_qcow2 *q, uint64_t count, uint64_t *ret_start)
{
	uint64_t per_block = ox_qcow2_refblock_entries(ox_qcow2_hdr(q));
	uint64_t blocks;
	uint64_t start;
	int r;

	for (;;) {
		if (ox_alloc_reserved(&q->m.alloc) < count / per_block + 2) {
			r = q->m.alloc.reserve_count > OX_ALLOC_REFILL_RANGES
				    ? -ENOSPC
				    : ox_qcow2_refill_co(&q->m, 1);
			if (r < 0)
				return r;
			continue;
		}
		r = find_run_co(q, count, &start);
		if (r < 0)
			return r;
		blocks = (start + count - 1) / per_block + 1;
		if (blocks <= ox_refcount_table_entries(q))
			break;
		r = ox_refcount_grow_table_co(q, blocks, 0, NULL);
		if (r < 0)
			return r;
	}
	*ret_start = start;
	return cover_run_co(q, start, count);
}

int ox_alloc_take_contiguous_co(struct ox_qcow2 *q, uint64_t count, struct ox_alloc_range *ret)
{
	struct ox_alloc_range range = {.count = count};
	int r = 0;

	if (ox_recover_active(&q->m)) /* whoever resizes has waited for the recovery */
		return -EIO;
	q->m.alloc.takes++;
	ox_mutex_lock_co(&q->m.alloc.lock);
	if (ox_qcow2_is_lazy(q))
		r = ox_dirty_set_co(&q->m);
	if (r == 0)
		r = find_contiguous_co(q, count, &range.start);
	if (r == 0)
		r = count_batch_co(q, &range);
	if (r == 0) {
		q->space.named = true; /* the run's blocks */
		r = settle_batch_co(q, &range, 1);
		if (r < 0)
			r = abandon_batch_co(q, &range, 1, r);
	}
	if (r == 0)
		*ret = range;
	ox_mutex_unlock(&q->m.alloc.lock);
	return r;
}
