/* SPDX-License-Identifier: MIT */
/* The public API as a program of somebody else's calls it: nothing but oxbow.h is included. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* the ones above first: cmocka.h needs them */
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "oxbow.h"

#define KIB UINT64_C(1024)
#define MIB (1024 * KIB)
#define DISK_BYTES (64 * MIB)
#define BLOCK 4096u
#define DEPTH 64u

static struct ox_context *ctx;
static char dir[] = "/tmp/ox-test-api-XXXXXX";
static char old_dir[4096];

static int setup(void **state)
{
	(void)state;
	return ox_context_new(OX_ENGINE_DEFAULT, &ctx, NULL);
}

static int teardown(void **state)
{
	(void)state;
	ox_context_free(ctx);
	unlink("disk.qcow2");
	unlink("disk.raw");
	unlink("base.raw");
	unlink("sub/disk.qcow2");
	unlink("sub/base.raw");
	rmdir("sub");
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

static void create(const char *path, const char *backing)
{
	struct ox_create_options opts = OX_CREATE_OPTIONS_INIT;

	opts.format = "qcow2";
	opts.virtual_bytes = DISK_BYTES;
	opts.lazy_refcounts = true;
	opts.backing_file = backing;
	opts.backing_format = backing ? "raw" : NULL;
	assert_int_equal(ox_image_create(ctx, path, &opts, NULL), 0);
}

static void create_raw(const char *path, uint64_t bytes, char byte)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	char block[BLOCK];

	memset(block, byte, sizeof(block));
	assert_true(fd >= 0);
	for (uint64_t at = 0; at < bytes; at += sizeof(block))
		assert_int_equal(write(fd, block, sizeof(block)), sizeof(block));
	close(fd);
}

static struct ox_image *open_as(const char *path, const char *format, enum ox_cache_mode cache,
				unsigned flags)
{
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;
	struct ox_error *err = NULL;
	struct ox_image *image;

	opts.format = format;
	opts.cache = cache;
	opts.flags = flags;
	opts.backing_policy = OX_BACKING_ALLOW;
	if (ox_image_open(ctx, path, &opts, &image, &err) < 0)
		fail_msg("%s", ox_error_message(err));
	return image;
}

static struct ox_image *open_new(enum ox_cache_mode cache)
{
	create("disk.qcow2", NULL);
	return open_as("disk.qcow2", "qcow2", cache, 0);
}

static void close_image(struct ox_image *image)
{
	assert_int_equal(ox_image_close(image, NULL), 0);
}

static void assert_clean(void)
{
	struct ox_check_options opts = OX_CHECK_OPTIONS_INIT;
	struct ox_check_result result;

	opts.format = "qcow2";
	assert_int_equal(ox_image_check(ctx, "disk.qcow2", &opts, &result, NULL), 0);
	assert_int_equal(result.check_errors + result.corruptions + result.leaks, 0);
}

static void assert_reads(struct ox_image *image, uint64_t offset, char byte)
{
	char buf[BLOCK];
	char expected[BLOCK];

	memset(buf, byte + 1, sizeof(buf));
	memset(expected, byte, sizeof(expected));
	assert_int_equal(ox_pread(image, buf, sizeof(buf), offset), 0);
	assert_memory_equal(buf, expected, sizeof(buf));
}

static int write_block(struct ox_image *image, uint64_t offset, char byte, unsigned flags)
{
	char buf[BLOCK];

	memset(buf, byte, sizeof(buf));
	return ox_pwrite(image, buf, sizeof(buf), offset, flags);
}

/* ---- the queue ---- */

struct slot {
	struct ox_request request;
	struct iovec iov;
	struct ox_extent extent;
	char buf[BLOCK];
};

static struct slot slots[DEPTH];

static void fill(struct slot *s, enum ox_op op, uint64_t offset, char byte)
{
	memset(s, 0, sizeof(*s));
	memset(s->buf, byte, sizeof(s->buf));
	s->iov = (struct iovec){s->buf, sizeof(s->buf)};
	s->request = (struct ox_request){
		.op = op,
		.offset = offset,
		.length = BLOCK,
		.iov = &s->iov,
		.iov_count = 1,
		.extent = &s->extent,
		.user = s,
		.result = 1,
	};
}

