/* SPDX-License-Identifier: MIT */
/*
 * QED images that claim what is not so: nothing crashes, what is not understood is not written, and
 * neither memory nor copies grow with a claim.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include <cmocka.h>

#include "base/arith.h"
#include "check/check.h"
#include "check/undo/edit.h"
#include "qed_image.h"

#define SMALL ((struct qed_shape){4096, 1, false})
#define WIDE ((struct qed_shape){4096, 16, false})
#define BACKED ((struct qed_shape){4096, 1, true})

static struct ox_reactor *reactor;

struct job {
	struct ox_io *io;
	struct ox_check_options opts;
	struct ox_check_result result;
	int error;
};

static void job_co(void *arg)
{
	struct job *job = arg;

	job->error = ox_check_qed_co(job->io, &job->opts, &job->result, NULL);
}

static struct job run(struct ox_io *io, enum ox_repair repair, bool dry_run)
{
	struct job job = {.io = io, .opts = OX_CHECK_OPTIONS_INIT};

	job.opts.repair = repair;
	job.opts.dry_run = dry_run;
	assert_int_equal(ox_reactor_call(reactor, job_co, &job), 0);
	return job;
}

static struct ox_io *store(const struct qed_image *im)
{
	struct ox_io *io;

	assert_int_equal(ox_io_memory_open(reactor, im->length, &io), 0);
	if (im->length > 0)
		memcpy(ox_io_memory_bytes(io), im->bytes, im->length);
	return io;
}

static void check_untouched(struct ox_io *io, const struct qed_image *im)
{
	assert_int_equal(io->length, im->length);
	assert_memory_equal(ox_io_memory_bytes(io), im->bytes, im->length);
}

/* ---- headers ---- */

struct field {
	uint64_t at;
	uint64_t value;
	bool is_word; /* 64 bits */
	bool is_refused;
};

static const struct field fields[] = {
	{4, 0, false, true},
	{4, 2048, false, true},
	{4, 4097, false, true},
	{4, UINT32_C(128) << 20, false, true},
	{4, UINT32_C(64) << 20, false, false},
	{8, 0, false, true},
	{8, 3, false, true},
	{8, 32, false, true},
	{8, UINT32_MAX, false, true},
	{12, 0, false, false},
	{12, 1000, false, false},
	{12, UINT32_MAX, false, false},
	{16, UINT64_MAX, true, false},
	{40, 0, true, false},
	{40, 8, true, false},
	{40, UINT64_C(1) << 40, true, false},
	{40, UINT64_MAX, true, false},
	{40, UINT64_MAX - 4095, true, false},
	{40, (UINT64_C(1) << 63) - 4096, true, false},
	{48, 511, true, false},
	{48, UINT64_MAX, true, false},
	{48, UINT64_MAX - 511, true, false},
	{56, UINT32_MAX, false, false},
	{60, UINT32_MAX, false, false},
	{60, 1024, false, false},
};

static void test_a_header_that_claims_too_much_is_refused_or_told_and_never_written(void **state)
{
	(void)state;
	for (size_t i = 0; i < OX_ARRAY_SIZE(fields); i++) {
		struct qed_image *im = qed_image_new(BACKED);
		struct ox_io *io;
		struct job job;

		if (fields[i].is_word)
			qed_put64(im->bytes, fields[i].at, fields[i].value);
		else
			qed_put32(im->bytes, fields[i].at, (uint32_t)fields[i].value);
		qed_mark(im);
		io = store(im);
		job = run(io, OX_REPAIR_ALL, false);
		assert_int_equal(job.error, fields[i].is_refused ? -EINVAL : 0);
		if (!fields[i].is_refused)
			assert_true(job.result.corruptions + job.result.check_errors > 0);
		check_untouched(io, im);
		ox_io_close(io);
		qed_image_free(im);
	}
}

static void test_an_image_of_the_largest_tables_in_a_tiny_file_takes_no_memory(void **state)
{
	struct qed_image *im = qed_image_new(SMALL);
	struct rusage before;
	struct rusage after;
	struct ox_io *io;
	struct job job;

	(void)state;
	qed_put32(im->bytes, 4, UINT32_C(64) << 20);
	qed_put32(im->bytes, 8, 16);
	for (uint64_t l1 = 0; l1 <= UINT64_C(1) << 30; l1 += UINT64_C(64) << 20) {
		qed_put64(im->bytes, 40, l1);
		io = store(im);
		assert_int_equal(getrusage(RUSAGE_SELF, &before), 0);
		job = run(io, OX_REPAIR_ALL, false);
		assert_int_equal(getrusage(RUSAGE_SELF, &after), 0);
		assert_int_equal(job.error, 0);
		assert_true(job.result.corruptions > 0);
		assert_true(after.ru_maxrss - before.ru_maxrss < 16 << 10);
		ox_io_close(io);
	}
	qed_image_free(im);
}

