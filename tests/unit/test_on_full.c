/* SPDX-License-Identifier: MIT */
/* Requests that wait for room on the host, by a clock that the tests turn. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* the ones above first: cmocka.h needs them */
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include "serve/full.h"
#include "serve/loop.h"

#define REQUESTS 5u
#define NEWS_MAX 16u

/* A request as its owner has it: with the library, waiting, or answered. */
struct request {
	struct ox_full_waiter full; /* first */
	bool in_library;
	unsigned tries;
	int answer; /* 1: none yet */
};

static struct ox_full full;
static struct request requests[REQUESTS];
static int owners[2];
static bool may_wait;
static int fails_at_once; /* what a try is answered, 0: it goes to the library */
static int64_t now_ms;
static enum ox_full_news news[NEWS_MAX];
static unsigned news_count;

static void on_news(void *opaque, enum ox_full_news what)
{
	assert_ptr_equal(opaque, owners);
	assert_true(news_count < NEWS_MAX);
	news[news_count++] = what;
}

static void retry(struct ox_full_waiter *waiter)
{
	struct request *r = (struct request *)waiter;

	r->tries++;
	if (fails_at_once == 0) {
		r->in_library = true;
		return;
	}
	r->answer = fails_at_once;
	ox_full_forget(&full, waiter);
}

static void give_up(struct ox_full_waiter *waiter)
{
	((struct request *)waiter)->answer = -ENOSPC;
}

/* The library has completed it. */
static void complete(unsigned i, int result)
{
	struct request *r = &requests[i];

	assert_true(r->in_library);
	r->in_library = false;
	r->full.retry = retry;
	if (!ox_full_concerns(&r->full, result) ||
	    !ox_full_completed(&full, &r->full, &owners[i % 2], result, may_wait, now_ms))
		r->answer = result;
}

static void complete_all(int result)
{
	for (unsigned i = 0; i < REQUESTS; i++)
		if (requests[i].in_library)
			complete(i, result);
}

static unsigned tries(void)
{
	unsigned sum = 0;

	for (unsigned i = 0; i < REQUESTS; i++)
		sum += requests[i].tries;
	return sum;
}

static void pass(int64_t ms)
{
	now_ms += ms;
	ox_full_try(&full, now_ms);
}

static void check_news(unsigned count, enum ox_full_news last)
{
	assert_int_equal(news_count, count);
	assert_int_equal(news[count - 1], last);
}

static int setup(void **state)
{
	(void)state;
	full = (struct ox_full){.pauses = true, .tell = on_news, .opaque = owners};
	for (unsigned i = 0; i < REQUESTS; i++)
		requests[i] = (struct request){.in_library = true, .answer = 1};
	may_wait = true;
	fails_at_once = 0;
	now_ms = 1000000;
	news_count = 0;
	return 0;
}

static void what_finds_no_room_waits_and_is_told_once(void **state)
{
	(void)state;
	complete(0, -ENOSPC);
	now_ms += 10;
	complete(1, -EDQUOT);
	assert_int_equal(requests[0].answer, 1);
	assert_int_equal(requests[1].answer, 1);
	assert_int_equal(full.waiting, 2);
	assert_true(full.since_ms == 1000000);
	check_news(1, OX_FULL_BEGINS);
}

static void other_results_are_answered(void **state)
{
	(void)state;
	complete(0, 0);
	complete(1, -EIO);
	complete(2, -EFBIG);
	assert_int_equal(requests[0].answer, 0);
	assert_int_equal(requests[1].answer, -EIO);
	assert_int_equal(requests[2].answer, -EFBIG);
	may_wait = false;
	complete(3, -ENOSPC);
	assert_int_equal(requests[3].answer, -ENOSPC);
	may_wait = true;
	full.pauses = false;
	complete(4, -ENOSPC);
	assert_int_equal(requests[4].answer, -ENOSPC);
	assert_int_equal(news_count, 0);
	assert_true(ox_full_due_ms(&full) == INT64_MAX);
}

