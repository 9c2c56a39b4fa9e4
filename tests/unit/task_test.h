/* SPDX-License-Identifier: MIT */
/* cmocka tests whose bodies are tasks: TASK_TEST(claim) runs claim_co(NULL) on `reactor`.
 * A failed check leaves the task alive, at which the reactor's destruction asserts; with
 * CMOCKA_TEST_ABORT=1 in the environment the check says first where it is. */
#ifndef OX_TESTS_TASK_TEST_H
#define OX_TESTS_TASK_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* the ones above first: cmocka.h needs them */
#include <cmocka.h>

#include "rt/reactor.h"

static struct ox_reactor *reactor;

static void run_task_test(void **state)
{
	ox_co_fn *fn = *state;

	assert_int_equal(ox_reactor_call(reactor, *fn, NULL), 0);
}

static inline void spawn(ox_co_fn fn, void *arg)
{
	assert_int_equal(ox_co_spawn(reactor, fn, arg), 0);
}

/* Lets every other task run until it waits for something that only the caller can bring about. */
static inline void let_others_run_co(void)
{
	for (int i = 0; i < 50; i++)
		ox_co_yield_co();
}

#define TASK_TEST(claim)                                                                           \
	{                                                                                          \
#claim, run_task_test, setup, teardown, &(ox_co_fn)                                \
		{                                                                                  \
			claim##_co                                                                 \
		}                                                                                  \
	}

#endif