static void test_a_file_shorter_than_a_header_is_refused(void **state)
{
	struct qed_image *im = qed_image_new(SMALL);

	(void)state;
	for (im->length = 0; im->length < 5000; im->length += 63) {
		struct ox_io *io = store(im);
		struct job job = run(io, OX_REPAIR_ALL, false);

		assert_true(job.error < 0 || job.result.corruptions > 0);
		check_untouched(io, im);
		ox_io_close(io);
	}
	qed_image_free(im);
}

static void test_unknown_features_keep_everything_from_being_written(void **state)
{
	struct qed_image *im = qed_image_new(SMALL);
	struct ox_io *io;
	struct job job;

	(void)state;
	qed_mark(im);
	im->bytes[17] = 1;
	io = store(im);
	job = run(io, OX_REPAIR_ALL, false);
	assert_true(job.result.check_errors > 0);
	check_untouched(io, im);
	ox_io_close(io);
	qed_set_l2(im, 0, 2, 77);
	io = store(im);
	run(io, OX_REPAIR_ALL, false);
	check_untouched(io, im);
	ox_io_close(io);
	qed_image_free(im);
}

static void test_autoclear_bits_go_where_something_is_mended(void **state)
{
	(void)state;
	for (unsigned damaged = 0; damaged < 2; damaged++) {
		struct qed_image *im = qed_image_new(SMALL);
		struct ox_io *io;

		im->bytes[32] = 5;
		if (damaged)
			qed_set_l2(im, 0, 2, 77);
		io = store(im);
		run(io, OX_REPAIR_ALL, false);
		assert_int_equal(ox_io_memory_bytes(io)[32], damaged ? 0 : 5);
		if (!damaged)
			check_untouched(io, im);
		ox_io_close(io);
		qed_image_free(im);
	}
}

/* ---- copies ---- */

static void test_every_entry_on_one_cluster_gets_its_copy(void **state)
{
	struct qed_image *im = qed_image_new(SMALL);
	struct ox_io *io;
	struct job job;

	(void)state;
	for (uint64_t i = 0; i < im->entries; i++)
		qed_set_l2(im, 0, i, qed_data(im, 0));
	io = store(im);
	job = run(io, OX_REPAIR_ALL, false);
	assert_int_equal(job.result.corruptions, 0);
	assert_int_equal(io->length, im->length + (im->entries - 1) * im->shape.cluster);
	assert_int_equal(qed_problems(im, ox_io_memory_bytes(io), io->length), 0);
	for (uint64_t i = 0; i < im->entries; i++) {
		uint64_t at;

		assert_int_equal(qed_read(im, ox_io_memory_bytes(io), io->length, 0, i, &at),
				 QED_BYTES);
		assert_memory_equal(ox_io_memory_bytes(io) + at, im->bytes + im->data,
				    im->shape.cluster);
	}
	ox_io_close(io);
	qed_image_free(im);
}

/* What would need more copies than the file has clusters is told, and left as it is. */
static void check_left(struct qed_image *im)
{
	struct ox_io *io;
	struct job job;

	qed_mark(im);
	io = store(im);
	job = run(io, OX_REPAIR_ALL, false);
	assert_int_equal(job.error, 0);
	assert_true(job.result.corruptions > 0);
	assert_int_equal(job.result.corruptions_fixed, 0);
	check_untouched(io, im);
	ox_io_close(io);
	qed_image_free(im);
}

static void test_copies_are_bounded(void **state)
{
	struct qed_image *im = qed_image_new(WIDE);

	(void)state;
	for (uint64_t i = 0; i < im->entries; i++)
		qed_set_l2(im, 0, i, qed_data(im, 0));
	check_left(im);
	im = qed_image_new(SMALL);
	for (uint64_t i = 0; i < im->entries; i++)
		qed_set_l1(im, i, im->l2[0]);
	for (uint64_t i = 0; i < im->entries; i++)
		qed_set_l2(im, 0, i, qed_data(im, 0));
	check_left(im);
	im = qed_image_new(WIDE);
	for (uint64_t i = 0; i < im->entries; i++)
		qed_set_l1(im, i, im->l2[0]);
	check_left(im);
}

static void test_copies_of_large_clusters_are_bounded_in_bytes(void **state)
{
	struct qed_image *im = qed_image_new((struct qed_shape){4 << 20, 1, false});

	(void)state;
	for (uint64_t i = 0; i < 600; i++)
		qed_set_l2(im, 0, i, qed_data(im, 0));
	check_left(im);
}

