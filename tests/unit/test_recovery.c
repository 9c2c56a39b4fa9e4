/* SPDX-License-Identifier: MIT */
/*
 * A dirty image is used at once and recovered beside the requests (docs/recovery.md), as a program
 * sees it through the public API, on files.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "image_bytes.h"
#include "recovery_fixture.h"

/* ---- beside a recovery that goes well ---- */

static void reads_and_writes_are_answered_while_it_runs(void **state)
{
	struct ox_image *image;
	uint64_t allocated;

	(void)state;
	use_large();
	image = open_dirty("disk.qcow2");
	assert_running(image);
	assert_reads(image, 5 * TABLE_SPAN, byte_of(5 * TABLE_SPAN));
	assert_running(image);
	assert_int_equal(write_block(image, 6 * TABLE_SPAN, 'i', OX_REQ_FUA), 0);
	assert_running(image);
	assert_int_equal(write_block(image, 7 * TABLE_SPAN + MIB, 'a', OX_REQ_FUA), 0);
	assert_running(image);
	assert_int_equal(write_block(image, (TABLES - 1) * TABLE_SPAN, 't', OX_REQ_FUA), 0);
	assert_running(image);
	assert_recovers(image);
	assert_true(status_of(image).tables_total >= TABLES);
	assert_int_equal(status_of(image).tables_done, status_of(image).tables_total);
	assert_reads(image, 6 * TABLE_SPAN, 'i');
	assert_reads(image, 7 * TABLE_SPAN + MIB, 'a');
	assert_reads(image, (TABLES - 1) * TABLE_SPAN, 't');
	assert_filled(image, 8, FILLED);
	close_image(image);
	allocated = assert_clean("disk.qcow2");
	assert_int_equal(allocated, FILLED * FILLED_CLUSTERS + 2);
}

static void progress_is_told_and_never_exceeds_its_total(void **state)
{
	struct ox_image *image;
	uint64_t steps = 0;
	uint64_t last = 0;

	(void)state;
	use_large();
	image = open_dirty("disk.qcow2");
	while (status_of(image).state == OX_RECOVERY_RUNNING) {
		struct ox_recovery_status status = status_of(image);

		assert_true(status.tables_total == 0 || status.tables_total >= TABLES);
		assert_true(status.tables_done >= last);
		if (status.tables_done > last)
			steps++;
		last = status.tables_done;
		assert_int_equal(ox_context_wait(ctx), 0);
	}
	assert_true(steps > 0);
	assert_recovers(image);
	close_image(image);
}

static void a_close_ends_the_recovery_and_leaves_a_clean_image(void **state)
{
	struct ox_image *image;

	(void)state;
	for (int turn = 0; turn < 3; turn++) {
		use_large();
		image = open_dirty("disk.qcow2");
		if (turn > 0)
			assert_int_equal(write_block(image, MIB, 'c', 0), 0);
		if (turn > 1)
			assert_int_equal(ox_discard(image, 0, FILLED_CLUSTERS * CLUSTER), 0);
		assert_running(image);
		close_image(image);
		assert_int_equal(assert_clean("disk.qcow2"), FILLED * FILLED_CLUSTERS + (turn > 0) -
								     (turn > 1) * FILLED_CLUSTERS);
	}
}

static void a_close_need_not_wait_and_the_next_opening_recovers(void **state)
{
	struct ox_image *image;

	(void)state;
	use_large();
	image = open_dirty("disk.qcow2");
	assert_int_equal(write_block(image, MIB, 'l', 0), 0);
	assert_int_equal(ox_discard(image, 0, FILLED_CLUSTERS * CLUSTER), 0);
	assert_running(image);
	ox_image_leave_recovery(image);
	close_image(image);
	assert_non_null(strstr(told, "left to the next opening"));
	image = open_dirty("disk.qcow2");
	assert_reads(image, MIB, 'l');
	assert_reads(image, 0, 0);
	assert_filled(image, 1, FILLED);
	assert_recovers(image);
	ox_image_leave_recovery(image); /* it is over */
	close_image(image);
	assert_int_equal(assert_clean("disk.qcow2"), (FILLED - 1) * FILLED_CLUSTERS + 1);
}

