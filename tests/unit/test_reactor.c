/* SPDX-License-Identifier: MIT */
/* clang-format off: cmocka.h needs these first */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/arith.h"
#include "rt/reactor.h"
#include "rt/sync.h"

static struct ox_reactor *reactor;
static int file;

static int setup(void **state)
{
	char path[] = "/tmp/oxbow-rt-XXXXXX";

	(void)state;
	file = mkstemp(path);
	if (file < 0 || unlink(path) < 0)
		return -1;
	return ox_reactor_create(OX_ENGINE_DEFAULT, &reactor, NULL);
}

static int teardown(void **state)
{
	(void)state;
	ox_reactor_destroy(reactor);
	return close(file);
}

static void spawn(ox_co_fn fn, void *arg)
{
	assert_int_equal(ox_co_spawn(reactor, fn, arg), 0);
}

static void call(ox_co_fn fn, void *arg)
{
	assert_int_equal(ox_reactor_call(reactor, fn, arg), 0);
}

static bool fd_is_readable(int timeout_ms)
{
	struct pollfd p = {.fd = ox_reactor_fd(reactor), .events = POLLIN};
	int n = poll(&p, 1, timeout_ms);

	assert_true(n >= 0);
	return n == 1;
}

/* ---- requests ---- */

static void write_then_read_co(void *arg)
{
	char out[] = "hello, disk";
	char first[5];
	char second[16];
	struct iovec whole = {out, 11};
	struct iovec parts[] = {{first, 5}, {second, 16}};

	(void)arg;
	assert_int_equal(ox_aio_pwritev_co(file, &whole, 1, 4096, 0), 11);
	assert_int_equal(ox_aio_fdatasync_co(file), 0);
	assert_int_equal(ox_aio_preadv_co(file, parts, 2, 4096), 11);
	assert_memory_equal(first, "hello", 5);
	assert_memory_equal(second, ", disk", 6);
	assert_int_equal(ox_aio_preadv_co(file, parts, 1, 4096), 5);
	assert_int_equal(ox_aio_preadv_co(file, parts, 1, 8192), 0);
	assert_int_equal(ox_aio_pwritev_co(file, &whole, 1, 0, RWF_DSYNC), 11);
	assert_int_equal(
		ox_aio_pwritev_co(file, (struct iovec[]){{out, 6}, {out, 4}}, 2, 0, RWF_DSYNC), 10);
}

static void what_is_written_is_read(void **state)
{
	(void)state;
	call(write_then_read_co, NULL);
}

static void errors_co(void *arg)
{
	char byte;
	struct iovec iov = {&byte, 1};

	(void)arg;
	assert_int_equal(ox_aio_preadv_co(-1, &iov, 1, 0), -EBADF);
	assert_int_equal(ox_aio_pwritev_co(-1, &iov, 1, 0, 0), -EBADF);
	assert_int_equal(ox_aio_fdatasync_co(-1), -EBADF);
	assert_int_equal(ox_aio_fallocate_co(-1, 0, 0, 1), -EBADF);
	/* what io_uring would take for "at the current position" */
	assert_int_equal(ox_aio_preadv_co(file, &iov, 1, UINT64_MAX), -EINVAL);
	assert_int_equal(ox_aio_pwritev_co(file, &iov, 1, UINT64_MAX, 0), -EINVAL);
	assert_int_equal(ox_aio_fallocate_co(file, 0, UINT64_MAX, 1), -EINVAL);
	assert_int_equal(ox_aio_fallocate_co(file, 0, 0, UINT64_MAX), -EINVAL);
}

static void errors_come_back_as_negative_errno(void **state)
{
	(void)state;
	call(errors_co, NULL);
}

