# SPDX-License-Identifier: MIT
"""A client that writes until its server is killed, and notes what it was promised."""
import errno
import random
import threading

import nbd
from interop import *

DEPTH = 12


def write_until_killed(server, writer, seconds):
    killer = threading.Timer(seconds, server.kill9)
    killer.start()
    try:
        writer.run()
    finally:
        killer.join()
    check_equal(server.process.returncode, -signal.SIGKILL, "how the server ended")


class Writer:
    """Keeps DEPTH requests in flight on one connection until the server is gone. flushes=False: not one
    asks that anything be durable, and all that is answered has to be there all the same (D10)."""

    def __init__(self, uri, promises, cache, seed, flushes=True):
        self.rng = random.Random(seed)
        self.promises = promises
        self.flushes = flushes
        self.synchronous = cache in SYNCHRONOUS_MODES or not flushes
        self.handle = nbd_connect(uri)
        self.buffers = {}
        self.acknowledged = 0
        self.errors = []
        self.flush_in_flight = False

    def run(self):
        try:
            while not self.errors:
                while self.handle.aio_in_flight() < DEPTH:
                    self._submit()
                self.handle.poll(-1)
        except nbd.Error:
            pass  # the server was killed
        if self.errors:
            raise Failure(f"requests failed before the kill: {self.errors[:3]}")

    def _submit(self):
        if self.flushes and not self.flush_in_flight and self.rng.random() < 0.06:
            self._flush()
            return
        slots = self.promises.idle_slots()
        slot = self.rng.choice(slots)
        kind = self.rng.choice(["write"] * 8 + ["zero", "unmap", "trim"])
        durable = self.synchronous
        flags = 0
        if self.flushes and kind != "trim" and self.rng.random() < 0.3:
            flags |= nbd.CMD_FLAG_FUA
            durable = True
        if kind == "zero":
            flags |= nbd.CMD_FLAG_NO_HOLE
        data = slot.issue(kind)
        done = self._completion(slot, kind, durable)
        if kind == "write":
            buffer = nbd.Buffer.from_bytearray(bytearray(data))
            self.buffers[slot.number] = buffer
            self.handle.aio_pwrite(buffer, slot.offset, done, flags)
        elif kind == "trim":
            self.handle.aio_trim(slot.length, slot.offset, done, flags)
        else:
            self.handle.aio_zero(slot.length, slot.offset, done, flags)

    def _completion(self, slot, kind, durable):
        def done(error):
            if error.value == 0:
                slot.acknowledge(durable)
                self.acknowledged += 1
            elif error.value != errno.ENOTCONN:  # which says that the server is gone
                self.errors.append((kind, slot.offset, error.value))
            return 1
        return done

    def _flush(self):
        self.flush_in_flight = True
        covered = self.promises.flush_starts()

        def done(error):
            self.flush_in_flight = False
            if error.value == 0:
                self.promises.flush_done(covered)
            return 1
        self.handle.aio_flush(done)
