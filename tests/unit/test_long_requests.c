/* SPDX-License-Identifier: MIT */
/*
 * Requests for the whole of a disk with very many tables: others get in between their pieces, and
 * they end when they are cancelled. Turns of the reactor are counted, in each of which all tasks
 * run that can; never time.
 */
#include "task_test.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "img/img.h"
#include "img/qcow2/qcow2.h"

#define KIB UINT64_C(1024)
#define MIB (1024 * KIB)
#define CLUSTER 512u
#define DISK (64 * MIB) /* 131,072 clusters in 2,048 tables */
#define LONG 64u	/* requests at a time */
#define SOON 8u		/* turns that a request may have to wait */

static struct ox_io *store;
static struct ox_image *image;

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

static void make_image_co(uint64_t bytes, uint32_t cluster_bytes)
{
	struct ox_create_options create = OX_CREATE_OPTIONS_INIT;
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;
	struct ox_img_open how = {.opts = &opts};

	create.format = "qcow2";
	create.virtual_bytes = bytes;
	create.cluster_bytes = cluster_bytes;
	opts.format = "qcow2";
	assert_int_equal(ox_io_memory_open(reactor, 0, &store), 0);
	assert_int_equal(ox_qcow2_create_co(store, &create, NULL), 0);
	assert_int_equal(ox_img_open_co(store, &how, &image, NULL), 0);
}

/* Every cluster has its place: there is much to do. */
static void make_full_image_co(void)
{
	struct ox_create_options opts = OX_CREATE_OPTIONS_INIT;

	opts.preallocation = OX_PREALLOC_METADATA;
	make_image_co(DISK, CLUSTER);
	assert_int_equal(ox_qcow2_preallocate_co(image, &opts), 0);
}

static void finish_co(void)
{
	assert_int_equal(ox_img_close_co(image, NULL), 0);
}

/* ---- requests ---- */

struct request {
	enum { READ, WRITE, ZERO, DISCARD, RESIZE } kind;
	uint64_t offset;
	uint64_t length;
	bool cancelled;
	bool done;
	int result;
};

static void run_co(void *arg)
{
	struct request *r = arg;
	char *buf = NULL;
	struct iovec v;

	ox_co_watch_cancel(&r->cancelled);
	if (r->kind == READ || r->kind == WRITE) {
		buf = calloc(1, r->length);
		assert_non_null(buf);
	}
	v = (struct iovec){buf, r->length};
	switch (r->kind) {
	case READ:
		r->result = ox_img_preadv_co(image, &v, 1, r->offset);
		break;
	case WRITE:
		r->result = ox_img_pwritev_co(image, &v, 1, r->offset, 0);
		break;
	case ZERO:
		r->result = ox_img_zero_co(image, r->offset, r->length, 0);
		break;
	case DISCARD:
		r->result = ox_img_discard_co(image, r->offset, r->length);
		break;
	case RESIZE:
		r->result = ox_img_resize_co(image, r->length, NULL);
		break;
	}
	free(buf);
	r->done = true;
}

/* Turns until the request is answered. */
static unsigned turns_of_co(struct request *r)
{
	unsigned turns = 0;

	spawn(run_co, r);
	while (!r->done) {
		ox_co_yield_co();
		turns++;
	}
	assert_int_equal(r->result, 0);
	return turns;
}

static void answers_soon_co(uint64_t offset)
{
	struct request reader = {.kind = READ, .offset = offset, .length = CLUSTER};
	struct request writer = {.kind = WRITE, .offset = offset, .length = CLUSTER};

	assert_true(turns_of_co(&reader) <= SOON);
	assert_true(turns_of_co(&writer) <= SOON);
}

static struct request requests[LONG];

static void start_long_co(int kind)
{
	for (unsigned i = 0; i < LONG; i++) {
		requests[i] = (struct request){.kind = kind, .length = image->size_bytes};
		spawn(run_co, &requests[i]);
	}
	for (unsigned i = 0; i < 3; i++)
		ox_co_yield_co();
}

static unsigned still_running(void)
{
	unsigned n = 0;

	for (unsigned i = 0; i < LONG; i++)
		n += !requests[i].done;
	return n;
}

static void wait_for_long_co(int result)
{
	while (still_running() > 0)
		ox_co_yield_co();
	for (unsigned i = 0; i < LONG; i++)
		assert_int_equal(requests[i].result, result);
}

/* ---- claims ---- */

static void others_do_not_wait_for_the_end_of_long_requests_co(void *arg)
{
	(void)arg;
	make_full_image_co();
	start_long_co(ZERO);
	for (uint64_t at = 0; at < DISK; at += DISK / 8)
		answers_soon_co(at);
	assert_int_equal(still_running(), LONG);
	wait_for_long_co(0);
	start_long_co(DISCARD);
	for (uint64_t at = 0; at < DISK; at += DISK / 8)
		answers_soon_co(at);
	assert_int_equal(still_running(), LONG);
	wait_for_long_co(0);
	finish_co();
}

