/* SPDX-License-Identifier: MIT */
/* What is counted of a disk: by one process, for others, across deaths, whatever lies there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* the ones above first: cmocka.h needs them */
#include <cmocka.h>

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "serve/serve.h"
#include "serve/stats.h"

static int memory;
static struct ox_image_stats library; /* what it says of the image */
static struct ox_recovery_status recovery;

void ox_image_stats(const struct ox_image *image, struct ox_image_stats *ret_stats)
{
	(void)image;
	*ret_stats = library;
}

void ox_image_recovery(const struct ox_image *image, struct ox_recovery_status *ret_status)
{
	(void)image;
	*ret_status = recovery;
}

uint64_t ox_image_size(const struct ox_image *image)
{
	(void)image;
	return 12345;
}

uint64_t ox_image_notices(const struct ox_image *image, struct ox_notice *ret_last)
{
	(void)image;
	(void)ret_last;
	return 3;
}

static int setup(void **state)
{
	(void)state;
	memory = ox_stats_make();
	library = (struct ox_image_stats){0};
	recovery = (struct ox_recovery_status){0};
	return memory < 0 ? -1 : 0;
}

static int teardown(void **state)
{
	(void)state;
	close(memory);
	return 0;
}

static struct ox_stats *open_stats(void)
{
	struct ox_stats *stats = NULL;

	assert_int_equal(ox_stats_open(memory, &stats), 0);
	return stats;
}

static struct ox_stats_values look(void)
{
	const struct ox_stats_values *mapped = NULL;
	struct ox_stats_values values;

	assert_int_equal(ox_stats_map(memory, &mapped), 0);
	ox_stats_load(mapped, &values);
	ox_stats_unmap(mapped);
	return values;
}

/* Which took so long. */
static void count(struct ox_stats *stats, enum ox_stats_kind kind, int64_t took_ns, uint64_t bytes,
		  bool failed)
{
	struct ox_stats_note note = {0};

	stats->must_look = false;
	stats->now_ns = 1000;
	ox_stats_begin(stats, &note, OX_STATS_NBD, kind);
	stats->now_ns += took_ns;
	ox_stats_end(stats, &note, bytes, failed);
}

static void test_a_request_is_counted_when_it_has_ended(void **state)
{
	struct ox_stats *stats = open_stats();
	struct ox_stats_note note = {0};
	struct ox_stats_values values;

	(void)state;
	ox_stats_begin(stats, &note, OX_STATS_VHOST, OX_STATS_WRITE);
	values = look();
	assert_int_equal(values.in_flight[OX_STATS_VHOST], 1);
	assert_int_equal(values.in_flight[OX_STATS_NBD], 0);
	assert_int_equal(values.requests[OX_STATS_VHOST][OX_STATS_WRITE].requests, 0);
	ox_stats_end(stats, &note, 4096, false);
	ox_stats_end(stats, &note, 4096, false); /* it has ended */
	values = look();
	assert_int_equal(values.in_flight[OX_STATS_VHOST], 0);
	assert_int_equal(values.requests[OX_STATS_VHOST][OX_STATS_WRITE].requests, 1);
	assert_int_equal(values.requests[OX_STATS_VHOST][OX_STATS_WRITE].bytes, 4096);
	assert_int_equal(values.requests[OX_STATS_VHOST][OX_STATS_WRITE].errors, 0);
	assert_int_equal(values.requests[OX_STATS_NBD][OX_STATS_WRITE].requests, 0);
	ox_stats_close(stats);
}

static void test_an_error_moves_no_bytes(void **state)
{
	struct ox_stats *stats = open_stats();
	struct ox_stats_values values;

	(void)state;
	count(stats, OX_STATS_READ, 1, 512, true);
	values = look();
	assert_int_equal(values.requests[OX_STATS_NBD][OX_STATS_READ].requests, 1);
	assert_int_equal(values.requests[OX_STATS_NBD][OX_STATS_READ].errors, 1);
	assert_int_equal(values.requests[OX_STATS_NBD][OX_STATS_READ].bytes, 0);
	ox_stats_close(stats);
}

static void test_latencies_fall_into_buckets_by_powers_of_two(void **state)
{
	static const struct {
		int64_t took_ns;
		unsigned bucket;
	} cases[] = {
		{0, 0},
		{999, 0},
		{1000, 1},
		{1999, 1},
		{2000, 2},
		{1000 * 1000, 10},
		{INT64_C(33) * 1000 * 1000 * 1000, 25},
		{INT64_C(34) * 1000 * 1000 * 1000, 26},
		{INT64_MAX / 2, 26},
	};
	struct ox_stats *stats = open_stats();
	uint64_t sum_ns = 0;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const uint64_t before = look().latency[OX_STATS_FLUSH][cases[i].bucket];

		count(stats, OX_STATS_FLUSH, cases[i].took_ns, 0, false);
		assert_int_equal(look().latency[OX_STATS_FLUSH][cases[i].bucket], before + 1);
		sum_ns += (uint64_t)cases[i].took_ns;
		assert_int_equal(look().latency_ns[OX_STATS_FLUSH], sum_ns);
	}
	ox_stats_close(stats);
}

