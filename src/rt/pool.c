/* SPDX-License-Identifier: MIT */
/*
 * Worker threads for requests that block. Started one by one as the work demands, kept until the
 * reactor goes.
 *
 * A worker puts a finished request on the done list and then makes the pipe readable, unless
 * signalled says that it is. The reactor reads the pipe, clears signalled, and only then empties
 * the list: whatever is put there later finds signalled clear. Where signalled is set but the pipe
 * is not readable yet, the worker is about to write it, and signalled stays set so that a later
 * collect reads it.
 *
 * Writes to the page cache are a matter of memory and of the file's lock, which the kernel gives to
 * one of them at a time. So a worker carries out all that wait for a file, one after the other:
 * others beside it would only wait for that lock, and wake each other.
 *
 * A pipe and not an eventfd, because io_uring polls it: Linux up to at least 6.18 may fail to
 * signal the eventfd of a ring for a completion that another eventfd's wake-up caused.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/assert.h"
#include "rt/internal.h"

/* Writes of one file in a row, until other work that waits has its turn; and of other work, until a
 * file's writes have theirs. */
#define WRITES_A_TURN 32u
#define OTHERS_A_TURN 32u
#define NO_FILE (-1)

struct ox_pool {
	int pipe_fds[2];    /* holds a byte when there is something to collect */
	unsigned in_flight; /* the reactor's: submitted and not collected */
	unsigned writing;   /* of these: writes to the page cache */
	atomic_bool signalled;
	pthread_mutex_t lock; /* guards everything below */
	pthread_cond_t work;
	struct ox_list queue;  /* struct ox_aio, first come first served */
	struct ox_list writes; /* the same of those to the page cache */
	unsigned takeable;     /* all of queue, and of writes a file that no worker has, once */
	unsigned others;       /* taken from queue since a file's writes had a turn */
	struct ox_list done;
	unsigned idle;
	bool stop;
	unsigned worker_count;
	struct worker {
		struct ox_pool *pool;
		pthread_t thread;
		int fd;		 /* whose writes are its own; NO_FILE: none's */
		unsigned writes; /* of them, in a row */
	} workers[OX_WORKERS_MAX];
};

/* One that is durable when it ends waits for the disk: many at once share a commit. What is no file
 * at all has an error coming, and waits for nobody's lock. */
static bool is_cached_write(const struct ox_aio *aio)
{
	return aio->kind == OX_AIO_WRITE && aio->page_cache && aio->flags == 0 && aio->fd >= 0;
}

int ox_pool_create(struct ox_pool **ret)
{
	struct ox_pool *pool = calloc(1, sizeof(*pool));

	if (!pool)
		return -ENOMEM;
	if (pipe2(pool->pipe_fds, O_CLOEXEC | O_NONBLOCK) < 0) {
		int code = -errno;

		free(pool);
		return code;
	}
	ox_assert(pthread_mutex_init(&pool->lock, NULL) == 0);
	ox_assert(pthread_cond_init(&pool->work, NULL) == 0);
	ox_list_init(&pool->queue);
	ox_list_init(&pool->writes);
	ox_list_init(&pool->done);
	*ret = pool;
	return 0;
}

static void lock(struct ox_pool *pool)
{
	ox_assert(pthread_mutex_lock(&pool->lock) == 0);
}

static void unlock(struct ox_pool *pool)
{
	ox_assert(pthread_mutex_unlock(&pool->lock) == 0);
}

void ox_pool_destroy(struct ox_pool *pool)
{
	if (!pool)
		return;
	lock(pool);
	ox_assert(ox_list_empty(&pool->queue) && ox_list_empty(&pool->writes));
	ox_assert(ox_list_empty(&pool->done));
	pool->stop = true;
	ox_assert(pthread_cond_broadcast(&pool->work) == 0);
	unlock(pool);
	for (unsigned i = 0; i < pool->worker_count; i++)
		ox_assert(pthread_join(pool->workers[i].thread, NULL) == 0);
	ox_assert(pthread_cond_destroy(&pool->work) == 0);
	ox_assert(pthread_mutex_destroy(&pool->lock) == 0);
	ox_assert(close(pool->pipe_fds[0]) == 0);
	ox_assert(close(pool->pipe_fds[1]) == 0);
	free(pool);
}

