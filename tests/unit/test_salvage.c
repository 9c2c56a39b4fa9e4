/* SPDX-License-Identifier: MIT */
/*
 * Lost L2 tables: each is found and linked to where it was, what is not linked is not freed, and a
 * cut anywhere leaves what could be read before.
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

/* ---- damages ---- */

static void lose_reserved(struct disk *d)
{
	set_victim(d, disk_l1(d, 0, VICTIM) | UINT64_C(1) << 58 | 2);
}

static void lose_unaligned(struct disk *d)
{
	set_victim(d, disk_l1(d, 0, VICTIM) | 16);
}

static void lose_past_end(struct disk *d)
{
	set_victim(d, COPIED | UINT64_C(0x123456) << 24);
}

static void lose_to_garbage(struct disk *d)
{
	set_victim(d, UINT64_C(0xdeadbeefcafebabe));
}

static void lose_to_data(struct disk *d)
{
	set_victim(d, COPIED | (d->tables[0][0] + 1) * d->cluster_bytes);
}

static void lose_to_metadata(struct disk *d)
{
	set_victim(d, COPIED | REFBLOCK * d->cluster_bytes);
}

static void lose_to_free_garbage(struct disk *d)
{
	uint8_t *bytes = disk_cluster(d, d->spare + 1);

	for (uint64_t i = 0; i < d->cluster_bytes; i++)
		bytes[i] = (uint8_t)(i * 37 + 11);
	set_victim(d, COPIED | (d->spare + 1) * d->cluster_bytes);
}

static void lose_copied_empty(struct disk *d)
{
	set_victim(d, COPIED);
}

static const struct {
	const char *name;
	void (*make)(struct disk *d);
} losses[] = {
	{"reserved bits", lose_reserved},
	{"unaligned", lose_unaligned},
	{"past the end", lose_past_end},
	{"garbage", lose_to_garbage},
	{"names data", lose_to_data},
	{"names metadata", lose_to_metadata},
	{"names garbage", lose_to_free_garbage},
	{"COPIED and empty", lose_copied_empty},
};

static void name_case(char name[96], size_t shape, size_t loss)
{
	snprintf(name, 96, "%u bits, version %u%s, %s", shapes[shape].cluster_bits,
		 shapes[shape].version, shapes[shape].snapshot ? ", snapshot" : "",
		 losses[loss].name);
}

static void test_a_lost_table_is_linked_where_it_was(void **state)
{
	(void)state;
	for (size_t s = 0; s < OX_ARRAY_SIZE(shapes); s++) {
		for (size_t l = 0; l < OX_ARRAY_SIZE(losses); l++) {
			struct disk *d = disk_new(&shapes[s]);
			struct guest whole = guest_of(d, d->bytes, d->length);
			uint64_t span = ox_qcow2_l2_entries(&d->h) * d->cluster_bytes;
			char name[96];
			struct run run;

			name_case(name, s, l);
			losses[l].make(d);
			run = salvage(d, OX_REPAIR_ALL);
			if (run.result.linked_tables != 1 || wrong(&run) != 0)
				fail_msg("%s: %u linked, %u corruptions and %u leaks left", name,
					 (unsigned)run.result.linked_tables,
					 (unsigned)run.result.corruptions,
					 (unsigned)run.result.leaks);
			check_guest(d, &whole, name);
			assert_int_equal(disk_l1(d, 0, VICTIM),
					 COPIED | d->tables[0][VICTIM] * d->cluster_bytes);
			assert_true(run.in_doubt_bytes == span);
			disk_free(d);
		}
	}
}