static void one_is_tried_a_second(void **state)
{
	(void)state;
	complete_all(-ENOSPC);
	for (unsigned second = 0; second < 2 * REQUESTS; second++) {
		assert_true(ox_full_due_ms(&full) == now_ms + OX_FULL_RETRY_MS);
		pass(OX_FULL_RETRY_MS - 1);
		assert_int_equal(tries(), second);
		pass(1);
		assert_int_equal(tries(), second + 1);
		assert_int_equal(full.tried, 1);
		assert_true(ox_full_due_ms(&full) == INT64_MAX); /* not before it has come back */
		pass(5 * OX_FULL_RETRY_MS);
		assert_int_equal(tries(), second + 1);
		complete_all(-ENOSPC);
	}
	for (unsigned i = 0; i < REQUESTS; i++)
		assert_int_equal(requests[i].tries, 2); /* in turns */
	check_news(1, OX_FULL_BEGINS);
}

static void all_go_on_once_one_has_found_room(void **state)
{
	(void)state;
	complete_all(-ENOSPC);
	pass(OX_FULL_RETRY_MS);
	complete(0, 0);
	assert_int_equal(requests[0].answer, 0);
	check_news(1, OX_FULL_BEGINS);
	assert_true(ox_full_due_ms(&full) <= now_ms);
	pass(0);
	assert_int_equal(full.tried, REQUESTS - 1);
	complete_all(0);
	for (unsigned i = 0; i < REQUESTS; i++)
		assert_int_equal(requests[i].answer, 0);
	check_news(2, OX_FULL_ROOM);
	assert_true(full.since_ms == 0);
}

static void room_for_some_is_no_room_for_all(void **state)
{
	(void)state;
	complete_all(-ENOSPC);
	ox_full_resume(&full);
	pass(0);
	assert_int_equal(full.tried, REQUESTS);
	complete(0, 0);
	pass(0);
	assert_int_equal(tries(), REQUESTS); /* a round at a time */
	complete_all(-ENOSPC);
	pass(0); /* the next one, because there was room in the last */
	assert_int_equal(tries(), REQUESTS + REQUESTS - 1);
	complete_all(-ENOSPC);
	pass(0);
	assert_int_equal(tries(), REQUESTS + REQUESTS - 1);
	pass(OX_FULL_RETRY_MS);
	assert_int_equal(tries(), REQUESTS + REQUESTS);
	check_news(1, OX_FULL_BEGINS);
}

static void who_resumes_has_all_tried_at_once(void **state)
{
	struct ox_serve_loop loop = {0};

	(void)state;
	complete_all(-ENOSPC);
	loop.full = full;
	ox_serve_resume(&loop);
	full = loop.full;
	assert_true(ox_full_due_ms(&full) <= now_ms);
	pass(0);
	assert_int_equal(full.tried, REQUESTS);
}

static void an_owner_that_stops_has_an_answer_for_its_own(void **state)
{
	(void)state;
	complete_all(-ENOSPC);
	ox_full_give_up(&full, &owners[1], give_up);
	for (unsigned i = 0; i < REQUESTS; i++)
		assert_int_equal(requests[i].answer, i % 2 == 1 ? -ENOSPC : 1);
	assert_int_equal(full.waiting, 3);
	check_news(1, OX_FULL_BEGINS);
	ox_full_resume(&full);
	pass(0);
	assert_int_equal(full.tried, 3);
	ox_full_give_up(&full, &owners[0], give_up); /* the library has them */
	assert_int_equal(requests[0].answer, 1);
	may_wait = false;
	complete_all(-ENOSPC);
	assert_int_equal(requests[0].answer, -ENOSPC);
	check_news(2, OX_FULL_ENDS);
	assert_true(ox_full_due_ms(&full) == INT64_MAX);
}

static void what_is_answered_while_it_is_tried_is_forgotten(void **state)
{
	(void)state;
	complete_all(-ENOSPC);
	fails_at_once = -EIO;
	ox_full_resume(&full);
	pass(0);
	for (unsigned i = 0; i < REQUESTS; i++)
		assert_int_equal(requests[i].answer, -EIO);
	assert_int_equal(full.tried + full.waiting, 0);
	check_news(2, OX_FULL_ENDS);
}

