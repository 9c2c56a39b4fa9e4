/* SPDX-License-Identifier: MIT */
/*
 * What a repair of a QED image gives back to the host: clusters that nothing names, whenever that
 * is sure, and nothing that a guest could read before or may read after a crash.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/arith.h"
#include "check/check.h"
#include "cut_io.h"
#include "qed_image.h"

#define PAST UINT64_C(0x7000000000)
#define SEEDS 4u

static struct ox_reactor *reactor;

static const struct qed_shape shapes[] = {
	{4096, 1, false},
	{4096, 4, true},
	{65536, 2, true},
};

/* ---- checks ---- */

struct job {
	struct ox_io *io;
	struct ox_check_options opts;
	struct ox_check_result result;
	int error;
	bool frees_tables;
	char names[512];
	char why[160]; /* of the last leak that stays */
};

static void note(void *opaque, const struct ox_finding *finding)
{
	struct job *job = opaque;
	size_t used = strlen(job->names);

	snprintf(job->names + used, sizeof(job->names) - used, "%s%s ",
		 finding->repaired ? "+" : "", finding->name);
	if (finding->severity == OX_FINDING_LEAK && !finding->repaired)
		snprintf(job->why, sizeof(job->why), "%s",
			 finding->why_not ? finding->why_not : "?");
}

static void job_co(void *arg)
{
	struct job *job = arg;

	job->opts.finding = note;
	job->opts.opaque = job;
	job->error = ox_check_qed_co(job->io, &job->opts, &job->result, NULL);
}

static void try(struct job *job, struct ox_io *io, enum ox_repair repair)
{
	job->io = io;
	job->opts = (struct ox_check_options)OX_CHECK_OPTIONS_INIT;
	job->opts.repair = repair;
	job->opts.free_lost_tables = job->frees_tables;
	job->names[0] = '\0';
	job->why[0] = '\0';
	assert_int_equal(ox_reactor_call(reactor, job_co, job), 0);
}

static void run(struct job *job, struct ox_io *io, enum ox_repair repair)
{
	try(job, io, repair);
	assert_int_equal(job->error, 0);
}

static void assert_told(const struct job *job, const char *names)
{
	if (strcmp(job->names, names) != 0)
		fail_msg("not '%s': '%s'", names, job->names);
}

static void assert_why(const struct job *job, const char *part)
{
	if (!strstr(job->why, part))
		fail_msg("not '%s': '%s'", part, job->why);
}

/* ---- images ---- */

/* Leaks in the middle (two of them side by side), and at the end. */
static void leak(struct qed_image *im)
{
	qed_set_l2(im, 0, 1, 0);
	qed_set_l2(im, 0, 2, 0);
	qed_set_l2(im, 0, 4, 1);
	qed_set_l2(im, 1, QED_DATA - QED_FIRST - 1, 0);
}

#define LEAKS 4u

/* Whether a guest reads the same of the first entries of both tables. */
static bool reads_same(const struct qed_image *im, const uint8_t *bytes, uint64_t length)
{
	for (unsigned i = 0; i < 2 * QED_DATA; i++) {
		uint64_t from = 0;
		uint64_t to = 0;
		enum qed_reads was =
			qed_read(im, im->bytes, im->length, i / QED_DATA, i % QED_DATA, &from);
		enum qed_reads is = qed_read(im, bytes, length, i / QED_DATA, i % QED_DATA, &to);

		if (was != is)
			return false;
		if (was == QED_BYTES &&
		    memcmp(im->bytes + from, bytes + to, im->shape.cluster) != 0)
			return false;
	}
	return true;
}

static bool is_zero(const uint8_t *bytes, uint64_t count)
{
	return bytes[0] == 0 && memcmp(bytes, bytes + 1, count - 1) == 0;
}

/* ---- what is given back ---- */

