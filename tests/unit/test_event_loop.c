/* SPDX-License-Identifier: MIT */
/* The library in a program's event loop: what the descriptor tells, jobs, and cancelling. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* the ones above first: cmocka.h needs them */
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "oxbow.h"

#define KIB UINT64_C(1024)
#define MIB (1024 * KIB)
#define DISK_BYTES (64 * MIB)
#define BLOCK 4096u
#define DEPTH 64u
#define PATIENCE_MS 60000 /* a loop that sleeps so long was not woken */

static struct ox_context *ctx;
static struct ox_image *image;
static struct ox_queue *queue;
static char dir[] = "/tmp/ox-test-loop-XXXXXX";
static char old_dir[4096];

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

static int create(uint64_t virtual_bytes)
{
	struct ox_create_options opts = OX_CREATE_OPTIONS_INIT;

	opts.format = "qcow2";
	opts.virtual_bytes = virtual_bytes;
	opts.lazy_refcounts = true;
	return ox_image_create(ctx, "disk.qcow2", &opts, NULL);
}

static struct ox_open_options how(void)
{
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;

	opts.format = "qcow2";
	opts.lazy_idle_ms = UINT32_MAX; /* no timer that wakes a loop by chance */
	return opts;
}

static int setup(void **state)
{
	struct ox_open_options opts = how();

	(void)state;
	if (ox_context_new(OX_ENGINE_DEFAULT, &ctx, NULL) < 0 || create(DISK_BYTES) < 0)
		return -1;
	if (ox_image_open(ctx, "disk.qcow2", &opts, &image, NULL) < 0)
		return -1;
	return ox_queue_new(image, &queue);
}

static int teardown(void **state)
{
	(void)state;
	ox_queue_free(queue);
	if (image && ox_image_close(image, NULL) < 0)
		return -1;
	ox_context_free(ctx);
	return unlink("disk.qcow2");
}

static bool is_readable(void)
{
	struct pollfd loop = {.fd = ox_context_fd(ctx), .events = POLLIN};

	return poll(&loop, 1, 0) == 1;
}

/* One round of a program's loop, which sleeps before it looks. */
static void sleep_and_poll(void)
{
	struct pollfd loop = {.fd = ox_context_fd(ctx), .events = POLLIN};

	assert_int_equal(poll(&loop, 1, PATIENCE_MS), 1);
	assert_int_equal(ox_context_poll(ctx), 0);
}

struct slot {
	struct ox_request request;
	struct iovec iov;
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
		.result = 1,
	};
}

static void submit_writes(struct ox_queue *q, unsigned n, uint64_t from)
{
	for (unsigned i = 0; i < n; i++) {
		fill(&slots[i], OX_OP_WRITE, from + i * 70 * KIB, (char)i);
		assert_int_equal(ox_queue_submit(q, &slots[i].request), 0);
	}
}

static size_t reap(struct ox_queue *q, size_t max)
{
	struct ox_request *done[DEPTH];
	size_t n = ox_queue_reap(q, done, max);

	for (size_t i = 0; i < n; i++)
		assert_int_equal(done[i]->result, 0);
	return n;
}

/* ---- the descriptor ---- */

static void the_descriptor_tells_of_what_was_submitted(void **state)
{
	(void)state;
	for (unsigned round = 0; round < 3; round++) {
		while (is_readable())
			assert_int_equal(ox_context_poll(ctx), 0);
		submit_writes(queue, 3, round * MIB);
		assert_true(is_readable());
		while (ox_queue_pending(queue) > 0) {
			sleep_and_poll();
			reap(queue, DEPTH);
		}
	}
}

/* A loop that takes at most so many in each round, and sleeps before each, comes to its end. */
static void a_loop_that_reaps_a_few_at_a_time_is_woken_for_the_rest(void **state)
{
	const size_t steps[] = {1, 2, 7};

	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		size_t reaped = 0;

		submit_writes(queue, DEPTH, 0);
		while (reaped < DEPTH) {
			sleep_and_poll();
			reaped += reap(queue, steps[i]);
		}
		assert_int_equal(ox_queue_pending(queue), 0);
	}
}

