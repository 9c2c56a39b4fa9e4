/* SPDX-License-Identifier: MIT */
/* What an image in use tells of damage and failures, and how it fences itself off. */
#include "task_test.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/endian.h"
#include "fmt/qcow2.h"
#include "img/img.h"
#include "watched_io.h"

#define CLUSTER 65536u
#define DISK_BYTES (UINT64_C(1) << 30)
#define FAR_AWAY (UINT64_C(600) << 20) /* another table than guest 0's */

static struct ox_io *store;
static struct ox_image *image;
static struct ox_notice told[16];
static char words[16][256];
static unsigned told_count;

static void on_notice(void *opaque, const struct ox_notice *notice)
{
	assert_ptr_equal(opaque, &told_count);
	assert_true(told_count < 16);
	snprintf(words[told_count], sizeof(words[0]), "%s", notice->message);
	told[told_count++] = *notice;
}

static int setup(void **state)
{
	(void)state;
	told_count = 0;
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
	ox_notice_listen(image, on_notice, &told_count);
}

static int write_co(uint64_t offset, char byte)
{
	static char buf[CLUSTER];
	struct iovec v = {buf, sizeof(buf)};

	memset(buf, byte, sizeof(buf));
	return ox_img_pwritev_co(image, &v, 1, offset, 0);
}

static int read_co(uint64_t offset)
{
	static char buf[CLUSTER];
	struct iovec v = {buf, sizeof(buf)};

	return ox_img_preadv_co(image, &v, 1, offset);
}

/* An image with data in two clusters of guest 0's table, closed. */
static void make_image_co(unsigned version)
{
	struct ox_create_options create = OX_CREATE_OPTIONS_INIT;

	store = watched_io_open(reactor, 0);
	create.format = "qcow2";
	create.virtual_bytes = DISK_BYTES;
	create.cluster_bytes = CLUSTER;
	create.version = version;
	assert_int_equal(ox_qcow2_create_co(store, &create, NULL), 0);
	open_co();
	assert_int_equal(write_co(0, 'a'), 0);
	assert_int_equal(write_co(CLUSTER, 'b'), 0);
	assert_int_equal(ox_img_close_co(image, NULL), 0);
}

static void end_co(void)
{
	(void)ox_img_close_co(image, NULL);
	watched_io_close(store);
}

static struct ox_be64 *at(uint64_t offset)
{
	return (struct ox_be64 *)(void *)(watched_bytes(store) + offset);
}

static uint64_t l1_at(void)
{
	return ox_be64_get(*at(40));
}

/* Where guest 0's table is. */
static uint64_t table_at(void)
{
	return ox_be64_get(*at(l1_at())) & OX_QCOW2_OFFSET_MASK;
}

static void check_told(unsigned index, enum ox_notice_kind kind, const char *finding,
		       uint64_t host_offset, uint64_t guest_offset, uint64_t guest_length)
{
	assert_true(index < told_count);
	assert_int_equal(told[index].kind, kind);
	if (finding)
		assert_string_equal(told[index].finding, finding);
	else
		assert_null(told[index].finding);
	assert_int_equal(told[index].host_offset, host_offset);
	assert_int_equal(told[index].guest_offset, guest_offset);
	assert_int_equal(told[index].guest_length, guest_length);
	assert_true(told[index].error < 0);
	if (finding)
		assert_non_null(strstr(words[index], finding));
}

static void a_damaged_l2_entry_is_told_with_its_place_co(void *arg)
{
	static const struct {
		uint64_t raw;
		const char *finding;
	} cases[] = {
		{OX_QCOW2_COPIED | 0x50002, "l2-entry-reserved-bits"},
		{OX_QCOW2_COPIED | 0x50200, "l2-entry-unaligned"},
		{OX_QCOW2_COPIED, "l2-entry-copied-empty"},
		{OX_QCOW2_COPIED | UINT64_C(0x700000000000), "past-end"},
	};

	(void)arg;
	for (size_t i = 0; i < 4; i++) {
		make_image_co(3);
		*at(table_at() + 8) = ox_be64(cases[i].raw);
		open_co();
		told_count = 0;
		assert_int_equal(read_co(0), 0);
		assert_int_equal(told_count, 0);
		assert_int_equal(read_co(CLUSTER), -EIO);
		assert_int_equal(told_count, 1);
		check_told(0, OX_NOTICE_DAMAGE, cases[i].finding, table_at() + 8, CLUSTER, CLUSTER);
		assert_int_equal(ox_notice_count(image), 1);
		end_co();
	}
}

static void a_damaged_l1_entry_is_told_with_its_range_co(void *arg)
{
	const uint64_t span = UINT64_C(512) << 20;

	(void)arg;
	make_image_co(3);
	*at(l1_at() + 8) = ox_be64(OX_QCOW2_COPIED | 0x70200);
	open_co();
	assert_int_equal(read_co(FAR_AWAY), -EIO);
	assert_int_equal(told_count, 1);
	check_told(0, OX_NOTICE_DAMAGE, "l1-entry-unaligned", l1_at() + 8, span, span);
	end_co();
}

static void await_fence_co(void)
{
	while (image->ops->error(image) == 0)
		ox_co_yield_co();
}

static bool is_marked(void)
{
	return ox_be64_get(*at(72)) & OX_QCOW2_INCOMPAT_CORRUPT;
}

