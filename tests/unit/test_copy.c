/* SPDX-License-Identifier: MIT */
/* Copying, as a program of somebody else's asks for it: nothing but oxbow.h is included. */
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
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "oxbow.h"

#define KIB UINT64_C(1024)
#define MIB (1024 * KIB)
#define TIB (1024 * 1024 * MIB)
#define DISK (6 * MIB)

static struct ox_context *ctx;
static char dir[] = "/tmp/ox-test-copy-XXXXXX";
static char old_dir[4096];

static int setup(void **state)
{
	(void)state;
	return ox_context_new(OX_ENGINE_DEFAULT, &ctx, NULL);
}

static int teardown(void **state)
{
	static const char *const names[] = {"a", "b", "c", "base"};

	(void)state;
	ox_context_free(ctx);
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		unlink(names[i]);
	return 0;
}

static int enter_dir(void **state)
{
	(void)state;
	if (!getcwd(old_dir, sizeof(old_dir)) || !mkdtemp(dir))
		return -1;
	return chdir(dir);
}

static int leave_dir(void **state)
{
	(void)state;
	return chdir(old_dir) < 0 ? -1 : rmdir(dir);
}

static struct ox_image *open_image(const char *path, const char *format)
{
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;
	struct ox_image *image;

	opts.format = format;
	opts.backing_policy = OX_BACKING_ALLOW;
	assert_int_equal(ox_image_open(ctx, path, &opts, &image, NULL), 0);
	return image;
}

static struct ox_image *make_over(const char *path, const char *format, uint64_t bytes,
				  const char *backing)
{
	struct ox_create_options opts = OX_CREATE_OPTIONS_INIT;

	opts.format = format;
	opts.virtual_bytes = bytes;
	opts.backing_file = backing;
	opts.backing_format = backing ? "raw" : NULL;
	assert_int_equal(ox_image_create(ctx, path, &opts, NULL), 0);
	return open_image(path, format);
}

static struct ox_image *make(const char *path, const char *format, uint64_t bytes)
{
	return make_over(path, format, bytes, NULL);
}

static void put(struct ox_image *image, uint64_t offset, uint64_t length, int byte)
{
	char *buf = malloc(length);

	assert_non_null(buf);
	memset(buf, byte, length);
	assert_int_equal(ox_pwrite(image, buf, length, offset, 0), 0);
	free(buf);
}

static void check(struct ox_image *image, uint64_t offset, uint64_t length, int byte)
{
	char *buf = malloc(length);

	assert_non_null(buf);
	assert_int_equal(ox_pread(image, buf, length, offset), 0);
	for (uint64_t i = 0; i < length; i++)
		assert_int_equal(buf[i], byte);
	free(buf);
}

static void same(struct ox_image *a, struct ox_image *b)
{
	uint64_t where = 0;

	assert_int_equal(ox_copy_verify(a, b, NULL, &where, NULL), 0);
}

static void close_both(struct ox_image *a, struct ox_image *b)
{
	assert_int_equal(ox_image_close(a, NULL), 0);
	assert_int_equal(ox_image_close(b, NULL), 0);
}

/* Data of all lengths, next to holes of all lengths. */
static void scatter(struct ox_image *image)
{
	uint64_t size = ox_image_size(image);
	unsigned seed = 1;

	for (uint64_t at = 512; at < size;) {
		uint64_t n = 512 * (1 + (unsigned)rand_r(&seed) % (rand_r(&seed) % 2 ? 400 : 9));

		if (n > size - at)
			n = size - at;
		put(image, at, n, 1 + rand_r(&seed) % 100);
		at += n + 512 * ((unsigned)rand_r(&seed) % (rand_r(&seed) % 2 ? 600 : 12));
	}
}

static uint64_t actual_bytes(struct ox_image *image)
{
	struct ox_image_info *info;
	uint64_t bytes;

	assert_int_equal(ox_image_info_get(image, &info, NULL), 0);
	bytes = info->actual_bytes;
	ox_image_info_free(info);
	return bytes;
}

