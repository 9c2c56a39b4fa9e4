/* SPDX-License-Identifier: MIT */
#include "task_test.h"

#include <errno.h>

#include "meta/order.h"
#include "watched_io.h"

static struct ox_io *io;
static struct ox_order order;
static unsigned finished;

static int setup(void **state)
{
	(void)state;
	if (ox_reactor_create(OX_ENGINE_DEFAULT, &reactor, NULL) < 0)
		return -1;
	io = watched_io_open(reactor, 4096);
	ox_order_init(&order, io, false);
	finished = 0;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	watched_io_close(io);
	ox_reactor_destroy(reactor);
	return 0;
}

struct waiter {
	uint64_t ticket;
	int result; /* 1: not there yet */
};

static void wait_co(void *arg)
{
	struct waiter *w = arg;

	w->ticket = ox_order_ticket(&order);
	w->result = ox_order_wait_co(&order, w->ticket);
	finished++;
}

static void sync_always_co(void *arg)
{
	struct waiter *w = arg;

	w->result = ox_order_sync_always_co(&order);
	finished++;
}

static void start_waiters(struct waiter *waiters, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		waiters[i].result = 1;
		spawn(wait_co, &waiters[i]);
	}
}

static void await_finished_co(unsigned n)
{
	while (finished < n)
		ox_co_yield_co();
}

static void all_who_wait_share_one_sync_co(void *arg)
{
	struct waiter waiters[32];

	(void)arg;
	start_waiters(waiters, 32);
	await_finished_co(32);
	assert_int_equal(watched.syncs_asked, 1);
	for (int i = 0; i < 32; i++)
		assert_int_equal(waiters[i].result, 0);
}

static void a_ticket_drawn_during_a_sync_is_not_reached_by_it_co(void *arg)
{
	struct waiter first = {0, 1};
	struct waiter late[8];

	(void)arg;
	watched.hold_syncs = true;
	spawn(wait_co, &first);
	let_others_run_co();
	assert_int_equal(watched.syncs_asked, 1);
	start_waiters(late, 8);
	let_others_run_co();
	assert_int_equal(watched.syncs_asked, 1);
	assert_int_equal(finished, 0);
	assert_int_equal(late[0].ticket, first.ticket + 1);
	assert_false(ox_order_reached(&order, first.ticket));
	watched.hold_syncs = false;
	await_finished_co(9);
	assert_int_equal(watched.syncs_asked, 2); /* the late ones share the second */
	for (int i = 0; i < 8; i++)
		assert_int_equal(late[i].result, 0);
	assert_true(ox_order_reached(&order, late[0].ticket));
}

static void a_ticket_that_is_reached_costs_no_sync_co(void *arg)
{
	uint64_t ticket = ox_order_ticket(&order);

	(void)arg;
	assert_int_equal(ox_order_wait_co(&order, OX_TICKET_NONE), 0);
	assert_int_equal(watched.syncs_asked, 0);
	assert_int_equal(ox_order_wait_co(&order, ticket), 0);
	assert_int_equal(ox_order_wait_co(&order, ticket), 0);
	assert_int_equal(watched.syncs_asked, 1);
}

/* M3: the sync that follows would succeed, and prove nothing. */
static void a_failed_sync_poisons_for_good_and_is_not_tried_again_co(void *arg)
{
	struct waiter waiters[4];
	struct waiter late = {0, 1};
	uint64_t reached = ox_order_ticket(&order);

	(void)arg;
	assert_int_equal(ox_order_wait_co(&order, reached), 0);
	watched.sync_error = -EIO;
	start_waiters(waiters, 4);
	await_finished_co(4);
	for (int i = 0; i < 4; i++)
		assert_int_equal(waiters[i].result, -EIO);
	assert_int_equal(watched.syncs_asked, 2);
	watched.sync_error = 0;
	spawn(wait_co, &late);
	await_finished_co(5);
	assert_int_equal(late.result, -EIO);
	assert_int_equal(ox_order_sync_always_co(&order), -EIO);
	assert_int_equal(ox_order_wait_co(&order, reached), -EIO);
	assert_int_equal(watched.syncs_asked, 2);
	assert_int_equal(ox_order_error(&order), -EIO);
}

static void those_who_came_during_a_sync_that_fails_fail_too_co(void *arg)
{
	struct waiter first = {0, 1};
	struct waiter late = {0, 1};

	(void)arg;
	watched.hold_syncs = true;
	spawn(wait_co, &first);
	let_others_run_co();
	spawn(wait_co, &late);
	let_others_run_co();
	watched.sync_error = -ENOSPC;
	watched.hold_syncs = false;
	await_finished_co(2);
	assert_int_equal(first.result, -ENOSPC);
	assert_int_equal(late.result, -ENOSPC);
	assert_int_equal(watched.syncs_asked, 1);
}

static void the_error_that_poisoned_first_stays_co(void *arg)
{
	(void)arg;
	assert_int_equal(ox_order_error(&order), 0);
	ox_order_poison(&order, -ENOSPC);
	ox_order_poison(&order, -EIO);
	assert_int_equal(ox_order_error(&order), -ENOSPC);
	assert_int_equal(ox_order_wait_co(&order, ox_order_ticket(&order)), -ENOSPC);
	assert_int_equal(watched.syncs_asked, 0);
}

static void skipped_syncs_are_counted_and_not_carried_out_co(void *arg)
{
	uint64_t ticket;

	(void)arg;
	ox_order_init(&order, io, true);
	ticket = ox_order_ticket(&order);
	assert_int_equal(ox_order_wait_co(&order, ticket), 0);
	assert_true(ox_order_reached(&order, ticket));
	assert_int_equal(watched.syncs_asked, 0);
	assert_int_equal(ox_order_sync_always_co(&order), 0);
	assert_int_equal(watched.syncs_asked, 1);
	assert_int_equal(ox_order_wait_co(&order, ox_order_ticket(&order)), 0);
	assert_int_equal(watched.syncs_asked, 1);
}

static void a_sync_that_must_be_is_not_served_by_a_skipped_one_co(void *arg)
{
	struct waiter skips[2];
	struct waiter forced = {0, 1};

	(void)arg;
	ox_order_init(&order, io, true);
	start_waiters(skips, 1); /* leads: has not looked yet whether to skip */
	spawn(sync_always_co, &forced);
	start_waiters(skips + 1, 1);
	await_finished_co(3);
	assert_int_equal(forced.result, 0);
	assert_int_equal(watched.syncs, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TASK_TEST(all_who_wait_share_one_sync),
		TASK_TEST(a_ticket_drawn_during_a_sync_is_not_reached_by_it),
		TASK_TEST(a_ticket_that_is_reached_costs_no_sync),
		TASK_TEST(a_failed_sync_poisons_for_good_and_is_not_tried_again),
		TASK_TEST(those_who_came_during_a_sync_that_fails_fail_too),
		TASK_TEST(the_error_that_poisoned_first_stays),
		TASK_TEST(skipped_syncs_are_counted_and_not_carried_out),
		TASK_TEST(a_sync_that_must_be_is_not_served_by_a_skipped_one),
	};

	return cmocka_run_group_tests_name("order", tests, NULL, NULL);
}
