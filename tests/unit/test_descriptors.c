/* SPDX-License-Identifier: MIT */
/* Images without a name, known by a descriptor alone, and the facts of an image that is open. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* the ones above first: cmocka.h needs them */
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "oxbow.h"

#define KIB UINT64_C(1024)
#define MIB (1024 * KIB)
#define DISK_BYTES (64 * MIB)
#define BLOCK 4096u

static struct ox_context *ctx;
static int fd; /* a file that has no name any more */

static int setup(void **state)
{
	char path[] = "/tmp/ox-test-descriptors-XXXXXX";

	(void)state;
	fd = mkostemp(path, O_CLOEXEC);
	if (fd < 0 || unlink(path) < 0)
		return -1;
	return ox_context_new(OX_ENGINE_DEFAULT, &ctx, NULL);
}

static int teardown(void **state)
{
	(void)state;
	ox_context_free(ctx);
	return close(fd);
}

static int create(const char *format, bool lazy)
{
	struct ox_create_options opts = OX_CREATE_OPTIONS_INIT;

	opts.format = format;
	opts.virtual_bytes = DISK_BYTES;
	opts.lazy_refcounts = lazy;
	return ox_image_create_fd(ctx, fd, "the disk", &opts, NULL);
}

static struct ox_image *open_disk(unsigned flags)
{
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;
	struct ox_image *image;

	opts.format = "qcow2";
	opts.flags = flags;
	assert_int_equal(ox_image_open_fd(ctx, fd, "the disk", &opts, &image, NULL), 0);
	return image;
}

static int write_block(struct ox_image *image, uint64_t offset)
{
	char buf[BLOCK];

	memset(buf, 'x', sizeof(buf));
	return ox_pwrite(image, buf, sizeof(buf), offset, OX_REQ_FUA);
}

static void a_disk_is_made_used_and_checked_by_descriptor(void **state)
{
	struct ox_check_options opts = OX_CHECK_OPTIONS_INIT;
	struct ox_check_result result;
	struct ox_image_info *info;
	struct ox_open_options how = OX_OPEN_OPTIONS_INIT;
	struct ox_image_layout *layout;
	struct ox_image *image;

	(void)state;
	assert_int_equal(create("qcow2", false), 0);
	image = open_disk(0);
	assert_int_equal(write_block(image, 3 * MIB), 0);
	assert_int_equal(ox_image_close(image, NULL), 0);
	assert_int_equal(ox_image_check_fd(ctx, fd, "the disk", &opts, &result, NULL), 0);
	assert_string_equal(result.format, "qcow2");
	assert_int_equal(result.allocated_clusters, 1);
	assert_int_equal(result.corruptions + result.check_errors, 0);
	how.flags = OX_OPEN_PROBE;
	assert_int_equal(ox_image_info_read_fd(ctx, fd, "the disk", &how, &info, NULL), 0);
	assert_string_equal(info->filename, "the disk");
	assert_string_equal(info->format, "qcow2");
	assert_int_equal(info->virtual_bytes, DISK_BYTES);
	assert_true(info->actual_bytes > 0);
	ox_image_info_free(info);
	assert_int_equal(ox_image_layout_read_fd(ctx, fd, "the disk", NULL, &layout, NULL), 0);
	assert_int_equal(layout->virtual_bytes, DISK_BYTES);
	assert_int_equal(layout->data_bytes, 64 * KIB);
	ox_image_layout_free(layout);
}

static void a_repair_by_descriptor_mends(void **state)
{
	struct ox_check_options opts = OX_CHECK_OPTIONS_INIT;
	struct ox_check_result result;
	struct ox_image *image;
	uint64_t none = 0;

	(void)state;
	assert_int_equal(create("qcow2", false), 0);
	image = open_disk(0);
	assert_int_equal(write_block(image, 0), 0);
	assert_int_equal(ox_image_close(image, NULL), 0);
	/* all counts of the first block: the second cluster is the refcount table's */
	assert_int_equal(pwrite(fd, &none, sizeof(none), 128 * KIB), sizeof(none));
	opts.repair = OX_REPAIR_ALL;
	assert_int_equal(ox_image_check_fd(ctx, fd, "the disk", &opts, &result, NULL), 0);
	assert_true(result.corruptions_fixed > 0);
	opts.repair = OX_REPAIR_NONE;
	assert_int_equal(ox_image_check_fd(ctx, fd, "the disk", &opts, &result, NULL), 0);
	assert_int_equal(result.corruptions + result.check_errors + result.leaks, 0);
}

