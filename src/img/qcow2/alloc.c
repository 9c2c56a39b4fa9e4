/* SPDX-License-Identifier: MIT */
/*
 * The reserve: where allocation pays for its order, a batch at a time.
 *
 * A refill takes a batch of free clusters and, with one sync, makes durable that they lie within
 * the file (D8), that they read as zeroes (H2), and that they are counted (D3; in a lazy image the
 * dirty bit covers the counts, D5). From then on a write into a cluster out of the reserve owes
 * nothing but itself: data and L2 entry may go out together, and one sync covers both.
 *
 * A crash leaks what is left of the batch; a clean close gives it back, and so does an idle guest
 * (idle.c). So a batch is no larger than the guest's demand: it begins with a few clusters, doubles
 * where the last one did not last long, and shrinks where it did.
 */
#include <errno.h>
#include <stdlib.h>

#include "img/qcow2/qcow2.h"
#include "rt/reactor.h"

#define BATCH_FIRST_CLUSTERS 4u
#define BATCH_MAX_CLUSTERS 4096u
#define BATCH_MAX_BYTES (UINT64_C(64) << 20)
/* A batch is to last as long, about: then its sync is one among many. */
#define BATCH_LASTS_NS UINT64_C(5000000000)
/* Of one who has said how many will be taken. */
#define BATCH_EXPECTED_CLUSTERS (UINT64_C(1) << 20)
#define GROWTH_ALIGN_BYTES 4096u
/* Ranges that a refill takes at most; the rest of the reserve's slots serve what is given back. */
#define REFILL_RANGES (OX_ALLOC_RESERVE_RANGES / 2)

/* No format offset reaches further. */
#define HOST_MAX_BYTES (UINT64_C(1) << 56)

static bool is_lazy(const struct ox_qcow2 *q)
{
	const struct ox_qcow2_header *h = ox_qcow2_hdr(q);

	return h->version >= 3 && (h->compatible & OX_QCOW2_COMPAT_LAZY_REFCOUNTS);
}

/* For a guest, whose crash leaks the rest of a batch. */
static uint64_t usual_limit(const struct ox_qcow2 *q)
{
	return ox_max_u64(ox_min_u64(BATCH_MAX_BYTES / q->cluster_bytes, BATCH_MAX_CLUSTERS), 8);
}

void ox_alloc_init(struct ox_qcow2 *q)
{
	q->alloc = (struct ox_alloc){.batch_limit = usual_limit(q)};
	q->alloc.batch = BATCH_FIRST_CLUSTERS;
	ox_mutex_init(&q->alloc.lock);
	ox_list_init(&q->alloc.pending);
	ox_list_init(&q->alloc.ready);
}

void ox_alloc_expect(struct ox_qcow2 *q, uint64_t clusters)
{
	q->alloc.expected = clusters > 0;
	q->alloc.batch_limit =
		ox_max_u64(ox_min_u64(clusters, BATCH_EXPECTED_CLUSTERS), usual_limit(q));
	q->alloc.batch = clusters ? q->alloc.batch_limit : BATCH_FIRST_CLUSTERS;
}

void ox_alloc_calm(struct ox_qcow2 *q)
{
	if (!q->alloc.expected)
		q->alloc.batch = BATCH_FIRST_CLUSTERS;
	q->alloc.refilled = false;
}

/* Before a refill: how many clusters it is to take, for one who wants some now. */
static uint64_t batch_for(struct ox_qcow2 *q, uint64_t want)
{
	struct ox_alloc *a = &q->alloc;
	uint64_t now = ox_reactor_now_ns(q->img->reactor);
	uint64_t lasted = (now - a->refilled_ns) / BATCH_LASTS_NS;

	if (a->refilled && !a->expected && lasted == 0)
		a->batch = ox_min_u64(a->batch * 2, a->batch_limit);
	else if (a->refilled && !a->expected)
		a->batch = ox_max_u64(a->batch / lasted, BATCH_FIRST_CLUSTERS);
	a->refilled = true;
	a->refilled_ns = now;
	return ox_max_u64(a->batch, ox_min_u64(want, a->batch_limit));
}

/* Zeroes the part of the range that the file has already. */
static int zero_old_part_co(struct ox_qcow2 *q, uint64_t start, uint64_t bytes, bool *ret_zero)
{
	int r;

	r = ox_io_punch_co(q->io, start, bytes);
	if (r == -EOPNOTSUPP)
		r = ox_io_zero_co(q->io, start, bytes);
	/* A hole may need room for its own bookkeeping, and a part of a block for its zeroes. */
	if (r < 0 && r != -EOPNOTSUPP && !ox_io_is_full(r))
		return r;
	*ret_zero = r == 0;
	return 0;
}

