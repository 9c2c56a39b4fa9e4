#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A disk as a file: `oxbow mount`, its holes, its flushes, its end."""
import ctypes
import errno
import fcntl
import select
import threading

from hostfs import unmount
from interop import *
from mounting import *

LIBC = ctypes.CDLL(None, use_errno=True)
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
SIZE = 64 * MIB


def make(name="disk.qcow2", kind="qcow2:", size=SIZE):
    options = ("-f", "raw") if kind == "raw" else kind_args(kind)
    oxbow("create", "-q", *options, name, str(size))
    return name


def fallocate(fd, mode, offset, length):
    result = LIBC.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length))
    return 0 if result == 0 else ctypes.get_errno()


class File:
    """A descriptor whose close may fail, as nobody answers any more."""

    def __init__(self, path):
        self.fd = os.open(path, os.O_RDWR)

    def __enter__(self):
        return self.fd

    def __exit__(self, *_):
        try:
            os.close(self.fd)
        except OSError as error:
            check_equal(error.errno, errno.ENOTCONN, "errno")


def is_consistent(image):
    """After a kill clusters may be leaked that were held in reserve, and nothing else is wrong."""
    code = run("qemu-img", "check", image, check=False).returncode
    check_equal(code in (0, 3), True, f"{code} is the exit code of a consistent image")


def fails_with(code, function, *args):
    try:
        function(*args)
    except OSError as error:
        check_equal(error.errno, code, "errno")
        return
    raise Failure("it went well")


def extents(path):
    """[(offset, is data)] as lseek tells."""
    found = []
    with open(path, "rb") as file:
        at, end = 0, os.fstat(file.fileno()).st_size
        while at < end:
            try:
                data = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError as error:
                check_equal(error.errno, errno.ENXIO, "errno")
                data = end
            if data > at:
                found.append((at, False))
            if data == end:
                break
            found.append((data, True))
            at = os.lseek(file.fileno(), data, os.SEEK_HOLE)
    return found


# ---- bytes ----

def test_what_is_written_is_in_the_image_and_the_other_way_round():
    for kind in ("qcow2:", "cluster_size=512", "raw"):
        name = make("disk.img", kind)
        fmt = "raw" if kind == "raw" else "qcow2"
        qemu_io("-f", fmt, "-c", "write -P 0x11 1M 100k", name)
        data = pattern(1, 3 * MIB + 777)
        with Mount(name, "-f", fmt) as mount:
            with open(mount.path, "r+b", buffering=0) as file:
                check_equal(os.pread(file.fileno(), 100 * KIB, MIB), b"\x11" * 100 * KIB, "data")
                check_equal(os.pwrite(file.fileno(), data, 5 * MIB + 3), len(data), "written")
                check_equal(os.pread(file.fileno(), len(data), 5 * MIB + 3) == data, True, "data are the same")
        qemu_img("convert", "-f", fmt, "-O", "raw", name, "flat")
        check_equal(read_at("flat", 5 * MIB + 3, len(data)) == data, True, "data are the same to QEMU")
        if kind != "raw":
            qemu_img("check", name)


