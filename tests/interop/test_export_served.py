#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""An export of another NBD server as the image of `oxbow serve`, `oxbow mount` and `qemu-nbd`."""
import errno
import signal
import socket

import nbd

from interop import *
from nbd_servers import *
from mounting import *

SIZE = 16 * MIB


def raw_file(name="disk.raw", size=SIZE):
    path = tmpdir() / name
    with open(path, "wb") as file:
        file.truncate(size)
    return path


def start_to_overwrite(path, data, chunk="1M"):
    """Writes and syncs through a mount. By a process of its own: here a server is started meanwhile,
    whose descriptors are closed, and each close of the file waits for a sync."""
    (tmpdir() / "data").write_bytes(data)
    return subprocess.Popen(["dd", f"if={tmpdir() / 'data'}", f"of={path}", f"bs={chunk}", "conv=notrunc,fsync",
                             "status=none"])


def overwrite(path, data):
    check_equal(start_to_overwrite(path, data).wait(60), 0, "exit code of dd")


class Served:
    """`oxbow serve` of an export, for the length of a with statement; then SIGTERM, and exit code 0."""

    def __init__(self, uri, *args):
        self.socket = str(tmpdir() / "near.sock")
        self.argv = [oxbow_path(), "serve", "--nbd", self.socket, *args, uri]

    def __enter__(self):
        self.stderr = open("served.stderr", "w+")
        self.process = subprocess.Popen(self.argv, stdout=subprocess.PIPE, stderr=self.stderr)
        line = self.process.stdout.readline()
        if not line:
            raise Failure(f"it exited with {self.process.wait()}: {self.said()}")
        self.uri = uri(self.socket)
        return self

    def said(self):
        self.stderr.seek(0)
        return self.stderr.read()

    def __exit__(self, kind, value, trace):
        self.process.terminate()
        code = self.process.wait(60)
        self.process.stdout.close()
        if kind is None:
            check_equal(code, 0, f"exit code ({self.said()})")
            check_equal(harness._is_sanitizer_report(self.said()), False, self.said())
        self.stderr.close()


# ---- served ----

def test_a_raw_disk_at_nbdkit_is_served_on():
    disk, data = raw_file(), pattern(1, SIZE)
    with nbdkit("file", disk) as far, Served(far.uri(), "-f", "raw") as near:
        handle = nbd_connect(near.uri)
        check_equal(handle.get_size(), SIZE, "size")
        for at in range(0, SIZE, MIB):
            handle.pwrite(data[at:at + MIB], at)
        handle.flush()
        check_bytes(disk.read_bytes(), data, "the far file after the flush")
        check_bytes(nbd_read_all(handle), data, "what is read")
        handle.shutdown()


def test_an_image_in_an_export_of_oxbow_is_served_on():
    disk = raw_file(size=4 * SIZE)
    with Server("--no-keeper", "-f", "raw", "--nbd", tmpdir() / "far.sock", disk) as server:
        far = uri(tmpdir() / "far.sock")
        oxbow("create", "-q", "-f", "qcow2", far, str(SIZE))
        with Served(far, "-t", "writethrough") as near:
            qemu_io("-f", "raw", "-c", "write -P 7 1M 1M", "-c", "write -z 4M 1M", "-c", "flush",
                    near.uri)
            qemu_io("-f", "raw", "-c", "read -P 7 1M 1M", "-c", "read -P 0 2M 1M", near.uri)
        oxbow("check", far)
        check_equal(server.process.poll(), None, "the far server's exit code")
    qemu_img("check", "-f", "qcow2", disk)


def test_a_server_that_is_killed_in_mid_write_loses_nothing_that_was_flushed_later():
    for kind in ("raw", "qcow2"):
        disk = raw_file(f"{kind}.disk", 2 * SIZE)
        with Forgetful(disk, {"die_after": 9}, {"die_before": 7}, {"die_at_flush": 1}, {}) as far:
            if kind == "qcow2":
                image = tmpdir() / "image"
                oxbow("create", "-q", "-f", "qcow2", image, str(SIZE))
                with open(disk, "r+b") as file:
                    file.write(image.read_bytes())
            with Served(far.uri(), "-f", kind) as near:
                handle = nbd_connect(near.uri)
                data = pattern(2, SIZE)
                for at in range(0, SIZE, MIB):
                    handle.pwrite(data[at:at + MIB], at)
                handle.flush()
                check_equal(far.started, 4, "lives")
                check_bytes(nbd_read_all(handle)[:SIZE], data, f"{kind} after the flush")
                handle.shutdown()
        check_bytes(guest_bytes_by_qemu(disk, fmt=kind)[:SIZE], data, f"{kind} at the far end")


