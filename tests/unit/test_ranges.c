/* SPDX-License-Identifier: MIT */
/* The set of free clusters against a plain array of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>

#include <cmocka.h>

#include "base/arith.h"
#include "meta/ranges.h"

#define LIMIT 512u

static bool model[LIMIT];
static struct ox_ranges set;
static uint64_t random_state = 1;

static uint64_t draw(uint64_t below)
{
	random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (random_state >> 33) % below;
}

static void check_against_model(void)
{
	bool have[LIMIT] = {false};

	for (size_t i = 0; i < set.count; i++) {
		assert_true(set.list[i].start < set.list[i].end);
		assert_true(i == 0 || set.list[i - 1].end < set.list[i].start);
		for (uint64_t n = set.list[i].start; n < set.list[i].end; n++)
			have[n] = true;
	}
	assert_memory_equal(have, model, sizeof(model));
	for (uint64_t n = 0; n < LIMIT; n++)
		assert_int_equal(ox_ranges_has(&set, n), model[n]);
}

static void take_out(const struct ox_span *span)
{
	for (uint64_t n = span->start; n < span->end; n++) {
		assert_true(model[n]);
		model[n] = false;
	}
}

static bool model_has_run(uint64_t count)
{
	uint64_t have = 0;

	for (uint64_t n = 0; n < LIMIT; n++) {
		have = model[n] ? have + 1 : 0;
		if (have == count)
			return true;
	}
	return false;
}

static void add_some(void)
{
	uint64_t start = draw(LIMIT);
	uint64_t end = ox_min_u64(start + 1 + draw(20), LIMIT);

	assert_true(ox_ranges_add(&set, start, end));
	memset(model + start, true, end - start);
}

static void take_some(void)
{
	struct ox_span span;
	uint64_t most = 1 + draw(20);

	if (!ox_ranges_take(&set, most, &span)) {
		assert_int_equal(set.count, 0);
		return;
	}
	assert_true(span.end - span.start <= most);
	for (uint64_t n = 0; n < span.start; n++)
		assert_false(model[n]);
	take_out(&span);
}

static void take_a_run(void)
{
	struct ox_span span;
	uint64_t count = 1 + draw(12);
	bool had = model_has_run(count);

	assert_int_equal(ox_ranges_take_run(&set, count, &span), had);
	if (!had)
		return;
	assert_int_equal(span.end - span.start, count);
	take_out(&span);
}

static void take_the_end(void)
{
	struct ox_span span;
	uint64_t end = 1 + draw(LIMIT);

	if (!ox_ranges_take_end(&set, end, &span)) {
		for (uint64_t n = end - 1; n < LIMIT; n++)
			assert_false(model[n]);
		return;
	}
	assert_true(span.end >= end);
	for (uint64_t n = span.end; n < LIMIT; n++)
		assert_false(model[n]);
	assert_true(span.start == 0 || !model[span.start - 1]);
	take_out(&span);
}

static void it_does_what_an_array_of_flags_does(void **state)
{
	static void (*const steps[])(void) = {add_some, add_some, take_some, take_a_run,
					      take_the_end};

	(void)state;
	for (unsigned i = 0; i < 20000; i++) {
		steps[draw(5)]();
		check_against_model();
	}
	ox_ranges_free(&set);
}

static void a_set_that_is_too_scattered_forgets_what_comes_on_top(void **state)
{
	struct ox_span span;

	(void)state;
	for (uint64_t i = 0; i < OX_RANGES_MAX; i++)
		assert_true(ox_ranges_add(&set, 2 * i, 2 * i + 1));
	assert_false(ox_ranges_add(&set, 2 * OX_RANGES_MAX, 2 * OX_RANGES_MAX + 1));
	assert_true(ox_ranges_add(&set, 1, 2)); /* what joins needs no place of its own */
	assert_true(ox_ranges_take_run(&set, 3, &span));
	assert_int_equal(span.start, 0);
	ox_ranges_free(&set);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(it_does_what_an_array_of_flags_does),
		cmocka_unit_test(a_set_that_is_too_scattered_forgets_what_comes_on_top),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