static void test_leaks_become_holes_and_the_file_ends_behind_what_is_in_use(void **state)
{
	(void)state;
	for (size_t s = 0; s < OX_ARRAY_SIZE(shapes); s++) {
		struct qed_image *im = qed_image_new(shapes[s]);
		struct cut cut = {.sparse = true};
		struct job job = {0};
		struct ox_io *io;

		leak(im);
		qed_mark(im);
		io = cut_open(reactor, &cut, im->bytes, im->length);
		run(&job, io, OX_REPAIR_NONE);
		assert_int_equal(job.result.leaks, LEAKS);
		assert_int_equal(cut.changes, 0);
		run(&job, io, OX_REPAIR_LEAKS);
		assert_int_equal(job.result.leaks, 0);
		assert_int_equal(job.result.leaks_fixed, LEAKS);
		assert_int_equal(cut.punches, 2);
		assert_int_equal(io->length, im->length - im->shape.cluster);
		for (unsigned i = 1; i <= 4; i += i == 2 ? 2 : 1)
			assert_true(is_zero(cut_bytes(io) + qed_data(im, i), im->shape.cluster));
		assert_true(reads_same(im, cut_bytes(io), io->length));
		assert_false(qed_is_marked(cut_bytes(io)));
		assert_false(cut_is_unsynced(io));
		ox_io_close(io);
		qed_image_free(im);
	}
}

static void test_a_hole_is_no_leak_and_a_second_repair_changes_nothing(void **state)
{
	struct qed_image *im = qed_image_new(shapes[1]);
	struct cut cut = {.sparse = true};
	struct job job = {0};
	struct ox_io *io;

	(void)state;
	leak(im);
	io = cut_open(reactor, &cut, im->bytes, im->length);
	run(&job, io, OX_REPAIR_LEAKS);
	assert_false(cut_is_unsynced(io));
	assert_told(&job, "+qed-leaked-cluster +qed-leaked-cluster +qed-leaked-cluster "
			  "+qed-leaked-cluster ");
	cut.changes = 0;
	run(&job, io, OX_REPAIR_LEAKS);
	assert_int_equal(cut.changes, 0);
	assert_int_equal(job.result.leaks + job.result.leaks_fixed, 0);
	assert_told(&job, "qed-unnamed-holes ");
	run(&job, io, OX_REPAIR_NONE);
	assert_int_equal(job.result.leaks, 0);
	assert_told(&job, "qed-unnamed-holes ");
	ox_io_close(io);
	qed_image_free(im);
}

/* A cluster of 64 KiB, of which a block has bytes. */
static void test_a_cluster_that_is_a_hole_in_part_is_a_leak(void **state)
{
	(void)state;
	for (unsigned at = 0; at < 65536; at += 20480) {
		struct qed_image *im = qed_image_new(shapes[2]);
		struct cut cut = {.sparse = true};
		struct job job = {0};
		struct ox_io *io;

		qed_set_l2(im, 0, 1, 0);
		qed_set_l2(im, 0, 2, 0);
		qed_set_l2(im, 0, 3, 0);
		memset(im->bytes + qed_data(im, 1), 0, 3 * 65536);
		memset(im->bytes + qed_data(im, 2) + at, 7, 1);
		io = cut_open(reactor, &cut, im->bytes, im->length);
		run(&job, io, OX_REPAIR_NONE);
		assert_int_equal(job.result.leaks, 1);
		assert_told(&job, "qed-leaked-cluster qed-unnamed-holes ");
		run(&job, io, OX_REPAIR_LEAKS);
		assert_int_equal(job.result.leaks_fixed, 1);
		assert_true(is_zero(cut_bytes(io) + qed_data(im, 1), 3 * 65536));
		ox_io_close(io);
		qed_image_free(im);
	}
}