static void test_a_copy_reads_as_its_source_whatever_the_formats(void **state)
{
	static const char *const formats[] = {"raw", "qcow2", "qed"};

	(void)state;
	for (size_t i = 0; i < 9; i++) {
		struct ox_copy_options opts = OX_COPY_OPTIONS_INIT;
		struct ox_copy_result result;
		struct ox_image *a = make("a", formats[i / 3], DISK);
		struct ox_image *b = make("b", formats[i % 3], DISK);

		scatter(a);
		opts.flags = OX_COPY_TARGET_IS_NEW | (i % 2 ? OX_COPY_ANY_ORDER : 0);
		assert_int_equal(ox_copy(a, b, &opts, &result, NULL), 0);
		same(a, b);
		assert_int_equal(result.data_bytes + result.skipped_bytes, DISK);
		assert_int_equal(result.zero_bytes + result.unreadable_bytes, 0);
		close_both(a, b);
	}
}

static void test_a_target_with_old_bytes_reads_as_the_source_as_well(void **state)
{
	static const char *const formats[] = {"raw", "qcow2", "qed"};

	(void)state;
	for (size_t i = 0; i < 3; i++) {
		struct ox_copy_result result;
		struct ox_image *a = make("a", "qcow2", DISK);
		struct ox_image *b = make("b", formats[i], DISK + MIB);

		scatter(a);
		put(b, 0, DISK + MIB, 0x55);
		assert_int_equal(ox_copy(a, b, NULL, &result, NULL), 0);
		same(a, b);
		check(b, DISK, MIB, 0x55);
		assert_true(result.zero_bytes > 0);
		close_both(a, b);
	}
}

static void test_what_a_target_has_as_zeroes_is_not_written(void **state)
{
	struct ox_copy_result result;
	struct ox_image *a = make("a", "qcow2", 8 * TIB);
	struct ox_image *b = make("b", "qcow2", 8 * TIB);
	uint64_t before = actual_bytes(b);

	(void)state;
	assert_int_equal(ox_copy(a, b, NULL, &result, NULL), 0);
	assert_int_equal(result.skipped_bytes, 8 * TIB);
	assert_true(actual_bytes(b) <= before);
	close_both(a, b);
}

static void test_zeroes_within_data_take_no_space(void **state)
{
	struct ox_copy_options opts = OX_COPY_OPTIONS_INIT;
	struct ox_image *a = make("a", "raw", DISK);
	struct ox_image *b = make("b", "raw", DISK);

	(void)state;
	put(a, 0, DISK, 0);
	put(a, MIB, 4096, 7);
	opts.flags = OX_COPY_TARGET_IS_NEW;
	assert_int_equal(ox_copy(a, b, &opts, NULL, NULL), 0);
	same(a, b);
	assert_true(actual_bytes(b) <= 64 * KIB);
	close_both(a, b);
}

static void test_a_copy_may_allocate_all(void **state)
{
	struct ox_copy_options opts = OX_COPY_OPTIONS_INIT;
	struct ox_image *a = make("a", "qcow2", DISK);
	struct ox_image *b = make("b", "raw", DISK);

	(void)state;
	put(a, MIB, 4096, 7);
	opts.flags = OX_COPY_TARGET_IS_NEW | OX_COPY_ALLOCATE;
	assert_int_equal(ox_copy(a, b, &opts, NULL, NULL), 0);
	same(a, b);
	assert_true(actual_bytes(b) >= DISK);
	close_both(a, b);
}

static void test_only_the_top_of_a_chain_is_copied_where_the_rest_is_there(void **state)
{
	struct ox_copy_options opts = OX_COPY_OPTIONS_INIT;
	struct ox_image *base = make("base", "raw", DISK);
	struct ox_image *a, *b;
	struct ox_copy_result result;

	(void)state;
	put(base, 0, DISK, 9);
	assert_int_equal(ox_image_close(base, NULL), 0);
	a = make_over("a", "qcow2", DISK, "base");
	put(a, 3 * MIB, 100 * KIB, 1);
	assert_int_equal(ox_write_zeroes(a, 4 * MIB, MIB, 0), 0);
	b = make_over("b", "qcow2", DISK, "base");
	opts.flags = OX_COPY_TOP_ONLY;
	assert_int_equal(ox_copy(a, b, &opts, &result, NULL), 0);
	same(a, b);
	assert_true(result.data_bytes <= 256 * KIB);
	assert_int_equal(result.zero_bytes, MIB);
	close_both(a, b);
}

