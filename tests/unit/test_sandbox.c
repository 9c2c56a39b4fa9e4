/* SPDX-License-Identifier: MIT */
/*
 * What a worker in its sandbox cannot do, each tried from inside, in a process of its own; and what
 * it still can. The io_uring engine's source is part of this program: the ring is in hand.
 */
/* clang-format off: cmocka.h needs these first */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <arpa/inet.h>
#include <linux/io_uring.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "cli/sandbox/sandbox.h"
#include "rt/uring.c"

/* A child's exit status, when something else went wrong than what it tried. */
#define BROKEN 255

/* What a child begins with. */
static int file;	 /* a memory file */
static int stream[2];	 /* connected */
static int fresh_socket; /* not connected */
static struct ox_reactor *reactor;
static enum ox_engine engine = OX_ENGINE_IO_URING;

static bool *missing; /* some of it cannot be had here; shared with children */

static void on_missing(void *opaque, const char *message)
{
	(void)opaque;
	*missing = true;
	print_message("%s\n", message);
}

static struct ox_sandbox a_sandbox(void)
{
	return (struct ox_sandbox){.keeper = getppid(), .warn = on_missing};
}

enum parts {
	FILES_ALONE, /* what landlock forbids, a filter would hide */
	ALL,
	OF_CLIENT, /* all, of one that has an export for its image */
};

/* Forks; the child enters the sandbox and exits with what is returned by try. */
static int status_of(enum parts parts, int (*try)(void))
{
	struct ox_sandbox sandbox;
	int status;
	pid_t pid;

	if (*missing)
		skip();
	fflush(NULL);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		sandbox = a_sandbox();
		ox_sandbox_begin(&sandbox);
		if (ox_reactor_create(engine, &reactor, NULL) < 0)
			_exit(BROKEN);
		if (parts == OF_CLIENT)
			sandbox.calls = OX_SANDBOX_CLIENT;
		if (parts != FILES_ALONE && ox_sandbox_enter(&sandbox) < 0)
			_exit(BROKEN);
		_exit(try());
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

static int error_of(long result)
{
	return result < 0 ? errno : 0;
}

/* Whether the kernel and the build have all of it; told once. */
static int look_for_it(void **state)
{
	(void)state;
	missing = mmap(NULL, sizeof(*missing), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		       -1, 0);
	assert_true(missing != MAP_FAILED);
	fflush(NULL);
	if (fork() == 0) {
		struct ox_sandbox sandbox = a_sandbox();

		if (ox_reactor_create(engine, &reactor, NULL) < 0)
			on_missing(NULL, "There is no io_uring");
		ox_sandbox_begin(&sandbox);
		_exit(ox_sandbox_enter(&sandbox) == 0 ? 0 : BROKEN);
	}
	(void)wait(NULL);
	file = memfd_create("file", MFD_CLOEXEC);
	fresh_socket = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (file < 0 || fresh_socket < 0 ||
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, stream) < 0)
		return -1;
	return 0;
}

static struct sockaddr_in some_address(void)
{
	return (struct sockaddr_in){
		.sin_family = AF_INET,
		.sin_port = htons(10809),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
}

/* ---- what is tried ---- */

static int open_a_file(void)
{
	return error_of(syscall(SYS_openat, AT_FDCWD, "/etc/passwd", O_RDONLY));
}

static int open_itself(void)
{
	return error_of(syscall(SYS_openat, AT_FDCWD, "/proc/self/exe", O_RDONLY));
}

static int make_a_file(void)
{
	return error_of(
		syscall(SYS_openat, AT_FDCWD, "/tmp/made-in-a-sandbox", O_CREAT | O_RDWR, 0600));
}

static int make_a_folder(void)
{
	return error_of(syscall(SYS_mkdirat, AT_FDCWD, "/tmp/made-in-a-sandbox", 0700));
}

static int remove_a_file(void)
{
	return error_of(syscall(SYS_unlinkat, AT_FDCWD, "/etc/passwd", 0));
}

static int open_a_socket(void)
{
	return error_of(socket(AF_INET, SOCK_STREAM, 0));
}

static int connect_a_socket(void)
{
	struct sockaddr_in address = some_address();

	return error_of(connect(fresh_socket, (struct sockaddr *)&address, sizeof(address)));
}

static int bind_a_socket(void)
{
	struct sockaddr_in address = some_address();

	return error_of(bind(fresh_socket, (struct sockaddr *)&address, sizeof(address)));
}

static int connect_by_sending(void)
{
	struct sockaddr_in address = some_address();
	struct iovec iov = {&address, 1};
	struct msghdr message = {
		.msg_name = &address,
		.msg_namelen = sizeof(address),
		.msg_iov = &iov,
		.msg_iovlen = 1,
	};

	return error_of(sendmsg(fresh_socket, &message, MSG_FASTOPEN | MSG_NOSIGNAL));
}

static int connect_by_sending_to(void)
{
	struct sockaddr_in address = some_address();

	return error_of(sendto(fresh_socket, "x", 1, MSG_NOSIGNAL, (struct sockaddr *)&address,
			       sizeof(address)));
}

static int signal_its_keeper(void)
{
	return error_of(kill(getppid(), 0));
}

static int signal_a_thread_of_its_keeper(void)
{
	return error_of(syscall(SYS_tgkill, getppid(), getppid(), 0));
}

static int let_a_descriptor_signal_its_keeper(void)
{
	return error_of(fcntl(stream[0], F_SETOWN, getppid()));
}

static int unlock_the_image(void)
{
	struct flock lock = {.l_type = F_UNLCK, .l_whence = SEEK_SET};

	return error_of(fcntl(file, F_OFD_SETLK, &lock));
}

static int fork_itself(void)
{
	return error_of(syscall(SYS_clone, (unsigned long)SIGCHLD, 0, 0, 0, 0));
}

static int make_memory_that_runs(void)
{
	void *at = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS,
			-1, 0);

