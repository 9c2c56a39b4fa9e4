#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""An NBD server that keeps writes in memory until they are flushed, and loses them when it dies.

    forgetful.py SOCKET FILE [KEY=VALUE...]

FILE is what is durable. The keys say how it behaves, and when it dies:

    die_after=N     kills itself once it has answered N changes (writes, zeroes, trims)
    die_before=N    kills itself in the place of the answer to change N, which is not carried out
    die_at_flush=N  kills itself in the place of the answer to flush N, which is not carried out
    cut=N tear=N    kills itself in the place of the N-th message that it sends (of its greeting, its
                    answers to options, and those to requests); or has sent half of it before
    shut_after=N    answers ESHUTDOWN to everything after N changes
    flush=0 fua=0 zero=0 trim=0 multi=0 extents=0 read_only=1   what it does not offer
    size=N          of the export, if it is not the file's
    min_block=N max_block=N  told as block sizes
    write_error=N flush_error=N  error numbers of every such request
    then=FILE       what all clients but the first one get instead
    exports=N       how many it lists, all the same disk
    lie=NAME        what is wrong with its answers (see wrong_answers)
    log=FILE        a line for each request: its name, offset and length
"""
import os
import signal
import socket
import struct
import sys
import threading

OPT_MAGIC = 0x49484156454F5054
REPLY_MAGIC = 0x3e889045565a9
EXPORT_NAME, ABORT, LIST, INFO, GO, STRUCTURED, LIST_META, SET_META = 1, 2, 3, 6, 7, 8, 9, 10
ACK, REP_SERVER, REP_INFO, REP_META, ERR_UNSUP = 1, 2, 3, 4, (1 << 31) | 1
READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES, STATUS = range(8)
NAMES = ["read", "write", "disc", "flush", "trim", "cache", "zero", "status"]
FUA = 1
EIO, EINVAL, ESHUTDOWN = 5, 22, 108


class Disk:
    """The durable file, and above it what was not flushed."""

    def __init__(self, path, size):
        self.fd = os.open(path, os.O_RDWR)
        self.size = size if size is not None else os.fstat(self.fd).st_size
        self.pending = []
        self.lock = threading.Lock()
        self.changes = 0
        self.flushes = 0
        self.messages = 0
        self.counting = threading.Lock()

    def read(self, offset, length):
        data = bytearray(os.pread(self.fd, length, offset).ljust(length, b"\0"))
        for at, new in self.pending:
            first, last = max(at, offset), min(at + len(new), offset + length)
            if first < last:
                data[first - offset:last - offset] = new[first - at:last - at]
        return bytes(data)

    def flush(self):
        for at, new in self.pending:
            os.pwrite(self.fd, new, at)
        os.fsync(self.fd)
        self.pending = []


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class Client:
    def __init__(self, sock, disk, how):
        self.sock, self.disk, self.how = sock, disk, how
        self.structured = False
        self.meta = False

    def send(self, data):
        disk, how = self.disk, self.how
        with disk.counting:
            disk.messages += 1
            if disk.messages == how.get("tear"):
                self.sock.sendall(data[:len(data) // 2])
            if disk.messages in (how.get("cut"), how.get("tear")):
                die()
            self.sock.sendall(data)

    def take(self, count):
        data = b""
        while len(data) < count:
            part = self.sock.recv(count - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def option_reply(self, option, kind, data=b""):
        self.send(struct.pack(">QIII", REPLY_MAGIC, option, kind, len(data)) + data)

    def flags(self):
        how = self.how
        return (1 | 2 * ("read_only" in how) | 4 * how.get("flush", 1) | 8 * how.get("fua", 1) |
                32 * how.get("trim", 1) | 64 * how.get("zero", 1) | 256 * how.get("multi", 1))

    def shake_hands(self):
        lie = self.how.get("lie")
        if lie == "silent":
            self.take(1)
        if lie == "greeting":
            self.send(b"HTTP/1.0 400 Bad Request\r\n\r\n" * 8)
            return False
        self.send(struct.pack(">8sQH", b"NBDMAGIC", OPT_MAGIC, 3))
        self.take(4)
        while True:
            _, option, length = struct.unpack(">QII", self.take(16))
            self.take(length)
            if option == STRUCTURED:
                self.structured = self.how.get("extents", 1) == 1
                self.option_reply(option, ACK if self.structured else ERR_UNSUP)
            elif option == LIST:
                for number in range(self.how.get("exports", 1)):
                    name = b"%d" % number
                    self.option_reply(option, REP_SERVER, struct.pack(">I", len(name)) + name)
                self.option_reply(option, ACK)
            elif option in (SET_META, LIST_META) and self.structured:
                self.meta = True
                self.option_reply(option, REP_META, struct.pack(">I", 1) + b"base:allocation")
                self.option_reply(option, ACK)
            elif option in (GO, INFO):
                size = self.disk.size if lie != "size" else (1 << 63) + 512
                self.option_reply(option, REP_INFO, struct.pack(">HQH", 0, size, self.flags()))
                if "min_block" in self.how or "max_block" in self.how:
                    self.option_reply(option, REP_INFO, struct.pack(
                        ">HIII", 3, self.how.get("min_block", 1), max(4096, self.how.get("min_block", 1)),
                        self.how.get("max_block", 1 << 25)))
                self.option_reply(option, ACK)
                if option == GO:
                    return True
            elif option == ABORT:
                self.option_reply(option, ACK)
                return False
            else:
                self.option_reply(option, ERR_UNSUP)

    def reply(self, cookie, error=0, data=b""):
        if not self.structured:
            self.send(struct.pack(">IIQ", 0x67446698, error, cookie) + data)
        elif error:
            self.chunk(cookie, 1, (1 << 15) | 1, struct.pack(">IH", error, 0))
        else:
            self.chunk(cookie, 1, 0)

    def chunk(self, cookie, flags, kind, data=b""):
        self.send(struct.pack(">IHHQI", 0x668e33ef, flags, kind, cookie, len(data)) + data)

    def read(self, cookie, offset, length):
        lie = self.how.get("lie")
        if lie == "garbage":
            self.send(b"\xff" * 64)
        elif lie == "cookie":
            self.reply(cookie + 77)
        elif lie == "short":
            self.chunk(cookie, 1, 1, struct.pack(">Q", offset))
        elif lie == "nothing":
            self.reply(cookie)
        elif lie == "half twice":
            half = struct.pack(">Q", offset) + self.disk.read(offset, length // 2)
            self.chunk(cookie, 0, 1, half)
            self.chunk(cookie, 1, 1, half)
        elif lie == "backwards":
            for at in range(offset + length - 512, offset - 1, -512):
                self.chunk(cookie, at == offset, 1, struct.pack(">Q", at) + self.disk.read(at, 512))
        elif lie == "beyond":
            self.chunk(cookie, 0, 1, struct.pack(">Q", offset + length) + b"x" * length)
            self.chunk(cookie, 1, 0)
        elif lie == "huge":
            self.send(struct.pack(">IHHQI", 0x668e33ef, 1, 1, cookie, 0xfffffff0))
        elif lie == "hang up":
            raise EOFError
        elif lie == "error":
            self.reply(cookie, 0x7fffffff)
        elif self.structured:
            self.chunk(cookie, 1, 1, struct.pack(">Q", offset) + self.disk.read(offset, length))
        else:
            self.reply(cookie, 0, self.disk.read(offset, length))

    def status(self, cookie, offset, length):
        lie = self.how.get("lie")
        extents = []
        if lie == "no extents":
            pass
        elif lie == "empty extents":
            extents = [(0, 3)] * 3
        elif lie == "long extents":
            extents = [(0xfffffe00, 0), (0xfffffe00, 3)]
        elif lie == "many extents":
            extents = [(512, 3 * (i % 2)) for i in range(100000)]
        elif lie == "odd extents":
            self.chunk(cookie, 1, 5, struct.pack(">III", 1, 512, 0)[:-2])
            return
        else:
            data = self.disk.read(offset, min(length, 1 << 24))
            at = 0
            while at < len(data):
                zero = not any(data[at:at + 4096])
                if extents and extents[-1][1] == 3 * zero:
                    extents[-1] = (extents[-1][0] + 4096, 3 * zero)
                else:
                    extents.append((4096, 3 * zero))
                at += 4096
        data = b"".join(struct.pack(">II", *e) for e in extents)
        self.chunk(cookie, 1, 5, struct.pack(">I", 1) + data)

    def change(self, cookie, flags, offset, data):
        disk, how = self.disk, self.how
        error = how.get("write_error", 0)
        if disk.changes >= how.get("shut_after", 1 << 60):
            error = ESHUTDOWN
        disk.changes += 1
        if disk.changes == how.get("die_before"):
            die()
        if not error:
            disk.pending.append((offset, data))
            if flags & FUA:
                disk.flush()
        self.reply(cookie, error)
        if disk.changes == how.get("die_after"):
            die()

    def flush(self, cookie):
        self.disk.flushes += 1
        if self.disk.flushes == self.how.get("die_at_flush"):
            die()
        if "flush_error" not in self.how:
            self.disk.flush()
        self.reply(cookie, self.how.get("flush_error", 0))

    def serve_one(self):
        _, flags, kind, cookie, offset, length = struct.unpack(">IHHQQI", self.take(28))
        data = self.take(length) if kind == WRITE else bytes(length) if kind in (TRIM, ZEROES) else b""
        if self.how.get("lie") == "mute":
            return True
        with self.disk.lock:
            if "log" in self.how:
                with open(self.how["log"], "a") as log:
                    print(NAMES[kind], offset, length, file=log)
            if kind == DISC:
                return False
            if kind == READ:
                self.read(cookie, offset, length)
            elif kind == FLUSH:
                self.flush(cookie)
            elif kind == STATUS:
                self.status(cookie, offset, length)
            elif kind in (WRITE, TRIM, ZEROES):
                self.change(cookie, flags, offset, data)
            else:
                self.reply(cookie, EINVAL)
        return True

    def run(self):
        try:
            if self.shake_hands():
                while self.serve_one():
                    pass
        except (EOFError, ConnectionError):
            pass
        self.sock.close()


def main(path, file, *words):
    how = dict(word.split("=", 1) for word in words)
    how = {key: int(value) if value.isdigit() else value for key, value in how.items()}
    disk = Disk(file, how.get("size"))
    listener = socket.socket(socket.AF_UNIX)
    if os.path.exists(path):
        os.unlink(path)
    listener.bind(path)
    listener.listen(16)
    print("ready", flush=True)
    while True:
        client = Client(listener.accept()[0], disk, how)
        if "then" in how:
            disk = Disk(how["then"], how.get("size"))
        threading.Thread(target=client.run, daemon=True).start()


if __name__ == "__main__":
    main(*sys.argv[1:])