/* Polls and reaps, sleeping in poll(2) on the descriptor as an event loop does. */
static void reap_all(struct ox_queue *queue)
{
	struct pollfd loop = {.fd = ox_queue_fd(queue), .events = POLLIN};
	struct ox_request *done[7];

	while (ox_queue_pending(queue) > 0) {
		size_t n;

		assert_int_equal(ox_context_poll(ctx), 0);
		n = ox_queue_reap(queue, done, 7);
		for (size_t i = 0; i < n; i++) {
			struct slot *s = done[i]->user;

			assert_ptr_equal(done[i], &s->request);
			assert_true(s->request.result <= 0);
		}
		if (n == 0 && ox_queue_pending(queue) > 0)
			assert_int_equal(poll(&loop, 1, 20000), 1);
	}
}

static void submit_all(struct ox_queue *queue, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		assert_int_equal(ox_queue_submit(queue, &slots[i].request), 0);
	assert_int_equal(ox_queue_pending(queue), n);
}

static void sixty_four_requests_of_all_kinds_are_in_flight_at_once(void **state)
{
	struct ox_image *image = open_new(OX_CACHE_WRITEBACK);
	struct ox_queue *queue;

	(void)state;
	for (unsigned i = 0; i < DEPTH; i++)
		assert_int_equal(write_block(image, i * 70 * KIB, (char)i, 0), 0);
	assert_int_equal(ox_queue_new(image, &queue), 0);
	for (unsigned i = 0; i < DEPTH; i++)
		fill(&slots[i], (enum ox_op)(i % 6), i * 70 * KIB, (char)~i);
	submit_all(queue, DEPTH);
	reap_all(queue);
	for (unsigned i = 0; i < DEPTH; i++) {
		const struct slot *s = &slots[i];

		assert_int_equal(s->request.result, 0);
		if (s->request.op == OX_OP_READ)
			assert_true(s->buf[0] == (char)i && s->buf[BLOCK - 1] == (char)i);
		if (s->request.op == OX_OP_EXTENT)
			assert_true((s->extent.flags & OX_EXTENT_DATA) && s->extent.length > 0 &&
				    s->extent.offset == s->request.offset);
		if (s->request.op == OX_OP_WRITE)
			assert_reads(image, s->request.offset, (char)~i);
		if (s->request.op == OX_OP_WRITE_ZEROES)
			assert_reads(image, s->request.offset, 0);
	}
	ox_queue_free(queue);
	close_image(image);
	assert_clean();
}

static void a_queued_request_does_not_start_before_a_poll(void **state)
{
	struct ox_image *image = open_new(OX_CACHE_WRITEBACK);
	struct ox_request *done;
	struct ox_queue *queue;

	(void)state;
	assert_int_equal(ox_queue_new(image, &queue), 0);
	fill(&slots[0], OX_OP_WRITE, 0, 'x');
	assert_int_equal(ox_queue_submit(queue, &slots[0].request), 0);
	assert_int_equal(ox_queue_reap(queue, &done, 1), 0);
	assert_int_equal(slots[0].request.result, 1);
	assert_int_equal(ox_queue_pending(queue), 1);
	while (ox_queue_reap(queue, &done, 1) == 0)
		assert_int_equal(ox_context_wait(ctx), 0);
	assert_int_equal(done->result, 0);
	assert_int_equal(ox_queue_fd(queue), ox_context_fd(ctx));
	ox_queue_free(queue);
	close_image(image);
}

/* The program's loop sees them although the synchronous call turned the reactor meanwhile. */
static void queued_requests_go_on_beside_synchronous_calls(void **state)
{
	struct ox_image *image = open_new(OX_CACHE_WRITEBACK);
	struct ox_queue *queue;

	(void)state;
	assert_int_equal(ox_queue_new(image, &queue), 0);
	for (unsigned i = 0; i < DEPTH; i++)
		fill(&slots[i], OX_OP_WRITE, i * 64 * KIB, (char)i);
	submit_all(queue, DEPTH);
	assert_int_equal(write_block(image, 32 * MIB, 'y', OX_REQ_FUA), 0);
	reap_all(queue);
	for (unsigned i = 0; i < DEPTH; i++)
		assert_reads(image, i * 64 * KIB, (char)i);
	ox_queue_free(queue);
	close_image(image);
	assert_clean();
}

