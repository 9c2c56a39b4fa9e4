/* SPDX-License-Identifier: MIT */
/*
 * The census of a QED image: what the engine may believe of the clusters of an image whose guest is
 * served meanwhile, and of what a crash left.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "check/check.h"
#include "cut_io.h"
#include "qed_image.h"
#include "rt/co.h"

#define PAST UINT64_C(0x7000000000)
#define AT_REST true

static struct ox_reactor *reactor;

static const struct qed_shape shapes[] = {
	{4096, 1, false},
	{4096, 16, true},
	{65536, 2, true},
};

static const struct ox_census_ops *ops(void)
{
	return ox_check_recovery.census;
}

/* ---- a census ---- */

struct job {
	struct ox_io *io;
	uint64_t end_bytes;
	bool at_rest;
	bool begun_alone; /* the walk is left */
	bool owns_second_alone;
	uint64_t table_entries;
	struct ox_census *c;
	int error;
	bool done;
	uint64_t progress_done;
	uint64_t progress_total;
};

static void note_progress(void *opaque, uint64_t done, uint64_t total)
{
	struct job *job = opaque;

	assert_true(done >= job->progress_done && done <= total);
	job->progress_done = done;
	job->progress_total = total;
}

/* All of the second table alone. */
static bool is_ours(const void *opaque, uint64_t entry)
{
	const struct job *job = opaque;

	return !job->owns_second_alone || entry >= job->table_entries;
}

static void job_co(void *arg)
{
	struct job *job = arg;
	const struct ox_census_view what = {
		.end_bytes = job->end_bytes,
		.at_rest = job->at_rest,
		.is_ours = is_ours,
		.opaque = job,
	};

	job->error = ops()->begin_co(job->io, &what, &job->c, NULL);
	if (job->error == 0 && !job->begun_alone)
		job->error = ops()->walk_co(job->c, note_progress, job);
	job->done = true;
}

static void take(struct job *job, struct ox_io *io, uint64_t end_bytes, bool at_rest)
{
	job->io = io;
	job->end_bytes = end_bytes;
	job->at_rest = at_rest;
	assert_int_equal(ox_reactor_call(reactor, job_co, job), 0);
	assert_int_equal(job->error, 0);
}

static struct ox_io *store(const struct qed_image *im, uint64_t length)
{
	struct ox_io *io;

	assert_int_equal(ox_io_memory_open(reactor, length, &io), 0);
	memcpy(ox_io_memory_bytes(io), im->bytes, length);
	return io;
}

static void assert_obstacle(const struct job *job, const char *part)
{
	const char *obstacle = ops()->obstacle(job->c);

	if (!part && obstacle)
		fail_msg("an obstacle: %s", obstacle);
	if (part && (!obstacle || !strstr(obstacle, part)))
		fail_msg("not '%s': %s", part, obstacle ? obstacle : "no obstacle");
}

static uint64_t clusters(const struct qed_image *im)
{
	return im->length / im->shape.cluster;
}

/* ---- sound images ---- */

static void test_every_cluster_of_a_clean_image_is_named_once(void **state)
{
	(void)state;
	for (size_t s = 0; s < sizeof(shapes) / sizeof(*shapes); s++) {
		struct qed_image *im = qed_image_new(shapes[s]);
		struct ox_io *io = store(im, im->length);
		struct job job = {0};
		uint64_t n = clusters(im);

		take(&job, io, im->length, AT_REST);
		assert_obstacle(&job, NULL);
		assert_int_equal(ops()->next_free(job.c, 0, n), n);
		assert_int_equal(ops()->next_stale(job.c, 0), UINT64_MAX);
		for (uint64_t c = 0; c < n; c++) {
			assert_int_equal(ops()->next_named(job.c, c, n), c);
			assert_false(ops()->is_shared(job.c, c));
		}
		/* What lies past the end is neither. */
		assert_int_equal(ops()->next_free(job.c, 0, n + 100), n + 100);
		assert_int_equal(ops()->next_named(job.c, n, n + 100), n + 100);
		assert_int_equal(job.progress_done, job.progress_total);
		assert_memory_equal(ox_io_memory_bytes(io), im->bytes, im->length);
		ops()->end(job.c);
		ox_io_close(io);
		qed_image_free(im);
	}
	ops()->end(NULL);
}

