/* SPDX-License-Identifier: MIT */
/*
 * Freed clusters on their way back: pending (entry gone from the cache) -> ready (gone durably, by
 * a commit round) -> released here. D4: the hole is punched while the refcount still holds the
 * cluster, and only then is the refcount lowered, so that nobody can be handed the cluster with
 * a punch still under way.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "img/qcow2/qcow2.h"

/* Clusters that may wait for the guest's flush before a commit is worth its cost. */
#define PENDING_MAX_CLUSTERS 4096u
/* Records of what is freed that a long request leaves behind it: some 2 MiB. */
#define RECORDS_MAX 32768u
/* What is released before an allocation may get in between. */
#define RELEASE_RUNS 16u
#define RELEASE_RUN_CLUSTERS 4096u

struct freed {
	struct ox_list link;
	uint64_t start; /* cluster */
	uint64_t count;
	uint64_t round; /* of the commit that makes the entry's end durable (D4) */
};

void ox_alloc_free_later(struct ox_qcow2 *q, struct ox_host host, uint64_t bytes)
{
	uint64_t start = host.bytes / q->cluster_bytes;
	uint64_t end = ox_div_up(host.bytes + bytes, q->cluster_bytes);
	struct freed *f;

	ox_assert(bytes > 0);
	q->alloc.pending_count += end - start;
	if (q->alloc.pending_count > PENDING_MAX_CLUSTERS)
		ox_commit_soon(q);
	if (!ox_list_empty(&q->alloc.pending)) {
		f = ox_list_entry(q->alloc.pending.prev, struct freed, link);
		if (f->start + f->count == start) {
			f->count += end - start;
			f->round = q->commit.started + 1;
			return;
		}
	}
	f = malloc(sizeof(*f));
	if (!f)
		return; /* leaked: the refcount stays */
	f->start = start;
	f->count = end - start;
	f->round = q->commit.started + 1;
	ox_list_push_back(&q->alloc.pending, &f->link);
	q->alloc.records++;
}

static void record_free(struct ox_qcow2 *q, struct freed *f)
{
	ox_list_del(&f->link);
	free(f);
	q->alloc.records--;
}

static void drop_list(struct ox_qcow2 *q, struct ox_list *list)
{
	if (!list->next)
		return; /* an opening that failed before the allocator was set up */
	while (!ox_list_empty(list))
		record_free(q, ox_list_first(list, struct freed, link));
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
	uint64_t bytes = n * q->cluster_bytes;
	uint64_t at = start * q->cluster_bytes;
	int r;

	ox_assert(!ox_recover_active(q)); /* R2 */
	if (value == 0) {		  /* freed twice: the counts are wrong, touch nothing */
		ox_corrupt_counts(q, "refcount-too-low", ox_host(at), bytes);
		return -EIO;
	}
	if (ox_alloc_overlaps_metadata(q, start, n)) {
		ox_corrupt_refuse(q, "metadata-overlap", ox_host(at), bytes);
		return -EIO;
	}
	if (value > 1)
		return ox_refcount_set_co(q, start, n, value - 1);
	if (at < q->io->length) {
		r = ox_io_punch_co(q->io, at, ox_min_u64(bytes, q->io->length - at));
		/* Without a hole it is free all the same: whoever takes it sees to its bytes. */
		if (r < 0 && r != -EOPNOTSUPP && !ox_io_is_full(r))
			return r;
	}
	r = ox_refcount_set_co(q, start, n, 0);
	if (r == 0)
		q->alloc.cursor = ox_min_u64(q->alloc.cursor, start);
	return r;
}

/*
 * A part of what a record names. No run crosses a slice of counts, so that it is lowered as a whole
 * or not at all: what found no room is tried again, and must not be lowered twice (D3).
 */
static int release_record_co(struct ox_qcow2 *q, struct freed *f)
{
	uint64_t per_slice = q->slice_bytes * 8 >> ox_qcow2_hdr(q)->refcount_order;
	uint64_t value;
	uint64_t n;
	int r;

	ox_assert(f->round <= q->commit.done); /* D4 */
	for (unsigned i = 0; i < RELEASE_RUNS && f->count > 0; i++) {
		uint64_t most = ox_min_u64(per_slice - f->start % per_slice, RELEASE_RUN_CLUSTERS);

		r = count_alike_co(q, f->start, ox_min_u64(f->count, most), &value, &n);
		if (r == 0)
			r = release_run_co(q, f->start, n, value);
		if (r < 0)
			return r;
		f->start += n;
		f->count -= n;
	}
	return 0;
}