static void overlapping_writes_in_flight_leave_one_of_them(void **state)
{
	struct ox_image *image = open_new(OX_CACHE_NONE);
	struct ox_queue *queue;
	char buf[BLOCK];

	(void)state;
	assert_int_equal(ox_queue_new(image, &queue), 0);
	for (unsigned i = 0; i < DEPTH; i++)
		fill(&slots[i], OX_OP_WRITE, 128 * KIB, (char)(i + 1));
	submit_all(queue, DEPTH);
	reap_all(queue);
	assert_int_equal(ox_pread(image, buf, sizeof(buf), 128 * KIB), 0);
	for (unsigned i = 0; i < DEPTH; i++)
		assert_int_equal(slots[i].request.result, 0);
	for (unsigned i = 0; i < BLOCK; i += 512) /* a sector is never mixed */
		assert_true(buf[i] == buf[i + 511] && buf[i] >= 1);
	ox_queue_free(queue);
	close_image(image);
	assert_clean();
}

/* Group commit: one sync for those who wait together. */
static void concurrent_durable_writes_share_their_syncs(void **state)
{
	struct ox_image *image = open_new(OX_CACHE_DIRECTSYNC);
	struct ox_image_stats before;
	struct ox_image_stats after;
	struct ox_queue *queue;

	(void)state;
	assert_int_equal(write_block(image, 0, 'x', 0), 0);
	assert_int_equal(ox_queue_new(image, &queue), 0);
	ox_image_stats(image, &before);
	for (unsigned batch = 0; batch < 8; batch++) {
		for (unsigned i = 0; i < 32; i++)
			fill(&slots[i], OX_OP_WRITE, MIB + (batch * 32 + i) * 64 * KIB, 'z');
		submit_all(queue, 32);
		reap_all(queue);
	}
	ox_image_stats(image, &after);
	assert_in_range(after.host_syncs - before.host_syncs, 1, 8 * 32 / 8);
	ox_queue_free(queue);
	close_image(image);
	assert_clean();
}

/* ---- requests ---- */

static void requests_past_the_end_are_refused_and_change_nothing(void **state)
{
	struct ox_image *image = open_new(OX_CACHE_WRITEBACK);
	const uint64_t starts[] = {DISK_BYTES - BLOCK + 1, DISK_BYTES, DISK_BYTES + MIB,
				   UINT64_MAX - 100,	   UINT64_MAX, UINT64_C(1) << 63};
	struct ox_extent extent;
	char buf[BLOCK];

	(void)state;
	assert_int_equal(write_block(image, DISK_BYTES - BLOCK, 'e', 0), 0);
	for (size_t i = 0; i < sizeof(starts) / sizeof(starts[0]); i++) {
		memset(buf, 'q', sizeof(buf));
		assert_int_equal(ox_pread(image, buf, sizeof(buf), starts[i]), -EINVAL);
		assert_true(buf[0] == 'q' && buf[BLOCK - 1] == 'q');
		assert_int_equal(write_block(image, starts[i], 'f', OX_REQ_FUA), -EINVAL);
		assert_int_equal(ox_write_zeroes(image, starts[i], BLOCK, 0), -EINVAL);
		assert_int_equal(ox_discard(image, starts[i], BLOCK), -EINVAL);
		assert_int_equal(ox_write_zeroes(image, starts[i], UINT64_MAX, 0), -EINVAL);
		assert_int_equal(ox_discard(image, starts[i], UINT64_MAX), -EINVAL);
	}
	assert_int_equal(ox_extent_at(image, DISK_BYTES, 1, &extent), -EINVAL);
	assert_int_equal(ox_discard(image, 0, DISK_BYTES + 1), -EINVAL);
	assert_reads(image, DISK_BYTES - BLOCK, 'e');
	close_image(image);
	assert_clean();
}