int ox_alloc_make_zero_co(struct ox_qcow2 *q, uint64_t start, uint64_t count, bool *ret_zero)
{
	uint64_t from = start * q->cluster_bytes;
	uint64_t to = from + count * q->cluster_bytes;
	uint64_t old_end = q->io->length;
	int r;

	*ret_zero = true;
	if (from < old_end) {
		r = zero_old_part_co(q, from, ox_min_u64(to, old_end) - from, ret_zero);
		if (r < 0)
			return r;
	}
	if (to <= old_end)
		return 0;
	/* Whole pages: growing from the middle of one disturbs direct writes beside it. */
	return q->io->can_grow ? ox_io_set_length_co(q->io, ox_align_up(to, GROWTH_ALIGN_BYTES))
			       : -ENOSPC;
}

/* Refcounts that call a table free are wrong: nothing is allocated by them. */
bool ox_alloc_overlaps_metadata(const struct ox_qcow2 *q, uint64_t start, uint64_t count)
{
	uint64_t from = start * q->cluster_bytes;
	uint64_t bytes = count * q->cluster_bytes;

	for (unsigned i = 0; i < q->fixed_count; i++) {
		if (from < q->fixed[i].end && from + bytes > q->fixed[i].start)
			return true;
	}
	return ox_tables_overlap(q, ox_host(from), bytes);
}

/* Clusters that the store may have. */
static uint64_t host_limit(const struct ox_qcow2 *q)
{
	return (q->io->can_grow ? HOST_MAX_BYTES : q->io->length) / q->cluster_bytes;
}

/* The next free run, within the store's limit and off the tables. */
static int next_free_co(struct ox_qcow2 *q, uint64_t most, uint64_t *ret_start, uint64_t *ret_count)
{
	uint64_t limit;
	uint64_t start;
	uint64_t count;
	int r;

	r = ox_refcount_find_free_co(q, q->alloc.cursor, most, &start, &count);
	if (r < 0)
		return r;
	limit = host_limit(q);
	if (start >= limit && ox_io_has_grown_co(q->io))
		limit = host_limit(q);
	if (start >= limit)
		return -ENOSPC;
	count = ox_min_u64(count, limit - start);
	if (ox_alloc_overlaps_metadata(q, start, count)) {
		ox_corrupt_refuse(q, "refcount-too-low", ox_host(start * q->cluster_bytes),
				  count * q->cluster_bytes);
		return -EIO;
	}
	*ret_start = start;
	*ret_count = count;
	return 0;
}

/* A batch that failed half way was never handed out: its counts may go back at any time (H8). If
 * even that fails it is leaked. */
static int abandon_batch_co(struct ox_qcow2 *q, const struct ox_alloc_range *ranges, unsigned n,
			    int error)
{
	for (unsigned i = 0; i < n; i++) {
		if (ox_refcount_set_co(q, ranges[i].start, ranges[i].count, 0) < 0)
			continue;
		q->alloc.cursor = ox_min_u64(q->alloc.cursor, ranges[i].start);
	}
	return error;
}

