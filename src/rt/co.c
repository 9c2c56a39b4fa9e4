/* SPDX-License-Identifier: MIT */
#include "rt/co.h"

#include <errno.h>

#include "base/assert.h"
#include "rt/internal.h"
#include "rt/sanitize.h"

static _Thread_local struct ox_co *running;

struct ox_co *ox_co_self(void)
{
	return running;
}

struct ox_reactor *ox_co_reactor(void)
{
	ox_assert(running);
	return running->reactor;
}

/* Goes back to the reactor. A task that ends gives its ASan fake stack up. */
static void leave(struct ox_co *co, enum ox_co_state state)
{
	struct ox_reactor *r = co->reactor;
	const char *frame = __builtin_frame_address(0);

	/* the guard page stops an overflow; this stops a caller on a stack that is not the task's
	 */
	ox_assert(frame >= co->stack && frame < co->stack + co->stack_bytes);
	co->state = state;
	asan_start_switch(state == OX_CO_ENDED ? NULL : &co->asan_fake_stack, r->asan_main_stack,
			  r->asan_main_bytes);
	ox_switch_to(&co->context, &r->main);
	asan_finish_switch(co->asan_fake_stack, &r->asan_main_stack, &r->asan_main_bytes);
}

static void co_entry(void)
{
	struct ox_co *co = running;
	struct ox_reactor *r = co->reactor;

	asan_finish_switch(NULL, &r->asan_main_stack, &r->asan_main_bytes);
	co->fn(co->arg);
	ox_assert(co->mutexes_held == 0);
	leave(co, OX_CO_ENDED);
	ox_assert(co->state != OX_CO_ENDED);
}

int ox_co_spawn(struct ox_reactor *r, ox_co_fn fn, void *arg)
{
	struct ox_co *co;

	ox_assert(pthread_equal(r->thread, pthread_self()));
	co = ox_stack_take(r);
	if (!co)
		return -ENOMEM;
	co->reactor = r;
	co->fn = fn;
	co->arg = arg;
	co->mutexes_held = 0;
	co->cancelled = NULL;
	co->asan_fake_stack = NULL;
	co->state = OX_CO_READY;
	ox_switch_init(&co->context, co->stack, co->stack_bytes, co_entry);
	ox_list_push_back(&r->ready, &co->link);
	r->tasks++;
	return 0;
}

void ox_co_resume(struct ox_co *co)
{
	struct ox_reactor *r = co->reactor;

	ox_assert(!running);
	ox_assert(co->state == OX_CO_READY);
	co->state = OX_CO_RUNNING;
	running = co;
	asan_start_switch(&r->asan_fake_stack, co->stack, co->stack_bytes);
	ox_switch_to(&r->main, &co->context);
	asan_finish_switch(r->asan_fake_stack, NULL, NULL);
	running = NULL;
	if (co->state == OX_CO_ENDED) {
		r->tasks--;
		ox_stack_give_back(r, co);
	}
}

void ox_co_suspend_co(void)
{
	ox_assert(running);
	leave(running, OX_CO_SUSPENDED);
}

void ox_co_wake(struct ox_co *co)
{
	ox_assert(co->state == OX_CO_SUSPENDED);
	ox_assert(pthread_equal(co->reactor->thread, pthread_self()));
	co->state = OX_CO_READY;
	ox_list_push_back(&co->reactor->ready, &co->link);
}

void ox_co_watch_cancel(const bool *flag)
{
	ox_assert(running);
	running->cancelled = flag;
}

bool ox_co_is_cancelled(void)
{
	return running && running->cancelled && *running->cancelled;
}

void ox_co_yield_co(void)
{
	ox_assert(running);
	/* Not into the ready list: a turn runs that until it is empty, and a task that yields in a
	 * loop would keep completions from being seen. */
	ox_list_push_back(&running->reactor->yielded, &running->link);
	leave(running, OX_CO_READY);
}

const bool *ox_co_cancel_flag(void)
{
	return running ? running->cancelled : NULL;
}
