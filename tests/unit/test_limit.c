/* SPDX-License-Identifier: MIT */
/* Limits of I/Os and bytes a second, by a clock that the tests turn. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* the ones above first: cmocka.h needs them */
#include <cmocka.h>

#include <errno.h>

#include "cli/limits.h"
#include "serve/limit.h"
#include "serve/loop.h"

#define MS INT64_C(1000000)
#define SECOND (1000 * MS)
#define KIB 1024u
#define CLIENTS 3u

/* A client that has requests without end, or so many. */
struct client {
	struct ox_limit_waiter turn; /* first */
	unsigned left;
	unsigned taken;
	uint64_t bytes; /* of each */
};

static struct ox_limit limit;
static struct client clients[CLIENTS];
static int64_t now_ns;

/* All that the limits let it. */
static void take(struct ox_limit_waiter *waiter)
{
	struct client *client = (struct client *)waiter;

	while (client->left > 0 && ox_limit_ask_at(&limit, waiter, now_ns)) {
		ox_limit_charge_at(&limit, 1, client->bytes, now_ns);
		client->left--;
		client->taken++;
	}
}

static unsigned taken(void)
{
	unsigned sum = 0;

	for (unsigned i = 0; i < CLIENTS; i++)
		sum += clients[i].taken;
	return sum;
}

/* So much later the server looks, and not in between. */
static void pass(int64_t ns)
{
	now_ns += ns;
	ox_limit_release(&limit, now_ns);
}

static void set(uint64_t iops, uint64_t iops_burst, uint64_t bandwidth, uint64_t bandwidth_burst)
{
	const struct ox_serve_limits limits = {iops, iops_burst, bandwidth, bandwidth_burst};

	ox_limit_set(&limit, &limits, now_ns);
}

static int setup(void **state)
{
	(void)state;
	now_ns = 12345 * SECOND;
	limit = (struct ox_limit){0};
	for (unsigned i = 0; i < CLIENTS; i++)
		clients[i] =
			(struct client){.turn.resume = take, .left = 1000000, .bytes = 4 * KIB};
	return 0;
}

/* ---- rates and bursts ---- */

static void what_is_not_limited_is_taken(void **state)
{
	(void)state;
	set(0, 0, 0, 0);
	assert_true(ox_limit_ask(&limit, &clients[0].turn));
	assert_true(ox_limit_ask(NULL, &clients[0].turn));
	clients[0].left = 1000;
	take(&clients[0].turn);
	assert_int_equal(taken(), 1000);
	assert_true(ox_limit_due_ns(&limit) == INT64_MAX);
}

static void as_many_are_taken_a_second_as_are_allowed(void **state)
{
	static const uint64_t rates[] = {1, 3, 7, 100, 12345};

	(void)state;
	for (unsigned i = 0; i < sizeof(rates) / sizeof(rates[0]); i++) {
		(void)setup(NULL);
		set(rates[i], 1, 0, 0);
		take(&clients[0].turn);
		for (int ms = 0; ms < 20000; ms++)
			pass(MS);
		/* One at once, and what was owed to the timer. */
		assert_in_range(taken(), rates[i] * 20, rates[i] * 20 + 1 + rates[i] / 100);
	}
}

static void a_timer_that_comes_late_costs_nothing(void **state)
{
	(void)state;
	set(5000, 1, 0, 0);
	take(&clients[0].turn);
	for (int i = 0; i < 1000; i++)
		pass(9 * MS);
	assert_in_range(taken(), 5000 * 9, 5000 * 9 + 1 + 50);
}

static void idle_time_saves_up_a_burst_and_no_more(void **state)
{
	(void)state;
	set(100, 30, 0, 0);
	now_ns += 3600 * SECOND;
	take(&clients[0].turn);
	assert_int_equal(taken(), 30);
	pass(10 * MS - 1);
	assert_int_equal(taken(), 30);
	pass(1);
	assert_int_equal(taken(), 31);
}

static void a_burst_that_is_not_stated_is_a_tenth_of_a_second_s_worth(void **state)
{
	(void)state;
	set(100, 0, 0, 0);
	now_ns += 3600 * SECOND;
	take(&clients[0].turn);
	assert_int_equal(taken(), 10);
	set(2, 0, 0, 0);
	now_ns += 3600 * SECOND;
	pass(0);
	assert_int_equal(taken(), 11);
}