static void test_what_nothing_names_is_free(void **state)
{
	struct qed_image *im = qed_image_new(shapes[1]);
	struct ox_io *io;
	struct job job = {0};
	uint64_t third = qed_data(im, 3) / im->shape.cluster;
	uint64_t last = clusters(im) - 1;

	(void)state;
	qed_set_l2(im, 0, 3, 0);
	qed_set_l2(im, 0, 4, 1);
	qed_set_l2(im, 1, QED_DATA - QED_FIRST - 1, 0);
	io = store(im, im->length);
	take(&job, io, im->length, !AT_REST);
	assert_obstacle(&job, NULL);
	assert_int_equal(ops()->next_free(job.c, 0, last + 1), third);
	assert_int_equal(ops()->next_free(job.c, third + 1, last + 1), third + 1);
	assert_int_equal(ops()->next_free(job.c, third + 2, last + 1), last);
	assert_int_equal(ops()->next_free(job.c, third + 2, last), last);
	assert_int_equal(ops()->next_named(job.c, third, last + 1), third + 2);
	assert_int_equal(ops()->next_named(job.c, last, last + 1), last + 1);
	ops()->end(job.c);
	ox_io_close(io);
	qed_image_free(im);
}

/* It is sound while something names it, and nothing to be used while nothing does. */
static void test_a_short_last_cluster_is_no_obstacle_and_never_free(void **state)
{
	(void)state;
	for (unsigned named = 0; named < 2; named++) {
		struct qed_image *im = qed_image_new(shapes[0]);
		struct job job = {0};
		struct ox_io *io;
		uint64_t last = clusters(im) - 1;

		if (!named)
			qed_set_l2(im, 1, QED_DATA - QED_FIRST - 1, 0);
		io = store(im, im->length - 512);
		take(&job, io, im->length - 512, AT_REST);
		assert_obstacle(&job, NULL);
		assert_int_equal(ops()->next_free(job.c, 0, last + 1), last + 1);
		assert_int_equal(ops()->next_named(job.c, last, last + 1), last + !named);
		assert_int_equal(ops()->next_stale(job.c, 0), UINT64_MAX);
		ops()->end(job.c);
		ox_io_close(io);
		qed_image_free(im);
	}
}

/* ---- damage ---- */

struct damage {
	void (*make)(struct qed_image *im);
	const char *obstacle;
	uint64_t (*shared)(const struct qed_image *im); /* an offset; NULL: nothing is */
};

static uint64_t at_data_0(const struct qed_image *im)
{
	return qed_data(im, 0);
}

static uint64_t at_l1(const struct qed_image *im)
{
	return im->l1;
}

static uint64_t at_table_0(const struct qed_image *im)
{
	return im->l2[0];
}

static void damage_cross_link(struct qed_image *im)
{
	qed_set_l2(im, 1, 0, qed_data(im, 0));
}

static void damage_cross_link_l2(struct qed_image *im)
{
	qed_set_l1(im, 1, im->l2[0]);
}

static void damage_data_on_l1(struct qed_image *im)
{
	qed_set_l2(im, 0, 2, im->l1);
}

static void damage_data_on_table(struct qed_image *im)
{
	qed_set_l2(im, 1, 0, im->l2[0]);
}

static void damage_unaligned(struct qed_image *im)
{
	qed_set_l2(im, 0, 2, qed_data(im, 2) + 512);
}

static void damage_in_header(struct qed_image *im)
{
	qed_set_l2(im, 0, 2, 8);
}

static void damage_l1_unaligned(struct qed_image *im)
{
	qed_set_l1(im, 1, im->l2[1] + 1);
}

static void damage_size(struct qed_image *im)
{
	qed_put64(im->bytes, 48, 1);
}

static void damage_feature(struct qed_image *im)
{
	im->bytes[17] |= 1;
}

static void damage_l1_place(struct qed_image *im)
{
	qed_put64(im->bytes, 40, 1);
}

