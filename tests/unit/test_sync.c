/* SPDX-License-Identifier: MIT */
/* clang-format off: cmocka.h needs these first */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <signal.h>
#include <stdio.h>
#include <poll.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "rt/co.h"
#include "rt/reactor.h"
#include "rt/sync.h"

static struct ox_reactor *reactor;
static char trace[128];

static int setup(void **state)
{
	(void)state;
	memset(trace, 0, sizeof(trace));
	return ox_reactor_create(OX_ENGINE_DEFAULT, &reactor, NULL);
}

static int teardown(void **state)
{
	(void)state;
	ox_reactor_destroy(reactor);
	return 0;
}

static void note(char c)
{
	size_t len = strlen(trace);

	assert_true(len + 1 < sizeof(trace));
	trace[len] = c;
}

static void spawn(ox_co_fn fn, void *arg)
{
	assert_int_equal(ox_co_spawn(reactor, fn, arg), 0);
}

/* Until nothing is ready: a run ends after some turns, and then leaves the descriptor readable. */
static void run(void)
{
	struct pollfd p = {.fd = ox_reactor_fd(reactor), .events = POLLIN};

	do
		assert_int_equal(ox_reactor_run(reactor, false), 0);
	while (poll(&p, 1, 0) > 0);
}

/* ---- wait queues ---- */

struct queuer {
	struct ox_waitq *q;
	char name;
};

static void queuer_co(void *arg)
{
	struct queuer *queuer = arg;

	ox_waitq_wait_co(queuer->q);
	note(queuer->name);
}

static void a_wait_queue_wakes_in_order_one_or_all(void **state)
{
	struct ox_waitq q;
	struct queuer queuers[] = {{&q, 'a'}, {&q, 'b'}, {&q, 'c'}, {&q, 'd'}};

	(void)state;
	ox_waitq_init(&q);
	ox_waitq_wake_one(&q);
	ox_waitq_wake_all(&q);
	for (unsigned i = 0; i < 4; i++)
		spawn(queuer_co, &queuers[i]);
	run();
	assert_string_equal(trace, "");
	ox_waitq_wake_one(&q);
	run();
	assert_string_equal(trace, "a");
	ox_waitq_wake_one(&q);
	ox_waitq_wake_one(&q);
	run();
	assert_string_equal(trace, "abc");
	ox_waitq_wake_all(&q);
	run();
	assert_string_equal(trace, "abcd");
}

/* ---- mutex ---- */

struct user {
	struct ox_mutex *m;
	char name;
};

static void user_co(void *arg)
{
	struct user *user = arg;

	ox_mutex_lock_co(user->m);
	note(user->name);
	ox_co_yield_co();
	note(user->name);
	ox_mutex_unlock(user->m);
}

static void a_mutex_admits_one_task_at_a_time_in_order(void **state)
{
	struct ox_mutex m;
	struct user users[] = {{&m, 'a'}, {&m, 'b'}, {&m, 'c'}};

	(void)state;
	ox_mutex_init(&m);
	for (unsigned i = 0; i < 3; i++)
		spawn(user_co, &users[i]);
	run();
	assert_string_equal(trace, "aabbcc");
	assert_null(m.owner);
}

static void relocker_co(void *arg)
{
	struct ox_mutex *m = arg;

	ox_mutex_lock_co(m);
	ox_co_yield_co();
	ox_mutex_unlock(m);
	/* a task waits by now: it goes first */
	ox_mutex_lock_co(m);
	note('r');
	ox_mutex_unlock(m);
}

static void an_unlocker_cannot_overtake_a_waiter(void **state)
{
	struct ox_mutex m;
	struct user user = {&m, 'u'};

	(void)state;
	ox_mutex_init(&m);
	spawn(relocker_co, &m);
	spawn(user_co, &user);
	run();
	assert_string_equal(trace, "uur");
}

/* ---- latch ---- */

static void child_co(void *arg)
{
	ox_co_yield_co();
	note('c');
	ox_latch_done(arg);
}

static void parent_co(void *arg)
{
	struct ox_latch latch;

	(void)arg;
	ox_latch_init(&latch);
	ox_latch_wait_co(&latch); /* nothing to wait for */
	for (unsigned i = 0; i < 3; i++) {
		ox_latch_add(&latch);
		spawn(child_co, &latch);
	}
	ox_latch_wait_co(&latch);
	note('p');
}

static void a_latch_opens_when_every_child_is_done(void **state)
{
	(void)state;
	spawn(parent_co, NULL);
	run();
	assert_string_equal(trace, "cccp");
}

/* ---- range lock ---- */

static struct ox_rangelock ranges;

struct locker {
	char name;
	uint64_t start;
	uint64_t len;
	bool exclusive;
	struct ox_range range;
};

#define LOCKER(name_, start_, len_, exclusive_)                                                    \
	{                                                                                          \
		.name = (name_), .start = (start_), .len = (len_), .exclusive = (exclusive_)       \
	}

static void locker_co(void *arg)
{
	struct locker *locker = arg;

	ox_rangelock_acquire_co(&ranges, &locker->range, locker->start, locker->len,
				locker->exclusive);
	note(locker->name);
}

