/* SPDX-License-Identifier: MIT */
/*
 * Freed clusters on their way back: pending (entry gone from the cache) -> ready (gone durably, by
 * a commit round) -> released here, by the format. D4: the hole is punched before the cluster is
 * free for others, so that nobody can be handed it with a punch still under way.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "img/mapped/mapped.h"

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

void ox_alloc_free_later(struct ox_mapped *m, struct ox_host host, uint64_t bytes)
{
	uint64_t start = host.bytes / m->cluster_bytes;
	uint64_t end = ox_div_up(host.bytes + bytes, m->cluster_bytes);
	struct freed *f;

	ox_assert(bytes > 0);
	m->freed.pending_count += end - start;
	if (m->freed.pending_count > PENDING_MAX_CLUSTERS)
		ox_commit_soon(m);
	if (!ox_list_empty(&m->freed.pending)) {
		f = ox_list_entry(m->freed.pending.prev, struct freed, link);
		if (f->start + f->count == start) {
			f->count += end - start;
			f->round = m->commit.started + 1;
			return;
		}
	}
	f = malloc(sizeof(*f));
	if (!f)
		return; /* leaked: the refcount stays */
	f->start = start;
	f->count = end - start;
	f->round = m->commit.started + 1;
	ox_list_push_back(&m->freed.pending, &f->link);
	m->freed.records++;
}

static void record_free(struct ox_mapped *m, struct freed *f)
{
	ox_list_del(&f->link);
	free(f);
	m->freed.records--;
}

static void drop_list(struct ox_mapped *m, struct ox_list *list)
{
	while (!ox_list_empty(list))
		record_free(m, ox_list_first(list, struct freed, link));
}

/* A part of what a record names. */
static int release_record_co(struct ox_mapped *m, struct freed *f)
{
	uint64_t n;
	int r;

	ox_assert(f->round <= m->commit.done); /* D4 */
	ox_assert(!ox_recover_active(m));      /* R2 */
	for (unsigned i = 0; i < RELEASE_RUNS && f->count > 0; i++) {
		r = m->ops->release_locked_co(m, f->start,
					      ox_min_u64(f->count, RELEASE_RUN_CLUSTERS), &n);
		if (r < 0)
			return r;
		f->start += n;
		f->count -= n;
	}
	return 0;
}

/* Whoever waits for the allocator's lock has it next. */
static int release_some_co(struct ox_mapped *m)
{
	struct freed *f;
	int r = 0;

	ox_mutex_lock_co(&m->alloc.lock);
	/* It is known that what is free is not known: leaked. */
	if (m->refused || m->recover.state == OX_RECOVERY_FAILED)
		drop_list(m, &m->freed.ready);
	if (!ox_list_empty(&m->freed.ready)) {
		f = ox_list_first(&m->freed.ready, struct freed, link);
		ox_list_del(&f->link);
		r = release_record_co(m, f);
		/* A count that finds no room may find some later. */
		if ((r == 0 && f->count > 0) || ox_io_is_full(r))
			ox_list_push_front(&m->freed.ready, &f->link);
		else
			record_free(m, f);
	}
	ox_mutex_unlock(&m->alloc.lock);
	return r;
}

int ox_alloc_release_co(struct ox_mapped *m)
{
	int r = 0;

	while (r == 0 && !ox_list_empty(&m->freed.ready)) {
		r = release_some_co(m);
		ox_co_yield_co();
	}
	return r;
}

int ox_alloc_breathe_co(struct ox_mapped *m)
{
	int r;

	if (m->freed.records <= RECORDS_MAX || ox_recover_active(m)) /* R2 */
		return 0;
	r = ox_commit_co(m);
	if (r < 0)
		return r;
	/* What cannot be released is leaked, which is no failure of the request. */
	r = ox_alloc_release_co(m);
	(void)r;
	return 0;
}

bool ox_alloc_reclaim_co(struct ox_mapped *m)
{
	struct ox_freed *f = &m->freed;

	if (ox_recover_active(m) || /* R2 */
	    (ox_list_empty(&f->pending) && ox_list_empty(&f->ready) && !f->releasing))
		return false;
	return ox_commit_co(m) == 0 && ox_alloc_release_co(m) == 0;
}

static void release_task_co(void *arg)
{
	struct ox_mapped *m = arg;
	int r;

	while (!ox_list_empty(&m->freed.ready)) {
		/* A cluster that cannot be released is leaked, never reused. */
		r = ox_alloc_release_co(m);
		if (r < 0)
			break;
	}
	m->freed.releasing = false;
	ox_latch_done(&m->background);
}

void ox_alloc_start_release(struct ox_mapped *m)
{
	/* R2: what is freed during a recovery waits for it. If that failed, it is leaked. */
	if (m->recover.state == OX_RECOVERY_FAILED)
		drop_list(m, &m->freed.ready);
	if (m->freed.releasing || ox_list_empty(&m->freed.ready) || ox_recover_active(m))
		return;
	ox_latch_add(&m->background);
	m->freed.releasing = true;
	if (ox_co_spawn(m->img->reactor, release_task_co, m) < 0) {
		m->freed.releasing = false; /* the next round tries again */
		ox_latch_done(&m->background);
	}
}

void ox_alloc_forget(struct ox_mapped *m)
{
	drop_list(m, &m->freed.pending);
	drop_list(m, &m->freed.ready);
	m->freed.pending_count = 0;
	m->alloc.reserve_count = 0;
}

void ox_freed_begin_round(struct ox_mapped *m, struct ox_list *freed)
{
	ox_list_init(freed);
	ox_list_splice_back(freed, &m->freed.pending);
	m->freed.pending_count = 0;
}

void ox_freed_end_round(struct ox_mapped *m, struct ox_list *freed, bool is_durable)
{
	ox_list_splice_back(is_durable ? &m->freed.ready : &m->freed.pending, freed);
	if (is_durable)
		ox_alloc_start_release(m);
}

void ox_freed_init(struct ox_mapped *m)
{
	m->freed = (struct ox_freed){0};
	ox_list_init(&m->freed.pending);
	ox_list_init(&m->freed.ready);
}

void ox_freed_fini(struct ox_mapped *m)
{
	drop_list(m, &m->freed.pending);
	drop_list(m, &m->freed.ready);
}
