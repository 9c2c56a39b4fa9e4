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
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/arith.h"
#include "rt/co.h"
#include "rt/reactor.h"
#include "rt/sync.h"

static struct ox_reactor *reactor;
static char trace[64];

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

static void run(void)
{
	assert_int_equal(ox_reactor_run(reactor, false), 0);
}

static void note_co(void *arg)
{
	note(*(const char *)arg);
}

static void tasks_first_run_at_the_next_turn_in_order(void **state)
{
	(void)state;
	spawn(note_co, "a");
	spawn(note_co, "b");
	spawn(note_co, "c");
	assert_string_equal(trace, "");
	assert_int_equal(ox_reactor_tasks(reactor), 3);
	run();
	assert_string_equal(trace, "abc");
	assert_int_equal(ox_reactor_tasks(reactor), 0);
}

static void self_co(void *arg)
{
	struct ox_co **ret = arg;

	*ret = ox_co_self();
	assert_ptr_equal(ox_co_reactor(), reactor);
}

static void self_is_the_running_task_and_null_outside(void **state)
{
	struct ox_co *co = NULL;

	(void)state;
	assert_null(ox_co_self());
	spawn(self_co, &co);
	run();
	assert_non_null(co);
	assert_null(ox_co_self());
}

static struct ox_co *sleeper;
static bool may_go;

static void sleeper_co(void *arg)
{
	(void)arg;
	note('s');
	sleeper = ox_co_self();
	while (!may_go)
		ox_co_suspend_co();
	note('e');
}

static void waker_co(void *arg)
{
	(void)arg;
	note('w');
	may_go = true;
	ox_co_wake(sleeper);
	note('x');
}

static void a_woken_task_never_runs_inside_the_waker(void **state)
{
	(void)state;
	may_go = false;
	spawn(sleeper_co, NULL);
	run();
	assert_string_equal(trace, "s");
	spawn(waker_co, NULL);
	run();
	assert_string_equal(trace, "swxe");
}

static void a_task_can_be_woken_from_outside_of_any_task(void **state)
{
	(void)state;
	may_go = false;
	spawn(sleeper_co, NULL);
	run();
	may_go = true;
	ox_co_wake(sleeper);
	assert_string_equal(trace, "s");
	run();
	assert_string_equal(trace, "se");
}

static void yielder_co(void *arg)
{
	(void)arg;
	note('1');
	ox_co_yield_co();
	note('2');
	ox_co_yield_co();
	note('3');
}

static void a_yield_goes_behind_every_ready_task(void **state)
{
	(void)state;
	spawn(yielder_co, NULL);
	spawn(note_co, "a");
	spawn(yielder_co, NULL);
	run();
	assert_string_equal(trace, "1a12233");
}

struct spawner {
	int depth;
	int *count;
};

static void spawner_co(void *arg)
{
	int *count = arg;

	if (++*count < 2000) {
		spawn(spawner_co, arg);
		spawn(note_co, "");
	}
}

static void tasks_spawn_tasks(void **state)
{
	int count = 0;

	(void)state;
	spawn(spawner_co, &count);
	run();
	assert_int_equal(count, 2000);
	assert_int_equal(ox_reactor_tasks(reactor), 0);
}

#define CROWD 1000

static struct ox_co *crowd[CROWD];
static int crowd_size;
static uint64_t crowd_sum;

static uint64_t __attribute__((noinline)) deep_co(unsigned depth)
{
	volatile uint64_t here[16];

	here[0] = depth;
	for (unsigned i = 1; i < 16; i++)
		here[i] = here[i - 1] + 1;
	if (depth == 0) {
		ox_co_suspend_co();
		return here[15];
	}
	return deep_co(depth - 1) + here[15];
}

static void crowd_co(void *arg)
{
	(void)arg;
	crowd[crowd_size++] = ox_co_self();
	crowd_sum += deep_co(60);
}

static void a_thousand_stacks_keep_their_contents(void **state)
{
	uint64_t each = 0;

	(void)state;
	for (unsigned i = 0; i <= 60; i++)
		each += i + 15;
	for (int round = 0; round < 3; round++) {
		crowd_size = 0;
		crowd_sum = 0;
		for (int i = 0; i < CROWD; i++)
			spawn(crowd_co, NULL);
		run();
		assert_int_equal(crowd_size, CROWD);
		for (int i = CROWD - 1; i >= 0; i--)
			ox_co_wake(crowd[i]);
		run();
		assert_int_equal(crowd_sum, each * CROWD);
	}
}

static void float_co(void *arg)
{
	double *value = arg;
	double a = *value;
	double b = a * 3;

	ox_co_yield_co();
	*value = a * b;
	assert_int_equal((uintptr_t)__builtin_frame_address(0) % 16, 0);
}

static void floating_point_survives_switches(void **state)
{
	double x = 1.5;
	double y = 2.5;

	(void)state;
	spawn(float_co, &x);
	spawn(float_co, &y);
	run();
	assert_true(x == 1.5 * 4.5 && y == 2.5 * 7.5);
}

static uint64_t callee_saved_mix_co(uint64_t seed)
{
	uint64_t v[12];
	uint64_t sum = 0;

	for (unsigned i = 0; i < 12; i++)
		v[i] = seed * (i + 3) ^ (seed << i);
	ox_co_yield_co();
	for (unsigned i = 0; i < 12; i++)
		sum = sum * 31 + v[i];
	return sum;
}