static void requests_of_no_bytes_succeed(void **state)
{
	struct ox_image *image = open_new(OX_CACHE_WRITEBACK);
	struct iovec none = {NULL, 0};
	char byte = 0;

	(void)state;
	assert_int_equal(ox_pread(image, &byte, 0, 0), 0);
	assert_int_equal(ox_pread(image, &byte, 0, DISK_BYTES), 0);
	assert_int_equal(ox_pwrite(image, &byte, 0, 5, OX_REQ_FUA), 0);
	assert_int_equal(ox_preadv(image, &none, 1, 0), 0);
	assert_int_equal(ox_pwritev(image, NULL, 0, 0, 0), 0);
	assert_int_equal(ox_write_zeroes(image, 7, 0, 0), 0);
	assert_int_equal(ox_discard(image, 7, 0), 0);
	close_image(image);
	assert_clean();
}

static void vectors_scatter_and_gather(void **state)
{
	struct ox_image *image = open_new(OX_CACHE_NONE);
	char a[] = "one", b[] = "three", c[3000], d[9] = "";
	struct iovec out[] = {{a, 3}, {NULL, 0}, {b, 5}, {c, sizeof(c)}};
	struct iovec in[] = {{d, 8}};

	(void)state;
	memset(c, 'c', sizeof(c));
	assert_int_equal(ox_pwritev(image, out, 4, 64 * KIB - 5, OX_REQ_FUA), 0);
	assert_int_equal(ox_preadv(image, in, 1, 64 * KIB - 5), 0);
	assert_string_equal(d, "onethree");
	assert_int_equal(ox_preadv(image, in, 1, 64 * KIB - 5 + 8 + sizeof(c) - 4), 0);
	assert_memory_equal(d, "cccc\0\0\0\0", 8);
	close_image(image);
}

static void a_fua_write_costs_a_sync_and_another_does_not(void **state)
{
	struct ox_image *image = open_new(OX_CACHE_WRITEBACK);
	struct ox_image_stats stats[3];

	(void)state;
	assert_int_equal(write_block(image, 0, 'a', OX_REQ_FUA), 0);
	ox_image_stats(image, &stats[0]);
	assert_int_equal(write_block(image, 8192, 'b', 0), 0);
	ox_image_stats(image, &stats[1]);
	assert_int_equal(write_block(image, MIB, 'c', OX_REQ_FUA), 0);
	ox_image_stats(image, &stats[2]);
	assert_int_equal(stats[1].host_syncs, stats[0].host_syncs);
	assert_true(stats[2].host_syncs > stats[1].host_syncs);
	assert_true(stats[2].host_writes > stats[1].host_writes);
	close_image(image);
}

static void a_fast_zero_zeroes_or_leaves_the_range_alone(void **state)
{
	struct ox_image *image = open_new(OX_CACHE_WRITEBACK);
	int r;

	(void)state;
	assert_int_equal(write_block(image, MIB, 'a', 0), 0);
	r = ox_write_zeroes(image, MIB, 64 * KIB, OX_REQ_FAST_ZERO | OX_REQ_MAY_UNMAP);
	assert_true(r == 0 || r == -ENOTSUP);
	assert_reads(image, MIB, r == 0 ? 0 : 'a');
	close_image(image);
}

/* ---- opening ---- */

static void a_read_only_image_is_not_written_until_it_is_reopened(void **state)
{
	struct ox_image *image = open_new(OX_CACHE_WRITEBACK);

	(void)state;
	assert_int_equal(write_block(image, 0, 'a', 0), 0);
	assert_int_equal(ox_image_reopen(image, true, NULL), 0);
	assert_true(ox_image_is_read_only(image));
	assert_clean(); /* all that was written is on the disk by then */
	assert_true(write_block(image, 0, 'b', 0) < 0);
	assert_true(ox_write_zeroes(image, 0, BLOCK, 0) < 0);
	assert_true(ox_resize(image, 2 * DISK_BYTES, NULL) < 0);
	(void)!ox_discard(image, 0, 64 * KIB); /* advice: it may be taken and ignored */
	assert_int_equal(ox_flush(image), 0);
	assert_reads(image, 0, 'a');
	assert_int_equal(ox_image_reopen(image, false, NULL), 0);
	assert_false(ox_image_is_read_only(image));
	assert_int_equal(write_block(image, 0, 'b', 0), 0);
	assert_reads(image, 0, 'b');
	close_image(image);
	assert_clean();
}