static void bytes_are_limited_as_requests_are(void **state)
{
	(void)state;
	set(0, 0, 400 * KIB, 40 * KIB);
	now_ns += SECOND;
	take(&clients[0].turn);
	assert_int_equal(taken(), 10);
	for (int i = 0; i < 10; i++)
		pass(100 * MS);
	assert_int_equal(taken(), 110);
}

static void the_stricter_limit_holds(void **state)
{
	(void)state;
	set(1000, 1, 40 * KIB, 4 * KIB);
	take(&clients[0].turn);
	for (int i = 0; i < 10000; i++)
		pass(MS);
	assert_in_range(taken(), 100, 101);
	setup(NULL);
	set(10, 1, 1000 * KIB, 4 * KIB);
	take(&clients[0].turn);
	for (int i = 0; i < 10000; i++)
		pass(MS);
	assert_in_range(taken(), 100, 101);
}

static void a_request_larger_than_the_bucket_is_taken_and_paid_for_later(void **state)
{
	(void)state;
	set(0, 0, 100 * KIB, KIB);
	clients[0].bytes = 1000 * KIB;
	take(&clients[0].turn);
	assert_int_equal(taken(), 1);
	assert_true(ox_limit_due_ns(&limit) == now_ns + 10 * SECOND);
	pass(10 * SECOND - 1);
	assert_int_equal(taken(), 1);
	pass(1);
	assert_int_equal(taken(), 2);
}

static void the_largest_numbers_do_no_harm(void **state)
{
	(void)state;
	set(OX_SERVE_LIMIT_MAX, OX_SERVE_LIMIT_MAX, 1, OX_SERVE_LIMIT_MAX);
	now_ns += 3600 * SECOND;
	clients[0].bytes = UINT32_MAX;
	take(&clients[0].turn);
	assert_int_equal(taken(), 1);
	assert_true(ox_limit_due_ns(&limit) > now_ns + INT64_C(4000000000) * SECOND);
	set(1, 1, OX_SERVE_LIMIT_MAX, 1);
	pass(0);
	assert_int_equal(taken(), 2);
}

/* ---- those who share it ---- */

static void clients_take_turns_whoever_asks_first(void **state)
{
	(void)state;
	set(300, 1, 0, 0);
	for (unsigned i = 0; i < CLIENTS; i++)
		take(&clients[i].turn);
	for (int i = 0; i < 1000; i++) {
		take(&clients[0].turn); /* in vain: it is queued */
		pass(10 * MS);
	}
	for (unsigned i = 0; i < CLIENTS; i++)
		assert_in_range(clients[i].taken, 999, 1002);
}

static void who_comes_later_does_not_pass_those_who_wait(void **state)
{
	(void)state;
	set(10, 1, 0, 0);
	take(&clients[0].turn);
	assert_int_equal(clients[0].taken, 1);
	now_ns += SECOND; /* something is left, and the first has not been resumed yet */
	take(&clients[1].turn);
	assert_int_equal(clients[1].taken, 0);
	ox_limit_release(&limit, now_ns);
	assert_int_equal(clients[0].taken + clients[1].taken, 2);
	assert_int_equal(clients[0].taken, 2);
}

static void who_has_left_is_not_resumed(void **state)
{
	(void)state;
	set(10, 1, 0, 0);
	for (unsigned leaves = 0; leaves < CLIENTS; leaves++) {
		for (unsigned i = 0; i < CLIENTS; i++)
			clients[i].taken = 0;
		for (unsigned i = 0; i < CLIENTS; i++)
			take(&clients[i].turn);
		ox_limit_leave(&limit, &clients[leaves].turn);
		ox_limit_leave(&limit, &clients[leaves].turn);
		assert_false(clients[leaves].turn.waits);
		clients[leaves].taken = 0;
		for (int i = 0; i < 10; i++)
			pass(100 * MS);
		assert_int_equal(clients[leaves].taken, 0);
		assert_in_range(taken(), 10, 11);
	}
}

static void who_wants_nothing_any_more_costs_no_turn(void **state)
{
	(void)state;
	set(10, 1, 0, 0);
	for (unsigned i = 0; i < CLIENTS; i++)
		take(&clients[i].turn);
	clients[1].left = 0;
	for (int i = 0; i < 10; i++)
		pass(100 * MS);
	assert_int_equal(taken(), 11);
	assert_in_range(clients[2].taken, 5, 5);
}