static void test_a_short_end_stays_if_it_is_in_use_and_goes_if_not(void **state)
{
	(void)state;
	for (unsigned named = 0; named < 2; named++) {
		struct qed_image *im = qed_image_new(shapes[0]);
		struct cut cut = {.sparse = true};
		struct job job = {0};
		struct ox_io *io;

		qed_set_l2(im, 0, 1, 0);
		if (!named)
			qed_set_l2(im, 1, QED_DATA - QED_FIRST - 1, 0);
		io = cut_open(reactor, &cut, im->bytes, im->length - 512);
		run(&job, io, OX_REPAIR_LEAKS);
		/* It is a corruption where it is in use, which -r leaks does not repair. */
		assert_int_equal(job.result.corruptions, named);
		assert_int_equal(job.result.leaks_fixed, named ? 0 : 2);
		assert_int_equal(io->length, im->length - (named ? 512 : im->shape.cluster));
		run(&job, io, OX_REPAIR_ALL);
		assert_int_equal(job.result.corruptions + job.result.leaks, 0);
		ox_io_close(io);
		qed_image_free(im);
	}
}

/* Behind all that is in use: a leak, a hole, a leak, a hole that is not a whole cluster. */
static void test_whatever_is_behind_all_that_is_in_use_is_cut_off(void **state)
{
	struct qed_image *im = qed_image_new(shapes[0]);
	struct cut cut = {.sparse = true};
	struct job job = {0};
	uint64_t length = im->length + 3 * UINT64_C(4096) + 512;
	struct ox_io *io;

	(void)state;
	memset(im->bytes + im->length, 7, 4096);
	memset(im->bytes + im->length + 2 * UINT64_C(4096), 7, 4096);
	io = cut_open(reactor, &cut, im->bytes, length);
	run(&job, io, OX_REPAIR_NONE);
	assert_int_equal(job.result.leaks, 2);
	run(&job, io, OX_REPAIR_LEAKS);
	assert_int_equal(job.result.leaks_fixed, 2);
	assert_told(&job, "+qed-leaked-cluster +qed-leaked-cluster ");
	assert_int_equal(io->length, im->length);
	assert_int_equal(cut.punches, 0);
	ox_io_close(io);
	/* Holes alone are left: nothing would be gained. */
	memset(im->bytes + im->length, 0, length - im->length);
	io = cut_open(reactor, &cut, im->bytes, length);
	run(&job, io, OX_REPAIR_LEAKS);
	assert_told(&job, "qed-unnamed-holes ");
	assert_int_equal(io->length, length);
	ox_io_close(io);
	qed_image_free(im);
}

static void test_bits_that_vouch_for_the_file_as_it_was_are_cleared(void **state)
{
	struct qed_image *im = qed_image_new(shapes[0]);
	struct cut cut = {.sparse = true};
	struct job job = {0};
	struct ox_io *io;

	(void)state;
	qed_put64(im->bytes, 32, 6);
	io = cut_open(reactor, &cut, im->bytes, im->length);
	run(&job, io, OX_REPAIR_LEAKS);
	assert_int_equal(qed_get64(cut_bytes(io), 32), 6);
	ox_io_close(io);
	leak(im);
	io = cut_open(reactor, &cut, im->bytes, im->length);
	run(&job, io, OX_REPAIR_LEAKS);
	assert_int_equal(qed_get64(cut_bytes(io), 32), 0);
	ox_io_close(io);
	qed_image_free(im);
}

static void test_an_image_without_data_keeps_its_header_and_l1(void **state)
{
	struct qed_image *im = qed_image_new(shapes[1]);
	struct cut cut = {.sparse = true};
	struct job job = {.frees_tables = true};
	struct ox_io *io;

	(void)state;
	qed_set_l1(im, 0, 0);
	qed_set_l1(im, 1, 0);
	io = cut_open(reactor, &cut, im->bytes, im->length);
	run(&job, io, OX_REPAIR_LEAKS);
	assert_int_equal(job.result.leaks, 0);
	assert_int_equal(io->length, im->l1 + im->table_bytes);
	assert_memory_equal(cut_bytes(io), im->bytes, io->length);
	ox_io_close(io);
	qed_image_free(im);
}

/* ---- what is not ---- */