	return at == MAP_FAILED ? errno : 0;
}

static int type_into_a_terminal(void)
{
	return error_of(ioctl(STDIN_FILENO, TIOCSTI, "x"));
}

static int raise_a_limit(void)
{
	struct rlimit limit = {1, 1};

	return error_of(prlimit(0, RLIMIT_NOFILE, &limit, NULL));
}

static int limit_its_keeper(void)
{
	struct rlimit limit;

	return error_of(prlimit(getppid(), RLIMIT_NOFILE, NULL, &limit));
}

static int outlive_its_keeper(void)
{
	return error_of(prctl(PR_SET_PDEATHSIG, 0));
}

static int become_root(void)
{
	return error_of(setresuid(0, 0, 0));
}

static int execute(void)
{
	char *const argv[] = {"true", NULL};

	return error_of(execve("/bin/true", argv, NULL));
}

static int trace_its_keeper(void)
{
	return error_of(ptrace(PTRACE_ATTACH, getppid(), NULL, NULL));
}

static int read_its_keeper(void)
{
	struct iovec iov = {&file, sizeof(file)};

	return error_of(process_vm_readv(getppid(), &iov, 1, &iov, 1, 0));
}

static int write_to_its_keeper(void)
{
	struct iovec iov = {&file, sizeof(file)};

	return error_of(process_vm_writev(getppid(), &iov, 1, &iov, 1, 0));
}

static int open_its_keeper(void)
{
	return error_of(syscall(SYS_pidfd_open, getppid(), 0));
}

static int take_a_descriptor_of_its_keeper(void)
{
	return error_of(syscall(SYS_pidfd_getfd, file, 0, 0));
}

static int make_another_ring(void)
{
	struct io_uring_params params = {0};

	return error_of(syscall(SYS_io_uring_setup, 1, &params));
}

static int leave_its_namespaces(void)
{
	return error_of(unshare(CLONE_NEWUSER));
}

static int ring_result(struct io_uring *ring)
{
	struct io_uring_cqe *cqe;

	if (io_uring_submit_and_wait(ring, 1) < 0 || io_uring_peek_cqe(ring, &cqe) < 0)
		return BROKEN;
	return cqe->res < 0 ? -cqe->res : 0;
}

static struct io_uring *ring(void)
{
	return &uring(reactor)->ring;
}

static int open_by_the_ring(void)
{
	io_uring_prep_openat(io_uring_get_sqe(ring()), AT_FDCWD, "/etc/passwd", O_RDONLY, 0);
	return ring_result(ring());
}

static int connect_by_the_ring(void)
{
	static struct sockaddr_in address;

	address = some_address();
	io_uring_prep_connect(io_uring_get_sqe(ring()), fresh_socket, (struct sockaddr *)&address,
			      sizeof(address));
	return ring_result(ring());
}

/* Nothing else stands in the way of this one. */
static int open_a_socket_by_the_ring(void)
{
	io_uring_prep_socket(io_uring_get_sqe(ring()), AF_INET, SOCK_DGRAM, 0, 0);
	return ring_result(ring());
}

