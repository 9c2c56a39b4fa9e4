/* SPDX-License-Identifier: MIT */
/* What the files of rt/ share and nobody else includes: the task, the reactor, the engines. */
#ifndef OX_RT_INTERNAL_H
#define OX_RT_INTERNAL_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/list.h"
#include "rt/co.h"
#include "rt/reactor.h"
#include "rt/switch.h"

#define OX_NO_DEADLINE UINT64_MAX

/* ---- tasks ---- */

enum ox_co_state {
	OX_CO_READY, /* in the reactor's ready or yielded list */
	OX_CO_RUNNING,
	OX_CO_SUSPENDED,
	OX_CO_ENDED, /* its stack may be used again */
};

/* Lies at the top of the mapping that holds its stack, and is reused with it. */
struct ox_co {
	struct ox_list link; /* ready, yielded, or the reactor's free stacks */
	struct ox_reactor *reactor;
	enum ox_co_state state;
	unsigned mutexes_held; /* a task that ends with one is a mistake */
	ox_co_fn fn;
	void *arg;
	const bool *cancelled; /* the caller's flag; NULL: none */
	struct ox_switch context;
	char *stack; /* lowest usable byte; the guard page lies below */
	size_t stack_bytes;
	unsigned valgrind_id;
	void *asan_fake_stack;
};

/* A task with an empty stack, from the reactor's pool or fresh. NULL: no memory. */
struct ox_co *ox_stack_take(struct ox_reactor *r);
void ox_stack_give_back(struct ox_reactor *r, struct ox_co *co);
void ox_stack_free_all(struct ox_reactor *r);

/* Runs a ready task until it suspends or ends. */
void ox_co_resume(struct ox_co *co);

/* ---- requests ---- */

enum ox_aio_kind {
	OX_AIO_READ,
	OX_AIO_WRITE,
	OX_AIO_FDATASYNC,
	OX_AIO_FALLOCATE,
	OX_AIO_WORK,
	OX_AIO_HANDED, /* to a thread of somebody else's */
};

/* One request; lives on the stack of the task that waits for it. */
struct ox_aio {
	struct ox_list link; /* the pool's queue or its list of finished requests */
	struct ox_co *co;
	enum ox_aio_kind kind;
	int fd;
	int flags;	 /* rwf_flags, or the mode of fallocate */
	bool page_cache; /* a write that may go through it; io_uring asks fd */
	const struct iovec *iov;
	int iov_count;
	uint64_t offset;
	uint64_t length;
	int (*fn)(void *arg);
	void *arg;
	struct ox_pool *pool; /* HANDED: where its end is told */
	int64_t result;
	bool done;
};

/* Carries a request out with blocking calls; on a worker thread. */
void ox_aio_execute(struct ox_aio *aio);
/* Ends a request: only queues its task. */
void ox_aio_finish(struct ox_reactor *r, struct ox_aio *aio);

/* ---- the pool of worker threads ---- */

#define OX_WORKERS_MAX 16

struct ox_pool;

int ox_pool_create(struct ox_pool **ret);
/* Joins the workers. No request may be left. NULL is allowed. */
void ox_pool_destroy(struct ox_pool *pool);
void ox_pool_submit(struct ox_pool *pool, struct ox_aio *aio);
/* A request that another thread carries out is counted by the reactor, and then ended by that
 * thread, which touches neither it nor the pool from there on. */
void ox_pool_expect(struct ox_pool *pool);
void ox_pool_end(struct ox_pool *pool, struct ox_aio *aio);
/* Finishes what the workers are done with. Cheap where that is nothing: no lock, no system call. */
void ox_pool_collect(struct ox_pool *pool, struct ox_reactor *r);
/* Whether every request was collected. */
bool ox_pool_is_idle(const struct ox_pool *pool);
/* Whether one of those that were not is a write to the page cache. */
bool ox_pool_is_writing(const struct ox_pool *pool);
/* Readable when ox_pool_collect has something to do. */
int ox_pool_fd(const struct ox_pool *pool);
/* Makes it readable. */
void ox_pool_kick(struct ox_pool *pool);

/* ---- engines ---- */

struct ox_engine_ops {
	enum ox_engine kind;
	int (*create)(struct ox_reactor *r);
	void (*destroy)(struct ox_reactor *r);
	void (*start)(struct ox_reactor *r, struct ox_aio *aio);
	/* Hands over what was started and finishes what is complete. With wait, sleeps until
	 * something is, or the timer expires, or a signal arrives. */
	int (*turn)(struct ox_reactor *r, bool wait);
	/* Sets the one timer to an absolute time; a timer that expires sets armed_ns to
	 * OX_NO_DEADLINE and makes the descriptor readable. */
	int (*arm_timer)(struct ox_reactor *r, uint64_t deadline_ns);
	/* Brackets of a run: the descriptor need not tell of anything between them. leave returns
	 * whether something came up before the descriptor could tell of it. */
	void (*enter)(struct ox_reactor *r);
	bool (*leave)(struct ox_reactor *r);
	/* Makes the descriptor readable. */
	void (*kick)(struct ox_reactor *r);
	int (*fd)(const struct ox_reactor *r);
	/* Keeps a duplicate of fd open until the kernel has ended every request, whatever becomes
	 * of the process. NULL: no request outlives its threads. */
	int (*hold)(struct ox_reactor *r, int fd);
	/* NULL: threads of others cannot be waited for. */
	struct ox_pool *(*pool)(const struct ox_reactor *r);
};

extern const struct ox_engine_ops ox_uring_ops;
extern const struct ox_engine_ops ox_threads_ops;
extern const struct ox_engine_ops ox_simulated_ops;

/* ---- the reactor ---- */

/* Descriptors that a reactor holds for others at the most. */
#define OX_HELD_MAX 4

struct ox_reactor {
	const struct ox_engine_ops *ops;
	void *engine;
	pthread_t thread; /* the one that made it */
	bool running;
	bool polled;	  /* ox_reactor_set_polled */
	bool kicked;	  /* the descriptor was made readable, and no run has begun since */
	uint64_t results; /* that the program has not taken */
	int failed;	  /* the engine's error: no task is run any more */

	struct ox_list ready;	/* struct ox_co, first come first served */
	struct ox_list yielded; /* ready again at the next turn */
	unsigned tasks;
	unsigned requests; /* started and not finished */

	struct ox_list timers; /* struct timer, by deadline */
	uint64_t armed_ns;     /* what the engine's timer is set to */
	uint64_t *turns;       /* counted there; NULL: nowhere */
	uint64_t beat_ns;      /* when there is a turn at the latest, if they are counted */
	uint64_t random_state;
	bool simulated;	       /* time and the order of tasks follow the seed */
	uint64_t simulated_ns; /* then: now */

	struct ox_list free_stacks;
	unsigned free_stack_count;

	int held_fds[OX_HELD_MAX]; /* -1: the engine has it */
	unsigned held_count;

	struct ox_switch main; /* the stack that ox_reactor_run was called on */
	void *asan_fake_stack;
	const void *asan_main_stack;
	size_t asan_main_bytes;
};

#endif