static void fallocate_co(void *arg)
{
	char data[8192];
	struct iovec iov = {data, sizeof(data)};

	(void)arg;
	memset(data, 'x', sizeof(data));
	assert_int_equal(ox_aio_pwritev_co(file, &iov, 1, 0, 0), sizeof(data));
	assert_int_equal(
		ox_aio_fallocate_co(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 4096),
		0);
	assert_int_equal(ox_aio_preadv_co(file, &iov, 1, 0), sizeof(data));
	assert_int_equal(data[4095], 'x');
	assert_int_equal(data[4096], 0);
}

static void a_punched_hole_reads_as_zeroes(void **state)
{
	(void)state;
	call(fallocate_co, NULL);
}

static void long_vector_co(void *arg)
{
	static char bytes[2000];
	static struct iovec iov[2000];

	(void)arg;
	for (unsigned i = 0; i < 2000; i++)
		iov[i] = (struct iovec){&bytes[i], 1};
	assert_int_equal(ox_aio_pwritev_co(file, iov, 2000, 0, 0), 1024);
}

static void a_vector_beyond_the_kernels_limit_comes_back_short(void **state)
{
	(void)state;
	call(long_vector_co, NULL);
}

/* ---- many at once ---- */

#define MANY 3000

static unsigned char many_bytes[MANY];
static struct ox_latch many_latch;

static void many_co(void *arg)
{
	unsigned char *byte = arg;
	uint64_t offset = (uint64_t)(byte - many_bytes);
	unsigned char want = (unsigned char)(offset * 7);
	struct iovec iov = {byte, 1};

	*byte = want;
	assert_int_equal(ox_aio_pwritev_co(file, &iov, 1, offset, 0), 1);
	*byte = (unsigned char)~want;
	assert_int_equal(ox_aio_preadv_co(file, &iov, 1, offset), 1);
	assert_int_equal(*byte, want);
	ox_latch_done(&many_latch);
}

static void spawn_many_co(void *arg)
{
	(void)arg;
	ox_latch_init(&many_latch);
	for (unsigned i = 0; i < MANY; i++) {
		ox_latch_add(&many_latch);
		spawn(many_co, &many_bytes[i]);
	}
	ox_latch_wait_co(&many_latch);
}

static void more_requests_than_the_ring_holds_all_complete(void **state)
{
	(void)state;
	call(spawn_many_co, NULL);
	assert_int_equal(ox_reactor_tasks(reactor), 0);
}

static int pipe_fds[2];

static int read_pipe(void *arg)
{
	return read(pipe_fds[0], arg, 1) == 1 ? 0 : -errno;
}

static void read_pipe_co(void *arg)
{
	char byte;

	assert_int_equal(ox_aio_work_co(read_pipe, &byte), 0);
	*(char *)arg = byte;
}

static void *write_pipe(void *arg)
{
	assert_int_equal(write(pipe_fds[1], arg, strlen(arg)), strlen(arg));
	return NULL;
}

static void a_completion_makes_the_fd_readable(void **state)
{
	char byte = 0;

	(void)state;
	assert_int_equal(pipe(pipe_fds), 0);
	assert_false(fd_is_readable(0));
	for (char c = 'a'; c < 'a' + 20; c++) {
		char text[] = {c, 0};

		spawn(read_pipe_co, &byte);
		assert_int_equal(ox_reactor_run(reactor, false), 0);
		assert_false(fd_is_readable(0));
		assert_int_equal(ox_reactor_tasks(reactor), 1);
		(void)write_pipe(text);
		while (byte != c) {
			assert_true(fd_is_readable(10000));
			assert_int_equal(ox_reactor_run(reactor, false), 0);
		}
	}
	assert_int_equal(ox_reactor_tasks(reactor), 0);
	assert_int_equal(close(pipe_fds[0]) | close(pipe_fds[1]), 0);
}

struct flow {
	unsigned rounds;
	unsigned ended;
};

