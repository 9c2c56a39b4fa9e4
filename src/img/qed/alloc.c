/* SPDX-License-Identifier: MIT */
/*
 * Free clusters: those that are known, and the end of the file. The first come first, so that a
 * guest that trims does not make the file longer for ever. They are known to this session alone: a
 * crash leaks them, and so does a close, but for those at the end, which are cut off.
 */
#include <errno.h>

#include "img/qed/qed.h"

/* What a refill puts into the reserve: known free clusters, or, if there are none in such a run,
 * new ones. */
static unsigned choose_batch(struct ox_qed_image *q, uint64_t want, uint64_t run,
			     struct ox_span *spans)
{
	uint64_t left = ox_max_u64(ox_alloc_batch(&q->m, want), run);
	uint64_t end = ox_div_up(q->m.io->length, q->m.cluster_bytes);
	unsigned n = 0;

	if (run > 1 && ox_ranges_take_run(&q->free, run, &spans[0]))
		return 1;
	while (run == 1 && left > 0 && n < OX_ALLOC_REFILL_RANGES &&
	       ox_ranges_take(&q->free, left, &spans[n])) {
		left -= spans[n].end - spans[n].start;
		n++;
	}
	if (n == 0 && q->may_grow)
		spans[n++] = (struct ox_span){.start = end, .end = end + left};
	return n;
}

/* Never handed out: free as before, and so is what an attempt has put behind the file's end. */
static int abandon_batch(struct ox_qed_image *q, const struct ox_span *spans, unsigned n, int error)
{
	uint64_t end = ox_div_up(q->m.io->length, q->m.cluster_bytes);

	for (unsigned i = 0; i < n; i++) {
		if (spans[i].start < end)
			(void)ox_ranges_add(&q->free, spans[i].start,
					    ox_min_u64(spans[i].end, end));
	}
	return error;
}

/* Zero, long enough, and both durable (H2, D8). */
static int settle_batch_co(struct ox_qed_image *q, struct ox_alloc_range *ranges, unsigned n)
{
	int r;

	for (unsigned i = 0; i < n; i++) {
		r = ox_alloc_make_zero_co(&q->m, ranges[i].start, ranges[i].count, &ranges[i].zero);
		if (r < 0)
			return r;
	}
	return ox_order_wait_co(&q->m.order, ox_order_ticket(&q->m.order));
}

/* All of it, or nothing. */
static int push_batch_co(struct ox_qed_image *q, const struct ox_span *spans, unsigned n)
{
	struct ox_alloc_range ranges[OX_ALLOC_REFILL_RANGES];
	int r;

	for (unsigned i = 0; i < n; i++) {
		ranges[i] = (struct ox_alloc_range){
			.start = spans[i].start,
			.count = spans[i].end - spans[i].start,
		};
		ox_alloc_note_batch(&q->m, &ranges[i]);
	}
	r = settle_batch_co(q, ranges, n);
	for (unsigned i = 0; i < n; i++) {
		if (r == 0)
			ox_alloc_push(&q->m, &ranges[i]);
		else
			ox_alloc_drop_batch(&q->m, &ranges[i]);
	}
	return r;
}

/* An entry past the end would name what is taken there (D8). */
static int refuse_growth(const struct ox_qed_image *q)
{
	if (q->m.recover.state != OX_RECOVERY_RUNNING)
		return -EIO;
	return -ERESTART;
}

/* run: so many clusters in a row, at the least. */
static int refill_co(struct ox_qed_image *q, uint64_t want, uint64_t run)
{
	struct ox_span spans[OX_ALLOC_REFILL_RANGES];
	unsigned n;
	int r;

	if (!q->may_grow && q->free.count == 0)
		return refuse_growth(q);
	r = ox_dirty_set_co(&q->m);
	if (r < 0)
		return r;
	ox_idle_start(&q->m);
	ox_assert(q->m.dirty.state == OX_DIRTY_SET); /* D5 */
	n = choose_batch(q, want, run, spans);
	if (n == 0)
		return refuse_growth(q);
	for (unsigned i = 0; i < n; i++) {
		if (ox_alloc_overlaps_metadata(&q->m, spans[i].start,
					       spans[i].end - spans[i].start)) {
			ox_mapped_refuse(&q->m, "metadata-overlap",
					 ox_host(spans[i].start << q->m.cluster_bits),
					 (spans[i].end - spans[i].start) << q->m.cluster_bits);
			return -EIO;
		}
	}
	if (spans[n - 1].end > OX_ALLOC_HOST_MAX_BYTES >> q->m.cluster_bits)
		return abandon_batch(q, spans, n, -ENOSPC);
	r = push_batch_co(q, spans, n);
	return r < 0 ? abandon_batch(q, spans, n, r) : 0;
}

