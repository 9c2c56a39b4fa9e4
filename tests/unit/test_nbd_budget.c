/* SPDX-License-Identifier: MIT */
/* The memory of a server's connections: its bound, and who gets it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* the ones above first: cmocka.h needs them */
#include <cmocka.h>

#include "serve/nbd/budget.h"
#include "serve/nbd/buffer.h"

#define MIB ((size_t)1 << 20)
#define CONNECTIONS 17u

static struct ox_nbd_budget budget;
static struct ox_nbd_share shares[CONNECTIONS];

static int setup(void **state)
{
	(void)state;
	for (unsigned i = 0; i < CONNECTIONS; i++)
		shares[i] = (struct ox_nbd_share){0};
	ox_nbd_budget_init(&budget, 320 * MIB, CONNECTIONS);
	assert_int_equal(budget.common_bytes, 150 * MIB);
	assert_int_equal(budget.share_bytes, 10 * MIB);
	return 0;
}

static bool take(unsigned i, size_t bytes)
{
	return ox_nbd_budget_take(&budget, &shares[i], bytes);
}

/* As the owner does: whoever can have what it waits for takes it. Returns how many did. */
static unsigned serve_waiting(void)
{
	struct ox_nbd_share *share;
	unsigned served = 0;

	while ((share = ox_nbd_budget_next(&budget))) {
		assert_true(ox_nbd_budget_take(&budget, share, share->wanted_bytes));
		served++;
	}
	return served;
}

static void test_all_that_is_taken_stays_within_the_limit(void **state)
{
	(void)state;
	for (unsigned round = 0; round < 1000; round++) {
		unsigned i = (round * 5) % CONNECTIONS;

		if (round % 3 == 0 && shares[i].held_bytes > 0)
			ox_nbd_budget_give(&budget, &shares[i], shares[i].held_bytes);
		else if (shares[i].wanted_bytes == 0)
			(void)take(i, (round % 32 + 1) * MIB);
		serve_waiting();
		assert_true(budget.used_bytes <= budget.limit_bytes);
		assert_true(budget.common_used_bytes <= budget.common_bytes);
	}
}

static void test_nobody_can_take_the_share_of_another(void **state)
{
	(void)state;
	/* The others take all they get, and never give it back. */
	for (unsigned i = 1; i <= 3; i++)
		assert_true(take(i, 60 * MIB));
	for (unsigned i = 4; i < CONNECTIONS; i++)
		assert_true(take(i, 10 * MIB));
	assert_int_equal(budget.common_used_bytes, budget.common_bytes);
	for (unsigned n = 0; n < 10; n++)
		assert_true(take(0, MIB));
	assert_false(take(0, MIB));
	assert_int_equal(budget.used_bytes, budget.limit_bytes);
}

static void test_who_holds_least_comes_first(void **state)
{
	(void)state;
	assert_true(take(0, 80 * MIB));
	assert_true(take(1, 70 * MIB));
	assert_false(take(1, 5 * MIB)); /* came first, but holds 60 beyond its share */
	assert_false(take(2, 34 * MIB));
	assert_false(take(3, 34 * MIB));
	ox_nbd_budget_give(&budget, &shares[0], 4 * MIB);
	assert_int_equal(serve_waiting(), 1);
	assert_int_equal(shares[2].held_bytes, 34 * MIB);
	ox_nbd_budget_give(&budget, &shares[0], 24 * MIB);
	assert_int_equal(serve_waiting(), 1);
	assert_int_equal(shares[3].held_bytes, 34 * MIB);
	ox_nbd_budget_give(&budget, &shares[0], 38 * MIB);
	assert_int_equal(serve_waiting(), 1);
	assert_int_equal(shares[1].held_bytes, 75 * MIB);
}

static void test_who_holds_much_leaves_room_for_somebody_else(void **state)
{
	(void)state;
	assert_true(take(0, 70 * MIB));
	assert_true(take(0, 32 * MIB));
	assert_false(take(0, 30 * MIB)); /* there would be room for it, and nobody else waits */
	assert_true(take(1, 43 * MIB));
	assert_int_equal(serve_waiting(), 0);
}

static void test_small_requests_do_not_pass_a_large_one_that_came_first(void **state)
{
	(void)state;
	assert_true(take(0, 140 * MIB));
	assert_false(take(1, 40 * MIB));
	assert_true(take(2, 10 * MIB));
	assert_false(take(2, MIB)); /* there would be room for it */
	ox_nbd_budget_give(&budget, &shares[0], 20 * MIB);
	assert_int_equal(serve_waiting(), 2);
	assert_int_equal(shares[1].held_bytes, 40 * MIB);
	assert_int_equal(shares[2].held_bytes, 11 * MIB);
}

