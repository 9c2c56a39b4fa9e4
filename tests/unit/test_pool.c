/* SPDX-License-Identifier: MIT */
/* The pool of worker threads: whose turn it is, and that nothing of what it is given is left. */
#include "task_test.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <semaphore.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/arith.h"
#include "base/assert.h"
#include "rt/sync.h"

#define WORKERS 16u /* as many as the pool starts at the most */

#define FILES 3u
static int files[FILES];
static struct ox_latch running;

static int open_all(enum ox_engine engine)
{
	for (unsigned i = 0; i < FILES; i++) {
		files[i] = memfd_create("oxbow-test", MFD_CLOEXEC);
		if (files[i] < 0)
			return -1;
	}
	ox_latch_init(&running);
	return ox_reactor_create(engine, &reactor, NULL);
}

static int setup(void **state)
{
	(void)state;
	return open_all(OX_ENGINE_DEFAULT);
}

static int setup_threads(void **state)
{
	(void)state;
	return open_all(OX_ENGINE_THREAD_POOL);
}

static int teardown(void **state)
{
	(void)state;
	ox_reactor_destroy(reactor);
	for (unsigned i = 0; i < FILES; i++) {
		if (close(files[i]) < 0)
			return -1;
	}
	return 0;
}

/* ---- turns ---- */

#define LOOKS 100u

static struct ox_latch gated;
static sem_t first_gate;
static sem_t other_gate;
static off_t sizes[LOOKS]; /* of the file, as each look found it */
static unsigned look_count;

static int wait_at(void *arg)
{
	while (sem_wait(arg) < 0)
		ox_assert(errno == EINTR);
	return 0;
}

static void wait_at_co(void *arg)
{
	assert_int_equal(ox_aio_work_co(wait_at, arg), 0);
	ox_latch_done(&gated);
}

static void hold_workers(sem_t *gate, unsigned count)
{
	assert_int_equal(sem_init(gate, 0, 0), 0);
	for (unsigned i = 0; i < count; i++) {
		ox_latch_add(&gated);
		spawn(wait_at_co, gate);
	}
}

static void release_workers(sem_t *gate, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		assert_int_equal(sem_post(gate), 0);
}

/* By one worker, one after the other. */
static int look(void *arg)
{
	struct stat st;

	ox_assert(fstat(*(int *)arg, &st) == 0);
	sizes[look_count++] = st.st_size;
	return 0;
}

static void look_co(void *arg)
{
	assert_int_equal(ox_aio_work_co(look, arg), 0);
	ox_latch_done(&running);
}

static void write_co(void *arg)
{
	char byte = 1;
	struct iovec iov = {&byte, 1};

	assert_int_equal(ox_aio_pwritev_co(*(int *)arg, &iov, 1, 0, 0), 1);
	ox_latch_done(&running);
}

/* All workers but one are held at a gate, and the one has all to do that waits. */
static void a_write_has_its_turn_before_all_other_work_is_done_co(void *arg)
{
	(void)arg;
	look_count = 0;
	ox_latch_init(&gated);
	hold_workers(&first_gate, 1);
	hold_workers(&other_gate, WORKERS - 1);
	ox_latch_add(&running);
	spawn(write_co, &files[0]);
	for (unsigned i = 0; i < LOOKS; i++) {
		ox_latch_add(&running);
		spawn(look_co, &files[0]);
	}
	let_others_run_co();
	release_workers(&first_gate, 1);
	ox_latch_wait_co(&running);
	release_workers(&other_gate, WORKERS - 1);
	ox_latch_wait_co(&gated);
	assert_int_equal(look_count, LOOKS);
	assert_int_equal(sizes[LOOKS - 1], 1);
	assert_int_equal(sem_destroy(&first_gate), 0);
	assert_int_equal(sem_destroy(&other_gate), 0);
}

/* ---- all kinds of requests, of many tasks ---- */

#define TASKS 48u
#define ROUNDS 150u
#define PART_BYTES 700u

/* What it writes it reads, whatever else the workers have to do. */
static void write_and_read_co(unsigned task, unsigned round)
{
	unsigned char out[PART_BYTES];
	unsigned char in[PART_BYTES];
	int fd = files[(task + round) % FILES];
	int flags = round % 8 == 5 ? RWF_DSYNC : 0;
	struct iovec iov = {out, sizeof(out)};

	memset(out, (int)(task * 7 + round), sizeof(out));
	assert_int_equal(ox_aio_pwritev_co(fd, &iov, 1, (uint64_t)task * PART_BYTES, flags),
			 sizeof(out));
	iov.iov_base = in;
	assert_int_equal(ox_aio_preadv_co(fd, &iov, 1, (uint64_t)task * PART_BYTES), sizeof(in));
	assert_memory_equal(in, out, sizeof(in));
}

static int double_it(void *arg)
{
	return 2 * *(int *)arg;
}

static void ask_for_all_co(void *arg)
{
	unsigned task = (unsigned)(uintptr_t)arg;

	for (unsigned round = 0; round < ROUNDS; round++) {
		int number = (int)(task + round);

		write_and_read_co(task, round);
		if (round % 4 == task % 4)
			assert_int_equal(ox_aio_work_co(double_it, &number), 2 * number);
		if (round % 16 == task % 16)
			assert_int_equal(ox_aio_fdatasync_co(files[round % FILES]), 0);
		/* the workers fall asleep, and are woken */
		if (round % 64 == 63)
			ox_reactor_sleep_co(1000000);
	}
	ox_latch_done(&running);
}

static void every_request_of_many_tasks_is_answered_co(void *arg)
{
	(void)arg;
	for (unsigned i = 0; i < TASKS; i++) {
		ox_latch_add(&running);
		spawn(ask_for_all_co, (void *)(uintptr_t)i);
	}
	ox_latch_wait_co(&running);
}

/* ---- a host that refuses threads ---- */

static void refuse_threads(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 1, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EAGAIN),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {OX_ARRAY_SIZE(filter), filter};

	ox_assert(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	ox_assert(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

static void ask_with_few_workers_co(void *arg)
{
	unsigned workers = *(unsigned *)arg;

	ox_latch_init(&gated);
	hold_workers(&first_gate, workers);
	let_others_run_co();
	release_workers(&first_gate, workers);
	ox_latch_wait_co(&gated);
	refuse_threads();
	every_request_of_many_tasks_is_answered_co(NULL);
}

/* In a process of its own, as nothing takes the refusal back. */
static void ask_with_few_workers(unsigned workers)
{
	pid_t pid = fork();
	int status;

	assert_true(pid >= 0);
	if (pid == 0) {
		ox_assert(open_all(OX_ENGINE_DEFAULT) == 0);
		ox_assert(ox_reactor_call(reactor, ask_with_few_workers_co, &workers) == 0);
		ox_reactor_destroy(reactor);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void so_it_is_with_the_threads_that_a_host_allows(void **state)
{
	(void)state;
	for (unsigned workers = 0; workers <= 3; workers++)
		ask_with_few_workers(workers);
}

#define THREADS_TEST(claim)                                                                        \
	{                                                                                          \
#claim, run_task_test, setup_threads, teardown, &(ox_co_fn)                        \
		{                                                                                  \
			claim##_co                                                                 \
		}                                                                                  \
	}

int main(void)
{
	const struct CMUnitTest tests[] = {
		THREADS_TEST(a_write_has_its_turn_before_all_other_work_is_done),
		TASK_TEST(every_request_of_many_tasks_is_answered),
		cmocka_unit_test(so_it_is_with_the_threads_that_a_host_allows),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