static void want(struct locker *locker)
{
	spawn(locker_co, locker);
	run();
}

static void release(struct locker *locker)
{
	ox_rangelock_release(&ranges, &locker->range);
	run();
}

static int setup_ranges(void **state)
{
	ox_rangelock_init(&ranges);
	return setup(state);
}

static int teardown_ranges(void **state)
{
	assert_true(ox_rangelock_idle(&ranges));
	return teardown(state);
}

static void ranges_that_do_not_touch_are_held_together(void **state)
{
	struct locker a = LOCKER('a', 0, 10, true);
	struct locker b = LOCKER('b', 10, 10, true);

	(void)state;
	assert_true(ox_rangelock_idle(&ranges));
	want(&a);
	want(&b);
	assert_string_equal(trace, "ab");
	assert_false(ox_rangelock_idle(&ranges));
	release(&a);
	release(&b);
}

static void shared_ranges_overlap_and_exclusive_ones_wait(void **state)
{
	struct locker a = LOCKER('a', 0, 10, false);
	struct locker b = LOCKER('b', 5, 10, false);
	struct locker x = LOCKER('x', 9, 1, true);

	(void)state;
	want(&a);
	want(&b);
	want(&x);
	assert_string_equal(trace, "ab");
	release(&a);
	assert_string_equal(trace, "ab");
	release(&b);
	assert_string_equal(trace, "abx");
	release(&x);
}

static void a_late_reader_does_not_overtake_a_waiting_writer(void **state)
{
	struct locker a = LOCKER('a', 0, 10, false);
	struct locker w = LOCKER('w', 0, 10, true);
	struct locker r = LOCKER('r', 0, 10, false);
	struct locker far = LOCKER('f', 20, 1, false);

	(void)state;
	want(&a);
	want(&w);
	want(&r);
	want(&far);
	assert_string_equal(trace, "af");
	release(&a);
	assert_string_equal(trace, "afw");
	release(&w);
	assert_string_equal(trace, "afwr");
	release(&r);
	release(&far);
}

static void a_release_frees_everyone_whom_it_blocked_in_order(void **state)
{
	struct locker big = LOCKER('B', 0, 100, true);
	struct locker a = LOCKER('a', 0, 10, true);
	struct locker b = LOCKER('b', 50, 10, true);
	struct locker c = LOCKER('c', 5, 50, true);

	(void)state;
	want(&big);
	want(&a);
	want(&b);
	want(&c);
	assert_string_equal(trace, "B");
	release(&big);
	assert_string_equal(trace, "Bab");
	release(&b);
	assert_string_equal(trace, "Bab");
	release(&a);
	assert_string_equal(trace, "Babc");
	release(&c);
}

static void a_downgrade_admits_readers_but_no_writer(void **state)
{
	struct locker w = LOCKER('w', 0, 10, true);
	struct locker r = LOCKER('r', 0, 10, false);
	struct locker x = LOCKER('x', 0, 10, true);

	(void)state;
	want(&w);
	want(&r);
	want(&x);
	assert_string_equal(trace, "w");
	ox_rangelock_downgrade(&ranges, &w.range);
	run();
	assert_string_equal(trace, "wr");
	release(&w);
	assert_string_equal(trace, "wr");
	release(&r);
	assert_string_equal(trace, "wrx");
	release(&x);
}

static void a_try_takes_only_what_is_free_and_unasked_for(void **state)
{
	struct locker a = LOCKER('a', 0, 10, false);
	struct locker w = LOCKER('w', 0, 10, true);
	struct ox_range mine = {.start = 12345};

	(void)state;
	assert_true(ox_rangelock_try_acquire(&ranges, &mine, 0, 10, true));
	assert_false(ox_rangelock_idle(&ranges));
	ox_rangelock_release(&ranges, &mine);
	want(&a);
	assert_true(ox_rangelock_try_acquire(&ranges, &mine, 5, 1, false));
	ox_rangelock_release(&ranges, &mine);
	mine.start = 12345;
	assert_false(ox_rangelock_try_acquire(&ranges, &mine, 5, 1, true));
	assert_int_equal(mine.start, 12345);
	want(&w);
	/* a reader could join the holder, but a writer asked before */
	assert_false(ox_rangelock_try_acquire(&ranges, &mine, 5, 1, false));
	release(&a);
	release(&w);
}

static void a_length_that_overflows_ends_at_the_top(void **state)
{
	struct locker a = LOCKER('a', UINT64_MAX - 10, UINT64_MAX, true);
	struct locker b = LOCKER('b', UINT64_MAX - 1, 1, true);
	struct locker low = LOCKER('l', 0, 10, true);

	(void)state;
	want(&a);
	assert_true(a.range.end == UINT64_MAX);
	want(&b);
	want(&low);
	assert_string_equal(trace, "al");
	release(&a);
	assert_string_equal(trace, "alb");
	release(&b);
	release(&low);
}

/* Many tasks on few cells: readers see no writer, writers see nobody. */
#define CELLS 8

static int readers[CELLS];
static int writers[CELLS];
static unsigned rounds_done;