/* Step 1 of a refill: free clusters, counted in the cache. */
static int choose_batch_co(struct ox_qcow2 *q, uint64_t want, struct ox_alloc_range *ranges,
			   unsigned *ret_n)
{
	uint64_t left = batch_for(q, want);
	unsigned n = 0;
	uint64_t start;
	uint64_t count;
	bool used;
	int r = 0;

	while (left > 0 && n < REFILL_RANGES) {
		r = next_free_co(q, left, &start, &count);
		if (r < 0)
			break;
		r = ox_refcount_ensure_co(q, start, &used);
		if (r < 0)
			break;
		q->alloc.cursor = start + 1;
		q->alloc.named = q->alloc.named || used;
		if (used)
			continue;
		r = ox_refcount_set_co(q, start, count, 1);
		if (r < 0) {
			r = abandon_batch_co(q, &(struct ox_alloc_range){start, count, false}, 1,
					     r);
			break;
		}
		q->alloc.cursor = start + count;
		left -= count;
		if (n > 0 && ranges[n - 1].start + ranges[n - 1].count == start)
			ranges[n - 1].count += count;
		else
			ranges[n++] = (struct ox_alloc_range){start, count, false};
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
	bool flush = !is_lazy(q) || q->alloc.named;
	int r;

	for (unsigned i = 0; i < n; i++) {
		r = ox_alloc_make_zero_co(q, ranges[i].start, ranges[i].count, &ranges[i].zero);
		if (r < 0)
			return r;
	}
	if (flush) {
		r = ox_cache_flush_co(&q->counts);
		if (r < 0)
			return r;
	}
	r = ox_order_wait_co(&q->order, ox_order_ticket(&q->order));
	if (r == 0 && flush)
		q->alloc.named = false;
	return r;
}

static void push_reserve(struct ox_qcow2 *q, const struct ox_alloc_range *range)
{
	ox_assert((range->start + range->count) * q->cluster_bytes <= q->io->length); /* D8 */
	q->alloc.reserve[q->alloc.reserve_count++] = *range;
}

/* While the counts are not known: past all that anything may name (docs/recovery.md). */
static int refill_past_end_co(struct ox_qcow2 *q, uint64_t want)
{
	struct ox_alloc_range range = {.count = batch_for(q, want)};
	uint64_t end;
	int r;

	ox_assert(q->lazy.state == OX_LAZY_DIRTY); /* D5: the counts are behind */
	r = ox_recover_place_co(q, &range.start);
	if (r < 0)
		return r;
	if (!ox_mul_u64(range.start + range.count, q->cluster_bytes, &end) || end > HOST_MAX_BYTES)
		return -ENOSPC;
	r = ox_alloc_make_zero_co(q, range.start, range.count, &range.zero);
	if (r == 0)
		r = ox_order_wait_co(&q->order, ox_order_ticket(&q->order));
	if (r < 0)
		return r;
	ox_recover_placed(q, range.count);
	push_reserve(q, &range);
	return 0;
}

static int refill_co(struct ox_qcow2 *q, uint64_t want)
{
	struct ox_alloc_range ranges[REFILL_RANGES];
	uint64_t start;
	uint64_t count;
	unsigned n;
	int r;

	if (ox_recover_active(q))
		return refill_past_end_co(q, want);
	/* An image that is too damaged to allocate from is not touched, the dirty bit included. */
	r = next_free_co(q, 1, &start, &count);
	if (r == 0 && is_lazy(q))
		r = ox_lazy_mark_co(q);
	if (r < 0)
		return r;
	ox_idle_start(q);
	ox_assert(!is_lazy(q) || q->lazy.state == OX_LAZY_DIRTY); /* D5 */
	r = choose_batch_co(q, want, ranges, &n);
	if (r < 0)
		return r;
	r = settle_batch_co(q, ranges, n);
	if (r < 0)
		return abandon_batch_co(q, ranges, n, r);
	ox_assert(is_lazy(q) || !ox_cache_is_busy(&q->counts)); /* D3 */
	ox_assert(!q->alloc.named);				/* S1 */
	for (unsigned i = 0; i < n; i++)
		push_reserve(q, &ranges[i]);
	return 0;
}

uint64_t ox_alloc_reserved(const struct ox_alloc *a)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < a->reserve_count; i++)
		sum += a->reserve[i].count;
	return sum;
}

static void pop_reserve(struct ox_alloc *a, uint64_t want, struct ox_alloc_range *ret)
{
	struct ox_alloc_range *first = &a->reserve[0];

	*ret = (struct ox_alloc_range){first->start, ox_min_u64(want, first->count), first->zero};
	a->taken += ret->count;
	first->start += ret->count;
	first->count -= ret->count;
	if (first->count > 0)
		return;
	a->reserve_count--;
	for (unsigned i = 0; i < a->reserve_count; i++)
		a->reserve[i] = a->reserve[i + 1];
}

void ox_alloc_give_back(struct ox_qcow2 *q, const struct ox_alloc_range *range)
{
	struct ox_alloc *a = &q->alloc;
	struct ox_alloc_range *first = &a->reserve[0];

	if (a->reserve_count > 0 && range->start + range->count == first->start &&
	    range->zero == first->zero) {
		first->start -= range->count;
		first->count += range->count;
		return;
	}
	if (a->reserve_count >= REFILL_RANGES) { /* the other slots are a refill's */
		ox_alloc_free_later(q, ox_host(range->start * q->cluster_bytes),
				    range->count * q->cluster_bytes);
		return;
	}
	for (unsigned i = a->reserve_count; i > 0; i--)
		a->reserve[i] = a->reserve[i - 1];
	a->reserve[0] = *range;
	a->reserve_count++;
}