int ox_qed_refill_co(struct ox_mapped *m, uint64_t want)
{
	return refill_co(ox_qed_of(m), want, 1);
}

int ox_qed_take_table_co(struct ox_qed_image *q, struct ox_alloc_range *ret)
{
	struct ox_mapped *m = &q->m;
	int r = 0;

	m->alloc.takes++;
	ox_mutex_lock_co(&m->alloc.lock);
	while (r == 0 && !ox_alloc_pop_run(m, m->table_clusters, ret)) {
		/* What is too short stays, for data; at the file's end it gets longer. */
		if (m->alloc.reserve_count > OX_ALLOC_REFILL_RANGES)
			r = ox_alloc_return_reserve_locked_co(m);
		if (r == 0)
			r = refill_co(q, m->table_clusters, m->table_clusters);
	}
	ox_mutex_unlock(&m->alloc.lock);
	return r;
}

int ox_qed_take_back_co(struct ox_mapped *m, struct ox_alloc_range *range)
{
	struct ox_qed_image *q = ox_qed_of(m);
	/* A batch whose process died may not have made the file as long. */
	uint64_t end =
		ox_min_u64(range->start + range->count, ox_div_up(m->io->length, m->cluster_bytes));

	ox_alloc_drop_batch(m, range);
	if (range->start < end)
		(void)ox_ranges_add(&q->free, range->start, end);
	return 0; /* what is not remembered is leaked */
}

int ox_qed_release_co(struct ox_mapped *m, uint64_t start, uint64_t most, uint64_t *ret_n)
{
	struct ox_qed_image *q = ox_qed_of(m);
	uint64_t at = start << m->cluster_bits;
	uint64_t bytes = most << m->cluster_bits;
	int r;

	*ret_n = most;
	if (q->distrusts || !q->knows) /* another entry may name it: leaked */
		return 0;
	if (ox_alloc_overlaps_metadata(m, start, most)) {
		ox_mapped_refuse(m, "metadata-overlap", ox_host(at), bytes);
		return -EIO;
	}
	if (at < m->io->length) {
		r = ox_io_punch_co(m->io, at, ox_min_u64(bytes, m->io->length - at));
		/* Without a hole it is free all the same: whoever takes it sees to its bytes. */
		if (r < 0 && r != -EOPNOTSUPP && !ox_io_is_full(r))
			return r;
	}
	ox_freed_note_release(m, most, 0);
	return ox_qed_finish_release_co(m, start, most, 0);
}

int ox_qed_finish_release_co(struct ox_mapped *m, uint64_t start, uint64_t n, uint64_t count)
{
	(void)count;
	(void)ox_ranges_add(&ox_qed_of(m)->free, start, start + n);
	return 0;
}

/* Noted as a batch meanwhile: a death finds the file longer, or no longer so long. */
static int cut_off_co(struct ox_qed_image *q, const struct ox_span *last)
{
	struct ox_alloc_range range = {
		.start = last->start,
		.count = last->end - last->start,
	};
	int r;

	ox_alloc_note_batch(&q->m, &range);
	r = ox_mapped_set_length_co(&q->m, last->start << q->m.cluster_bits);
	ox_alloc_drop_batch(&q->m, &range);
	if (r < 0)
		(void)ox_ranges_add(&q->free, last->start, last->end);
	return r;
}

/* There is no record of free clusters, but at the end of the file they need not be. A last cluster
 * that is cut short, as other programs leave one, gets whole: a check would find fault with it. */
int ox_qed_settle_co(struct ox_mapped *m)
{
	struct ox_qed_image *q = ox_qed_of(m);
	uint64_t end = ox_div_up(m->io->length, m->cluster_bytes);
	struct ox_span last;

	if (!m->io->can_grow)
		return 0;
	if (!ox_ranges_take_end(&q->free, end, &last)) {
		if (m->dirty.state == OX_DIRTY_CLEAN ||
		    ox_is_aligned(m->io->length, m->cluster_bytes))
			return 0;
		return ox_mapped_set_length_co(m, end << m->cluster_bits);
	}
	return cut_off_co(q, &last);
}

int ox_qed_shrink_co(struct ox_mapped *m)
{
	int r;

	ox_mutex_lock_co(&m->alloc.lock);
	r = ox_alloc_return_reserve_locked_co(m);
	if (r == 0)
		r = ox_qed_settle_co(m);
	ox_mutex_unlock(&m->alloc.lock);
	return r;
}