int ox_pool_fd(const struct ox_pool *pool)
{
	return pool->pipe_fds[0];
}

bool ox_pool_is_idle(const struct ox_pool *pool)
{
	return pool->in_flight == 0;
}

bool ox_pool_is_writing(const struct ox_pool *pool)
{
	return pool->writing > 0;
}

void ox_pool_kick(struct ox_pool *pool)
{
	if (!atomic_exchange(&pool->signalled, true))
		ox_assert(write(pool->pipe_fds[1], "", 1) == 1);
}

/* ---- what is next, with the lock held ---- */

static bool is_taken(const struct ox_pool *pool, int fd)
{
	for (unsigned i = 0; i < pool->worker_count; i++) {
		if (pool->workers[i].fd == fd)
			return true;
	}
	return false;
}

/* NULL: no write of the file waits. */
static struct ox_aio *find_write(const struct ox_pool *pool, int fd)
{
	for (struct ox_list *at = pool->writes.next; at != &pool->writes; at = at->next) {
		struct ox_aio *aio = ox_container_of(at, struct ox_aio, link);

		if (aio->fd == fd)
			return aio;
	}
	return NULL;
}

/* Of a file that no worker has. NULL: there is none. */
static struct ox_aio *find_untaken(const struct ox_pool *pool)
{
	for (struct ox_list *at = pool->writes.next; at != &pool->writes; at = at->next) {
		struct ox_aio *aio = ox_container_of(at, struct ox_aio, link);

		if (!is_taken(pool, aio->fd))
			return aio;
	}
	return NULL;
}

/* Whether it is not enough that a worker goes on. */
static bool needs_worker(const struct ox_pool *pool, const struct ox_aio *aio)
{
	return !is_cached_write(aio) || (!is_taken(pool, aio->fd) && !find_write(pool, aio->fd));
}

/* The next write of the worker's file, if it has one. NULL: it has not, or not any more. */
static struct ox_aio *go_on(struct ox_pool *pool, struct worker *w)
{
	struct ox_aio *aio = w->fd == NO_FILE ? NULL : find_write(pool, w->fd);

	if (aio && ++w->writes <= WRITES_A_TURN)
		return aio;
	w->fd = NO_FILE;
	if (!aio)
		return NULL;
	pool->takeable++;
	if (pool->idle)
		ox_assert(pthread_cond_signal(&pool->work) == 0);
	return NULL;
}

/* Where something can be taken. A queue that is never empty is no reason to write never. */
static struct ox_aio *take_turn(struct ox_pool *pool, struct worker *w)
{
	struct ox_aio *aio = NULL;

	if (ox_list_empty(&pool->queue) || pool->others >= OTHERS_A_TURN) {
		pool->others = 0;
		aio = find_untaken(pool);
	}
	if (aio) {
		w->fd = aio->fd;
		w->writes = 1;
		return aio;
	}
	pool->others++;
	return ox_list_first(&pool->queue, struct ox_aio, link);
}

/* NULL: there is none. */
static struct ox_aio *take(struct ox_pool *pool, struct worker *w)
{
	struct ox_aio *aio = go_on(pool, w);

	if (!aio) {
		if (pool->takeable == 0)
			return NULL;
		pool->takeable--;
		aio = take_turn(pool, w);
	}
	ox_list_del(&aio->link);
	return aio;
}

/* ---- workers ---- */

/* NULL: the pool stops. */
static struct ox_aio *wait_for_work(struct worker *w)
{
	struct ox_pool *pool = w->pool;
	struct ox_aio *aio;