static int take_locked_co(struct ox_qcow2 *q, uint64_t want, struct ox_alloc_range *ret)
{
	int r = 0;

	while (q->alloc.reserve_count == 0 && r == 0)
		r = refill_co(q, want);
	if (r == 0)
		pop_reserve(&q->alloc, want, ret);
	return r;
}

int ox_alloc_take_co(struct ox_qcow2 *q, uint64_t want, struct ox_alloc_range *ret)
{
	int r;

	ox_assert(want > 0);
	q->alloc.takes++;
	if (q->alloc.reserve_count > 0) {
		pop_reserve(&q->alloc, want, ret);
		return 0;
	}
	ox_mutex_lock_co(&q->alloc.lock);
	r = take_locked_co(q, want, ret);
	ox_mutex_unlock(&q->alloc.lock);
	return r;
}

/* A cluster that nothing names, on a store that cannot grow, as soon as all is counted. Its own
 * count is set here, or with the others of the block that it becomes. */
static int take_uncounted_co(struct ox_qcow2 *q, uint64_t cluster, struct ox_alloc_range *ret)
{
	const struct ox_recovery *ops = q->img->recovery;
	uint64_t per_block = ox_qcow2_refblock_entries(ox_qcow2_hdr(q));
	uint64_t limit = q->io->length / q->cluster_bytes;
	bool has = false;
	int r = 0;

	for (uint64_t c = 1; r == 0; c++) {
		c = ops->next_free(q->recover.rebuild, c, limit);
		if (c >= limit)
			return -ENOSPC;
		if (c / per_block != cluster / per_block)
			r = ox_refcount_has_block_co(q, c, &has);
		else
			has = true;
		if (r < 0 || !has)
			continue;
		r = ops->take(q->recover.rebuild, c);
		if (r == 0 && c / per_block != cluster / per_block)
			r = ox_refcount_set_co(q, c, 1, 1);
		*ret = (struct ox_alloc_range){c, 1, false};
		break;
	}
	return r;
}

int ox_alloc_make_block_co(struct ox_qcow2 *q, uint64_t cluster)
{
	struct ox_alloc_range range;
	int r = q->io->can_grow ? take_locked_co(q, 1, &range)
				: take_uncounted_co(q, cluster, &range);

	return r < 0 ? r : ox_refcount_make_block_co(q, cluster, &range);
}

/* A run of count free clusters: behind the file's end, or anywhere on a store that cannot grow. */
static int find_run_co(struct ox_qcow2 *q, uint64_t count, uint64_t *ret_start)
{
	uint64_t from = q->io->can_grow ? ox_div_up(q->io->length, q->cluster_bytes) : 1;
	uint64_t have = 0;
	uint64_t start;
	uint64_t n;
	int r;

	while (have < count) {
		r = ox_refcount_find_free_co(q, from + have, count - have, &start, &n);
		if (r < 0)
			return r;
		if (start + n > host_limit(q) &&
		    (!ox_io_has_grown_co(q->io) || start + n > host_limit(q)))
			return -ENOSPC;
		if (start != from + have) {
			from = start;
			have = 0;
		}
		have += n;
	}
	if (ox_alloc_overlaps_metadata(q, from, count)) {
		ox_corrupt_refuse(q, "refcount-too-low", ox_host(from * q->cluster_bytes),
				  count * q->cluster_bytes);
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
		pop_reserve(&q->alloc, 1, &range);
		r = ox_refcount_make_block_co(q, c, &range);
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
		if (ox_alloc_reserved(&q->alloc) < count / per_block + 2) {
			r = q->alloc.reserve_count > REFILL_RANGES ? -ENOSPC : refill_co(q, 1);
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

	if (ox_recover_active(q)) /* whoever resizes has waited for the recovery */
		return -EIO;
	q->alloc.takes++;
	ox_mutex_lock_co(&q->alloc.lock);
	if (is_lazy(q))
		r = ox_lazy_mark_co(q);
	if (r == 0)
		r = find_contiguous_co(q, count, &range.start);
	if (r == 0)
		r = ox_refcount_set_co(q, range.start, count, 1);
	if (r == 0) {
		q->alloc.named = true; /* the run's blocks */
		r = settle_batch_co(q, &range, 1);
		if (r < 0)
			r = abandon_batch_co(q, &range, 1, r);
	}
	if (r == 0)
		*ret = range;
	ox_mutex_unlock(&q->alloc.lock);
	return r;
}