static const struct damage damages[] = {
	{damage_cross_link, "is named more than once", at_data_0},
	{damage_cross_link_l2, "is named by L1 entries 0 and 1", at_table_0},
	{damage_cross_link_l2, "is named by L1 entries 0 and 1", at_data_0},
	{damage_data_on_l1, "overlaps other metadata", at_l1},
	{damage_data_on_table, "overlaps other metadata", at_table_0},
	{damage_unaligned, "is not where a cluster can be", NULL},
	{damage_in_header, "is not where a cluster can be", NULL},
	{damage_l1_unaligned, "is not where a table can be", NULL},
	{damage_size, "no multiple of 512", NULL},
	{damage_feature, "unknown incompatible feature bits", NULL},
	{damage_l1_place, "L1 table is nowhere", NULL},
};

static void check_damage(const struct damage *d, const struct qed_shape *shape, bool at_rest)
{
	struct qed_image *im = qed_image_new(*shape);
	struct job job = {0};
	struct ox_io *io;

	if (at_rest)
		qed_mark(im);
	d->make(im);
	io = store(im, im->length);
	take(&job, io, im->length, at_rest);
	assert_obstacle(&job, d->obstacle);
	if (d->shared)
		assert_true(ops()->is_shared(job.c, d->shared(im) / im->shape.cluster));
	assert_false(ops()->is_shared(job.c, qed_data(im, 5) / im->shape.cluster) &&
		     d->make != damage_cross_link_l2);
	assert_memory_equal(ox_io_memory_bytes(io), im->bytes, im->length);
	ops()->end(job.c);
	ox_io_close(io);
	qed_image_free(im);
}

static void test_damage_is_an_obstacle_and_stays_as_it_is(void **state)
{
	(void)state;
	for (size_t d = 0; d < sizeof(damages) / sizeof(*damages); d++) {
		for (size_t s = 0; s < sizeof(shapes) / sizeof(*shapes); s++) {
			check_damage(&damages[d], &shapes[s], AT_REST);
			check_damage(&damages[d], &shapes[s], !AT_REST);
		}
	}
}

static void test_a_backing_file_that_is_not_there_is_no_obstacle(void **state)
{
	struct qed_image *im = qed_image_new(shapes[1]);
	struct job job = {0};
	struct ox_io *io;

	(void)state;
	memcpy(im->bytes + 64, "/nowhere/", 9);
	io = store(im, im->length);
	take(&job, io, im->length, AT_REST);
	assert_obstacle(&job, NULL);
	ops()->end(job.c);
	ox_io_close(io);
	qed_image_free(im);
}

/* A store that fails to read what lies there. */
static uint64_t bad_offset;
static struct ox_io_ops bad_ops;
static const struct ox_io_ops *sound_ops;

static int64_t bad_preadv_co(struct ox_io *io, const struct iovec *iov, int n, uint64_t offset)
{
	uint64_t length = 0;

	for (int i = 0; i < n; i++)
		length += iov[i].iov_len;
	if (bad_offset >= offset && bad_offset < offset + length)
		return -EIO;
	return sound_ops->preadv_co(io, iov, n, offset);
}

static void test_a_table_that_cannot_be_read_is_an_obstacle(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		struct qed_image *im = qed_image_new(shapes[1]);
		struct ox_io *io = store(im, im->length);
		struct job job = {0};

		bad_offset = i == 0 ? im->l2[1] + 8 : im->l1 + 8;
		sound_ops = io->ops;
		bad_ops = *sound_ops;
		bad_ops.preadv_co = bad_preadv_co;
		io->ops = &bad_ops;
		take(&job, io, im->length, AT_REST);
		assert_obstacle(&job, "cannot be read");
		assert_false(ops()->knows_stale(job.c)); /* an entry past the end may be there */
		io->ops = sound_ops;
		ops()->end(job.c);
		ox_io_close(io);
		qed_image_free(im);
	}
}

static void test_a_header_that_cannot_be_read_ends_it(void **state)
{
	struct qed_image *im = qed_image_new(shapes[0]);
	struct ox_io *io = store(im, im->length);
	struct job job = {.io = io, .end_bytes = im->length};

	(void)state;
	ox_io_memory_bytes(io)[0] = 0;
	assert_int_equal(ox_reactor_call(reactor, job_co, &job), 0);
	assert_int_equal(job.error, -EINVAL);
	assert_null(job.c);
	ox_io_close(io);
	qed_image_free(im);
}