static void test_several_sources_follow_each_other(void **state)
{
	struct ox_copy_options opts = OX_COPY_OPTIONS_INIT;
	struct ox_image *a = make("a", "raw", 1536);
	struct ox_image *c = make("c", "qcow2", MIB);
	struct ox_image *more[] = {c, a};
	struct ox_image *b = make("b", "qcow2", 1536 + MIB + 1536);

	(void)state;
	put(a, 0, 1536, 1);
	put(c, 512, MIB - 512, 2);
	opts.more_sources = more;
	opts.more_count = 2;
	opts.flags = OX_COPY_TARGET_IS_NEW;
	assert_int_equal(ox_copy(a, b, &opts, NULL, NULL), 0);
	check(b, 0, 1536, 1);
	check(b, 1536, 512, 0);
	check(b, 2048, MIB - 512, 2);
	check(b, 1536 + MIB, 1536, 1);
	assert_int_equal(ox_image_close(c, NULL), 0);
	close_both(a, b);
}

static int give_up(void *opaque)
{
	(void)opaque;
	return 1;
}

static int mark(void *opaque, uint64_t offset)
{
	*(uint64_t *)opaque = offset;
	return -ESTALE;
}

static void test_a_copy_is_given_up_and_fails_where_it_must(void **state)
{
	struct ox_copy_options opts = OX_COPY_OPTIONS_INIT;
	struct ox_image *a = make("a", "raw", DISK);
	struct ox_image *b = make("b", "qcow2", DISK - MIB);
	struct ox_error *err = NULL;
	struct ox_job *job;
	uint64_t marked = UINT64_MAX;

	(void)state;
	put(a, 0, DISK, 1);
	assert_int_equal(ox_copy(a, b, NULL, NULL, &err), -EINVAL);
	assert_string_equal(ox_error_message(err), "output file is smaller than input file");
	ox_error_free(err);
	assert_int_equal(ox_copy(a, a, NULL, NULL, NULL), -EINVAL);
	assert_int_equal(ox_resize(b, DISK, NULL), 0);
	opts.interrupted = give_up;
	assert_int_equal(ox_copy(a, b, &opts, NULL, NULL), -ECANCELED);
	opts.interrupted = NULL;
	opts.flags = 1u << 31;
	assert_int_equal(ox_copy(a, b, &opts, NULL, NULL), -EINVAL);
	opts.flags = 0;
	assert_int_equal(ox_copy_start(a, b, &opts, NULL, &job, NULL), 0);
	assert_int_equal(ox_copy(a, b, &opts, NULL, NULL), -EBUSY);
	ox_job_cancel(job);
	while (!ox_job_is_done(job))
		assert_int_equal(ox_context_wait(ctx), 0);
	assert_int_equal(ox_job_end(job, NULL, NULL), -ECANCELED);
	opts.mark = mark;
	opts.mark_ms = 1;
	opts.opaque = &marked;
	opts.rate_bytes = 4 * MIB;
	assert_int_equal(ox_copy(a, b, &opts, NULL, NULL), -ESTALE);
	assert_true(marked < DISK);
	close_both(a, b);
}

static void test_a_copy_goes_on_from_a_mark(void **state)
{
	struct ox_copy_options opts = OX_COPY_OPTIONS_INIT;
	struct ox_image *a = make("a", "raw", DISK);
	struct ox_image *b = make("b", "qcow2", DISK);

	(void)state;
	put(a, 0, DISK, 1);
	opts.start = 3 * MIB + 512;
	opts.flags = OX_COPY_TARGET_IS_NEW;
	assert_int_equal(ox_copy(a, b, &opts, NULL, NULL), 0);
	check(b, 0, 3 * MIB + 512, 0);
	check(b, 3 * MIB + 512, DISK - 3 * MIB - 512, 1);
	close_both(a, b);
}