static void tables_of_the_opening_stand_still_and_nothing_is_punched(void **state)
{
	uint64_t table, data, overwritten;
	struct ox_image *image;
	char before[CLUSTER];
	char after[CLUSTER];
	FILE *file;

	(void)state;
	use_large();
	table = l2_entry_at("disk.qcow2", 0);
	data = l2_entry("disk.qcow2", 0) & ENTRY_OFFSET;
	overwritten = l2_entry("disk.qcow2", CLUSTER);
	file = fopen("disk.qcow2", "rb");
	assert_non_null(file);
	assert_int_equal(pread(fileno(file), before, CLUSTER, (off_t)table), CLUSTER);
	image = open_dirty("disk.qcow2");
	assert_int_equal(ox_discard(image, 0, CLUSTER), 0);
	assert_int_equal(ox_write_zeroes(image, CLUSTER, CLUSTER, OX_REQ_MAY_UNMAP), 0);
	for (uint64_t i = FILLED_CLUSTERS; i < 20; i++)
		assert_int_equal(write_block(image, i * CLUSTER, 'n', 0), 0);
	assert_int_equal(ox_flush(image), 0);
	assert_running(image);
	assert_int_equal(pread(fileno(file), after, CLUSTER, (off_t)table), CLUSTER);
	assert_memory_equal(before, after, CLUSTER);
	assert_int_not_equal(l2_entry_at("disk.qcow2", 0), table);
	assert_int_not_equal(l2_entry("disk.qcow2", CLUSTER), overwritten);
	assert_int_equal(pread(fileno(file), after, CLUSTER, (off_t)data), CLUSTER);
	memset(before, byte_of(0), CLUSTER);
	assert_memory_equal(before, after, CLUSTER);
	fclose(file);
	assert_recovers(image);
	assert_reads(image, 0, 0);
	assert_reads(image, CLUSTER, 0);
	close_image(image);
	assert_clean("disk.qcow2");
}

static void allocations_take_nothing_below_the_old_end(void **state)
{
	struct ox_image *image;
	uint64_t end;

	(void)state;
	use_large();
	end = file_bytes("disk.qcow2");
	image = open_dirty("disk.qcow2");
	for (uint64_t i = 0; i < 4; i++)
		assert_int_equal(write_block(image, i * TABLE_SPAN + MIB, 'n', 0), 0);
	assert_int_equal(ox_flush(image), 0);
	assert_running(image);
	assert_true(image_has_fence("disk.qcow2"));
	for (uint64_t i = 0; i < 4; i++) {
		assert_true(l2_entry_at("disk.qcow2", i * TABLE_SPAN + MIB) >= end);
		assert_true((l2_entry("disk.qcow2", i * TABLE_SPAN + MIB) & ENTRY_OFFSET) >= end);
	}
	assert_recovers(image);
	close_image(image);
	assert_clean("disk.qcow2");
}

static void what_is_freed_meanwhile_is_given_back_in_the_end(void **state)
{
	struct ox_image *image;
	struct stat before, after;
	uint64_t allocated;

	(void)state;
	use_large();
	assert_int_equal(stat("disk.qcow2", &before), 0);
	image = open_dirty("disk.qcow2");
	assert_int_equal(ox_discard(image, 0, TABLE_SPAN), 0);
	assert_running(image);
	for (uint64_t table = 2; table < FILLED; table += 2)
		assert_int_equal(ox_discard(image, table * TABLE_SPAN, TABLE_SPAN), 0);
	for (uint64_t table = 1; table < FILLED; table += 2)
		assert_int_equal(
			ox_write_zeroes(image, table * TABLE_SPAN, 2 * CLUSTER, OX_REQ_MAY_UNMAP),
			0);
	/* allocated and freed within the recovery */
	for (uint64_t i = 0; i < 50; i++)
		assert_int_equal(write_block(image, MIB + i * CLUSTER, 'o', 0), 0);
	assert_int_equal(ox_discard(image, MIB, 30 * CLUSTER), 0);
	assert_recovers(image);
	assert_int_equal(ox_flush(image), 0);
	for (uint64_t table = 0; table < FILLED; table++)
		assert_reads(image, table * TABLE_SPAN, 0);
	assert_reads(image, TABLE_SPAN + 2 * CLUSTER, byte_of(TABLE_SPAN + 2 * CLUSTER));
	assert_reads(image, MIB + 29 * CLUSTER, 0);
	assert_reads(image, MIB + 30 * CLUSTER, 'o');
	close_image(image);
	allocated = assert_clean("disk.qcow2");
	assert_true(allocated >= FILLED / 2 * (FILLED_CLUSTERS - 2) + 20);
	assert_true(allocated <= FILLED / 2 * FILLED_CLUSTERS + 20);
	assert_int_equal(stat("disk.qcow2", &after), 0);
	assert_true(after.st_blocks < before.st_blocks);
}

