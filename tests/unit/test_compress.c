/* SPDX-License-Identifier: MIT */
/* Compressed writes: where streams lie, how their clusters are counted, what becomes of them. */
#include "task_test.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/iov.h"
#include "img/img.h"
#include "img/qcow2/qcow2.h"

#define CLUSTER 4096u
#define DISK ((UINT64_C(1) << 26) + 1536)
#define SECOND UINT64_C(1000000000)

static struct ox_io *store;
static struct ox_image *image;
static struct ox_qcow2 *q;
static uint8_t buf[64 * CLUSTER];
static uint8_t back[64 * CLUSTER];

static int setup(void **state)
{
	static uint64_t seed;

	(void)state;
	return ox_reactor_create_simulated(++seed, &reactor);
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
	q = ox_qcow2_of(image);
}

static void make_image_co(bool lazy, unsigned refcount_bits)
{
	struct ox_create_options create = OX_CREATE_OPTIONS_INIT;

	create.format = "qcow2";
	create.virtual_bytes = DISK;
	create.cluster_bytes = CLUSTER;
	create.lazy_refcounts = lazy;
	create.refcount_bits = refcount_bits;
	assert_int_equal(ox_io_memory_open(reactor, 0, &store), 0);
	assert_int_equal(ox_qcow2_create_co(store, &create, NULL), 0);
	open_co();
}

/* Bytes of which some are noise: a stream takes a fourth of a cluster or so. */
static void fill(uint8_t *at, size_t bytes, unsigned seed)
{
	for (size_t i = 0; i < bytes; i++) {
		seed = seed * 1103515245 + 12345;
		at[i] = i % 8 < 1 ? (uint8_t)(seed >> 16) : 0;
	}
}

static int write_at_co(uint64_t offset, uint64_t bytes, unsigned seed, unsigned flags)
{
	struct iovec v = {buf, bytes};

	fill(buf, bytes, seed);
	return ox_img_pwritev_co(image, &v, 1, offset, flags);
}

static void compress_co(uint64_t cluster, uint64_t count, unsigned seed)
{
	assert_int_equal(write_at_co(cluster * CLUSTER, count * CLUSTER, seed, OX_REQ_COMPRESSED),
			 0);
}

static void check_reads_co(uint64_t cluster, uint64_t count, unsigned seed)
{
	struct iovec v = {back, count * CLUSTER};

	fill(buf, count * CLUSTER, seed);
	assert_int_equal(ox_img_preadv_co(image, &v, 1, cluster * CLUSTER), 0);
	assert_memory_equal(back, buf, count * CLUSTER);
}

static struct ox_map_run run_of_co(uint64_t cluster)
{
	struct ox_map_run run;

	assert_int_equal(ox_map_lookup_co(&q->m, ox_guest(cluster * CLUSTER), CLUSTER, &run), 0);
	return run;
}

static uint64_t host_cluster_co(uint64_t cluster)
{
	struct ox_map_run run = run_of_co(cluster);

	assert_int_equal(run.kind, OX_MAP_COMPRESSED);
	return run.host.bytes / CLUSTER;
}

static uint64_t count_of_co(uint64_t host_cluster)
{
	uint64_t count;

	assert_int_equal(ox_refcount_get_co(q, host_cluster, &count), 0);
	return count;
}

static void finish_co(void)
{
	assert_int_equal(ox_img_close_co(image, NULL), 0);
}

/* Every host cluster is counted as often as the guest's streams and clusters [0, most) lie in it,
 * and open once more. */
static void check_counts_co(uint64_t most, uint64_t open)
{
	static uint16_t named[1 << 16];

	memset(named, 0, sizeof(named));
	for (uint64_t i = 0; i < most; i++) {
		struct ox_map_run run = run_of_co(i);
		uint64_t bytes = run.kind == OX_MAP_COMPRESSED ? run.compressed_bytes : CLUSTER;

		if (run.kind != OX_MAP_COMPRESSED && run.kind != OX_MAP_DATA)
			continue;
		for (uint64_t c = run.host.bytes / CLUSTER;
		     c <= (run.host.bytes + bytes - 1) / CLUSTER; c++)
			named[c]++;
	}
	for (uint64_t c = 0; c < OX_ARRAY_SIZE(named); c++) {
		if (named[c] > 0)
			assert_int_equal(count_of_co(c), named[c] + (c == open));
	}
}

