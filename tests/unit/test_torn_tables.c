/* SPDX-License-Identifier: MIT */
/*
 * Lost L2 tables that are damaged themselves: what is left of one is linked where it was, nothing
 * that could be read is lost, and what is no table is not taken for one with damage.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/arith.h"
#include "cut_io.h"
#include "promises.h"
#include "salvaging.h"

#define GARBAGE UINT64_C(0x7f00112233445566)

/* ---- damages of an entry ---- */

static uint64_t reserved(const struct disk *d, uint64_t raw, unsigned seed)
{
	(void)d;
	return raw ^ UINT64_C(1) << (56 + seed % 6);
}

static uint64_t unaligned(const struct disk *d, uint64_t raw, unsigned seed)
{
	(void)d;
	return raw | UINT64_C(2) << seed % 7;
}

static uint64_t past_end(const struct disk *d, uint64_t raw, unsigned seed)
{
	(void)raw;
	return COPIED | (d->length + seed % 5 * d->cluster_bytes);
}

static uint64_t random_bits(const struct disk *d, uint64_t raw, unsigned seed)
{
	(void)d;
	(void)raw;
	return (uint64_t)rand_r(&seed) << 33 ^ (uint64_t)rand_r(&seed) << 11 ^ seed % 7;
}

static uint64_t copied_alone(const struct disk *d, uint64_t raw, unsigned seed)
{
	(void)d;
	(void)raw;
	(void)seed;
	return COPIED;
}

static uint64_t stream_in_header(const struct disk *d, uint64_t raw, unsigned seed)
{
	(void)d;
	(void)raw;
	return OX_QCOW2_COMPRESSED | seed % 100;
}

static const struct {
	const char *name;
	uint64_t (*make)(const struct disk *d, uint64_t raw, unsigned seed);
} damages[] = {
	{"reserved bits", reserved},	{"unaligned", unaligned},
	{"past the end", past_end},	{"random bits", random_bits},
	{"COPIED alone", copied_alone}, {"a stream in the header", stream_in_header},
};

/* Damages entries of the victim's table; returns a bit for each. The fourth stays: with a snapshot
 * it is the only one that tells the disk's table from the snapshot's. */
static unsigned tear(struct disk *d, size_t damage, unsigned count, unsigned seed)
{
	uint64_t table = d->tables[0][VICTIM];
	unsigned torn = 0;

	while ((unsigned)__builtin_popcount(torn) < count) {
		unsigned i = (unsigned)rand_r(&seed) % PER_TABLE;

		if (i == 3 || (torn >> i & 1))
			continue;
		torn |= 1u << i;
		disk_set_word(d, table, i,
			      damages[damage].make(d, disk_word(d, table, i), seed + i));
	}
	return torn;
}

/* What lies in the table's other entries, and in the other tables, reads as it did; what was
 * damaged as it did, or as zeroes, or not at all: never as somebody else's bytes. */
static void check_torn(const struct disk *d, const uint8_t *bytes, uint64_t length,
		       const struct guest *whole, unsigned torn, const char *what)
{
	struct guest now = guest_of(d, bytes, length);
	uint64_t zeroes = 1469598103934665603u; /* of an entry that names nothing */

	for (unsigned i = 0; i < TABLES * PER_TABLE; i++) {
		bool is_torn = i / PER_TABLE == VICTIM && (torn >> i % PER_TABLE & 1);

		if (now.sums[0][i] == whole->sums[0][i] ||
		    (is_torn && (now.sums[0][i] == 0 || now.sums[0][i] == zeroes)))
			continue;
		fail_msg("%s: guest cluster %u%s reads something else", what, i,
			 is_torn ? ", which was damaged," : "");
	}
	assert_memory_equal(now.sums[1], whole->sums[1], sizeof(now.sums[1]));
}

static void test_what_is_left_of_a_lost_table_is_linked_where_it_was(void **state)
{
	(void)state;
	for (size_t n = 0; n < OX_ARRAY_SIZE(shapes) * OX_ARRAY_SIZE(damages); n++) {
		size_t s = n % OX_ARRAY_SIZE(shapes);
		size_t damage = n / OX_ARRAY_SIZE(shapes);

		for (unsigned count = 1; count <= 4; count++) {
			struct disk *d = disk_new(&shapes[s]);
			struct guest whole = guest_of(d, d->bytes, d->length);
			unsigned torn = tear(d, damage, count, (unsigned)n * 8 + count);
			char name[96];
			struct run run;

			snprintf(name, sizeof(name), "shape %zu, %u entries of %s", s, count,
				 damages[damage].name);
			set_victim(d, GARBAGE);
			run = salvage(d, OX_REPAIR_NONE);
			if (run.table_count != 1 || run.tables[0].damaged != count ||
			    run.tables[0].guest_clusters != PER_TABLE - count)
				fail_msg("%s: not found", name);
			assert_true(run.tables[0].is_sure);
			run = salvage(d, OX_REPAIR_ALL);
			if (run.result.linked_tables != 1 || run.result.corruptions != 0)
				fail_msg("%s: %u linked, %u corruptions left", name,
					 (unsigned)run.result.linked_tables,
					 (unsigned)run.result.corruptions);
			assert_int_equal(disk_l1(d, 0, VICTIM),
					 COPIED | d->tables[0][VICTIM] * d->cluster_bytes);
			check_torn(d, d->bytes, d->length, &whole, torn, name);
			/* What could not be told is free in the end. */
			run = salvage(d, OX_REPAIR_LEAKS);
			assert_int_equal(wrong(&run), 0);
			check_torn(d, d->bytes, d->length, &whole, torn, name);
			disk_free(d);
		}
	}
}

