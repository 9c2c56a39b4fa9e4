/* SPDX-License-Identifier: MIT */
/* What a crew does on its worker threads, and what it leaves. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"
#include "check/scan/crew.h"
#include "rt/reactor.h"

#define COUNT 5000u

struct things {
	uint64_t count;
	unsigned seats;
	uint64_t left_every; /* thing that is left; 0: none */
	uint64_t left_from;
	uint64_t fails_at;
	pthread_t reactor_thread;
	unsigned busy[OX_CREW_SEATS_MAX]; /* threads in that seat */
	unsigned tries[COUNT];
	uint64_t told;
	uint64_t *done;
	int result;
};

static struct things things;

static int try_one(void *arg, unsigned seat, uint64_t index)
{
	struct things *t = arg;

	ox_assert(seat < t->seats);
	ox_assert(!pthread_equal(pthread_self(), t->reactor_thread));
	ox_assert(__atomic_add_fetch(&t->busy[seat], 1, __ATOMIC_SEQ_CST) == 1);
	ox_assert(index < t->count);
	t->tries[index]++;
	ox_assert(__atomic_sub_fetch(&t->busy[seat], 1, __ATOMIC_SEQ_CST) == 0);
	if (index == t->fails_at)
		return -EIO;
	return (t->left_every == 0 || index % t->left_every != 0) && index < t->left_from;
}

static void done(void *arg, uint64_t count)
{
	struct things *t = arg;

	ox_assert(pthread_equal(pthread_self(), t->reactor_thread));
	t->told += count;
}

static void run_co(void *arg)
{
	static const struct ox_crew_ops ops = {.try_one = try_one, .done = done};
	struct things *t = arg;

	t->result = ox_crew_run_co(t->seats, t->count, &ops, t, &t->done);
}

static void run(unsigned seats, uint64_t count, uint64_t left_every, uint64_t left_from,
		uint64_t fails_at)
{
	struct ox_reactor *reactor;

	assert_int_equal(ox_reactor_create(OX_ENGINE_DEFAULT, &reactor, NULL), 0);
	free(things.done);
	things = (struct things){
		.count = count,
		.seats = seats,
		.left_every = left_every,
		.left_from = left_from,
		.fails_at = fails_at,
		.reactor_thread = pthread_self(),
	};
	assert_int_equal(ox_reactor_call(reactor, run_co, &things), 0);
	ox_reactor_destroy(reactor);
}

static void test_each_thing_is_tried_once_and_those_left_are_known(void **state)
{
	(void)state;
	for (unsigned seats = 1; seats <= OX_CREW_SEATS_MAX; seats++) {
		for (uint64_t count = 1; count <= COUNT; count = count * 3 + 1) {
			uint64_t sum = 0;

			run(seats, count, 3, UINT64_MAX, UINT64_MAX);
			assert_int_equal(things.result, 0);
			for (uint64_t i = 0; i < count; i++) {
				assert_int_equal(things.tries[i], 1);
				assert_int_equal(ox_crew_is_done(things.done, i), i % 3 != 0);
				sum += i % 3 != 0;
			}
			assert_int_equal(things.told, sum);
		}
	}
}

static void test_a_crew_that_can_do_little_gives_up(void **state)
{
	unsigned tried = 0;

	(void)state;
	run(2, COUNT, 0, 1000, UINT64_MAX);
	assert_int_equal(things.result, 0);
	for (uint64_t i = 0; i < COUNT; i++) {
		tried += things.tries[i];
		assert_int_equal(ox_crew_is_done(things.done, i), i < 1000);
	}
	/* A chunk in each seat beyond the one that told. */
	assert_in_range(tried, 1000, 1000 + 4 * 64);
}

static void test_an_error_ends_it(void **state)
{
	(void)state;
	run(2, COUNT, 0, UINT64_MAX, 777);
	assert_int_equal(things.result, -EIO);
	assert_int_equal(things.tries[COUNT - 1], 0);
	assert_null(things.done);
}

static int teardown(void **state)
{
	(void)state;
	free(things.done);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_each_thing_is_tried_once_and_those_left_are_known),
		cmocka_unit_test(test_a_crew_that_can_do_little_gives_up),
		cmocka_unit_test(test_an_error_ends_it),
	};

	return cmocka_run_group_tests_name("crew", tests, NULL, teardown);
}
