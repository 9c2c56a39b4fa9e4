/* SPDX-License-Identifier: MIT */
/*
 * The system calls of a process in the sandbox.
 *
 * - Allowed is what a server does with descriptors that it has, memory, threads and time.
 * - Fatal is what no library calls unasked. It ends the process, and the keeper says so.
 * - All others are answered ENOSYS, as by a kernel that has no such call. A libc of some later day
 *   may try what nobody has thought of, and knows a way without it.
 *
 * Names and not numbers, so that a call which this machine or this libseccomp does not have is left
 * out. io_uring's opcodes are no system calls: each ring is restricted by itself (src/rt/uring.c).
 */
#include "cli/sandbox/sandbox.h"

#include <errno.h>

#ifdef OX_HAVE_SECCOMP

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/io_uring.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <seccomp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* clone(2)'s argument with the flags */
#ifdef __s390__
#define CLONE_FLAGS 1
#else
#define CLONE_FLAGS 0
#endif

#define NEW_NAMESPACES                                                                             \
	(CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER |             \
	 CLONE_NEWPID | CLONE_NEWNET)

static const char *const allowed[] = {
	/* descriptors */
	"read",
	"write",
	"readv",
	"writev",
	"pread64",
	"pwrite64",
	"preadv",
	"pwritev",
	"preadv2",
	"pwritev2",
	"lseek",
	"_llseek",
	"fsync",
	"fdatasync",
	"fallocate",
	"ftruncate",
	"ftruncate64",
	"fstat",
	"fstat64",
	"fstatfs",
	"fstatfs64",
	"close",
	"close_range",
	"dup",
	"dup2",
	"dup3",
	"pipe2",
	"eventfd2",
	"timerfd_create",
	"timerfd_settime",
	"timerfd_settime64",
	"epoll_create1",
	"epoll_ctl",
	"epoll_wait",
	"epoll_pwait",
	"epoll_pwait2",
	"poll",
	"ppoll",
	"ppoll_time64",
	"io_uring_enter",
	/* what signals a descriptor of another and never blocks (src/serve/vhost/signal.h) */
	"io_setup",
	"io_destroy",
	"io_submit",
	"io_getevents",
	/* clients */
	"accept",
	"accept4",
	"recvfrom",
	"recvmsg",
	"shutdown",
	"getsockname",
	"getpeername",
	/* memory */
	"brk",
	"munmap",
	"memfd_create",
	"mremap",
	"madvise",
	/* threads and signals */
	"exit",
	"exit_group",
	"futex",
	"futex_time64",
	"futex_waitv",
	"membarrier",
	"rseq",
	"set_robust_list",
	"sched_yield",
	"sched_getaffinity",
	"rt_sigaction",
	"rt_sigprocmask",
	"rt_sigreturn",
	"sigreturn",
	"sigaltstack",
	"restart_syscall",
	"setitimer",
	/* time, chance and oneself */
	"clock_gettime",
	"clock_gettime64",
	"clock_getres",
	"clock_nanosleep",
	"clock_nanosleep_time64",
	"nanosleep",
	"gettimeofday",
	"time",
	"getrandom",
	"getpid",
	"getppid",
	"gettid",
	"getuid",
	"geteuid",
	"getgid",
	"getegid",
	"getcpu",
	"getrusage",
	"sysinfo",
	"uname",
};

/* What a sanitizer does at a report, and when it looks for leaks. */
static const char *const sanitizers[] = {
	"clone", "getdents", "getdents64", "kill",	 "newfstatat", "open",	 "openat",
	"prctl", "ptrace",   "readlink",   "readlinkat", "stat",       "tgkill", "wait4",
};

/* It also finds out who else has an image. */
static const char *const opener[] = {
	"access",   "faccessat",  "faccessat2", "fcntl",	  "fcntl64",
	"getcwd",   "getdents64", "getsockopt", "io_uring_setup", "kcmp",
	"lstat",    "open",	  "openat",	"openat2",	  "newfstatat",
	"readlink", "readlinkat", "stat",	"statx",	  "io_uring_register",
};

static const char *const fatal[] = {
	/* other programs, other processes */
	"execve",
	"execveat",
	"ptrace",
	"process_vm_readv",
	"process_vm_writev",
	"process_madvise",
	"process_mrelease",
	"pidfd_open",
	"pidfd_getfd",
	"pidfd_send_signal",
	"rt_sigqueueinfo",
	"rt_tgsigqueueinfo",
	/* other addresses */
	"connect",
	"bind",
	"listen",
	/* more of the kernel */
	"io_uring_setup",
	"bpf",
	"perf_event_open",
	"userfaultfd",
	"add_key",
	"keyctl",
	"request_key",
	"open_by_handle_at",
	"init_module",
	"finit_module",
	"kexec_load",
	"kexec_file_load",
	"mount",
	"umount2",
	"move_mount",
	"open_tree",
	"fsopen",
	"pivot_root",
	"chroot",
	"setns",
	"unshare",
	"reboot",
	"iopl",
	"ioperm",
	"modify_ldt",
};