def test_a_server_that_does_not_come_back_fails_requests_and_the_end():
    disk = raw_file()
    with nbdkit("file", disk) as far:
        near = Served(far.uri(reconnect_delay=1), "-f", "raw").__enter__()
        handle = nbd_connect(near.uri)
        handle.pwrite(b"x" * 4096, 0)
        far.process.kill()
        far.process.wait()
        try:
            handle.pwrite(b"y" * 4096, 4096)
            raise Failure("a write went well without a server")
        except nbd.Error as error:
            check_equal(error.errnum, errno.EIO, "errno")
        handle.shutdown()
        near.process.terminate()
        check_equal(near.process.wait(60), 1, "exit code: the write may be lost")
        check_in("Could not close", near.said())


def test_a_read_only_export_is_served_read_only_alone():
    with nbdkit("-r", "file", raw_file()) as far:
        expect_failure(oxbow_path(), "serve", "--nbd", "x.sock", "-f", "raw", far.uri(),
                       message="The export is read-only")
        with Served(far.uri(), "-r", "-f", "raw") as near:
            handle = nbd_connect(near.uri)
            check_equal(handle.is_read_only(), True, "read-only")
            handle.shutdown()


def test_what_a_keeper_is_for_is_refused_by_name():
    far = "nbd+unix:///?socket=none"
    for option in ("--keeper", "--control=c", "--state=s", "--user=nobody"):
        expect_failure(oxbow_path(), "serve", "--nbd", "x", option, far,
                       message=f"{option.split('=')[0]} takes a keeper, and what is no file has none")
    expect_failure(oxbow_path(), "serve", "--nbd", "systemd:x", far, message="takes a keeper")
    expect_failure(oxbow_path(), "serve", "--nbd", "x", "--low-space=1G", far,
                   message="--low-space: nobody can tell")
    pathlib.Path("file.conf").write_text(f"[disk one]\nimage = {far}\nnbd = x.sock\n")
    expect_failure(oxbow_path(), "serve", "--config", "file.conf", message="cannot be served so")


def test_qemu_nbd_serves_an_export_by_each_name_and_finds_its_format():
    disk = raw_file(size=4 * SIZE)
    os.symlink(oxbow_path(), "qemu-nbd")
    with nbdkit("file", disk) as far:
        oxbow("create", "-q", "-f", "qcow2", far.uri(), str(SIZE))
        for words in ((far.uri(),), (f"nbd:unix:{far.socket}",),
                      ("-t", "--image-opts", f"driver=nbd,path={far.socket}")):
            pid = tmpdir() / "pid"
            raw = "--image-opts" in words
            run("./qemu-nbd", "--fork", "--pid-file", pid, "-k", tmpdir() / "q.sock", *words)
            handle = nbd_connect(uri(tmpdir() / "q.sock"))
            check_equal(handle.get_size(), 4 * SIZE if raw else SIZE, f"size by {words}")
            server = int(pid.read_text())
            handle.shutdown()
            if "-t" in words:
                os.kill(server, signal.SIGTERM)
            wait_until(lambda: not pid.exists(), "the end of the server")


# ---- mounted ----

def test_a_raw_disk_and_an_image_in_an_export_are_mounted():
    for kind in ("raw", "qcow2"):
        disk, data = raw_file(f"{kind}.disk", 4 * SIZE), pattern(3, SIZE)
        with nbdkit("file", disk) as far:
            if kind == "qcow2":
                oxbow("create", "-q", "-f", "qcow2", far.uri(), str(SIZE))
            with Mount(far.uri(), "-f", kind) as mount:
                overwrite(mount.path, data)
                check_bytes(open(mount.path, "rb").read()[:SIZE], data, "what is read")
        check_bytes(guest_bytes_by_qemu(disk, fmt=kind)[:SIZE], data, f"{kind} at the far end")


def test_a_mount_goes_on_when_its_server_was_killed_in_mid_write():
    disk, data = raw_file(), pattern(4, SIZE)
    with Forgetful(disk, {"die_after": 5}, {"die_before": 9}, {"die_at_flush": 1}, {}) as far:
        with Mount(far.uri(), "-f", "raw") as mount:
            overwrite(mount.path, data)
            check_equal(far.started, 4, "lives")
            check_bytes(disk.read_bytes(), data, "what a sync made durable")