def test_many_readers_and_writers_at_once():
    with Mount(make()) as mount:
        def work(number):
            data = pattern(number, MIB)
            with open(mount.path, "r+b", buffering=0) as file:
                for i in range(0, MIB, 37 * KIB):
                    os.pwrite(file.fileno(), data[i:i + 37 * KIB], number * MIB + i)
                if os.pread(file.fileno(), MIB, number * MIB) != data:
                    failed.append(number)

        failed = []
        threads = [threading.Thread(target=work, args=(i,)) for i in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        check_equal(failed, [], "writers that read something else")
        mount.unmount()
    qemu_img("convert", "-O", "raw", "disk.qcow2", "flat")
    for i in range(16):
        check_equal(read_at("flat", i * MIB, MIB) == pattern(i, MIB), True, f"data of {i} are the same")


def test_every_cache_mode_and_engine_serves():
    for mode in CACHE_MODES:
        for engine in ("io_uring", "threads"):
            os.makedirs(mode, exist_ok=True)
            name = make(f"{mode}/{engine}.qcow2")
            with Mount(name, "-t", mode, env={"OXBOW_IO": "threads"} if engine == "threads" else None) as mount:
                with open(mount.path, "r+b", buffering=0) as file:
                    os.pwrite(file.fileno(), b"x" * 70000, 12345)
                    os.fsync(file.fileno())
                    check_equal(os.pread(file.fileno(), 70000, 12345), b"x" * 70000, "data")
            qemu_io("-c", "read -P 0x78 12345 70000", name)


def test_an_overlay_is_read_through_and_its_base_left_alone():
    make("base.qcow2")
    qemu_io("-c", "write -P 0x22 0 1M", "base.qcow2")
    before = fingerprint("base.qcow2")
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2")
    expect_failure(oxbow_path(), "mount", "--foreground", "top.qcow2", "/tmp", message="backing")
    with Mount("top.qcow2", "--allow-backing") as mount:
        with open(mount.path, "r+b", buffering=0) as file:
            os.pwrite(file.fileno(), b"3", 10)
            check_equal(os.pread(file.fileno(), 12, 9), b'"3' + b'"' * 10, "data")
    check_equal(fingerprint("base.qcow2"), before, "the base")


def test_a_chain_of_three_is_mounted_in_the_sandbox():
    base = pattern(3, SIZE)
    pathlib.Path("base.raw").write_bytes(base)
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "middle.qcow2")
    qemu_io("-c", "write -P 0x33 1M 1M", "middle.qcow2")
    qemu_img("create", "-q", "-f", "qcow2", "-b", "middle.qcow2", "-F", "qcow2", "top.qcow2")
    before = fingerprint("base.raw"), fingerprint("middle.qcow2")
    expected = bytearray(base)
    expected[MIB:2 * MIB] = b"\x33" * MIB
    for option in ("--allow-backing", f"--allow-backing={tmpdir()}"):
        with Mount("top.qcow2", option) as mount:
            mount.is_in_sandbox()
            check_bytes(pathlib.Path(mount.path).read_bytes(), bytes(expected), "what is read")
            with open(mount.path, "r+b", buffering=0) as file:
                expected[2 * MIB - 700:2 * MIB + 700] = option[-1:].encode() * 1400
                os.pwrite(file.fileno(), option[-1:].encode() * 1400, 2 * MIB - 700)
                os.fsync(file.fileno())
            check_bytes(pathlib.Path(mount.path).read_bytes(), bytes(expected), "what is read")
    check_equal((fingerprint("base.raw"), fingerprint("middle.qcow2")), before, "the layers below")
    check_bytes(guest_bytes_by_qemu("top.qcow2"), bytes(expected), "the chain to QEMU")


# ---- a file that does not grow ----

def test_the_file_has_the_length_of_the_disk_and_keeps_it():
    with Mount(make(size=MIB + 512)) as mount:
        with open(mount.path, "r+b", buffering=0) as file:
            fd = file.fileno()
            check_equal(os.fstat(fd).st_size, MIB + 512, "length")
            check_equal(os.pwrite(fd, b"a" * 1024, MIB), 512, "bytes that fit")
            fails_with(errno.ENOSPC, os.pwrite, fd, b"a", MIB + 512)
            fails_with(errno.ENOSPC, os.pwrite, fd, b"a", 10 * MIB)
            check_equal(os.pread(fd, 4096, MIB), b"a" * 512, "what is read at the end")
            check_equal(os.pread(fd, 4096, 2 * MIB), b"", "what is read past the end")
            fails_with(errno.EPERM, os.ftruncate, fd, 0)
            fails_with(errno.EPERM, os.ftruncate, fd, 2 * MIB)
            os.ftruncate(fd, MIB + 512)
        with open(mount.path, "wb", buffering=0) as file:  # O_TRUNC
            file.write(b"b" * 512)
        check_equal(os.stat(mount.path).st_size, MIB + 512, "length")
        check_equal(read_at(mount.path, 0, 1024), b"b" * 512 + bytes(512), "the beginning")
        check_equal(read_at(mount.path, MIB, 512), b"a" * 512, "the end")
        with open(mount.path, "ab", buffering=0) as file:
            fails_with(errno.ENOSPC, file.write, b"c")


def test_nothing_else_can_be_made_there():
    with Mount(make()) as mount:
        check_equal(sorted(os.listdir("m")), ["disk"], "the folder")
        for function, *args in ((os.unlink, "m/disk"), (os.mkdir, "m/x"), (os.rename, "m/disk", "m/y"),
                                (os.symlink, "a", "m/z"), (os.link, "m/disk", "m/l"), (os.chmod, "m/disk", 0o666),
                                (os.chown, "m/disk", 1, 1), (open, "m/other", "w"),
                                (os.rmdir, "m/disk"), (os.mkfifo, "m/p")):
            expected = errno.ENOTDIR if function is os.rmdir else errno.EPERM
            fails_with(expected, function, *args)
        fails_with(errno.ENOENT, os.stat, "m/other")
        os.utime(mount.path)
        check_equal(os.statvfs("m").f_bavail, 0, "free blocks")