static void one_image_is_open_for_writing_once(void **state)
{
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;
	struct ox_image *image = open_new(OX_CACHE_WRITEBACK);
	struct ox_image *second = NULL;
	struct ox_error *err = NULL;

	(void)state;
	opts.format = "qcow2";
	assert_true(ox_image_open(ctx, "disk.qcow2", &opts, &second, &err) < 0);
	assert_null(second);
	assert_non_null(strstr(ox_error_message(err), "disk.qcow2"));
	ox_error_free(err);
	err = NULL;
	opts.flags = OX_OPEN_FORCE_SHARE; /* which a writer may not ask for */
	assert_int_equal(ox_image_open(ctx, "disk.qcow2", &opts, &second, &err), -EINVAL);
	ox_error_free(err);
	opts.flags |= OX_OPEN_READ_ONLY;
	assert_int_equal(ox_image_open(ctx, "disk.qcow2", &opts, &second, NULL), 0);
	err = NULL;
	assert_true(ox_image_reopen(second, false, &err) < 0);
	assert_true(strlen(ox_error_message(err)) > 0);
	ox_error_free(err);
	close_image(second);
	close_image(image);
}

static void errors_have_messages_and_leave_outputs_alone(void **state)
{
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;
	struct ox_image *image = (void *)dir;
	struct ox_error *err = NULL;

	(void)state;
	opts.format = "qcow2";
	assert_int_equal(ox_image_open(ctx, "missing", &opts, &image, &err), -ENOENT);
	assert_non_null(strstr(ox_error_message(err), "missing"));
	ox_error_free(err);
	err = NULL;
	create_raw("disk.raw", 8192, 0);
	assert_true(ox_image_open(ctx, "disk.raw", &opts, &image, &err) < 0);
	assert_true(strlen(ox_error_message(err)) > 0);
	ox_error_free(err);
	err = NULL;
	opts.format = "vmdk";
	assert_true(ox_image_open(ctx, "disk.raw", &opts, &image, &err) < 0);
	assert_non_null(strstr(ox_error_message(err), "vmdk"));
	ox_error_free(err);
	assert_int_equal(ox_image_open(ctx, "disk.raw", NULL, &image, NULL), -EINVAL);
	assert_int_equal(ox_image_open(ctx, ".", NULL, &image, NULL), -EISDIR);
	assert_ptr_equal(image, dir);
	assert_string_equal(ox_error_message(NULL), "");
	ox_error_free(NULL);
	ox_context_free(NULL);
	ox_queue_free(NULL);
	ox_image_info_free(NULL);
}

/* What a program that was compiled against an older header passes. */
static void options_of_an_older_program_are_taken_as_far_as_they_go(void **state)
{
	struct ox_open_options opts;
	struct ox_check_options check;
	struct ox_create_options make;
	struct ox_check_result result;
	struct ox_image *image;

	(void)state;
	memset(&make, 0xff, sizeof(make));
	make.struct_size = offsetof(struct ox_create_options, version);
	make.format = "qcow2";
	make.virtual_bytes = DISK_BYTES;
	assert_int_equal(ox_image_create(ctx, "disk.qcow2", &make, NULL), 0);
	memset(&opts, 0xff, sizeof(opts));
	opts.struct_size = offsetof(struct ox_open_options, cache);
	opts.format = "qcow2";
	opts.flags = 0;
	assert_int_equal(ox_image_open(ctx, "disk.qcow2", &opts, &image, NULL), 0);
	assert_int_equal(ox_image_size(image), DISK_BYTES);
	assert_int_equal(ox_image_cluster_bytes(image), 65536);
	assert_true(ox_image_has_write_cache(image)); /* writeback, the default */
	close_image(image);
	memset(&check, 0xff, sizeof(check));
	check.struct_size = offsetof(struct ox_check_options, flags);
	check.format = "qcow2";
	assert_int_equal(ox_image_check(ctx, "disk.qcow2", &check, &result, NULL), 0);
}

