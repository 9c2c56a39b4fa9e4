/* SPDX-License-Identifier: MIT */
/* How many lines of a server are told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* the ones above first: cmocka.h needs them */
#include <cmocka.h>

#include "serve/lines.h"

#define NOW INT64_C(5000000)

static struct ox_serve_lines lines;
static uint64_t left_out;

static int setup(void **state)
{
	(void)state;
	lines = (struct ox_serve_lines){0};
	return 0;
}

static const char *const kind = "front end %u";
static const char *const other_kind = "memory %u";

static unsigned tell(const char *format, unsigned count, int64_t now_ms)
{
	unsigned told = 0;

	for (unsigned i = 0; i < count; i++)
		told += ox_serve_lines_take(&lines, format, now_ms, &left_out);
	return told;
}

static void a_burst_is_told_and_then_one_now_and_then(void **state)
{
	(void)state;
	assert_int_equal(tell(kind, 100000, NOW), OX_SERVE_LINES_BURST);
	assert_int_equal(tell(kind, 1, NOW + OX_SERVE_LINES_EVERY_MS - 1), 0);
	for (int i = 1; i <= 5; i++)
		assert_int_equal(tell(kind, 1000, NOW + i * (int)OX_SERVE_LINES_EVERY_MS), 1);
}

static void what_was_left_out_is_counted(void **state)
{
	(void)state;
	assert_int_equal(tell(kind, OX_SERVE_LINES_BURST, NOW), OX_SERVE_LINES_BURST);
	assert_int_equal(left_out, 0);
	assert_int_equal(tell(kind, 7, NOW), 0);
	assert_int_equal(tell(kind, 1, NOW + 60000), 1);
	assert_int_equal(left_out, 7);
	assert_int_equal(tell(kind, 1, NOW + 60000), 1);
	assert_int_equal(left_out, 0);
}

static void a_quiet_while_allows_another_burst_and_no_more(void **state)
{
	(void)state;
	assert_int_equal(tell(kind, OX_SERVE_LINES_BURST, NOW), OX_SERVE_LINES_BURST);
	assert_int_equal(tell(kind, 1000, NOW + 86400000), OX_SERVE_LINES_BURST);
}

static void one_kind_keeps_none_of_another_back(void **state)
{
	(void)state;
	assert_int_equal(tell(kind, 1000, NOW), OX_SERVE_LINES_BURST);
	assert_int_equal(tell(other_kind, 1, NOW), 1);
	assert_int_equal(left_out, 0);
}

static void kinds_beyond_the_last_are_one(void **state)
{
	static const char formats[OX_SERVE_LINES_KINDS + 2];

	(void)state;
	for (unsigned i = 0; i + 1 < OX_SERVE_LINES_KINDS; i++)
		assert_int_equal(tell(&formats[i], 1, NOW), 1);
	assert_int_equal(tell(&formats[OX_SERVE_LINES_KINDS], 1000, NOW), OX_SERVE_LINES_BURST);
	assert_int_equal(tell(&formats[OX_SERVE_LINES_KINDS + 1], 1, NOW), 0);
	assert_int_equal(tell(&formats[0], 1, NOW), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(a_burst_is_told_and_then_one_now_and_then, setup),
		cmocka_unit_test_setup(what_was_left_out_is_counted, setup),
		cmocka_unit_test_setup(a_quiet_while_allows_another_burst_and_no_more, setup),
		cmocka_unit_test_setup(one_kind_keeps_none_of_another_back, setup),
		cmocka_unit_test_setup(kinds_beyond_the_last_are_one, setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
