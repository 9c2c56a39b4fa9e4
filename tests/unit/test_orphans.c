/* SPDX-License-Identifier: MIT */
/*
 * What is no lost L2 table is not taken for one: guest data, lists of clusters that are something
 * else, old copies of tables that are alive.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <zlib.h>

#include "base/arith.h"
#include "salvaging.h"

/* An image with a lost L1 entry whose table is gone too: whatever is found is a mistake. */
static struct disk *nothing_to_find(size_t shape)
{
	struct disk *d = disk_new(&shapes[shape]);

	memset(disk_cluster(d, d->tables[0][VICTIM]), 0, d->cluster_bytes);
	set_victim(d, UINT64_C(0x7f00112233445566));
	return d;
}

static void find_nothing(struct disk *d, const char *what)
{
	uint64_t victim = disk_l1(d, 0, VICTIM);
	struct run run;

	/* Among leaks, where nothing else is wrong. */
	set_victim(d, 0);
	run = repair_plainly(d, OX_REPAIR_NONE, false);
	if (run.table_count != 0)
		fail_msg("%s keeps its clusters from being freed", what);
	set_victim(d, victim);
	run = salvage(d, OX_REPAIR_NONE);
	if (run.table_count != 0)
		fail_msg("%s is taken for a table: at 0x%llx", what,
			 (unsigned long long)run.tables[0].host_offset);
	run = salvage(d, OX_REPAIR_ALL);
	assert_int_equal(run.result.linked_tables, 0);
	disk_free(d);
}

static void fill_compressed(struct disk *d, uint64_t cluster, unsigned seed)
{
	uLongf size = d->cluster_bytes;
	uint8_t *text = malloc(d->cluster_bytes / 2);

	assert_non_null(text);
	for (uint64_t i = 0; i < d->cluster_bytes / 2; i++)
		text[i] = (uint8_t)("the quick brown fox"[(size_t)rand_r(&seed) % 19]);
	assert_int_equal(compress(disk_cluster(d, cluster), &size, text, d->cluster_bytes / 2),
			 Z_OK);
	free(text);
}

/* Numbers as guests have them: small ones, little-endian or big, few in much that is zero. */
static void fill_numbers(struct disk *d, uint64_t cluster, unsigned seed)
{
	uint8_t *bytes = disk_cluster(d, cluster);

	memset(bytes, 0, d->cluster_bytes);
	for (unsigned i = 0; i < 20; i++) {
		uint64_t at = (uint64_t)rand_r(&seed) % (d->cluster_bytes / 4) * 4;
		uint32_t value = (uint32_t)rand_r(&seed) >> rand_r(&seed) % 31;

		memcpy(bytes + at, &value, 4);
	}
}

static void test_what_guests_store_is_not_taken_for_a_table(void **state)
{
	(void)state;
	for (size_t s = 0; s < OX_ARRAY_SIZE(shapes); s++) {
		for (unsigned seed = 1; seed <= (shapes[s].cluster_bits > 12 ? 2u : 10u); seed++) {
			struct disk *d = nothing_to_find(s);

			for (uint64_t c = 0; c < 12; c++) {
				void (*const fill[])(struct disk *, uint64_t, unsigned) = {
					fill_random, fill_compressed, fill_numbers};

				fill[c % 3](d, d->spare + c, seed * 16 + (unsigned)c);
				if (seed % 2)
					disk_set_refcount(d, d->spare + c, 1);
			}
			find_nothing(d, "guest data");
		}
	}
}

static void test_tables_that_name_nothing_of_their_own_are_none(void **state)
{
	(void)state;
	for (size_t s = 0; s < OX_ARRAY_SIZE(shapes); s++) {
		struct disk *d = nothing_to_find(s);
		uint64_t c = d->spare;

		fill_words(d, c++, OX_QCOW2_ZERO, 0, 30); /* zeroes; version 2 has none */
		/* itself; a cluster twice; the header, a refcount block, an L2 table */
		fill_words(d, c, COPIED | c * d->cluster_bytes, 0, 1);
		c++;
		fill_words(d, c++, COPIED | (d->spare + 10) * d->cluster_bytes, 0, 2);
		fill_words(d, c++, COPIED | REFBLOCK * d->cluster_bytes, 0, 1);
		fill_words(d, c++, COPIED | d->tables[0][0] * d->cluster_bytes, 0, 1);
		/* past the end; reserved bits; COPIED with nothing */
		fill_words(d, c++, COPIED | d->length, d->cluster_bytes, 5);
		fill_words(d, c++, 2 | COPIED | (d->spare + 10) * d->cluster_bytes, 0, 1);
		fill_words(d, c++, COPIED, 0, 1);
		/* a compressed cluster with COPIED */
		fill_words(d, c++,
			   COPIED | OX_QCOW2_COMPRESSED | (d->spare + 10) * d->cluster_bytes, 0, 1);
		for (uint64_t i = d->spare; i < c; i++)
			disk_set_refcount(d, i, 1);
		find_nothing(d, "a table of nothing");
	}
}