/* More than the host maps stacks for, so that most of them wait for others to end. */
static void any_number_of_requests_is_taken_and_comes_to_its_end(void **state)
{
	const size_t count = 40000;
	struct ox_request *requests = calloc(count, sizeof(*requests));
	struct iovec iov = {slots[0].buf, BLOCK};
	size_t reaped = 0;

	(void)state;
	assert_non_null(requests);
	for (size_t i = 0; i < count; i++) {
		requests[i] = (struct ox_request){.op = OX_OP_READ, .iov = &iov, .iov_count = 1};
		assert_int_equal(ox_queue_submit(queue, &requests[i]), 0);
	}
	while (reaped < count) {
		size_t n;

		sleep_and_poll();
		do
			reaped += n = reap(queue, DEPTH);
		while (n > 0);
	}
	assert_int_equal(ox_queue_pending(queue), 0);
	free(requests);
}

static void the_descriptor_stays_readable_while_something_is_to_be_reaped(void **state)
{
	struct ox_queue *other;

	(void)state;
	assert_int_equal(ox_queue_new(image, &other), 0);
	submit_writes(other, 8, 0);
	assert_int_equal(ox_flush(image), 0); /* turns the reactor, which ends most of them */
	for (size_t reaped = 0; reaped < 8; reaped += reap(other, 1)) {
		assert_int_equal(reap(queue, DEPTH), 0); /* the program looks at another queue */
		sleep_and_poll();
		assert_int_equal(ox_context_poll(ctx), 0);
	}
	/* nothing is left to tell of */
	assert_int_equal(ox_context_poll(ctx), 0);
	assert_false(is_readable());
	ox_queue_free(other);
}

static void a_wait_does_not_sleep_over_results(void **state)
{
	struct ox_open_options opts = how();

	(void)state;
	ox_queue_free(queue);
	assert_int_equal(ox_image_close(image, NULL), 0);
	opts.lazy_idle_ms = 24 * 3600 * 1000; /* a timer that it might sleep for instead */
	assert_int_equal(ox_image_open(ctx, "disk.qcow2", &opts, &image, NULL), 0);
	assert_int_equal(ox_queue_new(image, &queue), 0);
	submit_writes(queue, 8, 0);
	for (size_t reaped = 0; reaped < 8; reaped += reap(queue, 1))
		assert_int_equal(ox_context_wait(ctx), 0);
}

static void a_program_that_polls_in_each_turn_is_told_of_the_engines_events_alone(void **state)
{
	(void)state;
	while (is_readable())
		assert_int_equal(ox_context_poll(ctx), 0);
	ox_context_set_polled(ctx, true);
	submit_writes(queue, 8, 0);
	assert_false(is_readable());
	while (ox_queue_pending(queue) > 0) {
		struct pollfd loop = {.fd = ox_queue_fd(queue), .events = POLLIN};

		assert_int_equal(ox_context_poll(ctx), 0);
		reap(queue, DEPTH);
		if (ox_queue_pending(queue) > 0)
			assert_int_equal(poll(&loop, 1, PATIENCE_MS), 1);
	}
	submit_writes(queue, 1, 0);
	ox_context_set_polled(ctx, false); /* from now on it relies on being told */
	while (ox_queue_pending(queue) > 0) {
		sleep_and_poll();
		reap(queue, DEPTH);
	}
}

/* So nothing has to be read, and a request costs a system call less. */
static void whoever_polls_is_woken_by_edges(void **state)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLET};
	const int epoll_fd = epoll_create1(EPOLL_CLOEXEC);

	(void)state;
	assert_true(epoll_fd >= 0);
	ox_context_set_polled(ctx, true);
	assert_int_equal(epoll_ctl(epoll_fd, EPOLL_CTL_ADD, ox_queue_fd(queue), &event), 0);
	for (unsigned i = 0; i < 200; i++) {
		submit_writes(queue, 1, i % 8 * BLOCK);
		for (;;) {
			assert_int_equal(ox_context_poll(ctx), 0);
			reap(queue, DEPTH);
			if (ox_queue_pending(queue) == 0)
				break;
			assert_int_equal(epoll_wait(epoll_fd, &event, 1, PATIENCE_MS), 1);
		}
	}
	ox_context_set_polled(ctx, false);
	assert_int_equal(ox_context_poll(ctx), 0);
	assert_false(is_readable()); /* by then it is read again */
	close(epoll_fd);
}

/* ---- jobs ---- */

