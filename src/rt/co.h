/* SPDX-License-Identifier: MIT */
/*
 * Tasks: stackful coroutines, each bound to the reactor that spawned it.
 *
 * A function that may suspend ends in _co, and only _co functions (and the functions given to
 * ox_co_spawn, whose names end in _co as well) call it. Waking a task only queues it: the woken
 * task never runs inside the waker. Stacks are 256 KiB (touched as needed) with a guard page below,
 * pooled by the reactor, and announced to ASan and valgrind.
 */
#ifndef OX_RT_CO_H
#define OX_RT_CO_H

#include <stdbool.h>

struct ox_reactor;
struct ox_co;

typedef void (*ox_co_fn)(void *arg);

/* Queues a new task. It first runs at the reactor's next turn. 0 or -ENOMEM. */
int ox_co_spawn(struct ox_reactor *r, ox_co_fn fn, void *arg) __attribute__((warn_unused_result));

/* The running task, or NULL outside of any task. */
struct ox_co *ox_co_self(void);

/* The reactor of the running task. Asserts that a task is running. */
struct ox_reactor *ox_co_reactor(void);

/* Suspends the running task until ox_co_wake. A task has no memory of earlier wakes: the waker
 * and the sleeper agree on a condition, and the sleeper tests it in a loop. */
void ox_co_suspend_co(void);

/* Queues a suspended task. Asserts that it is suspended and not queued yet. */
void ox_co_wake(struct ox_co *co);

/*
 * Giving up: the running task names a flag of its caller's, which outlives it. Long work asks
 * ox_co_is_cancelled between its pieces, and ends with -ECANCELED where it is set; work that asks
 * never is not cancelled. Outside of a task, and for a task that named no flag: false.
 */
void ox_co_watch_cancel(const bool *flag);
bool ox_co_is_cancelled(void);
/* The running task's flag, for a task that it spawns to do a part of the work; NULL: none. */
const bool *ox_co_cancel_flag(void);

/* Queues the running task behind every ready one, and suspends. */
void ox_co_yield_co(void);

#endif
