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
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
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
	for (unsigned bit = OX_OPEN_URI << 1; bit; bit <<= 1) {
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

static struct ox_create_options good_create(void)
{
	struct ox_create_options opts = OX_CREATE_OPTIONS_INIT;

	opts.format = "qcow2";
	opts.virtual_bytes = MIB;
	return opts;
}

static void images_that_cannot_be_are_not_made(void **state)
{
	struct ox_create_options opts = good_create();

	(void)state;
	opts.format = NULL;
	create_refused(&opts, -EINVAL, "format");
	opts.format = "parchment";
	create_refused(&opts, -EINVAL, "parchment");
	opts = good_create();
	opts.virtual_bytes = UINT64_MAX;
	create_refused(&opts, -EFBIG, "");
	opts = good_create();
	opts.version = 4;
	create_refused(&opts, -EINVAL, "");
	opts = good_create();
	opts.cluster_bytes = 65537;
	create_refused(&opts, -EINVAL, "");
	opts.cluster_bytes = UINT32_MAX;
	create_refused(&opts, -EINVAL, "");
	opts = good_create();
	opts.refcount_bits = 7;
	create_refused(&opts, -EINVAL, "");
	opts.refcount_bits = UINT32_MAX;
	create_refused(&opts, -EINVAL, "");
	opts = good_create();
	opts.compression_type = "lead";
	create_refused(&opts, -EINVAL, "");
	opts = good_create();
	opts.backing_file = "base.qcow2";
	create_refused(&opts, -EINVAL, "backing");
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

/* ---- requests ---- */

static struct ox_image *open_disk(void)
{
	struct ox_open_options opts = good_open();
	struct ox_image *image;

	assert_int_equal(ox_image_open(ctx, "disk.qcow2", &opts, &image, NULL), 0);
	return image;
}

static struct ox_queue *queue_of(struct ox_image *image)
{
	struct ox_queue *queue;

	assert_int_equal(ox_queue_new(image, &queue), 0);
	return queue;
}

static void close_disk(struct ox_image *image)
{
	assert_int_equal(ox_image_close(image, NULL), 0);
}

/* Neither a queue nor a synchronous call takes it. */
static void request_refused(struct ox_image *image, struct ox_queue *queue,
			    const struct ox_request *request)
{
	struct ox_request copy = *request;
	int r;

	copy.result = 1;
	assert_int_equal(ox_queue_submit(queue, &copy), -EINVAL);
	assert_int_equal(ox_queue_pending(queue), 0);
	assert_int_equal(copy.result, 1);
	switch (request->op) {
	case OX_OP_READ:
		r = ox_preadv(image, request->iov, request->iov_count, request->offset);
		break;
	case OX_OP_WRITE:
		r = ox_pwritev(image, request->iov, request->iov_count, request->offset,
			       request->flags);
		break;
	case OX_OP_WRITE_ZEROES:
		r = ox_write_zeroes(image, request->offset, request->length, request->flags);
		break;
	case OX_OP_EXTENT:
		r = ox_extent_at(image, request->offset, request->length, request->extent);
		break;
	default: /* what has no synchronous call that takes as much */
		return;
	}
	assert_int_equal(r, -EINVAL);
}

static void vectors_that_are_none_are_refused(void **state)
{
	char buf[8192];
	struct iovec good = {buf, 512};
	struct iovec wraps[] = {{buf, SIZE_MAX}, {buf, 4097}};
	struct iovec wraps_late[] = {{buf, 512}, {buf, SIZE_MAX - 511}, {buf, 4096}};
	struct iovec too_much[] = {{buf, SIZE_MAX / 2}, {buf, SIZE_MAX / 2}};
	struct iovec nowhere = {NULL, 512};
	const struct {
		const struct iovec *iov;
		int count;
	} cases[] = {
		{&good, -1}, {&good, INT32_MIN}, {NULL, 1},	{NULL, -1},
		{wraps, 2},  {wraps_late, 3},	 {too_much, 2}, {&nowhere, 1},
	};
	struct ox_image *image = open_disk();
	struct ox_queue *queue = queue_of(image);

	(void)state;
	for (size_t i = 0; i < COUNT(cases); i++) {
		struct ox_request request = {.iov = cases[i].iov, .iov_count = cases[i].count};
		struct ox_request *done;

		request.op = OX_OP_READ;
		if (cases[i].iov == too_much) { /* a number that there is, past the end */
			assert_int_equal(ox_preadv(image, too_much, 2, 0), -EINVAL);
			assert_int_equal(ox_queue_submit(queue, &request), 0);
			assert_int_equal(ox_context_poll(ctx), 0);
			assert_int_equal(ox_queue_reap(queue, &done, 1), 1);
			assert_int_equal(done->result, -EINVAL);
			continue;
		}
		request_refused(image, queue, &request);
		request.op = OX_OP_WRITE;
		request_refused(image, queue, &request);
	}
	ox_queue_free(queue);
	close_disk(image);
}

static void operations_and_flags_that_are_none_are_refused(void **state)
{
	struct ox_image *image = open_disk();
	struct ox_queue *queue = queue_of(image);
	struct ox_extent extent;
	char buf[512];
	struct iovec iov = {buf, sizeof(buf)};
	const unsigned taken[] = {
		[OX_OP_READ] = 0,
		[OX_OP_WRITE] = OX_REQ_FUA | OX_REQ_COMPRESSED,
		[OX_OP_WRITE_ZEROES] = OX_REQ_FUA | OX_REQ_MAY_UNMAP | OX_REQ_FAST_ZERO,
		[OX_OP_DISCARD] = OX_REQ_FUA,
		[OX_OP_FLUSH] = 0,
		[OX_OP_EXTENT] = 0,
	};

	(void)state;
	for (unsigned op = 0; op < COUNT(taken); op++) {
		for (unsigned bit = 1; bit; bit <<= 1) {
			struct ox_request request = {
				.op = (enum ox_op)op,
				.flags = bit,
				.length = 512,
				.iov = &iov,
				.iov_count = 1,
				.extent = &extent,
			};

			if (!(bit & taken[op]) && (op != OX_OP_READ && op != OX_OP_EXTENT))
				request_refused(image, queue, &request);
			else if (!(bit & taken[op]))
				assert_int_equal(ox_queue_submit(queue, &request), -EINVAL);
		}
	}
	request_refused(image, queue, &(struct ox_request){.op = (enum ox_op)6});
	request_refused(image, queue, &(struct ox_request){.op = (enum ox_op) - 1});
	request_refused(image, queue, &(struct ox_request){.op = OX_OP_EXTENT, .length = 512});
	ox_queue_free(queue);
	close_disk(image);
}

static struct ox_request *reap_one(struct ox_queue *queue)
{
	struct ox_request *done;

	while (ox_queue_reap(queue, &done, 1) == 0)
		assert_int_equal(ox_context_wait(ctx), 0);
	return done;
}

static void a_request_that_is_held_is_not_taken_again(void **state)
{
	struct ox_image *image = open_disk();
	struct ox_queue *queue = queue_of(image);
	struct ox_queue *other = queue_of(image);
	struct ox_request request = {.op = OX_OP_FLUSH};
	struct ox_request copy;

	(void)state;
	for (unsigned round = 0; round < 3; round++) {
		assert_int_equal(ox_queue_submit(queue, &request), 0);
		assert_int_equal(ox_queue_submit(queue, &request), -EBUSY);
		assert_int_equal(ox_queue_submit(other, &request), -EBUSY);
		copy = request; /* is another request, whatever it was copied from */
		assert_int_equal(ox_queue_submit(other, &copy), 0);
		assert_int_equal(ox_queue_pending(queue), 1);
		assert_int_equal(ox_context_poll(ctx), 0);
		assert_int_equal(ox_queue_submit(queue, &request), -EBUSY);
		assert_ptr_equal(reap_one(queue), &request);
		assert_int_equal(request.result, 0);
		assert_ptr_equal(reap_one(other), &copy);
		assert_int_equal(ox_queue_pending(queue) + ox_queue_pending(other), 0);
	}
	memset(request.reserved, 0xa5, sizeof(request.reserved)); /* whatever lay there before */
	assert_int_equal(ox_queue_submit(queue, &request), 0);
	assert_ptr_equal(reap_one(queue), &request);
	ox_queue_free(queue);
	ox_queue_free(other);
	close_disk(image);
}

/* ---- lives ---- */

static void an_image_with_pending_requests_is_not_closed(void **state)
{
	struct ox_image *image = open_disk();
	struct ox_queue *queue = queue_of(image);
	struct ox_request request = {.op = OX_OP_FLUSH};
	struct ox_error *err = NULL;
	struct ox_job *job = (void *)dir;

	(void)state;
	assert_int_equal(ox_queue_submit(queue, &request), 0);
	for (unsigned i = 0; i < 2; i++) { /* not begun; then complete and not reaped */
		assert_refused(ox_image_close(image, &err), -EBUSY, &err, "pending");
		assert_refused(ox_image_close_start(image, &job, &err), -EBUSY, &err, "pending");
		assert_refused(ox_image_reopen(image, true, &err), -EBUSY, &err, "pending");
		assert_refused(ox_image_reopen_start(image, true, &job, &err), -EBUSY, &err,
			       "pending");
		assert_ptr_equal(job, dir);
		assert_int_equal(ox_resize(image, (2 + i) * DISK_BYTES, NULL), 0);
	}
	assert_ptr_equal(reap_one(queue), &request);
	assert_int_equal(request.result, 0);
	close_disk(image);
	ox_queue_free(queue);
}

static void one_job_at_a_time_is_on_an_image(void **state)
{
	struct ox_image *image = open_disk();
	struct ox_queue *queue = queue_of(image);
	struct ox_request request = {.op = OX_OP_FLUSH};
	struct ox_error *err = NULL;
	struct ox_image_info *info = (void *)dir;
	struct ox_job *second = (void *)dir;
	struct ox_job *job;

	(void)state;
	assert_int_equal(ox_image_reopen_start(image, true, &job, NULL), 0);
	for (unsigned i = 0; i < 2; i++) { /* not begun; then done and not ended */
		assert_refused(ox_image_close(image, &err), -EBUSY, &err, "job");
		assert_refused(ox_image_reopen(image, false, &err), -EBUSY, &err, "job");
		assert_refused(ox_resize(image, MIB, &err), -EBUSY, &err, "job");
		assert_refused(ox_resize_start(image, MIB, &second, &err), -EBUSY, &err, "job");
		assert_int_equal(ox_queue_submit(queue, &request), -EBUSY);
		assert_int_equal(ox_flush(image), -EBUSY);
		assert_int_equal(ox_image_info_get(image, &info, NULL), -EBUSY);
		while (!ox_job_is_done(job))
			assert_int_equal(ox_context_wait(ctx), 0);
	}
	assert_ptr_equal(second, dir);
	assert_ptr_equal(info, dir);
	assert_int_equal(ox_job_end(job, NULL, NULL), 0);
	assert_true(ox_image_is_read_only(image));
	assert_int_equal(ox_flush(image), 0);
	ox_queue_free(queue);
	close_disk(image);
}

/* ---- what stops the program ---- */

/* Runs fn in a process of its own, which has to end by abort(3). */
static void assert_stops(void (*fn)(void))
{
	const struct rlimit none = {0, 0};
	pid_t pid = fork();
	int status;

	assert_true(pid >= 0);
	if (pid == 0) {
		int null_fd = open("/dev/null", O_WRONLY);

		dup2(null_fd, STDERR_FILENO);
		setrlimit(RLIMIT_CORE, &none);
		signal(SIGABRT, SIG_DFL);
		if (ox_context_new(OX_ENGINE_DEFAULT, &ctx, NULL) == 0)
			fn();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGABRT);
}

static void free_context_of_an_open_image(void)
{
	open_disk();
	ox_context_free(ctx);
}

static void free_context_with_a_job(void)
{
	struct ox_open_options opts = good_open();
	struct ox_job *job;

	(void)!ox_image_open_start(ctx, "disk.qcow2", &opts, &job, NULL);
	ox_context_free(ctx);
}

static struct ox_request flush = {.op = OX_OP_FLUSH};

static void free_queue_with_a_request(void)
{
	struct ox_queue *queue = queue_of(open_disk());

	(void)!ox_queue_submit(queue, &flush);
	ox_queue_free(queue);
}

static void submit_to_the_queue_of_a_closed_image(void)
{
	struct ox_image *image = open_disk();
	struct ox_queue *queue = queue_of(image);

	close_disk(image);
	(void)!ox_queue_submit(queue, &flush);
}

static void end_a_job_that_is_not_done(void)
{
	struct ox_job *job;

	(void)!ox_resize_start(open_disk(), MIB, &job, NULL);
	(void)!ox_job_end(job, NULL, NULL);
}

static void call_from_a_callback(void *opaque, uint64_t done, uint64_t total)
{
	(void)opaque;
	(void)done;
	(void)total;
	(void)!ox_context_poll(ctx);
}

static void check_with_a_callback_that_polls(void)
{
	struct ox_check_options opts = OX_CHECK_OPTIONS_INIT;
	struct ox_check_result result;

	opts.progress = call_from_a_callback;
	(void)!ox_image_check(ctx, "disk.qcow2", &opts, &result, NULL);
}

static int poll_instead_of_opening(void *opaque, const struct ox_file_wanted *wanted)
{
	(void)opaque;
	(void)wanted;
	return ox_context_poll(ctx);
}

static void open_with_a_callback_that_polls(void)
{
	struct ox_open_options opts = good_open();
	struct ox_image *image;

	opts.open_file = poll_instead_of_opening;
	(void)!ox_image_open(ctx, "disk.qcow2", &opts, &image, NULL);
}

static void *poll_elsewhere(void *opaque)
{
	(void)!ox_context_poll(ctx);
	return opaque;
}

static void poll_from_another_thread(void)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, poll_elsewhere, NULL) == 0)
		pthread_join(thread, NULL);
}