def test_mode_and_owner_are_what_was_said():
    with Mount(make()) as mount:
        check_equal(os.stat(mount.path).st_mode & 0o7777, 0o600, "mode")
        check_equal(os.stat(mount.path).st_uid, os.getuid(), "owner")
        refused = run("setpriv", "--reuid", "65534", "--clear-groups", "cat", mount.path, check=False)
        check_equal(refused.returncode, 1, "exit code for another user")
    os.chmod(tmpdir(), 0o755)
    with Mount("disk.qcow2", "-o", "allow_other,uid=65534,gid=65534,mode=0640") as mount:
        st = os.stat(mount.path)
        check_equal((st.st_mode & 0o7777, st.st_uid, st.st_gid), (0o640, 65534, 65534), "mode and owner")
        run("setpriv", "--reuid", "65534", "--clear-groups", "dd", f"if={mount.path}", "of=/dev/null", "count=1")
        refused = run("setpriv", "--reuid", "65533", "--clear-groups", "cat", mount.path, check=False)
        check_equal(refused.returncode, 1, "exit code for a third user")


def test_a_read_only_mount_changes_nothing():
    make()
    before = fingerprint("disk.qcow2")
    with Mount("disk.qcow2", "-r") as mount:
        check_equal(os.stat(mount.path).st_mode & 0o222, 0, "bits of writers")
        fails_with(errno.EROFS, os.open, mount.path, os.O_RDWR)
        check_equal(read_at(mount.path, 0, 4096), bytes(4096), "data")
        with Mount("disk.qcow2", "-r", directory="n"):
            check_equal(is_mounted("n"), True, "it is mounted twice")
    check_equal(fingerprint("disk.qcow2"), before, "the image")


# ---- holes ----

def test_holes_are_those_of_the_image():
    make(kind="cluster_size=64k")
    qemu_io("-c", "write 1M 128k", "-c", "write -z 2M 64k", "-c", "write 63M 1M", "disk.qcow2")
    with Mount("disk.qcow2") as mount:
        check_equal(extents(mount.path), [(0, False), (MIB, True), (MIB + 128 * KIB, False), (63 * MIB, True)],
                    "extents")
        with open(mount.path, "rb") as file:
            fails_with(errno.ENXIO, os.lseek, file.fileno(), SIZE, os.SEEK_DATA)
            check_equal(os.lseek(file.fileno(), 63 * MIB, os.SEEK_HOLE), SIZE, "the hole at the end")
        run("cp", "--sparse=auto", mount.path, "copy")
        check_equal(os.stat("copy").st_blocks * 512 < 3 * MIB, True, "the copy is sparse")


def test_holes_can_be_punched_and_ranges_zeroed():
    make(kind="cluster_size=64k")
    with Mount("disk.qcow2") as mount:
        with open(mount.path, "r+b", buffering=0) as file:
            fd = file.fileno()
            os.pwrite(fd, b"x" * 4 * MIB, 0)
            os.fsync(fd)
            full = os.stat("disk.qcow2").st_blocks
            check_equal(os.fstat(fd).st_blocks * 512 >= 4 * MIB, True, "its blocks are counted")
            check_equal(fallocate(fd, PUNCH_HOLE | KEEP_SIZE, MIB + 1000, MIB), 0, "punch")
            check_equal(os.pread(fd, MIB + 2, MIB + 999), b"x" + bytes(MIB) + b"x", "data")
            check_equal(fallocate(fd, ZERO_RANGE, 3 * MIB, 64 * KIB), 0, "zero")
            check_equal(os.pread(fd, 64 * KIB, 3 * MIB), bytes(64 * KIB), "data")
            check_equal(fallocate(fd, ZERO_RANGE | KEEP_SIZE, SIZE - 512, MIB), 0, "zero over the end")
            check_equal(fallocate(fd, ZERO_RANGE, SIZE - 512, MIB), errno.ENOSPC, "zero to grow")
            check_equal(fallocate(fd, PUNCH_HOLE | KEEP_SIZE, SIZE + MIB, MIB), 0, "punch behind the end")
            check_equal(fallocate(fd, 0, 0, MIB), errno.EOPNOTSUPP, "allocate")
            check_equal(fallocate(fd, KEEP_SIZE, SIZE, MIB), errno.EOPNOTSUPP, "allocate behind the end")
            os.fsync(fd)
            wait_until(lambda: os.stat("disk.qcow2").st_blocks * 512 < full * 512 - 900 * KIB, "space is given back")
            wait_until(lambda: os.fstat(fd).st_blocks < full, "its blocks are fewer")
            check_equal(os.fstat(fd).st_size, SIZE, "length")
    qemu_img("check", "disk.qcow2")
    qemu_io("-c", "read -P 0x78 0 1M", "-c", f"read -P 0 {MIB + 1024} {MIB - 1024}", "disk.qcow2")


