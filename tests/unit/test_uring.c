/* SPDX-License-Identifier: MIT */
/* The io_uring engine, with its ring in the test's hands: the source is part of this program. */
/* clang-format off: cmocka.h needs these first */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <pthread.h>
#include <sys/socket.h>

#include "rt/uring.c"

static struct ox_reactor *reactor;
static int pair[2]; /* a read from pair[0] takes as long as the test likes */
static int reads_done;

static int setup(void **state)
{
	(void)state;
	reads_done = 0;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return -1;
	return ox_reactor_create(OX_ENGINE_IO_URING, &reactor, NULL);
}

static int teardown(void **state)
{
	(void)state;
	ox_reactor_destroy(reactor);
	return close(pair[0]) == 0 && close(pair[1]) == 0 ? 0 : -1;
}

/* What the kernel does when it announces work that has been run meanwhile. */
static void raise_stale_hint(void)
{
	__atomic_or_fetch(uring(reactor)->ring.sq.kflags, IORING_SQ_TASKRUN, __ATOMIC_SEQ_CST);
}

static bool fd_is_readable(int timeout_ms)
{
	struct pollfd p = {.fd = ox_reactor_fd(reactor), .events = POLLIN};
	int n = poll(&p, 1, timeout_ms);

	assert_true(n >= 0);
	return n == 1;
}

static void read_byte_co(void *arg)
{
	char byte;
	struct iovec iov = {&byte, 1};

	(void)arg;
	assert_int_equal(ox_aio_preadv_co(pair[0], &iov, 1, 0), 1);
	reads_done++;
}

static void send_byte(void)
{
	assert_int_equal(write(pair[1], "x", 1), 1);
}

static void start_reads(unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		assert_int_equal(ox_co_spawn(reactor, read_byte_co, NULL), 0);
	assert_int_equal(ox_reactor_run(reactor, false), 0);
	assert_int_equal(reads_done, 0);
}

/* With a request in flight, so that the run has something to listen for. */
static void a_run_ends_under_a_stale_hint(void **state)
{
	(void)state;
	start_reads(1);
	for (unsigned i = 0; i < 3; i++) {
		raise_stale_hint();
		assert_int_equal(ox_reactor_run(reactor, false), 0);
		assert_int_equal(reads_done, 0);
		assert_false(fd_is_readable(0));
	}
	raise_stale_hint();
	send_byte();
	assert_true(fd_is_readable(-1));
	assert_int_equal(ox_reactor_run(reactor, false), 0);
	assert_int_equal(reads_done, 1);
	assert_false(fd_is_readable(0));
}

static void a_run_without_requests_ends_under_a_stale_hint(void **state)
{
	(void)state;
	raise_stale_hint();
	assert_int_equal(ox_reactor_run(reactor, false), 0);
	assert_int_equal(ox_reactor_run(reactor, true), 0);
	assert_false(fd_is_readable(0));
}

/* Each completion is told of by the descriptor, whatever the flag said when the run before ended.
 */
static void no_completion_is_missed_under_a_stale_hint(void **state)
{
	(void)state;
	for (int i = 1; i <= 2000; i++) {
		assert_int_equal(ox_co_spawn(reactor, read_byte_co, NULL), 0);
		assert_int_equal(ox_reactor_run(reactor, false), 0);
		raise_stale_hint();
		if (i % 2)
			assert_int_equal(ox_reactor_run(reactor, false), 0);
		send_byte();
		while (reads_done < i) {
			assert_true(fd_is_readable(5000));
			assert_int_equal(ox_reactor_run(reactor, false), 0);
			if (reads_done < i)
				raise_stale_hint();
		}
	}
}

static void *send_later(void *arg)
{
	static const struct timespec pause = {.tv_nsec = 50000000};

	(void)arg;
	(void)nanosleep(&pause, NULL);
	send_byte();
	return NULL;
}

/* A wait is not cut short by a flag: it would turn into a loop that burns the processor. */
static void a_wait_sleeps_under_a_stale_hint(void **state)
{
	pthread_t sender;

	(void)state;
	start_reads(1);
	assert_int_equal(pthread_create(&sender, NULL, send_later, NULL), 0);
	raise_stale_hint();
	assert_int_equal(ox_reactor_run(reactor, true), 0);
	assert_int_equal(reads_done, 1);
	assert_int_equal(pthread_join(sender, NULL), 0);
}