static void new_limits_hold_at_once_for_those_who_wait(void **state)
{
	struct ox_serve_loop loop = {0};
	const struct ox_serve_limits crawl = {.bandwidth = 1};
	const struct ox_serve_limits run = {.iops = 1000};
	const struct ox_serve_limits none = {0};
	struct ox_limit_waiter *turn = &clients[0].turn;

	(void)state;
	clients[0].left = 0; /* it only tells that it was resumed */
	ox_serve_limits_set(&loop, &crawl);
	assert_true(ox_limit_ask(&loop.limit, turn));
	ox_limit_charge(&loop.limit, 1, 1000000);
	assert_false(ox_limit_ask(&loop.limit, turn));
	ox_limit_release(&loop.limit, ox_serve_now_ns());
	assert_true(turn->waits);
	ox_serve_limits_set(&loop, &run);
	ox_limit_release(&loop.limit, ox_serve_now_ns());
	assert_false(turn->waits);
	assert_int_equal(loop.limit.limits.iops, 1000);

	ox_serve_limits_set(&loop, &crawl);
	ox_limit_charge(&loop.limit, 1, 1000000);
	assert_false(ox_limit_ask(&loop.limit, turn));
	ox_serve_limits_set(&loop, &none);
	assert_true(ox_limit_due_ns(&loop.limit) <= ox_serve_now_ns());
	ox_limit_release(&loop.limit, ox_serve_now_ns());
	assert_false(turn->waits);
	assert_true(ox_limit_ask(&loop.limit, turn));
}

/* ---- as they are typed ---- */

static void limits_are_parsed(void **state)
{
	struct ox_serve_limits limits;

	(void)state;
	assert_int_equal(
		ox_cli_limits_parse("bandwidth=1.5M,iops=500,bandwidth-burst=2G,iops-burst=7",
				    &limits),
		0);
	assert_int_equal(limits.iops, 500);
	assert_int_equal(limits.iops_burst, 7);
	assert_int_equal(limits.bandwidth, 1536 * KIB);
	assert_int_equal(limits.bandwidth_burst, (uint64_t)2 << 30);
	assert_int_equal(ox_cli_limits_parse("iops=1", &limits), 0);
	assert_int_equal(limits.bandwidth, 0);
	assert_int_equal(ox_cli_limits_parse("none", &limits), 0);
	assert_int_equal(limits.iops, 0);
	assert_int_equal(ox_cli_limits_parse("iops=0", &limits), 0);
}

static void other_words_are_no_limits(void **state)
{
	static const char *const words[] = {
		"",
		"iops",
		"iops=",
		"iops=-1",
		"iops=1k",
		"iops=1,iops=2",
		"iops-burst=1",
		"bandwidth-burst=1M",
		"nothing=1",
		"iops=0x10",
		"bandwidth=1 M",
		"iops=1,",
		"iops=1,none",
		"bandwidth=2P",
		"iops=0,iops-burst=1",
		"iops=18446744073709551616",
	};
	struct ox_serve_limits limits = {.iops = 17};

	(void)state;
	for (unsigned i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		assert_int_equal(ox_cli_limits_parse(words[i], &limits), -EINVAL);
	assert_int_equal(limits.iops, 17);
}

#define TEST(test) cmocka_unit_test_setup(test, setup)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(what_is_not_limited_is_taken),
		TEST(as_many_are_taken_a_second_as_are_allowed),
		TEST(a_timer_that_comes_late_costs_nothing),
		TEST(idle_time_saves_up_a_burst_and_no_more),
		TEST(a_burst_that_is_not_stated_is_a_tenth_of_a_second_s_worth),
		TEST(bytes_are_limited_as_requests_are),
		TEST(the_stricter_limit_holds),
		TEST(a_request_larger_than_the_bucket_is_taken_and_paid_for_later),
		TEST(the_largest_numbers_do_no_harm),
		TEST(clients_take_turns_whoever_asks_first),
		TEST(who_comes_later_does_not_pass_those_who_wait),
		TEST(who_has_left_is_not_resumed),
		TEST(who_wants_nothing_any_more_costs_no_turn),
		TEST(new_limits_hold_at_once_for_those_who_wait),
		TEST(limits_are_parsed),
		TEST(other_words_are_no_limits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
