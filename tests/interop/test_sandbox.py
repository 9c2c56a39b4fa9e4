#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What the process that serves has given up (docs/sandbox.md), seen from outside and tried from inside.
tests/unit/test_sandbox.c tries more, in processes that enter the same sandbox."""
import re
import shutil

from interop import *
from kept import *

NOBODY = 65534
NONE = "0" * 16
IS_ROOT = os.geteuid() == 0
# A sanitizer's build keeps what the sanitizer needs.
LENIENT = "asan" in oxbow_path()

# What the kernel may lack, as a kernel says it.
SHIM = """
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static long lacks(long number)
{
	const char *what = getenv("KERNEL_LACKS");

	return (number == SYS_landlock_create_ruleset && strcmp(what, "landlock") == 0) ||
	       (number == SYS_seccomp && strcmp(what, "seccomp") == 0);
}

long syscall(long number, ...)
{
	long a[6], result;
	va_list args;

	va_start(args, number);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(args, long);
	va_end(args);
	if (lacks(number)) {
		errno = ENOSYS;
		return -1;
	}
	register long r10 __asm__("r10") = a[3];
	register long r8 __asm__("r8") = a[4];
	register long r9 __asm__("r9") = a[5];
	__asm__ volatile("syscall" : "=a"(result) : "0"(number), "D"(a[0]), "S"(a[1]), "d"(a[2]),
			 "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
	if (result < 0 && result > -4096) {
		errno = (int)-result;
		return -1;
	}
	return result;
}
"""


def status_of(pid, thread):
    text = pathlib.Path(f"/proc/{pid}/task/{thread}/status").read_text()
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def statuses(pid):
    """Of each of its threads."""
    return [status_of(pid, thread) for thread in os.listdir(f"/proc/{pid}/task")]


def users_of(pid):
    """Its user and group: real, effective, saved, of the file system."""
    status = status_of(pid, pid)
    return tuple({int(word) for word in status[name].split()} for name in ("Uid", "Gid"))


def use_disk(server):
    """So that it has started its threads."""
    handle = nbd_connect(server.uri)
    handle.pwrite(b"\x11" * MIB, 0)
    handle.trim(MIB, 2 * MIB)
    handle.flush()
    check_bytes(handle.pread(MIB, 0), b"\x11" * MIB, "what was written")
    handle.shutdown()


def check_confined(worker, uid=NOBODY, by_root=IS_ROOT):
    for status in statuses(worker):
        check_equal(status["NoNewPrivs"], "1", "no_new_privs")
        check_equal(status["Seccomp"], "2", "the filter")
        for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            check_equal(status[name], NONE, name)
        if by_root:
            check_equal(status["CapBnd"], NONE, "CapBnd")
    if IS_ROOT:
        check_equal(status["Groups"].strip(), "", "groups")
        check_equal(users_of(worker), ({uid}, {uid}), "user and group")


def test_each_worker_has_given_up_its_rights():
    for engine in ("io_uring", "threads"):
        with kept_disk(env={"OXBOW_IO": engine}) as server:
            for _ in range(2):
                use_disk(server)
                check_confined(server.worker())
                server.next_worker(server.kill_worker())
            check_equal("sandbox" in server.stderr(), False, "the sandbox is not complete")
            check_equal(status_of(server.keeper, server.keeper)["Seccomp"], "0", "the keeper's filter")
        os.unlink("disk")


def test_without_a_sandbox_it_keeps_them():
    with kept_disk("--no-sandbox") as server:
        use_disk(server)
        for status in statuses(server.worker()):
            check_equal((status["NoNewPrivs"], status["Seccomp"]), ("0", "0"), "restrictions")
        check_equal(users_of(server.worker()), users_of(server.keeper), "user and group")


# ---- users ----

def test_the_user_that_is_stated_serves():
    if not IS_ROOT:
        print("# only root can change its user")
        return
    daemon = re.search(r"^daemon:[^:]*:(\d+):(\d+)", pathlib.Path("/etc/passwd").read_text(), re.M)
    ids = {int(daemon[1])}, {int(daemon[2])}
    for args, expected in ((("--user", "daemon"), ids), (("--user=daemon",), ids), (("--user", daemon[1]), ids),
                           (("--user=1234:1235",), ({1234}, {1235})),
                           (("--user", "no such user", "--user", "1234:1235"), ({1234}, {1235}))):
        with kept_disk(*args) as server:
            use_disk(server)
            check_equal(users_of(server.worker()), expected, f"user and group of {args}")
            server.next_worker(server.kill_worker())
            check_equal(users_of(server.worker()), expected, "those of the next one")
        os.unlink("disk")
    oxbow("create", "-q", "-f", "qcow2", "disk", "1M")
    expect_failure(oxbow_path(), "serve", "--nbd", "sock", "--user", "no such user", "disk",
                   message="there is no user 'no such user'")


def test_a_user_is_not_stated_in_vain():
    for option in ("--no-keeper", "--no-sandbox"):
        expect_failure(oxbow_path(), "serve", option, "--user", "daemon", "--nbd", "sock", "disk",
                       message=f"--user and {option} exclude each other")


def test_limits_of_a_user_that_others_share_are_not_in_its_way():
    # Root has no limit of threads, nor of memory for its ring.
    with kept_disk(wrapper=("prlimit", "--nproc=1:", "--memlock=0:0"), env={"OXBOW_IO": "io_uring"}) as server:
        use_disk(server)
        server.next_worker(server.kill_worker())


def test_who_is_not_root_serves_as_it_is():
    if not IS_ROOT:
        print("# root starts this test")
        return
    os.chmod(".", 0o777)
    oxbow("create", "-q", "-f", "qcow2", "disk", "8M")
    os.chmod("disk", 0o666)
    stranger = ("setpriv", "--reuid=1234", "--regid=1234", "--clear-groups")
    with Kept("disk", wrapper=stranger) as server:
        use_disk(server)
        check_confined(server.worker(), uid=1234, by_root=False)
        server.next_worker(server.kill_worker())
        check_equal("sandbox" in server.stderr(), False, "the sandbox is not complete")
    expect_failure(*stranger, oxbow_path(), "serve", "--nbd", str(tmpdir() / "sock"), "--user", "0",
                   str(tmpdir() / "disk"), message="Cannot serve as the user 0:0: Operation not permitted")


def test_a_keeper_that_could_not_end_another_user_s_process_changes_no_user():
    if not IS_ROOT:
        print("# only root can change its user")
        return
    with kept_disk(wrapper=("setpriv", "--bounding-set=-kill")) as server:
        use_disk(server)
        check_equal(users_of(server.worker()), ({0}, {0}), "user and group")
        for status in statuses(server.worker()):
            check_equal((status["CapEff"], status["Seccomp"]), (NONE, "2"), "capabilities, filter")
        check_in("warning: The sandbox is not complete: the user is not changed (Operation not permitted)",
                 server.stderr())
        server.next_worker(server.kill_worker())


# ---- what is missing ----

def test_a_kernel_that_lacks_a_part_is_done_without_it():
    if os.uname().machine != "x86_64" or LENIENT:
        print("# the stand-in for the kernel is for x86-64, and not for sanitizers")
        return
    pathlib.Path("shim.c").write_text(SHIM)
    run("cc", "-D_GNU_SOURCE", "-shared", "-fPIC", "-O1", "-fno-stack-protector", "-o", "shim.so", "shim.c")
    # The opener tells of its filter too.
    for part, line, lines, filtered in (("landlock", "files are not out of reach", 1, "2"),
                                        ("seccomp", "system calls are not restricted", 2, "0")):
        with kept_disk(env={"LD_PRELOAD": str(tmpdir() / "shim.so"), "KERNEL_LACKS": part}) as server:
            use_disk(server)
            check_equal(server.stderr().count(line), lines, "lines of it")
            check_in(f"warning: The sandbox is not complete: {line} (", server.stderr())
            for status in statuses(server.worker()):
                check_equal((status["CapEff"], status["Seccomp"]), (NONE, filtered), "the rest")
        os.unlink("disk")


# ---- from inside ----

def call_inside(worker, *calls):
    """Has the worker make the calls, and returns what they return, and errno. They are numbers, so that
    nothing in its libc decides about them."""
    commands = ["set confirm off", "set pagination off", "set width 0"]
    for call in calls:
        commands.append(f"printf \"result %ld\\n\", (long)syscall({call})")
        commands.append("printf \"errno %d\\n\", *(int *)__errno_location()")
    argv = ["gdb", "-q", "-nx", "-batch", "-p", str(worker)]
    for command in commands:
        argv += ["-ex", command]
    # A process that dies in the middle may end gdb as well.
    text = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                          text=True, timeout=60, check=False).stdout
    return [(int(result), int(error)) for result, error in re.findall(r"result (-?\d+)\nerrno (\d+)", text)]


def can_debug():
    if not shutil.which("gdb") or os.uname().machine != "x86_64" or not IS_ROOT or LENIENT:
        print("# gdb is needed, and root, on x86-64, without sanitizers")
        return False
    return True


def test_calls_in_a_worker_are_refused():
    if not can_debug():
        return
    with kept_disk() as server:
        use_disk(server)
        worker = server.worker()
        calls = {
            "write": '1L, 2L, "", 0L',
            "openat": '257L, -100L, "/etc/passwd", 0L, 0L',
            "socket": "41L, 2L, 1L, 0L",
            "kill": f"62L, {server.keeper}L, 9L",
            "setuid": "105L, 0L",
            "fork": "57L",
        }
        found = call_inside(worker, *calls.values())
        check_equal(found[0][0], 0, "a call that is allowed")
        check_equal(found[1:], [(-1, 38)] * (len(calls) - 1), f"the rest of {list(calls)}")
        use_disk(server)
        check_equal(server.worker(), worker, "the worker")


def test_a_worker_that_was_taken_over_ends_and_the_next_one_serves():
    if not can_debug():
        return
    with kept_disk() as server:
        for call in ('59L, "/bin/true", 0L, 0L', "101L, 16L, 1L, 0L, 0L", "438L, 0L, 0L, 0L", "425L, 1L, 0L"):
            use_disk(server)
            worker = server.worker()
            call_inside(worker, call)
            eventually("its death", lambda: f"Process {worker}, which served 'disk', died of signal 31"
                       in server.stderr())
            server.next_worker(worker)


run_tests(globals())