static void streams_lie_one_behind_the_other_co(void *arg)
{
	struct ox_map_run last;

	(void)arg;
	for (int lazy = 0; lazy < 2; lazy++) {
		make_image_co(lazy, 16);
		for (unsigned i = 0; i < 5; i++)
			compress_co(i * 7, 7, i);
		last = run_of_co(0);
		for (uint64_t i = 1; i < 35; i++) {
			struct ox_map_run run = run_of_co(i);

			assert_int_equal(run.kind, OX_MAP_COMPRESSED);
			assert_true(run.host.bytes > last.host.bytes);
			assert_true(run.host.bytes <= last.host.bytes + last.compressed_bytes);
			last = run;
		}
		for (unsigned i = 0; i < 5; i++)
			check_reads_co(i * 7, 7, i);
		check_counts_co(40, q->pack.cluster);
		finish_co();
	}
}

static void the_open_cluster_is_given_up_when_the_guest_is_idle_co(void *arg)
{
	uint64_t open;

	(void)arg;
	for (int lazy = 0; lazy < 2; lazy++) {
		make_image_co(lazy, 16);
		compress_co(0, 3, 1);
		open = q->pack.cluster;
		assert_int_not_equal(open, 0);
		ox_reactor_sleep_co(12 * SECOND);
		assert_int_equal(q->pack.cluster, 0);
		assert_int_equal(q->m.dirty.state, OX_DIRTY_CLEAN);
		assert_false(ox_cache_is_busy(&q->counts));
		check_counts_co(8, 0);
		compress_co(3, 2, 2); /* goes on in another one */
		assert_true(host_cluster_co(3) > open);
		check_counts_co(8, q->pack.cluster);
		finish_co();
	}
}

/* Nobody else is given it, and its bytes are not punched. */
static void the_open_cluster_stays_though_all_in_it_is_overwritten_co(void *arg)
{
	uint64_t open;

	(void)arg;
	make_image_co(false, 16);
	compress_co(0, 1, 1);
	open = q->pack.cluster;
	assert_int_equal(write_at_co(0, CLUSTER, 2, 0), 0);
	assert_int_equal(ox_img_flush_co(image), 0);
	let_others_run_co();
	assert_int_equal(q->pack.cluster, open);
	assert_int_equal(count_of_co(open), 1);
	for (unsigned i = 1; i < 64; i++)
		assert_int_equal(write_at_co(i * CLUSTER, CLUSTER, i, 0), 0);
	compress_co(64, 1, 3);
	assert_int_equal(host_cluster_co(64), open);
	check_reads_co(64, 1, 3);
	check_reads_co(0, 1, 2);
	check_counts_co(80, open);
	finish_co();
}

static void what_is_overwritten_is_freed_co(void *arg)
{
	static const unsigned kinds[] = {0, OX_REQ_COMPRESSED};

	(void)arg;
	for (unsigned k = 0; k < OX_ARRAY_SIZE(kinds); k++) {
		for (unsigned l = 0; l < OX_ARRAY_SIZE(kinds); l++) {
			make_image_co(false, 16);
			assert_int_equal(write_at_co(0, 40 * CLUSTER, 1, kinds[k]), 0);
			assert_int_equal(write_at_co(0, 40 * CLUSTER, 2, kinds[l]), 0);
			check_reads_co(0, 40, 2);
			assert_int_equal(ox_img_flush_co(image), 0);
			ox_reactor_sleep_co(12 * SECOND);
			check_reads_co(0, 40, 2);
			check_counts_co(64, 0);
			finish_co();
		}
	}
}

/* What is kept of a decompressed cluster is known by its entry, which comes again. */
static void a_stream_where_a_freed_one_was_is_read_anew_co(void *arg)
{
	uint64_t entry;

	(void)arg;
	make_image_co(false, 16);
	compress_co(0, 1, 1);
	entry = run_of_co(0).entry;
	check_reads_co(0, 1, 1);
	assert_int_equal(ox_img_discard_co(image, 0, CLUSTER), 0);
	assert_int_equal(ox_img_flush_co(image), 0);
	ox_reactor_sleep_co(12 * SECOND);
	compress_co(0, 1, 2);
	assert_true(run_of_co(0).entry == entry);
	check_reads_co(0, 1, 2);
	finish_co();
}

static void a_count_of_one_bit_has_a_cluster_for_each_stream_co(void *arg)
{
	static const unsigned bits[] = {1, 2, 64};

	(void)arg;
	for (unsigned i = 0; i < OX_ARRAY_SIZE(bits); i++) {
		make_image_co(true, bits[i]);
		memset(buf, 0, 20 * CLUSTER);
		for (unsigned n = 0; n < 20; n++) {
			struct iovec v = {buf, CLUSTER};

			assert_int_equal(
				ox_img_pwritev_co(image, &v, 1, n * CLUSTER, OX_REQ_COMPRESSED), 0);
		}
		check_counts_co(32, q->pack.cluster);
		assert_int_equal(host_cluster_co(0) == host_cluster_co(1), bits[i] > 1);
		assert_int_equal(host_cluster_co(0) == host_cluster_co(10), bits[i] > 2);
		finish_co();
	}
}

