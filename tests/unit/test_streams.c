/* SPDX-License-Identifier: MIT */
/* The list of distinct streams, and that a check decompresses each of them once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/arith.h"
#include "check/check.h"
#include "check/judge/streams.h"
#include "codec/codec.h"
#include "damaged.h"
#include "io/io.h"
#include "rt/reactor.h"

static struct ox_reactor *reactor;

/* ---- the list ---- */

/* All streams of the lengths 1 to 3 at these starts, each named three times, in no order. */
static void add_all(struct ox_streams *s, size_t starts)
{
	for (size_t i = 0; i < 3 * starts; i++) {
		uint64_t start = 100 + i * 7 % starts;

		for (uint32_t bytes = 3; bytes > 0; bytes--)
			assert_int_equal(ox_streams_add(s, start, bytes), 0);
	}
}

/* Adds them in rounds, until there are none left; returns how many rounds it took. */
static unsigned meet_all(size_t starts, size_t most)
{
	struct ox_streams s;
	uint64_t met = 0;
	unsigned rounds = 0;

	ox_streams_init(&s, most);
	do {
		add_all(&s, starts);
		ox_streams_settle(&s);
		assert_true(s.count <= most);
		for (size_t i = 0; i < s.count; i++, met++) {
			assert_int_equal(s.list[i].start, 100 + met / 3);
			assert_int_equal(s.list[i].bytes, 1 + met % 3);
		}
		rounds++;
	} while (ox_streams_next(&s));
	ox_streams_free(&s);
	assert_int_equal(met, 3 * starts);
	return rounds;
}

static void test_each_stream_is_met_once_in_order(void **state)
{
	(void)state;
	assert_int_equal(meet_all(50, 1000), 1);
	assert_int_equal(meet_all(50, 150), 1);
	assert_int_equal(meet_all(50, 149), 2);
	assert_int_equal(meet_all(50, 7), 22);
	assert_int_equal(meet_all(50, 1), 150);
}

static void test_a_stream_named_often_takes_one_place(void **state)
{
	struct ox_streams s;

	(void)state;
	ox_streams_init(&s, 4);
	for (unsigned i = 0; i < 100000; i++)
		assert_int_equal(ox_streams_add(&s, 500 + i % 3, 9), 0);
	ox_streams_settle(&s);
	assert_int_equal(s.count, 3);
	assert_true(s.room <= 8);
	assert_ptr_equal(ox_streams_find(&s, 501, 9), &s.list[1]);
	assert_null(ox_streams_find(&s, 501, 8));
	assert_false(ox_streams_next(&s));
	ox_streams_free(&s);
}

/* ---- the check ---- */

struct job {
	struct ox_io *io;
	bool verify_data;
	struct ox_check_result result;
	unsigned found;
	int r;
};

static void count_finding(void *opaque, const struct ox_finding *finding)
{
	struct job *j = opaque;

	assert_string_equal(finding->name, "compressed-data");
	j->found++;
}

static void check_task_co(void *arg)
{
	struct job *j = arg;
	struct ox_check_options opts = OX_CHECK_OPTIONS_INIT;

	opts.verify_data = j->verify_data;
	opts.finding = count_finding;
	opts.opaque = j;
	j->r = ox_check_qcow2_co(j->io, &opts, &j->result, NULL);
}

/* Returns how many reads the check took. */
static uint64_t check(const struct image *im, bool verify_data, unsigned *ret_found)
{
	struct job j = {.verify_data = verify_data};
	uint64_t reads;

	assert_int_equal(ox_io_memory_open(reactor, im->length, &j.io), 0);
	memcpy(ox_io_memory_bytes(j.io), im->bytes, im->length);
	assert_int_equal(ox_reactor_call(reactor, check_task_co, &j), 0);
	assert_int_equal(j.r, 0);
	reads = j.io->counts[OX_IO_COUNT_READS];
	ox_io_close(j.io);
	*ret_found = j.found;
	return reads;
}

enum { TABLES = 2, ENTRIES = CLUSTER / 8, SECOND_L2 = END, NEW_END };

/* All entries of two tables name one stream, which begins 20 bytes before the end of a cluster and
 * goes on in the next. Every second entry claims one sector of it, and so too little. */
static struct image *one_stream(void)
{
	struct image *im = new_image(4);
	uint64_t start = (DATA + 1) * CLUSTER - 20;
	uint64_t more = UINT64_C(1) << 61;
	uint8_t cluster[CLUSTER];
	long n;

	srandom(1);
	for (size_t i = 0; i < CLUSTER; i++)
		cluster[i] = (uint8_t)(random() & 63);
	n = ox_codec_compress(OX_CODEC_DEFLATE, im->bytes + start, CLUSTER, cluster, CLUSTER);
	assert_true(n > 20);
	for (uint64_t i = 0; i < ENTRIES; i++) {
		uint64_t raw = OX_QCOW2_COMPRESSED | (i % 2 ? more : 0) | start;

		set_word(im, L2, i, raw);
		set_word(im, SECOND_L2, i, raw);
	}
	set_word(im, L1, 1, COPIED | SECOND_L2 * CLUSTER);
	set_refcount(im, DATA, TABLES * ENTRIES);
	set_refcount(im, DATA + 1, TABLES * ENTRIES / 2);
	set_refcount(im, DATA + 2, 0);
	set_refcount(im, SECOND_L2, 1);
	set_length(im, NEW_END);
	return im;
}

static void test_a_stream_that_many_entries_name_is_read_twice_at_most(void **state)
{
	struct image *im = one_stream();
	unsigned found;
	uint64_t plain = check(im, false, &found);
	uint64_t verified;

	(void)state;
	assert_int_equal(found, 0);
	verified = check(im, true, &found);
	assert_int_equal(found, TABLES * ENTRIES / 2);
	/* the two tables twice, the stream with both of its lengths, the L1 table for the ranges */
	assert_in_range(verified - plain, 2, 2 * TABLES + 2 + 2);
	free(im);
}

static int setup(void **state)
{
	(void)state;
	return ox_reactor_create(OX_ENGINE_DEFAULT, &reactor, NULL) < 0;
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
		cmocka_unit_test(test_each_stream_is_met_once_in_order),
		cmocka_unit_test(test_a_stream_named_often_takes_one_place),
		cmocka_unit_test(test_a_stream_that_many_entries_name_is_read_twice_at_most),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