/* Nothing is changed, of an image with these findings. */
static void check_left(struct qed_image *im, enum ox_repair repair, const char *why)
{
	struct cut cut = {.sparse = true};
	struct job job = {0};
	struct ox_io *io = cut_open(reactor, &cut, im->bytes, im->length);

	run(&job, io, repair);
	assert_int_equal(job.result.leaks_fixed, 0);
	assert_true(job.result.leaks > 0);
	assert_why(&job, why);
	assert_int_equal(cut.punches, 0);
	assert_int_equal(io->length, im->length);
	if (repair == OX_REPAIR_LEAKS)
		assert_memory_equal(cut_bytes(io), im->bytes, im->length);
	ox_io_close(io);
}

static void test_nothing_is_given_back_while_something_is_wrong(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 5; i++) {
		struct qed_image *im = qed_image_new(shapes[0]);
		static const char *const why[] = {
			"something else cannot be followed", "something else cannot be followed",
			"something else is wrong",	     "something else cannot be followed",
			"something else cannot be followed",
		};

		leak(im);
		if (i == 0)
			qed_set_l2(im, 1, 0, qed_data(im, 0));
		if (i == 1)
			qed_set_l1(im, 5, im->l2[0] + 512);
		if (i == 2) {
			qed_mark(im);
			qed_set_l2(im, 1, 1, PAST);
		}
		if (i == 3)
			im->bytes[17] |= 1;
		if (i == 4)
			qed_put64(im->bytes, 48, 1);
		check_left(im, OX_REPAIR_LEAKS, why[i]);
		qed_image_free(im);
	}
}

/* What an entry named that was taken away, or led elsewhere, may be among the leaks. */
static void test_what_may_be_right_stays_in_the_run_that_guessed(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		struct qed_image *im = qed_image_new(shapes[0]);
		const uint64_t wrong[] = {PAST, qed_data(im, 0), qed_data(im, 3) + 512};
		struct cut cut = {.sparse = true};
		struct job job = {0};
		struct ox_io *io;

		qed_set_l2(im, 0, 2, wrong[i]);
		io = cut_open(reactor, &cut, im->bytes, im->length);
		run(&job, io, OX_REPAIR_ALL);
		assert_int_equal(job.result.corruptions, 0);
		assert_int_equal(job.result.leaks, 1);
		assert_int_equal(cut.punches, 0);
		assert_why(&job, "a later -r leaks frees it");
		run(&job, io, OX_REPAIR_LEAKS);
		assert_int_equal(job.result.leaks_fixed, 1);
		assert_int_equal(cut.punches, 1);
		ox_io_close(io);
		qed_image_free(im);
	}
}

static void test_leaks_that_hold_a_lost_table_stay_until_it_is_given_up(void **state)
{
	(void)state;
	for (size_t s = 0; s < OX_ARRAY_SIZE(shapes); s++) {
		struct qed_image *im = qed_image_new(shapes[s]);
		struct cut cut = {.sparse = true};
		struct job job = {0};
		struct ox_io *io;

		leak(im);
		/* Its entries are behind its first bytes. */
		qed_set_l2(im, 1, im->entries - 1, qed_data(im, 8));
		for (unsigned i = 0; i < 4; i++)
			qed_set_l2(im, 1, i, 0);
		qed_set_l1(im, 1, 0);
		check_left(im, OX_REPAIR_LEAKS, "looks like an L2 table");
		check_left(im, OX_REPAIR_ALL, "looks like an L2 table");
		io = cut_open(reactor, &cut, im->bytes, im->length);
		run(&job, io, OX_REPAIR_LEAKS);
		assert_non_null(strstr(job.names, "qed-unnamed-table "));
		job.frees_tables = true;
		run(&job, io, OX_REPAIR_LEAKS);
		assert_int_equal(job.result.leaks, 0);
		assert_true(job.result.leaks_fixed > LEAKS);
		ox_io_close(io);
		qed_image_free(im);
	}
}

