/* SPDX-License-Identifier: MIT */
/*
 * Clusters that a process has left notes of when it died (D10): those that an unusual image has,
 * and those that a state cannot have of an image that is what it should be.
 */
#include "task_test.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "check/check.h"
#include "img/img.h"
#include "meta/state.h"
#include "watched_io.h"

#define CLUSTER 65536u
#define STATE_BYTES ((size_t)16 << 20)
#define CLUSTERS 8u					     /* in the image */
#define L1_BYTES (UINT64_C(128 << 20) / (512 * 512 / 8) * 8) /* of the larger disk */
#define COPIED (UINT64_C(1) << 63)
#define OFFSET UINT64_C(0x00fffffffffffe00)

static struct ox_io *store;
static struct ox_image *image;
static uint8_t *memory; /* the state */
static bool lazy;
static bool resizing;

static int setup(void **state)
{
	(void)state;
	memory = calloc(1, STATE_BYTES);
	lazy = false;
	return memory ? ox_reactor_create(OX_ENGINE_DEFAULT, &reactor, NULL) : -1;
}

static int teardown(void **state)
{
	(void)state;
	ox_reactor_destroy(reactor);
	free(memory);
	return 0;
}

static int open_co(void)
{
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;
	struct ox_img_open how = {.opts = &opts, .state = memory, .state_bytes = STATE_BYTES};

	opts.format = "qcow2";
	opts.cache = OX_CACHE_WRITEBACK;
	opts.table_age_ms = UINT32_MAX;
	opts.lazy_idle_ms = UINT32_MAX;
	opts.l2_cache_bytes = 1u << 20;
	return ox_img_open_co(store, &how, &image, NULL);
}

static void make_co(uint64_t disk_bytes, uint32_t cluster_bytes)
{
	struct ox_create_options create = OX_CREATE_OPTIONS_INIT;

	store = watched_io_open(reactor, 0);
	create.format = "qcow2";
	create.virtual_bytes = disk_bytes;
	create.cluster_bytes = cluster_bytes;
	create.lazy_refcounts = lazy;
	create.refcount_bits = lazy ? 64 : 16;
	assert_int_equal(ox_qcow2_create_co(store, &create, NULL), 0);
	assert_int_equal(open_co(), 0);
}

static int write_co(uint64_t offset)
{
	static char buf[CLUSTER];
	struct iovec v = {buf, sizeof(buf)};

	memset(buf, 'x', sizeof(buf));
	return ox_img_pwritev_co(image, &v, 1, offset, 0);
}

static char read_co(uint64_t offset)
{
	static char buf[CLUSTER];
	struct iovec v = {buf, sizeof(buf)};

	assert_int_equal(ox_img_preadv_co(image, &v, 1, offset), 0);
	return buf[0];
}

static void fill_co(void)
{
	make_co(64u << 20, CLUSTER);
	for (uint64_t c = 0; c < CLUSTERS; c++)
		assert_int_equal(write_co(c * CLUSTER), 0);
	assert_int_equal(ox_img_flush_co(image), 0);
}

/* The process is gone; what it left is what the next one finds. */
static void die_co(void)
{
	uint8_t *left = malloc(STATE_BYTES);
	uint64_t length = store->length;
	uint8_t *bytes = malloc(length);

	assert_non_null(left);
	assert_non_null(bytes);
	memcpy(bytes, watched_bytes(store), length);
	memcpy(left, memory, STATE_BYTES);
	watched.hold_syncs = false;
	while (resizing)
		ox_co_yield_co();
	(void)ox_img_close_co(image, NULL);
	watched_io_close(store);
	store = watched_io_open(reactor, length);
	memcpy(watched_bytes(store), bytes, length);
	memcpy(memory, left, STATE_BYTES);
	free(bytes);
	free(left);
}

static void finish_co(void)
{
	assert_int_equal(ox_img_close_co(image, NULL), 0);
	watched_io_close(store);
}

/* ---- the image's bytes ---- */

