/* SPDX-License-Identifier: MIT */
/* Locks that the program holds itself, while the library uses the image: against other programs,
 * QEMU's among them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* the ones above first: cmocka.h needs them */
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "oxbow.h"

#define MIB (UINT64_C(1024) * 1024)

static struct ox_context *ctx;
static char dir[] = "/tmp/ox-test-held-XXXXXX";
static char top[64];
static char base[64];
static int top_fd;
static int base_fd;

static int setup(void **state)
{
	struct ox_create_options opts = OX_CREATE_OPTIONS_INIT;

	(void)state;
	strcpy(dir + strlen(dir) - 6, "XXXXXX");
	if (!mkdtemp(dir) || ox_context_new(OX_ENGINE_DEFAULT, &ctx, NULL) < 0)
		return -1;
	snprintf(top, sizeof(top), "%s/top.qcow2", dir);
	snprintf(base, sizeof(base), "%s/base.qcow2", dir);
	opts.format = "qcow2";
	opts.virtual_bytes = 4 * MIB;
	if (ox_image_create(ctx, base, &opts, NULL) < 0)
		return -1;
	opts.backing_file = "base.qcow2";
	opts.backing_format = "qcow2";
	if (ox_image_create(ctx, top, &opts, NULL) < 0)
		return -1;
	top_fd = open(top, O_RDWR | O_CLOEXEC);
	base_fd = open(base, O_RDONLY | O_CLOEXEC);
	return top_fd < 0 || base_fd < 0 ? -1 : 0;
}

static int teardown(void **state)
{
	(void)state;
	ox_context_free(ctx);
	return close(top_fd) | close(base_fd) | unlink(top) | unlink(base) | rmdir(dir);
}

/* ---- others ---- */

/* Whether qemu-io can open the image so. */
static bool qemu_opens(const char *path, const char *how)
{
	char command[256];
	int status;

	snprintf(command, sizeof(command),
		 "qemu-io %s -f qcow2 -c 'read 0 512' %s 2>&1 | grep -q 'read 512/512'", how, path);
	status = system(command);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) <= 1);
	return WEXITSTATUS(status) == 0;
}

/* The same of this library in another process, which takes locks of its own. */
static bool we_open(const char *path, unsigned flags)
{
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;
	struct ox_context *own;
	struct ox_image *image;
	int told[2];
	int r = -1;
	pid_t pid;

	assert_int_equal(pipe2(told, O_CLOEXEC), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		opts.format = "qcow2";
		opts.flags = flags | OX_OPEN_NO_BACKING;
		r = ox_context_new(OX_ENGINE_DEFAULT, &own, NULL);
		if (r == 0)
			r = ox_image_open(own, path, &opts, &image, NULL);
		if (write(told[1], &r, sizeof(r)) == sizeof(r))
			kill(getpid(), SIGKILL); /* an exit is looked at by checkers of leaks */
		_exit(1);
	}
	assert_int_equal(read(told[0], &r, sizeof(r)), sizeof(r));
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	close(told[0]);
	close(told[1]);
	assert_true(r == 0 || r == -EAGAIN);
	return r == 0;
}

static void assert_locked_for_writing(void)
{
	assert_false(qemu_opens(top, ""));
	assert_false(qemu_opens(top, "-r"));
	assert_false(we_open(top, 0));
	assert_false(we_open(top, OX_OPEN_READ_ONLY));
	assert_true(we_open(top, OX_OPEN_READ_ONLY | OX_OPEN_FORCE_SHARE));
}

/* ---- this program ---- */

static int lock(int fd, enum ox_lock have, enum ox_lock want)
{
	return ox_lock_fd(fd, "the disk", have, want, NULL);
}

static int open_file(void *opaque, const struct ox_file_wanted *wanted)
{
	(void)opaque;
	/* duplicates share the locks */
	return fcntl(wanted->depth == 0 ? top_fd : base_fd, F_DUPFD_CLOEXEC, 0);
}