static void flow_co(void *arg)
{
	struct flow *flow = arg;
	char byte = 'x';
	struct iovec iov = {&byte, 1};

	for (unsigned i = 0; i < flow->rounds; i++) {
		assert_int_equal(ox_aio_pwritev_co(file, &iov, 1, i, 0), 1);
		if (i % 8 == 0)
			assert_int_equal(ox_aio_fdatasync_co(file), 0);
		assert_int_equal(ox_aio_preadv_co(file, &iov, 1, i), 1);
	}
	flow->ended++;
}

/* An event loop of the embedder's own: a lost wake-up shows as a poll that runs into its limit. */
static void loop_until_ended(const struct flow *flow, unsigned tasks)
{
	assert_int_equal(ox_reactor_run(reactor, false), 0);
	while (flow->ended < tasks) {
		assert_true(fd_is_readable(10000));
		assert_int_equal(ox_reactor_run(reactor, false), 0);
	}
}

static int nap(void *arg)
{
	return nanosleep(arg, NULL);
}

static void naps_co(void *arg)
{
	struct flow *flow = arg;

	for (unsigned i = 0; i < flow->rounds; i++) {
		struct timespec time = {.tv_nsec = (long)(ox_reactor_random(reactor) % 200000)};

		assert_int_equal(ox_aio_work_co(nap, &time), 0);
	}
	flow->ended++;
}

static void an_event_loop_on_the_fd_hears_of_work_among_requests(void **state)
{
	struct flow flow = {.rounds = 1000};

	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		spawn(flow_co, &flow);
		spawn(naps_co, &flow);
	}
	loop_until_ended(&flow, 8);
}

static void an_event_loop_on_the_fd_loses_no_wakeup(void **state)
{
	struct flow flow = {.rounds = 300};

	(void)state;
	for (unsigned i = 0; i < 4; i++)
		spawn(flow_co, &flow);
	loop_until_ended(&flow, 4);
	/* and it falls silent: what is still announced is used up by a few runs */
	for (unsigned i = 0; i < 1000 && fd_is_readable(0); i++)
		assert_int_equal(ox_reactor_run(reactor, false), 0);
	assert_false(fd_is_readable(0));
}

static void waiting_runs_carry_requests_through(void **state)
{
	struct flow flow = {.rounds = 100};

	(void)state;
	for (unsigned i = 0; i < 4; i++)
		spawn(flow_co, &flow);
	while (flow.ended < 4)
		assert_int_equal(ox_reactor_run(reactor, true), 0);
}

static volatile sig_atomic_t signals_seen;

static void on_signal(int number)
{
	(void)number;
	signals_seen++;
}

static void signals_do_not_disturb_requests(void **state)
{
	struct sigaction action = {.sa_handler = on_signal};
	struct itimerval often = {{.tv_usec = 500}, {.tv_usec = 500}};
	struct itimerval never = {0};
	struct flow flow = {.rounds = 100};

	(void)state;
	signals_seen = 0;
	assert_int_equal(sigaction(SIGALRM, &action, NULL), 0);
	assert_int_equal(setitimer(ITIMER_REAL, &often, NULL), 0);
	while (signals_seen < 20) {
		flow.ended = 0;
		for (unsigned i = 0; i < 4; i++)
			spawn(flow_co, &flow);
		while (flow.ended < 4)
			assert_int_equal(ox_reactor_run(reactor, true), 0);
	}
	assert_int_equal(setitimer(ITIMER_REAL, &never, NULL), 0);
	assert_int_equal(ox_reactor_tasks(reactor), 0);
}

static void waiting_for_nothing_returns_at_once(void **state)
{
	(void)state;
	assert_int_equal(ox_reactor_run(reactor, true), 0);
}

static void yield_forever_co(void *arg)
{
	const bool *stop = arg;

	while (!*stop)
		ox_co_yield_co();
}

static struct ox_waitq pair[2];
static bool pair_stop;

/* Two of these wake each other without end; neither ever yields. */
static void pair_co(void *arg)
{
	struct ox_waitq *mine = arg;
	struct ox_waitq *other = mine == &pair[0] ? &pair[1] : &pair[0];

	while (!pair_stop) {
		ox_waitq_wake_one(other);
		ox_waitq_wait_co(mine);
	}
	ox_waitq_wake_one(other);
}