static void test_a_store_that_cannot_grow_keeps_what_needs_room(void **state)
{
	struct qed_image *im = qed_image_new(SMALL);
	struct ox_io *io;
	struct job job;
	uint64_t at;

	(void)state;
	qed_mark(im);
	qed_set_l2(im, 1, 0, qed_data(im, 0));
	qed_set_l2(im, 0, 2, 77);
	io = store(im);
	io->can_grow = false;
	job = run(io, OX_REPAIR_ALL, false);
	assert_int_equal(job.error, 0);
	assert_int_equal(job.result.corruptions, 1);
	assert_int_equal(job.result.corruptions_fixed, 1);
	assert_int_equal(io->length, im->length);
	assert_true(qed_is_marked(ox_io_memory_bytes(io)));
	assert_int_equal(qed_read(im, ox_io_memory_bytes(io), io->length, 0, 2, &at), QED_ZEROES);
	ox_io_close(io);
	qed_image_free(im);
}

/* ---- tables on tables ---- */

static void test_a_table_that_another_one_crosses_is_not_written(void **state)
{
	struct qed_image *im = qed_image_new(WIDE);
	struct ox_io *io;
	struct job job;

	(void)state;
	qed_mark(im);
	qed_set_l2(im, 0, 2, 77);
	qed_set_l2(im, 0, 3, qed_data(im, 0));
	qed_set_l1(im, 5, im->l2[0] + im->shape.cluster);
	io = store(im);
	job = run(io, OX_REPAIR_ALL, false);
	assert_int_equal(job.error, 0);
	assert_true(job.result.corruptions >= 3);
	assert_memory_equal(ox_io_memory_bytes(io) + im->l2[0], im->bytes + im->l2[0],
			    im->table_bytes);
	assert_true(qed_is_marked(ox_io_memory_bytes(io)));
	ox_io_close(io);
	qed_image_free(im);
}

static void test_guest_data_that_l1_takes_for_a_table_are_kept(void **state)
{
	struct qed_image *im = qed_image_new(SMALL);
	uint8_t *data = malloc(im->shape.cluster);
	struct ox_io *io;
	struct job job;
	uint64_t at;

	(void)state;
	assert_non_null(data);
	memcpy(data, im->bytes + qed_data(im, 1), im->shape.cluster);
	qed_set_l1(im, 2, qed_data(im, 1));
	io = store(im);
	job = run(io, OX_REPAIR_ALL, false);
	assert_int_equal(job.result.corruptions, 0);
	assert_int_equal(qed_read(im, ox_io_memory_bytes(io), io->length, 0, 1, &at), QED_BYTES);
	assert_memory_equal(ox_io_memory_bytes(io) + at, data, im->shape.cluster);
	ox_io_close(io);
	free(data);
	qed_image_free(im);
}

/* ---- dry runs ---- */

static void test_a_dry_run_tells_the_outcome_and_writes_nothing(void **state)
{
	struct qed_image *im = qed_image_new(SMALL);
	struct ox_io *edit;
	struct ox_io *io;
	struct job job;

	(void)state;
	qed_mark(im);
	qed_set_l2(im, 1, 0, qed_data(im, 0));
	qed_set_l2(im, 0, 2, 77);
	qed_set_l1(im, 3, im->l2[1]);
	io = store(im);
	assert_int_equal(ox_edit_open(io, NULL, &edit), 0);
	job = run(edit, OX_REPAIR_ALL, true);
	assert_int_equal(job.error, 0);
	assert_int_equal(job.result.corruptions, 0);
	assert_true(job.result.corruptions_fixed >= 3);
	ox_io_close(edit);
	check_untouched(io, im);
	ox_io_close(io);
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
		cmocka_unit_test(
			test_a_header_that_claims_too_much_is_refused_or_told_and_never_written),
		cmocka_unit_test(
			test_an_image_of_the_largest_tables_in_a_tiny_file_takes_no_memory),
		cmocka_unit_test(test_a_file_shorter_than_a_header_is_refused),
		cmocka_unit_test(test_unknown_features_keep_everything_from_being_written),
		cmocka_unit_test(test_autoclear_bits_go_where_something_is_mended),
		cmocka_unit_test(test_every_entry_on_one_cluster_gets_its_copy),
		cmocka_unit_test(test_copies_are_bounded),
		cmocka_unit_test(test_copies_of_large_clusters_are_bounded_in_bytes),
		cmocka_unit_test(test_a_store_that_cannot_grow_keeps_what_needs_room),
		cmocka_unit_test(test_a_table_that_another_one_crosses_is_not_written),
		cmocka_unit_test(test_guest_data_that_l1_takes_for_a_table_are_kept),
		cmocka_unit_test(test_a_dry_run_tells_the_outcome_and_writes_nothing),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