/* ---- that it fails ---- */

struct attempt {
	const char *name;
	int (*try)(void);
	int error;
	bool for_sanitizers; /* they need it */
};

static void check_refused(enum parts parts, const struct attempt *attempts, size_t count)
{
	unsigned failed = 0;

	for (size_t i = 0; i < count; i++) {
		const struct attempt *a = &attempts[i];
		int status;

		if (a->for_sanitizers && ox_sandbox_is_lenient())
			continue;
		status = status_of(parts, a->try);
		if (a->error != 0 ? WIFEXITED(status) && WEXITSTATUS(status) == a->error
				  : WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS)
			continue;
		print_error("%s: status %#x\n", a->name, (unsigned)status);
		failed++;
	}
	assert_int_equal(failed, 0);
}

#define ATTEMPT(name, error)                                                                       \
	{                                                                                          \
#name, name, error, false                                                          \
	}
#define ATTEMPT_UNLESS_LENIENT(name, error)                                                        \
	{                                                                                          \
#name, name, error, true                                                           \
	}

/* Each by itself would do; a hole in one of them is no hole. */
static void files_are_out_of_reach_without_a_filter(void **state)
{
	static const struct attempt attempts[] = {
		ATTEMPT_UNLESS_LENIENT(open_a_file, EACCES),
		ATTEMPT_UNLESS_LENIENT(open_itself, EACCES),
		ATTEMPT(make_a_file, EACCES),
		ATTEMPT(make_a_folder, EACCES),
		ATTEMPT(remove_a_file, EACCES),
		ATTEMPT(connect_a_socket, EACCES),
		ATTEMPT(bind_a_socket, EACCES),
		ATTEMPT(signal_its_keeper, EPERM),
		ATTEMPT(trace_its_keeper, EPERM),
		ATTEMPT(open_by_the_ring, EACCES),
	};

	(void)state;
	check_refused(FILES_ALONE, attempts, OX_ARRAY_SIZE(attempts));
}

static void calls_that_are_not_on_the_list_are_not_there(void **state)
{
	static const struct attempt attempts[] = {
		ATTEMPT_UNLESS_LENIENT(open_a_file, ENOSYS),
		ATTEMPT_UNLESS_LENIENT(make_a_file, ENOSYS),
		ATTEMPT(make_a_folder, ENOSYS),
		ATTEMPT(remove_a_file, ENOSYS),
		ATTEMPT(open_a_socket, ENOSYS),
		ATTEMPT(connect_by_sending, ENOSYS),
		ATTEMPT(connect_by_sending_to, ENOSYS),
		ATTEMPT_UNLESS_LENIENT(signal_its_keeper, ENOSYS),
		ATTEMPT_UNLESS_LENIENT(signal_a_thread_of_its_keeper, ENOSYS),
		ATTEMPT(let_a_descriptor_signal_its_keeper, ENOSYS),
		ATTEMPT(unlock_the_image, ENOSYS),
		ATTEMPT_UNLESS_LENIENT(fork_itself, ENOSYS),
		ATTEMPT(make_memory_that_runs, ENOSYS),
		ATTEMPT(type_into_a_terminal, ENOSYS),
		ATTEMPT(raise_a_limit, ENOSYS),
		ATTEMPT(limit_its_keeper, ENOSYS),
		ATTEMPT_UNLESS_LENIENT(outlive_its_keeper, ENOSYS),
		ATTEMPT(become_root, ENOSYS),
	};

	(void)state;
	check_refused(ALL, attempts, OX_ARRAY_SIZE(attempts));
}

static void calls_of_somebody_who_has_taken_it_over_end_it(void **state)
{
	static const struct attempt attempts[] = {
		ATTEMPT(execute, 0),	       ATTEMPT_UNLESS_LENIENT(trace_its_keeper, 0),
		ATTEMPT(read_its_keeper, 0),   ATTEMPT(write_to_its_keeper, 0),
		ATTEMPT(open_its_keeper, 0),   ATTEMPT(take_a_descriptor_of_its_keeper, 0),
		ATTEMPT(make_another_ring, 0), ATTEMPT(leave_its_namespaces, 0),
		ATTEMPT(connect_a_socket, 0),  ATTEMPT(bind_a_socket, 0),
	};

	(void)state;
	check_refused(ALL, attempts, OX_ARRAY_SIZE(attempts));
}