static void test_a_copy_of_a_table_that_is_named_is_no_lost_one(void **state)
{
	struct qed_image *im = qed_image_new(shapes[0]);
	struct cut cut = {.sparse = true};
	struct job job = {0};
	struct ox_io *io;

	(void)state;
	leak(im);
	memcpy(im->bytes + qed_data(im, 1), im->bytes + im->l2[0], im->table_bytes);
	io = cut_open(reactor, &cut, im->bytes, im->length);
	run(&job, io, OX_REPAIR_LEAKS);
	assert_int_equal(job.result.leaks_fixed, LEAKS);
	ox_io_close(io);
	qed_image_free(im);
}

/* The end is cut off all the same. */
static void test_a_hole_that_cannot_be_made_is_told_and_harms_nothing(void **state)
{
	static const struct {
		bool sparse;
		int error;
		const char *why;
	} cases[] = {
		{false, 0, "cannot make holes"},
		{true, -EOPNOTSUPP, "cannot make holes"},
		{true, -ENOSPC, "no room to make a hole"},
		{true, -EDQUOT, "no room to make a hole"},
	};

	(void)state;
	for (size_t i = 0; i < OX_ARRAY_SIZE(cases); i++) {
		struct qed_image *im = qed_image_new(shapes[0]);
		struct cut cut = {.sparse = cases[i].sparse, .punch_error = cases[i].error};
		struct job job = {0};
		struct ox_io *io;

		leak(im);
		qed_mark(im);
		io = cut_open(reactor, &cut, im->bytes, im->length);
		run(&job, io, OX_REPAIR_LEAKS);
		assert_int_equal(job.result.leaks_fixed, 1);
		assert_int_equal(job.result.leaks, LEAKS - 1);
		assert_why(&job, cases[i].why);
		assert_int_equal(io->length, im->length - im->shape.cluster);
		assert_false(qed_is_marked(cut_bytes(io)));
		assert_true(reads_same(im, cut_bytes(io), io->length));
		/* There is room again. */
		cut.sparse = true;
		cut.punch_error = 0;
		run(&job, io, OX_REPAIR_LEAKS);
		assert_int_equal(job.result.leaks, 0);
		ox_io_close(io);
		qed_image_free(im);
	}
}

static void test_an_error_of_the_medium_ends_the_repair(void **state)
{
	struct qed_image *im = qed_image_new(shapes[0]);
	struct cut cut = {.sparse = true, .punch_error = -EIO};
	struct job job = {0};
	struct ox_io *io;

	(void)state;
	leak(im);
	qed_mark(im);
	io = cut_open(reactor, &cut, im->bytes, im->length);
	try(&job, io, OX_REPAIR_LEAKS);
	assert_int_equal(job.error, -EIO);
	assert_true(qed_is_marked(cut_bytes(io)));
	ox_io_close(io);
	qed_image_free(im);
}

/* ---- cuts ---- */

static void assert_whole(const struct qed_image *im, struct ox_io *io, unsigned after,
			 unsigned seed)
{
	if (!reads_same(im, cut_bytes(io), io->length))
		fail_msg("cut %u, seed %u: the guest reads something else", after, seed);
	assert_int_equal(qed_problems(im, cut_bytes(io), io->length), 0);
}

static void test_a_repair_that_is_cut_anywhere_is_ended_by_the_next(void **state)
{
	(void)state;
	for (size_t s = 0; s < OX_ARRAY_SIZE(shapes) * SEEDS; s++) {
		struct qed_image *im = qed_image_new(shapes[s / SEEDS]);
		bool was_cut = true;

		leak(im);
		qed_mark(im);
		for (unsigned after = 1; was_cut; after++) {
			struct cut cut = {.after = after, .sparse = true};
			struct ox_io *io = cut_open(reactor, &cut, im->bytes, im->length);
			struct job job = {0};

			try(&job, io, OX_REPAIR_LEAKS);
			was_cut = job.error < 0;
			cut.after = 0;
			if (was_cut)
				cut_recover(io, (unsigned)(s % SEEDS));
			assert_whole(im, io, after, (unsigned)(s % SEEDS));
			run(&job, io, OX_REPAIR_LEAKS);
			assert_int_equal(job.result.leaks, 0);
			assert_false(qed_is_marked(cut_bytes(io)));
			assert_whole(im, io, after, (unsigned)(s % SEEDS));
			run(&job, io, OX_REPAIR_NONE);
			assert_int_equal(job.result.leaks, 0);
			ox_io_close(io);
		}
		qed_image_free(im);
	}
}