static void test_a_cut_leaves_no_less_than_there_was(void **state)
{
	(void)state;
	for (size_t damage = 0; damage < OX_ARRAY_SIZE(damages); damage++) {
		struct disk *d = disk_new(&shapes[1]);
		struct guest whole = guest_of(d, d->bytes, d->length);
		unsigned torn = tear(d, damage, 3, 5);
		struct promises *promises;
		bool was_cut = true;

		set_victim(d, GARBAGE);
		promises = promises_of(d->bytes, d->length);
		for (unsigned after = 1; was_cut; after++) {
			struct cut cut = {.after = after};
			struct ox_io *io = cut_open(salvaging_reactor(), &cut, d->bytes, d->length);
			struct run run = run_on(io, OX_REPAIR_ALL, NULL, 0);
			struct guest before = guest_of(d, d->bytes, d->length);
			struct guest now;

			was_cut = run.error < 0;
			ox_error_free(run.err);
			cut.after = 0;
			if (was_cut)
				cut_recover(io, after);
			promises_check(promises, cut_bytes(io), io->length, "cut");
			now = guest_of(d, cut_bytes(io), io->length);
			for (unsigned i = 0; i < TABLES * PER_TABLE; i++) {
				assert_true(before.sums[0][i] == 0 ||
					    now.sums[0][i] == before.sums[0][i]);
				assert_true(now.sums[1][i] == before.sums[1][i]);
			}
			run = run_on(io, OX_REPAIR_ALL, NULL, 0);
			assert_int_equal(run.error, 0);
			assert_int_equal(run.result.corruptions, 0);
			check_torn(d, cut_bytes(io), io->length, &whole, torn,
				   damages[damage].name);
			ox_io_close(io);
		}
		promises_free(promises);
		disk_free(d);
	}
}

/* What its damaged entries named cannot be told, so that nothing is freed. */
static void test_while_one_is_left_nothing_is_freed(void **state)
{
	(void)state;
	for (size_t s = 0; s < OX_ARRAY_SIZE(shapes); s++) {
		struct disk *d = disk_new(&shapes[s]);
		uint64_t host = disk_word(d, d->tables[0][VICTIM], 0) & OX_QCOW2_OFFSET_MASK;
		struct run run;

		disk_set_word(d, d->tables[0][VICTIM], 0, GARBAGE);
		set_victim(d, 0);
		run = salvage(d, OX_REPAIR_LEAKS);
		assert_int_equal(run.result.leaks_fixed, 0);
		run = salvage(d, OX_REPAIR_ALL);
		assert_int_equal(run.result.leaks_fixed, 0);
		assert_int_equal(run.result.lost_tables, 1);
		assert_true(disk_refcount(d, host / d->cluster_bytes) > 0);
		disk_free(d);
	}
}

/* Past the end of a dirty image lies what never became durable: such an entry is dropped, and the
 * file does not grow beneath it. */
static void test_stale_entries_of_a_lost_table_are_dropped(void **state)
{
	struct disk *d = disk_new(&shapes[0]);
	struct guest whole = guest_of(d, d->bytes, d->length);
	struct run run;

	(void)state;
	disk_set_word(d, d->tables[0][VICTIM], 5, COPIED | (d->length + 3 * d->cluster_bytes));
	set_victim(d, disk_l1(d, 0, VICTIM) | UINT64_C(1) << 58);
	d->h.incompatible |= OX_QCOW2_INCOMPAT_DIRTY;
	disk_put_header(d);
	run = salvage(d, OX_REPAIR_ALL);
	assert_int_equal(run.result.linked_tables, 1);
	assert_int_equal(run.result.corruptions, 0);
	check_torn(d, d->bytes, d->length, &whole, 1u << 5, "stale");
	assert_int_equal(disk_word(d, d->tables[0][VICTIM], 5), 0);
	disk_free(d);
}