static void noise_is_stored_as_it_is_co(void *arg)
{
	struct iovec v = {buf, 8 * CLUSTER};
	unsigned seed = 1;

	(void)arg;
	make_image_co(false, 16);
	fill(buf, 8 * CLUSTER, 1);
	for (size_t i = 2 * CLUSTER; i < 5 * CLUSTER; i++) {
		seed = seed * 1103515245 + 12345;
		buf[i] = (uint8_t)(seed >> 16);
	}
	assert_int_equal(ox_img_pwritev_co(image, &v, 1, 0, OX_REQ_COMPRESSED | OX_REQ_FUA), 0);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(run_of_co(i).kind,
				 i >= 2 && i < 5 ? OX_MAP_DATA : OX_MAP_COMPRESSED);
	v.iov_base = back;
	assert_int_equal(ox_img_preadv_co(image, &v, 1, 0), 0);
	assert_memory_equal(back, buf, 8 * CLUSTER);
	check_counts_co(16, q->pack.cluster);
	finish_co();
}

static void a_cluster_may_lie_in_many_pieces_of_memory_co(void *arg)
{
	struct iovec v[70];

	(void)arg;
	make_image_co(false, 16);
	fill(buf, 8 * CLUSTER, 1);
	for (unsigned i = 0; i < 70; i++)
		v[i] = (struct iovec){buf + i * 468, i < 69 ? 468 : 8 * CLUSTER - 69 * 468};
	assert_int_equal(ox_img_pwritev_co(image, v, 70, 0, OX_REQ_COMPRESSED), 0);
	check_reads_co(0, 8, 1);
	finish_co();
}

static void ranges_that_are_not_whole_clusters_are_refused_co(void *arg)
{
	const uint64_t last = DISK / CLUSTER * CLUSTER;
	struct iovec v = {back, DISK - last};

	(void)arg;
	make_image_co(false, 16);
	assert_int_equal(write_at_co(512, CLUSTER, 1, OX_REQ_COMPRESSED), -EINVAL);
	assert_int_equal(write_at_co(0, 512, 1, OX_REQ_COMPRESSED), -EINVAL);
	assert_int_equal(write_at_co(0, CLUSTER + 512, 1, OX_REQ_COMPRESSED), -EINVAL);
	assert_int_equal(write_at_co(last, CLUSTER, 1, OX_REQ_COMPRESSED), -EINVAL);
	assert_int_equal(write_at_co(last, DISK - last, 1, OX_REQ_COMPRESSED), 0);
	assert_int_equal(ox_img_preadv_co(image, &v, 1, last), 0);
	assert_memory_equal(back, buf, DISK - last);
	finish_co();
}

static unsigned under_way;

static void writer_co(void *arg)
{
	unsigned number = (unsigned)(uintptr_t)arg;
	struct iovec v = {calloc(4, CLUSTER), (size_t)4 * CLUSTER};

	assert_non_null(v.iov_base);
	fill(v.iov_base, v.iov_len, number);
	assert_int_equal(ox_img_pwritev_co(image, &v, 1, number * v.iov_len, OX_REQ_COMPRESSED), 0);
	free(v.iov_base);
	under_way--;
}

/* Their order in the file is that in which they began, whatever a thread makes of it. */
static void many_at_once_lie_in_the_order_in_which_they_began_co(void *arg)
{
	const unsigned writers = 24;
	uint64_t last = 0;

	(void)arg;
	make_image_co(true, 16);
	compress_co(1000, 1, 1); /* later the order of the first steps is not the tasks' own */
	for (unsigned i = 0; i < writers; i++) {
		uint64_t before = q->pack.begun;

		under_way++;
		spawn(writer_co, (void *)(uintptr_t)i);
		while (q->pack.begun == before)
			ox_co_yield_co();
	}
	while (under_way > 0)
		ox_reactor_sleep_co(SECOND / 1000);
	for (unsigned i = 0; i < 4 * writers; i++) {
		struct ox_map_run run = run_of_co(i);

		assert_true(run.host.bytes > last);
		last = run.host.bytes;
	}
	for (unsigned i = 0; i < writers; i++)
		check_reads_co(i * 4, 4, i);
	check_counts_co(1024, q->pack.cluster);
	finish_co();
}