static void test_a_cut_leaves_what_could_be_read_and_work_for_the_same_repair(void **state)
{
	(void)state;
	for (size_t l = 0; l < OX_ARRAY_SIZE(losses); l++) {
		struct disk *d = disk_new(&shapes[1]);
		struct guest whole = guest_of(d, d->bytes, d->length);
		struct promises *promises;
		bool was_cut = true;

		losses[l].make(d);
		/* A count, or a COPIED bit, of the lost table is wrong as well. */
		if (l == 0)
			disk_set_refcount(d, d->tables[0][VICTIM], 0);
		else if (l == 1)
			disk_set_word(d, d->tables[0][VICTIM], 0,
				      COPIED | disk_word(d, d->tables[0][VICTIM], 0));
		promises = promises_of(d->bytes, d->length);
		for (unsigned after = 1; was_cut; after++) {
			for (unsigned seed = 1; seed <= 4; seed++) {
				struct cut cut = {.after = after};
				struct ox_io *io =
					cut_open(salvaging_reactor(), &cut, d->bytes, d->length);
				struct run run = run_on(io, OX_REPAIR_ALL, NULL, 0);
				struct guest before = guest_of(d, d->bytes, d->length);
				struct guest now;

				was_cut = run.error < 0;
				ox_error_free(run.err);
				cut.after = 0;
				if (was_cut)
					cut_recover(io, seed);
				promises_check(promises, cut_bytes(io), io->length, "cut");
				now = guest_of(d, cut_bytes(io), io->length);
				for (unsigned i = 0; i < TABLES * PER_TABLE; i++) {
					for (unsigned t = 0; t < 2; t++)
						assert_true(before.sums[t][i] == 0 ||
							    now.sums[t][i] == before.sums[t][i]);
				}
				run = run_on(io, OX_REPAIR_ALL, NULL, 0);
				assert_int_equal(run.error, 0);
				assert_int_equal(wrong(&run), 0);
				now = guest_of(d, cut_bytes(io), io->length);
				assert_memory_equal(&now, &whole, sizeof(now));
				ox_io_close(io);
			}
		}
		promises_free(promises);
		disk_free(d);
	}
}

/* ---- more than one ---- */

static void test_damaged_pointers_find_their_own_tables(void **state)
{
	(void)state;
	for (size_t s = 0; s < OX_ARRAY_SIZE(shapes); s++) {
		struct disk *d = disk_new(&shapes[s]);
		struct guest whole = guest_of(d, d->bytes, d->length);
		struct run run;

		for (unsigned i = 0; i < TABLES; i++)
			disk_set_word(d, L1, i, disk_l1(d, 0, i) | UINT64_C(3) << (56 + i));
		run = salvage(d, OX_REPAIR_ALL);
		assert_int_equal(run.result.linked_tables, TABLES);
		assert_int_equal(wrong(&run), 0);
		check_guest(d, &whole, "all pointers damaged");
		disk_free(d);
	}
}

/* One pointer agrees with its table, and names the other's data as a table of its own. */
static void test_a_table_whose_data_are_taken_for_a_table_is_linked(void **state)
{
	(void)state;
	for (size_t s = 0; s < SHAPES; s++) {
		struct disk *d = disk_new(&shapes[s]);
		struct guest whole = guest_of(d, d->bytes, d->length);
		uint64_t host = disk_word(d, d->tables[0][VICTIM], 3) & OX_QCOW2_OFFSET_MASK;
		struct run run;

		set_victim(d, disk_l1(d, 0, VICTIM) | 0x1e);
		disk_set_word(d, L1, 0, COPIED | host);
		run = salvage(d, OX_REPAIR_ALL);
		assert_int_equal(run.result.linked_tables, 2);
		assert_int_equal(wrong(&run), 0);
		check_guest(d, &whole, "data taken for a table");
		disk_free(d);
	}
}

/* One bit that leads past the end: the counts speak for the rest. */
static void test_single_bits_past_the_end_find_their_own_tables(void **state)
{
	struct disk *d = disk_new(&shapes[0]);
	struct guest whole = guest_of(d, d->bytes, d->length);
	struct run run;

	(void)state;
	for (unsigned i = 0; i < TABLES; i++)
		disk_set_word(d, L1, i, disk_l1(d, 0, i) ^ UINT64_C(1) << (30 + 5 * i));
	run = salvage(d, OX_REPAIR_ALL);
	assert_int_equal(run.result.linked_tables, TABLES);
	assert_int_equal(wrong(&run), 0);
	check_guest(d, &whole, "single bits");
	disk_free(d);
}

