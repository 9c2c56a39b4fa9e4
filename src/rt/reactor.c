/* SPDX-License-Identifier: MIT */
#include "rt/reactor.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "rt/internal.h"
#include "rt/sanitize.h"

/* How many tasks run before completions are looked at: tasks that wake each other without end
 * must not keep the others' I/O from being seen. */
#define TASKS_A_TURN_MAX 1024

/* Where turns are counted, somebody takes a loop for dead that does not turn for long. */
#define BEAT_NS UINT64_C(1000000000)

/* How many turns a run takes before its caller may look at what else it serves: tasks that yield
 * without end, or an engine that says so, must not keep its sockets from being seen. */
#define TURNS_A_RUN_MAX 64

static int engine_open(struct ox_reactor *r, const struct ox_engine_ops *ops)
{
	r->ops = ops;
	return ops->create(r);
}

static int engine_choose(struct ox_reactor *r, enum ox_engine kind, struct ox_error **err)
{
	const char *env = kind == OX_ENGINE_DEFAULT ? getenv("OXBOW_IO") : NULL;
	int code;

	if (env && (strcmp(env, "uring") == 0 || strcmp(env, "io_uring") == 0))
		kind = OX_ENGINE_IO_URING;
	else if (env && strcmp(env, "threads") == 0)
		kind = OX_ENGINE_THREAD_POOL;
	else if (env && *env)
		return ox_error_set(err, -EINVAL, "OXBOW_IO is '%s', not 'io_uring' or 'threads'",
				    env);
	/* valgrind 3.19 runs one thread at a time and does not know that io_uring_enter sleeps:
	 * the worker that it sleeps for would never run */
	if (kind == OX_ENGINE_DEFAULT && valgrind_is_running())
		kind = OX_ENGINE_THREAD_POOL;
	if (kind != OX_ENGINE_THREAD_POOL) {
		code = engine_open(r, &ox_uring_ops);
		if (code == 0)
			return 0;
		if (kind == OX_ENGINE_IO_URING)
			return ox_error_set_errno(err, code, "Could not set up io_uring");
	}
	code = engine_open(r, &ox_threads_ops);
	if (code < 0)
		return ox_error_set_errno(err, code, "Could not set up the I/O threads");
	return 0;
}

static uint64_t random_seed(void)
{
	uint64_t seed = 0;

	if (getrandom(&seed, sizeof(seed), GRND_NONBLOCK) != sizeof(seed) || seed == 0)
		seed = 0x9e3779b97f4a7c15; /* not a secret: any odd start serves */
	return seed;
}

static struct ox_reactor *reactor_new(uint64_t seed)
{
	struct ox_reactor *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	r->thread = pthread_self();
	ox_list_init(&r->ready);
	ox_list_init(&r->yielded);
	ox_list_init(&r->timers);
	ox_list_init(&r->free_stacks);
	r->armed_ns = OX_NO_DEADLINE;
	r->random_state = seed;
	return r;
}

int ox_reactor_create(enum ox_engine kind, struct ox_reactor **ret, struct ox_error **err)
{
	struct ox_reactor *r = reactor_new(random_seed());
	int code;

	if (!r)
		return ox_error_set_errno(err, -ENOMEM, "Could not make a reactor");
	code = engine_choose(r, kind, err);
	if (code < 0) {
		free(r);
		return code;
	}
	*ret = r;
	return 0;
}

int ox_reactor_create_simulated(uint64_t seed, struct ox_reactor **ret)
{
	/* xorshift stands still on zero, and small seeds would begin alike */
	struct ox_reactor *r = reactor_new((seed + 1) * 0x9e3779b97f4a7c15 | 1);
	int code;

	if (!r)
		return -ENOMEM;
	code = engine_open(r, &ox_simulated_ops);
	if (code < 0) {
		free(r);
		return code;
	}
	*ret = r;
	return 0;
}

void ox_reactor_destroy(struct ox_reactor *r)
{
	if (!r)
		return;
	/* tasks that a failed engine left behind cannot end; their stacks stay mapped */
	ox_assert((r->tasks == 0 || r->failed) && !r->running);
	ox_assert(pthread_equal(r->thread, pthread_self()));
	r->ops->destroy(r);
	while (r->held_count > 0)
		if (r->held_fds[--r->held_count] >= 0)
			close(r->held_fds[r->held_count]);
	ox_stack_free_all(r);
	free(r);
}

/* Where only threads work, the process's own descriptor will do: it is closed with the last of
 * them, each of which ends what it does in the kernel first. */