struct conditional {
	const char *name;
	unsigned count;
	struct scmp_arg_cmp conditions[2];
};

/* The kernel looks at no more than this of an int. */
#define IS(argument, value)                                                                        \
	{                                                                                          \
		argument, SCMP_CMP_MASKED_EQ, 0xffffffffu, (scmp_datum_t)(unsigned)(value)         \
	}
#define HAS(argument, bits)                                                                        \
	{                                                                                          \
		argument, SCMP_CMP_MASKED_EQ, (scmp_datum_t)(unsigned)(bits),                      \
			(scmp_datum_t)(unsigned)(bits)                                             \
	}
#define LACKS(argument, bits)                                                                      \
	{                                                                                          \
		argument, SCMP_CMP_MASKED_EQ, (scmp_datum_t)(unsigned)(bits), 0                    \
	}

static const struct conditional conditionals[] = {
	/* threads, and no processes */
	{"clone",
	 1,
	 {{CLONE_FLAGS, SCMP_CMP_MASKED_EQ, CLONE_THREAD | NEW_NAMESPACES, CLONE_THREAD}}},
	{"mmap", 1, {LACKS(2, PROT_EXEC)}},
	{"mmap2", 1, {LACKS(2, PROT_EXEC)}},
	{"mprotect", 1, {LACKS(2, PROT_EXEC)}},
	/* not F_SETOWN, by which a descriptor sends signals to others; no locks, which are the
	   keeper's */
	{"fcntl", 1, {IS(1, F_DUPFD_CLOEXEC)}},
	{"fcntl", 1, {IS(1, F_GETFD)}},
	{"fcntl", 1, {IS(1, F_SETFD)}},
	{"fcntl", 1, {IS(1, F_GETFL)}},
	{"fcntl", 1, {IS(1, F_SETFL)}},
	{"fcntl", 1, {IS(1, F_GET_SEALS)}},
	{"fcntl", 1, {IS(1, F_ADD_SEALS)}},
	{"fcntl64", 1, {IS(1, F_DUPFD_CLOEXEC)}},
	{"fcntl64", 1, {IS(1, F_GETFD)}},
	{"fcntl64", 1, {IS(1, F_SETFD)}},
	{"fcntl64", 1, {IS(1, F_GETFL)}},
	{"fcntl64", 1, {IS(1, F_SETFL)}},
	{"fcntl64", 1, {IS(1, F_GET_SEALS)}},
	{"fcntl64", 1, {IS(1, F_ADD_SEALS)}},
	{"ioctl", 1, {IS(1, BLKSSZGET)}},
	{"ioctl", 1, {IS(1, TCGETS)}}, /* isatty */
	/* a descriptor's: the path may still be one, see docs/sandbox.md */
	{"newfstatat", 1, {HAS(3, AT_EMPTY_PATH)}},
	{"fstatat64", 1, {HAS(3, AT_EMPTY_PATH)}},
	{"statx", 1, {HAS(2, AT_EMPTY_PATH)}},
	/* A listening socket that was shut down could be connected by it. */
	{"sendmsg", 1, {LACKS(2, MSG_FASTOPEN)}},
	{"getsockopt", 1, {IS(1, SOL_SOCKET)}},
	{"setsockopt", 2, {IS(1, SOL_SOCKET), IS(2, SO_KEEPALIVE)}},
	{"setsockopt", 2, {IS(1, SOL_SOCKET), IS(2, SO_SNDBUF)}},
	{"setsockopt", 2, {IS(1, SOL_SOCKET), IS(2, SO_PEEK_OFF)}},
	{"setsockopt", 2, {IS(1, SOL_SOCKET), IS(2, SO_LINGER)}},
	{"setsockopt", 2, {IS(1, IPPROTO_TCP), IS(2, TCP_NODELAY)}},
	/* the end of what a ring holds */
	{"io_uring_register", 1, {IS(1, IORING_UNREGISTER_FILES)}},
	/* asked, of itself */
	{"prlimit64", 2, {IS(0, 0), {2, SCMP_CMP_EQ, 0, 0}}},
};