static void a_newer_programs_longer_options_are_taken(void **state)
{
	struct {
		struct ox_open_options opts;
		char later_fields[64];
	} longer = {.opts = {.struct_size = sizeof(longer), .format = "qcow2"}};
	struct ox_image *image;

	(void)state;
	create("disk.qcow2", NULL);
	memset(longer.later_fields, 0, sizeof(longer.later_fields));
	assert_int_equal(ox_image_open(ctx, "disk.qcow2", &longer.opts, &image, NULL), 0);
	close_image(image);
}

/* ---- opening by descriptor ---- */

static int open_fd(int fd, const char *name, unsigned flags, struct ox_image **ret,
		   struct ox_error **err)
{
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;

	opts.format = "qcow2";
	opts.flags = flags;
	opts.backing_policy = OX_BACKING_ALLOW;
	return ox_image_open_fd(ctx, fd, name, &opts, ret, err);
}

static void a_descriptor_is_duplicated_and_stays_the_callers(void **state)
{
	struct ox_image *image;
	struct stat st;
	int fd;

	(void)state;
	create("disk.qcow2", NULL);
	fd = open("disk.qcow2", O_RDWR | O_CLOEXEC);
	assert_int_equal(open_fd(fd, "disk", 0, &image, NULL), 0);
	close(fd);
	assert_int_equal(write_block(image, MIB, 'd', OX_REQ_FUA), 0);
	close_image(image);
	fd = open("disk.qcow2", O_RDWR | O_CLOEXEC);
	assert_int_equal(open_fd(fd, "disk", 0, &image, NULL), 0);
	assert_reads(image, MIB, 'd');
	close_image(image);
	assert_int_equal(fstat(fd, &st), 0);
	close(fd);
	assert_clean();
}

static void a_read_only_descriptor_cannot_be_made_writable(void **state)
{
	struct ox_image *image = NULL;
	struct ox_error *err = NULL;
	int fd;

	(void)state;
	create("disk.qcow2", NULL);
	fd = open("disk.qcow2", O_RDONLY | O_CLOEXEC);
	assert_int_equal(open_fd(fd, "the disk", 0, &image, &err), -EACCES);
	assert_non_null(strstr(ox_error_message(err), "the disk"));
	assert_null(image);
	ox_error_free(err);
	err = NULL;
	assert_int_equal(open_fd(fd, "the disk", OX_OPEN_READ_ONLY, &image, NULL), 0);
	assert_int_equal(ox_image_reopen(image, false, &err), -EACCES);
	assert_true(strlen(ox_error_message(err)) > 0);
	ox_error_free(err);
	assert_true(ox_image_is_read_only(image));
	assert_true(write_block(image, 0, 'x', 0) < 0);
	assert_reads(image, 0, 0);
	close_image(image);
	close(fd);
}

static void a_writable_descriptor_may_be_used_read_only_and_made_writable(void **state)
{
	struct ox_image *image;
	int fd;

	(void)state;
	create("disk.qcow2", NULL);
	fd = open("disk.qcow2", O_RDWR | O_CLOEXEC);
	assert_int_equal(open_fd(fd, "disk", OX_OPEN_READ_ONLY, &image, NULL), 0);
	assert_true(write_block(image, 0, 'x', 0) < 0);
	assert_int_equal(ox_image_reopen(image, false, NULL), 0);
	assert_int_equal(write_block(image, 0, 'x', 0), 0);
	close_image(image);
	close(fd);
	assert_clean();
}