	lock(pool);
	while (!(aio = take(pool, w)) && !pool->stop) {
		pool->idle++;
		ox_assert(pthread_cond_wait(&pool->work, &pool->lock) == 0);
		pool->idle--;
	}
	unlock(pool);
	return aio;
}

static void *work(void *opaque)
{
	struct worker *w = opaque;
	struct ox_pool *pool = w->pool;
	struct ox_aio *next = wait_for_work(w);
	struct ox_aio *aio;

	while ((aio = next)) {
		ox_aio_execute(aio);
		lock(pool);
		ox_list_push_back(&pool->done, &aio->link);
		next = take(pool, w); /* within the same lock, which is fought for */
		unlock(pool);
		ox_pool_kick(pool);
		if (!next)
			next = wait_for_work(w);
	}
	return NULL;
}

/* Called with the lock held. A host that refuses more threads makes do with those there are. */
static void start_worker(struct ox_pool *pool)
{
	struct worker *w = &pool->workers[pool->worker_count];
	sigset_t all;
	sigset_t old;

	/* Signals are for the program's own threads, but for the one that a thread brings upon
	 * itself and the program may know a way out of: blocked, it would kill. */
	ox_assert(sigfillset(&all) == 0 && sigdelset(&all, SIGBUS) == 0);
	ox_assert(pthread_sigmask(SIG_SETMASK, &all, &old) == 0);
	*w = (struct worker){.pool = pool, .fd = NO_FILE};
	if (pthread_create(&w->thread, NULL, work, w) == 0)
		pool->worker_count++;
	ox_assert(pthread_sigmask(SIG_SETMASK, &old, NULL) == 0);
}

void ox_pool_expect(struct ox_pool *pool)
{
	pool->in_flight++;
}

void ox_pool_end(struct ox_pool *pool, struct ox_aio *aio)
{
	lock(pool);
	ox_list_push_back(&pool->done, &aio->link);
	/* Within the lock: once the request is collected the pool may be destroyed, which takes it.
	 */
	ox_pool_kick(pool);
	unlock(pool);
}

/* Called with the lock held. */
static void enqueue(struct ox_pool *pool, struct ox_aio *aio, bool needs)
{
	ox_list_push_back(is_cached_write(aio) ? &pool->writes : &pool->queue, &aio->link);
	if (!needs)
		return;
	pool->takeable++;
	if (pool->idle)
		ox_assert(pthread_cond_signal(&pool->work) == 0);
}

void ox_pool_submit(struct ox_pool *pool, struct ox_aio *aio)
{
	bool inline_only;
	bool needs;

	pool->in_flight++;
	pool->writing += is_cached_write(aio);
	lock(pool);
	needs = needs_worker(pool, aio);
	if (needs && pool->takeable >= pool->idle && pool->worker_count < OX_WORKERS_MAX)
		start_worker(pool);
	inline_only = pool->worker_count == 0;
	if (!inline_only)
		enqueue(pool, aio, needs);
	unlock(pool);
	if (!inline_only)
		return;
	/* no thread at all: slow beats failing */
	ox_aio_execute(aio);
	lock(pool);
	ox_list_push_back(&pool->done, &aio->link);
	unlock(pool);
	ox_pool_kick(pool);
}

void ox_pool_collect(struct ox_pool *pool, struct ox_reactor *r)
{
	struct ox_list done;
	char byte;

	if (!atomic_load(&pool->signalled))
		return;
	if (read(pool->pipe_fds[0], &byte, 1) == 1)
		atomic_store(&pool->signalled, false);
	else
		ox_assert(errno == EAGAIN);
	ox_list_init(&done);
	lock(pool);
	ox_list_splice_back(&done, &pool->done);
	unlock(pool);
	while (!ox_list_empty(&done)) {
		struct ox_aio *aio = ox_list_first(&done, struct ox_aio, link);

		ox_list_del(&aio->link);
		pool->in_flight--;
		pool->writing -= is_cached_write(aio);
		ox_aio_finish(r, aio);
	}
}
