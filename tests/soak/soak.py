#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""One slow client, for a long time: does each front end always answer?

    tests/soak/soak.py [--seconds N]

A lone client keeps 1, 2 or 8 requests of 4 KiB in flight, over both I/O engines and all cache modes:
an NBD client on a unix socket and on TCP, users of the library with each of its loops, and a
script that talks to `oxbow io`. N (60 by default) is the time of all together; several run side by
side, so that the machine is busy. A watchdog says where the process is when a request takes longer
than 5 seconds; one that takes a minute is a failure. What is read is held against what was written.
"""
import argparse
import concurrent.futures
import os
import pathlib
import random
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "interop")]

import harness
import nbdwire
from watchdog import STALL_SECONDS, Stall, wait_readable, where_is

ENGINES = ("uring", "threads")
CACHE_MODES = ("writeback", "writethrough", "none", "directsync", "unsafe")
DEPTHS = (1, 2, 8)
LOOPS = ("sync", "wait", "poll")
BLOCK = 4096
BLOCKS = 4096
SIDE_BY_SIDE = 4


def block_bytes(number, version):
    return struct.pack("<II", number, version) * (BLOCK // 8)


def make_image(folder):
    """An image whose first blocks are allocated and say which they are."""
    path = folder / "disk.qcow2"
    whole = folder / "whole.raw"
    with open(whole, "wb") as file:
        for number in range(BLOCKS):
            file.write(block_bytes(number, 0))
    harness.oxbow("create", "-q", "-f", "qcow2", path, "64M")
    harness.oxbow("io", "-f", "qcow2", "-c", f"write -s {whole} 0 {BLOCK * BLOCKS}", path)
    whole.unlink()
    return path


class Link:
    """An NBD client that keeps depth requests in flight, none of two on the same block."""

    def __init__(self, link, depth, pid):
        self.link = link
        self.depth = depth
        self.pid = pid
        self.versions = {}
        self.flying = {}
        self.random = random.Random(depth)

    def send_one(self, writes):
        number = self.random.randrange(BLOCKS)
        while number in self.flying:
            number = self.random.randrange(BLOCKS)
        draw = self.random.randrange(64) if writes else 63
        if draw == 0:
            kind, length, data = nbdwire.FLUSH, 0, b""
        elif draw < 8:
            self.versions[number] = self.versions.get(number, 0) + 1
            kind, length, data = nbdwire.WRITE, BLOCK, block_bytes(number, self.versions[number])
        else:
            kind, length, data = nbdwire.READ, BLOCK, b""
        self.flying[number] = kind
        offset = 0 if kind == nbdwire.FLUSH else number * BLOCK
        self.link.sendall(struct.pack(">IHHQQI", 0x25609513, 0, kind, number, offset, length) + data)

    def receive(self, count):
        data = b""
        while len(data) < count:
            wait_readable(self.link, f"{len(self.flying)} requests over NBD", self.pid)
            part = self.link.recv(count - len(data))
            if not part:
                raise AssertionError("the server closed the connection")
            data += part
        return data

    def take_one(self):
        magic, error, number = struct.unpack(">IIQ", self.receive(16))
        if magic != 0x67446698 or error:
            raise AssertionError(f"reply {magic:#x}, error {error}")
        if self.flying.pop(number) == nbdwire.READ:
            found = self.receive(BLOCK)
            if found != block_bytes(number, self.versions.get(number, 0)):
                raise AssertionError(f"block {number} reads as {found[:8].hex()}")

    def run(self, seconds):
        """Reads alone for the first half of the time, then writes and flushes among them."""
        start = time.monotonic()
        count = 0
        while (now := time.monotonic() - start) < seconds:
            while len(self.flying) < self.depth:
                self.send_one(now > seconds / 2)
            self.take_one()
            count += 1
        while self.flying:
            self.take_one()
        return count


def handshake(link):
    """The plain one, without options that change replies."""
    def exactly(count):
        data = b""
        while len(data) < count:
            data += link.recv(count - len(data)) or sys.exit("the server closed the connection")
        return data

    exactly(18)
    link.sendall(struct.pack(">I", 3) + nbdwire.option_bytes(1))
    exactly(10)


def soak_nbd(folder, engine, cache, depth, seconds, tcp=False):
    address = "127.0.0.1:0" if tcp else str(folder / "nbd.sock")
    server = subprocess.Popen(
        [harness.oxbow_path(), "serve", "-f", "qcow2", "--cache", cache, "--nbd", address,
         make_image(folder)], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL,
        env=dict(os.environ, OXBOW_IO=engine), text=True)
    try:
        uri = server.stdout.readline()
        if tcp:
            link = socket.create_connection(("127.0.0.1", int(uri.strip().strip("/").rpartition(":")[2])))
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            link = socket.socket(socket.AF_UNIX)
            link.connect(address)
        with link:
            handshake(link)
            serving = harness.serving_pid(server.pid)
            count = Link(link, depth, serving).run(seconds)
            link.sendall(struct.pack(">IHHQQI", 0x25609513, 0, nbdwire.DISC, 0, 0, 0))
        server.terminate()
        try:
            code = server.wait(STALL_SECONDS)
        except subprocess.TimeoutExpired:
            raise Stall(f"SIGTERM does not end it\n{where_is(serving)}") from None
        if code != 0:
            raise AssertionError(f"the server exited with {code}")
        return count
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


def watch_output(process, what, on_line):
    """Lines of its output until it ends, none of them later than the watchdog allows."""
    with process.stdout as pipe:
        while True:
            wait_readable(pipe, what, process.pid)
            data = os.read(pipe.fileno(), 65536)
            if not data:
                return
            on_line(data)


def soak_library(folder, engine, cache, loop, depth, seconds):
    program = pathlib.Path(harness.oxbow_path()).parent / "tests" / "soak" / "embedder"
    process = subprocess.Popen([program, make_image(folder), loop, str(depth), cache, str(seconds)],
                               stdout=subprocess.PIPE, env=dict(os.environ, OXBOW_IO=engine))
    said = bytearray()
    try:
        watch_output(process, f"the library's {loop} loop", said.extend)
        if process.wait(STALL_SECONDS) != 0:
            raise AssertionError(f"the embedder exited with {process.returncode}")
        return int(said.split()[-1])
    finally:
        process.kill()
        process.wait()


def soak_io(folder, engine, cache, seconds):
    """A script that sends a command and waits for what it says."""
    process = subprocess.Popen(
        [harness.oxbow_path(), "io", "-f", "qcow2", "-t", cache, make_image(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(os.environ, OXBOW_IO=engine))
    start = time.monotonic()
    count = 0
    try:
        while time.monotonic() - start < seconds:
            process.stdin.write(f"read {count % BLOCKS * BLOCK} {BLOCK}\n".encode())
            process.stdin.flush()
            said = b""
            while said.count(b"\n") < 2:
                wait_readable(process.stdout, "a command of `oxbow io`", process.pid)
                said += os.read(process.stdout.fileno(), 4096)
            if b"read 4096/4096 bytes" not in said:
                raise AssertionError(f"`oxbow io` said {said!r}")
            count += 1
        process.stdin.close()
        if process.wait(STALL_SECONDS) != 0:
            raise AssertionError(f"`oxbow io` exited with {process.returncode}")
        return count
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def runs():
    """(name, function of a folder and a time) of each kind of client."""
    for engine in ENGINES:
        for cache in CACHE_MODES:
            for depth in DEPTHS:
                tcp = depth == 2 and cache in ("none", "writeback")
                yield (f"nbd {'tcp' if tcp else 'unix'} {engine} {cache} depth {depth}",
                       lambda folder, seconds, e=engine, c=cache, d=depth, t=tcp:
                       soak_nbd(folder, e, c, d, seconds, t))
        for cache, loop, depth in (("none", "sync", 1), ("none", "poll", 1), ("none", "poll", 8),
                                   ("none", "wait", 2), ("writeback", "poll", 2),
                                   ("directsync", "wait", 1)):
            yield (f"library {loop} {engine} {cache} depth {depth}",
                   lambda folder, seconds, e=engine, c=cache, l=loop, d=depth:
                   soak_library(folder, e, c, l, d, seconds))
        for cache in ("none", "writeback"):
            yield (f"io {engine} {cache}",
                   lambda folder, seconds, e=engine, c=cache: soak_io(folder, e, c, seconds))


def one(name, function, seconds):
    folder = pathlib.Path(tempfile.mkdtemp(prefix="oxbow-soak-"))
    try:
        return name, function(folder, seconds), None
    except (AssertionError, OSError, subprocess.SubprocessError) as error:
        return name, 0, f"{type(error).__name__}: {error}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def soak(seconds, wanted=""):
    """Runs all whose name has wanted in it; yields (name, requests, what went wrong or None)."""
    chosen = [run for run in runs() if wanted in run[0]]
    each = seconds * SIDE_BY_SIDE / len(chosen)
    with concurrent.futures.ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        jobs = [pool.submit(one, name, function, each) for name, function in chosen]
        for job in concurrent.futures.as_completed(jobs):
            yield job.result()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("name", nargs="?", default="", help="a part of the names of those to run")
    options = parser.parse_args()
    bad = 0
    for name, count, error in soak(options.seconds, options.name):
        print(f"{'not ok' if error else 'ok'} {name}: {error or f'{count} requests'}", flush=True)
        bad += error is not None
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