def test_a_mount_over_tcp_comes_back_too():
    disk, data = raw_file(), pattern(5, SIZE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["nbdkit", "-f", "-i", "127.0.0.1", "-p", str(port), "file", disk]

    def start():
        server = subprocess.Popen(words, stdin=subprocess.DEVNULL)
        def listens():
            with socket.socket() as sock:
                return sock.connect_ex(("127.0.0.1", port)) == 0
        wait_for(listens, "nbdkit")
        return server

    server = start()
    try:
        with Mount(f"nbd://localhost:{port}/?reconnect-delay=60", "-f", "raw") as mount:
            writer = start_to_overwrite(mount.path, data, "16k")
            wait_until(lambda: disk.read_bytes()[:65536] == data[:65536], "the first write")
            server.kill()
            server.wait()
            server = start()
            check_equal(writer.wait(60), 0, "exit code of dd")
            check_bytes(disk.read_bytes(), data, "what is there after the sync")
    finally:
        server.kill()
        server.wait()


def test_the_worker_of_a_mounted_export_has_the_sandbox_and_ends_with_its_connector():
    disk = raw_file()
    with nbdkit("file", disk) as far:
        with Mount(far.uri(), "-f", "raw") as mount:
            worker = mount.worker()
            status = pathlib.Path(f"/proc/{worker}/status").read_text()
            check_in("Seccomp:\t2", status)
            check_in("CapEff:\t0000000000000000", status)
            check_equal(mount.said(), "", "what it says")
            [connector] = children_of(worker)
            fds = [os.readlink(f"/proc/{connector}/fd/{fd}") for fd in os.listdir(f"/proc/{connector}/fd")]
            check_equal(sorted(fd.split(":")[0] for fd in fds), ["/dev/null"] * 3 + ["socket"], "descriptors")
            os.kill(worker, signal.SIGKILL)
            check_equal(mount.wait(), 1, "exit code")
            gone = lambda: not os.path.exists(f"/proc/{connector}/fd/0")
            wait_until(gone, "the end of the connector")


def test_a_mount_whose_server_never_answers_can_be_given_up():
    path = str(tmpdir() / "silent.sock")
    os.mkdir("dir")
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(path)
        silent.listen(8)
        for words in (("mount", "--foreground", uri(path), "dir"), ("serve", "--nbd", "x.sock", uri(path)),
                      ("mount", uri(path), "dir")):
            process = subprocess.Popen([oxbow_path(), *words], stderr=subprocess.PIPE)
            silent.accept()
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=25)
            check_equal(is_mounted("dir"), False, "mounted")


def test_a_mount_of_what_is_not_there_is_refused_with_words():
    os.mkdir("dir")
    expect_failure(oxbow_path(), "mount", "nbds://127.0.0.1:9/", "dir", message="Connection refused")
    expect_failure(oxbow_path(), "mount", "nbd://127.0.0.1:9/", "dir", message="Connection refused")
    expect_failure(oxbow_path(), "mount", "nbd://h/?colour=red", "dir", message="it knows no 'colour'")


def test_the_chain_below_an_export_s_image_is_found_before_the_sandbox_closes():
    """Two qcow2 layers over a raw one, the upper of which is the export's."""
    disk, data = raw_file(size=4 * SIZE), bytearray(pattern(6, SIZE))
    raw_file("base.raw").write_bytes(data)
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "middle")
    qemu_io("-c", "write -P 5 1M 1M", "middle")
    data[MIB:2 * MIB] = b"\5" * MIB
    before = fingerprint("base.raw"), fingerprint("middle")
    with nbdkit("file", disk) as far:
        oxbow("create", "-q", "-f", "qcow2", "-b", tmpdir() / "middle", "-F", "qcow2", far.uri())
        expect_failure(oxbow_path(), "mount", "--foreground", far.uri(), tmpdir(), message="the backing policy allows none")
        expect_failure(oxbow_path(), "mount", "--foreground", "--allow-backing=/usr", far.uri(), tmpdir(),
                       message="does not lie under '/usr'")
        for option in ("--allow-backing", f"--allow-backing={tmpdir()}"):
            with Mount(far.uri(), option) as mount:
                mount.is_in_sandbox()
                check_bytes(pathlib.Path(mount.path).read_bytes(), bytes(data), "what is read")
                more = pattern(len(option), MIB)
                data[MIB + 5000:2 * MIB + 5000] = more
                with open(mount.path, "r+b", buffering=0) as file:
                    os.pwrite(file.fileno(), more, MIB + 5000)
                    os.fsync(file.fileno())
                check_bytes(pathlib.Path(mount.path).read_bytes(), bytes(data), "what is read")
                expect_failure("qemu-io", "-c", "write 0 512", "middle", message="lock")
    check_equal((fingerprint("base.raw"), fingerprint("middle")), before, "the layers below")
    check_bytes(guest_bytes_by_qemu(disk), bytes(data), "the chain to QEMU")


def test_an_export_that_names_another_backing_file_the_next_moment_is_refused():
    """Nobody locks an export. It is read twice: for its chain, and in the sandbox."""
    for name in ("one", "two"):
        raw_file(name)
        oxbow("create", "-q", "-f", "qcow2", "-b", tmpdir() / name, "-F", "raw", f"top-{name}")
    os.mkdir("dir")
    with Forgetful(tmpdir() / "top-one", {"multi": 0, "then": tmpdir() / "top-two"}) as far:
        expect_failure(oxbow_path(), "mount", "--foreground", "--allow-backing", far.uri(), "dir",
                       message=f"Could not open '{tmpdir()}/two': Stale file handle")
    check_equal(is_mounted("dir"), False, "mounted")


def test_without_a_sandbox_a_backing_file_of_an_export_s_image_is_opened():
    disk, base = raw_file(), raw_file("base.raw")
    data = pattern(6, SIZE)
    base.write_bytes(data)
    with nbdkit("file", disk) as far:
        oxbow("create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", far.uri())
        with Mount(far.uri(), "--no-sandbox", "--allow-backing") as mount:
            check_bytes(open(mount.path, "rb").read(), data, "what is read")


run_tests(globals())