static void descriptors_of_other_things_are_refused(void **state)
{
	struct ox_image *image = NULL;
	int ends[2];
	int fd = open(".", O_RDONLY | O_DIRECTORY);

	(void)state;
	assert_int_equal(pipe(ends), 0);
	assert_true(open_fd(ends[0], "pipe", OX_OPEN_READ_ONLY, &image, NULL) < 0);
	assert_true(open_fd(fd, "dir", OX_OPEN_READ_ONLY, &image, NULL) < 0);
	assert_int_equal(open_fd(-1, "none", OX_OPEN_READ_ONLY, &image, NULL), -EBADF);
	assert_null(image);
	close(ends[0]);
	close(ends[1]);
	close(fd);
}

static void relative_backing_names_are_looked_for_beside_the_name_of_a_descriptor(void **state)
{
	struct ox_image *image = NULL;
	struct ox_error *err = NULL;
	int fd;

	(void)state;
	assert_int_equal(mkdir("sub", 0755), 0);
	create_raw("sub/base.raw", DISK_BYTES / 64, 's');
	create("sub/disk.qcow2", "base.raw");
	fd = open("sub/disk.qcow2", O_RDWR | O_CLOEXEC);
	assert_int_equal(open_fd(fd, "sub/anything", 0, &image, NULL), 0);
	assert_reads(image, 0, 's');
	close_image(image);
	image = NULL;
	assert_true(open_fd(fd, "disk.qcow2", 0, &image, &err) < 0); /* ./base.raw is not there */
	assert_non_null(strstr(ox_error_message(err), "base.raw"));
	ox_error_free(err);
	create_raw("base.raw", DISK_BYTES / 64, 'h');
	assert_int_equal(open_fd(fd, "disk.qcow2", 0, &image, NULL), 0);
	assert_reads(image, 0, 'h');
	close_image(image);
	close(fd);
}

/* What an image names is a stranger's word: options that were only zeroed follow none. */
static void an_image_that_names_others_is_refused_unless_that_is_allowed(void **state)
{
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;
	struct ox_image *image = NULL;
	struct ox_error *err = NULL;

	(void)state;
	create_raw("base.raw", DISK_BYTES / 64, 'h');
	create("disk.qcow2", "base.raw");
	opts.format = "qcow2";
	assert_int_equal(ox_image_open(ctx, "disk.qcow2", &opts, &image, &err), -EACCES);
	assert_non_null(strstr(ox_error_message(err), "base.raw"));
	ox_error_free(err);
	err = NULL;
	opts.backing_policy = OX_BACKING_UNDER;
	assert_int_equal(ox_image_open(ctx, "disk.qcow2", &opts, &image, &err), -EINVAL);
	assert_non_null(strstr(ox_error_message(err), "directory"));
	ox_error_free(err);
	assert_null(image);
	opts.backing_dir = ".";
	assert_int_equal(ox_image_open(ctx, "disk.qcow2", &opts, &image, NULL), 0);
	assert_reads(image, 0, 'h');
	close_image(image);
}

/* ---- resizing ---- */

static void a_disk_grows_with_zeroes_and_shrinks(void **state)
{
	struct ox_image *image = open_new(OX_CACHE_WRITEBACK);
	struct ox_error *err = NULL;

	(void)state;
	assert_int_equal(write_block(image, DISK_BYTES - BLOCK, 'z', 0), 0);
	assert_int_equal(ox_resize(image, 8 * DISK_BYTES, NULL), 0);
	assert_int_equal(ox_image_size(image), 8 * DISK_BYTES);
	assert_reads(image, DISK_BYTES - BLOCK, 'z');
	assert_reads(image, 8 * DISK_BYTES - BLOCK, 0);
	assert_int_equal(write_block(image, 8 * DISK_BYTES - BLOCK, 'y', 0), 0);
	assert_int_equal(ox_resize(image, MIB, NULL), 0);
	assert_int_equal(write_block(image, MIB, 'x', 0), -EINVAL);
	assert_int_equal(ox_resize(image, DISK_BYTES, NULL), 0);
	assert_reads(image, DISK_BYTES - BLOCK, 0);
	assert_true(ox_resize(image, UINT64_MAX - 511, &err) < 0);
	assert_true(strlen(ox_error_message(err)) > 0);
	ox_error_free(err);
	assert_int_equal(ox_image_size(image), DISK_BYTES);
	close_image(image);
	assert_clean();
}

