#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# runtests: priority 45
"""The pages of docs/hypervisors: their lines do as they stand what the pages say."""
import re
import select
import stat

from debian import *
from disk import make_image
from guest import accelerator
from harness import *

PAGES = ROOT / "docs" / "hypervisors"
NAMES = ("qemu", "libvirt", "firecracker", "cloud-hypervisor", "crosvm", "libkrun")
BOOT_SECONDS = 180


def blocks(name, kind):
    """The page's blocks of code, in their order."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", (PAGES / f"{name}.md").read_text(), re.MULTILINE | re.DOTALL)


def server_of(name):
    """The page's first line; a test's directory is the folder with the disk."""
    line = blocks(name, "sh")[0].strip()
    check_equal(line.split()[:2], ["oxbow", "serve"], f"how the page {name} begins")
    check_equal("\n" in line, False, "more than one line")
    return line


def started(line):
    """A line of a page, with `oxbow` the command that is tested."""
    bin_folder = tmpdir() / "bin"
    bin_folder.mkdir(exist_ok=True)
    if not (bin_folder / "oxbow").exists():
        (bin_folder / "oxbow").symlink_to(oxbow_path())
    process = subprocess.Popen(["bash", "-c", f"exec {line}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, cwd=tmpdir(),
                               env=dict(os.environ, PATH=f"{bin_folder}:{os.environ['PATH']}"))
    on_exit(lambda: (process.poll() is None and process.kill(), process.wait()))
    return process


def read_until(process, text, seconds):
    deadline, seen = time.monotonic() + seconds, ""
    while text not in seen:
        if not select.select([process.stdout], [], [], max(0, deadline - time.monotonic()))[0]:
            raise Failure(f"{text!r} does not come: {seen[-3000:]}")
        data = os.read(process.stdout.fileno(), 65536)
        if not data:
            raise Failure(f"it ended with {process.wait()}, without {text!r}: {seen[-3000:]}")
        seen += data.decode(errors="replace")


def test_each_page_s_server_starts_as_the_page_says():
    oxbow("create", "-q", "-f", "qcow2", "vm1.qcow2", "16M")
    for name in NAMES:
        server = started(server_of(name))
        read_until(server, "vm1.vhost", 60)
        check_equal(stat.S_ISSOCK(os.stat("vm1.vhost").st_mode), True, "a socket")
        server.terminate()
        check_equal(server.wait(60), 0, f"exit code of the server of the page {name}")


def test_the_lines_for_qemu_boot_a_guest():
    print(f"# shown: under {accelerator()}")
    make_image("vm1.qcow2", "1G")
    server, machine = blocks("qemu", "sh")
    check_in("accel=kvm:tcg", machine)
    server = started(server.strip())
    read_until(server, "vm1.vhost", 60)
    # a host may have KVM and not be able to use it
    machine = started(machine.strip().replace("accel=kvm:tcg", f"accel={accelerator()}"))
    read_until(machine, "exit switches it off", BOOT_SECONDS)
    machine.stdin.write(b"ls /sys/block/vda/mq | wc -l; exit\n")
    machine.stdin.flush()
    read_until(machine, "\n2\r", BOOT_SECONDS)
    check_equal(machine.wait(BOOT_SECONDS), 0, "exit code of QEMU")
    server.terminate()
    check_equal(server.wait(60), 0, "exit code of the server")


def test_libvirt_s_schema_knows_the_domain():
    domain, = blocks("libvirt", "xml")
    pathlib.Path("domain.xml").write_text(domain)
    run("virt-xml-validate", "domain.xml", "domain")
    pathlib.Path("wrong.xml").write_text(domain.replace("reconnect ", "connect-again "))
    expect_failure("virt-xml-validate", "wrong.xml", "domain", code=3)


def test_what_firecracker_is_sent_is_json():
    line = next(block for block in blocks("firecracker", "sh") if block.startswith("curl"))
    drive = json.loads(re.search(r"-d '(.*)'", line).group(1))
    check_equal((drive["cache_type"], drive["socket"]), ("Writeback", "vm1.vhost"), "the drive")


def test_the_index_names_each_page():
    index = (PAGES / "README.md").read_text()
    check_equal(sorted(path.stem for path in PAGES.glob("*.md")), sorted([*NAMES, "README"]), "pages")
    for name in NAMES:
        check_in(f"({name}.md)", index)


run_tests(globals())