static void space_of_the_first_life_is_used_again_after_the_recovery(void **state)
{
	struct ox_image *image;
	uint64_t end;

	(void)state;
	use_large();
	image = open_dirty("disk.qcow2");
	assert_int_equal(ox_discard(image, 0, TABLE_SPAN), 0);
	assert_running(image);
	assert_int_equal(ox_discard(image, TABLE_SPAN, (FILLED - 1) * TABLE_SPAN), 0);
	assert_recovers(image);
	assert_int_equal(ox_flush(image), 0);
	close_image(image);
	assert_clean("disk.qcow2");
	end = file_bytes("disk.qcow2");
	{
		struct ox_open_options opts = options(OX_RECOVER_NEVER);

		image = open_with("disk.qcow2", &opts);
	}
	for (uint64_t i = 0; i < FILLED * FILLED_CLUSTERS / 2; i++)
		assert_int_equal(write_block(image, i * CLUSTER, 'r', 0), 0);
	close_image(image);
	assert_clean("disk.qcow2");
	assert_true(file_bytes("disk.qcow2") <= end);
}

static void resizing_waits_for_the_recovery_and_works(void **state)
{
	struct ox_image *image;
	struct ox_error *err = NULL;

	(void)state;
	for (int shrink = 0; shrink < 2; shrink++) {
		uint64_t bytes = shrink ? FILLED / 2 * TABLE_SPAN : LARGE_DISK + 300 * TABLE_SPAN;

		use_large();
		image = open_dirty("disk.qcow2");
		assert_int_equal(write_block(image, MIB, 'b', 0), 0);
		assert_running(image);
		if (ox_resize(image, bytes, &err) < 0)
			fail_msg("resize: %s", ox_error_message(err));
		assert_int_equal(status_of(image).state, OX_RECOVERY_DONE);
		assert_int_equal(ox_image_size(image), bytes);
		assert_int_equal(write_block(image, bytes - CLUSTER, 'e', OX_REQ_FUA), 0);
		assert_int_equal(write_block(image, bytes, 'e', 0), -EINVAL);
		assert_reads(image, MIB, 'b');
		assert_filled(image, 1, FILLED / 2 - 1);
		close_image(image);
		assert_clean("disk.qcow2");
	}
}

/* ---- how it is opened ---- */

static void waiting_returns_a_recovered_image(void **state)
{
	struct ox_open_options opts = options(OX_RECOVER_WAIT);
	struct ox_image *image;

	(void)state;
	use_large();
	image = open_with("disk.qcow2", &opts);
	assert_int_not_equal(status_of(image).state, OX_RECOVERY_RUNNING);
	assert_false(image_is_dirty("disk.qcow2"));
	assert_filled(image, 0, FILLED);
	close_image(image);
	assert_int_equal(assert_clean("disk.qcow2"), FILLED * FILLED_CLUSTERS);
}

static void refusing_changes_no_byte(void **state)
{
	struct ox_open_options opts = options(OX_RECOVER_NEVER);
	struct ox_image *image = NULL;
	struct ox_error *err = NULL;
	uint64_t before;

	(void)state;
	use_small();
	before = file_fingerprint("disk.qcow2");
	assert_int_equal(ox_image_open(ctx, "disk.qcow2", &opts, &image, &err), -EROFS);
	assert_null(image);
	assert_true(strlen(ox_error_message(err)) > 0);
	ox_error_free(err);
	assert_int_equal(file_fingerprint("disk.qcow2"), before);
	opts.flags = OX_OPEN_READ_ONLY;
	image = open_with("disk.qcow2", &opts);
	assert_filled(image, 0, SMALL_DISK / TABLE_SPAN);
	close_image(image);
	assert_int_equal(file_fingerprint("disk.qcow2"), before);
}

static void a_clean_image_has_no_recovery(void **state)
{
	static const enum ox_recover_mode modes[] = {OX_RECOVER_AUTO, OX_RECOVER_WAIT,
						     OX_RECOVER_NEVER};
	struct ox_image *image;

	(void)state;
	use_small();
	close_image(open_dirty("disk.qcow2"));
	for (int i = 0; i < 3; i++) {
		struct ox_open_options opts = options(modes[i]);

		image = open_with("disk.qcow2", &opts);
		assert_int_equal(status_of(image).state, OX_RECOVERY_NONE);
		assert_string_equal(told, "");
		assert_int_equal(write_block(image, MIB, 'x', 0), 0);
		close_image(image);
		assert_clean("disk.qcow2");
	}
}

static void a_reader_sees_all_and_changes_nothing_until_it_becomes_a_writer(void **state)
{
	struct ox_open_options opts = options(OX_RECOVER_AUTO);
	struct ox_image *image;
	uint64_t before;

	(void)state;
	use_large();
	before = file_fingerprint("disk.qcow2");
	opts.flags = OX_OPEN_READ_ONLY;
	image = open_with("disk.qcow2", &opts);
	assert_int_equal(status_of(image).state, OX_RECOVERY_NONE);
	assert_filled(image, 0, FILLED);
	assert_int_equal(file_fingerprint("disk.qcow2"), before);
	assert_int_equal(ox_image_reopen(image, false, NULL), 0);
	assert_int_equal(write_block(image, MIB, 'w', 0), 0);
	assert_recovers(image);
	assert_int_equal(ox_image_reopen(image, true, NULL), 0);
	assert_int_not_equal(status_of(image).state, OX_RECOVERY_RUNNING);
	assert_false(image_is_dirty("disk.qcow2"));
	assert_reads(image, MIB, 'w');
	close_image(image);
	assert_clean("disk.qcow2");
}

