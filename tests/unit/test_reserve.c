/* SPDX-License-Identifier: MIT */
/*
 * How much lies in the reserve, which a crash leaks: no more than the guest's demand asks for, and
 * nothing once it is idle. And what that costs in syncs. Time is simulated.
 */
#include "task_test.h"

#include <stdlib.h>
#include <string.h>

#include "img/img.h"
#include "img/qcow2/qcow2.h"

#define CLUSTER 4096u
#define DISK (UINT64_C(1) << 30)
#define SECOND UINT64_C(1000000000)
#define FEW 8u /* clusters */

static struct ox_io *store;
static struct ox_image *image;
static struct ox_qcow2 *q;
static uint64_t next; /* guest offset that has no place yet */

static int setup(void **state)
{
	(void)state;
	return ox_reactor_create_simulated(1, &reactor);
}

static int teardown(void **state)
{
	(void)state;
	ox_reactor_destroy(reactor);
	return 0;
}

static void make_image_co(bool lazy)
{
	struct ox_create_options create = OX_CREATE_OPTIONS_INIT;
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;
	struct ox_img_open how = {.opts = &opts};

	create.format = "qcow2";
	create.virtual_bytes = DISK;
	create.cluster_bytes = CLUSTER;
	create.lazy_refcounts = lazy;
	opts.format = "qcow2";
	assert_int_equal(ox_io_memory_open(reactor, 0, &store), 0);
	assert_int_equal(ox_qcow2_create_co(store, &create, NULL), 0);
	assert_int_equal(ox_img_open_co(store, &how, &image, NULL), 0);
	q = ox_qcow2_of(image);
	next = 0;
}

static void allocate_co(unsigned clusters, unsigned flags)
{
	char *buf = calloc(clusters, CLUSTER);
	struct iovec v = {buf, (size_t)clusters * CLUSTER};

	assert_non_null(buf);
	assert_int_equal(ox_img_pwritev_co(image, &v, 1, next, flags), 0);
	next += v.iov_len;
	free(buf);
}

static uint64_t reserved(void)
{
	return ox_alloc_reserved(&q->m.alloc);
}

static void finish_co(void)
{
	assert_int_equal(ox_img_close_co(image, NULL), 0);
}

static void the_reserve_is_no_larger_than_what_was_taken_co(void *arg)
{
	(void)arg;
	make_image_co(false);
	for (unsigned i = 0; i < 3000; i++) {
		allocate_co(1, 0);
		assert_true(reserved() <= q->m.alloc.taken + FEW);
	}
	finish_co();
}

static void a_large_write_is_served_in_one_piece_co(void *arg)
{
	uint64_t syncs;

	(void)arg;
	make_image_co(false);
	allocate_co(1, 0);
	syncs = store->counts[OX_IO_COUNT_SYNCS];
	allocate_co(400, 0);
	assert_true(store->counts[OX_IO_COUNT_SYNCS] - syncs <= 2);
	assert_true(reserved() <= q->m.alloc.taken + FEW);
	finish_co();
}

static void a_guest_that_writes_little_has_little_in_reserve_co(void *arg)
{
	(void)arg;
	make_image_co(false);
	for (unsigned i = 0; i < 100; i++) {
		allocate_co(1, OX_REQ_FUA);
		ox_reactor_sleep_co(3 * SECOND);
		assert_true(reserved() <= FEW);
	}
	finish_co();
}

static void little_after_much_gives_back_what_is_too_much_co(void *arg)
{
	(void)arg;
	make_image_co(false);
	for (unsigned i = 0; i < 3000; i++)
		allocate_co(1, 0);
	for (unsigned i = 0; i < 8; i++) {
		allocate_co(1, 0);
		ox_reactor_sleep_co(2 * SECOND);
	}
	assert_true(reserved() <= FEW);
	finish_co();
}

static void an_idle_guest_has_nothing_in_reserve_co(void *arg)
{
	uint64_t value;

	(void)arg;
	for (int lazy = 0; lazy < 2; lazy++) {
		struct ox_alloc_range first;

		make_image_co(lazy);
		for (unsigned i = 0; i < 9; i++)
			allocate_co(1, 0);
		assert_true(reserved() > 0);
		first = q->m.alloc.reserve[0];
		ox_reactor_sleep_co(12 * SECOND);
		assert_int_equal(reserved(), 0);
		assert_false(ox_cache_is_busy(&q->counts)); /* it is on the store */
		assert_int_equal(q->m.dirty.state, OX_DIRTY_CLEAN);
		assert_int_equal(ox_refcount_get_co(q, first.start, &value), 0);
		assert_int_equal(value, 0);
		allocate_co(1, 0);
		assert_true(reserved() <= FEW);
		finish_co();
	}
}

/* A batch's sync is one among many, whether the host is fast or slow. */
static void steady_writes_cost_one_sync_each_co(void *arg)
{
	const unsigned writes = 6000;
	uint64_t syncs;

	(void)arg;
	for (uint64_t pause = 0; pause <= SECOND / 100; pause += SECOND / 100) {
		make_image_co(false);
		for (unsigned i = 0; i < 1000; i++)
			allocate_co(1, OX_REQ_FUA);
		syncs = store->counts[OX_IO_COUNT_SYNCS];
		for (unsigned i = 0; i < writes; i++) {
			allocate_co(1, OX_REQ_FUA);
			if (pause > 0)
				ox_reactor_sleep_co(pause);
		}
		syncs = store->counts[OX_IO_COUNT_SYNCS] - syncs;
		print_message("%u writes, %u syncs\n", writes, (unsigned)syncs);
		assert_true(syncs >= writes);
		assert_true(syncs <= writes + writes / 200);
		finish_co();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TASK_TEST(the_reserve_is_no_larger_than_what_was_taken),
		TASK_TEST(a_large_write_is_served_in_one_piece),
		TASK_TEST(a_guest_that_writes_little_has_little_in_reserve),
		TASK_TEST(little_after_much_gives_back_what_is_too_much),
		TASK_TEST(an_idle_guest_has_nothing_in_reserve),
		TASK_TEST(steady_writes_cost_one_sync_each),
	};

	return cmocka_run_group_tests_name("reserve", tests, NULL, NULL);
}