struct heard {
	unsigned count;
	enum ox_notice_kind kind;
	uint64_t guest_offset;
};

static void hear(void *opaque, const struct ox_notice *notice)
{
	struct heard *heard = opaque;

	heard->count++;
	heard->kind = notice->kind;
	heard->guest_offset = notice->guest_offset;
	assert_string_equal(notice->filename, "disk.qcow2");
	assert_int_not_equal(strlen(notice->message), 0);
}

/* Puts nonsense where the L1 entry of the disk's beginning is. */
static void damage_l1(void)
{
	static const unsigned char nonsense[8] = {0x80, 0, 0, 0, 0, 0x05, 0, 0x07};
	int fd = open("disk.qcow2", O_RDWR);
	unsigned char at[8];
	off_t offset = 0;

	assert_int_equal(pread(fd, at, sizeof(at), 40), sizeof(at));
	for (unsigned i = 0; i < 8; i++)
		offset = offset << 8 | at[i];
	assert_int_equal(pwrite(fd, nonsense, sizeof(nonsense), offset), sizeof(nonsense));
	close(fd);
}

static void damage_is_told_and_counted(void **state)
{
	struct ox_notice last = {.guest_length = 17};
	struct heard heard = {0};
	struct ox_image *image;
	char byte;

	(void)state;
	create("disk.qcow2", NULL);
	damage_l1();
	image = open_as("disk.qcow2", "qcow2", OX_CACHE_WRITEBACK, OX_OPEN_READ_ONLY);
	assert_int_equal(ox_image_notices(image, &last), 0);
	assert_int_equal(last.guest_length, 17);
	ox_image_set_notice(image, hear, &heard);
	assert_int_equal(ox_pread(image, &byte, 1, 5), -EIO);
	assert_int_equal(heard.count, 1);
	assert_int_equal(heard.kind, OX_NOTICE_DAMAGE);
	assert_int_equal(heard.guest_offset, 0);
	ox_image_set_notice(image, NULL, NULL);
	assert_int_equal(ox_pread(image, &byte, 1, 5), -EIO);
	assert_int_equal(heard.count, 1);
	assert_int_equal(ox_image_notices(image, NULL), 2);
	assert_int_equal(ox_image_notices(image, &last), 2);
	assert_string_equal(last.finding, "l1-entry-reserved-bits");
	close_image(image);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(sixty_four_requests_of_all_kinds_are_in_flight_at_once),
		TEST(a_queued_request_does_not_start_before_a_poll),
		TEST(damage_is_told_and_counted),
		TEST(queued_requests_go_on_beside_synchronous_calls),
		TEST(overlapping_writes_in_flight_leave_one_of_them),
		TEST(concurrent_durable_writes_share_their_syncs),
		TEST(requests_past_the_end_are_refused_and_change_nothing),
		TEST(requests_of_no_bytes_succeed),
		TEST(vectors_scatter_and_gather),
		TEST(a_fua_write_costs_a_sync_and_another_does_not),
		TEST(a_fast_zero_zeroes_or_leaves_the_range_alone),
		TEST(a_read_only_image_is_not_written_until_it_is_reopened),
		TEST(one_image_is_open_for_writing_once),
		TEST(errors_have_messages_and_leave_outputs_alone),
		TEST(options_of_an_older_program_are_taken_as_far_as_they_go),
		TEST(a_newer_programs_longer_options_are_taken),
		TEST(a_descriptor_is_duplicated_and_stays_the_callers),
		TEST(a_read_only_descriptor_cannot_be_made_writable),
		TEST(a_writable_descriptor_may_be_used_read_only_and_made_writable),
		TEST(descriptors_of_other_things_are_refused),
		TEST(relative_backing_names_are_looked_for_beside_the_name_of_a_descriptor),
		TEST(an_image_that_names_others_is_refused_unless_that_is_allowed),
		TEST(a_disk_grows_with_zeroes_and_shrinks),
	};

	return cmocka_run_group_tests_name("api", tests, enter_dir, leave_dir);
}