static void test_a_waiter_whose_own_share_suffices_again_waits_for_nobody(void **state)
{
	(void)state;
	assert_true(take(0, 160 * MIB));
	assert_true(take(1, 9 * MIB));
	assert_false(take(2, 11 * MIB));
	assert_false(take(1, 2 * MIB));
	ox_nbd_budget_give(&budget, &shares[1], 3 * MIB);
	assert_int_equal(serve_waiting(), 1);
	assert_int_equal(shares[1].held_bytes, 8 * MIB);
}

static void test_those_behind_one_that_leaves_are_looked_at(void **state)
{
	(void)state;
	assert_true(take(0, 140 * MIB));
	assert_false(take(1, 42 * MIB));
	assert_false(take(2, 12 * MIB));
	assert_int_equal(serve_waiting(), 0);
	assert_true(ox_nbd_budget_others_wait(&budget, &shares[1]));
	ox_nbd_budget_leave(&budget, &shares[1]);
	assert_int_equal(serve_waiting(), 1);
	assert_int_equal(shares[2].held_bytes, 12 * MIB);
	assert_false(ox_nbd_budget_others_wait(&budget, &shares[1]));
}

static void test_what_frees_nothing_wakes_nobody(void **state)
{
	(void)state;
	assert_true(take(0, 160 * MIB));
	assert_false(take(1, 11 * MIB));
	assert_null(ox_nbd_budget_next(&budget));
	assert_false(ox_nbd_budget_others_wait(&budget, &shares[1]));
	assert_true(ox_nbd_budget_others_wait(&budget, &shares[0]));
	assert_int_equal(ox_nbd_budget_beyond(&budget, &shares[0]), 150 * MIB);
}

static void test_the_least_memory_holds_the_largest_request(void **state)
{
	struct ox_nbd_share share = {0};

	(void)state;
	ox_nbd_budget_init(&budget, ox_nbd_budget_min_bytes(4096), 4096);
	assert_true(ox_nbd_budget_take(&budget, &share, budget.share_bytes));
	assert_true(ox_nbd_budget_take(&budget, &share, ox_nbd_buffer_bytes(32 * MIB) + MIB));
}

static void test_kept_buffers_stay_within_what_is_left(void **state)
{
	struct ox_nbd_pool pool = {0};
	uint8_t *buffers[8];

	(void)state;
	for (unsigned i = 0; i < 8; i++) {
		buffers[i] = ox_nbd_buffer_get(&pool, MIB - 5);
		assert_non_null(buffers[i]);
		buffers[i][0] = buffers[i][MIB - 1] = 1;
	}
	for (unsigned i = 0; i < 8; i++)
		ox_nbd_buffer_put(&pool, buffers[i], MIB - 5, 5 * MIB);
	assert_int_equal(pool.kept_bytes, 5 * MIB);
	ox_nbd_pool_shrink(&pool, 2 * MIB + 5);
	assert_int_equal(pool.kept_bytes, 2 * MIB);
	buffers[0] = ox_nbd_buffer_get(&pool, MIB);
	assert_int_equal(pool.kept_bytes, MIB);
	ox_nbd_buffer_put(&pool, buffers[0], MIB, 0);
	assert_int_equal(pool.kept_bytes, MIB);
	ox_nbd_pool_free(&pool);
	assert_int_equal(pool.kept_bytes, 0);
}

static void test_a_buffer_is_counted_as_it_is_allocated(void **state)
{
	(void)state;
	assert_int_equal(ox_nbd_buffer_bytes(1), 4096);
	assert_int_equal(ox_nbd_buffer_bytes(4097), 8192);
	assert_int_equal(ox_nbd_buffer_bytes(MIB + 1), 2 * MIB);
	assert_int_equal(ox_nbd_buffer_bytes(2 * MIB + 1), 2 * MIB + 4096);
	assert_int_equal(ox_nbd_buffer_bytes(32 * MIB), 32 * MIB);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_all_that_is_taken_stays_within_the_limit, setup),
		cmocka_unit_test_setup(test_nobody_can_take_the_share_of_another, setup),
		cmocka_unit_test_setup(test_who_holds_least_comes_first, setup),
		cmocka_unit_test_setup(test_who_holds_much_leaves_room_for_somebody_else, setup),
		cmocka_unit_test_setup(test_small_requests_do_not_pass_a_large_one_that_came_first,
				       setup),
		cmocka_unit_test_setup(
			test_a_waiter_whose_own_share_suffices_again_waits_for_nobody, setup),
		cmocka_unit_test_setup(test_those_behind_one_that_leaves_are_looked_at, setup),
		cmocka_unit_test_setup(test_what_frees_nothing_wakes_nobody, setup),
		cmocka_unit_test_setup(test_the_least_memory_holds_the_largest_request, setup),
		cmocka_unit_test(test_kept_buffers_stay_within_what_is_left),
		cmocka_unit_test(test_a_buffer_is_counted_as_it_is_allocated),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