def test_ignored_discards_read_as_zeroes_and_keep_their_space():
    with Mount(make(), "--discard=ignore") as mount:
        with open(mount.path, "r+b", buffering=0) as file:
            os.pwrite(file.fileno(), b"x" * 4 * MIB, 0)
            check_equal(fallocate(file.fileno(), PUNCH_HOLE | KEEP_SIZE, 0, 4 * MIB), 0, "punch")
            check_equal(os.pread(file.fileno(), MIB, 0), bytes(MIB), "data")


# ---- durability ----

def count_syncs():
    return len(pathlib.Path("trace").read_text().splitlines())


def syncs(function):
    """How often the image's file was synced meanwhile: the worker's system calls, and its ring's."""
    with Mount(make(), env={"OXBOW_IO": "threads"}) as mount:
        with open(mount.path, "r+b", buffering=0) as file:
            os.pwrite(file.fileno(), b"0" * 4096, 0)  # what follows needs no cluster
            os.fsync(file.fileno())
        trace = subprocess.Popen(["strace", "-f", "-qq", "-e", "trace=fsync,fdatasync", "-o", "trace", "-p",
                                  str(mount.worker())], stderr=subprocess.PIPE)
        wait_until(lambda: b"TracerPid:\t0" not in
                   pathlib.Path(f"/proc/{mount.worker()}/status").read_bytes(), "strace is attached")
        with open(mount.path, "r+b", buffering=0) as file:
            function(file.fileno())
            count = count_syncs()
            trace.terminate()
            trace.wait()
    os.unlink("disk.qcow2")
    return count


def test_fsync_reaches_the_host_and_a_write_alone_does_not():
    def write(fd):
        os.pwrite(fd, b"x" * 4096, 0)

    def write_and_sync(fd):
        write(fd)
        os.fsync(fd)

    def write_and_close(fd):
        write(fd)
        os.close(os.dup(fd))  # which asks for the same as the last close

    check_equal(syncs(write), 0, "syncs after a write")
    for function in (write_and_sync, write_and_close):
        if syncs(function) == 0:
            raise Failure(f"no sync after {function.__name__}")


def test_a_write_by_osync_is_durable_when_it_returns():
    def write(fd):
        other = os.open("m/disk", os.O_WRONLY | os.O_DSYNC)
        os.pwrite(other, b"x" * 4096, 0)
        counted.append(count_syncs())
        os.close(other)

    counted = []
    syncs(write)
    if counted == [0]:
        raise Failure("no sync after a write by O_DSYNC")


def test_all_is_there_once_the_process_has_ended():
    data = pattern(7, 8 * MIB)
    with Mount(make()) as mount:
        with open(mount.path, "r+b") as file:
            file.write(data)
        mount.unmount()
        check_equal(image_file("disk.qcow2").is_dirty, False, "the dirty bit")
    qemu_img("convert", "-O", "raw", "disk.qcow2", "flat")
    check_equal(read_at("flat", 0, len(data)) == data, True, "data are the same")


def test_pages_that_were_mapped_are_written_at_the_unmount():
    import mmap
    with Mount(make()) as mount:
        with open(mount.path, "r+b") as file:
            with mmap.mmap(file.fileno(), MIB) as memory:
                memory[4096:8192] = b"m" * 4096
    qemu_io("-c", "read -P 0x6d 4096 4096", "disk.qcow2")


