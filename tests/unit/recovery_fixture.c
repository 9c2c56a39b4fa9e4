/* SPDX-License-Identifier: MIT */
#include "recovery_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "image_bytes.h"

struct ox_context *ctx;
static char dir[64];
static char old_dir[4096];
char told[8192];
static struct ox_image *opened; /* what a test that failed left open */

/* ---- images ---- */

char byte_of(uint64_t guest)
{
	return (char)(1 + guest / CLUSTER % 8 + guest / TABLE_SPAN % 25 * 8);
}

static void tell(void *opaque, const char *message)
{
	size_t used = strlen(told);

	(void)opaque;
	snprintf(told + used, sizeof(told) - used, "%s\n", message);
}

struct ox_open_options options(enum ox_recover_mode mode)
{
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;

	opts.format = "qcow2";
	opts.warn = tell;
	opts.recover = mode;
	return opts;
}

struct ox_image *open_with(const char *path, const struct ox_open_options *opts)
{
	struct ox_error *err = NULL;
	struct ox_image *image;

	told[0] = '\0';
	if (ox_image_open(ctx, path, opts, &image, &err) < 0)
		fail_msg("%s: %s", path, ox_error_message(err));
	opened = image;
	return image;
}

struct ox_image *open_dirty(const char *path)
{
	struct ox_open_options opts = options(OX_RECOVER_AUTO);

	assert_true(image_is_dirty(path));
	return open_with(path, &opts);
}

void close_image(struct ox_image *image)
{
	struct ox_error *err = NULL;

	opened = NULL;
	if (ox_image_close(image, &err) < 0)
		fail_msg("close: %s", ox_error_message(err));
}

int write_block(struct ox_image *image, uint64_t offset, char byte, unsigned flags)
{
	char buf[CLUSTER];

	memset(buf, byte, sizeof(buf));
	return ox_pwrite(image, buf, sizeof(buf), offset, flags);
}

void assert_reads(struct ox_image *image, uint64_t offset, char byte)
{
	char buf[CLUSTER];
	char expected[CLUSTER];

	memset(buf, byte + 1, sizeof(buf));
	memset(expected, byte, sizeof(expected));
	assert_int_equal(ox_pread(image, buf, sizeof(buf), offset), 0);
	assert_memory_equal(buf, expected, sizeof(buf));
}

/* A lazy image that was not closed: FILLED_CLUSTERS at the head of each of `filled` tables. */
static void leave_dirty(const char *path, uint64_t disk_bytes, unsigned filled)
{
	struct ox_create_options create = OX_CREATE_OPTIONS_INIT;
	struct ox_open_options opts = options(OX_RECOVER_AUTO);
	struct ox_image *image;

	create.format = "qcow2";
	create.virtual_bytes = disk_bytes;
	create.cluster_bytes = CLUSTER;
	create.lazy_refcounts = true;
	assert_int_equal(ox_image_create(ctx, "open.qcow2", &create, NULL), 0);
	image = open_with("open.qcow2", &opts);
	for (uint64_t table = 0; table < filled; table++) {
		for (uint64_t i = 0; i < FILLED_CLUSTERS; i++) {
			uint64_t at = table * TABLE_SPAN + i * CLUSTER;

			assert_int_equal(write_block(image, at, byte_of(at), 0), 0);
		}
	}
	assert_int_equal(ox_flush(image), 0);
	copy_file("open.qcow2", path);
	close_image(image);
	assert_int_equal(unlink("open.qcow2"), 0);
	assert_true(image_is_dirty(path));
}

void use_large(void)
{
	copy_file("large.template", "disk.qcow2");
}

void use_large_with_snapshot(void)
{
	copy_file("snapshot.template", "disk.qcow2");
}

void use_small(void)
{
	copy_file("small.template", "disk.qcow2");
}

static const char *const names[] = {"disk.qcow2", "killed.qcow2", "next.qcow2"};

int setup(void **state)
{
	(void)state;
	return ox_context_new(OX_ENGINE_DEFAULT, &ctx, NULL);
}

int teardown(void **state)
{
	(void)state;
	if (opened)
		(void)!ox_image_close(opened, NULL);
	opened = NULL;
	ox_context_free(ctx);
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		unlink(names[i]);
	return 0;
}

