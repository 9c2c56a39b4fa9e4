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

struct ox_freed_record {
	struct ox_list link;
	uint64_t start; /* cluster */
	uint64_t count;
	uint64_t round; /* of the commit that makes the entry's end durable (D4) */
	uint32_t note;	/* of it in the state that outlives the process (D10) */
};

static struct ox_freed_record *add_record(struct ox_mapped *m, uint64_t start, uint64_t count,
					  uint32_t note)
{
	struct ox_freed_record *f = malloc(sizeof(*f));

	if (!f)
		return NULL;
	*f = (struct ox_freed_record){
		.start = start,
		.count = count,
		.round = m->commit.started + 1,
		.note = note,
	};
	ox_list_push_back(&m->freed.pending, &f->link);
	m->freed.records++;
	return f;
}

/* No commit of this process has made durable that its entry is gone: it waits for the next one. */
int ox_freed_adopt(struct ox_mapped *m, uint64_t start, uint64_t count, uint32_t note)
{
	m->freed.pending_count += count;
	return add_record(m, start, count, note) ? 0 : -ENOMEM;
}

void ox_alloc_free_later(struct ox_mapped *m, struct ox_host host, uint64_t bytes)
{
	uint64_t start = host.bytes / m->cluster_bytes;
	uint64_t end = ox_div_up(host.bytes + bytes, m->cluster_bytes);
	struct ox_freed_record *f;

	ox_assert(bytes > 0);
	m->freed.pending_count += end - start;
	if (m->freed.pending_count > PENDING_MAX_CLUSTERS)
		ox_commit_soon(m);
	if (!ox_list_empty(&m->freed.pending)) {
		f = ox_list_entry(m->freed.pending.prev, struct ox_freed_record, link);
		if (f->start + f->count == start) {
			f->count += end - start;
			f->round = m->commit.started + 1;
			ox_note_move_end(m->notes, f->note, end);
			return;
		}
	}
	f = add_record(m, start, end - start, 0);
	if (f) /* else leaked: the refcount stays */
		f->note = ox_note_add(m->notes, OX_NOTE_FREED, start, end, 0);
}

static void record_free(struct ox_mapped *m, struct ox_freed_record *f)
{
	ox_list_del(&f->link);
	ox_note_drop(m->notes, f->note);
	free(f);
	m->freed.records--;
}

static void drop_list(struct ox_mapped *m, struct ox_list *list)
{
	while (!ox_list_empty(list))
		record_free(m, ox_list_first(list, struct ox_freed_record, link));
}

void ox_freed_note_release(struct ox_mapped *m, uint64_t n, uint64_t count)
{
	struct ox_freed_record *f = m->freed.now;

	ox_assert(f && n <= f->count && m->freed.note == 0);
	ox_note_move_start(m->notes, f->note, f->start + n);
	m->freed.note = ox_note_add(m->notes, OX_NOTE_RELEASING, f->start, f->start + n, count);
}

/* r: what became of the release. */
static void end_release(struct ox_mapped *m, struct ox_freed_record *f, int r, uint64_t n)
{
	ox_note_drop(m->notes, m->freed.note);
	m->freed.note = 0;
	m->freed.now = NULL;
	if (r < 0) {
		ox_note_move_start(m->notes, f->note, f->start);
	} else {
		f->start += n;
		f->count -= n;
	}
}

/* A part of what a record names. */
static int release_record_co(struct ox_mapped *m, struct ox_freed_record *f)
{
	uint64_t n = 0;
	int r;

	ox_assert(f->round <= m->commit.done); /* D4 */
	ox_assert(!ox_recover_active(m));      /* R2 */
	for (unsigned i = 0; i < RELEASE_RUNS && f->count > 0; i++) {
		m->freed.now = f;
		r = m->ops->release_locked_co(m, f->start,
					      ox_min_u64(f->count, RELEASE_RUN_CLUSTERS), &n);
		end_release(m, f, r, n);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Whoever waits for the allocator's lock has it next. */
static int release_some_co(struct ox_mapped *m)
{
	struct ox_freed_record *f;
	int r = 0;

	ox_mutex_lock_co(&m->alloc.lock);
	/* It is known that what is free is not known: leaked. */
	if (m->refused || m->recover.state == OX_RECOVERY_FAILED)
		drop_list(m, &m->freed.ready);
	if (!ox_list_empty(&m->freed.ready)) {
		f = ox_list_first(&m->freed.ready, struct ox_freed_record, link);
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
	for (unsigned i = 0; i < m->alloc.reserve_count; i++)
		ox_note_drop(m->notes, m->alloc.reserve[i].note);
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