static void stop_after_io_co(void *arg)
{
	write_then_read_co(NULL);
	*(bool *)arg = true;
	pair_stop = true;
}

static void busy_tasks_do_not_starve_io(void **state)
{
	bool stop = false;

	(void)state;
	pair_stop = false;
	ox_waitq_init(&pair[0]);
	ox_waitq_init(&pair[1]);
	spawn(yield_forever_co, &stop);
	spawn(pair_co, &pair[0]);
	spawn(pair_co, &pair[1]);
	call(stop_after_io_co, &stop);
	assert_int_equal(ox_reactor_run(reactor, false), 0);
	assert_int_equal(ox_reactor_tasks(reactor), 0);
}

static void a_run_ends_though_tasks_yield_without_end(void **state)
{
	bool stop = false;

	(void)state;
	spawn(yield_forever_co, &stop);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(ox_reactor_run(reactor, i == 1), 0);
		assert_true(fd_is_readable(0)); /* there is more to do */
	}
	stop = true;
	assert_int_equal(ox_reactor_run(reactor, false), 0);
	assert_int_equal(ox_reactor_tasks(reactor), 0);
	assert_false(fd_is_readable(0));
}

static void return_co(void *arg)
{
	(void)arg;
}

static void a_call_that_leaves_others_ready_makes_the_fd_readable(void **state)
{
	bool stop = false;

	(void)state;
	spawn(yield_forever_co, &stop);
	call(return_co, NULL);
	assert_true(fd_is_readable(0));
	stop = true;
	assert_int_equal(ox_reactor_run(reactor, false), 0);
	assert_int_equal(ox_reactor_tasks(reactor), 0);
	assert_false(fd_is_readable(0));
}

/* ---- work ---- */

static int add_one(void *arg)
{
	int *value = arg;

	assert_null(ox_co_self());
	return ++*value;
}

static void work_co(void *arg)
{
	int value = 41;

	(void)arg;
	assert_int_equal(ox_aio_work_co(add_one, &value), 42);
	assert_int_equal(value, 42);
}

static void work_runs_on_a_thread_and_returns_its_result(void **state)
{
	(void)state;
	call(work_co, NULL);
	for (unsigned i = 0; i < 100; i++)
		spawn(work_co, NULL);
	while (ox_reactor_tasks(reactor))
		assert_int_equal(ox_reactor_run(reactor, true), 0);
}

static pthread_barrier_t barrier;

static int meet(void *arg)
{
	(void)arg;
	(void)pthread_barrier_wait(&barrier);
	return 0;
}

static void meet_co(void *arg)
{
	(void)arg;
	assert_int_equal(ox_aio_work_co(meet, NULL), 0);
}

static void sixteen_works_run_at_the_same_time(void **state)
{
	(void)state;
	assert_int_equal(pthread_barrier_init(&barrier, NULL, 16), 0);
	for (unsigned i = 0; i < 16; i++)
		spawn(meet_co, NULL);
	while (ox_reactor_tasks(reactor))
		assert_int_equal(ox_reactor_run(reactor, true), 0);
	assert_int_equal(pthread_barrier_destroy(&barrier), 0);
}

/* ---- time and chance ---- */

static char order[8];

static void sleep_co(void *arg)
{
	const char *digit = arg;
	uint64_t ns = (uint64_t)(*digit - '0') * 5000000;
	uint64_t before = ox_reactor_now_ns(reactor);

	ox_reactor_sleep_co(ns);
	assert_true(ox_reactor_now_ns(reactor) - before >= ns);
	order[strlen(order)] = *digit;
}

static void spawn_sleepers(void)
{
	memset(order, 0, sizeof(order));
	spawn(sleep_co, "3");
	spawn(sleep_co, "1");
	spawn(sleep_co, "4");
	spawn(sleep_co, "0");
	spawn(sleep_co, "2");
}