/* Whoever waits for the allocator's lock has it next. */
static int release_some_co(struct ox_qcow2 *q)
{
	struct freed *f;
	int r = 0;

	ox_mutex_lock_co(&q->alloc.lock);
	if (q->refused) /* the counts are known to be wrong: leaked */
		drop_list(q, &q->alloc.ready);
	if (!ox_list_empty(&q->alloc.ready)) {
		f = ox_list_first(&q->alloc.ready, struct freed, link);
		ox_list_del(&f->link);
		r = release_record_co(q, f);
		/* A count that finds no room may find some later. */
		if ((r == 0 && f->count > 0) || ox_io_is_full(r))
			ox_list_push_front(&q->alloc.ready, &f->link);
		else
			record_free(q, f);
	}
	ox_mutex_unlock(&q->alloc.lock);
	return r;
}

int ox_alloc_release_co(struct ox_qcow2 *q)
{
	int r = 0;

	while (r == 0 && !ox_list_empty(&q->alloc.ready)) {
		r = release_some_co(q);
		ox_co_yield_co();
	}
	return r;
}

int ox_alloc_breathe_co(struct ox_qcow2 *q)
{
	int r;

	if (q->alloc.records <= RECORDS_MAX || ox_recover_active(q)) /* R2 */
		return 0;
	r = ox_commit_co(q);
	if (r < 0)
		return r;
	/* What cannot be released is leaked, which is no failure of the request. */
	r = ox_alloc_release_co(q);
	(void)r;
	return 0;
}

bool ox_alloc_reclaim_co(struct ox_qcow2 *q)
{
	struct ox_alloc *a = &q->alloc;

	if (ox_recover_active(q) || /* R2 */
	    (ox_list_empty(&a->pending) && ox_list_empty(&a->ready) && !a->releasing))
		return false;
	return ox_commit_co(q) == 0 && ox_alloc_release_co(q) == 0;
}

static void release_task_co(void *arg)
{
	struct ox_qcow2 *q = arg;
	int r;

	while (!ox_list_empty(&q->alloc.ready)) {
		/* A cluster that cannot be released is leaked, never reused. */
		r = ox_alloc_release_co(q);
		if (r < 0)
			break;
	}
	q->alloc.releasing = false;
	ox_latch_done(&q->background);
}

void ox_alloc_start_release(struct ox_qcow2 *q)
{
	/* R2: what is freed during a recovery waits for it. If that failed, it is leaked. */
	if (q->recover.state == OX_RECOVERY_FAILED)
		drop_list(q, &q->alloc.ready);
	if (q->alloc.releasing || ox_list_empty(&q->alloc.ready) || ox_recover_active(q))
		return;
	ox_latch_add(&q->background);
	q->alloc.releasing = true;
	if (ox_co_spawn(q->img->reactor, release_task_co, q) < 0) {
		q->alloc.releasing = false; /* the next round tries again */
		ox_latch_done(&q->background);
	}
}

int ox_alloc_return_reserve_co(struct ox_qcow2 *q)
{
	struct ox_alloc_range ranges[OX_ALLOC_RESERVE_RANGES];
	unsigned n = q->alloc.reserve_count;
	int r = 0;

	/* Nobody takes from it from here on: the next allocation waits for the lock and refills. */
	memcpy(ranges, q->alloc.reserve, n * sizeof(ranges[0]));
	q->alloc.reserve_count = 0;
	for (unsigned i = 0; r == 0 && i < n; i++) {
		r = ox_refcount_set_co(q, ranges[i].start, ranges[i].count, 0);
		if (r == 0)
			q->alloc.cursor = ox_min_u64(q->alloc.cursor, ranges[i].start);
	}
	return r; /* what a failure leaves behind is leaked */
}

int ox_alloc_shrink_co(struct ox_qcow2 *q)
{
	uint64_t end;
	uint64_t old_end = ox_div_up(q->io->length, q->cluster_bytes);
	uint64_t floor = ox_max_u64(q->alloc.floor, 1);
	uint64_t value;
	int r;

	ox_mutex_lock_co(&q->alloc.lock);
	r = ox_alloc_return_reserve_co(q);
	if (r == 0)
		r = ox_cache_flush_co(&q->counts);
	/* What this opening has not added it does not cut: a refcount that was lost would take
	 * the cluster's bytes with it. */
	for (end = old_end; r == 0 && end > floor; end--) {
		r = ox_refcount_get_co(q, end - 1, &value);
		if (r < 0 || value > 0)
			break;
	}
	if (r == 0 && end < old_end && q->io->can_grow)
		r = ox_io_set_length_co(q->io, end * q->cluster_bytes);
	ox_mutex_unlock(&q->alloc.lock);
	return r;
}

void ox_alloc_forget(struct ox_qcow2 *q)
{
	drop_list(q, &q->alloc.pending);
	drop_list(q, &q->alloc.ready);
	q->alloc.pending_count = 0;
	q->alloc.reserve_count = 0;
}

void ox_alloc_fini(struct ox_qcow2 *q)
{
	drop_list(q, &q->alloc.pending);
	drop_list(q, &q->alloc.ready);
}
