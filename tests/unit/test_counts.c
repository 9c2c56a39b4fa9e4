/* SPDX-License-Identifier: MIT */
/* The cells of a check against a plain array of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/arith.h"
#include "check/counts/counts.h"

#define LIMIT 20000u /* several regions, the last one in part */

static struct ox_cell model[LIMIT];
static uint64_t random_state;

static uint64_t draw(uint64_t below)
{
	random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (random_state >> 33) % below;
}

static const struct ox_cell usual = {.state = OX_CELL_DATA | OX_CELL_COPIED, .count = 1};

/* Mostly the cells that images have. */
static struct ox_cell draw_cell(unsigned variety)
{
	static const struct ox_cell cells[] = {
		{OX_CELL_DATA | OX_CELL_COPIED, 1},
		{OX_CELL_DATA | OX_CELL_COPIED, 1},
		{OX_CELL_L2 | OX_CELL_COPIED, 1},
		{OX_CELL_META, 1},
		{OX_CELL_NONE, 0},
		{OX_CELL_DATA, 1},
		{OX_CELL_COMPRESSED, 1},
		{OX_CELL_DATA | OX_CELL_PLAIN, 2},
		{OX_CELL_BROKEN, 1},
		{OX_CELL_DATA | OX_CELL_PLAIN, 15},
		{OX_CELL_COMPRESSED, 16},
		{OX_CELL_DATA, OX_COUNT_MAX},
	};

	return cells[draw(variety)];
}

static bool once(struct ox_cell c)
{
	return c.count == 1 && !ox_cell_is_broken(c) && !(ox_cell_active(c) & OX_CELL_PLAIN);
}

static void compare(const struct ox_counts *k)
{
	uint64_t next = LIMIT;

	for (uint64_t c = LIMIT; c-- > 0;) {
		struct ox_cell cell = ox_counts_get(k, c);

		assert_int_equal(cell.state, model[c].state);
		assert_int_equal(cell.count, model[c].count);
		if (cell.state != OX_CELL_NONE)
			next = c;
		assert_int_equal(ox_counts_next(k, c, LIMIT), next);
		if (next > c)
			assert_int_equal(ox_counts_next(k, c, c + 1), c + 1);
	}
	for (uint64_t c = 0; c < ox_align_down(LIMIT, 64); c += 64) {
		struct ox_counts_mask mask = ox_counts_mask(k, c);

		for (unsigned i = 0; i < 64; i++) {
			struct ox_cell cell = model[c + i];
			bool other = cell.state != OX_CELL_NONE && !once(cell);

			assert_int_equal(mask.once >> i & 1, once(cell));
			assert_int_equal(mask.other >> i & 1, other);
		}
	}
}

static void set(struct ox_counts *k, uint64_t cluster, struct ox_cell cell)
{
	assert_int_equal(ox_counts_set(k, cluster, cell), 0);
	model[cluster] = cell;
}

static void fill(struct ox_counts *k, uint64_t first, uint64_t count, struct ox_cell cell)
{
	int64_t filled = ox_counts_fill(k, first, count, cell);

	assert_in_range(filled, 0, count);
	for (uint64_t c = first; c < first + (uint64_t)filled; c++) {
		assert_int_equal(model[c].state, OX_CELL_NONE);
		model[c] = cell;
	}
}

static void test_cells_are_what_was_set(void **state)
{
	(void)state;
	for (unsigned variety = 1; variety <= 12; variety++) {
		struct ox_counts k;

		random_state = variety;
		memset(model, 0, sizeof(model));
		assert_int_equal(ox_counts_init(&k, LIMIT), 0);
		for (unsigned step = 0; step < 6000; step++) {
			uint64_t first = draw(LIMIT);
			struct ox_cell cell = draw_cell(variety);

			if (draw(4) == 0 && cell.state != OX_CELL_NONE)
				fill(&k, first, 1 + draw(ox_min_u64(LIMIT - first, 300)), cell);
			else
				set(&k, first, cell);
			if (step % 500 == 0)
				compare(&k);
		}
		compare(&k);
		ox_counts_free(&k);
	}
}

static void test_a_run_is_set_up_to_what_is_taken(void **state)
{
	struct ox_counts k;

	(void)state;
	assert_int_equal(ox_counts_init(&k, LIMIT), 0);
	assert_int_equal(ox_counts_set(&k, 5000, usual), 0);
	assert_int_equal(ox_counts_set(&k, 6000, (struct ox_cell){OX_CELL_META, 1}), 0);
	assert_int_equal(ox_counts_fill(&k, 10, LIMIT - 10, usual), 4990);
	assert_int_equal(ox_counts_fill(&k, 5000, 1, usual), 0);
	assert_int_equal(ox_counts_fill(&k, 5001, LIMIT - 5001, usual), 999);
	assert_int_equal(ox_counts_fill(&k, 6001, LIMIT - 6001, usual), LIMIT - 6001);
	assert_int_equal(ox_counts_next(&k, 0, LIMIT), 10);
	assert_int_equal(k.end, LIMIT);
	ox_counts_free(&k);
}

/* A region that holds another kind of cell than expected stays as small. */
static void test_a_region_of_any_one_kind_takes_a_run(void **state)
{
	static const struct ox_cell shared = {.state = OX_CELL_DATA | OX_CELL_PLAIN, .count = 2};
	struct ox_counts k;

	(void)state;
	assert_int_equal(ox_counts_init(&k, LIMIT), 0);
	assert_int_equal(ox_counts_set(&k, 0, (struct ox_cell){OX_CELL_META, 1}), 0);
	assert_int_equal(ox_counts_fill(&k, 1, 100, shared), 100);
	for (uint64_t c = 4096; c < 4096 + 200; c++)
		assert_int_equal(ox_counts_set(&k, c, shared), 0);
	assert_int_equal(ox_counts_fill(&k, 4096 + 200, 1000, shared), 1000);
	assert_int_equal(ox_counts_get(&k, 4096 + 199).count, 2);
	ox_counts_free(&k);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cells_are_what_was_set),
		cmocka_unit_test(test_a_run_is_set_up_to_what_is_taken),
		cmocka_unit_test(test_a_region_of_any_one_kind_takes_a_run),
	};

	return cmocka_run_group_tests_name("counts", tests, NULL, NULL);
}
