/* SPDX-License-Identifier: MIT */
/* Buffers of long work: apart from each other, at the lowest free place, and never none. */
#include <stdlib.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "io/arena.h"

#define MIB (UINT64_C(1) << 20)
#define BUFFERS 64

static struct ox_arena *arena;

static int setup(void **state)
{
	(void)state;
	arena = ox_arena_new(8 * MIB);
	return arena ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	ox_arena_free(arena);
	return 0;
}

static void what_was_given_back_is_used_again(void **state)
{
	void *first = ox_arena_take(arena, MIB);
	void *second = ox_arena_take(arena, 4096);
	void *third;

	(void)state;
	assert_non_null(first);
	assert_non_null(second);
	ox_arena_give(arena, first);
	third = ox_arena_take(arena, 65536);
	assert_ptr_equal(third, first);
	ox_arena_give(arena, second);
	assert_ptr_equal(ox_arena_take(arena, 2 * MIB), (uint8_t *)first + 65536);
	ox_arena_give(arena, (uint8_t *)first + 65536);
	ox_arena_give(arena, third);
	ox_arena_give(arena, NULL);
}

static void more_than_there_is_lies_beside_it(void **state)
{
	void *all = ox_arena_take(arena, 8 * MIB);
	void *more = ox_arena_take(arena, MIB);
	void *most = ox_arena_take(arena, 64 * MIB);

	(void)state;
	assert_non_null(all);
	assert_non_null(more);
	assert_non_null(most);
	memset(all, 1, 8 * MIB);
	memset(more, 2, MIB);
	assert_int_equal(((uint8_t *)all)[8 * MIB - 1], 1);
	ox_arena_give(arena, more);
	ox_arena_give(arena, all);
	assert_ptr_equal(ox_arena_take(arena, 1), all);
	ox_arena_give(arena, all);
	ox_arena_give(arena, most);
}

static void check(const uint8_t *buffer, uint64_t bytes, int mark)
{
	for (uint64_t i = 0; i < bytes; i += 509)
		assert_int_equal(buffer[i], mark);
}

/* Each holds its own mark for as long as it is held. */
static void no_two_share_a_byte(void **state)
{
	uint8_t *buffers[BUFFERS] = {0};
	uint64_t bytes[BUFFERS];
	unsigned chance = 1;

	(void)state;
	for (int turn = 0; turn < 5000; turn++) {
		int i;

		chance = chance * 1103515245 + 12345;
		i = (int)(chance >> 16) % BUFFERS;
		if (buffers[i]) {
			check(buffers[i], bytes[i], i);
			ox_arena_give(arena, buffers[i]);
			buffers[i] = NULL;
		} else {
			bytes[i] = 1 + (chance >> 8) % 400000;
			buffers[i] = ox_arena_take(arena, bytes[i]);
			assert_non_null(buffers[i]);
			assert_int_equal((uintptr_t)buffers[i] % 4096, 0);
			memset(buffers[i], i, bytes[i]);
		}
	}
	for (int i = 0; i < BUFFERS; i++)
		ox_arena_give(arena, buffers[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(what_was_given_back_is_used_again, setup, teardown),
		cmocka_unit_test_setup_teardown(more_than_there_is_lies_beside_it, setup, teardown),
		cmocka_unit_test_setup_teardown(no_two_share_a_byte, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