static int end_job(struct ox_job *job, struct ox_image **ret_image, struct ox_error **err)
{
	while (!ox_job_is_done(job))
		sleep_and_poll();
	return ox_job_end(job, ret_image, err);
}

static void an_image_is_closed_and_opened_beside_the_loop(void **state)
{
	struct ox_open_options opts = how();
	struct ox_job *job;
	char buf[BLOCK];

	(void)state;
	fill(&slots[0], OX_OP_WRITE, MIB, 'w');
	assert_int_equal(ox_pwrite(image, slots[0].buf, BLOCK, MIB, 0), 0);
	assert_int_equal(ox_image_close_start(image, &job, NULL), 0);
	assert_int_equal(end_job(job, NULL, NULL), 0);
	ox_queue_free(queue);
	assert_int_equal(ox_image_open_start(ctx, "disk.qcow2", &opts, &job, NULL), 0);
	assert_int_equal(end_job(job, &image, NULL), 0);
	assert_int_equal(ox_pread(image, buf, BLOCK, MIB), 0);
	assert_memory_equal(buf, slots[0].buf, BLOCK);
	assert_int_equal(ox_queue_new(image, &queue), 0);
}

static void an_image_is_opened_by_descriptor_beside_the_loop(void **state)
{
	struct ox_open_options opts = how();
	struct ox_image *reader;
	struct ox_job *job;
	int fd = open("disk.qcow2", O_RDONLY | O_CLOEXEC);

	(void)state;
	opts.flags = OX_OPEN_READ_ONLY | OX_OPEN_FORCE_SHARE;
	assert_int_equal(ox_image_open_fd_start(ctx, fd, "the disk", &opts, &job, NULL), 0);
	assert_int_equal(end_job(job, &reader, NULL), 0);
	assert_true(ox_image_is_read_only(reader));
	assert_int_equal(ox_image_size(reader), DISK_BYTES);
	assert_int_equal(ox_image_close(reader, NULL), 0);
	close(fd);
}

static void a_job_that_fails_says_why(void **state)
{
	struct ox_open_options opts = how();
	struct ox_image *none = (void *)dir;
	struct ox_error *err = NULL;
	struct ox_job *job = (void *)dir;

	(void)state;
	assert_int_equal(ox_image_open_start(ctx, "missing", &opts, &job, NULL), 0);
	assert_int_equal(end_job(job, &none, &err), -ENOENT);
	assert_non_null(strstr(ox_error_message(err), "missing"));
	ox_error_free(err);
	assert_int_equal(ox_image_open_start(ctx, "missing", &opts, &job, NULL), 0);
	assert_int_equal(end_job(job, &none, NULL), -ENOENT); /* nobody wants the words */
	assert_ptr_equal(none, dir);
	err = NULL;
	assert_int_equal(ox_resize_start(image, UINT64_MAX, &job, NULL), 0);
	assert_int_equal(end_job(job, NULL, &err), -EFBIG);
	assert_true(strlen(ox_error_message(err)) > 0);
	ox_error_free(err);
	job = (void *)dir;
	opts.cache = (enum ox_cache_mode)99; /* what can be told at once is */
	assert_int_equal(ox_image_open_start(ctx, "disk.qcow2", &opts, &job, NULL), -EINVAL);
	assert_ptr_equal(job, dir);
}

static void a_disk_grows_while_its_guest_writes(void **state)
{
	struct ox_job *job;
	size_t reaped = 0;

	(void)state;
	submit_writes(queue, DEPTH, 0);
	assert_int_equal(ox_resize_start(image, 4 * DISK_BYTES, &job, NULL), 0);
	while (reaped < DEPTH || !ox_job_is_done(job)) {
		sleep_and_poll();
		reaped += reap(queue, 3);
	}
	assert_int_equal(ox_job_end(job, NULL, NULL), 0);
	assert_int_equal(ox_image_size(image), 4 * DISK_BYTES);
	submit_writes(queue, DEPTH, 3 * DISK_BYTES);
	for (reaped = 0; reaped < DEPTH; reaped += reap(queue, DEPTH))
		sleep_and_poll();
}