static void a_cancelled_request_ends_between_two_pieces_co(void *arg)
{
	unsigned turns = 0;

	(void)arg;
	make_full_image_co();
	start_long_co(DISCARD);
	for (unsigned i = 0; i < LONG; i++)
		requests[i].cancelled = true;
	for (; still_running() > 0; turns++)
		ox_co_yield_co();
	assert_true(turns <= 2 * LONG); /* each may have a piece begun, or its turn to come */
	wait_for_long_co(-ECANCELED);
	answers_soon_co(DISK - CLUSTER);
	finish_co();
}

static void a_disk_without_tables_costs_its_l1_table_alone_co(void *arg)
{
	struct request trim = {.kind = DISCARD, .length = UINT64_C(1) << 51};
	struct ox_qcow2 *q;

	(void)arg;
	make_image_co(trim.length, 64 * KIB);
	q = ox_qcow2_of(image);
	run_co(&trim);
	assert_int_equal(trim.result, 0);
	/* 4 Mi entries, in slices of 512: each is asked for twice */
	assert_true(q->m.map.misses <= 8192);
	assert_true(q->m.map.hits <= 2 * 8192);
	finish_co();
}

static void others_do_not_wait_for_the_end_of_a_resize_co(void *arg)
{
	struct request shrink = {.kind = RESIZE, .length = MIB};
	struct request grow = {.kind = RESIZE, .length = UINT64_C(8) << 30};

	(void)arg;
	make_full_image_co();
	spawn(run_co, &shrink);
	for (unsigned i = 0; i < 8; i++)
		answers_soon_co(i * CLUSTER);
	assert_false(shrink.done);
	while (!shrink.done)
		ox_co_yield_co();
	assert_int_equal(shrink.result, 0);
	assert_int_equal(image->size_bytes, MIB);

	spawn(run_co, &grow);
	for (unsigned i = 0; i < 8; i++)
		answers_soon_co(i * CLUSTER);
	assert_false(grow.done);
	while (!grow.done)
		ox_co_yield_co();
	assert_int_equal(grow.result, 0);
	finish_co();
}

/* Of every two clusters one is discarded, so that each is released by itself. */
static void an_allocation_does_not_wait_for_all_that_is_released_co(void *arg)
{
	struct request write = {.kind = WRITE, .length = 3 * MIB}; /* more than any reserve */
	struct ox_qcow2 *q;

	(void)arg;
	make_full_image_co();
	q = ox_qcow2_of(image);
	for (uint64_t at = 0; at < DISK / 4; at += 2 * CLUSTER)
		assert_int_equal(ox_img_discard_co(image, at, CLUSTER), 0);
	assert_int_equal(ox_img_flush_co(image), 0);
	for (unsigned i = 0; i < 3; i++)
		ox_co_yield_co();
	assert_false(ox_list_empty(&q->m.freed.ready)); /* the release has begun, and not ended */
	assert_true(turns_of_co(&write) > 0);
	assert_false(ox_list_empty(&q->m.freed.ready));
	while (!ox_list_empty(&q->m.freed.ready))
		ox_co_yield_co();
	finish_co();
}

static void what_a_long_request_frees_does_not_pile_up_co(void *arg)
{
	struct request trim = {.kind = DISCARD, .length = DISK};
	struct ox_qcow2 *q;
	uint64_t most = 0;

	(void)arg;
	make_image_co(DISK, CLUSTER);
	q = ox_qcow2_of(image);
	/* from the end to the beginning: no two that are neighbours on the disk are in the file */
	for (uint64_t at = DISK; at > 0; at -= CLUSTER) {
		struct request write = {.kind = WRITE, .offset = at - CLUSTER, .length = CLUSTER};

		run_co(&write);
		assert_int_equal(write.result, 0);
	}
	spawn(run_co, &trim);
	while (!trim.done) {
		ox_co_yield_co();
		most = ox_max_u64(most, q->m.freed.records);
	}
	assert_int_equal(trim.result, 0);
	assert_true(most > 0 && most <= DISK / CLUSTER / 2);
	finish_co();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TASK_TEST(others_do_not_wait_for_the_end_of_long_requests),
		TASK_TEST(a_cancelled_request_ends_between_two_pieces),
		TASK_TEST(a_disk_without_tables_costs_its_l1_table_alone),
		TASK_TEST(others_do_not_wait_for_the_end_of_a_resize),
		TASK_TEST(an_allocation_does_not_wait_for_all_that_is_released),
		TASK_TEST(what_a_long_request_frees_does_not_pile_up),
	};

	return cmocka_run_group_tests_name("long_requests", tests, NULL, NULL);
}
