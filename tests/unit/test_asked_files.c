/* SPDX-License-Identifier: MIT */
/* Chains whose files the program hands over as it is asked for them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* the ones above first: cmocka.h needs them */
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "oxbow.h"

#define MIB (UINT64_C(1024) * 1024)
#define DISK_BYTES (4 * MIB)
#define BLOCK 4096u
#define ASKED_MAX 8

/* top.qcow2 names sub/middle.qed, that names ../base.raw; each has a block that those above it do
 * not have. */
static const char *const names[] = {"top.qcow2", "sub/middle.qed", "base.raw"};

int __real_close(int fd);
int __wrap_close(int fd);

static unsigned closed_for_nothing;

/* In a program with threads, what is closed twice is by then another's. */
int __wrap_close(int fd)
{
	int r = __real_close(fd);

	closed_for_nothing += r < 0 && errno == EBADF;
	return r;
}

static struct ox_context *ctx;
static char dir[] = "/tmp/ox-test-asked-XXXXXX";

/* ---- the chain ---- */

static char *path_of(const char *name)
{
	static char path[2][128];
	static unsigned turn;

	turn ^= 1;
	snprintf(path[turn], sizeof(path[turn]), "%s/%s", dir, name);
	return path[turn];
}

static int write_block(struct ox_image *image, char byte, uint64_t offset)
{
	char buf[BLOCK];

	memset(buf, byte, sizeof(buf));
	return ox_pwrite(image, buf, sizeof(buf), offset, 0);
}

static void assert_block(struct ox_image *image, char byte, uint64_t offset)
{
	char buf[BLOCK];

	assert_int_equal(ox_pread(image, buf, sizeof(buf), offset), 0);
	assert_int_equal(buf[0], byte);
	assert_int_equal(buf[BLOCK - 1], byte);
}

static void make(const char *name, const char *format, const char *backing,
		 const char *backing_format, char byte, uint64_t offset)
{
	struct ox_create_options create = OX_CREATE_OPTIONS_INIT;
	struct ox_open_options open = OX_OPEN_OPTIONS_INIT;
	static char cluster[64 * 1024];
	struct ox_image *image;

	create.format = format;
	create.virtual_bytes = DISK_BYTES;
	create.backing_file = backing;
	create.backing_format = backing_format;
	assert_int_equal(ox_image_create(ctx, path_of(name), &create, NULL), 0);
	open.format = format;
	open.flags = OX_OPEN_NO_BACKING;
	assert_int_equal(ox_image_open(ctx, path_of(name), &open, &image, NULL), 0);
	/* a whole cluster: nothing of it is read from below */
	memset(cluster, byte, sizeof(cluster));
	assert_int_equal(ox_pwrite(image, cluster, sizeof(cluster), offset, 0), 0);
	assert_int_equal(ox_image_close(image, NULL), 0);
}

static int setup(void **state)
{
	(void)state;
	strcpy(dir + strlen(dir) - 6, "XXXXXX");
	if (!mkdtemp(dir) || mkdir(path_of("sub"), 0755) < 0 ||
	    ox_context_new(OX_ENGINE_DEFAULT, &ctx, NULL) < 0)
		return -1;
	make("base.raw", "raw", NULL, NULL, 'b', 2 * MIB);
	make("sub/middle.qed", "qed", "../base.raw", "raw", 'm', MIB);
	make("top.qcow2", "qcow2", "sub/middle.qed", "qed", 't', 0);
	return 0;
}

static int teardown(void **state)
{
	char command[128];

	(void)state;
	ox_context_free(ctx);
	if (closed_for_nothing)
		return -1;
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command);
}

static void assert_chain(struct ox_image *image)
{
	assert_block(image, 't', 0);
	assert_block(image, 'm', MIB);
	assert_block(image, 'b', 2 * MIB);
	assert_block(image, 0, 3 * MIB);
}

/* ---- the program that is asked ---- */