static void registers_co(void *arg)
{
	uint64_t *value = arg;

	*value = callee_saved_mix_co(*value);
}

static void registers_survive_switches(void **state)
{
	uint64_t same[2] = {77, 77};
	uint64_t other = 78;

	(void)state;
	spawn(registers_co, &same[0]);
	run();
	spawn(registers_co, &other);
	spawn(registers_co, &same[1]);
	run();
	assert_int_equal(same[0], same[1]);
	assert_int_not_equal(same[0], other);
}

/* ---- mistakes ---- */

static void assert_dies(void (*mistake)(void))
{
	pid_t pid = fork();
	int status;

	assert_true(pid >= 0);
	if (pid == 0) {
		struct rlimit none = {0};

		(void)setrlimit(RLIMIT_CORE, &none);
		if (!freopen("/dev/null", "w", stderr))
			_exit(0);
		/* cmocka's handlers of fatal signals would go on with the next test */
		(void)signal(SIGABRT, SIG_DFL);
#ifndef __SANITIZE_ADDRESS__
		(void)signal(SIGSEGV, SIG_DFL);
#endif
		if (ox_reactor_create(OX_ENGINE_DEFAULT, &reactor, NULL) == 0)
			mistake();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_false(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void must_run(void)
{
	if (ox_reactor_run(reactor, false) != 0)
		_exit(0);
}

static void must_spawn(ox_co_fn fn, void *arg)
{
	if (ox_co_spawn(reactor, fn, arg) != 0)
		_exit(0);
}

static void suspend_once_co(void *arg)
{
	struct ox_co **ret = arg;

	*ret = ox_co_self();
	ox_co_suspend_co();
}

static void wake_twice(void)
{
	struct ox_co *co;

	must_spawn(suspend_once_co, &co);
	must_run();
	ox_co_wake(co);
	ox_co_wake(co);
}

static void wake_self_co(void *arg)
{
	(void)arg;
	ox_co_wake(ox_co_self());
}

static void wake_running(void)
{
	must_spawn(wake_self_co, NULL);
	must_run();
}

static void destroy_with_a_task(void)
{
	struct ox_co *co;

	must_spawn(suspend_once_co, &co);
	must_run();
	ox_reactor_destroy(reactor);
}

static void suspend_outside_co(void)
{
	ox_co_suspend_co();
}

static void run_inside_co(void *arg)
{
	(void)arg;
	must_run();
}

static void run_inside(void)
{
	must_spawn(run_inside_co, NULL);
	must_run();
}

static void end_with_mutex_co(void *arg)
{
	ox_mutex_lock_co(arg);
}

static void end_with_mutex(void)
{
	struct ox_mutex m;

	ox_mutex_init(&m);
	must_spawn(end_with_mutex_co, &m);
	must_run();
}

static uint64_t __attribute__((noinline)) overflow(uint64_t depth)
{
	volatile char page[2048];

	page[0] = (char)depth;
	return depth == UINT64_MAX ? 0 : overflow(depth + 1) + (uint64_t)page[0];
}

static void overflow_co(void *arg)
{
	uint64_t *depth = arg;

	*depth = overflow(0);
}

static void overflow_stack(void)
{
	uint64_t depth;

	must_spawn(overflow_co, &depth);
	must_run();
}

static void waking_a_queued_task_is_refused(void **state)
{
	(void)state;
	assert_dies(wake_twice);
}

static void waking_the_running_task_is_refused(void **state)
{
	(void)state;
	assert_dies(wake_running);
}

static void destroying_a_reactor_with_tasks_is_refused(void **state)
{
	(void)state;
	assert_dies(destroy_with_a_task);
}

static void suspending_outside_of_a_task_is_refused(void **state)
{
	(void)state;
	assert_dies(suspend_outside_co);
}

static void running_the_reactor_from_a_task_is_refused(void **state)
{
	(void)state;
	assert_dies(run_inside);
}

static void ending_with_a_mutex_held_is_refused(void **state)
{
	(void)state;
	assert_dies(end_with_mutex);
}

static void a_stack_overflow_hits_the_guard_page(void **state)
{
	(void)state;
	assert_dies(overflow_stack);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(tasks_first_run_at_the_next_turn_in_order),
		TEST(self_is_the_running_task_and_null_outside),
		TEST(a_woken_task_never_runs_inside_the_waker),
		TEST(a_task_can_be_woken_from_outside_of_any_task),
		TEST(a_yield_goes_behind_every_ready_task),
		TEST(tasks_spawn_tasks),
		TEST(a_thousand_stacks_keep_their_contents),
		TEST(floating_point_survives_switches),
		TEST(registers_survive_switches),
		cmocka_unit_test(waking_a_queued_task_is_refused),
		cmocka_unit_test(waking_the_running_task_is_refused),
		cmocka_unit_test(destroying_a_reactor_with_tasks_is_refused),
		cmocka_unit_test(suspending_outside_of_a_task_is_refused),
		cmocka_unit_test(running_the_reactor_from_a_task_is_refused),
		cmocka_unit_test(ending_with_a_mutex_held_is_refused),
		cmocka_unit_test(a_stack_overflow_hits_the_guard_page),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