static uint64_t get(uint64_t at)
{
	const uint8_t *bytes = watched_bytes(store) + at;
	uint64_t value = 0;

	for (unsigned i = 0; i < 8; i++)
		value = value << 8 | bytes[i];
	return value;
}

static void put(uint64_t at, uint64_t value)
{
	uint8_t *bytes = watched_bytes(store) + at;

	for (unsigned i = 0; i < 8; i++)
		bytes[i] = (uint8_t)(value >> (56 - 8 * i));
}

static uint64_t l1_at(void)
{
	return get(40);
}

static uint64_t l2_at(uint64_t cluster)
{
	return (get(l1_at()) & OFFSET) + 8 * cluster;
}

/* ---- notes (src/meta/notes.c) ---- */

static uint64_t *words(void)
{
	return (uint64_t *)(void *)memory;
}

/* The word of the first note of that kind that has its kind and its end. */
static uint64_t *find_note(enum ox_note_kind kind)
{
	for (size_t i = 4096 / 8; i < STATE_BYTES / 8; i++) {
		uint64_t word = words()[i];

		if (word >> 56 == kind && word << 8 >> 8 < 65536 && words()[i - 1] < 65536)
			return &words()[i];
	}
	fail_msg("no note of kind %d", (int)kind);
	return NULL;
}

static void turn_note(enum ox_note_kind from, enum ox_note_kind to, uint64_t detail)
{
	uint64_t *note = find_note(from);

	note[0] = (uint64_t)to << 56 | note[0] << 8 >> 8;
	note[1] = detail;
}

/* ---- unusual images ---- */

/* An entry of the guest's is looked for where no host offset could be. */
static void a_write_far_out_on_a_huge_disk_is_adopted_co(void *arg)
{
	const uint64_t big = 2u << 20;
	const uint64_t offset = (UINT64_C(1) << 57) - big;

	(void)arg;
	make_co(UINT64_C(1) << 57, (uint32_t)big);
	assert_int_equal(write_co(offset - big), 0);
	turn_note(OX_NOTE_RESERVE_ZERO, OX_NOTE_TAKEN, offset / big + 1);
	die_co();
	assert_int_equal(open_co(), 0);
	assert_int_equal(read_co(offset - big), 'x');
	assert_int_equal(write_co(offset), 0);
	assert_int_equal(read_co(offset), 'x');
	finish_co();
}

/* Whoever wrote the image counted the sectors of the last stream generously. */
static void a_stream_past_the_files_end_that_was_freed_is_adopted_co(void *arg)
{
	uint64_t last = CLUSTERS - 1;

	(void)arg;
	fill_co();
	assert_int_equal(ox_img_close_co(image, NULL), 0);
	store->length = (get(l2_at(last)) & OFFSET) + CLUSTER;
	put(l2_at(last), UINT64_C(1) << 62 | UINT64_C(200) << 54 | (get(l2_at(last)) & OFFSET));
	assert_int_equal(open_co(), 0);
	assert_int_equal(ox_img_discard_co(image, last * CLUSTER, CLUSTER), 0);
	die_co();
	assert_int_equal(open_co(), 0);
	assert_int_equal(read_co(0), 'x');
	assert_int_equal(read_co(last * CLUSTER), 0);
	finish_co();
}

static unsigned count_blocks(void)
{
	unsigned blocks = 0;

	for (unsigned i = 0; i < 512 / 8; i++)
		blocks += get(get(48) + 8 * i) != 0;
	return blocks;
}

/* In a lazy image counts may wait, but not that there are blocks for them (S1): on a full disk a
 * recovery could make no others. */
static void refcount_blocks_of_the_dead_are_named_before_a_cluster_is_taken_co(void *arg)
{
	char byte = 'x';
	unsigned blocks;

	(void)arg;
	lazy = true;
	make_co(4u << 20, 512);
	blocks = count_blocks();
	watched.write_error = -ENOSPC;
	watched.write_error_at = get(48);
	assert_int_equal(write_co(0), -ENOSPC);
	watched.write_error = 0;
	die_co();
	assert_int_equal(open_co(), 0);
	assert_int_equal(ox_img_pwritev_co(image, &(struct iovec){&byte, 1}, 1, 0, 0), 0);
	assert_true(count_blocks() > blocks);
	finish_co();
}