static struct {
	unsigned count;
	struct {
		char name[64], path[128], named_by[128];
		unsigned depth;
		bool read_only;
	} all[ASKED_MAX];
	int answer[ASKED_MAX]; /* by depth: a descriptor, or an errno; 0: the file of that path */
	pthread_t thread;
	struct ox_job *cancel; /* at depth 1 */
} asked;

static int open_file(void *opaque, const struct ox_file_wanted *wanted)
{
	unsigned i = asked.count++;
	int fd;

	assert_ptr_equal(opaque, &asked);
	assert_true(i < ASKED_MAX && wanted->depth < ASKED_MAX);
	snprintf(asked.all[i].name, sizeof(asked.all[i].name), "%s", wanted->name);
	snprintf(asked.all[i].path, sizeof(asked.all[i].path), "%s", wanted->path);
	snprintf(asked.all[i].named_by, sizeof(asked.all[i].named_by), "%s",
		 wanted->named_by ? wanted->named_by : "nobody");
	asked.all[i].depth = wanted->depth;
	asked.all[i].read_only = wanted->read_only;
	asked.thread = pthread_self();
	if (asked.cancel && wanted->depth == 1)
		ox_job_cancel(asked.cancel);
	if (asked.answer[wanted->depth] != 0)
		return asked.answer[wanted->depth];
	/* without O_CLOEXEC, that the library is to see to it */
	fd = open(wanted->path, wanted->read_only ? O_RDONLY : O_RDWR);
	return fd < 0 ? -errno : fd;
}

static struct ox_open_options options(unsigned flags)
{
	struct ox_open_options opts = OX_OPEN_OPTIONS_INIT;

	memset(&asked, 0, sizeof(asked));
	opts.format = "qcow2";
	opts.flags = flags;
	opts.backing_policy = OX_BACKING_ALLOW;
	opts.open_file = open_file;
	opts.opaque = &asked;
	return opts;
}

static void assert_asked(unsigned i, const char *name, const char *path, const char *named_by,
			 unsigned depth, bool read_only)
{
	assert_true(i < asked.count);
	assert_string_equal(asked.all[i].name, name);
	assert_string_equal(asked.all[i].path, path);
	assert_string_equal(asked.all[i].named_by, named_by);
	assert_int_equal(asked.all[i].depth, depth);
	assert_int_equal(asked.all[i].read_only, read_only);
}

static int count_open_files(bool *ret_all_cloexec)
{
	DIR *fds = opendir("/proc/self/fd");
	struct dirent *entry;
	int count = 0;

	assert_non_null(fds);
	*ret_all_cloexec = true;
	while ((entry = readdir(fds))) {
		int fd = atoi(entry->d_name);

		if (entry->d_name[0] == '.')
			continue;
		count++;
		if (fd > 2 && !(fcntl(fd, F_GETFD) & FD_CLOEXEC))
			*ret_all_cloexec = false;
	}
	closedir(fds);
	return count;
}

static int open_files(void)
{
	bool all_cloexec;

	return count_open_files(&all_cloexec);
}

/* ---- what is asked for ---- */

static void a_chain_is_asked_for_file_by_file(void **state)
{
	struct ox_open_options opts = options(0);
	char *top = path_of("top.qcow2");
	char middle[128];
	char base[128];
	struct ox_image *image;
	bool all_cloexec;

	(void)state;
	snprintf(middle, sizeof(middle), "%s/sub/middle.qed", dir);
	snprintf(base, sizeof(base), "%s/sub/../base.raw", dir);
	assert_int_equal(ox_image_open(ctx, top, &opts, &image, NULL), 0);
	assert_int_equal(asked.count, 3);
	assert_asked(0, top, top, "nobody", 0, false);
	assert_asked(1, "sub/middle.qed", middle, top, 1, true);
	assert_asked(2, "../base.raw", base, middle, 2, true);
	count_open_files(&all_cloexec);
	assert_true(all_cloexec);
	assert_chain(image);
	assert_int_equal(write_block(image, 'w', 3 * MIB), 0);
	assert_int_equal(ox_image_close(image, NULL), 0);
	assert_int_equal(asked.count, 3);
}