static void test_counters_go_on_after_a_death_and_what_was_in_flight_does_not(void **state)
{
	struct ox_stats *dead = open_stats();
	struct ox_stats_note note = {0};
	struct ox_stats *next;
	struct ox_stats_values values;

	(void)state;
	ox_stats_connected(dead, OX_STATS_NBD);
	count(dead, OX_STATS_WRITE, 1, 512, false);
	ox_stats_begin(dead, &note, OX_STATS_NBD, OX_STATS_WRITE);
	library.host_writes = 7;
	ox_stats_publish(dead, NULL);
	next = open_stats(); /* without a word of the dead one's */
	library.host_writes = 2;
	library.dirty = true;
	recovery = (struct ox_recovery_status){OX_RECOVERY_RUNNING, 3, 9, ""};
	count(next, OX_STATS_WRITE, 1, 512, false);
	ox_stats_publish(next, NULL);
	ox_stats_publish(next, NULL); /* nothing is added twice */
	values = look();
	assert_int_equal(values.requests[OX_STATS_NBD][OX_STATS_WRITE].requests, 2);
	assert_int_equal(values.requests[OX_STATS_NBD][OX_STATS_WRITE].bytes, 1024);
	assert_int_equal(values.in_flight[OX_STATS_NBD], 0);
	assert_int_equal(values.clients[OX_STATS_NBD], 0);
	assert_int_equal(values.connections[OX_STATS_NBD], 1);
	assert_int_equal(values.host_writes, 9);
	assert_int_equal(values.notices, 6);
	assert_int_equal(values.size_bytes, 12345);
	assert_int_equal(values.dirty, 1);
	assert_int_equal(values.recovery, OX_RECOVERY_RUNNING);
	assert_int_equal(values.recovery_done, 3);
	assert_int_equal(values.recovery_total, 9);
	ox_stats_close(next);
	ox_stats_close(dead);
}

static void test_whatever_lies_there_is_only_wrong(void **state)
{
	struct ox_stats *stats = open_stats();

	(void)state;
	memset(stats->memory, 0xff, sizeof(*stats->memory));
	ox_stats_close(stats);
	stats = open_stats();
	count(stats, OX_STATS_OTHER, 1, 1, false);
	ox_stats_publish(stats, NULL);
	assert_int_equal(look().requests[OX_STATS_NBD][OX_STATS_OTHER].requests, 0);
	ox_stats_close(stats);
}

static void test_what_could_be_cut_short_is_refused(void **state)
{
	const struct ox_stats_values *mapped = NULL;
	struct ox_stats *stats = NULL;
	int fd = memfd_create("short", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, sizeof(struct ox_stats_values)), 0);
	assert_int_equal(ox_stats_open(fd, &stats), -EINVAL);
	assert_int_equal(ox_stats_map(fd, &mapped), -EINVAL);
	assert_int_equal(ftruncate(memory, 1), -1);
	close(fd);
	assert_int_equal(ox_stats_open(-1, &stats), -EINVAL);
}

static const struct ox_stats_room room = {5, 6, 7, 8};

static void test_nobody_counts_where_there_is_no_memory(void **state)
{
	const struct ox_serve_limits limits = {.iops = 1};
	struct ox_stats_note note = {0};

	(void)state;
	ox_stats_turn(NULL);
	ox_stats_begin(NULL, &note, OX_STATS_NBD, OX_STATS_READ);
	ox_stats_end(NULL, &note, 1, false);
	ox_stats_connected(NULL, OX_STATS_NBD);
	ox_stats_left(NULL, OX_STATS_NBD);
	ox_stats_limit(NULL, &limits);
	ox_stats_set_room(NULL, &room);
	assert_false(ox_stats_is_due(NULL));
	ox_stats_close(NULL);
	ox_stats_unmap(NULL);
}

static void test_limits_and_what_waits_are_told(void **state)
{
	const struct ox_serve_limits limits = {1, 2, 3, 4};
	struct ox_stats *stats = open_stats();
	struct ox_serve_limits kept;
	struct ox_stats_values values;

	(void)state;
	ox_stats_limit(stats, &limits);
	ox_stats_set_room(stats, &room);
	values = look();
	assert_memory_equal(&values.room, &room, sizeof(room));
	assert_int_equal(values.limit_iops, 1);
	assert_int_equal(values.limit_iops_burst, 2);
	assert_int_equal(values.limit_bandwidth, 3);
	assert_int_equal(values.limit_bandwidth_burst, 4);
	assert_false(ox_stats_kept_limits(stats, &kept));
	ox_stats_keep_limits(stats);
	ox_stats_close(stats);
	stats = open_stats(); /* the next server has nothing that waits */
	assert_true(ox_stats_kept_limits(stats, &kept));
	assert_memory_equal(&kept, &limits, sizeof(kept));
	assert_false(ox_stats_kept_limits(NULL, &kept));
	ox_stats_close(stats);
	assert_int_equal(look().room.waiting, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_a_request_is_counted_when_it_has_ended, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_an_error_moves_no_bytes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_latencies_fall_into_buckets_by_powers_of_two,
						setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_counters_go_on_after_a_death_and_what_was_in_flight_does_not, setup,
			teardown),
		cmocka_unit_test_setup_teardown(test_whatever_lies_there_is_only_wrong, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_what_could_be_cut_short_is_refused, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_nobody_counts_where_there_is_no_memory, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_limits_and_what_waits_are_told, setup,
						teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