/* A refcount block of which there is none yet would come to lie where an entry leads. */
static void test_a_file_does_not_grow_beneath_a_torn_entry(void **state)
{
	(void)state;
	for (unsigned torn = 0; torn < 3; torn++) {
		struct disk *d = disk_new(&shapes[0]);
		uint64_t beyond = d->cluster_bytes * 8 >> 4; /* counted by the second block */
		uint64_t table = d->tables[0][VICTIM];
		struct ox_table_link link = {.l1_index = VICTIM,
					     .host_offset = table * d->cluster_bytes};
		struct run run;

		disk_set_word(d, table, 7, COPIED | (beyond + 1) * d->cluster_bytes);
		d->length = (beyond + 2) * d->cluster_bytes;
		if (torn > 0)
			disk_set_word(d, torn == 1 ? table : d->tables[0][0], 5,
				      COPIED | d->length);
		set_victim(d, disk_l1(d, 0, VICTIM) | 2);
		run = run_links(d, OX_REPAIR_ALL, &link, 1);
		if (torn == 0) {
			assert_int_equal(run.error, 0);
			assert_int_equal(run.result.linked_tables, 1);
			assert_int_equal(run.result.corruptions, 0);
			assert_true(disk_word(d, REFTABLE, 1) != 0);
		} else {
			assert_int_equal(run.error, -EINVAL);
			assert_non_null(strstr(ox_error_message(run.err), "its counts cannot be"));
			assert_int_equal(disk_word(d, REFTABLE, 1), 0);
		}
		ox_error_free(run.err);
		disk_free(d);
	}
}

/* ---- what is none ---- */

