/* SPDX-License-Identifier: MIT */
/*
 * Neighbouring clusters of which the same is said are told in one finding, where they are more than
 * 16; and what is counted stays clusters.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "check/check.h"
#include "damaged.h"
#include "io/io.h"

#define FIRST UINT64_C(20) /* of the clusters that leak */
#define MAX_FINDINGS 64

static struct ox_reactor *reactor;

struct told {
	char text[MAX_FINDINGS][96];
	uint64_t host_offset[MAX_FINDINGS];
	uint64_t host_length[MAX_FINDINGS];
	unsigned count;
};

struct job {
	struct ox_io *io;
	struct ox_check_options opts;
	struct ox_check_result result;
	struct told told;
	int error;
};

static void take_finding(void *opaque, const struct ox_finding *finding)
{
	struct told *told = opaque;
	unsigned at = told->count++;

	assert_true(at < MAX_FINDINGS);
	snprintf(told->text[at], sizeof(told->text[at]), "%s", finding->message);
	told->host_offset[at] = finding->host_offset;
	told->host_length[at] = finding->host_length;
}

static void job_co(void *arg)
{
	struct job *job = arg;

	job->opts.finding = take_finding;
	job->opts.opaque = &job->told;
	job->error = ox_check_qcow2_co(job->io, &job->opts, &job->result, NULL);
}

static struct job run(const struct image *im, enum ox_repair repair)
{
	struct job job = {.opts = OX_CHECK_OPTIONS_INIT};

	job.opts.repair = repair;
	assert_int_equal(ox_io_memory_open(reactor, im->length, &job.io), 0);
	memcpy(ox_io_memory_bytes(job.io), im->bytes, im->length);
	assert_int_equal(ox_reactor_call(reactor, job_co, &job), 0);
	assert_int_equal(job.error, 0);
	ox_io_close(job.io);
	return job;
}

static struct image *leaking_image(uint64_t count)
{
	struct image *im = new_image(4);

	set_length(im, FIRST + count + 1);
	for (uint64_t c = FIRST; c < FIRST + count; c++)
		set_refcount(im, c, 1);
	return im;
}

static void assert_told(const struct job *job, unsigned index, const char *text, uint64_t cluster,
			uint64_t clusters)
{
	assert_true(index < job->told.count);
	assert_string_equal(job->told.text[index], text);
	assert_int_equal(job->told.host_offset[index], cluster * CLUSTER);
	assert_int_equal(job->told.host_length[index], clusters * CLUSTER);
}

/* ---- tests ---- */

static void seventeen_neighbours_are_one_finding(void **state)
{
	struct image *im = leaking_image(17);
	struct job job = run(im, OX_REPAIR_NONE);

	(void)state;
	assert_int_equal(job.told.count, 1);
	assert_told(&job, 0, "Leaked clusters 20-36 refcount=1 reference=0", 20, 17);
	assert_int_equal(job.result.leaks, 17);
	job = run(im, OX_REPAIR_LEAKS);
	assert_int_equal(job.told.count, 1);
	assert_told(&job, 0, "Repairing clusters 20-36 refcount=1 reference=0", 20, 17);
	assert_int_equal(job.result.leaks_fixed, 17);
	assert_int_equal(job.result.leaks, 0);
	free(im);
}

static void sixteen_neighbours_are_told_one_by_one(void **state)
{
	struct image *im = leaking_image(16);
	struct job job = run(im, OX_REPAIR_NONE);

	(void)state;
	assert_int_equal(job.told.count, 16);
	assert_told(&job, 0, "Leaked cluster 20 refcount=1 reference=0", 20, 1);
	assert_told(&job, 15, "Leaked cluster 35 refcount=1 reference=0", 35, 1);
	job = run(im, OX_REPAIR_ALL);
	assert_int_equal(job.told.count, 16);
	assert_told(&job, 15, "Repairing cluster 35 refcount=1 reference=0", 35, 1);
	free(im);
}

static void a_run_ends_where_the_count_differs(void **state)
{
	struct image *im = leaking_image(40);
	struct job job;

	(void)state;
	set_refcount(im, FIRST + 20, 3);
	job = run(im, OX_REPAIR_NONE);
	assert_int_equal(job.told.count, 3);
	assert_told(&job, 0, "Leaked clusters 20-39 refcount=1 reference=0", 20, 20);
	assert_told(&job, 1, "Leaked cluster 40 refcount=3 reference=0", 40, 1);
	assert_told(&job, 2, "Leaked clusters 41-59 refcount=1 reference=0", 41, 19);
	assert_int_equal(job.result.leaks, 40);
	free(im);
}