/* In memory where the host has a file system there: a recovery's hundred thousand reads and a
 * request's two syncs are then far apart in number and in time. */
int make_templates(void **state)
{
	if (!getcwd(old_dir, sizeof(old_dir)))
		return -1;
	strcpy(dir, "/dev/shm/ox-test-recovery-XXXXXX");
	if (!mkdtemp(dir)) {
		strcpy(dir, "/tmp/ox-test-recovery-XXXXXX");
		if (!mkdtemp(dir))
			return -1;
	}
	if (chdir(dir) < 0 || setup(state) < 0)
		return -1;
	leave_dirty("small.template", SMALL_DISK, SMALL_DISK / TABLE_SPAN);
	leave_dirty("large.template", LARGE_DISK, FILLED);
	copy_file("large.template", "snapshot.template");
	add_snapshot("snapshot.template");
	add_empty_tables("large.template", FILLED, TABLES);
	add_empty_tables("snapshot.template", FILLED, TABLES);
	return teardown(state);
}

int remove_templates(void **state)
{
	(void)state;
	unlink("small.template");
	unlink("large.template");
	unlink("snapshot.template");
	return chdir(old_dir) < 0 ? -1 : rmdir(dir);
}

/* ---- what is expected ---- */

struct ox_recovery_status status_of(struct ox_image *image)
{
	struct ox_recovery_status status;

	ox_image_recovery(image, &status);
	assert_non_null(status.message);
	assert_true(status.tables_done <= status.tables_total);
	if (status.state != OX_RECOVERY_FAILED)
		assert_string_equal(status.message, "");
	return status;
}

void assert_running(struct ox_image *image)
{
	assert_int_equal(status_of(image).state, OX_RECOVERY_RUNNING);
}

struct ox_recovery_status end_of_recovery(struct ox_image *image)
{
	struct ox_recovery_status status = status_of(image);

	while (status.state == OX_RECOVERY_RUNNING) {
		uint64_t before = status.tables_done;

		assert_int_equal(ox_context_wait(ctx), 0);
		status = status_of(image);
		if (status.state == OX_RECOVERY_RUNNING)
			assert_true(status.tables_done >= before || status.tables_done == 0);
	}
	return status;
}

void assert_recovers(struct ox_image *image)
{
	struct ox_recovery_status status = end_of_recovery(image);

	if (status.state != OX_RECOVERY_DONE)
		fail_msg("state %d: %s", status.state, status.message);
}

void assert_fails_with(struct ox_image *image, const char *part)
{
	struct ox_recovery_status status = end_of_recovery(image);

	assert_int_equal(status.state, OX_RECOVERY_FAILED);
	if (!strstr(status.message, part))
		fail_msg("\"%s\" is not in \"%s\"", part, status.message);
	if (!strstr(told, part))
		fail_msg("\"%s\" is not in what was told: \"%s\"", part, told);
}

static void print_finding(void *opaque, const struct ox_finding *finding)
{
	(void)opaque;
	print_message("%s\n", finding->message);
}

struct ox_check_result check(const char *path)
{
	struct ox_check_options opts = OX_CHECK_OPTIONS_INIT;
	struct ox_check_result result;

	opts.format = "qcow2";
	opts.finding = print_finding;
	assert_int_equal(ox_image_check(ctx, path, &opts, &result, NULL), 0);
	return result;
}

uint64_t assert_clean(const char *path)
{
	struct ox_check_result result = check(path);

	assert_false(image_is_dirty(path));
	assert_false(image_has_fence(path));
	assert_int_equal(result.check_errors + result.corruptions + result.leaks, 0);
	return result.allocated_clusters;
}

void assert_filled(struct ox_image *image, uint64_t first_table, uint64_t end_table)
{
	for (uint64_t table = first_table; table < end_table; table++) {
		for (uint64_t i = 0; i < FILLED_CLUSTERS; i++) {
			uint64_t at = table * TABLE_SPAN + i * CLUSTER;

			assert_reads(image, at, byte_of(at));
		}
		assert_reads(image, table * TABLE_SPAN + FILLED_CLUSTERS * CLUSTER, 0);
	}
}