static void find_nothing(struct disk *d, const char *what)
{
	uint64_t victim = disk_l1(d, 0, VICTIM);
	struct run run;

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

static struct disk *nothing_to_find(size_t shape)
{
	struct disk *d = disk_new(&shapes[shape]);

	memset(disk_cluster(d, d->tables[0][VICTIM]), 0, d->cluster_bytes);
	set_victim(d, GARBAGE);
	return d;
}

/* Guest data in which a few words are, by chance, entries that name what leaked. */
static void test_data_with_a_few_words_like_entries_is_not_taken_for_a_table(void **state)
{
	(void)state;
	for (unsigned n = 0; n < 400; n++) {
		size_t s = n % OX_ARRAY_SIZE(shapes);
		struct disk *d = nothing_to_find(s);
		unsigned like = n % 7;
		unsigned unlike = 1 + n % 11;

		/* Sound ones name clusters of their own, which are counted as theirs. */
		fill_words(d, d->spare, COPIED | (d->spare + 3) * d->cluster_bytes,
			   d->cluster_bytes, like);
		for (unsigned i = 0; i < unlike; i++)
			disk_set_word(d, d->spare, like + i, GARBAGE * (n + i + 1) | 1);
		for (unsigned c = 0; c < 3 + like; c++)
			disk_set_refcount(d, d->spare + c, 1);
		find_nothing(d, "data");
	}
}

/* Half of a table, and half of something else. */
static void test_a_table_that_is_overwritten_for_the_most_part_is_none(void **state)
{
	(void)state;
	for (size_t s = 0; s < OX_ARRAY_SIZE(shapes); s++) {
		struct disk *d = disk_new(&shapes[s]);

		for (unsigned i = 0; i < PER_TABLE / 2 + 2; i++)
			disk_set_word(d, d->tables[0][VICTIM], i, GARBAGE + i);
		set_victim(d, GARBAGE);
		find_nothing(d, "half a table");
	}
}

static void test_a_damaged_copy_of_a_live_table_is_none(void **state)
{
	(void)state;
	for (size_t s = 0; s < OX_ARRAY_SIZE(shapes); s++) {
		for (unsigned damaged = 1; damaged < 5; damaged++) {
			struct disk *d = nothing_to_find(s);

			memcpy(disk_cluster(d, d->spare), disk_cluster(d, d->tables[0][0]),
			       d->cluster_bytes);
			for (unsigned i = 0; i < damaged; i++)
				disk_set_word(d, d->spare, 2 * i, GARBAGE + i);
			disk_set_refcount(d, d->spare, damaged % 2);
			find_nothing(d, "a damaged old copy");
		}
	}
}

static void test_a_damaged_list_of_something_else_is_none(void **state)
{
	(void)state;
	for (unsigned n = 0; n < 3; n++) {
		struct disk *d = nothing_to_find(0);

		/* A bitmap's table; an L1 table; a refcount table. */
		if (n == 0)
			fill_words(d, d->spare, (d->spare + 2) * d->cluster_bytes, d->cluster_bytes,
				   12);
		else
			memcpy(disk_cluster(d, d->spare), disk_cluster(d, n == 1 ? L1 : REFTABLE),
			       d->cluster_bytes);
		disk_set_word(d, d->spare, 1, GARBAGE);
		for (unsigned c = 0; c < 16; c++)
			disk_set_refcount(d, d->spare + c, 1);
		find_nothing(d, "another list");
	}
}

/* An entry that can be followed, to what others use: linked, it would be a cross-link. */
static void test_a_table_that_names_what_others_use_is_never_linked(void **state)
{
	(void)state;
	for (size_t s = 0; s < OX_ARRAY_SIZE(shapes); s++) {
		for (unsigned n = 0; n < 3; n++) {
			struct disk *d = disk_new(&shapes[s]);
			uint64_t table = d->tables[0][VICTIM];
			const uint64_t others[] = {
				disk_word(d, d->tables[0][0], 3), /* guest data */
				COPIED | L1 * d->cluster_bytes,	  /* metadata */
				disk_word(d, table, 8),		  /* twice in one table */
			};
			struct ox_table_link link = {.l1_index = VICTIM,
						     .host_offset = table * d->cluster_bytes};
			struct run run;

			disk_set_word(d, table, 2, others[n]);
			disk_set_word(d, table, 4, GARBAGE);
			set_victim(d, disk_l1(d, 0, VICTIM) | 2);
			run = salvage(d, OX_REPAIR_ALL);
			assert_int_equal(run.result.linked_tables, 0);
			run = run_links(d, OX_REPAIR_ALL, &link, 1);
			assert_int_equal(run.error, -EINVAL);
			ox_error_free(run.err);
			disk_free(d);
		}
	}
}

/* ---- at random ---- */

static void test_random_damage_in_a_lost_tables_sector_is_never_made_worse(void **state)
{
	unsigned linked = 0;

	(void)state;
	for (unsigned n = 1; n <= 500; n++) {
		struct disk *d = disk_new(&shapes[n % OX_ARRAY_SIZE(shapes)]);
		struct guest whole = guest_of(d, d->bytes, d->length);
		uint8_t *table = disk_cluster(d, d->tables[0][VICTIM]);
		unsigned seed = n;
		unsigned from = (unsigned)rand_r(&seed) % (PER_TABLE * 8);
		unsigned count = 1 + (unsigned)rand_r(&seed) % 40;
		unsigned torn = 0;
		struct guest after;
		struct run run;

		for (unsigned i = from; i < from + count && i < PER_TABLE * 8; i++) {
			table[i] = (uint8_t)rand_r(&seed);
			torn |= 1u << i / 8;
		}
		set_victim(d, n % 3 ? GARBAGE : disk_l1(d, 0, VICTIM) | 2);
		run = salvage(d, OX_REPAIR_ALL);
		assert_true(run.result.linked_tables == 0 ||
			    disk_l1(d, 0, VICTIM) ==
				    (COPIED | d->tables[0][VICTIM] * d->cluster_bytes));
		linked += run.result.linked_tables == 1;
		after = guest_of(d, d->bytes, d->length);
		for (unsigned i = 0; i < TABLES * PER_TABLE; i++) {
			bool is_torn = i / PER_TABLE == VICTIM && (torn >> i % PER_TABLE & 1);
			bool is_hidden = i / PER_TABLE == VICTIM && run.result.linked_tables == 0;

			if (!is_torn && !is_hidden && after.sums[0][i] != whole.sums[0][i])
				fail_msg("seed %u: guest cluster %u", n, i);
			assert_true(after.sums[1][i] == whole.sums[1][i]);
		}
		disk_free(d);
	}
	assert_true(linked > 300);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_is_left_of_a_lost_table_is_linked_where_it_was),
		cmocka_unit_test(test_a_cut_leaves_no_less_than_there_was),
		cmocka_unit_test(test_while_one_is_left_nothing_is_freed),
		cmocka_unit_test(test_stale_entries_of_a_lost_table_are_dropped),
		cmocka_unit_test(test_a_file_does_not_grow_beneath_a_torn_entry),
		cmocka_unit_test(test_data_with_a_few_words_like_entries_is_not_taken_for_a_table),
		cmocka_unit_test(test_a_table_that_is_overwritten_for_the_most_part_is_none),
		cmocka_unit_test(test_a_damaged_copy_of_a_live_table_is_none),
		cmocka_unit_test(test_a_damaged_list_of_something_else_is_none),
		cmocka_unit_test(test_a_table_that_names_what_others_use_is_never_linked),
		cmocka_unit_test(test_random_damage_in_a_lost_tables_sector_is_never_made_worse),
	};

	return cmocka_run_group_tests(tests, salvaging_setup, salvaging_teardown);
}