static void the_image_of_a_descriptor_is_not_asked_for(void **state)
{
	struct ox_open_options opts = options(OX_OPEN_READ_ONLY);
	int fd = open(path_of("top.qcow2"), O_RDONLY | O_CLOEXEC);
	struct ox_image *image;

	(void)state;
	opts.cache = OX_CACHE_NONE;
	assert_int_equal(ox_image_open_fd(ctx, fd, path_of("top.qcow2"), &opts, &image, NULL), 0);
	assert_int_equal(asked.count, 2);
	assert_int_equal(asked.all[0].depth, 1);
	assert_chain(image);
	assert_int_equal(ox_image_close(image, NULL), 0);
	assert_int_equal(close(fd), 0);
}

static void an_image_becomes_no_more_than_its_descriptor_allows(void **state)
{
	struct ox_open_options opts = options(OX_OPEN_READ_ONLY);
	struct ox_error *err = NULL;
	struct ox_image *image;

	(void)state;
	assert_int_equal(ox_image_open(ctx, path_of("top.qcow2"), &opts, &image, NULL), 0);
	assert_int_equal(ox_image_reopen(image, false, &err), -EACCES);
	assert_non_null(strstr(ox_error_message(err), "not open for writing"));
	ox_error_free(err);
	assert_int_equal(asked.count, 3);
	assert_chain(image);
	assert_int_equal(ox_image_close(image, NULL), 0);
	opts = options(OX_OPEN_READ_ONLY);
	asked.answer[0] = open(path_of("top.qcow2"), O_RDWR);
	assert_int_equal(ox_image_open(ctx, path_of("top.qcow2"), &opts, &image, NULL), 0);
	assert_int_equal(ox_image_reopen(image, false, NULL), 0);
	assert_int_equal(write_block(image, 'w', 3 * MIB), 0);
	assert_int_equal(ox_image_close(image, NULL), 0);
}

static void the_facts_of_an_image_are_asked_for_by_its_file_alone(void **state)
{
	struct ox_open_options opts = options(0);
	struct ox_image_info *info;

	(void)state;
	assert_int_equal(ox_image_info_read(ctx, path_of("top.qcow2"), &opts, &info, NULL), 0);
	assert_string_equal(info->backing_file, "sub/middle.qed");
	ox_image_info_free(info);
	assert_int_equal(asked.count, 1);
	assert_asked(0, path_of("top.qcow2"), path_of("top.qcow2"), "nobody", 0, true);
}

static void a_job_asks_on_the_context_s_thread(void **state)
{
	struct ox_open_options opts = options(0);
	struct ox_image *image;
	struct ox_job *job;

	(void)state;
	assert_int_equal(ox_image_open_start(ctx, path_of("top.qcow2"), &opts, &job, NULL), 0);
	while (!ox_job_is_done(job))
		assert_int_equal(ox_context_wait(ctx), 0);
	assert_int_equal(ox_job_end(job, &image, NULL), 0);
	assert_int_equal(asked.count, 3);
	assert_true(pthread_equal(asked.thread, pthread_self()));
	assert_chain(image);
	assert_int_equal(ox_image_close(image, NULL), 0);
}

static void an_opening_that_was_cancelled_asks_no_further(void **state)
{
	struct ox_open_options opts = options(0);
	struct ox_error *err = NULL;
	struct ox_image *image;
	int before = open_files();

	(void)state;
	assert_int_equal(ox_image_open_start(ctx, path_of("top.qcow2"), &opts, &asked.cancel, NULL),
			 0);
	while (!ox_job_is_done(asked.cancel))
		assert_int_equal(ox_context_wait(ctx), 0);
	assert_int_equal(ox_job_end(asked.cancel, &image, &err), -ECANCELED);
	assert_string_equal(ox_error_message(err), "The opening was cancelled");
	ox_error_free(err);
	assert_int_equal(asked.count, 2);
	assert_int_equal(open_files(), before);
}