def test_a_loop_device_with_a_file_system_works():
    with Mount(make(size=256 * MIB)) as mount:
        loop = output("losetup", "-f", "--show", mount.path).strip()
        try:
            run("mkfs.ext4", "-q", loop)
            os.mkdir("fs")
            run("mount", loop, "fs")
            try:
                for i in range(20):
                    pathlib.Path(f"fs/{i}").write_bytes(pattern(i, 300 * KIB))
                run("fstrim", "fs")
            finally:
                run("umount", "fs")
            run("fsck.ext4", "-fn", loop)
            run("mount", loop, "fs")
            try:
                for i in range(20):
                    check_equal(pathlib.Path(f"fs/{i}").read_bytes() == pattern(i, 300 * KIB), True, "data are the same")
            finally:
                run("umount", "fs")
        finally:
            run("losetup", "-d", loop)
            # it is let go a moment later
            wait_until(lambda: subprocess.run(["umount", "m"], stderr=subprocess.DEVNULL, check=False).returncode == 0,
                       "the loop device lets go")
        check_equal(mount.wait(), 0, "exit code")
    qemu_img("check", "disk.qcow2")
    check_equal(host_bytes("disk.qcow2") < 32 * MIB, True, "what was trimmed takes no space")


# ---- its end ----

def test_sigterm_unmounts():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        with Mount(make(f"{number}.qcow2")) as mount:
            with open(mount.path, "r+b") as file:
                file.write(b"x" * 4096)
            mount.process.send_signal(number)
            check_equal(mount.wait(), 0, "exit code")
            check_equal(is_mounted("m"), False, "it is mounted")
        qemu_io("-c", "read -P 0x78 0 4096", f"{number}.qcow2")


def test_one_in_use_stays_until_it_is_told_three_times():
    with Mount(make()) as mount:
        with File(mount.path) as fd:
            refused = run("umount", "m", check=False)
            check_equal(refused.returncode != 0, True, "umount is refused")
            mount.process.terminate()
            wait_until(lambda: "in use" in mount.said(), "it says so")
            check_equal(is_mounted("m"), True, "it is mounted")
            os.pwrite(fd, b"x" * 4096, 0)
            mount.process.terminate()
            wait_until(lambda: not is_mounted("m"), "it is detached")
            os.pwrite(fd, b"y" * 4096, 4096)
            check_equal(mount.process.poll(), None, "exit code")
            mount.process.terminate()
            check_equal(mount.wait(), 0, "exit code")
            fails_with(errno.ENOTCONN, os.pwrite, fd, b"z", 0)
    qemu_io("-c", "read -P 0x78 0 4096", "-c", "read -P 0x79 4096 4096", "disk.qcow2")


def test_one_that_was_detached_ends_with_its_last_user():
    with Mount(make()) as mount:
        with open(mount.path, "r+b", buffering=0) as file:
            run("umount", "-l", "m")
            file.write(b"x" * 4096)
            check_equal(mount.process.poll(), None, "exit code")
        check_equal(mount.wait(), 0, "exit code")
    qemu_io("-c", "read -P 0x78 0 4096", "disk.qcow2")


def test_a_worker_that_is_killed_is_the_end_of_the_mount():
    with Mount(make()) as mount:
        with File(mount.path) as fd:
            os.pwrite(fd, b"x" * MIB, 0)
            os.fsync(fd)
            os.pwrite(fd, b"y" * MIB, MIB)
            os.kill(mount.worker(), signal.SIGKILL)
            check_equal(mount.wait(), 1, "exit code")
            fails_with(errno.ENOTCONN, os.pwrite, fd, b"z", 0)
        check_equal(is_mounted("m"), False, "it is mounted")
        check_in("died of signal 9", mount.said(), "what it says")
    is_consistent("disk.qcow2")
    qemu_io("-c", "read -P 0x78 0 1M", "disk.qcow2")


def test_a_mount_whose_processes_are_killed_can_be_unmounted():
    with Mount(make()) as mount:
        with open(mount.path, "r+b", buffering=0) as file:
            file.write(b"x" * MIB)
            os.fsync(file.fileno())
        worker = os.pidfd_open(mount.worker())
        mount.process.kill()
        mount.wait()
        select.select([worker], [], [], 60)
        os.close(worker)
        fails_with(errno.ENOTCONN, open, mount.path, "rb")
        run("umount", "m")
    is_consistent("disk.qcow2")
    with Mount("disk.qcow2") as mount:
        check_equal(read_at(mount.path, 0, MIB) == b"x" * MIB, True, "data are the same")