static struct ox_open_options options(unsigned flags)
{
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;

	opts.format = "qcow2";
	opts.flags = flags;
	opts.backing_policy = OX_BACKING_ALLOW;
	opts.open_file = open_file;
	return opts;
}

static struct ox_image *open_held(int fd, unsigned flags)
{
	struct ox_open_options opts = options(flags | OX_OPEN_LOCKS_HELD);
	struct ox_image *image;

	assert_int_equal(ox_image_open_fd(ctx, fd, top, &opts, &image, NULL), 0);
	return image;
}

static void write_something(struct ox_image *image)
{
	char buf[512] = "x";

	assert_int_equal(ox_pwrite(image, buf, sizeof(buf), 0, OX_REQ_FUA), 0);
}

static void locks_of_the_caller_s_outlive_the_image(void **state)
{
	struct ox_image *image;

	(void)state;
	assert_int_equal(lock(top_fd, OX_LOCK_NONE, OX_LOCK_WRITE), 0);
	assert_int_equal(lock(base_fd, OX_LOCK_NONE, OX_LOCK_READ), 0);
	for (int i = 0; i < 2; i++) {
		image = open_held(top_fd, 0);
		write_something(image);
		assert_locked_for_writing();
		assert_false(qemu_opens(base, ""));
		assert_int_equal(ox_image_close(image, NULL), 0);
		assert_locked_for_writing();
		assert_false(qemu_opens(base, ""));
	}
	assert_int_equal(lock(top_fd, OX_LOCK_WRITE, OX_LOCK_NONE), 0);
	assert_int_equal(lock(base_fd, OX_LOCK_READ, OX_LOCK_NONE), 0);
	assert_true(qemu_opens(top, ""));
	assert_true(qemu_opens(base, ""));
}

static void locks_may_be_held_by_another_description(void **state)
{
	struct ox_open_options opts = options(0);
	int fresh = open(top, O_RDWR | O_CLOEXEC);
	struct ox_error *err = NULL;
	struct ox_image *image;

	(void)state;
	assert_int_equal(lock(top_fd, OX_LOCK_NONE, OX_LOCK_WRITE), 0);
	assert_int_equal(ox_image_open_fd(ctx, fresh, top, &opts, &image, NULL), -EAGAIN);
	image = open_held(fresh, 0);
	write_something(image);
	assert_int_equal(ox_image_close(image, NULL), 0);
	assert_int_equal(close(fresh), 0);
	assert_locked_for_writing();
	/* by path, there is no descriptor to hold anything for */
	opts = options(OX_OPEN_LOCKS_HELD);
	opts.open_file = NULL;
	assert_int_equal(ox_image_open(ctx, top, &opts, &image, &err), -EINVAL);
	assert_non_null(strstr(ox_error_message(err), "top.qcow2' is to be opened by its path"));
	ox_error_free(err);
}

static void without_the_flag_the_closing_gives_all_locks_up(void **state)
{
	struct ox_open_options opts = options(0);
	struct ox_image *image;

	(void)state;
	assert_int_equal(lock(top_fd, OX_LOCK_NONE, OX_LOCK_WRITE), 0);
	assert_int_equal(ox_image_open_fd(ctx, top_fd, top, &opts, &image, NULL), 0);
	assert_locked_for_writing();
	assert_int_equal(ox_image_close(image, NULL), 0);
	assert_true(qemu_opens(top, ""));
}

static void a_backing_file_opened_by_path_is_locked_by_the_library(void **state)
{
	struct ox_open_options opts = options(OX_OPEN_LOCKS_HELD);
	struct ox_image *image;

	(void)state;
	opts.open_file = NULL;
	assert_int_equal(lock(top_fd, OX_LOCK_NONE, OX_LOCK_WRITE), 0);
	assert_int_equal(ox_image_open_fd(ctx, top_fd, top, &opts, &image, NULL), 0);
	assert_false(qemu_opens(base, ""));
	assert_int_equal(ox_image_close(image, NULL), 0);
	assert_true(qemu_opens(base, ""));
	assert_locked_for_writing();
}