/* Only what a person says can tell them apart. */
static void test_two_of_each_are_left_and_kept_and_linked_by_hand(void **state)
{
	struct disk *d = disk_new(&shapes[0]);
	struct guest whole = guest_of(d, d->bytes, d->length);
	struct ox_table_link links[2];
	struct run run;

	(void)state;
	disk_set_word(d, L1, 1, UINT64_C(0x7f00112233445566));
	disk_set_word(d, L1, 3, UINT64_C(0x7f00665544332211));
	run = salvage(d, OX_REPAIR_ALL);
	assert_int_equal(run.result.linked_tables, 0);
	assert_int_equal(run.result.lost_tables, 2);
	assert_int_equal(run.tables[0].fits, 2);
	assert_true(run.tables[0].is_sure && run.tables[0].l1_index == UINT64_MAX);
	assert_int_equal(disk_l1(d, 0, 1), UINT64_C(0x7f00112233445566));
	assert_int_equal(disk_refcount(d, d->tables[0][1]), 1);
	for (unsigned i = 0; i < 2; i++)
		links[i] = (struct ox_table_link){
			.l1_index = 1 + 2 * i,
			.host_offset = d->tables[0][1 + 2 * i] * d->cluster_bytes,
		};
	run = run_links(d, OX_REPAIR_ALL, links, 2);
	assert_int_equal(run.error, 0);
	assert_int_equal(run.result.linked_tables, 2);
	assert_int_equal(wrong(&run), 0);
	check_guest(d, &whole, "linked by hand");
	disk_free(d);
}

/* With one of them named, nothing is left to choose for the other. */
static void test_one_link_by_hand_settles_the_other(void **state)
{
	struct disk *d = disk_new(&shapes[0]);
	struct guest whole = guest_of(d, d->bytes, d->length);
	struct ox_table_link link = {.l1_index = 1};
	struct run run;

	(void)state;
	disk_set_word(d, L1, 1, UINT64_C(0x7f00112233445566));
	disk_set_word(d, L1, 3, UINT64_C(0x7f00665544332211));
	link.host_offset = d->tables[0][1] * d->cluster_bytes;
	run = run_links(d, OX_REPAIR_ALL, &link, 1);
	assert_int_equal(run.result.linked_tables, 2);
	assert_int_equal(wrong(&run), 0);
	check_guest(d, &whole, "one by hand");
	disk_free(d);
}

static void test_an_empty_entry_is_filled_by_hand_alone(void **state)
{
	(void)state;
	for (size_t s = 0; s < OX_ARRAY_SIZE(shapes); s++) {
		struct disk *d = disk_new(&shapes[s]);
		struct guest whole = guest_of(d, d->bytes, d->length);
		struct ox_table_link link = {
			.l1_index = VICTIM,
			.host_offset = d->tables[0][VICTIM] * d->cluster_bytes,
		};
		enum ox_repair repairs[] = {OX_REPAIR_LEAKS, OX_REPAIR_ALL};
		struct run run;

		set_victim(d, 0);
		for (size_t i = 0; i < OX_ARRAY_SIZE(repairs); i++) {
			run = salvage(d, repairs[i]);
			assert_int_equal(run.result.linked_tables, 0);
			assert_int_equal(run.result.lost_tables, 1);
			assert_int_equal(run.tables[0].host_offset, link.host_offset);
			assert_true(run.result.leaks >= 2);
			assert_int_equal(run.result.corruptions, 0);
			assert_int_equal(disk_l1(d, 0, VICTIM), 0);
		}
		run = run_links(d, OX_REPAIR_ALL, &link, 1);
		assert_int_equal(run.error, 0);
		assert_int_equal(wrong(&run), 0);
		check_guest(d, &whole, "an empty entry");
		disk_free(d);
	}
}