/* As after a sync that failed for want of room: nothing hangs for ever (M3). */
static void an_image_that_takes_no_writes_any_more_answers_them_all(void **state)
{
	(void)state;
	complete_all(-ENOSPC);
	pass(OX_FULL_RETRY_MS);
	complete_all(-EIO);
	pass(0);
	complete_all(-EIO);
	for (unsigned i = 0; i < REQUESTS; i++)
		assert_int_equal(requests[i].answer, -EIO);
	check_news(2, OX_FULL_ENDS);
}

static void it_may_be_full_again(void **state)
{
	(void)state;
	complete(0, -ENOSPC);
	pass(OX_FULL_RETRY_MS);
	complete(0, 0);
	check_news(2, OX_FULL_ROOM);
	complete(1, -ENOSPC);
	check_news(3, OX_FULL_BEGINS);
	assert_true(ox_full_due_ms(&full) == now_ms + OX_FULL_RETRY_MS);
	pass(OX_FULL_RETRY_MS);
	assert_int_equal(tries(), 2);
}

/* ---- low space ---- */

static void space_is_low_until_there_is_clearly_more(void **state)
{
	(void)state;
	assert_false(ox_space_is_low(800, 800, false));
	assert_true(ox_space_is_low(799, 800, false));
	assert_true(ox_space_is_low(899, 800, true));
	assert_false(ox_space_is_low(900, 800, true));
	assert_true(ox_space_is_low(0, 1, false));
	assert_true(ox_space_is_low(UINT64_C(1) << 63, INT64_MAX, true));
}

static void a_file_system_is_asked_and_a_descriptor_tells(void **state)
{
	struct ox_space *space;
	int fd = open("/tmp", O_RDONLY | O_CLOEXEC);
	struct pollfd readable = {.events = POLLIN};

	(void)state;
	assert_int_equal(ox_space_begin(fd, INT64_MAX, &space), 0);
	close(fd); /* it has its own */
	readable.fd = ox_space_fd(space);
	assert_int_equal(poll(&readable, 1, -1), 1);
	assert_true(ox_space_low(space));
	assert_int_equal(poll(&readable, 1, 0), 0);
	assert_true(ox_space_free_bytes(space) > 0);
	ox_space_end(space);
	ox_space_end(NULL);
	assert_int_equal(ox_space_begin(-1, 1, &space), -EBADF);
}

static void only_reserving_file_systems_tell_at_a_buffered_write(void **state)
{
	int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);

	(void)state;
	assert_true(ox_space_is_told_at_write(fd, OX_CACHE_NONE));
	assert_true(ox_space_is_told_at_write(fd, OX_CACHE_DIRECTSYNC));
	assert_false(ox_space_is_told_at_write(fd, OX_CACHE_WRITEBACK));
	assert_false(ox_space_is_told_at_write(fd, OX_CACHE_WRITETHROUGH));
	assert_false(ox_space_is_told_at_write(fd, OX_CACHE_UNSAFE));
	close(fd);
	fd = memfd_create("tmpfs", MFD_CLOEXEC);
	assert_true(ox_space_is_told_at_write(fd, OX_CACHE_WRITEBACK));
	close(fd);
	assert_true(ox_space_is_told_at_write(-1, OX_CACHE_WRITEBACK));
}

#define TEST(test) cmocka_unit_test_setup(test, setup)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(what_finds_no_room_waits_and_is_told_once),
		TEST(other_results_are_answered),
		TEST(one_is_tried_a_second),
		TEST(all_go_on_once_one_has_found_room),
		TEST(room_for_some_is_no_room_for_all),
		TEST(who_resumes_has_all_tried_at_once),
		TEST(an_owner_that_stops_has_an_answer_for_its_own),
		TEST(what_is_answered_while_it_is_tried_is_forgotten),
		TEST(an_image_that_takes_no_writes_any_more_answers_them_all),
		TEST(it_may_be_full_again),
		TEST(space_is_low_until_there_is_clearly_more),
		TEST(a_file_system_is_asked_and_a_descriptor_tells),
		TEST(only_reserving_file_systems_tell_at_a_buffered_write),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
