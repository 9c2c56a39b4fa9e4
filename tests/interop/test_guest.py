#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# runtests: priority 170
"""A Linux guest makes ext4 on a disk that oxbow serves over NBD, and writes files and fsyncs them. The server
dies by kill -9 in the middle, as a whole or its worker alone. What the guest was promised is there
afterwards, to ext4 and to the files. (Over vhost-user: guest/test_life.)"""
import random

from guest import *
from kept import *
from recovery_images import *


def machine(phase, server, *node_options, files=60):
    options = ",".join(("driver=nbd", "node-name=disk", "server.type=unix",
                        f"server.path={server.socket}", "discard=unmap", *node_options))
    guest = Machine("initramfs", f"phase={phase} files={files}", "-blockdev", options,
                    "-device", "virtio-blk-pci,drive=disk")
    on_exit(lambda: guest.process.poll() is None and guest.process.kill())
    return guest


def verify_in_guest(server, promised, phase="verify"):
    """Another guest looks at the disk: fsck replays the journal, or ("mount") the kernel does."""
    guest = machine(phase, server)
    guest.read(lambda line: line == "DONE", BOOT_SECONDS)
    guest.close()
    check_no_failure(guest.lines)
    sums = {line.split()[1]: line.split()[2] for line in guest.lines if line.startswith("SUM ")}
    codes = [line for line in guest.lines if line.startswith(("FSCK ", "FSCK-AGAIN"))]
    texts = [line for line in guest.lines if line.startswith("FSCK-TEXT")]
    content = {"verify": (["FSCK 0", "FSCK-AGAIN 0"], ["FSCK 1", "FSCK-AGAIN 0"]), "mount": (["FSCK 0"],)}
    if codes not in content[phase]:
        raise Failure(f"fsck is not content: {codes} {texts}")
    for name, checksum in promised.items():
        check_equal(sums.get(name), checksum, f"checksum of {name}, which the guest had fsynced")


def test_a_guest_finds_its_fsynced_files_in_a_qed_image_after_a_loss_of_power():
    """Server and guest die together, as in a power cut; both start again."""
    build_initramfs("initramfs", INIT)
    oxbow("create", "-q", *kind_args("qed:"), "disk", DISK)
    with Server("-f", "qed", "--cache", "writeback", "disk") as server:
        guest = machine("write", server)
        for _ in range(10):
            if guest.read(lambda line: line.startswith("SYNCED"), BOOT_SECONDS) is None:
                raise Failure(f"the guest ended early: {guest.lines[-10:]}")
        check_no_failure(guest.lines)
        promised = synced_files(guest.lines)
        server.kill9()
        guest.kill()
        check_equal(image_file("disk").is_dirty, True, "mark after the kill")
        server.start()
        verify_in_guest(server, promised)
        check_equal(server.terminate(), 0, "exit code of the server")
    if len(promised) < 10:
        raise Failure(f"the guest promised only {promised}")
    check_closed("disk", freed=True)


def run_guest_through_kills(image, kills):
    """No acknowledged write can be lost, so the guest just goes on when the server is back. Returns what
    the servers said."""
    build_initramfs("initramfs", INIT)
    with Server("-f", format_of(image), "--cache", "directsync", image) as server:
        guest = machine("write", server, "reconnect-delay=60")
        for _ in range(kills):
            for _ in range(8):
                if guest.read(lambda line: line.startswith("SYNCED"), BOOT_SECONDS) is None:
                    raise Failure(f"the guest ended early: {guest.lines[-10:]}")
            server.kill9()
            server.start()
        guest.read(lambda line: line == "DONE", BOOT_SECONDS)
        guest.close()
        check_no_failure(guest.lines)
        promised = synced_files(guest.lines)
        if len(promised) < 55:  # one line or another may be torn by the kernel's own
            raise Failure(f"the guest reported only {sorted(promised)}")
        verify_in_guest(server, promised)
        check_equal(server.terminate(), 0, "exit code of the server")
        said = server.stderr()
    check_closed(image, freed=True)
    return said


def test_a_guest_of_a_qed_image_outlives_kills_of_its_server():
    image = left_dirty_by_qemu("disk", 64 * KIB, tables=512, fmt="qed")
    said = run_guest_through_kills(image, 3)
    check_equal(said.count(BEGAN["qed"]), 4, "recoveries begun")


def test_a_guest_goes_on_beside_each_recovery_of_a_disk_of_two_tib():
    image = left_dirty_by_qemu("disk", 64 * KIB, tables=4096)
    said = run_guest_through_kills(image, 4)
    check_equal(said.count(BEGAN["qcow2"]), 5, "recoveries begun")


# ---- a guest whose server's worker dies ----

def read_until_synced(guest, seconds):
    """For so long, and up to a file that was fsynced since."""
    end = time.monotonic() + seconds
    if guest.read(lambda line: line.startswith("SYNCED") and time.monotonic() >= end, BOOT_SECONDS) is None:
        raise Failure(f"the guest ended early: {guest.lines[-10:]}")


def run_guest_through_deaths_of_workers(cache, kind, kills):
    """The guest goes on, as nothing that it was answered is lost (D10). Each death falls amid what it
    writes and has not synced. The keeper waits for up to a second between two that follow each other. Then
    all the power goes."""
    rng = random.Random(f"{cache} {kind}")
    build_initramfs("initramfs", INIT)
    oxbow("create", "-q", *kind_args(kind), "disk", DISK)
    with Kept("-f", format_of("disk"), "--cache", cache, "disk") as server:
        guest = machine("write", server, "reconnect-delay=60", files=100000)
        read_until_synced(guest, 0)
        for _ in range(kills):
            read_until_synced(guest, 0)
            time.sleep(rng.uniform(0, 0.4))
            server.next_worker(server.kill_worker())
        read_until_synced(guest, 0.2)
        guest.kill()
        server.kill9()
        check_no_failure(guest.lines)
        promised = synced_files(guest.lines)
        server.start()
        verify_in_guest(server, promised, "mount")
        check_equal(server.terminate(), 0, "exit code of the server")
        check_equal(server.stderr().count("died of signal 9"), kills, "deaths that were told")
    print(f"# {cache} {kind}: {len(promised)} files were fsynced")
    if len(promised) < kills:
        raise Failure(f"the guest promised only {sorted(promised)}")
    check_leaks_at_most("disk")  # the power cut's


def test_a_guest_outlives_25_deaths_of_its_worker_in_writeback():
    run_guest_through_deaths_of_workers("writeback", "lazy_refcounts=off", 25)


run_tests(globals())