/* ---- snapshots ---- */

/* The clusters that both share tell where each belongs. */
static void test_tables_that_share_with_a_snapshot_know_their_place(void **state)
{
	struct disk *d = disk_new(&shapes[1]);
	struct guest whole = guest_of(d, d->bytes, d->length);
	struct run run;

	(void)state;
	for (unsigned i = 0; i < TABLES; i++)
		disk_set_word(d, L1, i, UINT64_C(0x7f00112233445566) + i);
	run = salvage(d, OX_REPAIR_ALL);
	assert_int_equal(run.result.linked_tables, TABLES);
	assert_int_equal(wrong(&run), 0);
	check_guest(d, &whole, "all entries lost");
	disk_free(d);
}

static void test_a_snapshots_table_is_linked_to_the_snapshot(void **state)
{
	struct disk *d = disk_new(&shapes[1]);
	struct guest whole = guest_of(d, d->bytes, d->length);
	struct run run;

	(void)state;
	disk_set_word(d, SNAPSHOT_L1, 1, UINT64_C(0x7f00112233445566));
	run = salvage(d, OX_REPAIR_ALL);
	assert_int_equal(run.result.linked_tables, 1);
	assert_string_equal(run.tables[0].snapshot ? "named" : "", "named");
	assert_int_equal(wrong(&run), 0);
	assert_int_equal(disk_l1(d, 1, 1), d->tables[1][1] * d->cluster_bytes);
	check_guest(d, &whole, "a snapshot's entry");
	disk_free(d);
}

/* Of a disk's table and a snapshot's, both lost, COPIED tells which is which. */
static void test_a_lost_table_is_not_given_to_the_wrong_tree(void **state)
{
	struct disk *d = disk_new(&shapes[1]);
	struct guest before;
	struct run run;

	(void)state;
	set_victim(d, UINT64_C(0x7f00112233445566));
	disk_set_word(d, SNAPSHOT_L1, 0, UINT64_C(0x7f00112233445567));
	before = guest_of(d, d->bytes, d->length);
	run = salvage(d, OX_REPAIR_ALL);
	for (unsigned t = 0; t < 2; t++) {
		uint64_t l1 = disk_l1(d, t, t ? 0 : VICTIM) & OX_QCOW2_OFFSET_MASK;

		if (l1 % d->cluster_bytes == 0 && l1 < d->length)
			assert_int_equal(l1 / d->cluster_bytes, d->tables[t][t ? 0 : VICTIM]);
	}
	assert_true(run.result.linked_tables + run.result.lost_tables == 2);
	(void)before;
	disk_free(d);
}

/* ---- counts ---- */

/* Freed by another program: found, said not to be counted, and never linked by itself. */
static void test_a_freed_table_is_linked_by_hand_alone(void **state)
{
	struct disk *d = disk_new(&shapes[0]);
	struct guest whole = guest_of(d, d->bytes, d->length);
	struct ox_table_link link = {.l1_index = VICTIM};
	uint64_t table = d->tables[0][VICTIM];
	struct run run;

	(void)state;
	set_victim(d, UINT64_C(0x7f00112233445566));
	for (uint64_t c = table; c <= table + PER_TABLE; c++)
		disk_set_refcount(d, c, 0);
	run = salvage(d, OX_REPAIR_ALL);
	assert_int_equal(run.result.linked_tables, 0);
	assert_int_equal(run.table_count, 1);
	assert_false(run.tables[0].is_sure || run.tables[0].is_counted);
	link.host_offset = table * d->cluster_bytes;
	run = run_links(d, OX_REPAIR_ALL, &link, 1);
	assert_int_equal(run.error, 0);
	assert_int_equal(wrong(&run), 0);
	for (uint64_t c = table; c <= table + PER_TABLE; c++)
		assert_int_equal(disk_refcount(d, c), 1);
	check_guest(d, &whole, "a freed table");
	disk_free(d);
}