static void a_caller_s_image_is_reopened_under_the_caller_s_locks(void **state)
{
	struct ox_image *image;

	(void)state;
	assert_int_equal(lock(top_fd, OX_LOCK_NONE, OX_LOCK_READ), 0);
	image = open_held(top_fd, OX_OPEN_READ_ONLY);
	assert_true(qemu_opens(top, "-r"));
	assert_int_equal(lock(top_fd, OX_LOCK_READ, OX_LOCK_WRITE), 0);
	assert_int_equal(ox_image_reopen(image, false, NULL), 0);
	write_something(image);
	assert_locked_for_writing();
	assert_int_equal(ox_image_reopen(image, true, NULL), 0);
	assert_int_equal(lock(top_fd, OX_LOCK_WRITE, OX_LOCK_READ), 0);
	assert_true(qemu_opens(top, "-r"));
	assert_false(qemu_opens(top, ""));
	assert_int_equal(ox_image_close(image, NULL), 0);
	assert_int_equal(lock(top_fd, OX_LOCK_READ, OX_LOCK_SHARE), 0);
	assert_true(qemu_opens(top, ""));
}

static void checks_and_facts_leave_the_caller_s_locks(void **state)
{
	struct ox_check_options check = OX_CHECK_OPTIONS_INIT;
	struct ox_layout_options how = OX_LAYOUT_OPTIONS_INIT;
	struct ox_open_options opts = options(OX_OPEN_LOCKS_HELD);
	struct ox_check_result result;
	struct ox_image_layout *layout;
	struct ox_image_info *info;

	(void)state;
	check.flags = OX_OPEN_LOCKS_HELD;
	check.repair = OX_REPAIR_ALL;
	how.flags = OX_OPEN_LOCKS_HELD;
	assert_int_equal(lock(top_fd, OX_LOCK_NONE, OX_LOCK_WRITE), 0);
	assert_int_equal(ox_image_check_fd(ctx, top_fd, top, &check, &result, NULL), 0);
	assert_int_equal(ox_image_layout_read_fd(ctx, top_fd, top, &how, &layout, NULL), 0);
	ox_image_layout_free(layout);
	assert_int_equal(ox_image_info_read_fd(ctx, top_fd, top, &opts, &info, NULL), 0);
	ox_image_info_free(info);
	assert_locked_for_writing();
	assert_int_equal(ox_image_check(ctx, top, &check, &result, NULL), -EINVAL);
	assert_int_equal(ox_image_layout_read(ctx, top, &how, &layout, NULL), -EINVAL);
}

/* ---- what a holder of locks has besides ---- */

static int open_wanted(const char *path, unsigned depth, enum ox_backing_policy policy,
		       const char *under)
{
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;
	struct ox_file_wanted wanted = {.name = path, .path = path, .depth = depth};
	struct ox_error *err = NULL;
	int fd;

	wanted.read_only = depth > 0;
	opts.backing_policy = policy;
	opts.backing_dir = under;
	fd = ox_open_wanted(&wanted, &opts, &err);
	assert_true(fd >= 0 || strlen(ox_error_message(err)) > 0);
	ox_error_free(err);
	if (fd < 0)
		return fd;
	assert_int_equal(fcntl(fd, F_GETFL) & O_ACCMODE, depth > 0 ? O_RDONLY : O_RDWR);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	close(fd);
	return 0;
}