/* More completions at once than one enter makes, and than fit into a few. */
static void a_hint_that_is_true_is_followed(void **state)
{
	char bytes[200] = {0};

	(void)state;
	start_reads(200);
	assert_int_equal(write(pair[1], bytes, sizeof(bytes)), sizeof(bytes));
	while (reads_done < 200) {
		assert_true(fd_is_readable(5000));
		assert_int_equal(ox_reactor_run(reactor, false), 0);
	}
	assert_false(fd_is_readable(0));
}

/* However much is submitted before the next run: one system call. */
static void kicks_of_one_turn_of_the_program_cost_one_write(void **state)
{
	eventfd_t count = 0;

	(void)state;
	for (unsigned i = 0; i < 5; i++)
		ox_reactor_kick(reactor);
	assert_int_equal(eventfd_read(ox_reactor_fd(reactor), &count), 0);
	assert_int_equal(count, 1);
	assert_int_equal(ox_reactor_run(reactor, false), 0);
	ox_reactor_kick(reactor);
	assert_true(fd_is_readable(0));
	assert_int_equal(ox_reactor_run(reactor, false), 0);
	assert_false(fd_is_readable(0));
	ox_reactor_set_polled(reactor, true);
	ox_reactor_kick(reactor);
	assert_false(fd_is_readable(0));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

/* The kernel keeps what is held past the end of the ring's descriptor, with a request in flight. */
static void what_is_held_is_open_until_the_reactor_is_gone(void **state)
{
	int ends[2];
	struct pollfd p;

	(void)state;
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	for (unsigned i = 0; i < OX_HELD_MAX; i++)
		assert_int_equal(ox_reactor_hold(reactor, ends[1]), 0);
	assert_int_equal(ox_reactor_hold(reactor, ends[1]), -EMFILE);
	close(ends[1]);
	p = (struct pollfd){.fd = ends[0]};
	assert_int_equal(poll(&p, 1, 0), 0); /* the ring has it */
	ox_reactor_destroy(reactor);
	assert_int_equal(poll(&p, 1, 10000), 1);
	assert_true(p.revents & POLLHUP);
	close(ends[0]);
	assert_int_equal(ox_reactor_create(OX_ENGINE_IO_URING, &reactor, NULL), 0);
}

/* What became of the entry that the caller has prepared. */
static int result_of(struct io_uring *ring)
{
	struct io_uring_cqe *cqe;
	int result;

	assert_true(io_uring_submit_and_wait(ring, 1) >= 0);
	assert_int_equal(io_uring_peek_cqe(ring, &cqe), 0);
	result = cqe->res;
	io_uring_cqe_seen(ring, cqe);
	return result;
}

/* By whoever has the ring in hand, that is: by anything in the process. */
static void a_ring_opens_and_connects_nothing(void **state)
{
	struct io_uring *ring = &uring(reactor)->ring;
	struct sockaddr address = {.sa_family = AF_UNIX};
	eventfd_t count = 0;

	(void)state;
	io_uring_prep_openat(io_uring_get_sqe(ring), AT_FDCWD, "/", O_RDONLY, 0);
	assert_int_equal(result_of(ring), -EACCES);
	io_uring_prep_connect(io_uring_get_sqe(ring), pair[0], &address, sizeof(address));
	assert_int_equal(result_of(ring), -EACCES);
	io_uring_prep_socket(io_uring_get_sqe(ring), AF_INET, SOCK_STREAM, 0, 0);
	assert_int_equal(result_of(ring), -EACCES);
	io_uring_prep_nop(io_uring_get_sqe(ring));
	assert_int_equal(result_of(ring), -EACCES);
	/* and the flags of an entry that is allowed */
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
	io_uring_prep_write(sqe, uring(reactor)->event_fd, &count, sizeof(count), 0);
	sqe->flags |= IOSQE_ASYNC;
	assert_int_equal(result_of(ring), -EACCES);
	assert_int_equal(io_uring_register_personality(ring), -EACCES);
	assert_int_equal(io_uring_register_probe(ring, NULL, 0), -EACCES);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_run_ends_under_a_stale_hint),
		TEST(a_run_without_requests_ends_under_a_stale_hint),
		TEST(no_completion_is_missed_under_a_stale_hint),
		TEST(a_wait_sleeps_under_a_stale_hint),
		TEST(a_hint_that_is_true_is_followed),
		TEST(kicks_of_one_turn_of_the_program_cost_one_write),
		TEST(what_is_held_is_open_until_the_reactor_is_gone),
		TEST(a_ring_opens_and_connects_nothing),
	};

	alarm(120); /* a run that does not end fails, rather than hang */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
