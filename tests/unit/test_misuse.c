/* SPDX-License-Identifier: MIT */
/* Programs that call the public API with nonsense: each is told so, or stopped as documented. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* the ones above first: cmocka.h needs them */
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "oxbow.h"

#define KIB UINT64_C(1024)
#define MIB (1024 * KIB)
#define DISK_BYTES (64 * MIB)
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static struct ox_context *ctx;
static char dir[] = "/tmp/ox-test-misuse-XXXXXX";
static char old_dir[4096];

static int setup(void **state)
{
	struct ox_create_options opts = OX_CREATE_OPTIONS_INIT;

	(void)state;
	opts.format = "qcow2";
	opts.virtual_bytes = DISK_BYTES;
	if (ox_context_new(OX_ENGINE_DEFAULT, &ctx, NULL) < 0)
		return -1;
	return ox_image_create(ctx, "disk.qcow2", &opts, NULL);
}

static int teardown(void **state)
{
	(void)state;
	ox_context_free(ctx);
	unlink("disk.qcow2");
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

/* The call failed with this code, and its message has these words. */
static void assert_refused(int r, int code, struct ox_error **err, const char *words)
{
	assert_int_equal(r, code);
	if (!strstr(ox_error_message(*err), words))
		fail_msg("\"%s\" has not \"%s\"", ox_error_message(*err), words);
	ox_error_free(*err);
	*err = NULL;
}

/* ---- options ---- */

static void open_refused(const struct ox_open_options *opts, int code, const char *words)
{
	struct ox_image_info *info = (void *)dir;
	struct ox_image *image = (void *)dir;
	struct ox_error *err = NULL;

	assert_refused(ox_image_open(ctx, "disk.qcow2", opts, &image, &err), code, &err, words);
	assert_refused(ox_image_open_fd(ctx, 0, "disk.qcow2", opts, &image, &err), code, &err,
		       words);
	assert_refused(ox_image_info_read(ctx, "disk.qcow2", opts, &info, &err), code, &err, words);
	assert_ptr_equal(image, dir);
	assert_ptr_equal(info, dir);
}

static void check_refused(const struct ox_check_options *opts, int code, const char *words)
{
	struct ox_check_result result;
	struct ox_error *err = NULL;

	assert_refused(ox_image_check(ctx, "disk.qcow2", opts, &result, &err), code, &err, words);
}

static void create_refused(const struct ox_create_options *opts, int code, const char *words)
{
	struct ox_error *err = NULL;

	assert_refused(ox_image_create(ctx, "new", opts, &err), code, &err, words);
	assert_int_equal(access("new", F_OK), -1);
}

static void undo_refused(const struct ox_undo_options *opts, int code, const char *words)
{
	struct ox_undo_result result;
	struct ox_error *err = NULL;

	assert_refused(ox_image_undo(ctx, "undo", "disk.qcow2", opts, &result, &err), code, &err,
		       words);
}

static void layout_refused(const struct ox_layout_options *opts, int code, const char *words)
{
	struct ox_image_layout *layout = (void *)dir;
	struct ox_error *err = NULL;

	assert_refused(ox_image_layout_read(ctx, "disk.qcow2", opts, &layout, &err), code, &err,
		       words);
	assert_ptr_equal(layout, dir);
}

static struct ox_open_options good_open(void)
{
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;

	opts.format = "qcow2";
	return opts;
}

static void unknown_values_of_open_options_are_refused(void **state)
{
	struct ox_open_options opts = good_open();

	(void)state;
	opts.cache = (enum ox_cache_mode)99;
	open_refused(&opts, -EINVAL, "cache of struct ox_open_options is 99");
	opts = good_open();
	opts.cache = (enum ox_cache_mode) - 1;
	open_refused(&opts, -EINVAL, "cache of struct ox_open_options is -1");
	opts = good_open();
	opts.backing_policy = (enum ox_backing_policy)99;
	open_refused(&opts, -EINVAL, "backing_policy");
	opts = good_open();
	opts.recover = (enum ox_recover_mode)(OX_RECOVER_NEVER + 1);
	open_refused(&opts, -EINVAL, "recover");
	for (unsigned bit = OX_OPEN_PROBE << 1; bit; bit <<= 1) {
		opts = good_open();
		opts.flags = OX_OPEN_READ_ONLY | bit;
		open_refused(&opts, -EINVAL, "flags");
	}
}

static void unknown_values_of_other_options_are_refused(void **state)
{
	struct ox_check_options check = OX_CHECK_OPTIONS_INIT;
	struct ox_create_options create = OX_CREATE_OPTIONS_INIT;
	struct ox_layout_options layout = OX_LAYOUT_OPTIONS_INIT;
	const unsigned char two = 2;

	(void)state;
	check.flags = OX_OPEN_PROBE;
	check_refused(&check, -EINVAL, "flags");
	check = (struct ox_check_options)OX_CHECK_OPTIONS_INIT;
	check.repair = (enum ox_repair)3;
	check_refused(&check, -EINVAL, "repair");
	check = (struct ox_check_options)OX_CHECK_OPTIONS_INIT;
	check.cache = (enum ox_cache_mode)5;
	check_refused(&check, -EINVAL, "cache");
	check = (struct ox_check_options)OX_CHECK_OPTIONS_INIT;
	memcpy(&check.salvage, &two, 1);
	check_refused(&check, -EINVAL, "salvage");
	check = (struct ox_check_options)OX_CHECK_OPTIONS_INIT;
	check.repair = OX_REPAIR_ALL;
	check.salvage = true;
	check.link_count = 1;
	check_refused(&check, -EINVAL, "link_count");
	create.format = "qcow2";
	create.virtual_bytes = MIB;
	create.preallocation = (enum ox_preallocation)4;
	create_refused(&create, -EINVAL, "preallocation");
	layout.flags = OX_OPEN_READ_ONLY;
	layout_refused(&layout, -EINVAL, "flags");
}

static void options_without_a_size_are_refused_by_name(void **state)
{
	struct ox_open_options open = {.format = "qcow2"};
	struct ox_create_options create = {.format = "qcow2", .virtual_bytes = MIB};
	struct ox_check_options check = {.format = "qcow2"};
	struct ox_undo_options undo = {.force = true};
	struct ox_layout_options layout = {.format = "qcow2"};

	(void)state;
	open_refused(&open, -EINVAL, "OX_OPEN_OPTIONS_INIT");
	open.struct_size = sizeof(size_t) - 1;
	open_refused(&open, -EINVAL, "OX_OPEN_OPTIONS_INIT");
	create_refused(&create, -EINVAL, "OX_CREATE_OPTIONS_INIT");
	check_refused(&check, -EINVAL, "OX_CHECK_OPTIONS_INIT");
	undo_refused(&undo, -EINVAL, "OX_UNDO_OPTIONS_INIT");
	layout_refused(&layout, -EINVAL, "OX_LAYOUT_OPTIONS_INIT");
}

/* A newer program that asks for what this library does not have must not believe it was done. */
static void fields_behind_the_known_ones_must_be_zero(void **state)
{
	struct {
		struct ox_open_options opts;
		char later[64];
	} longer = {.opts = {.struct_size = sizeof(longer), .format = "qcow2"}};
	struct ox_image *image;

	(void)state;
	for (size_t i = 0; i < sizeof(longer.later); i++) {
		longer.later[i] = 1;
		open_refused(&longer.opts, -E2BIG, "does not know");
		longer.later[i] = 0;
	}
	assert_int_equal(ox_image_open(ctx, "disk.qcow2", &longer.opts, &image, NULL), 0);
	assert_int_equal(ox_image_close(image, NULL), 0);
	longer.opts.struct_size = SIZE_MAX; /* nothing is read there */
	open_refused(&longer.opts, -E2BIG, "struct_size");
}

static void what_is_not_named_is_not_looked_for(void **state)
{
	struct ox_open_options opts = good_open();
	struct ox_check_result result;
	struct ox_undo_result undone;
	struct ox_image_layout *layout;
	struct ox_image_info *info;
	struct ox_image *image;
	struct ox_error *err = NULL;
	struct ox_create_options create = OX_CREATE_OPTIONS_INIT;
	int fd = open("disk.qcow2", O_RDWR | O_CLOEXEC);

	(void)state;
	create.format = "raw";
	assert_refused(ox_image_open(ctx, NULL, &opts, &image, &err), -EINVAL, &err, "No name");
	assert_refused(ox_image_open_fd(ctx, fd, NULL, &opts, &image, &err), -EINVAL, &err,
		       "No name");
	assert_refused(ox_image_check(ctx, NULL, NULL, &result, &err), -EINVAL, &err, "No name");
	assert_refused(ox_image_undo(ctx, NULL, "disk.qcow2", NULL, &undone, &err), -EINVAL, &err,
		       "No name");
	assert_refused(ox_image_layout_read(ctx, NULL, NULL, &layout, &err), -EINVAL, &err,
		       "No name");
	assert_refused(ox_image_info_read(ctx, NULL, &opts, &info, &err), -EINVAL, &err, "No name");
	assert_refused(ox_image_create(ctx, NULL, &create, &err), -EINVAL, &err, "No name");
	close(fd);
}

/* Sizes that no memory holds fail like any other lack of it, or are cut to what is of use. */
static void caches_of_absurd_sizes_do_no_harm(void **state)
{
	const uint64_t sizes[] = {1, UINT64_MAX, UINT64_C(1) << 63, UINT64_MAX - 4095};
	char buf[512];

	(void)state;
	for (size_t i = 0; i < COUNT(sizes); i++) {
		struct ox_open_options opts = good_open();
		struct ox_error *err = NULL;
		struct ox_image *image;
		int r;

		opts.l2_cache_bytes = sizes[i];
		opts.refcount_cache_bytes = sizes[i];
		r = ox_image_open(ctx, "disk.qcow2", &opts, &image, &err);
		if (r < 0) {
			assert_true(strlen(ox_error_message(err)) > 0);
			ox_error_free(err);
			continue;
		}
		memset(buf, 1, sizeof(buf));
		assert_int_equal(ox_pwrite(image, buf, sizeof(buf), MIB, OX_REQ_FUA), 0);
		assert_int_equal(ox_pread(image, buf, sizeof(buf), MIB), 0);
		assert_int_equal(ox_image_close(image, NULL), 0);
	}
}

static void there_is_no_engine_and_no_cache_mode_of_another_number(void **state)
{
	struct ox_context *other = (void *)dir;
	struct ox_error *err = NULL;
	enum ox_cache_mode mode = OX_CACHE_UNSAFE;

	(void)state;
	assert_refused(ox_context_new((enum ox_engine)3, &other, &err), -EINVAL, &err, "engine");
	assert_refused(ox_context_new((enum ox_engine) - 1, &other, &err), -EINVAL, &err, "engine");
	assert_ptr_equal(other, dir);
	assert_int_equal(ox_cache_mode_parse("", &mode), -EINVAL);
	assert_int_equal(ox_cache_mode_parse(NULL, &mode), -EINVAL);
	assert_int_equal(mode, OX_CACHE_UNSAFE);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(unknown_values_of_open_options_are_refused),
		TEST(unknown_values_of_other_options_are_refused),
		TEST(options_without_a_size_are_refused_by_name),
		TEST(fields_behind_the_known_ones_must_be_zero),
		TEST(what_is_not_named_is_not_looked_for),
		TEST(caches_of_absurd_sizes_do_no_harm),
		TEST(there_is_no_engine_and_no_cache_mode_of_another_number),
	};

	return cmocka_run_group_tests_name("misuse", tests, enter_dir, leave_dir);
}