/* Over each other, in part, with discards and plain writes between them. */
static void requests_at_random_keep_bytes_and_counts_co(void *arg)
{
	static unsigned seeds[64];
	unsigned draw = 7;

	(void)arg;
	make_image_co(false, 16);
	memset(seeds, 0, sizeof(seeds));
	for (unsigned step = 1; step < 600; step++) {
		uint64_t first;
		uint64_t count;

		draw = draw * 1103515245 + 12345;
		first = (draw >> 8) % 60;
		count = 1 + (draw >> 16) % 4;
		if (draw >> 20 & 3)
			assert_int_equal(write_at_co(first * CLUSTER, count * CLUSTER, step,
						     draw >> 22 & 1 ? OX_REQ_COMPRESSED : 0),
					 0);
		else
			assert_int_equal(ox_img_zero_co(image, first * CLUSTER, count * CLUSTER, 0),
					 0);
		for (uint64_t i = 0; i < count; i++)
			seeds[first + i] = draw >> 20 & 3 && i == 0 ? step : 0;
		if (step % 50 == 0)
			assert_int_equal(ox_img_flush_co(image), 0);
		if (step % 100 == 0) {
			ox_reactor_sleep_co(12 * SECOND);
			check_counts_co(64, 0);
		}
	}
	for (unsigned i = 0; i < 64; i++) {
		if (seeds[i] > 0)
			check_reads_co(i, 1, seeds[i]);
	}
	finish_co();
}

/* ---- neighbours ---- */

static const struct ox_io_ops *plenty_ops;
static unsigned refused;

/* A stream alone takes less. */
static int64_t scarce_preadv_co(struct ox_io *io, const struct iovec *iov, int n, uint64_t offset)
{
	if (ox_iov_bytes(iov, n) > 2048) {
		refused++;
		return -ENOMEM;
	}
	return plenty_ops->preadv_co(io, iov, n, offset);
}

static void memory_that_is_short_for_many_streams_may_do_for_each_co(void *arg)
{
	struct ox_io_ops scarce_ops;

	(void)arg;
	make_image_co(false, 16);
	compress_co(0, 32, 3);
	plenty_ops = store->ops;
	scarce_ops = *plenty_ops;
	scarce_ops.preadv_co = scarce_preadv_co;
	store->ops = &scarce_ops;
	refused = 0;
	check_reads_co(0, 32, 3);
	assert_true(refused > 1);
	store->ops = plenty_ops;
	finish_co();
}

/* ---- read ahead ---- */

/* A sector of the cluster, of count that were written with seed 1; returns how many reads of the
 * store it took. */
static uint64_t read_a_part_co(uint64_t cluster, uint64_t count)
{
	struct iovec v = {back, 512};
	uint64_t before = store->counts[OX_IO_COUNT_READS];

	fill(buf, count * CLUSTER, 1);
	assert_int_equal(ox_img_preadv_co(image, &v, 1, cluster * CLUSTER + 1024), 0);
	assert_memory_equal(back, buf + cluster * CLUSTER + 1024, 512);
	return store->counts[OX_IO_COUNT_READS] - before;
}

static void who_reads_in_order_finds_the_next_clusters_read_co(void *arg)
{
	unsigned ahead = ox_aio_workers(reactor) - 1;

	(void)arg;
	make_image_co(false, 16);
	compress_co(0, 16, 1);
	assert_in_range(ahead, 2, 4);
	assert_int_equal(read_a_part_co(0, 16), 1);
	assert_int_equal(read_a_part_co(1, 16), 1);
	assert_int_equal(read_a_part_co(2, 16), 1 + ahead);
	for (unsigned i = 0; i < ahead; i++)
		assert_int_equal(read_a_part_co(3 + i, 16), 0);
	assert_int_equal(read_a_part_co(3 + ahead, 16), 1 + ahead);
	/* who jumps about does not */
	for (unsigned i = 0; i < 16; i += 2)
		(void)read_a_part_co(i, 16);
	assert_int_equal(read_a_part_co(1, 16), 1);
	finish_co();
}

static void nothing_is_read_ahead_past_the_last_stream_co(void *arg)
{
	(void)arg;
	make_image_co(false, 16);
	compress_co(0, 4, 1);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(read_a_part_co(i, 4), i == 2 ? 2 : i < 2);
	finish_co();
}

/* Its entry may change, and the stream be freed (H4). Who waited for it would wait for a request
 * that has nothing to do with its own. */
static void what_a_writer_has_is_not_read_ahead_co(void *arg)
{
	struct ox_range range;

	(void)arg;
	make_image_co(false, 16);
	compress_co(0, 16, 1);
	ox_mapped_lock_co(&q->m, &range, UINT64_C(3) * CLUSTER, CLUSTER, true);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(read_a_part_co(i, 16), 1);
	ox_rangelock_release(&q->m.guest, &range);
	finish_co();
}

