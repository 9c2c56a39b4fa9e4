/* SPDX-License-Identifier: MIT */
/*
 * A death amid the walk that a QED image's first discard asks for: what the dead process had found
 * to be free by then, its successor may use, and must not find to be free once more (D10).
 */
#include "task_test.h"

#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "check/check.h"
#include "img/img.h"
#include "qed_image.h"
#include "watched_io.h"

#define CLUSTER 4096u
#define STATE_BYTES ((size_t)8 << 20)
#define FIRST_NEW 20u /* guest clusters that the successor writes */
#define NEW 6u

static struct ox_io *store;
static struct ox_image *image;
static struct qed_image *im;
static uint8_t *memory; /* the state */

static int setup(void **state)
{
	(void)state;
	memory = calloc(1, STATE_BYTES);
	im = qed_image_new((struct qed_shape){CLUSTER, 1, false});
	return memory ? ox_reactor_create(OX_ENGINE_DEFAULT, &reactor, NULL) : -1;
}

static int teardown(void **state)
{
	(void)state;
	ox_reactor_destroy(reactor);
	qed_image_free(im);
	free(memory);
	return 0;
}

static void open_co(void)
{
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;
	struct ox_img_open how = {
		.opts = &opts,
		.recovery = &ox_check_recovery,
		.state = memory,
		.state_bytes = STATE_BYTES,
	};

	opts.format = "qed";
	opts.cache = OX_CACHE_WRITEBACK;
	assert_int_equal(ox_img_open_co(store, &how, &image, NULL), 0);
}

static void write_co(uint64_t cluster)
{
	static char buf[CLUSTER];
	struct iovec v = {buf, sizeof(buf)};

	memset(buf, (int)cluster, sizeof(buf));
	assert_int_equal(ox_img_pwritev_co(image, &v, 1, cluster * CLUSTER, 0), 0);
}

static void assert_written_co(uint64_t cluster)
{
	static char buf[CLUSTER];
	struct iovec v = {buf, sizeof(buf)};

	assert_int_equal(ox_img_preadv_co(image, &v, 1, cluster * CLUSTER), 0);
	assert_int_equal(buf[0], (char)cluster);
}

/* Two runs of clusters that nothing names, and that are holes. */
static void make_holes(void)
{
	static const unsigned unnamed[] = {1, 2, 4};

	for (size_t i = 0; i < OX_ARRAY_SIZE(unnamed); i++) {
		qed_set_l2(im, 0, unnamed[i], 0);
		memset(im->bytes + qed_data(im, unnamed[i]), 0, CLUSTER);
	}
	store = watched_io_open(reactor, im->length);
	memcpy(watched_bytes(store), im->bytes, im->length);
	watched.is_sparse = true;
}

static bool discarded;

static void discard_co(void *arg)
{
	(void)arg;
	assert_int_equal(ox_img_discard_co(image, 0, CLUSTER), 0);
	discarded = true;
}

/* With the first run noted, and the second one about to be. */
static void die_amid_the_walk_co(void)
{
	uint8_t *left = malloc(STATE_BYTES);
	uint64_t length = store->length;
	uint8_t *bytes = malloc(length);

	assert_non_null(left);
	assert_non_null(bytes);
	discarded = false;
	watched.hold_extent_at = qed_data(im, 4);
	spawn(discard_co, NULL);
	while (!watched.extent_held)
		ox_co_yield_co();
	memcpy(bytes, watched_bytes(store), length);
	memcpy(left, memory, STATE_BYTES);
	watched.let_go = true;
	while (!discarded)
		ox_co_yield_co();
	assert_int_equal(ox_img_close_co(image, NULL), 0);
	watched_io_close(store);
	store = watched_io_open(reactor, length);
	watched.is_sparse = true;
	memcpy(watched_bytes(store), bytes, length);
	memcpy(memory, left, STATE_BYTES);
	free(bytes);
	free(left);
}

static void no_cluster_is_found_to_be_free_twice_co(void *arg)
{
	(void)arg;
	make_holes();
	open_co();
	die_amid_the_walk_co();
	open_co();
	write_co(FIRST_NEW); /* the reserve has the rest of the first run */
	assert_int_equal(ox_img_discard_co(image, 5 * CLUSTER, CLUSTER), 0);
	for (unsigned i = 1; i < NEW; i++)
		write_co(FIRST_NEW + i);
	for (unsigned i = 0; i < NEW; i++)
		assert_written_co(FIRST_NEW + i);
	assert_int_equal(ox_img_close_co(image, NULL), 0);
	assert_int_equal(qed_problems(im, watched_bytes(store), store->length), 0);
	watched_io_close(store);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TASK_TEST(no_cluster_is_found_to_be_free_twice),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