int ox_reactor_hold(struct ox_reactor *r, int fd)
{
	int held = -1;
	int code;

	if (r->held_count == OX_HELD_MAX)
		return -EMFILE;
	if (fcntl(fd, F_GETFD) < 0)
		return -errno; /* to io_uring -1 is the wish for nothing */
	if (r->ops->hold) {
		code = r->ops->hold(r, fd);
		if (code < 0)
			return code;
	} else {
		held = fcntl(fd, F_DUPFD_CLOEXEC, 0);
		if (held < 0)
			return -errno;
	}
	r->held_fds[r->held_count++] = held;
	return 0;
}

enum ox_engine ox_reactor_engine(const struct ox_reactor *r)
{
	return r->ops->kind;
}

int ox_reactor_fd(const struct ox_reactor *r)
{
	return r->ops->fd(r);
}

bool ox_reactor_has_failed(const struct ox_reactor *r)
{
	return r->failed < 0;
}

unsigned ox_reactor_tasks(const struct ox_reactor *r)
{
	return r->tasks;
}

/* ---- time, chance and order: what a simulated reactor answers itself ---- */

uint64_t ox_reactor_now_ns(struct ox_reactor *r)
{
	struct timespec now;

	if (r->simulated)
		return r->simulated_ns;
	ox_assert(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift generators"). */
uint64_t ox_reactor_random(struct ox_reactor *r)
{
	uint64_t x = r->random_state;

	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	r->random_state = x;
	return x * 0x2545f4914f6cdd1d;
}

static struct ox_co *next_task(struct ox_reactor *r)
{
	struct ox_list *at = r->ready.next;
	unsigned n = 0;

	if (r->simulated) {
		struct ox_list *it;

		ox_list_for_each (it, &r->ready)
			if (ox_reactor_random(r) % ++n == 0)
				at = it;
	}
	ox_list_del(at);
	return ox_list_entry(at, struct ox_co, link);
}

/* ---- timers ---- */

void ox_timer_init(struct ox_timer *t)
{
	*t = (struct ox_timer){0};
	ox_list_init(&t->link);
}

static void timer_wake(struct ox_timer *t, bool ended)
{
	struct ox_co *co = t->co;

	ox_list_del(&t->link);
	t->co = NULL;
	t->ended = ended;
	ox_co_wake(co);
}

bool ox_timer_sleep_co(struct ox_timer *t, uint64_t ns)
{
	struct ox_reactor *r = ox_co_reactor();
	struct ox_list *at;

	ox_assert(!t->co);
	t->co = ox_co_self();
	if (!ox_add_u64(ox_reactor_now_ns(r), ns, &t->deadline_ns) || t->deadline_ns > INT64_MAX)
		t->deadline_ns = INT64_MAX;
	/* from the back: most sleeps are of one length */
	for (at = r->timers.prev; at != &r->timers; at = at->prev)
		if (ox_list_entry(at, struct ox_timer, link)->deadline_ns <= t->deadline_ns)
			break;
	ox_list_push_front(at, &t->link);
	while (t->co)
		ox_co_suspend_co();
	return !t->ended;
}

void ox_timer_end(struct ox_timer *t)
{
	if (t->co)
		timer_wake(t, true);
}

void ox_reactor_sleep_co(uint64_t ns)
{
	struct ox_timer timer;

	ox_timer_init(&timer);
	ox_timer_sleep_co(&timer, ns);
}

static uint64_t first_timer(const struct ox_reactor *r)
{
	if (ox_list_empty(&r->timers))
		return OX_NO_DEADLINE;
	return ox_list_first(&r->timers, struct ox_timer, link)->deadline_ns;
}

static uint64_t first_deadline(const struct ox_reactor *r)
{
	uint64_t timer_ns = first_timer(r);

	return r->turns && r->beat_ns < timer_ns ? r->beat_ns : timer_ns;
}

static void expire_timers(struct ox_reactor *r)
{
	bool beats = r->turns && r->armed_ns == OX_NO_DEADLINE; /* else it is not due */
	uint64_t now;

	if (ox_list_empty(&r->timers) && !beats)
		return;
	now = ox_reactor_now_ns(r);
	while (first_timer(r) <= now)
		timer_wake(ox_list_first(&r->timers, struct ox_timer, link), false);
	if (beats && r->beat_ns <= now)
		r->beat_ns = now + BEAT_NS;
}

void ox_reactor_count_turns(struct ox_reactor *r, uint64_t *turns)
{
	r->turns = turns;
	r->beat_ns = ox_reactor_now_ns(r) + BEAT_NS;
}

/* ---- turns ---- */

static bool is_ready(const struct ox_reactor *r)
{
	return !ox_list_empty(&r->ready) || !ox_list_empty(&r->yielded);
}

static void run_ready(struct ox_reactor *r)
{
	ox_list_splice_back(&r->ready, &r->yielded);
	for (unsigned i = 0; i < TASKS_A_TURN_MAX && !ox_list_empty(&r->ready); i++)
		ox_co_resume(next_task(r));
}

/* With wait, sleeps if there is something to sleep for and no task became ready. ended: what the
 * caller waits for, perhaps come about while tasks ran, or NULL. */
static int turn(struct ox_reactor *r, bool wait, const bool *ended)
{
	int code = 0;

	if (r->turns)
		__atomic_store_n(r->turns, *r->turns + 1, __ATOMIC_RELAXED);
	run_ready(r);
	if (first_deadline(r) < r->armed_ns)
		code = r->ops->arm_timer(r, first_deadline(r));
	if (code == 0) {
		bool asleep = r->requests > 0 || !ox_list_empty(&r->timers);

		if (ended && *ended)
			wait = false;
		code = r->ops->turn(r, wait && asleep && !is_ready(r));
	}
	expire_timers(r);
	/* What is in flight may write to the stacks of tasks for as long as it likes; no caller
	 * can go on from here. */
	if (code < 0)
		r->failed = code;
	return code;
}

static void enter(struct ox_reactor *r)
{
	ox_assert(!ox_co_self() && !r->running);
	ox_assert(pthread_equal(r->thread, pthread_self()));
	r->running = true;
	r->kicked = false;
	r->ops->enter(r);
}

static void kick(struct ox_reactor *r)
{
	if (!r->kicked)
		r->ops->kick(r);
	r->kicked = true;
}

/* The end of a run: the program must not sleep over what is left to do, or to take. */
static void leave(struct ox_reactor *r, bool more)
{
	if (more || (r->results > 0 && !r->polled))
		kick(r);
	r->running = false;
}

/* Whether the loop may be left: nothing ready, every timer set, and the descriptor tells of the
 * rest. */
static bool is_quiet(struct ox_reactor *r)
{
	return !is_ready(r) && first_deadline(r) >= r->armed_ns && !r->ops->leave(r);
}

int ox_reactor_run(struct ox_reactor *r, bool wait)
{
	int code = r->failed;
	bool quiet = false;

	if (code < 0)
		return code;
	enter(r);
	wait = wait && !is_ready(r) && r->results == 0;
	for (unsigned i = 0; code == 0 && !quiet; i++) {
		if (i == TURNS_A_RUN_MAX && !r->simulated)
			break;
		code = turn(r, wait, NULL);
		wait = false;
		quiet = code < 0 || is_quiet(r);
	}
	leave(r, !quiet);
	return code;
}

void ox_reactor_kick(struct ox_reactor *r)
{
	ox_assert(pthread_equal(r->thread, pthread_self()));
	if (!r->running && !r->polled)
		kick(r);
}

void ox_reactor_results_add(struct ox_reactor *r)
{
	r->results++;
}

void ox_reactor_results_taken(struct ox_reactor *r, size_t n)
{
	ox_assert(pthread_equal(r->thread, pthread_self()));
	ox_assert(n <= r->results);
	r->results -= n;
}

void ox_reactor_set_polled(struct ox_reactor *r, bool polled)
{
	r->polled = polled;
	/* what was not told while it was true */
	if (!polled && (is_ready(r) || r->results > 0))
		ox_reactor_kick(r);
}

struct call {
	ox_co_fn fn;
	void *arg;
	bool ended;
};

static void call_co(void *opaque)
{
	struct call *call = opaque;

	call->fn(call->arg);
	call->ended = true;
}

int ox_reactor_call(struct ox_reactor *r, ox_co_fn fn, void *arg)
{
	struct call call = {.fn = fn, .arg = arg};
	int code = r->failed;

	if (code < 0)
		return code;
	code = ox_co_spawn(r, call_co, &call);
	if (code < 0)
		return code;
	enter(r);
	while (code == 0 && !call.ended)
		code = turn(r, true, &call.ended);
	/* Other tasks may have more to do, perhaps without end: theirs is the next run. */
	leave(r, code == 0 && !is_quiet(r));
	return code;
}