/* ---- entries past the end ---- */

static void test_stale_entries_of_l1_are_dropped_durably(void **state)
{
	(void)state;
	for (size_t s = 0; s < sizeof(shapes) / sizeof(*shapes); s++) {
		struct qed_image *im = qed_image_new(shapes[s]);
		struct job job = {.begun_alone = true};
		struct cut cut = {0};
		struct ox_io *io;

		qed_mark(im);
		qed_set_l1(im, 2, PAST);
		/* The end of a table past the end is no more than its beginning. */
		qed_set_l1(im, 5, im->length - im->shape.cluster * (im->shape.table_clusters - 1));
		io = cut_open(reactor, &cut, im->bytes, im->length);
		take(&job, io, im->length, AT_REST);
		assert_obstacle(&job, NULL);
		assert_true(ops()->knows_stale(job.c));
		qed_set_l1(im, 2, 0);
		qed_set_l1(im, 5, 0);
		assert_memory_equal(cut_bytes(io), im->bytes, im->length);
		assert_false(cut_is_unsynced(io));
		assert_int_equal(cut.syncs, 1);
		assert_true(qed_is_marked(cut_bytes(io)));
		ops()->end(job.c);
		ox_io_close(io);
		qed_image_free(im);
	}
}

static void test_stale_entries_of_l1_stay_where_something_else_is_wrong(void **state)
{
	struct qed_image *im = qed_image_new(shapes[1]);
	struct job job = {0};
	struct ox_io *io;

	(void)state;
	qed_mark(im);
	qed_set_l1(im, 2, PAST);
	qed_set_l1(im, 3, im->l2[0] + 512);
	io = store(im, im->length);
	take(&job, io, im->length, AT_REST);
	assert_obstacle(&job, "is not where a table can be");
	assert_false(ops()->knows_stale(job.c));
	assert_memory_equal(ox_io_memory_bytes(io), im->bytes, im->length);
	ops()->end(job.c);
	ox_io_close(io);
	qed_image_free(im);
}

static void test_stale_entries_of_l2_are_noted_by_table(void **state)
{
	(void)state;
	for (size_t s = 0; s < sizeof(shapes) / sizeof(*shapes); s++) {
		struct qed_image *im = qed_image_new(shapes[s]);
		struct job job = {0};
		struct ox_io *io;

		/* The tables change places, so that the order of L1 is not theirs in the file. */
		qed_set_l1(im, 0, im->l2[1]);
		qed_set_l1(im, 1, im->l2[0]);
		qed_mark(im);
		qed_set_l2(im, 0, 1, PAST);
		qed_set_l2(im, 0, im->entries - 1, im->length);
		qed_set_l2(im, 1, 0, PAST + im->shape.cluster);
		io = store(im, im->length);
		take(&job, io, im->length, AT_REST);
		assert_obstacle(&job, NULL);
		assert_int_equal(ops()->next_stale(job.c, 0), im->l2[0]);
		assert_int_equal(ops()->next_stale(job.c, im->l2[0]), im->l2[0]);
		assert_int_equal(ops()->next_stale(job.c, im->l2[0] + 1), im->l2[1]);
		assert_int_equal(ops()->next_stale(job.c, im->l2[1] + 1), UINT64_MAX);
		/* What they named before is free. */
		assert_int_equal(ops()->next_free(job.c, 0, clusters(im)),
				 qed_data(im, 1) / im->shape.cluster);
		assert_memory_equal(ox_io_memory_bytes(io), im->bytes, im->length);
		ops()->end(job.c);
		ox_io_close(io);
		qed_image_free(im);
	}
}