/* The counts of a dirty image are behind: a pointer that agrees is enough, being alone is not. */
static void test_a_dirty_image_goes_by_the_pointer(void **state)
{
	(void)state;
	for (unsigned agrees = 0; agrees < 2; agrees++) {
		struct disk *d = disk_new(&shapes[0]);
		struct guest whole = guest_of(d, d->bytes, d->length);
		uint64_t table = d->tables[0][VICTIM];
		struct run run;

		d->h.incompatible |= OX_QCOW2_INCOMPAT_DIRTY;
		disk_put_header(d);
		for (uint64_t c = table; c <= table + PER_TABLE; c++)
			disk_set_refcount(d, c, 0);
		set_victim(d, agrees ? disk_l1(d, 0, VICTIM) | 0x6 : UINT64_C(0x7f00112233445566));
		run = salvage(d, OX_REPAIR_ALL);
		assert_int_equal(run.result.linked_tables, agrees);
		if (agrees) {
			assert_int_equal(wrong(&run), 0);
			assert_true(run.result.dirty_cleared);
			check_guest(d, &whole, "a dirty image");
		}
		disk_free(d);
	}
}

/* COPIED bits of a table that was lost are put right before it is named. */
static void test_copied_bits_are_right_once_it_is_linked(void **state)
{
	struct disk *d = disk_new(&shapes[0]);
	uint64_t table = d->tables[0][VICTIM];
	struct ox_table_link link = {.l1_index = VICTIM, .host_offset = table * d->cluster_bytes};
	struct run run;

	(void)state;
	set_victim(d, 0);
	for (unsigned i = 0; i < PER_TABLE / 2; i++)
		disk_set_word(d, table, i, disk_word(d, table, i) & ~COPIED);
	run = run_links(d, OX_REPAIR_ALL, &link, 1);
	assert_int_equal(run.error, 0);
	assert_int_equal(wrong(&run), 0);
	for (unsigned i = 0; i < PER_TABLE; i++)
		assert_true(disk_word(d, table, i) & COPIED);
	disk_free(d);
}

/* ---- what is refused ---- */

static void test_links_that_cannot_be_are_refused_and_nothing_changes(void **state)
{
	static const struct {
		const char *why;
		uint64_t l1_index;
		uint64_t table; /* L1 index whose table is named, or more: a spare cluster */
		uint64_t more_bytes;
	} cases[] = {
		{"There is no L1 entry 4", TABLES, VICTIM, 0},
		{"names a table, which is not replaced", 0, VICTIM, 0},
		{"No cluster begins at", VICTIM, VICTIM, 8},
		{"it is in use", VICTIM, 0, 0},
		{"past the end of the file", VICTIM, VICTIM, UINT64_C(1) << 40},
		{"it names no cluster", VICTIM, TABLES, 0},
		{"is no entry of an L2 table", VICTIM, TABLES + 1, 0},
	};

	(void)state;
	for (size_t i = 0; i < OX_ARRAY_SIZE(cases); i++) {
		struct disk *d = disk_new(&shapes[0]);
		uint8_t *before = malloc(d->length);
		struct ox_table_link link = {.l1_index = cases[i].l1_index};
		uint64_t length = d->length;
		struct run run;

		assert_non_null(before);
		fill_random(d, d->spare + 1, 7);
		link.host_offset =
			cases[i].more_bytes +
			d->cluster_bytes * (cases[i].table < TABLES
						    ? d->tables[0][cases[i].table]
						    : d->spare + cases[i].table - TABLES);
		set_victim(d, 0);
		disk_set_refcount(d, d->spare + 3, 1); /* something to repair */
		memcpy(before, d->bytes, length);
		run = run_links(d, OX_REPAIR_ALL, &link, 1);
		assert_int_equal(run.error, -EINVAL);
		if (!strstr(ox_error_message(run.err), cases[i].why))
			fail_msg("'%s' does not say '%s'", ox_error_message(run.err), cases[i].why);
		assert_int_equal(d->length, length);
		assert_memory_equal(d->bytes, before, length);
		ox_error_free(run.err);
		free(before);
		disk_free(d);
	}
}