static void resize_co(void *arg)
{
	(void)arg;
	assert_int_equal(ox_img_resize_co(image, 128u << 20, NULL), 0);
	resizing = false;
}

static uint64_t leaks_co(void)
{
	struct ox_check_options opts = OX_CHECK_OPTIONS_INIT;
	struct ox_check_result result;

	assert_int_equal(ox_check_qcow2_co(store, &opts, &result, NULL), 0);
	assert_int_equal(result.corruptions + result.check_errors, 0);
	return result.leaks;
}

/* Its clusters are counted, and nothing names them yet. */
static void a_larger_l1_table_that_is_on_its_way_is_not_leaked_co(void *arg)
{
	uint64_t length;

	(void)arg;
	make_co(64u << 20, 512);
	assert_int_equal(write_co(0), 0);
	assert_int_equal(ox_img_flush_co(image), 0);
	length = store->length;
	resizing = true;
	spawn(resize_co, NULL);
	while (store->length < length + L1_BYTES)
		ox_co_yield_co();
	watched.hold_syncs = true;
	let_others_run_co();
	assert_true(resizing);
	die_co();
	assert_int_equal(open_co(), 0);
	assert_int_equal(ox_img_close_co(image, NULL), 0);
	assert_int_equal(leaks_co(), 0);
	watched_io_close(store);
}

/* ---- states that cannot be ---- */

static void a_count_that_cannot_be_is_refused_co(void *arg)
{
	(void)arg;
	fill_co();
	turn_note(OX_NOTE_RESERVE_ZERO, OX_NOTE_RELEASING, UINT64_C(1) << 40);
	die_co();
	assert_int_equal(open_co(), -EINVAL);
	watched_io_close(store);
}

/* The header and the tables are counted still, and nothing is put on them. */
static void a_batch_on_top_of_tables_is_void_co(void *arg)
{
	(void)arg;
	fill_co();
	find_note(OX_NOTE_RESERVE_ZERO)[-1] = 1;
	turn_note(OX_NOTE_RESERVE_ZERO, OX_NOTE_BATCH, 0);
	die_co();
	assert_int_equal(open_co(), 0);
	for (uint64_t c = 0; c < 2 * CLUSTERS; c++)
		assert_int_equal(write_co(c * CLUSTER), 0);
	for (uint64_t c = 0; c < 2 * CLUSTERS; c++)
		assert_int_equal(read_co(c * CLUSTER), 'x');
	finish_co();
}

/* A table that a snapshot shares is never changed in the cache. */
static void a_change_of_a_table_that_is_shared_is_no_assertion_co(void *arg)
{
	(void)arg;
	fill_co();
	assert_int_equal(write_co(CLUSTERS * CLUSTER), 0);
	die_co();
	put(l1_at(), get(l1_at()) & ~COPIED);
	assert_int_equal(open_co(), 0);
	assert_int_equal(read_co(CLUSTERS * CLUSTER), 'x');
	assert_int_equal(write_co((CLUSTERS + 1) * CLUSTER), -EIO);
	finish_co();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TASK_TEST(a_write_far_out_on_a_huge_disk_is_adopted),
		TASK_TEST(a_stream_past_the_files_end_that_was_freed_is_adopted),
		TASK_TEST(refcount_blocks_of_the_dead_are_named_before_a_cluster_is_taken),
		TASK_TEST(a_larger_l1_table_that_is_on_its_way_is_not_leaked),
		TASK_TEST(a_count_that_cannot_be_is_refused),
		TASK_TEST(a_batch_on_top_of_tables_is_void),
		TASK_TEST(a_change_of_a_table_that_is_shared_is_no_assertion),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