static void what_a_descriptor_held_is_gone_once_an_image_is_made_in_it(void **state)
{
	struct stat st;
	char byte = 1;

	(void)state;
	assert_int_equal(pwrite(fd, "text", 4, 10 * MIB), 4);
	assert_int_equal(create("qcow2", false), 0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_true(st.st_size < (off_t)MIB);
	assert_int_equal(create("raw", false), 0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, DISK_BYTES);
	assert_int_equal(pread(fd, &byte, 1, 0), 1);
	assert_int_equal(byte, 0);
}

static void a_read_only_descriptor_takes_no_new_image_and_no_repair(void **state)
{
	struct ox_create_options make = OX_CREATE_OPTIONS_INIT;
	struct ox_check_options opts = OX_CHECK_OPTIONS_INIT;
	struct ox_check_result result;
	struct ox_error *err = NULL;
	char path[32];
	int reader;

	(void)state;
	assert_int_equal(create("qcow2", false), 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	reader = open(path, O_RDONLY | O_CLOEXEC);
	make.format = "qcow2";
	assert_int_equal(ox_image_create_fd(ctx, reader, "the disk", &make, &err), -EACCES);
	assert_non_null(strstr(ox_error_message(err), "the disk"));
	ox_error_free(err);
	assert_int_equal(ox_image_check_fd(ctx, reader, "the disk", &opts, &result, NULL), 0);
	opts.repair = OX_REPAIR_ALL;
	assert_int_equal(ox_image_check_fd(ctx, reader, "the disk", &opts, &result, NULL), -EACCES);
	close(reader);
	assert_int_equal(ox_image_create_fd(ctx, reader, "the disk", &make, NULL), -EBADF);
}

static struct ox_image_info *info_of(struct ox_image *image)
{
	struct ox_image_info *info;

	assert_int_equal(ox_image_info_get(image, &info, NULL), 0);
	return info;
}

static void the_facts_of_an_open_image_follow_it(void **state)
{
	struct ox_image *image;
	struct ox_image_info *before;
	struct ox_image_info *after;

	(void)state;
	assert_int_equal(create("qcow2", true), 0);
	image = open_disk(0);
	before = info_of(image);
	assert_false(before->dirty);
	assert_true(before->lazy_refcounts);
	assert_int_equal(before->virtual_bytes, DISK_BYTES);
	assert_int_equal(write_block(image, 0), 0);
	assert_int_equal(ox_resize(image, 2 * DISK_BYTES, NULL), 0);
	after = info_of(image);
	assert_true(after->dirty);
	assert_int_equal(after->virtual_bytes, 2 * DISK_BYTES);
	assert_true(after->file_bytes > before->file_bytes);
	ox_image_info_free(before);
	ox_image_info_free(after);
	assert_int_equal(ox_image_close(image, NULL), 0);
}

static void the_facts_of_an_open_raw_image_are_its_lengths(void **state)
{
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;
	struct ox_image_info *info;
	struct ox_image *image;

	(void)state;
	assert_int_equal(create("raw", false), 0);
	opts.format = "raw";
	assert_int_equal(ox_image_open_fd(ctx, fd, "the disk", &opts, &image, NULL), 0);
	info = info_of(image);
	assert_string_equal(info->format, "raw");
	assert_string_equal(info->filename, "the disk");
	assert_int_equal(info->file_bytes, DISK_BYTES);
	assert_true(info->actual_bytes < DISK_BYTES);
	ox_image_info_free(info);
	assert_int_equal(ox_image_close(image, NULL), 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_disk_is_made_used_and_checked_by_descriptor),
		TEST(a_repair_by_descriptor_mends),
		TEST(what_a_descriptor_held_is_gone_once_an_image_is_made_in_it),
		TEST(a_read_only_descriptor_takes_no_new_image_and_no_repair),
		TEST(the_facts_of_an_open_image_follow_it),
		TEST(the_facts_of_an_open_raw_image_are_its_lengths),
	};

	return cmocka_run_group_tests_name("descriptors", tests, NULL, NULL);
}
