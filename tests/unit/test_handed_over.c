/* SPDX-License-Identifier: MIT */
/* Tasks that wait for threads which are none of the reactor's. */
#include "task_test.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include "base/arith.h"

static int setup(void **state)
{
	(void)state;
	return ox_reactor_create(OX_ENGINE_DEFAULT, &reactor, NULL);
}

static int teardown(void **state)
{
	(void)state;
	ox_reactor_destroy(reactor);
	return 0;
}

/* A thread that ends what it is handed, after a moment, with the number it was made for. */
struct helper {
	pthread_t thread;
	struct ox_handed *handed;
	int64_t result;
	bool ended;
};

static void *help(void *opaque)
{
	static const struct timespec moment = {.tv_nsec = 2000000};
	struct helper *h = opaque;

	(void)nanosleep(&moment, NULL);
	ox_aio_handed_end(h->handed, h->result);
	return NULL;
}

static void start_helper(void *arg, struct ox_handed *handed)
{
	struct helper *h = arg;

	h->handed = handed;
	assert_int_equal(pthread_create(&h->thread, NULL, help, h), 0);
}

static void ask_helper_co(void *arg)
{
	struct helper *h = arg;

	assert_int_equal(ox_aio_handed_co(start_helper, h), h->result);
	assert_int_equal(pthread_join(h->thread, NULL), 0);
	h->ended = true;
}

static void a_task_sleeps_until_the_thread_has_ended_it_co(void *arg)
{
	struct helper h = {.result = -ENOTCONN};

	(void)arg;
	ask_helper_co(&h);
	assert_true(h.ended);
}

static void many_threads_end_many_tasks_co(void *arg)
{
	struct helper h[40] = {{0}};
	bool all = false;

	(void)arg;
	for (unsigned i = 0; i < OX_ARRAY_SIZE(h); i++) {
		h[i].result = i;
		spawn(ask_helper_co, &h[i]);
	}
	while (!all) {
		all = true;
		for (unsigned i = 0; i < OX_ARRAY_SIZE(h); i++)
			all = all && h[i].ended;
		ox_reactor_sleep_co(1000000);
	}
}

static void end_at_once(void *arg, struct ox_handed *handed)
{
	(void)arg;
	ox_aio_handed_end(handed, 7);
}

static void what_is_ended_before_it_is_waited_for_is_no_matter_co(void *arg)
{
	(void)arg;
	for (int i = 0; i < 1000; i++)
		assert_int_equal(ox_aio_handed_co(end_at_once, NULL), 7);
}

/* Also where nothing else is in flight, and the program sleeps on the descriptor. */
static void the_end_makes_the_fd_readable(void **state)
{
	struct pollfd p = {.fd = ox_reactor_fd(reactor), .events = POLLIN};
	struct helper h = {.result = 1};

	(void)state;
	spawn(ask_helper_co, &h);
	assert_int_equal(ox_reactor_run(reactor, false), 0);
	while (!h.ended) {
		assert_int_equal(poll(&p, 1, 30000), 1);
		assert_int_equal(ox_reactor_run(reactor, false), 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TASK_TEST(a_task_sleeps_until_the_thread_has_ended_it),
		TASK_TEST(many_threads_end_many_tasks),
		TASK_TEST(what_is_ended_before_it_is_waited_for_is_no_matter),
		cmocka_unit_test_setup_teardown(the_end_makes_the_fd_readable, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