static void test_a_part_is_copied_to_the_beginning(void **state)
{
	struct ox_copy_options opts = OX_COPY_OPTIONS_INIT;
	struct ox_image *a = make("a", "qcow2", DISK);
	struct ox_image *b = make("b", "qcow2", DISK);
	uint64_t offset;

	(void)state;
	put(a, MIB, MIB, 1);
	put(a, 2 * MIB, MIB, 2);
	put(b, 0, DISK, 3);
	opts.source_offset = 2 * MIB - 1000;
	opts.source_length = MIB + 7;
	assert_int_equal(ox_copy(a, b, &opts, NULL, NULL), 0);
	check(b, 0, 1000, 1);
	check(b, 1000, MIB - 993, 2);
	check(b, MIB + 7, DISK - MIB - 7, 3);
	assert_int_equal(ox_copy_verify(a, b, &opts, &offset, NULL), 0);
	opts.source_offset++;
	assert_int_equal(ox_copy_verify(a, b, &opts, &offset, NULL), -EILSEQ);
	assert_int_equal(offset, 999);
	opts.source_offset = DISK - MIB;
	assert_int_equal(ox_copy(a, b, &opts, NULL, NULL), -EINVAL);
	opts.source_offset = DISK + 1;
	opts.source_length = 0;
	assert_int_equal(ox_copy(a, b, &opts, NULL, NULL), -EINVAL);
	close_both(a, b);
}

static void test_a_word_is_not_believed_against_what_the_target_says(void **state)
{
	struct ox_copy_options opts = OX_COPY_OPTIONS_INIT;
	struct ox_image *a = make("a", "qcow2", DISK);
	struct ox_image *b = make("b", "raw", DISK);

	(void)state;
	put(b, 0, DISK, 0x77);
	opts.flags = OX_COPY_TARGET_IS_ZERO;
	assert_int_equal(ox_copy(a, b, &opts, NULL, NULL), 0);
	check(b, 0, DISK, 0);
	close_both(a, b);
}

static void test_a_difference_is_found_where_it_is(void **state)
{
	struct ox_image *a = make("a", "qcow2", DISK);
	struct ox_image *b = make("b", "raw", DISK);
	uint64_t where = 0;

	(void)state;
	put(b, 4 * MIB + 77, 1, 1);
	put(b, 5 * MIB, 1, 1);
	assert_int_equal(ox_copy_verify(a, b, NULL, &where, NULL), -EILSEQ);
	assert_int_equal(where, 4 * MIB + 77);
	close_both(a, b);
}

static void test_a_copy_fits_into_little_memory(void **state)
{
	struct ox_copy_options opts = OX_COPY_OPTIONS_INIT;
	struct ox_image *a = make("a", "qcow2", DISK);
	struct ox_image *b = make("b", "qcow2", DISK);

	(void)state;
	scatter(a);
	opts.memory_bytes = 1;
	opts.tasks = 1;
	opts.flags = OX_COPY_TARGET_IS_NEW;
	assert_int_equal(ox_copy(a, b, &opts, NULL, NULL), 0);
	same(a, b);
	close_both(a, b);
}

#define TEST(claim) cmocka_unit_test_setup_teardown(claim, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_a_copy_reads_as_its_source_whatever_the_formats),
		TEST(test_a_target_with_old_bytes_reads_as_the_source_as_well),
		TEST(test_what_a_target_has_as_zeroes_is_not_written),
		TEST(test_zeroes_within_data_take_no_space),
		TEST(test_a_copy_may_allocate_all),
		TEST(test_only_the_top_of_a_chain_is_copied_where_the_rest_is_there),
		TEST(test_several_sources_follow_each_other),
		TEST(test_a_copy_is_given_up_and_fails_where_it_must),
		TEST(test_a_copy_goes_on_from_a_mark),
		TEST(test_a_part_is_copied_to_the_beginning),
		TEST(test_a_word_is_not_believed_against_what_the_target_says),
		TEST(test_a_difference_is_found_where_it_is),
		TEST(test_a_copy_fits_into_little_memory),
	};

	return cmocka_run_group_tests(tests, enter_dir, leave_dir);
}
