/* SPDX-License-Identifier: MIT */
/* witness_fd of struct ox_open_options, as a program has it: which descriptor is taken, when it is
 * told that it has served, and what an image is worth whose witness is used up (M3). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* the ones above first: cmocka.h needs them */
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "oxbow.h"

#define CLUSTER 65536u

static char path[] = "/tmp/ox-test-witness-XXXXXX";
static int fd;
static int state_fd;
static struct ox_context *ctx;
static unsigned told;

static int setup(void **state)
{
	(void)state;
	strcpy(path + sizeof(path) - 7, "XXXXXX");
	fd = mkostemp(path, O_CLOEXEC);
	state_fd = memfd_create("state", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	told = 0;
	return fd < 0 || state_fd < 0 ? -1 : ox_context_new(OX_ENGINE_DEFAULT, &ctx, NULL);
}

static int teardown(void **state)
{
	(void)state;
	ox_context_free(ctx);
	(void)unlink(path);
	return close(fd) + close(state_fd);
}

static void on_synced(void *opaque)
{
	assert_ptr_equal(opaque, &told);
	told++;
}

struct how {
	const char *format;
	int witness;
	unsigned flags;
	enum ox_cache_mode cache;
};

static int open_image(struct ox_context *c, struct how how, struct ox_image **ret)
{
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;

	opts.format = how.format;
	opts.flags = how.flags;
	opts.cache = how.cache;
	opts.state_fd = state_fd;
	opts.witness_fd = how.witness;
	opts.synced = on_synced;
	opts.opaque = &told;
	opts.table_age_ms = UINT32_MAX;
	opts.lazy_idle_ms = UINT32_MAX;
	return ox_image_open_fd(c, fd, path, &opts, ret, NULL);
}

static int write_cluster(struct ox_image *image, unsigned cluster)
{
	char buf[CLUSTER];

	memset(buf, 'x', sizeof(buf));
	return ox_pwrite(image, buf, sizeof(buf), (uint64_t)cluster * CLUSTER, 0);
}

static void create(const char *format)
{
	struct ox_create_options opts = OX_CREATE_OPTIONS_INIT;

	opts.format = format;
	opts.virtual_bytes = 16u << 20;
	assert_int_equal(ox_image_create_fd(ctx, fd, path, &opts, NULL), 0);
}

/* A process writes one cluster, flushes nothing and dies. */
static void live_and_die(const char *format)
{
	pid_t pid = fork();
	int status;

	assert_true(pid >= 0);
	if (pid == 0) {
		struct ox_context *own;
		struct ox_image *image;

		if (ox_context_new(OX_ENGINE_DEFAULT, &own, NULL) < 0 ||
		    open_image(own, (struct how){.format = format}, &image) < 0 ||
		    write_cluster(image, 7) < 0)
			_exit(1);
		(void)kill(getpid(), SIGKILL);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
}

static int open_witness(void)
{
	int witness = open(path, O_RDONLY | O_CLOEXEC);

	assert_true(witness > 0);
	return witness;
}

static void check_reads(struct ox_image *image)
{
	char buf[CLUSTER];

	assert_int_equal(ox_pread(image, buf, sizeof(buf), 7 * CLUSTER), 0);
	assert_true(buf[0] == 'x' && buf[CLUSTER - 1] == 'x');
}

static void told_once_it_has_ended_well(void **state)
{
	static const char *const formats[] = {"qcow2", "qed", "raw"};
	struct ox_image *image;

	(void)state;
	for (size_t i = 0; i < 3; i++) {
		int witness;

		create(formats[i]);
		witness = open_witness();
		live_and_die(formats[i]);
		told = 0;
		assert_int_equal(
			open_image(ctx, (struct how){formats[i], .witness = witness}, &image), 0);
		assert_int_equal(close(witness), 0); /* it was duplicated */
		check_reads(image);
		assert_int_equal(ox_flush(image), 0);
		assert_int_equal(told, 1);
		assert_int_equal(ox_image_close(image, NULL), 0);
		assert_int_equal(told, 1);
		(void)close(state_fd);
		state_fd = memfd_create("state", MFD_CLOEXEC | MFD_ALLOW_SEALING);
		assert_int_equal(ftruncate(fd, 0), 0);
	}
}

static void one_of_another_file_is_refused(void **state)
{
	int other = open("/dev/null", O_RDWR | O_CLOEXEC);
	int no_file = open(path, O_PATH | O_CLOEXEC);
	struct ox_image *image;

	(void)state;
	create("qcow2");
	assert_int_equal(open_image(ctx, (struct how){"qcow2", .witness = other}, &image), -EINVAL);
	assert_int_equal(open_image(ctx, (struct how){"qcow2", .witness = state_fd}, &image),
			 -EINVAL);
	assert_int_equal(open_image(ctx, (struct how){"qcow2", .witness = no_file}, &image),
			 -EINVAL);
	assert_int_equal(open_image(ctx, (struct how){"qcow2", .witness = 1000}, &image), -EBADF);
	assert_int_equal(close(other), 0);
	assert_int_equal(close(no_file), 0);
}

static void who_has_used_it_up_reads_on_and_writes_no_more(void **state)
{
	struct ox_image *image;
	int witness;

	(void)state;
	create("qcow2");
	witness = open_witness();
	live_and_die("qcow2");
	assert_int_equal(open_image(ctx, (struct how){"qcow2", .witness = -1}, &image), 0);
	check_reads(image);
	assert_int_equal(ox_flush(image), -EIO);
	assert_int_equal(write_cluster(image, 8), -EIO);
	check_reads(image);
	assert_true(ox_image_close(image, NULL) < 0);
	/* The state knows. */
	assert_int_equal(open_image(ctx, (struct how){"qcow2", .witness = witness}, &image), 0);
	check_reads(image);
	assert_int_equal(write_cluster(image, 8), -EIO);
	assert_int_equal(ox_flush(image), -EIO);
	assert_true(ox_image_close(image, NULL) < 0);
	assert_int_equal(close(witness), 0);
}

static void where_nothing_is_synced_it_is_not_asked(void **state)
{
	struct ox_image *image;

	(void)state;
	create("qcow2");
	live_and_die("qcow2");
	assert_int_equal(
		open_image(ctx, (struct how){"qcow2", -1, .cache = OX_CACHE_UNSAFE}, &image), 0);
	assert_int_equal(told, 1);
	assert_int_equal(write_cluster(image, 8), 0);
	assert_int_equal(ox_image_close(image, NULL), 0);
	assert_int_equal(
		open_image(ctx, (struct how){"qcow2", -1, .flags = OX_OPEN_READ_ONLY}, &image), 0);
	check_reads(image);
	assert_int_equal(ox_image_close(image, NULL), 0);
	assert_int_equal(told, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(told_once_it_has_ended_well, setup, teardown),
		cmocka_unit_test_setup_teardown(one_of_another_file_is_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(who_has_used_it_up_reads_on_and_writes_no_more,
						setup, teardown),
		cmocka_unit_test_setup_teardown(where_nothing_is_synced_it_is_not_asked, setup,
						teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
