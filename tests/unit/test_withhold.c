/* SPDX-License-Identifier: MIT */
/* J2: a store whose first bytes stay in memory, and how they are published. */
#include "task_test.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "io/withhold.h"
#include "watched_io.h"

#define HELD OX_WITHHOLD_BYTES
#define STORE_BYTES (4u * HELD)

static struct ox_io *below;
static struct ox_io *store;
static struct ox_withheld held;
static unsigned kept;	    /* calls of keep_co */
static unsigned kept_syncs; /* of the store below, at the last of them */
static uint8_t kept_byte;   /* the first of those that were handed over */
static int keep_result;

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

static int keep_co(void *opaque)
{
	const struct ox_withheld *w = opaque;

	kept++;
	kept_syncs = watched.syncs;
	kept_byte = w->bytes[0];
	return keep_result;
}

static void open_over(uint64_t length)
{
	below = watched_io_open(reactor, length);
	held = (struct ox_withheld){.below = below, .length = HELD};
	kept = 0;
	keep_result = 0;
	assert_int_equal(ox_withhold_open(&held, &store), 0);
}

static void close_both(void)
{
	ox_io_close(store);
	watched_io_close(below);
}

static void put_co(uint64_t offset, size_t length, int byte)
{
	uint8_t *buf = malloc(length);

	assert_non_null(buf);
	memset(buf, byte, length);
	assert_int_equal(ox_io_pwrite_co(store, buf, length, offset, 0), 0);
	free(buf);
}

static bool is_all(const uint8_t *bytes, size_t length, int byte)
{
	return bytes[0] == byte && memcmp(bytes, bytes + 1, length - 1) == 0;
}

/* ---- before ---- */

/* In two pieces, that meet anywhere. */
static void write_split_co(const uint8_t *buf, size_t length, uint64_t offset, size_t first)
{
	struct iovec v[2] = {{(void *)buf, first}, {(void *)(buf + first), length - first}};

	assert_int_equal(ox_io_pwritev_co(store, v, 2, offset, 0), 0);
}

static void read_split_co(uint8_t *buf, size_t length, uint64_t offset, size_t first)
{
	struct iovec v[2] = {{buf, first}, {buf + first, length - first}};

	assert_int_equal(ox_io_preadv_co(store, v, 2, offset), 0);
}

static void what_was_withheld_reads_back_and_does_not_reach_the_store_co(void *arg)
{
	static uint8_t model[STORE_BYTES];
	static uint8_t buf[STORE_BYTES];
	unsigned seed = 1;

	(void)arg;
	open_over(STORE_BYTES);
	memset(model, 0, sizeof(model));
	for (unsigned i = 0; i < 400; i++) {
		uint64_t at = (unsigned)rand_r(&seed) % (2 * HELD);
		size_t length = 1 + (unsigned)rand_r(&seed) % (2 * HELD);
		size_t first = (unsigned)rand_r(&seed) % (length + 1);

		if (i % 3 == 0) {
			assert_int_equal(ox_io_zero_co(store, at, length), 0);
			memset(model + at, 0, length);
		} else {
			memset(model + at, 1 + (int)(i % 200), length);
			memcpy(buf, model + at, length);
			write_split_co(buf, length, at, first);
		}
		at = (unsigned)rand_r(&seed) % (2 * HELD);
		read_split_co(buf, length, at, first);
		assert_memory_equal(buf, model + at, length);
		assert_true(is_all(watched_bytes(below), HELD, 0));
	}
	read_split_co(buf, STORE_BYTES, 0, 100);
	assert_memory_equal(buf, model, STORE_BYTES);
	assert_memory_equal(watched_bytes(below) + HELD, model + HELD, STORE_BYTES - HELD);
	assert_false(ox_io_read_cached(store, buf, 512, HELD - 512));
	close_both();
}

static void a_store_is_as_long_as_what_was_withheld_says_co(void *arg)
{
	(void)arg;
	open_over(0);
	put_co(1024, 512, 7);
	assert_int_equal(store->length, 1536);
	assert_int_equal(below->length, 1536);
	assert_true(is_all(watched_bytes(below), 1536, 0));
	close_both();
}

static void what_is_cut_off_is_not_there_when_the_store_grows_again_co(void *arg)
{
	uint8_t buf[HELD];

	(void)arg;
	open_over(0);
	put_co(0, HELD, 7);
	assert_int_equal(ox_io_set_length_co(store, 1000), 0);
	assert_int_equal(ox_io_set_length_co(store, STORE_BYTES), 0);
	assert_int_equal(ox_io_pread_co(store, buf, HELD, 0), 0);
	assert_true(is_all(buf, 1000, 7));
	assert_true(is_all(buf + 1000, HELD - 1000, 0));
	close_both();
}

static void an_extent_of_what_was_withheld_is_data_co(void *arg)
{
	struct ox_io_extent e;

	(void)arg;
	open_over(STORE_BYTES);
	watched.is_sparse = true;
	put_co(0, HELD, 7);
	for (uint64_t at = 0; at < HELD; at += e.length) {
		assert_int_equal(ox_io_extent_co(store, at, &e), 0);
		assert_false(e.zero);
	}
	assert_int_equal(ox_io_extent_co(store, HELD, &e), 0);
	assert_true(e.zero);
	close_both();
}

/* ---- syncs ---- */

