/* SPDX-License-Identifier: MIT */
/* Images under construction whose processes die at their marks, over real files: nothing but
 * oxbow.h is included. What a power cut leaves: test_build_cuts.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* the ones above first: cmocka.h needs them */
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "oxbow.h"

#define MIB (UINT64_C(1) << 20)
#define DISK_BYTES (2 * MIB)
#define CLUSTER 65536u
#define DIED 42
#define MOST_LIVES 200u
/* So slow that marks are told meanwhile. */
#define RATE_BYTES (24 * MIB)

static const char *const formats[] = {"qcow2", "qed", "raw"};

static char dir[] = "/tmp/ox-test-build-XXXXXX";
static char old_dir[4096];
static unsigned marks_left; /* 0: it does not die */
static unsigned flags;

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

static int remove_files(void **state)
{
	static const char *const names[] = {"source", "new", "clean", "new.oxbow-resume"};

	(void)state;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		unlink(names[i]);
	return 0;
}

static int make_source(void **state)
{
	uint8_t *bytes = malloc(DISK_BYTES);
	int fd = open("source", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	ssize_t n;

	(void)state;
	for (uint64_t at = 0; bytes && at < DISK_BYTES; at++)
		bytes[at] = at / CLUSTER % 5 == 3 ? 0 : (uint8_t)(at / 512 * 7 + 1);
	n = bytes ? write(fd, bytes, DISK_BYTES) : -1;
	free(bytes);
	return close(fd) == 0 && n == (ssize_t)DISK_BYTES ? 0 : -1;
}

static unsigned file_count(void)
{
	DIR *folder = opendir(".");
	unsigned n = 0;

	assert_non_null(folder);
	while (readdir(folder))
		n++;
	closedir(folder);
	return n - 2;
}

static int mark(void *opaque, uint64_t offset)
{
	bool further = offset > ox_build_start(opaque) && offset < DISK_BYTES;
	int r = ox_build_mark(opaque, offset);

	if (r == 0 && further && marks_left > 0 && --marks_left == 0)
		_exit(DIED);
	return r;
}

static struct ox_image *open_image(struct ox_context *ctx, const char *path, const char *format)
{
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;
	struct ox_image *image = NULL;

	opts.format = format;
	opts.flags = OX_OPEN_READ_ONLY;
	assert_int_equal(ox_image_open(ctx, path, &opts, &image, NULL), 0);
	return image;
}

static int convert(struct ox_context *ctx, const char *path, const char *format)
{
	struct ox_create_options create = OX_CREATE_OPTIONS_INIT;
	struct ox_open_options open = OX_OPEN_OPTIONS_INIT;
	struct ox_build_options opts = OX_BUILD_OPTIONS_INIT;
	struct ox_copy_options copy = OX_COPY_OPTIONS_INIT;
	struct ox_image *source = open_image(ctx, "source", "raw");
	struct ox_build *build;
	int r;

	create.format = format;
	create.virtual_bytes = DISK_BYTES;
	open.format = format;
	opts.create = flags & OX_BUILD_EXISTING ? NULL : &create;
	opts.open = &open;
	opts.flags = OX_BUILD_RESUME | flags;
	r = ox_build_begin(ctx, path, &opts, &build, NULL);
	if (r == 0) {
		copy.flags = ox_build_is_new(build) ? OX_COPY_TARGET_IS_NEW : 0;
		copy.memory_bytes = 4 * CLUSTER;
		copy.start = ox_build_start(build);
		copy.rate_bytes = RATE_BYTES;
		copy.mark = mark;
		copy.mark_ms = 1;
		copy.opaque = build;
		r = ox_copy(source, ox_build_image(build), &copy, NULL, NULL);
		if (r == 0)
			r = ox_build_publish(build, NULL);
		else
			ox_build_abandon(build);
	}
	assert_int_equal(ox_image_close(source, NULL), 0);
	return r;
}

/* A process of its own, that dies at a mark (0: does not). 0, DIED, or 1 where it fails. */
static int live(const char *path, const char *format, unsigned dies_at)
{
	struct ox_context *ctx;
	int status = 0;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		marks_left = dies_at;
		if (ox_context_new(OX_ENGINE_DEFAULT, &ctx, NULL) < 0)
			_exit(1);
		_exit(convert(ctx, path, format) < 0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void check_unfinished(const char *format)
{
	char first[4] = "none";
	int fd = open("new", O_RDONLY | O_CLOEXEC);

	if (strcmp(format, "raw") == 0) {
		assert_int_equal(fd, -1);
		return;
	}
	assert_int_equal(read(fd, first, sizeof(first)), sizeof(first));
	assert_memory_equal(first, "\0\0\0\0", sizeof(first));
	close(fd);
}

static void check_finished(const char *format)
{
	struct ox_check_options opts = OX_CHECK_OPTIONS_INIT;
	struct ox_check_result result = {0};
	struct ox_context *ctx;
	struct ox_image *source;
	struct ox_image *image;
	struct stat clean;
	struct stat now;

	assert_int_equal(ox_context_new(OX_ENGINE_DEFAULT, &ctx, NULL), 0);
	source = open_image(ctx, "source", "raw");
	image = open_image(ctx, "new", format);
	assert_int_equal(ox_copy_verify(source, image, NULL, &(uint64_t){0}, NULL), 0);
	assert_int_equal(ox_image_close(source, NULL), 0);
	assert_int_equal(ox_image_close(image, NULL), 0);
	opts.format = format;
	if (strcmp(format, "raw") != 0) {
		assert_int_equal(ox_image_check(ctx, "new", &opts, &result, NULL), 0);
		assert_int_equal(result.corruptions + result.check_errors + result.leaks, 0);
	}
	ox_context_free(ctx);
	assert_int_equal(stat("clean", &clean), 0);
	assert_int_equal(stat("new", &now), 0);
	assert_true(now.st_size <= clean.st_size + CLUSTER);
	assert_int_equal(file_count(), 3); /* the source and both images */
}

static void test_work_whose_processes_die_at_their_marks_comes_to_its_end(void **state)
{
	(void)state;
	flags = 0;
	for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
		for (unsigned dies_at = 1; dies_at <= 3; dies_at += 2) {
			unsigned lives = 0;
			int how;

			assert_int_equal(live("clean", formats[i], 0), 0);
			while ((how = live("new", formats[i], dies_at)) == DIED) {
				check_unfinished(formats[i]);
				assert_true(++lives < MOST_LIVES);
			}
			assert_int_equal(how, 0);
			assert_true(lives > 0 || dies_at > 1);
			check_finished(formats[i]);
			unlink("new");
			unlink("clean");
		}
	}
}

static void test_another_file_of_the_same_name_is_not_gone_on_with(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		const char *format = i ? "raw" : "qcow2";

		flags = i ? OX_BUILD_EXISTING : 0;
		assert_int_equal(truncate("clean", 0) < 0 && errno == ENOENT, 1);
		close(open("new", O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
		assert_int_equal(truncate("new", DISK_BYTES), 0);
		assert_int_equal(live("new", format, 1), DIED);
		assert_int_equal(rename("new", "clean"), 0);
		close(open("new", O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
		assert_int_equal(truncate("new", DISK_BYTES), 0);
		assert_int_equal(live("new", format, 0), 1);
		/* The one it was killed on is. */
		assert_int_equal(rename("clean", "new"), 0);
		assert_int_equal(live("new", format, 0), 0);
		unlink("new");
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			test_work_whose_processes_die_at_their_marks_comes_to_its_end, make_source,
			remove_files),
		cmocka_unit_test_setup_teardown(
			test_another_file_of_the_same_name_is_not_gone_on_with, make_source,
			remove_files),
	};

	return cmocka_run_group_tests(tests, enter_dir, leave_dir);
}
