#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Many clients on few blocks: every answer must fit some order of the requests, each carried out at
one instant between its sending and its answer."""
import random
import select
import time

from nbdwire import *

BLOCK = 4096
BLOCKS = 24  # of a region: all but the last have a place, each apart from its neighbours
REGIONS = 300
CLIENTS = 8
OPERATIONS = 14  # of each client in a region
STYLE = "structured"


def spans(history):
    """For each value (the earliest end, the latest beginning) of what wrote or read it; history is
    [(began, ended, value, is a write)], each value written by one request. None: a value was read
    that was not written, or before it was."""
    result = {}
    written = {value: began for began, _, value, write in history if write}
    for began, ended, value, _ in history:
        if value not in written or ended < written[value]:
            return None
        first, last = result.get(value, (ended, began))
        result[value] = (min(first, ended), max(last, began))
    return list(result.values())


def fits_some_order(history):
    """A block held a value from its first end to its last beginning, where that is some time; then
    no other value may lie across, or find no instant outside."""
    found = spans(history)
    if found is None:
        return False
    return not any(a[0] < a[1] and a[0] < b[1] and b[0] < a[1]
                   for a in found for b in found if a is not b)


def test_the_judge_knows_good_from_bad():
    once = [(0, 0, 0, True), (1, 20, 1, True), (4, 5, 2, True), (6, 7, 2, False), (8, 9, 1, False)]
    check_equal(fits_some_order(once), True, "a write that takes effect late")
    check_equal(fits_some_order(once + [(2, 3, 1, False)]), False, "a write that does so twice")
    check_equal(fits_some_order(once + [(30, 31, 2, False)]), False, "a stale read")
    check_equal(fits_some_order(once + [(30, 31, 9, False)]), False, "a read out of nowhere")


class Guest:
    def __init__(self, server):
        self.client = Client(server, STYLE)
        self.left = 0

    def fileno(self):
        return self.client.link.fileno()

    def submit(self, world, region):
        """Half of the requests change or read the first blocks, where the long ones begin."""
        self.left -= 1
        self.write = world.random.random() < 0.5
        self.first = world.random.randrange(3 if world.random.random() < 0.5 else BLOCKS)
        long = self.write and world.random.random() < 0.34
        self.count = BLOCKS - self.first if long else 1
        self.began = time.monotonic_ns()
        data = b""
        if self.write:
            world.value += 1
            self.value = world.value
            data = (struct.pack("<Q", self.value) + bytes(BLOCK - 8)) * self.count
        self.client.request(WRITE if self.write else READ, (region * BLOCKS + self.first) * BLOCK,
                            self.count * BLOCK, 0, data)

    def finish(self, history):
        _, reply = self.client.reply()
        ended = time.monotonic_ns()
        check_equal(reply.error, 0, "error")
        value = self.value if self.write else struct.unpack("<Q", reply.data[:8])[0]
        for block in range(self.first, self.first + self.count):
            history[block].append((self.began, ended, value, self.write))


class World:
    def __init__(self):
        self.random = random.Random(7)
        self.value = 0


def work_on_region(world, guests, region):
    history = [[(0, 0, 0, True)] for _ in range(BLOCKS)]
    for guest in guests:
        guest.left = OPERATIONS
        guest.submit(world, region)
    busy = list(guests)
    while busy:
        for guest in select.select(busy, [], [], 100)[0]:
            guest.finish(history)
            if guest.left > 0:
                guest.submit(world, region)
            else:
                busy.remove(guest)
    for block, known in enumerate(history):
        if not fits_some_order(known):
            raise Failure(f"region {region}, block {block}: no order explains {sorted(known)}")


def test_every_answer_fits_some_order_of_the_requests():
    disk = tmpdir() / "disk.qcow2"
    oxbow("create", "-f", "qcow2", "-o", f"cluster_size={BLOCK}", disk,
          str(REGIONS * BLOCKS * BLOCK))
    world = World()
    with Server("-f", "qcow2", disk) as server:
        guests = [Guest(server) for _ in range(CLIENTS)]
        for region in range(REGIONS):
            for block in reversed(range(BLOCKS - 1)):
                guests[0].client.write((region * BLOCKS + block) * BLOCK, bytes(BLOCK))
        for region in range(REGIONS):
            work_on_region(world, guests, region)
        for guest in guests:
            guest.client.close()


run_tests(globals())
