/* SPDX-License-Identifier: MIT */
/* Freed clusters on their way back, on a store that has no room for a slice of their counts. */
#include "task_test.h"

#include <errno.h>
#include <string.h>

#include "base/endian.h"
#include "fmt/qcow2.h"
#include "img/img.h"
#include "watched_io.h"

/* Counts of 64 bits: a slice of 4 KiB has those of 512 clusters, a block those of 1,024. */
#define CLUSTER 8192u
#define SLICE_BYTES 4096u
#define CLUSTERS_A_SLICE 512u
#define DATA_BYTES (6u << 20)
#define PIECE_BYTES (1u << 20)

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

static void open_co(void)
{
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;
	struct ox_img_open how = {.opts = &opts};

	opts.format = "qcow2";
	assert_int_equal(ox_img_open_co(store, &how, &image, NULL), 0);
}

/* An image whose data lie in one run of clusters, over a slice's end. */
static void make_image_co(void)
{
	struct ox_create_options create = OX_CREATE_OPTIONS_INIT;
	static char buf[PIECE_BYTES];
	struct iovec v = {buf, sizeof(buf)};

	memset(buf, 'x', sizeof(buf));
	store = watched_io_open(reactor, 0);
	create.format = "qcow2";
	create.virtual_bytes = 64u << 20;
	create.cluster_bytes = CLUSTER;
	create.refcount_bits = 64;
	assert_int_equal(ox_qcow2_create_co(store, &create, NULL), 0);
	open_co();
	for (uint64_t at = 0; at < DATA_BYTES; at += PIECE_BYTES)
		assert_int_equal(ox_img_pwritev_co(image, &v, 1, at, 0), 0);
	assert_int_equal(ox_img_close_co(image, NULL), 0);
}

static struct ox_be64 *at(uint64_t offset)
{
	return (struct ox_be64 *)(void *)(watched_bytes(store) + offset);
}

static uint64_t counts_at(void)
{
	return ox_be64_get(*at(ox_be64_get(*at(48)))) & OX_QCOW2_OFFSET_MASK;
}

static uint64_t count_of(uint64_t cluster)
{
	return ox_be64_get(*at(counts_at() + cluster * 8));
}

/*
 * A snapshot would share the clusters: their counts are 2. The second slice cannot be changed at
 * first, so that what is freed goes back in parts; none of it may lose both of its references.
 */
static void what_found_no_room_is_not_lowered_twice_co(void *arg)
{
	const uint64_t first = CLUSTERS_A_SLICE - 64;
	const uint64_t end = CLUSTERS_A_SLICE + 64;

	(void)arg;
	make_image_co();
	for (uint64_t c = first; c < end; c++) {
		assert_int_equal(count_of(c), 1);
		*at(counts_at() + c * 8) = ox_be64(2);
	}
	store->space_bytes = 512; /* the second slice ends in zeroes, which may be a hole */
	open_co();
	watched.write_error = -ENOSPC;
	watched.write_error_at = counts_at() + SLICE_BYTES;
	assert_int_equal(ox_img_discard_co(image, 0, DATA_BYTES), 0);
	for (unsigned i = 0; i < 4; i++) {
		(void)ox_img_flush_co(image); /* each round tries again what is left */
		let_others_run_co();
	}
	watched.write_error = 0;
	assert_int_equal(ox_img_flush_co(image), 0);
	assert_int_equal(ox_img_close_co(image, NULL), 0);
	for (uint64_t c = first; c < end; c++) {
		assert_int_equal(count_of(c), 1);
		assert_memory_equal(watched_bytes(store) + c * CLUSTER, "xxxxxxxx", 8);
	}
	watched_io_close(store);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TASK_TEST(what_found_no_room_is_not_lowered_twice),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