/* Where a snapshot cannot be seen, what nothing seems to name may be its. */
static void test_a_lost_snapshot_is_found_before_a_table_is_linked(void **state)
{
	struct disk *d = disk_new(&shapes[1]);
	struct guest whole = guest_of(d, d->bytes, d->length);
	struct run run;

	(void)state;
	set_victim(d, UINT64_C(0x7f00112233445566));
	d->h.snapshots_offset = UINT64_C(1) << 40;
	disk_put_header(d);
	run = salvage(d, OX_REPAIR_LEAKS);
	assert_int_equal(run.result.linked_tables, 0);
	run = salvage(d, OX_REPAIR_ALL);
	assert_int_equal(run.result.linked_tables, 1);
	assert_int_equal(wrong(&run), 0);
	check_guest(d, &whole, "a lost snapshot");
	disk_free(d);
}

/* A lost table of a snapshot may be linked yet: what it shares with the disk is not the disk's own.
 */
static void test_what_is_kept_for_a_snapshots_table_is_not_copied(void **state)
{
	(void)state;
	for (unsigned n = 0; n < 8; n++) {
		struct disk *d = disk_new(&shapes[n & 4 ? 5 : 1]);
		enum ox_repair how = n & 1 ? OX_REPAIR_ALL : OX_REPAIR_LEAKS;
		uint64_t shared = disk_word(d, d->tables[0][VICTIM], 0);
		struct run run;

		disk_set_word(d, SNAPSHOT_L1, VICTIM, 0);
		/* Something else is wrong with a COPIED bit, so that all are looked at. */
		if (n & 1)
			disk_set_word(d, d->tables[0][0], 3,
				      disk_word(d, d->tables[0][0], 3) & ~COPIED);
		run = n & 2 ? repair_plainly(d, how, false) : salvage(d, how);
		assert_int_equal(run.result.lost_tables, 1);
		assert_int_equal(run.result.corruptions, 0);
		assert_int_equal(run.result.leaks, 1 + PER_TABLE);
		assert_int_equal(disk_word(d, d->tables[0][VICTIM], 0), shared);
		assert_int_equal(
			disk_refcount(d, (shared & OX_QCOW2_OFFSET_MASK) / d->cluster_bytes), 2);
		disk_free(d);
	}
}

/* ---- without salvage ---- */

static void test_a_repair_keeps_lost_tables_among_the_leaks_and_frees_the_others(void **state)
{
	(void)state;
	for (size_t n = 0; n < 2 * OX_ARRAY_SIZE(shapes); n++) {
		struct disk *d = disk_new(&shapes[n / 2]);
		struct guest whole = guest_of(d, d->bytes, d->length);
		enum ox_repair how = n % 2 ? OX_REPAIR_ALL : OX_REPAIR_LEAKS;
		struct ox_table_link link = {
			.l1_index = VICTIM,
			.host_offset = d->tables[0][VICTIM] * d->cluster_bytes,
		};
		struct run run;

		set_victim(d, 0);
		fill_random(d, d->spare, 5);
		for (unsigned c = 0; c < 3; c++)
			disk_set_refcount(d, d->spare + c, 1);
		for (unsigned i = 0; i < 2; i++) {
			run = repair_plainly(d, i ? how : OX_REPAIR_NONE, false);
			assert_int_equal(run.table_count, 1);
			assert_true(run.tables[0].is_sure);
			assert_int_equal(run.tables[0].host_offset, link.host_offset);
			assert_int_equal(run.result.lost_tables, 1);
		}
		assert_int_equal(run.result.leaks_fixed, 3);
		assert_int_equal(run.result.leaks, 1 + PER_TABLE);
		assert_int_equal(run.result.corruptions + run.result.corruptions_fixed, 0);
		run = run_links(d, OX_REPAIR_ALL, &link, 1);
		assert_int_equal(run.error, 0);
		assert_int_equal(wrong(&run), 0);
		check_guest(d, &whole, "kept and linked");
		disk_free(d);
	}
}