/* What a copy-on-write of a table leaves, freed or leaked. */
static void test_an_old_copy_of_a_live_table_is_none(void **state)
{
	(void)state;
	for (size_t s = 0; s < OX_ARRAY_SIZE(shapes); s++) {
		for (unsigned leaked = 0; leaked < 2; leaked++) {
			for (unsigned own = 0; own<5; own += shapes[s].cluster_bits> 12 ? 4 : 1) {
				struct disk *d = nothing_to_find(s);

				memcpy(disk_cluster(d, d->spare), disk_cluster(d, d->tables[0][0]),
				       d->cluster_bytes);
				/* Of what it named, some was written anew since. */
				fill_words(d, d->spare, COPIED | (d->spare + 5) * d->cluster_bytes,
					   d->cluster_bytes, own);
				disk_set_refcount(d, d->spare, leaked);
				find_nothing(d, "an old copy");
			}
		}
	}
}

/* Lists of clusters that are no L2 table of a disk without snapshots. */
static void test_other_lists_of_clusters_are_none(void **state)
{
	struct disk *d = nothing_to_find(0);

	(void)state;
	memcpy(disk_cluster(d, d->spare), disk_cluster(d, L1), d->cluster_bytes);
	memcpy(disk_cluster(d, d->spare + 1), disk_cluster(d, REFTABLE), d->cluster_bytes);
	memcpy(disk_cluster(d, d->spare + 2), disk_cluster(d, REFBLOCK), d->cluster_bytes);
	/* A bitmap's table, and its bits. */
	fill_words(d, d->spare + 3, (d->spare + 5) * d->cluster_bytes, d->cluster_bytes, 3);
	for (uint64_t c = 0; c < 8; c++)
		disk_set_refcount(d, d->spare + c, 1);
	find_nothing(d, "another list");
}

/* A guest that holds an image of its own has L2 tables among its data. */
static void test_a_table_in_the_guests_data_is_not_linked(void **state)
{
	struct disk *d = disk_new(&shapes[0]);
	uint64_t inner = d->tables[0][VICTIM] + 4;
	struct guest whole;
	struct run run;

	(void)state;
	memset(disk_cluster(d, inner), 0, d->cluster_bytes);
	fill_words(d, inner, COPIED | (inner + 2) * d->cluster_bytes, d->cluster_bytes, 3);
	whole = guest_of(d, d->bytes, d->length);
	set_victim(d, UINT64_C(0x7f00112233445566));
	run = salvage(d, OX_REPAIR_NONE);
	assert_int_equal(run.table_count, 1);
	run = salvage(d, OX_REPAIR_ALL);
	assert_int_equal(run.result.linked_tables, 1);
	assert_int_equal(wrong(&run), 0);
	check_guest(d, &whole, "an image within");
	disk_free(d);
}

static void test_tables_in_use_are_not_reported(void **state)
{
	(void)state;
	for (size_t s = 0; s < OX_ARRAY_SIZE(shapes); s++) {
		struct disk *d = disk_new(&shapes[s]);
		struct run run = salvage(d, OX_REPAIR_NONE);

		assert_int_equal(run.table_count, 0);
		assert_int_equal(wrong(&run), 0);
		disk_free(d);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_guests_store_is_not_taken_for_a_table),
		cmocka_unit_test(test_tables_that_name_nothing_of_their_own_are_none),
		cmocka_unit_test(test_an_old_copy_of_a_live_table_is_none),
		cmocka_unit_test(test_other_lists_of_clusters_are_none),
		cmocka_unit_test(test_a_table_in_the_guests_data_is_not_linked),
		cmocka_unit_test(test_tables_in_use_are_not_reported),
	};

	return cmocka_run_group_tests(tests, salvaging_setup, salvaging_teardown);
}