static void damage_is_met_where_it_is_asked_for_co(void *arg)
{
	struct iovec v = {back, 512};
	struct ox_map_run run;

	(void)arg;
	make_image_co(false, 16);
	compress_co(0, 16, 1);
	run = run_of_co(4);
	assert_int_equal(ox_img_flush_co(image), 0);
	memset(ox_io_memory_bytes(store) + run.host.bytes, 0xff, 64);
	for (unsigned i = 0; i < 4; i++)
		(void)read_a_part_co(i, 16);
	assert_int_equal(image->notices.count, 0);
	assert_int_equal(ox_img_preadv_co(image, &v, 1, UINT64_C(4) * CLUSTER), -EIO);
	assert_int_equal(image->notices.count, 1);
	finish_co();
}

/* A group is one read and one visit to a worker thread. */
static void neighbours_are_read_together_co(void *arg)
{
	struct iovec v = {back, UINT64_C(32) * CLUSTER};
	uint64_t before;
	uint64_t each = 32 / (2 * ox_aio_workers(reactor));

	(void)arg;
	make_image_co(false, 16);
	compress_co(0, 32, 1);
	check_reads_co(0, 1, 1);
	before = store->counts[OX_IO_COUNT_READS];
	check_reads_co(0, 32, 1);
	assert_in_range(store->counts[OX_IO_COUNT_READS] - before, 1, 32 / each);
	/* one that lies elsewhere parts them */
	compress_co(9, 1, 1);
	assert_int_equal(ox_img_preadv_co(image, &v, 1, 0), 0);
	fill(buf, CLUSTER, 1);
	assert_memory_equal(back + UINT64_C(9) * CLUSTER, buf, CLUSTER);
	fill(buf, UINT64_C(32) * CLUSTER, 1);
	assert_memory_equal(back, buf, UINT64_C(9) * CLUSTER);
	assert_memory_equal(back + UINT64_C(10) * CLUSTER, buf + UINT64_C(10) * CLUSTER,
			    UINT64_C(22) * CLUSTER);
	finish_co();
}

static void of_neighbours_the_damaged_one_is_met_co(void *arg)
{
	struct iovec v = {back, UINT64_C(32) * CLUSTER};
	struct ox_map_run run;

	(void)arg;
	make_image_co(false, 16);
	compress_co(0, 32, 1);
	run = run_of_co(5);
	assert_int_equal(ox_img_flush_co(image), 0);
	memset(ox_io_memory_bytes(store) + run.host.bytes, 0xff, 64);
	assert_int_equal(ox_img_preadv_co(image, &v, 1, 0), -EIO);
	assert_int_equal(image->notices.count, 1);
	for (unsigned i = 0; i < 32; i++) {
		v.iov_len = CLUSTER;
		assert_int_equal(ox_img_preadv_co(image, &v, 1, UINT64_C(1) * i * CLUSTER),
				 i == 5 ? -EIO : 0);
	}
	finish_co();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TASK_TEST(streams_lie_one_behind_the_other),
		TASK_TEST(the_open_cluster_is_given_up_when_the_guest_is_idle),
		TASK_TEST(the_open_cluster_stays_though_all_in_it_is_overwritten),
		TASK_TEST(what_is_overwritten_is_freed),
		TASK_TEST(a_stream_where_a_freed_one_was_is_read_anew),
		TASK_TEST(a_count_of_one_bit_has_a_cluster_for_each_stream),
		TASK_TEST(noise_is_stored_as_it_is),
		TASK_TEST(a_cluster_may_lie_in_many_pieces_of_memory),
		TASK_TEST(ranges_that_are_not_whole_clusters_are_refused),
		TASK_TEST(many_at_once_lie_in_the_order_in_which_they_began),
		TASK_TEST(who_reads_in_order_finds_the_next_clusters_read),
		TASK_TEST(nothing_is_read_ahead_past_the_last_stream),
		TASK_TEST(what_a_writer_has_is_not_read_ahead),
		TASK_TEST(damage_is_met_where_it_is_asked_for),
		TASK_TEST(neighbours_are_read_together),
		TASK_TEST(of_neighbours_the_damaged_one_is_met),
		TASK_TEST(requests_at_random_keep_bytes_and_counts),
		TASK_TEST(memory_that_is_short_for_many_streams_may_do_for_each),
	};

	return cmocka_run_group_tests_name("compress", tests, NULL, NULL);
}