static int add(scmp_filter_ctx filter, uint32_t action, const char *name, unsigned count,
	       const struct scmp_arg_cmp *conditions)
{
	int number = seccomp_syscall_resolve_name(name);
	int ret;

	if (number == __NR_SCMP_ERROR)
		return 0;
	ret = seccomp_rule_add_array(filter, action, number, count, conditions);
	/* not on this machine; there already */
	return ret == -EDOM || ret == -EEXIST ? 0 : ret;
}

static bool is_among(const char *name, const char *const *names, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (strcmp(names[i], name) == 0)
			return true;
	return false;
}

/* For a process of this kind, whatever its arguments. */
static bool is_allowed(const char *name, bool opens_paths)
{
	return is_among(name, allowed, COUNT(allowed)) ||
	       (opens_paths && is_among(name, opener, COUNT(opener))) ||
	       (ox_sandbox_is_lenient() && is_among(name, sanitizers, COUNT(sanitizers)));
}

static int add_list(scmp_filter_ctx filter, uint32_t action, const char *const *names, size_t count)
{
	int ret = 0;

	for (size_t i = 0; i < count && ret == 0; i++)
		ret = add(filter, action, names[i], 0, NULL);
	return ret;
}

static int add_conditionals(scmp_filter_ctx filter, bool opens_paths)
{
	int ret = 0;

	for (size_t i = 0; i < COUNT(conditionals) && ret == 0; i++) {
		const struct conditional *c = &conditionals[i];

		if (!is_allowed(c->name, opens_paths))
			ret = add(filter, SCMP_ACT_ALLOW, c->name, c->count, c->conditions);
	}
	return ret;
}

static int add_fatal(scmp_filter_ctx filter, bool opens_paths)
{
	int ret = 0;

	for (size_t i = 0; i < COUNT(fatal) && ret == 0; i++)
		if (!is_allowed(fatal[i], opens_paths))
			ret = add(filter, SCMP_ACT_KILL_PROCESS, fatal[i], 0, NULL);
	return ret;
}

/* To itself: abort(3). */
static int add_signals(scmp_filter_ctx filter)
{
	const struct scmp_arg_cmp to_itself = IS(0, getpid());
	int ret = add(filter, SCMP_ACT_ALLOW, "kill", 1, &to_itself);

	return ret < 0 ? ret : add(filter, SCMP_ACT_ALLOW, "tgkill", 1, &to_itself);
}

/* To whom a socket is connected, and nobody else: by libnbd, which has no other way. */
static int add_client(scmp_filter_ctx filter)
{
	const struct scmp_arg_cmp connected[] = {{4, SCMP_CMP_EQ, 0, 0}, LACKS(3, MSG_FASTOPEN)};

	return add(filter, SCMP_ACT_ALLOW, "sendto", COUNT(connected), connected);
}

static int set_attributes(scmp_filter_ctx filter)
{
	int ret = seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);

	/* All threads that there are have part in it. */
	if (ret == 0)
		(void)seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
	/* Else older kernels slow the process down for the sake of code that it would have to take
	 * from somebody else. */
	if (ret == 0)
		(void)seccomp_attr_set(filter, SCMP_FLTATR_CTL_SSB, 1);
	/* A tree, and no list. */
	if (ret == 0)
		(void)seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
	if (ret == 0)
		(void)seccomp_attr_set(filter, SCMP_FLTATR_API_SYSRAWRC, 1);
	return ret;
}

int ox_sandbox_filter_calls(enum ox_sandbox_calls calls)
{
	const bool opens_paths = calls == OX_SANDBOX_OPENER;
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(ENOSYS));
	int ret;

	if (!filter)
		return -ENOMEM;
	ret = set_attributes(filter);
	if (ret == 0)
		ret = add_list(filter, SCMP_ACT_ALLOW, allowed, COUNT(allowed));
	if (ret == 0 && opens_paths)
		ret = add_list(filter, SCMP_ACT_ALLOW, opener, COUNT(opener));
	if (ret == 0 && ox_sandbox_is_lenient())
		ret = add_list(filter, SCMP_ACT_ALLOW, sanitizers, COUNT(sanitizers));
	if (ret == 0)
		ret = add_conditionals(filter, opens_paths);
	if (ret == 0 && !ox_sandbox_is_lenient())
		ret = add_signals(filter);
	if (ret == 0 && calls == OX_SANDBOX_CLIENT)
		ret = add_client(filter);
	if (ret == 0)
		ret = add_fatal(filter, opens_paths);
	if (ret == 0)
		ret = seccomp_load(filter);
	seccomp_release(filter);
	return ret;
}

#else

/* Built without libseccomp. */
int ox_sandbox_filter_calls(enum ox_sandbox_calls calls)
{
	(void)calls;
	return -ENOSYS;
}

#endif