static void sleepers_wake_by_deadline(void **state)
{
	(void)state;
	spawn_sleepers();
	while (ox_reactor_tasks(reactor))
		assert_int_equal(ox_reactor_run(reactor, true), 0);
	assert_string_equal(order, "01234");
}

static void a_timer_makes_the_fd_readable(void **state)
{
	(void)state;
	spawn_sleepers();
	assert_int_equal(ox_reactor_run(reactor, false), 0);
	while (ox_reactor_tasks(reactor)) {
		assert_true(fd_is_readable(10000));
		assert_int_equal(ox_reactor_run(reactor, false), 0);
	}
	assert_string_equal(order, "01234");
	for (unsigned i = 0; i < 1000 && fd_is_readable(0); i++)
		assert_int_equal(ox_reactor_run(reactor, false), 0);
	assert_false(fd_is_readable(0));
}

static void earlier_co(void *arg)
{
	(void)arg;
	spawn(sleep_co, "2");
	ox_co_yield_co();
	ox_co_yield_co();
	/* the timer is set for the later one by now */
	spawn(sleep_co, "1");
	ox_reactor_sleep_co(1000000);
	spawn(sleep_co, "4");
}

static struct ox_timer half_a_minute;

static void sleep_half_a_minute_co(void *arg)
{
	(void)arg;
	ox_timer_sleep_co(&half_a_minute, UINT64_C(30000000000));
}

static void do_nothing_co(void *arg)
{
	(void)arg;
}

static void a_call_ends_with_its_task_though_another_sleeps(void **state)
{
	(void)state;
	ox_timer_init(&half_a_minute);
	spawn(sleep_half_a_minute_co, NULL);
	call(do_nothing_co, NULL); /* has nothing to wait for itself */
	call(write_then_read_co, NULL);
	assert_non_null(half_a_minute.co);
	ox_timer_end(&half_a_minute);
	assert_int_equal(ox_reactor_run(reactor, false), 0);
}

static void a_timer_moves_to_an_earlier_deadline(void **state)
{
	(void)state;
	memset(order, 0, sizeof(order));
	spawn(earlier_co, NULL);
	while (ox_reactor_tasks(reactor))
		assert_int_equal(ox_reactor_run(reactor, true), 0);
	assert_string_equal(order, "124");
}

static void random_numbers_differ(void **state)
{
	uint64_t last = ox_reactor_random(reactor);

	(void)state;
	for (unsigned i = 0; i < 100; i++) {
		uint64_t next = ox_reactor_random(reactor);

		assert_int_not_equal(next, last);
		last = next;
	}
}

/* ---- choosing the engine ---- */

static void assert_env_gives(const char *value, enum ox_engine engine)
{
	struct ox_reactor *r;

	assert_int_equal(setenv("OXBOW_IO", value, 1), 0);
	assert_int_equal(ox_reactor_create(OX_ENGINE_DEFAULT, &r, NULL), 0);
	assert_int_equal(ox_reactor_engine(r), engine);
	ox_reactor_destroy(r);
}

static void the_environment_chooses_the_engine(void **state)
{
	const char *env = getenv("OXBOW_IO");
	char *before = env ? strdup(env) : NULL;
	struct ox_reactor *r = NULL;
	struct ox_error *err = NULL;

	(void)state;
	assert_env_gives("threads", OX_ENGINE_THREAD_POOL);
	assert_env_gives("uring", OX_ENGINE_IO_URING);
	assert_env_gives("io_uring", OX_ENGINE_IO_URING);
	assert_int_equal(setenv("OXBOW_IO", "floppy", 1), 0);
	assert_int_equal(ox_reactor_create(OX_ENGINE_DEFAULT, &r, &err), -EINVAL);
	assert_null(r);
	assert_non_null(strstr(ox_error_message(err), "floppy"));
	ox_error_free(err);
	/* whoever names an engine gets it */
	assert_int_equal(ox_reactor_create(OX_ENGINE_THREAD_POOL, &r, NULL), 0);
	assert_int_equal(ox_reactor_engine(r), OX_ENGINE_THREAD_POOL);
	ox_reactor_destroy(r);
	assert_int_equal(before ? setenv("OXBOW_IO", before, 1) : unsetenv("OXBOW_IO"), 0);
	free(before);
	ox_reactor_destroy(NULL);
}