static void a_policy_refuses_names_before_anybody_is_asked(void **state)
{
	struct ox_open_options opts = options(OX_OPEN_READ_ONLY);
	struct ox_error *err = NULL;
	struct ox_image *image;

	(void)state;
	opts.backing_policy = OX_BACKING_DENY;
	assert_int_equal(ox_image_open(ctx, path_of("top.qcow2"), &opts, &image, NULL), -EACCES);
	assert_int_equal(asked.count, 1);
	opts.backing_policy = OX_BACKING_UNDER;
	opts.backing_dir = path_of("sub");
	assert_int_equal(ox_image_open(ctx, path_of("top.qcow2"), &opts, &image, &err), -EACCES);
	assert_non_null(strstr(ox_error_message(err), "base.raw' does not lie under"));
	ox_error_free(err);
	assert_int_equal(asked.count, 3); /* twice the image itself, and what lies there */
	opts.backing_dir = dir;
	assert_int_equal(ox_image_open(ctx, path_of("top.qcow2"), &opts, &image, NULL), 0);
	assert_int_equal(asked.count, 6);
	assert_int_equal(ox_image_close(image, NULL), 0);
	opts.flags |= OX_OPEN_NO_BACKING;
	assert_int_equal(ox_image_open(ctx, path_of("top.qcow2"), &opts, &image, NULL), 0);
	assert_int_equal(asked.count, 7);
	assert_int_equal(ox_image_close(image, NULL), 0);
}

static void an_older_program_is_not_asked(void **state)
{
	struct ox_open_options opts = options(OX_OPEN_READ_ONLY);
	struct ox_image *image;

	(void)state;
	opts.struct_size = offsetof(struct ox_open_options, open_file);
	assert_int_equal(ox_image_open(ctx, path_of("top.qcow2"), &opts, &image, NULL), 0);
	assert_int_equal(asked.count, 0);
	assert_chain(image);
	assert_int_equal(ox_image_close(image, NULL), 0);
}

/* ---- bad answers ---- */

/* Opens the image with that answer at the depth, which must fail and leave no descriptor open. */
static void assert_answer_refused(unsigned depth, int answer, int code, const char *message)
{
	struct ox_open_options opts = options(0);
	int before = open_files() - (answer >= 0 && fcntl(answer, F_GETFD) >= 0);
	struct ox_error *err = NULL;
	struct ox_image *image;

	asked.answer[depth] = answer;
	assert_int_equal(ox_image_open(ctx, path_of("top.qcow2"), &opts, &image, &err), code);
	if (!strstr(ox_error_message(err), message) ||
	    !strstr(ox_error_message(err),
		    strrchr(names[depth], '/') ? "middle.qed" : names[depth]))
		fail_msg("'%s' lacks '%s'", ox_error_message(err), message);
	ox_error_free(err);
	assert_int_equal(asked.count, depth + 1);
	assert_int_equal(open_files(), before);
}

static int socket_of_a_pair(void)
{
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	close(fds[1]);
	return fds[0];
}

static int end_of_a_pipe(int which)
{
	int fds[2];

	assert_int_equal(pipe(fds), 0);
	close(fds[!which]);
	return fds[which];
}

static void an_answer_that_is_no_file_is_refused_at_any_depth(void **state)
{
	static const char neither[] = "neither a regular file nor a block device";

	(void)state;
	for (unsigned depth = 0; depth < 3; depth++) {
		char path[128];

		snprintf(path, sizeof(path), "%s", path_of(names[depth]));
		assert_answer_refused(depth, -EACCES, -EACCES, "Permission denied");
		assert_answer_refused(depth, -ELOOP, -ELOOP, "Too many levels");
		assert_answer_refused(depth, -100000, -EIO, "Input/output error");
		assert_answer_refused(depth, 987, -EBADF, "answered with descriptor 987");
		assert_answer_refused(depth, open(dir, O_RDONLY), -EISDIR, neither);
		assert_answer_refused(depth, open("/dev/zero", O_RDWR), -EINVAL, neither);
		assert_answer_refused(depth, socket_of_a_pair(), -EINVAL, neither);
		assert_answer_refused(depth, end_of_a_pipe(0), -EINVAL, neither);
		assert_answer_refused(depth, end_of_a_pipe(1), -EINVAL, neither);
		assert_answer_refused(depth, open(path, O_WRONLY), -EBADF, "not open for reading");
		assert_answer_refused(depth, open(path, O_PATH), -EBADF, "not open for reading");
	}
	assert_answer_refused(0, open(path_of("top.qcow2"), O_RDONLY), -EACCES,
			      "not open for writing");
	assert_answer_refused(1, open(path_of("base.raw"), O_RDONLY), -EINVAL, "");
}