/* The guest beside has made the file longer, and has set entries and the mark. */
static void test_beside_a_guest_what_lies_past_the_end_is_passed_over(void **state)
{
	(void)state;
	for (size_t s = 0; s < sizeof(shapes) / sizeof(*shapes); s++) {
		struct qed_image *im = qed_image_new(shapes[s]);
		uint64_t longer = im->length + 40 * (uint64_t)im->shape.cluster;
		struct job job = {0};
		struct ox_io *io;

		qed_mark(im);
		qed_set_l1(im, 2, im->length);
		/* Twice, as no guest does it: nobody looks. */
		qed_set_l2(im, 0, 9, im->length + im->table_bytes);
		qed_set_l2(im, 1, 9, im->length + im->table_bytes);
		qed_set_l2(im, 1, 10, longer);
		qed_put64(im->bytes, im->length, 0x77);
		io = store(im, longer);
		take(&job, io, im->length, !AT_REST);
		assert_obstacle(&job, NULL);
		assert_int_equal(ops()->next_stale(job.c, 0), UINT64_MAX);
		assert_int_equal(ops()->next_free(job.c, 0, longer / im->shape.cluster),
				 longer / im->shape.cluster);
		assert_memory_equal(ox_io_memory_bytes(io), im->bytes, longer);
		ops()->end(job.c);
		ox_io_close(io);
		qed_image_free(im);
	}
}

/* No guest has set that one: it would begin at the end, or past it. */
static void test_beside_a_guest_a_table_across_the_end_is_an_obstacle(void **state)
{
	struct qed_image *im = qed_image_new(shapes[1]);
	struct job job = {0};
	struct ox_io *io;

	(void)state;
	qed_set_l2(im, 1, QED_DATA - QED_FIRST - 1, 0);
	qed_set_l1(im, 2, im->length - im->shape.cluster);
	/* The guest's, not a crash's. */
	qed_mark(im);
	io = store(im, im->room);
	take(&job, io, im->length, !AT_REST);
	assert_obstacle(&job, "exceeding the end");
	ops()->end(job.c);
	ox_io_close(io);
	qed_image_free(im);
}

/* ---- the guest's turns ---- */

struct guest {
	const struct job *job;
	unsigned turns;
};

static void guest_co(void *arg)
{
	struct guest *guest = arg;

	while (!guest->job->done) {
		guest->turns++;
		ox_co_yield_co();
	}
}

static void test_the_walk_lets_others_run_after_each_piece(void **state)
{
	struct qed_image *im = qed_image_new((struct qed_shape){65536, 16, false});
	struct ox_io *io = store(im, im->length);
	struct job job = {.io = io, .end_bytes = im->length};
	struct guest guest = {.job = &job};

	(void)state;
	assert_int_equal(ox_co_spawn(reactor, guest_co, &guest), 0);
	assert_int_equal(ox_reactor_call(reactor, job_co, &job), 0);
	assert_int_equal(job.error, 0);
	assert_obstacle(&job, NULL);
	/* L1 and two tables, of 16 pieces each. */
	assert_int_equal(job.progress_total, 48);
	assert_true(guest.turns >= 48);
	assert_int_equal(ox_reactor_run(reactor, false), 0);
	ops()->end(job.c);
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
		cmocka_unit_test(test_every_cluster_of_a_clean_image_is_named_once),
		cmocka_unit_test(test_what_nothing_names_is_free),
		cmocka_unit_test(test_a_short_last_cluster_is_no_obstacle_and_never_free),
		cmocka_unit_test(test_damage_is_an_obstacle_and_stays_as_it_is),
		cmocka_unit_test(test_a_backing_file_that_is_not_there_is_no_obstacle),
		cmocka_unit_test(test_a_table_that_cannot_be_read_is_an_obstacle),
		cmocka_unit_test(test_a_header_that_cannot_be_read_ends_it),
		cmocka_unit_test(test_stale_entries_of_l1_are_dropped_durably),
		cmocka_unit_test(test_stale_entries_of_l1_stay_where_something_else_is_wrong),
		cmocka_unit_test(test_stale_entries_of_l2_are_noted_by_table),
		cmocka_unit_test(test_beside_a_guest_what_lies_past_the_end_is_passed_over),
		cmocka_unit_test(test_beside_a_guest_a_table_across_the_end_is_an_obstacle),
		cmocka_unit_test(test_the_walk_lets_others_run_after_each_piece),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