static void an_image_becomes_read_only_beside_the_loop(void **state)
{
	struct ox_job *job;

	(void)state;
	assert_int_equal(ox_image_reopen_start(image, true, &job, NULL), 0);
	assert_int_equal(end_job(job, NULL, NULL), 0);
	assert_true(ox_image_is_read_only(image));
	assert_int_equal(ox_image_reopen_start(image, false, &job, NULL), 0);
	assert_int_equal(end_job(job, NULL, NULL), 0);
	assert_false(ox_image_is_read_only(image));
	submit_writes(queue, 1, 0);
	while (reap(queue, 1) == 0)
		sleep_and_poll();
}

/* ---- giving up ---- */

static void a_request_that_has_not_begun_can_be_cancelled(void **state)
{
	struct ox_request *done;
	char byte = 1;

	(void)state;
	fill(&slots[0], OX_OP_WRITE, MIB, 'x');
	fill(&slots[1], OX_OP_WRITE, 2 * MIB, 'y');
	assert_int_equal(ox_queue_submit(queue, &slots[0].request), 0);
	assert_int_equal(ox_queue_submit(queue, &slots[1].request), 0);
	assert_int_equal(ox_queue_cancel(queue, &slots[0].request), 0);
	for (unsigned n = 0; n < 2;) {
		sleep_and_poll();
		while (ox_queue_reap(queue, &done, 1) == 1)
			n++;
	}
	assert_int_equal(ox_queue_pending(queue), 0); /* each of them completes, once */
	assert_int_equal(slots[0].request.result, -ECANCELED);
	assert_int_equal(slots[1].request.result, 0);
	assert_int_equal(ox_pread(image, &byte, 1, MIB), 0);
	assert_int_equal(byte, 0);
	assert_int_equal(ox_queue_submit(queue, &slots[0].request), 0); /* it can be used again */
	while (reap(queue, 1) == 0)
		sleep_and_poll();
}

#define GIB (1024 * MIB)
#define TABLES 256u

/* A disk with a block in each GiB, none of whose tables is in memory. */
static void open_wide_disk(void)
{
	struct ox_open_options opts = how();
	char buf[BLOCK];

	ox_queue_free(queue);
	assert_int_equal(ox_image_close(image, NULL), 0);
	assert_int_equal(create(TABLES * GIB), 0);
	assert_int_equal(ox_image_open(ctx, "disk.qcow2", &opts, &image, NULL), 0);
	memset(buf, 'x', sizeof(buf));
	for (unsigned i = 0; i < TABLES; i++)
		assert_int_equal(ox_pwrite(image, buf, sizeof(buf), i * GIB, 0), 0);
	assert_int_equal(ox_image_close(image, NULL), 0);
	assert_int_equal(ox_image_open(ctx, "disk.qcow2", &opts, &image, NULL), 0);
	assert_int_equal(ox_queue_new(image, &queue), 0);
}

static char byte_at(uint64_t offset)
{
	char byte = 1;

	assert_int_equal(ox_pread(image, &byte, 1, offset), 0);
	return byte;
}

/* One poll does not get through so many tables. */
static void long_work_stops_between_pieces_when_it_is_cancelled(void **state)
{
	const enum ox_op ops[] = {OX_OP_WRITE_ZEROES, OX_OP_DISCARD};
	struct ox_check_options opts = OX_CHECK_OPTIONS_INIT;
	struct ox_check_result result;
	struct ox_request *done;

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		open_wide_disk();
		fill(&slots[0], ops[i], 0, 0);
		slots[0].request.length = TABLES * GIB;
		assert_int_equal(ox_queue_submit(queue, &slots[0].request), 0);
		assert_int_equal(ox_context_poll(ctx), 0);
		assert_int_equal(ox_queue_cancel(queue, &slots[0].request), 0);
		while (ox_queue_reap(queue, &done, 1) == 0)
			sleep_and_poll();
		assert_int_equal(done->result, -ECANCELED);
		assert_int_equal(byte_at((TABLES - 1) * GIB), 'x');
	}
	ox_queue_free(queue);
	assert_int_equal(ox_image_close(image, NULL), 0);
	image = NULL;
	queue = NULL;
	assert_int_equal(ox_image_check(ctx, "disk.qcow2", &opts, &result, NULL), 0);
	assert_int_equal(result.corruptions + result.check_errors, 0);
}

