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

static void compare_none(const struct ox_counts *k)
{
	for (unsigned i = 0; i < 2000; i++) {
		uint64_t first = draw(LIMIT);
		uint64_t count = 1 + draw(ox_min_u64(LIMIT - first, 1 + draw(9000)));
		bool none = true;

		for (uint64_t c = first; c < first + count; c++)
			none = none && model[c].state == OX_CELL_NONE;
		assert_int_equal(ox_counts_is_none(k, first, count), none);
	}
}

/* Cells of data and compressed entries, and now and then a run of them. */
static void add_some(struct ox_counts *k, unsigned variety, bool only_where_none)
{
	static const struct ox_cell cells[] = {
		{OX_CELL_DATA | OX_CELL_COPIED, 1},
		{OX_CELL_DATA | OX_CELL_PLAIN, 1},
		{OX_CELL_DATA | OX_CELL_PLAIN, 3},
		{OX_CELL_COMPRESSED, 1},
		{OX_CELL_DATA, 14},
		{OX_CELL_COMPRESSED, 40},
		{OX_CELL_DATA, OX_COUNT_MAX - 1000},
	};
	unsigned steps = (unsigned)draw(400);

	for (unsigned step = 0; step < steps; step++) {
		struct ox_cell cell = cells[draw(variety)];
		uint64_t first = draw(LIMIT);
		uint64_t count = draw(4) ? 1 : 1 + draw(ox_min_u64(LIMIT - first, 600));

		for (uint64_t c = first; c < first + count; c++) {
			if (only_where_none && model[c].state != OX_CELL_NONE)
				continue;
			assert_int_equal(
				ox_counts_set(k, c, ox_cell_add(ox_counts_get(k, c), cell)), 0);
			model[c] = ox_cell_add(model[c], cell);
		}
	}
}

static void test_merged_counts_are_as_if_counted_together(void **state)
{
	(void)state;
	for (unsigned seed = 1; seed <= 28; seed++) {
		struct ox_counts k;

		random_state = seed;
		memset(model, 0, sizeof(model));
		assert_int_equal(ox_counts_init(&k, LIMIT), 0);
		for (unsigned i = 0; i < 60; i++)
			set(&k, draw(LIMIT), (struct ox_cell){OX_CELL_META, 1});
		for (unsigned part = 0; part < 4; part++) {
			struct ox_counts other;
			static struct ox_cell before[LIMIT];

			/* What is of metadata is nobody's else: the other part leaves it out. */
			assert_int_equal(ox_counts_init(&other, LIMIT), 0);
			memcpy(before, model, sizeof(before));
			memset(model, 0, sizeof(model));
			for (uint64_t c = 0; c < LIMIT; c++) {
				if (before[c].state == OX_CELL_META)
					model[c] = before[c];
			}
			add_some(&other, 1 + seed % 7, true);
			for (uint64_t c = 0; c < LIMIT; c++) {
				if (before[c].state != OX_CELL_META)
					model[c] = ox_cell_add(before[c], model[c]);
			}
			assert_int_equal(ox_counts_merge(&k, &other), 0);
			compare_none(&k);
		}
		compare(&k);
		add_some(&k, 1 + seed % 7, true);
		compare(&k);
		ox_counts_free(&k);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cells_are_what_was_set),
		cmocka_unit_test(test_a_run_is_set_up_to_what_is_taken),
		cmocka_unit_test(test_a_region_of_any_one_kind_takes_a_run),
		cmocka_unit_test(test_merged_counts_are_as_if_counted_together),
	};

	return cmocka_run_group_tests_name("counts", tests, NULL, NULL);
}