/* What a container's seccomp profile does. */
static void refuse_io_uring(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {OX_ARRAY_SIZE(filter), filter};

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
		_exit(10);
}

static void count_co(void *arg)
{
	char byte = 'x';
	struct iovec iov = {&byte, 1};

	if (ox_aio_pwritev_co(file, &iov, 1, 0, 0) == 1)
		++*(int *)arg;
}

static int run_without_io_uring(void)
{
	struct ox_error *err = NULL;
	struct ox_reactor *r;
	int writes = 0;

	refuse_io_uring();
	if (unsetenv("OXBOW_IO") < 0)
		return 11;
	if (ox_reactor_create(OX_ENGINE_IO_URING, &r, &err) != -EPERM || !*ox_error_message(err))
		return 12;
	ox_error_free(err);
	if (ox_reactor_create(OX_ENGINE_DEFAULT, &r, NULL) < 0)
		return 13;
	if (ox_reactor_engine(r) != OX_ENGINE_THREAD_POOL)
		return 14;
	if (ox_reactor_call(r, count_co, &writes) < 0 || writes != 1)
		return 15;
	ox_reactor_destroy(r);
	return 0;
}

static void threads_take_over_where_io_uring_is_refused(void **state)
{
	pid_t pid = fork();
	int status;

	(void)state;
	assert_true(pid >= 0);
	if (pid == 0)
		_exit(run_without_io_uring());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void two_reactors_share_a_thread(void **state)
{
	struct ox_reactor *first = reactor;

	(void)state;
	call(write_then_read_co, NULL);
	assert_int_equal(ox_reactor_create(OX_ENGINE_DEFAULT, &reactor, NULL), 0);
	assert_ptr_not_equal(reactor, first);
	call(write_then_read_co, NULL);
	ox_reactor_destroy(reactor);
	reactor = first;
	call(write_then_read_co, NULL);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

/* The engine is OXBOW_IO's: the suite runs once with each. */
int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(what_is_written_is_read),
		TEST(errors_come_back_as_negative_errno),
		TEST(a_punched_hole_reads_as_zeroes),
		TEST(a_vector_beyond_the_kernels_limit_comes_back_short),
		TEST(more_requests_than_the_ring_holds_all_complete),
		TEST(a_completion_makes_the_fd_readable),
		TEST(an_event_loop_on_the_fd_hears_of_work_among_requests),
		TEST(an_event_loop_on_the_fd_loses_no_wakeup),
		TEST(waiting_runs_carry_requests_through),
		TEST(signals_do_not_disturb_requests),
		TEST(waiting_for_nothing_returns_at_once),
		TEST(busy_tasks_do_not_starve_io),
		TEST(a_run_ends_though_tasks_yield_without_end),
		TEST(a_call_that_leaves_others_ready_makes_the_fd_readable),
		TEST(work_runs_on_a_thread_and_returns_its_result),
		TEST(sixteen_works_run_at_the_same_time),
		TEST(sleepers_wake_by_deadline),
		TEST(a_timer_makes_the_fd_readable),
		TEST(a_call_ends_with_its_task_though_another_sleeps),
		TEST(a_timer_moves_to_an_earlier_deadline),
		TEST(random_numbers_differ),
		TEST(two_reactors_share_a_thread),
		TEST(threads_take_over_where_io_uring_is_refused),
		cmocka_unit_test(the_environment_chooses_the_engine),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