static void what_is_done_or_is_not_the_queues_is_not_cancelled(void **state)
{
	struct ox_queue *other;

	(void)state;
	assert_int_equal(ox_queue_new(image, &other), 0);
	fill(&slots[0], OX_OP_WRITE, MIB, 'x');
	assert_int_equal(ox_queue_cancel(queue, &slots[0].request), -ENOENT);
	assert_int_equal(ox_queue_submit(queue, &slots[0].request), 0);
	assert_int_equal(ox_queue_cancel(other, &slots[0].request), -ENOENT);
	while (slots[0].request.result == 1)
		sleep_and_poll();
	assert_int_equal(ox_queue_cancel(queue, &slots[0].request), 0); /* too late: it stands */
	assert_int_equal(reap(queue, 1), 1);
	assert_int_equal(ox_queue_cancel(queue, &slots[0].request), -ENOENT);
	ox_queue_free(other);
}

static void a_job_that_has_not_begun_can_be_cancelled_unless_it_is_a_closing(void **state)
{
	struct ox_open_options opts = how();
	struct ox_image *none = (void *)dir;
	struct ox_error *err = NULL;
	struct ox_job *job;

	(void)state;
	assert_int_equal(ox_resize_start(image, 2 * DISK_BYTES, &job, NULL), 0);
	ox_job_cancel(job);
	assert_int_equal(end_job(job, NULL, &err), -ECANCELED);
	assert_true(strlen(ox_error_message(err)) > 0);
	ox_error_free(err);
	assert_int_equal(ox_image_size(image), DISK_BYTES);
	assert_int_equal(ox_image_reopen_start(image, true, &job, NULL), 0);
	ox_job_cancel(job);
	assert_int_equal(end_job(job, NULL, NULL), -ECANCELED);
	assert_false(ox_image_is_read_only(image));
	assert_int_equal(ox_image_open_start(ctx, "disk.qcow2", &opts, &job, NULL), 0);
	ox_job_cancel(job);
	assert_int_equal(end_job(job, &none, NULL), -ECANCELED);
	assert_ptr_equal(none, dir);
	assert_int_equal(ox_image_close_start(image, &job, NULL), 0);
	ox_job_cancel(job);
	assert_int_equal(end_job(job, NULL, NULL), 0);
	ox_queue_free(queue);
	image = NULL;
	queue = NULL;
}

/* Nothing else wakes this loop. */
static void an_idle_loop_whose_turns_are_counted_is_woken_to_turn(void **state)
{
	uint64_t turns = 0;

	(void)state;
	assert_int_equal(ox_context_poll(ctx), 0);
	assert_int_equal(turns, 0);
	ox_context_count_turns(ctx, &turns);
	assert_int_equal(ox_context_poll(ctx), 0);
	for (unsigned i = 0; i < 2; i++) {
		uint64_t before = turns;

		assert_true(before > 0);
		sleep_and_poll();
		assert_true(turns > before);
	}
	ox_context_count_turns(ctx, NULL);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(the_descriptor_tells_of_what_was_submitted),
		TEST(a_loop_that_reaps_a_few_at_a_time_is_woken_for_the_rest),
		TEST(any_number_of_requests_is_taken_and_comes_to_its_end),
		TEST(the_descriptor_stays_readable_while_something_is_to_be_reaped),
		TEST(a_wait_does_not_sleep_over_results),
		TEST(a_program_that_polls_in_each_turn_is_told_of_the_engines_events_alone),
		TEST(whoever_polls_is_woken_by_edges),
		TEST(an_image_is_closed_and_opened_beside_the_loop),
		TEST(an_image_is_opened_by_descriptor_beside_the_loop),
		TEST(a_job_that_fails_says_why),
		TEST(a_disk_grows_while_its_guest_writes),
		TEST(an_image_becomes_read_only_beside_the_loop),
		TEST(a_request_that_has_not_begun_can_be_cancelled),
		TEST(long_work_stops_between_pieces_when_it_is_cancelled),
		TEST(what_is_done_or_is_not_the_queues_is_not_cancelled),
		TEST(a_job_that_has_not_begun_can_be_cancelled_unless_it_is_a_closing),
		TEST(an_idle_loop_whose_turns_are_counted_is_woken_to_turn),
	};

	return cmocka_run_group_tests_name("event_loop", tests, enter_dir, leave_dir);
}