static void test_what_may_be_a_lost_table_is_freed_on_request(void **state)
{
	(void)state;
	for (size_t s = 0; s < OX_ARRAY_SIZE(shapes); s++) {
		struct disk *d = disk_new(&shapes[s]);
		struct run run;

		set_victim(d, 0);
		run = repair_plainly(d, OX_REPAIR_LEAKS, true);
		assert_int_equal(run.table_count, 0);
		assert_int_equal(run.result.leaks_fixed, 1 + PER_TABLE);
		assert_int_equal(wrong(&run), 0);
		disk_free(d);
	}
}

/* Its counts may be behind, and the recovery at its next opening frees as well. */
static void test_what_leaked_in_a_dirty_image_is_freed(void **state)
{
	struct disk *d = disk_new(&shapes[0]);
	struct run run;

	(void)state;
	set_victim(d, 0);
	d->h.incompatible |= OX_QCOW2_INCOMPAT_DIRTY;
	disk_put_header(d);
	run = repair_plainly(d, OX_REPAIR_ALL, false);
	assert_int_equal(run.result.leaks_fixed, 1 + PER_TABLE);
	assert_true(run.result.dirty_cleared);
	disk_free(d);
}

/* What the counts leave in doubt is not kept. */
static void test_a_table_that_is_not_sure_is_freed_with_the_leaks(void **state)
{
	(void)state;
	for (unsigned n = 0; n < 3; n++) {
		struct disk *d = disk_new(&shapes[0]);
		uint64_t table = d->tables[0][VICTIM];
		struct run run;

		set_victim(d, 0);
		if (n == 0) /* was freed */
			disk_set_refcount(d, table, 0);
		else if (n == 1) /* of what it names, too */
			disk_set_refcount(d, table + 4, 0);
		else /* a COPIED bit says otherwise */
			disk_set_word(d, table, 4, disk_word(d, table, 4) & ~COPIED);
		run = repair_plainly(d, OX_REPAIR_LEAKS, false);
		assert_int_equal(run.table_count, 0);
		assert_int_equal(wrong(&run), 0);
		disk_free(d);
	}
}

/* ---- at random ---- */

static void damage_at_random(struct disk *d, unsigned *seed)
{
	static const uint64_t tables[] = {L1, L1, L1, L1, REFBLOCK, SNAPSHOT_L1};
	unsigned count = (unsigned)rand_r(seed) % 4 + 1;

	for (unsigned i = 0; i < count; i++) {
		uint64_t table = rand_r(seed) % 3 ? tables[(size_t)rand_r(seed) % 6]
						  : d->tables[rand_r(seed) & 1][rand_r(seed) & 3];
		uint64_t index = (uint64_t)rand_r(seed) % (table == REFBLOCK ? 20 : TABLES);
		uint64_t value = table ? disk_word(d, table, index) : 0;

		if (table == 0)
			continue;
		if (rand_r(seed) % 3 == 0)
			value = (uint64_t)rand_r(seed) << 33 | (uint64_t)rand_r(seed);
		else if (rand_r(seed) % 3 == 0)
			value = COPIED | (uint64_t)rand_r(seed) % 90 * d->cluster_bytes;
		else
			value ^= UINT64_C(1) << rand_r(seed) % 64;
		disk_set_word(d, table, index, value);
	}
	if (rand_r(seed) % 4 == 0) {
		d->h.incompatible |= OX_QCOW2_INCOMPAT_DIRTY;
		disk_put_header(d);
	}
}

/* An entry that names a table of another one, and by itself: nothing tells that it is wrong. */
static bool is_past_telling(const struct disk *d)
{
	for (unsigned t = 0; t < (d->h.snapshot_count ? 2u : 1u); t++) {
		for (unsigned i = 0; i < TABLES; i++) {
			uint64_t named = disk_l1(d, t, i) & OX_QCOW2_OFFSET_MASK;

			for (unsigned j = 0; j < 2 * TABLES; j++) {
				if (named == d->tables[j / TABLES][j % TABLES] * d->cluster_bytes &&
				    named != d->tables[t][i] * d->cluster_bytes)
					return true;
			}
		}
	}
	return false;
}

