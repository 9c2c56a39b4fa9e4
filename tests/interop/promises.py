# SPDX-License-Identifier: MIT
"""What a server promised of its disk, and whether it kept it (rule D7).

The disk is divided into slots. A slot has a history of versions, one operation each, and at most one of
them in flight. A version is *issued*, then *acknowledged*, then perhaps *durable*: by FUA, by a flush
that was sent after the acknowledgement, or at once where the server has no write cache. After a crash
each sector of the slot must hold what some version from the last durable one to the last issued one left.
"""
import struct

from interop import Failure

SECTOR = 512


def version_bytes(slot, version, length):
    """A write's bytes: each sector tells its slot, version and place."""
    return b"".join(struct.pack("<QQQQ", 0x6F78626F77 + slot, version, at, ~version & (1 << 64) - 1)
                    * (SECTOR // 32) for at in range(length // SECTOR))


class Slot:
    def __init__(self, number, offset, length, initial):
        self.number = number
        self.offset = offset
        self.length = length
        self.history = [initial]  # bytes; None for a trim
        self.durable = 0
        self.acknowledged = 0
        self.busy = False

    def issue(self, kind):
        """Returns the bytes to write (None unless kind is write)."""
        self.busy = True
        version = len(self.history)
        if kind == "write":
            data = version_bytes(self.number, version, self.length)
            self.history.append(data)
            return data
        self.history.append(None if kind == "trim" else bytes(self.length))
        return None

    def acknowledge(self, durable):
        self.busy = False
        self.acknowledged = len(self.history) - 1
        if durable:
            self.durable = self.acknowledged

    def _acceptable(self, at):
        """The contents that the sector at `at` may have."""
        found = set()
        for version in range(self.durable, len(self.history)):
            # A trim leaves zeroes, or whatever could have been there before.
            back = version
            while self.history[back] is None:
                found.add(bytes(SECTOR))
                back -= 1
            found.add(self.history[back][at:at + SECTOR])
        return found

    def check(self, data):
        for at in range(0, self.length, SECTOR):
            sector = data[at:at + SECTOR]
            if sector not in self._acceptable(at):
                raise Failure(
                    f"slot {self.number} at {self.offset:#x}+{at:#x} lost what was promised: durable "
                    f"version {self.durable}, issued {len(self.history) - 1}, "
                    f"found {self._name(sector)}")

    def _name(self, sector):
        if sector == bytes(SECTOR):
            return "zeroes"
        base, version, place, check = struct.unpack("<QQQQ", sector[:32])
        if check == ~version & (1 << 64) - 1:
            return f"version {version} of slot {base - 0x6F78626F77}, sector {place}"
        return sector[:16].hex()

    def settle(self, data):
        """After a crash the disk is what it is: history starts again from there."""
        self.history = [data]
        self.durable = self.acknowledged = 0
        self.busy = False


class Promises:
    """All slots of a disk; those between them are never written."""

    def __init__(self, data, slot_bytes, stride):
        self.size = len(data)
        self.slots = [Slot(number, at, slot_bytes, bytes(data[at:at + slot_bytes]))
                      for number, at in enumerate(range(0, self.size - slot_bytes + 1, stride))]
        self.gaps = []
        if stride > slot_bytes:
            self.gaps = [(slot.offset + slot_bytes,
                          bytes(data[slot.offset + slot_bytes:slot.offset + stride]))
                         for slot in self.slots]

    def idle_slots(self):
        return [slot for slot in self.slots if not slot.busy]

    def flush_starts(self):
        """What a flush sent now promises, once it is acknowledged."""
        return [(slot, slot.acknowledged) for slot in self.slots]

    @staticmethod
    def flush_done(covered):
        for slot, version in covered:
            slot.durable = max(slot.durable, version)

    def check(self, data):
        if len(data) != self.size:
            raise Failure(f"the disk has {len(data)} bytes, expected {self.size}")
        for slot in self.slots:
            slot.check(data[slot.offset:slot.offset + slot.length])
        for at, expected in self.gaps:
            if data[at:at + len(expected)] != expected:
                raise Failure(f"bytes between slots changed near {at:#x}")

    def settle(self, data):
        for slot in self.slots:
            slot.settle(bytes(data[slot.offset:slot.offset + slot.length]))


class Spread(Promises):
    """Slots that lie far apart on a disk too large to be read whole."""

    def __init__(self, offsets, slot_bytes):
        super().__init__(b"", slot_bytes, slot_bytes)
        self.slots = [Slot(number, at, slot_bytes, bytes(slot_bytes))
                      for number, at in enumerate(offsets)]

    def lose_what_was_in_flight(self):
        """What was acknowledged without being durable may be gone: no flush of a later life covers it. A
        slot that was in flight holds one thing or the other until it is looked at: it is left alone."""
        for slot in self.slots:
            slot.acknowledged = slot.durable

    def check_and_settle(self, handle):
        for slot in self.slots:
            data = bytes(handle.pread(slot.length, slot.offset))
            slot.check(data)
            slot.settle(data)


def slots_in_spans(spans, per_span, span_bytes, slot_bytes=4096):
    return Spread([span * span_bytes + n * slot_bytes + 65536 for span in range(spans)
                   for n in range(per_span)], slot_bytes)