struct killed {
	struct ox_io *io;
	uint64_t entry; /* its place */
};

/* A program that took an entry away, and was killed before a sync. */
static void take_entry_away_co(void *arg)
{
	static const uint8_t nothing[8];
	const struct killed *k = arg;

	assert_int_equal(ox_io_pwrite_co(k->io, nothing, sizeof(nothing), k->entry, 0), 0);
}

/* After a power cut it is back, and then what it names must be as well (D4). */
static bool check_entry_back(const struct qed_image *im, unsigned after, unsigned seed)
{
	struct cut cut = {.sparse = true};
	struct killed killed = {
		.io = cut_open(reactor, &cut, im->bytes, im->length),
		.entry = im->l2[0] + 8,
	};
	struct job job = {0};

	assert_int_equal(ox_reactor_call(reactor, take_entry_away_co, &killed), 0);
	cut.changes = 0;
	cut.after = after;
	try(&job, killed.io, OX_REPAIR_LEAKS);
	cut_recover(killed.io, seed);
	if (qed_get64(cut_bytes(killed.io), killed.entry) != 0 &&
	    !reads_same(im, cut_bytes(killed.io), killed.io->length))
		fail_msg("cut %u, seed %u: an entry names a hole", after, seed);
	ox_io_close(killed.io);
	return job.error < 0;
}

static void test_what_an_entry_named_goes_after_the_entry(void **state)
{
	struct qed_image *im = qed_image_new(shapes[0]);
	bool was_cut = true;

	(void)state;
	for (unsigned after = 1; was_cut; after++) {
		for (unsigned seed = 0; seed < 2 * SEEDS; seed++)
			was_cut = check_entry_back(im, after, seed);
	}
	qed_image_free(im);
}

static int setup(void **state)
{
	(void)state;
	return ox_reactor_create(OX_ENGINE_DEFAULT, &reactor, NULL);
}

static int teardown(void **state)
{
	(void)state;
	ox_reactor_destroy(reactor);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_leaks_become_holes_and_the_file_ends_behind_what_is_in_use),
		cmocka_unit_test(test_a_hole_is_no_leak_and_a_second_repair_changes_nothing),
		cmocka_unit_test(test_a_cluster_that_is_a_hole_in_part_is_a_leak),
		cmocka_unit_test(test_a_short_end_stays_if_it_is_in_use_and_goes_if_not),
		cmocka_unit_test(test_whatever_is_behind_all_that_is_in_use_is_cut_off),
		cmocka_unit_test(test_bits_that_vouch_for_the_file_as_it_was_are_cleared),
		cmocka_unit_test(test_an_image_without_data_keeps_its_header_and_l1),
		cmocka_unit_test(test_nothing_is_given_back_while_something_is_wrong),
		cmocka_unit_test(test_what_may_be_right_stays_in_the_run_that_guessed),
		cmocka_unit_test(test_leaks_that_hold_a_lost_table_stay_until_it_is_given_up),
		cmocka_unit_test(test_a_copy_of_a_table_that_is_named_is_no_lost_one),
		cmocka_unit_test(test_a_hole_that_cannot_be_made_is_told_and_harms_nothing),
		cmocka_unit_test(test_an_error_of_the_medium_ends_the_repair),
		cmocka_unit_test(test_a_repair_that_is_cut_anywhere_is_ended_by_the_next),
		cmocka_unit_test(test_what_an_entry_named_goes_after_the_entry),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