static void an_opener_opens_what_the_policy_allows(void **state)
{
	char gone[80];

	(void)state;
	snprintf(gone, sizeof(gone), "%s/gone", dir);
	assert_int_equal(open_wanted(top, 0, OX_BACKING_DENY, NULL), 0);
	assert_int_equal(open_wanted(gone, 0, OX_BACKING_DENY, NULL), -ENOENT);
	assert_int_equal(open_wanted(base, 1, OX_BACKING_DENY, NULL), -EACCES);
	assert_int_equal(open_wanted(base, 1, OX_BACKING_ALLOW, NULL), 0);
	assert_int_equal(open_wanted(base, 1, OX_BACKING_UNDER, dir), 0);
	assert_int_equal(open_wanted(base, 1, OX_BACKING_UNDER, "/usr"), -EACCES);
	assert_int_equal(open_wanted(base, 1, OX_BACKING_UNDER, NULL), -EINVAL);
	assert_int_equal(open_wanted(gone, 1, OX_BACKING_UNDER, dir), -ENOENT);
}

/* Another process cannot lock what a context holds, until the context is gone. */
static void locks_last_as_long_as_the_context_that_holds_them(void **state)
{
	struct ox_context *holder;

	(void)state;
	assert_int_equal(ox_context_new(OX_ENGINE_DEFAULT, &holder, NULL), 0);
	assert_int_equal(ox_context_hold(holder, -1, NULL), -EBADF);
	assert_int_equal(ox_lock_fd(top_fd, top, OX_LOCK_NONE, OX_LOCK_WRITE, NULL), 0);
	assert_int_equal(ox_context_hold(holder, top_fd, NULL), 0);
	close(top_fd);
	assert_false(we_open(top, 0));
	ox_context_free(holder);
	assert_true(we_open(top, 0));
	top_fd = open(top, O_RDWR | O_CLOEXEC);
	assert_true(top_fd >= 0);
}

/* ---- ox_lock_fd alone ---- */

static void a_lock_that_is_refused_leaves_what_was_there(void **state)
{
	int other = open(top, O_RDONLY | O_CLOEXEC);
	struct ox_error *err = NULL;

	(void)state;
	assert_int_equal(lock(top_fd, OX_LOCK_NONE, OX_LOCK_READ), 0);
	assert_int_equal(lock(other, OX_LOCK_NONE, OX_LOCK_READ), 0);
	assert_int_equal(ox_lock_fd(top_fd, "the disk", OX_LOCK_READ, OX_LOCK_WRITE, &err),
			 -EAGAIN);
	assert_non_null(strstr(ox_error_message(err), "using the image [the disk]"));
	assert_non_null(strstr(ox_error_message(err), "(held by this process itself)"));
	ox_error_free(err);
	assert_int_equal(close(other), 0);
	assert_false(qemu_opens(top, ""));
	assert_true(qemu_opens(top, "-r"));
	assert_int_equal(lock(top_fd, OX_LOCK_READ, OX_LOCK_WRITE), 0);
}

/* A child that has the image locked on its own until it is killed. */
static pid_t start_reader(void)
{
	pid_t pid;
	int ready[2];
	char byte;

	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		int fd = open(top, O_RDONLY | O_CLOEXEC);

		close(top_fd);
		if (ox_lock_fd(fd, top, OX_LOCK_NONE, OX_LOCK_READ, NULL) == 0 &&
		    write(ready[1], "", 1) == 1)
			pause();
		_exit(1);
	}
	close(ready[1]);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	return pid;
}

static void a_duplicate_of_one_s_own_is_not_who_is_in_the_way(void **state)
{
	int twin = fcntl(top_fd, F_DUPFD_CLOEXEC, 0);
	struct ox_error *err = NULL;
	char message[64];
	pid_t reader;

	(void)state;
	assert_int_equal(lock(top_fd, OX_LOCK_NONE, OX_LOCK_READ), 0);
	reader = start_reader();
	assert_int_equal(ox_lock_fd(top_fd, top, OX_LOCK_READ, OX_LOCK_WRITE, &err), -EAGAIN);
	snprintf(message, sizeof(message), ", process %d)", reader);
	if (!strstr(ox_error_message(err), message))
		fail_msg("'%s' lacks '%s'", ox_error_message(err), message);
	ox_error_free(err);
	assert_int_equal(kill(reader, SIGKILL), 0);
	assert_int_equal(waitpid(reader, NULL, 0), reader);
	assert_int_equal(lock(twin, OX_LOCK_READ, OX_LOCK_WRITE), 0);
	assert_int_equal(close(twin), 0);
	assert_locked_for_writing();
}