static void a_file_that_is_handed_over_twice_closes_a_loop(void **state)
{
	int top = open(path_of("top.qcow2"), O_RDWR);
	struct ox_open_options opts = options(0);
	struct ox_error *err = NULL;
	struct ox_image *image;
	int before = open_files();

	(void)state;
	/* by another descriptor, which has the locks of nobody */
	assert_answer_refused(1, open(path_of("top.qcow2"), O_RDONLY), -ELOOP, "endless loop");
	assert_answer_refused(2, open(path_of("sub/middle.qed"), O_RDONLY), -ELOOP, "endless loop");
	/* and by the very same, which is closed once */
	opts = options(0);
	asked.answer[0] = top;
	asked.answer[2] = top;
	assert_int_equal(ox_image_open(ctx, path_of("top.qcow2"), &opts, &image, &err), -ELOOP);
	assert_non_null(strstr(ox_error_message(err), "endless loop"));
	ox_error_free(err);
	assert_int_equal(open_files(), before - 1);
}

static void a_socket_that_is_refused_stays_as_it_was(void **state)
{
	struct ox_open_options opts = options(OX_OPEN_READ_ONLY);
	int fd = socket_of_a_pair();
	struct ox_image *image;

	(void)state;
	assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
	asked.answer[1] = dup(fd);
	assert_int_equal(ox_image_open(ctx, path_of("top.qcow2"), &opts, &image, NULL), -EINVAL);
	assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
	assert_int_equal(close(fd), 0);
}

/* ---- without paths ---- */

#define KILL_IF(number)                                                                            \
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (number), 0, 1),                                       \
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS)
/* Calls by path, or by the descriptor alone: fstat is one of these in glibc. */
#define KILL_UNLESS_EMPTY(number, flags_argument)                                                  \
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (number), 0, 4),                                       \
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS,                                                 \
			 offsetof(struct seccomp_data, args[flags_argument])),                     \
		BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, AT_EMPTY_PATH, 1, 0),                         \
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),                               \
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