static void syncs_are_left_out_where_nobody_goes_on_co(void *arg)
{
	(void)arg;
	open_over(STORE_BYTES);
	held.skip_syncs = true;
	held.keep_co = keep_co;
	held.opaque = &held;
	put_co(0, STORE_BYTES, 1);
	assert_int_equal(ox_io_sync_co(store), 0);
	assert_int_equal(watched.syncs_asked, 0);
	assert_int_equal(kept, 0);
	close_both();
}

static void a_sync_hands_over_what_has_changed_after_all_else_is_durable_co(void *arg)
{
	(void)arg;
	open_over(STORE_BYTES);
	held.keep_co = keep_co;
	held.opaque = &held;
	put_co(0, 512, 9);
	assert_int_equal(ox_io_sync_co(store), 0);
	assert_int_equal(kept, 1);
	assert_int_equal(kept_syncs, 1);
	assert_int_equal(kept_byte, 9);
	put_co(HELD, 512, 10);
	assert_int_equal(ox_io_sync_co(store), 0);
	assert_int_equal(kept, 1); /* nothing of it has changed */
	assert_int_equal(ox_io_zero_co(store, 0, 512), 0);
	assert_int_equal(ox_io_sync_co(store), 0);
	assert_int_equal(kept, 2);
	assert_int_equal(kept_byte, 0);
	close_both();
}

static void a_sync_that_fails_hands_nothing_over_and_a_failed_keeping_is_made_up_for_co(void *arg)
{
	(void)arg;
	open_over(STORE_BYTES);
	held.keep_co = keep_co;
	held.opaque = &held;
	put_co(0, 512, 9);
	watched.sync_error = -EIO;
	assert_int_equal(ox_io_sync_co(store), -EIO);
	assert_int_equal(kept, 0);
	watched.sync_error = 0;
	keep_result = -ENOSPC;
	assert_int_equal(ox_io_sync_co(store), -ENOSPC);
	keep_result = 0;
	assert_int_equal(ox_io_sync_co(store), 0);
	assert_int_equal(kept, 2);
	close_both();
}

static void a_write_that_has_to_be_durable_is_kept_co(void *arg)
{
	uint8_t byte = 3;

	(void)arg;
	open_over(STORE_BYTES);
	held.keep_co = keep_co;
	held.opaque = &held;
	assert_int_equal(ox_io_pwrite_co(store, &byte, 1, 0, OX_IO_FUA), 0);
	assert_int_equal(kept, 1);
	assert_int_equal(kept_byte, 3);
	close_both();
}

/* ---- publication ---- */

static void the_first_sector_is_written_last_and_synced_before_and_after_co(void *arg)
{
	unsigned first;

	(void)arg;
	open_over(STORE_BYTES);
	held.skip_syncs = true;
	put_co(0, STORE_BYTES, 5);
	ox_io_close(store);
	first = watched.write_count;
	assert_int_equal(watched.syncs, 0);
	assert_int_equal(ox_withhold_publish_co(&held), 0);
	assert_true(is_all(watched_bytes(below), STORE_BYTES, 5));
	for (unsigned i = first; i + 1 < watched.write_count; i++)
		assert_int_not_equal(watched.writes[i].offset, 0);
	for (unsigned i = 0; i + 1 < watched.write_count; i++)
		assert_int_equal(watched.writes[i].syncs, 0);
	assert_int_equal(watched.writes[watched.write_count - 1].offset, 0);
	assert_int_equal(watched.writes[watched.write_count - 1].syncs, 1);
	assert_int_equal(watched.syncs, 2);
	watched_io_close(below);
}

static void what_could_not_be_synced_is_not_published_co(void *arg)
{
	(void)arg;
	open_over(STORE_BYTES);
	put_co(0, STORE_BYTES, 5);
	ox_io_close(store);
	watched.sync_error = -EIO;
	assert_int_equal(ox_withhold_publish_co(&held), -EIO);
	assert_true(is_all(watched_bytes(below), 512, 0));
	watched_io_close(below);
}

static void where_nothing_is_withheld_publication_is_a_sync_co(void *arg)
{
	(void)arg;
	below = watched_io_open(reactor, STORE_BYTES);
	held = (struct ox_withheld){.below = below};
	assert_int_equal(ox_withhold_open(&held, &store), 0);
	put_co(0, 512, 5);
	assert_true(is_all(watched_bytes(below), 512, 5));
	ox_io_close(store);
	assert_int_equal(ox_withhold_publish_co(&held), 0);
	assert_int_equal(watched.syncs, 1);
	assert_int_equal(watched.write_count, 1);
	watched_io_close(below);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TASK_TEST(what_was_withheld_reads_back_and_does_not_reach_the_store),
		TASK_TEST(a_store_is_as_long_as_what_was_withheld_says),
		TASK_TEST(what_is_cut_off_is_not_there_when_the_store_grows_again),
		TASK_TEST(an_extent_of_what_was_withheld_is_data),
		TASK_TEST(syncs_are_left_out_where_nobody_goes_on),
		TASK_TEST(a_sync_hands_over_what_has_changed_after_all_else_is_durable),
		TASK_TEST(a_sync_that_fails_hands_nothing_over_and_a_failed_keeping_is_made_up_for),
		TASK_TEST(a_write_that_has_to_be_durable_is_kept),
		TASK_TEST(the_first_sector_is_written_last_and_synced_before_and_after),
		TASK_TEST(what_could_not_be_synced_is_not_published),
		TASK_TEST(where_nothing_is_withheld_publication_is_a_sync),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