static void crowd_co(void *arg)
{
	struct ox_range range;

	(void)arg;
	for (unsigned round = 0; round < 50; round++) {
		uint64_t x = ox_reactor_random(reactor);
		uint64_t start = x % CELLS;
		uint64_t len = 1 + (x >> 8) % (CELLS - start);
		bool exclusive = (x >> 16) % 2;

		ox_rangelock_acquire_co(&ranges, &range, start, len, exclusive);
		for (uint64_t i = start; i < start + len; i++) {
			assert_int_equal(writers[i], 0);
			assert_true(!exclusive || readers[i] == 0);
			*(exclusive ? &writers[i] : &readers[i]) += 1;
		}
		for (uint64_t i = (x >> 20) % 4; i > 0; i--)
			ox_co_yield_co();
		for (uint64_t i = start; i < start + len; i++)
			*(exclusive ? &writers[i] : &readers[i]) -= 1;
		ox_rangelock_release(&ranges, &range);
		rounds_done++;
	}
}

static void a_crowd_keeps_readers_and_writers_apart(void **state)
{
	(void)state;
	rounds_done = 0;
	for (unsigned i = 0; i < 64; i++)
		spawn(crowd_co, NULL);
	run();
	assert_int_equal(rounds_done, 64 * 50);
	assert_int_equal(ox_reactor_tasks(reactor), 0);
}

/* ---- mistakes ---- */

static void assert_task_dies(ox_co_fn mistake)
{
	pid_t pid = fork();
	int status;

	assert_true(pid >= 0);
	if (pid == 0) {
		struct rlimit none = {0};

		(void)setrlimit(RLIMIT_CORE, &none);
		if (!freopen("/dev/null", "w", stderr))
			_exit(0);
		/* cmocka's handler would go on with the next test */
		(void)signal(SIGABRT, SIG_DFL);
		if (ox_reactor_create(OX_ENGINE_DEFAULT, &reactor, NULL) == 0 &&
		    ox_reactor_call(reactor, mistake, NULL) == 0)
			_exit(0);
		_exit(1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

static void lock_co(void *arg)
{
	ox_mutex_lock_co(arg);
	ox_co_suspend_co();
}

static void unlock_anothers_co(void *arg)
{
	struct ox_mutex m;

	(void)arg;
	ox_mutex_init(&m);
	if (ox_co_spawn(ox_co_reactor(), lock_co, &m) < 0)
		_exit(0);
	ox_co_yield_co();
	if (!m.owner)
		_exit(0);
	ox_mutex_unlock(&m);
}

static void unlocking_anothers_mutex_is_refused(void **state)
{
	(void)state;
	assert_task_dies(unlock_anothers_co);
}

static void lock_twice_co(void *arg)
{
	struct ox_mutex m;

	(void)arg;
	ox_mutex_init(&m);
	ox_mutex_lock_co(&m);
	ox_mutex_lock_co(&m);
}

static void locking_a_mutex_twice_is_refused(void **state)
{
	(void)state;
	assert_task_dies(lock_twice_co);
}

static void done_too_often_co(void *arg)
{
	struct ox_latch latch;

	(void)arg;
	ox_latch_init(&latch);
	ox_latch_done(&latch);
}

static void a_latch_below_zero_is_refused(void **state)
{
	(void)state;
	assert_task_dies(done_too_often_co);
}

static void release_twice_co(void *arg)
{
	struct ox_rangelock lock;
	struct ox_range range;

	(void)arg;
	ox_rangelock_init(&lock);
	ox_rangelock_acquire_co(&lock, &range, 0, 1, true);
	ox_rangelock_release(&lock, &range);
	ox_rangelock_release(&lock, &range);
}

static void releasing_a_range_twice_is_refused(void **state)
{
	(void)state;
	assert_task_dies(release_twice_co);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define RANGE_TEST(name) cmocka_unit_test_setup_teardown(name, setup_ranges, teardown_ranges)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_wait_queue_wakes_in_order_one_or_all),
		TEST(a_mutex_admits_one_task_at_a_time_in_order),
		TEST(an_unlocker_cannot_overtake_a_waiter),
		TEST(a_latch_opens_when_every_child_is_done),
		RANGE_TEST(ranges_that_do_not_touch_are_held_together),
		RANGE_TEST(shared_ranges_overlap_and_exclusive_ones_wait),
		RANGE_TEST(a_late_reader_does_not_overtake_a_waiting_writer),
		RANGE_TEST(a_release_frees_everyone_whom_it_blocked_in_order),
		RANGE_TEST(a_downgrade_admits_readers_but_no_writer),
		RANGE_TEST(a_try_takes_only_what_is_free_and_unasked_for),
		RANGE_TEST(a_length_that_overflows_ends_at_the_top),
		RANGE_TEST(a_crowd_keeps_readers_and_writers_apart),
		cmocka_unit_test(unlocking_anothers_mutex_is_refused),
		cmocka_unit_test(locking_a_mutex_twice_is_refused),
		cmocka_unit_test(a_latch_below_zero_is_refused),
		cmocka_unit_test(releasing_a_range_twice_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