static void its_ring_opens_and_connects_nothing(void **state)
{
	static const struct attempt attempts[] = {
		ATTEMPT(open_by_the_ring, EACCES),
		ATTEMPT(connect_by_the_ring, EACCES),
		ATTEMPT(open_a_socket_by_the_ring, EACCES),
	};

	(void)state;
	check_refused(ALL, attempts, OX_ARRAY_SIZE(attempts));
}

/* ---- what it still can ---- */

static void *allocate(void *opaque)
{
	void *blocks[64];

	for (unsigned i = 0; i < OX_ARRAY_SIZE(blocks); i++)
		blocks[i] = malloc(100000);
	for (unsigned i = 0; i < OX_ARRAY_SIZE(blocks); i++)
		free(blocks[i]);
	return opaque;
}

/* glibc asks the kernel how many CPUs there are, and what may be given back, by files. */
static int run_threads(void)
{
	pthread_t threads[8];

	for (unsigned i = 0; i < OX_ARRAY_SIZE(threads); i++)
		if (pthread_create(&threads[i], NULL, allocate, NULL) != 0)
			return 1;
	for (unsigned i = 0; i < OX_ARRAY_SIZE(threads); i++)
		if (pthread_join(threads[i], NULL) != 0)
			return 2;
	return 0;
}

static int use_a_file(void)
{
	struct stat st;
	char byte;

	if (ftruncate(file, 1 << 20) < 0 || pwrite(file, "x", 1, 4096) != 1 ||
	    fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) < 0 ||
	    fdatasync(file) < 0 || fstat(file, &st) < 0 || st.st_size != 1 << 20)
		return 1;
	return pread(file, &byte, 1, 4096) == 1 && byte == 'x' ? 0 : 2;
}

static void read_a_file_co(void *arg)
{
	char byte;
	struct iovec iov = {&byte, 1};

	*(int *)arg = ox_aio_preadv_co(file, &iov, 1, 0) == 1 ? 0 : 1;
}

static int read_by_the_engine(void)
{
	int result = BROKEN;

	if (ftruncate(file, 1 << 20) < 0 || ox_reactor_call(reactor, read_a_file_co, &result) < 0)
		return BROKEN;
	ox_reactor_destroy(reactor);
	return result;
}

/* libc opens a socket to ask for the name of the interface, and makes do without. */
static int name_a_peer(void)
{
	struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_scope_id = 1};
	char host[NI_MAXHOST];

	inet_pton(AF_INET6, "fe80::1", &address.sin6_addr);
	return getnameinfo((struct sockaddr *)&address, sizeof(address), host, sizeof(host), NULL,
			   0, NI_NUMERICHOST) == 0
		       ? 0
		       : 1;
}

static int speak(void)
{
	char byte;

	if (send(stream[0], "x", 1, MSG_NOSIGNAL) == 1)
		return 1; /* not used, and so not allowed */
	if (write(stream[0], "x", 1) != 1 || read(stream[1], &byte, 1) != 1)
		return 2;
	return printf("%s", isatty(STDOUT_FILENO) ? "" : " ") < 0;
}

static int send_to_whom_it_is_connected(void)
{
	return send(stream[0], "x", 1, MSG_NOSIGNAL) == 1 ? 0 : 1;
}

static int send_by_a_call_that_connects(void)
{
	return error_of(send(fresh_socket, "x", 1, MSG_FASTOPEN | MSG_NOSIGNAL));
}

static int fail_an_assertion(void)
{
	abort();
}

static void one_that_has_an_export_can_send_and_not_connect(void **state)
{
	static const struct attempt attempts[] = {
		ATTEMPT(open_a_socket, ENOSYS),
		ATTEMPT(connect_by_sending, ENOSYS),
		ATTEMPT(connect_by_sending_to, ENOSYS),
		ATTEMPT(send_by_a_call_that_connects, ENOSYS),
	};

	(void)state;
	assert_int_equal(status_of(OF_CLIENT, send_to_whom_it_is_connected), 0);
	check_refused(OF_CLIENT, attempts, OX_ARRAY_SIZE(attempts));
}

static void a_worker_can_do_its_work(void **state)
{
	(void)state;
	assert_int_equal(status_of(ALL, run_threads), 0);
	assert_int_equal(status_of(ALL, use_a_file), 0);
	assert_int_equal(status_of(ALL, read_by_the_engine), 0);
	engine = OX_ENGINE_THREAD_POOL;
	assert_int_equal(status_of(ALL, read_by_the_engine), 0);
	engine = OX_ENGINE_IO_URING;
	assert_int_equal(status_of(ALL, name_a_peer), 0);
	assert_int_equal(status_of(ALL, speak), 0);
}