static void a_writer_becomes_a_reader_in_the_middle_of_it(void **state)
{
	struct ox_image *image;

	(void)state;
	use_large();
	image = open_dirty("disk.qcow2");
	assert_int_equal(write_block(image, MIB, 'w', 0), 0);
	assert_int_equal(ox_discard(image, 0, CLUSTER), 0);
	assert_running(image);
	assert_int_equal(ox_image_reopen(image, true, NULL), 0);
	assert_int_not_equal(status_of(image).state, OX_RECOVERY_RUNNING);
	assert_int_equal(write_block(image, MIB, 'x', 0), -EROFS);
	assert_reads(image, MIB, 'w');
	assert_reads(image, 0, 0);
	assert_filled(image, 1, FILLED);
	assert_int_equal(ox_image_reopen(image, false, NULL), 0);
	assert_int_equal(write_block(image, MIB + CLUSTER, 'y', 0), 0);
	assert_int_not_equal(end_of_recovery(image).state, OX_RECOVERY_FAILED);
	close_image(image);
	assert_clean("disk.qcow2");
}

/* ---- the status, and who gets a turn ---- */

static void the_totals_are_of_l2_tables_and_blocks(void **state)
{
	struct ox_image *image;

	(void)state;
	use_small();
	image = open_dirty("disk.qcow2");
	assert_recovers(image);
	assert_int_equal(status_of(image).tables_total, SMALL_DISK / TABLE_SPAN + 1);
	assert_int_equal(status_of(image).tables_done, SMALL_DISK / TABLE_SPAN + 1);
	close_image(image);
}

static void an_image_that_was_waited_for_says_that_it_was_recovered(void **state)
{
	struct ox_open_options opts = options(OX_RECOVER_WAIT);
	struct ox_image *image;

	(void)state;
	use_small();
	image = open_with("disk.qcow2", &opts);
	assert_int_equal(status_of(image).state, OX_RECOVERY_DONE);
	close_image(image);
}

static void an_image_that_is_not_open_for_writing_has_no_recovery(void **state)
{
	struct ox_image *image;

	(void)state;
	use_small();
	image = open_dirty("disk.qcow2");
	assert_recovers(image);
	assert_int_equal(ox_image_reopen(image, true, NULL), 0);
	assert_int_equal(status_of(image).state, OX_RECOVERY_NONE);
	close_image(image);
}

/* An event loop has other things to do than to poll, and requests to submit. */
static void no_poll_takes_all_of_the_recovery(void **state)
{
	uint64_t done = 0;
	struct ox_image *image;

	(void)state;
	use_large();
	image = open_dirty("disk.qcow2");
	while (status_of(image).state == OX_RECOVERY_RUNNING) {
		assert_int_equal(ox_context_poll(ctx), 0);
		assert_true(status_of(image).tables_done - done < TABLES / 4);
		done = status_of(image).tables_done;
	}
	close_image(image);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(reads_and_writes_are_answered_while_it_runs),
		TEST(progress_is_told_and_never_exceeds_its_total),
		TEST(a_close_ends_the_recovery_and_leaves_a_clean_image),
		TEST(a_close_need_not_wait_and_the_next_opening_recovers),
		TEST(tables_of_the_opening_stand_still_and_nothing_is_punched),
		TEST(allocations_take_nothing_below_the_old_end),
		TEST(what_is_freed_meanwhile_is_given_back_in_the_end),
		TEST(space_of_the_first_life_is_used_again_after_the_recovery),
		TEST(resizing_waits_for_the_recovery_and_works),
		TEST(waiting_returns_a_recovered_image),
		TEST(refusing_changes_no_byte),
		TEST(a_clean_image_has_no_recovery),
		TEST(a_reader_sees_all_and_changes_nothing_until_it_becomes_a_writer),
		TEST(a_writer_becomes_a_reader_in_the_middle_of_it),
		TEST(the_totals_are_of_l2_tables_and_blocks),
		TEST(an_image_that_was_waited_for_says_that_it_was_recovered),
		TEST(an_image_that_is_not_open_for_writing_has_no_recovery),
		TEST(no_poll_takes_all_of_the_recovery),
	};

	return cmocka_run_group_tests_name("recovery", tests, make_templates, remove_templates);
}
