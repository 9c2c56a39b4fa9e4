/* SPDX-License-Identifier: MIT */
/*
 * The reactor: one thread's loop over ready tasks and I/O completions.
 *
 * Each turn runs the tasks that are ready (in order; a simulated reactor draws the order), hands
 * all queued requests to the kernel in one submission, and collects completions, which only queue
 * their tasks. Time and randomness come from here, so that a simulated run replays.
 *
 * Two engines carry requests: io_uring, and a pool of threads where io_uring is refused. The
 * environment variable OXBOW_IO=threads|io_uring forces one.
 *
 * A reactor belongs to the thread that made it; nothing here may be called from another one,
 * except by the engine's own worker threads inside.
 */
#ifndef OX_RT_REACTOR_H
#define OX_RT_REACTOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/error.h"
#include "base/list.h"
#include "rt/co.h"

struct ox_reactor;

/* The kinds are those of oxbow.h; OX_ENGINE_DEFAULT reads OXBOW_IO, then tries io_uring, then
 * threads. */
int ox_reactor_create(enum ox_engine kind, struct ox_reactor **ret, struct ox_error **err)
	__attribute__((warn_unused_result));

/* A reactor without kernel, threads and clock, whose whole run follows from the seed: time passes
 * only while every task sleeps, and ready tasks run in a random order. For stores that sleep rather
 * than ask the kernel (tests/sim). Its descriptor is -1. 0 or -ENOMEM. */
int ox_reactor_create_simulated(uint64_t seed, struct ox_reactor **ret)
	__attribute__((warn_unused_result));

/* Asserts that no task is alive. NULL is allowed. */
void ox_reactor_destroy(struct ox_reactor *r);

/* Which engine it got; never OX_ENGINE_DEFAULT. */
enum ox_engine ox_reactor_engine(const struct ox_reactor *r);

/*
 * Runs turns until nothing is ready and no completion is at hand, or until so many have passed that
 * the caller should look at what else it serves: then the descriptor is left readable. With wait,
 * first sleeps until there is something to do (returns at once if results wait, or if no request is
 * in flight and no timer set); a signal cuts the sleep short. Returns 0, or a negative errno of the
 * engine itself, after which no task runs any more.
 */
int ox_reactor_run(struct ox_reactor *r, bool wait);

/* A descriptor to poll, and nothing else, that becomes readable when a completion or a timer gives
 * ox_reactor_run something to do; ox_reactor_run makes it unreadable, unless results wait that the
 * program has not taken. Spawning or waking a task outside of any run does not make it readable:
 * that is for ox_reactor_kick or the next run. */
int ox_reactor_fd(const struct ox_reactor *r);

/* After tasks were spawned: makes the descriptor readable until the next run. It costs a system
 * call the first time only, and nothing within a run. */
void ox_reactor_kick(struct ox_reactor *r);
/* A task has left a result for the program; the program has taken n of them. */
void ox_reactor_results_add(struct ox_reactor *r);
void ox_reactor_results_taken(struct ox_reactor *r, size_t n);
/* The program runs the reactor before each sleep, takes all results, and sleeps for edges of the
 * descriptor: that need not tell of what the program itself has submitted or left, and may stay
 * readable. */
void ox_reactor_set_polled(struct ox_reactor *r, bool polled);

/* Runs fn(arg) as a task and turns the loop until it has ended; other tasks run meanwhile, and the
 * descriptor is left readable if they have more to do. Must not be called from a task. 0, -ENOMEM,
 * or the engine's error. */
int ox_reactor_call(struct ox_reactor *r, ox_co_fn fn, void *arg)
	__attribute__((warn_unused_result));

/* Whether the engine failed under a run: no task runs any more. */
bool ox_reactor_has_failed(const struct ox_reactor *r);

/*
 * Keeps a duplicate of fd open until the reactor is destroyed. Should the process die, it is open
 * until its last thread is gone and the kernel has ended the reactor's last request, which is later
 * than what waitpid(2) tells: io_uring goes on for the dead. -EMFILE: too many are held.
 */
int ox_reactor_hold(struct ox_reactor *r, int fd) __attribute__((warn_unused_result));

/* How many tasks exist. */
unsigned ox_reactor_tasks(const struct ox_reactor *r);
/* Counts each turn in *turns, and has one each second at the least. NULL: no more. */
void ox_reactor_count_turns(struct ox_reactor *r, uint64_t *turns);

/* Monotonic nanoseconds, and a random number, both replayable under a simulated reactor. */
uint64_t ox_reactor_now_ns(struct ox_reactor *r);
uint64_t ox_reactor_random(struct ox_reactor *r);

/* From a task: sleeps. */
void ox_reactor_sleep_co(uint64_t ns);

/* A sleep that another task can end. Set up by ox_timer_init; one sleeper at a time. */
struct ox_timer {
	struct ox_list link;
	uint64_t deadline_ns;
	struct ox_co *co; /* who sleeps; NULL: nobody */
	bool ended;
};

void ox_timer_init(struct ox_timer *t);
/* True: the time is up. False: ox_timer_end came first. */
bool ox_timer_sleep_co(struct ox_timer *t, uint64_t ns);
/* Wakes the sleeper; nothing happens where there is none. */
void ox_timer_end(struct ox_timer *t);

/*
 * Requests, from a task of the reactor they run on. Each returns a byte count or 0, or a negative
 * errno. Short counts are passed on as the kernel gave them; io/ loops over them. Buffers and the
 * iovec stay valid until the call returns.
 */
int64_t ox_aio_preadv_co(int fd, const struct iovec *iov, int iov_count, uint64_t offset);
/* Of a write: fd is known to be past the page cache (O_DIRECT), and need not be asked. */
#define OX_AIO_DIRECT (1 << 30)
/* flags: RWF_DSYNC, OX_AIO_DIRECT. */
int64_t ox_aio_pwritev_co(int fd, const struct iovec *iov, int iov_count, uint64_t offset,
			  int flags);
int ox_aio_fdatasync_co(int fd);
int ox_aio_fallocate_co(int fd, int mode, uint64_t offset, uint64_t length);

/* Runs fn(arg) on a worker thread (decompression, ciphers, ioctls and ftruncate, which io_uring
 * of this kernel generation lacks) and returns its result. */
int ox_aio_work_co(int (*fn)(void *arg), void *arg);

/*
 * Waits for a thread that is none of the reactor's. start runs at once on the reactor's thread, and
 * hands h to whoever ends it: ox_aio_handed_end, once, from any thread, perhaps before start has
 * returned. Returns the result given there. Not under a simulated reactor.
 */
struct ox_handed;
int64_t ox_aio_handed_co(void (*start)(void *arg, struct ox_handed *h), void *arg);
void ox_aio_handed_end(struct ox_handed *h, int64_t result);

/* How many calls of ox_aio_work_co at once are worth having: the CPUs that there are for this
 * process, and no more than there are worker threads. */
unsigned ox_aio_workers(const struct ox_reactor *r);

#endif