static void a_write_over_a_table_fences_the_image_off_co(void *arg)
{
	uint64_t entry;

	(void)arg;
	make_image_co(3);
	*at(table_at() + 8) = ox_be64(OX_QCOW2_COPIED | table_at());
	entry = table_at() + 16;
	open_co();
	/* Reading it harms nobody. */
	assert_int_equal(read_co(CLUSTER), -EIO);
	let_others_run_co();
	assert_false(is_marked());
	assert_int_equal(write_co(UINT64_C(2) * CLUSTER, 'c'), 0);
	assert_int_equal(ox_be64_get(*at(entry)), 0); /* accepted, and not on disk yet */
	told_count = 0;
	assert_int_equal(write_co(CLUSTER, 'X'), -EIO);
	assert_int_equal(told_count, 2);
	check_told(0, OX_NOTICE_DAMAGE, "metadata-overlap", table_at() + 8, CLUSTER, CLUSTER);
	check_told(1, OX_NOTICE_REFUSED, "metadata-overlap", 0, CLUSTER, CLUSTER);
	await_fence_co();
	assert_true(is_marked());
	assert_int_not_equal(ox_be64_get(*at(entry)), 0); /* what was accepted is there */
	/* Nothing is written any more, and that is no news. */
	assert_int_equal(write_co(0, 'Y'), -EIO);
	assert_int_equal(ox_img_discard_co(image, 0, CLUSTER), -EIO);
	assert_true(ox_img_flush_co(image) < 0);
	assert_int_equal(told_count, 2);
	assert_int_equal(read_co(0), 0);
	assert_int_equal(read_co(UINT64_C(2) * CLUSTER), 0);
	assert_true(ox_img_close_co(image, NULL) < 0);
	assert_true(is_marked());
	watched_io_close(store);
}

static void version_2_is_fenced_off_without_a_bit_co(void *arg)
{
	(void)arg;
	make_image_co(2);
	*at(table_at() + 8) = ox_be64(OX_QCOW2_COPIED | table_at());
	open_co();
	assert_int_equal(write_co(CLUSTER, 'X'), -EIO);
	await_fence_co();
	assert_int_equal(write_co(0, 'Y'), -EIO);
	assert_int_equal(read_co(0), 0);
	end_co();
}

static void a_discard_of_a_table_fences_the_image_off_co(void *arg)
{
	(void)arg;
	make_image_co(3);
	*at(table_at() + 8) = ox_be64(OX_QCOW2_COPIED | table_at());
	open_co();
	assert_int_equal(ox_img_discard_co(image, CLUSTER, CLUSTER), -EIO);
	check_told(1, OX_NOTICE_REFUSED, "metadata-overlap", 0, CLUSTER, CLUSTER);
	await_fence_co();
	assert_true(is_marked());
	end_co();
}

static void a_failed_sync_is_told_once_co(void *arg)
{
	(void)arg;
	make_image_co(3);
	open_co();
	assert_int_equal(write_co(0, 'c'), 0);
	assert_int_equal(write_co(FAR_AWAY, 'd'), 0);
	watched.sync_error = -EIO;
	assert_int_equal(ox_img_flush_co(image), -EIO);
	assert_int_equal(told_count, 1);
	check_told(0, OX_NOTICE_POISONED, NULL, 0, 0, 0);
	watched.sync_error = 0;
	assert_int_equal(write_co(0, 'e'), -EIO);
	assert_int_equal(ox_img_flush_co(image), -EIO);
	assert_int_equal(told_count, 1);
	end_co();
}

static void a_full_disk_is_told_with_the_range_co(void *arg)
{
	(void)arg;
	make_image_co(3);
	open_co();
	watched.write_error = -ENOSPC;
	assert_int_equal(write_co(CLUSTER, 'c'), -ENOSPC);
	watched.write_error = 0;
	assert_int_equal(told_count, 1);
	check_told(0, OX_NOTICE_NO_SPACE, NULL, 0, CLUSTER, CLUSTER);
	end_co();
}

static void a_read_that_the_host_fails_is_told_with_the_range_co(void *arg)
{
	(void)arg;
	make_image_co(3);
	open_co();
	assert_int_equal(read_co(CLUSTER), 0);
	watched.read_error = -EIO;
	assert_int_equal(read_co(CLUSTER), -EIO);
	watched.read_error = 0;
	assert_int_equal(told_count, 1);
	check_told(0, OX_NOTICE_IO_ERROR, NULL, 0, CLUSTER, CLUSTER);
	end_co();
}

static void what_the_caller_did_wrong_is_no_news_co(void *arg)
{
	(void)arg;
	make_image_co(3);
	open_co();
	assert_int_equal(read_co(DISK_BYTES), -EINVAL);
	assert_int_equal(write_co(DISK_BYTES, 'x'), -EINVAL);
	assert_int_equal(ox_img_zero_co(image, 0, 512, OX_REQ_FAST_ZERO), -ENOTSUP);
	assert_int_equal(told_count, 0);
	end_co();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TASK_TEST(a_damaged_l2_entry_is_told_with_its_place),
		TASK_TEST(a_damaged_l1_entry_is_told_with_its_range),
		TASK_TEST(a_write_over_a_table_fences_the_image_off),
		TASK_TEST(version_2_is_fenced_off_without_a_bit),
		TASK_TEST(a_discard_of_a_table_fences_the_image_off),
		TASK_TEST(a_failed_sync_is_told_once),
		TASK_TEST(a_full_disk_is_told_with_the_range),
		TASK_TEST(a_read_that_the_host_fails_is_told_with_the_range),
		TASK_TEST(what_the_caller_did_wrong_is_no_news),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