static void what_cannot_be_locked_is_refused(void **state)
{
	int folder = open(dir, O_RDONLY | O_CLOEXEC);
	int blind = open(top, O_WRONLY | O_CLOEXEC);

	(void)state;
	assert_int_equal(lock(folder, OX_LOCK_NONE, OX_LOCK_READ), -EISDIR);
	assert_int_equal(lock(blind, OX_LOCK_NONE, OX_LOCK_READ), -EBADF);
	assert_int_equal(close(folder) | close(blind), 0);
	assert_int_equal(lock(folder, OX_LOCK_NONE, OX_LOCK_READ), -EBADF);
	assert_int_equal(lock(top_fd, OX_LOCK_NONE, (enum ox_lock)9), -EINVAL);
	assert_int_equal(lock(top_fd, (enum ox_lock) - 1, OX_LOCK_READ), -EINVAL);
	assert_int_equal(ox_lock_fd(top_fd, NULL, OX_LOCK_NONE, OX_LOCK_READ, NULL), -EINVAL);
	assert_true(qemu_opens(top, ""));
}

static void what_is_held_is_told(void **state)
{
	int other = open(top, O_RDWR | O_CLOEXEC);
	int twin = fcntl(top_fd, F_DUPFD_CLOEXEC, 0);

	(void)state;
	assert_int_equal(ox_lock_is_held(top_fd, OX_LOCK_NONE), 1);
	assert_int_equal(ox_lock_is_held(top_fd, OX_LOCK_SHARE), 0);
	for (enum ox_lock have = OX_LOCK_NONE; have <= OX_LOCK_WRITE; have++) {
		assert_int_equal(lock(top_fd, OX_LOCK_NONE, have), 0);
		for (enum ox_lock asked = OX_LOCK_NONE; asked <= OX_LOCK_WRITE; asked++) {
			assert_int_equal(ox_lock_is_held(top_fd, asked), asked <= have);
			assert_int_equal(ox_lock_is_held(twin, asked), asked <= have);
			/* Those of another description are not its own. */
			assert_int_equal(ox_lock_is_held(other, asked), asked == OX_LOCK_NONE);
		}
		assert_int_equal(lock(top_fd, have, OX_LOCK_NONE), 0);
	}
	assert_int_equal(close(other) | close(twin), 0);
	assert_int_equal(ox_lock_is_held(other, OX_LOCK_READ), -EBADF);
	assert_int_equal(ox_lock_is_held(top_fd, (enum ox_lock)9), -EINVAL);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(locks_of_the_caller_s_outlive_the_image),
		TEST(locks_may_be_held_by_another_description),
		TEST(without_the_flag_the_closing_gives_all_locks_up),
		TEST(a_backing_file_opened_by_path_is_locked_by_the_library),
		TEST(a_caller_s_image_is_reopened_under_the_caller_s_locks),
		TEST(checks_and_facts_leave_the_caller_s_locks),
		TEST(a_lock_that_is_refused_leaves_what_was_there),
		TEST(a_duplicate_of_one_s_own_is_not_who_is_in_the_way),
		TEST(what_cannot_be_locked_is_refused),
		TEST(what_is_held_is_told),
		TEST(an_opener_opens_what_the_policy_allows),
		TEST(locks_last_as_long_as_the_context_that_holds_them),
	};

	return cmocka_run_group_tests_name("held locks", tests, NULL, NULL);
}