def test_a_write_that_finds_no_room_fails_and_others_go_on():
    run("mount", "-t", "tmpfs", "-o", "size=4m", "none", tmpdir() / "full" if os.mkdir("full") is None else "")
    on_exit(lambda: unmount(tmpdir() / "full"))
    with Mount(make("full/disk.qcow2")) as mount:
        with open(mount.path, "r+b", buffering=0) as file:
            fails_with(errno.ENOSPC, lambda: [os.pwrite(file.fileno(), b"x" * MIB, i * MIB) for i in range(8)])
            check_equal(os.pwrite(file.fileno(), b"y" * 4096, 0), 4096, "written in place")
            os.fsync(file.fileno())
    qemu_img("check", "full/disk.qcow2")


# ---- its beginning ----

def test_an_image_is_mounted_once():
    with Mount(make()):
        os.mkdir("n")
        expect_failure(oxbow_path(), "mount", "disk.qcow2", "n", message="Could not open 'disk.qcow2'")
        check_equal(is_mounted("n"), False, "it is mounted")
        expect_failure("qemu-io", "-c", "read 0 512", "disk.qcow2")
    qemu_io("-c", "read 0 512", "disk.qcow2")


def test_what_cannot_be_mounted_is_told_and_nothing_is_left():
    make()
    os.mkdir("m")
    pathlib.Path("file").write_text("")
    pathlib.Path("broken").write_bytes(b"QFI\xfb" + bytes(600))
    for args, message in ((("disk.qcow2", "absent"), "'absent': No such file"), (("disk.qcow2", "file"), "Not a directory"),
                          (("absent", "m"), "Could not open 'absent'"), (("broken", "m"), "Could not open 'broken'"),
                          (("disk.qcow2",), "No folder"), ((), "No image"), (("-U", "disk.qcow2", "m"), "-U needs -r"),
                          (("-o", "nonsense", "disk.qcow2", "m"), "allow_other"), (("-o", "mode=0777", "disk.qcow2", "m"), "mode"),
                          (("--user", "nobody-at-all", "disk.qcow2", "m"), "there is no user"),
                          (("-f", "vmdk", "disk.qcow2", "m"), "vmdk")):
        for way in ((), ("--foreground",)):
            expect_failure(oxbow_path(), "mount", *way, *args, message=message, timeout=60)
            check_equal(is_mounted("m"), False, "it is mounted")


def test_in_the_background_the_command_returns_once_it_is_mounted():
    make()
    os.mkdir("m")
    oxbow("mount", "--pid-file", "pid", "disk.qcow2", "m", timeout=60)
    end = os.pidfd_open(int(pathlib.Path("pid").read_text()))
    check_equal(read_at("m/disk", 0, 512), bytes(512), "data")
    with open("m/disk", "r+b") as file:
        file.write(b"x" * 4096)
    run("umount", "m")
    check_equal(bool(select.select([end], [], [], 60)[0]), True, "it ends")
    os.close(end)
    check_equal(os.path.exists("pid"), False, "the pid file is there")
    qemu_io("-c", "read -P 0x78 0 4096", "disk.qcow2")


def test_the_worker_has_given_up_its_rights():
    with Mount(make()) as mount:
        status = pathlib.Path(f"/proc/{mount.worker()}/status").read_text()
        for line in ("Uid:\t65534\t65534\t65534\t65534", "CapEff:\t0000000000000000", "Seccomp:\t2", "NoNewPrivs:\t1"):
            check_in(line, status, "status of the worker")
        holder = [os.readlink(f"/proc/{mount.process.pid}/fd/{fd}")
                  for fd in os.listdir(f"/proc/{mount.process.pid}/fd")]
        check_equal([link for link in holder if "fuse" in link or "qcow2" in link], [], "descriptors of the holder")


def test_nothing_of_who_started_it_stays_open_in_the_background():
    make()
    os.mkdir("m")
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    result = run(oxbow_path(), "mount", "disk.qcow2", "m", pass_fds=(writer,), timeout=60)
    os.close(writer)
    check_equal(result.stderr, "", "what it says")
    check_equal(os.read(reader, 1), b"", "what comes out of a pipe that it was given")
    os.close(reader)
    run("umount", "m")
    wait_until(lambda: run("qemu-io", "-c", "read 0 512", "disk.qcow2", check=False).returncode == 0, "it ends")


run_tests(globals())