/* A table is linked where it was or not at all, and what still read true goes on doing so. */
static void test_whatever_the_damage_what_is_linked_is_right(void **state)
{
	unsigned linked = 0;

	(void)state;
	for (unsigned n = 1; n <= 600; n++) {
		unsigned seed = n;
		struct disk *d = disk_new(&shapes[n % 2]);
		struct guest whole = guest_of(d, d->bytes, d->length);
		struct guest before;
		struct guest after;
		struct run run;

		damage_at_random(d, &seed);
		if (is_past_telling(d)) {
			disk_free(d);
			continue;
		}
		before = guest_of(d, d->bytes, d->length);
		run = salvage(d, OX_REPAIR_ALL);
		after = guest_of(d, d->bytes, d->length);
		for (unsigned i = 0; i < run.table_count && i < MAX_TABLES; i++) {
			const struct ox_lost_table *t = &run.tables[i];

			linked += t->linked;
			if (t->linked && t->host_offset / d->cluster_bytes !=
						 d->tables[t->snapshot ? 1 : 0][t->l1_index])
				fail_msg("seed %u: the wrong table for L1 entry %u", n,
					 (unsigned)t->l1_index);
		}
		for (unsigned i = 0; i < TABLES * PER_TABLE; i++) {
			for (unsigned t = 0; t < 1u + n % 2; t++) {
				if (before.sums[t][i] == whole.sums[t][i] &&
				    after.sums[t][i] != whole.sums[t][i])
					fail_msg("seed %u: guest cluster %u of tree %u changed", n,
						 i, t);
			}
		}
		disk_free(d);
	}
	assert_true(linked > 100);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_lost_table_is_linked_where_it_was),
		cmocka_unit_test(test_a_cut_leaves_what_could_be_read_and_work_for_the_same_repair),
		cmocka_unit_test(test_damaged_pointers_find_their_own_tables),
		cmocka_unit_test(test_a_table_whose_data_are_taken_for_a_table_is_linked),
		cmocka_unit_test(test_single_bits_past_the_end_find_their_own_tables),
		cmocka_unit_test(test_two_of_each_are_left_and_kept_and_linked_by_hand),
		cmocka_unit_test(test_one_link_by_hand_settles_the_other),
		cmocka_unit_test(test_an_empty_entry_is_filled_by_hand_alone),
		cmocka_unit_test(test_tables_that_share_with_a_snapshot_know_their_place),
		cmocka_unit_test(test_a_snapshots_table_is_linked_to_the_snapshot),
		cmocka_unit_test(test_a_lost_table_is_not_given_to_the_wrong_tree),
		cmocka_unit_test(test_a_freed_table_is_linked_by_hand_alone),
		cmocka_unit_test(test_a_dirty_image_goes_by_the_pointer),
		cmocka_unit_test(test_copied_bits_are_right_once_it_is_linked),
		cmocka_unit_test(test_links_that_cannot_be_are_refused_and_nothing_changes),
		cmocka_unit_test(test_a_lost_snapshot_is_found_before_a_table_is_linked),
		cmocka_unit_test(
			test_a_repair_keeps_lost_tables_among_the_leaks_and_frees_the_others),
		cmocka_unit_test(test_what_is_kept_for_a_snapshots_table_is_not_copied),
		cmocka_unit_test(test_what_may_be_a_lost_table_is_freed_on_request),
		cmocka_unit_test(test_what_leaked_in_a_dirty_image_is_freed),
		cmocka_unit_test(test_a_table_that_is_not_sure_is_freed_with_the_leaks),
		cmocka_unit_test(test_whatever_the_damage_what_is_linked_is_right),
	};

	return cmocka_run_group_tests(tests, salvaging_setup, salvaging_teardown);
}