/* From now on the process dies where it looks at a path. False: the kernel has no such filters. */
static bool forbid_paths(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
#ifdef SYS_open
		KILL_IF(SYS_open),
		KILL_IF(SYS_stat),
		KILL_IF(SYS_lstat),
		KILL_IF(SYS_access),
		KILL_IF(SYS_readlink),
#endif
		KILL_IF(SYS_openat),
		KILL_IF(SYS_openat2),
		KILL_IF(SYS_readlinkat),
		KILL_IF(SYS_faccessat),
		KILL_IF(SYS_getdents64),
		KILL_UNLESS_EMPTY(SYS_newfstatat, 3),
		KILL_UNLESS_EMPTY(SYS_statx, 2),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {sizeof(filter) / sizeof(filter[0]), filter};

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
	       prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

/* Descriptors of the three files. */
static void open_all(int ret_fds[3], int mode)
{
	for (unsigned i = 0; i < 3; i++) {
		ret_fds[i] = open(path_of(names[i]), mode | O_CLOEXEC);
		assert_true(ret_fds[i] > 2);
	}
}

enum {
	NO_FILTER = -1,
	KILLED = -2,
};

/* Of fn in a process of its own, which ends without what a checker of leaks does at an exit; KILLED
 * if it did not get that far. */
static int result_of(int (*fn)(void))
{
	int told[2];
	int result = KILLED;
	int status;
	pid_t pid;

	assert_int_equal(pipe2(told, O_CLOEXEC), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		result = fn();
		if (write(told[1], &result, sizeof(result)) == sizeof(result))
			kill(getpid(), SIGKILL);
		_exit(1);
	}
	close(told[1]);
	if (read(told[0], &result, sizeof(result)) == 0)
		result = KILLED;
	close(told[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), result == KILLED ? SIGSYS : SIGKILL);
	return result;
}

/* What an embedder does with an image, and what goes wrong with one. The number of the line that
 * failed, or 0. */
static int live_without_paths(void)
{
	struct ox_open_options opts = options(OX_OPEN_READ_ONLY);
	struct ox_image_info *info;
	struct ox_context *own;
	struct ox_image *image;
	char buf[BLOCK];
	int others[3];
	int again[3];

#define MUST(condition)                                                                            \
	do {                                                                                       \
		if (!(condition))                                                                  \
			return __LINE__;                                                           \
	} while (0)

	open_all(others, O_RDWR);
	open_all(again, O_RDWR);
	open_all(asked.answer, O_RDWR);
	if (!forbid_paths())
		return NO_FILTER;
	MUST(ox_context_new(OX_ENGINE_DEFAULT, &own, NULL) == 0); /* its threads get the filter */
	MUST(ox_lock_fd(others[1], "other", OX_LOCK_NONE, OX_LOCK_WRITE, NULL) == 0);
	/* who has the locks is not looked for */
	MUST(ox_image_open(own, "top.qcow2", &opts, &image, NULL) == -EAGAIN);
	MUST(ox_lock_fd(others[1], "other", OX_LOCK_WRITE, OX_LOCK_NONE, NULL) == 0);
	memcpy(asked.answer, again, sizeof(again));
	asked.count = 0;
	MUST(ox_image_open(own, "top.qcow2", &opts, &image, NULL) == 0);
	MUST(ox_image_reopen(image, false, NULL) == 0);
	MUST(write_block(image, 'w', 3 * MIB) == 0);
	MUST(ox_pread(image, buf, sizeof(buf), 2 * MIB) == 0 && buf[0] == 'b');
	MUST(ox_resize(image, 2 * DISK_BYTES, NULL) == 0);
	MUST(ox_flush(image) == 0);
	MUST(ox_image_info_get(image, &info, NULL) == 0);
	ox_image_info_free(info);
	MUST(ox_image_reopen(image, true, NULL) == 0);
	MUST(ox_image_close(image, NULL) == 0);
	ox_context_free(own);
	return 0;
}

static void with_the_callback_set_no_path_is_ever_looked_at(void **state)
{
	int r = result_of(live_without_paths);

	(void)state;
	if (r == NO_FILTER)
		skip();
	assert_int_equal(r, 0);
}

static int open_under_the_filter(void)
{
	return forbid_paths() ? open(dir, O_RDONLY) : NO_FILTER;
}

static void the_filter_of_the_test_above_kills(void **state)
{
	int r = result_of(open_under_the_filter);

	(void)state;
	if (r == NO_FILTER)
		skip();
	assert_int_equal(r, KILLED);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_chain_is_asked_for_file_by_file),
		TEST(the_image_of_a_descriptor_is_not_asked_for),
		TEST(an_image_becomes_no_more_than_its_descriptor_allows),
		TEST(the_facts_of_an_image_are_asked_for_by_its_file_alone),
		TEST(a_job_asks_on_the_context_s_thread),
		TEST(an_opening_that_was_cancelled_asks_no_further),
		TEST(a_policy_refuses_names_before_anybody_is_asked),
		TEST(an_older_program_is_not_asked),
		TEST(an_answer_that_is_no_file_is_refused_at_any_depth),
		TEST(a_file_that_is_handed_over_twice_closes_a_loop),
		TEST(a_socket_that_is_refused_stays_as_it_was),
		TEST(with_the_callback_set_no_path_is_ever_looked_at),
		TEST(the_filter_of_the_test_above_kills),
	};

	return cmocka_run_group_tests_name("asked files", tests, NULL, NULL);
}