/* And not of what abort(3) does, so that the keeper tells what it was. */
static void an_assertion_ends_it_as_ever(void **state)
{
	int status = status_of(ALL, fail_an_assertion);

	(void)state;
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGABRT);
}

/* ---- whose it is ---- */

static int tell_its_user(void)
{
	return getuid() == 65534 && geteuid() == 65534 && getgid() == 65534 && getegid() == 65534
		       ? 0
		       : 1;
}

static void root_becomes_nobody(void **state)
{
	(void)state;
	if (geteuid() != 0)
		skip();
	assert_int_equal(status_of(ALL, tell_its_user), 0);
}

/* The change of the user has undone what ties it to its keeper. */
static void it_dies_with_its_keeper(void **state)
{
	struct pollfd p;
	int ends[2];
	int ready[2];
	pid_t keeper;
	pid_t worker;

	(void)state;
	if (*missing)
		skip();
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	fflush(NULL);
	keeper = fork();
	if (keeper == 0) {
		if (fork() == 0) {
			struct ox_sandbox sandbox = a_sandbox();

			ox_sandbox_begin(&sandbox);
			worker = getpid();
			if (ox_sandbox_enter(&sandbox) < 0 ||
			    write(ready[1], &worker, sizeof(worker)) != sizeof(worker))
				_exit(BROKEN);
			for (;;)
				poll(NULL, 0, -1);
		}
		for (;;)
			poll(NULL, 0, -1);
	}
	close(ends[1]);
	close(ready[1]);
	assert_int_equal(read(ready[0], &worker, sizeof(worker)), sizeof(worker));
	p = (struct pollfd){.fd = ends[0]};
	assert_int_equal(poll(&p, 1, 0), 0); /* it lives, and has the other end */
	assert_int_equal(kill(keeper, SIGKILL), 0);
	assert_int_equal(waitpid(keeper, NULL, 0), keeper);
	if (poll(&p, 1, 20000) != 1) {
		kill(worker, SIGKILL);
		fail();
	}
	close(ends[0]);
	close(ready[0]);
}

static int enter_under_another_keeper(void)
{
	struct ox_sandbox sandbox = a_sandbox();

	sandbox.keeper = 1;
	return -ox_sandbox_enter(&sandbox);
}

static void it_does_not_begin_under_another_keeper(void **state)
{
	int status = status_of(FILES_ALONE, enter_under_another_keeper);

	(void)state;
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), ESRCH);
}

static void a_user_is_named_in_three_ways(void **state)
{
	static const char *const bad[] = {"",	   "1",	   ":",	   "1:",   ":1",
					  "1:2:3", "-1:1", "1:-1", "1 :1", "4294967295:1"};
	struct ox_sandbox_user user;

	(void)state;
	assert_int_equal(ox_sandbox_user_parse("12:34", &user), 0);
	assert_true(user.stated && user.uid == 12 && user.gid == 34);
	for (size_t i = 0; i < OX_ARRAY_SIZE(bad); i++)
		assert_int_equal(ox_sandbox_user_parse(bad[i], &user), -EINVAL);
	assert_int_equal(ox_sandbox_user_find("root", &user), 0);
	assert_true(user.uid == 0 && user.gid == 0);
	assert_int_equal(ox_sandbox_user_find("0", &user), 0);
	assert_true(user.uid == 0 && user.gid == 0);
	assert_int_equal(ox_sandbox_user_find("no such user", &user), -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(files_are_out_of_reach_without_a_filter),
		cmocka_unit_test(calls_that_are_not_on_the_list_are_not_there),
		cmocka_unit_test(calls_of_somebody_who_has_taken_it_over_end_it),
		cmocka_unit_test(its_ring_opens_and_connects_nothing),
		cmocka_unit_test(one_that_has_an_export_can_send_and_not_connect),
		cmocka_unit_test(a_worker_can_do_its_work),
		cmocka_unit_test(an_assertion_ends_it_as_ever),
		cmocka_unit_test(root_becomes_nobody),
		cmocka_unit_test(it_dies_with_its_keeper),
		cmocka_unit_test(it_does_not_begin_under_another_keeper),
		cmocka_unit_test(a_user_is_named_in_three_ways),
	};

	alarm(120);
	return cmocka_run_group_tests(tests, look_for_it, NULL);
}