static void name_a_cache_mode_that_is_none(void)
{
	(void)ox_cache_mode_name((enum ox_cache_mode)99);
}

static void mistakes_that_no_error_can_answer_stop_the_program(void **state)
{
	(void)state;
	assert_stops(free_context_of_an_open_image);
	assert_stops(free_context_with_a_job);
	assert_stops(free_queue_with_a_request);
	assert_stops(submit_to_the_queue_of_a_closed_image);
	assert_stops(end_a_job_that_is_not_done);
	assert_stops(check_with_a_callback_that_polls);
	assert_stops(open_with_a_callback_that_polls);
	assert_stops(poll_from_another_thread);
	assert_stops(name_a_cache_mode_that_is_none);
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
		TEST(images_that_cannot_be_are_not_made),
		TEST(there_is_no_engine_and_no_cache_mode_of_another_number),
		TEST(vectors_that_are_none_are_refused),
		TEST(operations_and_flags_that_are_none_are_refused),
		TEST(a_request_that_is_held_is_not_taken_again),
		TEST(an_image_with_pending_requests_is_not_closed),
		TEST(one_job_at_a_time_is_on_an_image),
		TEST(mistakes_that_no_error_can_answer_stop_the_program),
	};

	return cmocka_run_group_tests_name("misuse", tests, enter_dir, leave_dir);
}