static void a_run_ends_where_a_cluster_is_right(void **state)
{
	struct image *im = leaking_image(30);
	struct job job;

	(void)state;
	set_refcount(im, FIRST + 10, 0);
	job = run(im, OX_REPAIR_NONE);
	assert_int_equal(job.told.count, 10 + 1);
	assert_told(&job, 9, "Leaked cluster 29 refcount=1 reference=0", 29, 1);
	assert_told(&job, 10, "Leaked clusters 31-49 refcount=1 reference=0", 31, 19);
	free(im);
}

/* 64-bit counts: a block counts 64 clusters. */
static void a_run_goes_on_in_the_next_refcount_block(void **state)
{
	struct image *im = new_image(6);
	struct job job;

	(void)state;
	set_length(im, 110);
	set_word(im, REFTABLE, 1, END * CLUSTER);
	set_refcount(im, END, 1);
	for (uint64_t c = 50; c < 64; c++)
		set_refcount(im, c, 1);
	for (uint64_t c = 64; c < 80; c++)
		set_word(im, END, c - 64, 1);
	job = run(im, OX_REPAIR_NONE);
	assert_int_equal(job.told.count, 1);
	assert_told(&job, 0, "Leaked clusters 50-79 refcount=1 reference=0", 50, 30);
	job = run(im, OX_REPAIR_ALL);
	assert_told(&job, 0, "Repairing clusters 50-79 refcount=1 reference=0", 50, 30);
	assert_int_equal(job.result.leaks_fixed, 30);
	free(im);
}

static struct image *uncounted_image(bool has_block)
{
	struct image *im = new_image(4);

	set_length(im, FIRST + 40);
	for (uint64_t i = 0; i < 40; i++)
		set_word(im, L2, 10 + i, COPIED | (FIRST + i) * CLUSTER);
	if (!has_block) {
		set_word(im, REFTABLE, 0, 0);
		memset(im->bytes + REFBLOCK * CLUSTER, 0, CLUSTER);
	}
	return im;
}

static void counts_that_are_too_low_are_told_alike(void **state)
{
	struct image *im = uncounted_image(true);
	struct job job = run(im, OX_REPAIR_NONE);

	(void)state;
	assert_told(&job, 0, "ERROR clusters 20-59 refcount=0 reference=1", 20, 40);
	assert_true(job.result.corruptions >= 40);
	job = run(im, OX_REPAIR_ALL);
	assert_told(&job, 0, "Repairing clusters 20-59 refcount=0 reference=1", 20, 40);
	assert_int_equal(job.result.corruptions, 0);
	free(im);
}

static void so_are_those_of_blocks_that_are_made_anew(void **state)
{
	struct image *im = uncounted_image(false);
	struct job job = run(im, OX_REPAIR_ALL);
	bool found = false;

	(void)state;
	for (unsigned i = 0; i < job.told.count; i++)
		found |= strcmp(job.told.text[i],
				"Repairing clusters 20-59 refcount=0 reference=1") == 0;
	assert_true(found);
	assert_int_equal(job.result.corruptions, 0);
	free(im);
}

/* A snapshot shares the table and all that it names, and counts are of a bit. */
static void clusters_that_overflow_are_told_with_the_guest_range(void **state)
{
	struct image *im = new_image(0);
	struct job job;

	(void)state;
	add_snapshot(im);
	set_length(im, FIRST + 30);
	for (uint64_t i = 0; i < 30; i++) {
		set_word(im, L2, 10 + i, (FIRST + i) * CLUSTER);
		set_refcount(im, FIRST + i, 1);
	}
	job = run(im, OX_REPAIR_NONE);
	assert_told(&job, job.told.count - 1,
		    "ERROR clusters 20-49 reference=2, and a refcount can be 1 at most", 20, 30);
	assert_int_equal(job.result.corruptions, 1 + END - DATA + 30);
	free(im);
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
		cmocka_unit_test(seventeen_neighbours_are_one_finding),
		cmocka_unit_test(sixteen_neighbours_are_told_one_by_one),
		cmocka_unit_test(a_run_ends_where_the_count_differs),
		cmocka_unit_test(a_run_ends_where_a_cluster_is_right),
		cmocka_unit_test(a_run_goes_on_in_the_next_refcount_block),
		cmocka_unit_test(counts_that_are_too_low_are_told_alike),
		cmocka_unit_test(so_are_those_of_blocks_that_are_made_anew),
		cmocka_unit_test(clusters_that_overflow_are_told_with_the_guest_range),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
