# SPDX-License-Identifier: MIT
"""An NBD client that is made of bytes, so that it can also say what no decent client would."""
import os
import socket
import struct
import sys
import urllib.parse

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from harness import *

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
# A raw disk needs less of the library: that tells a server's defect from an image's.
FORMAT = os.environ.get("OXBOW_TEST_FORMAT", "qcow2")

HELLO = 0x4E42444D41474943
IHAVEOPT = 0x49484156454F5054
OPTION_REPLY = 0x3E889045565A9
C_FIXED, C_NO_ZEROES = 1, 2

OPT_EXPORT_NAME, OPT_ABORT, OPT_LIST, OPT_PEEK, OPT_STARTTLS, OPT_INFO, OPT_GO, OPT_STRUCTURED, \
    OPT_LIST_META, OPT_SET_META, OPT_EXTENDED = range(1, 12)
REP_ACK, REP_SERVER, REP_INFO, REP_META = range(1, 5)
ERR = 1 << 31
ERR_UNSUP, ERR_POLICY, ERR_INVALID = ERR + 1, ERR + 2, ERR + 3
ERR_UNKNOWN, ERR_TOO_BIG, ERR_EXT_REQD = ERR + 6, ERR + 9, ERR + 10
INFO_EXPORT, INFO_NAME, INFO_DESCRIPTION, INFO_BLOCK_SIZE = range(4)

(HAS_FLAGS, READ_ONLY, SEND_FLUSH, SEND_FUA, _, SEND_TRIM, SEND_ZEROES, SEND_DF, MULTI_CONN, _,
 SEND_CACHE, SEND_FAST_ZERO, STATUS_PAYLOAD) = (1 << bit for bit in range(13))

READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES, STATUS = range(8)
FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO, PAYLOAD = (1 << bit for bit in range(6))
CHUNK_NONE, CHUNK_DATA, CHUNK_HOLE, CHUNK_STATUS, CHUNK_STATUS_EXT = 0, 1, 2, 5, 6
CHUNK_ERROR = (1 << 15) + 1
HOLE, ZERO = 1, 2
EPERM, EIO, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP, ESHUTDOWN = 1, 5, 22, 28, 75, 95, 108


class Closed(Exception):
    """The server closed the connection."""


def make_disk(size, name=None):
    """An empty disk; returns its path."""
    path = tmpdir() / (name or f"disk.{FORMAT}")
    if FORMAT == "raw":
        with open(path, "wb") as file:
            file.truncate(size)
    else:
        qemu_img("create", "-q", "-f", FORMAT, path, str(size))
    return path


def serve(size, *args, **kwargs):
    return Server("-f", FORMAT, *args, make_disk(size), **kwargs)


def connect(server):
    """A socket."""
    uri = urllib.parse.urlparse(server.uri)
    if uri.scheme.endswith("+unix"):
        link = socket.socket(socket.AF_UNIX)
        link.connect(urllib.parse.parse_qs(uri.query)["socket"][0])
    else:
        link = socket.create_connection((uri.hostname, uri.port))
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    link.settimeout(100)
    return link


def name_bytes(text):
    text = text.encode() if isinstance(text, str) else text
    return struct.pack(">I", len(text)) + text


def option_bytes(number, data=b"", length=None):
    return struct.pack(">QII", IHAVEOPT, number, len(data) if length is None else length) + data


def info_bytes(export, *infos):
    return name_bytes(export) + struct.pack(f">H{len(infos)}H", len(infos), *infos)


def meta_bytes(export, *queries):
    return name_bytes(export) + struct.pack(">I", len(queries)) + \
        b"".join(name_bytes(query) for query in queries)


class Reply:
    """An answer to a request, put together from its chunks."""

    def __init__(self):
        self.error = 0
        self.message = ""
        self.data = None
        self.chunks = []  # (type, offset, length) of content
        self.extents = None  # [(length, status)]
        self.by_context = {}  # the same, of each context


class Client:
    """style: simple, structured, extended; None: not even greeted."""

    def __init__(self, server, style="simple", export="", meta=False, flags=C_FIXED | C_NO_ZEROES):
        self.contexts = ()  # where several are negotiated, their ids
        self.link = connect(server)
        on_exit(self.link.close)
        self.style = style
        self.next_cookie = 0x1122334455667700
        self.lengths = {}
        if style is None:
            return
        self.greet(flags)
        if style == "structured":
            check_equal(self.option(OPT_STRUCTURED), [(REP_ACK, b"")], "answer")
        elif style == "extended":
            check_equal(self.option(OPT_EXTENDED), [(REP_ACK, b"")], "answer")
        if meta:
            answer = self.option(OPT_SET_META, meta_bytes(export, "base:allocation"))
            check_equal([kind for kind, _ in answer], [REP_META, REP_ACK], "answer")
            self.context = struct.unpack(">I", answer[0][1][:4])[0]
        self.infos = self.go(export)

    # ---- bytes ----

    def send(self, data):
        self.link.sendall(data)

    def receive(self, count):
        data = bytearray(count)
        view = memoryview(data)
        at = 0
        while at < count:
            try:
                got = self.link.recv_into(view[at:])
            except (ConnectionResetError, BrokenPipeError):
                got = 0
            if got == 0:
                raise Closed(f"after {at} of {count} bytes")
            at += got
        return bytes(data)

    def check_closed(self, what="connection"):
        try:
            data = self.receive(1)
        except Closed:
            return
        raise Failure(f"the {what} is open, and says {data!r}")

    def close(self):
        self.link.close()

    # ---- handshake ----

    def greet(self, flags=C_FIXED | C_NO_ZEROES):
        hello, magic, self.handshake_flags = struct.unpack(">QQH", self.receive(18))
        check_equal((hello, magic), (HELLO, IHAVEOPT), "greeting")
        self.send(struct.pack(">I", flags))

    def answers(self, number):
        """The replies to an option, up to the last."""
        result = []
        while True:
            magic, option, kind, length = struct.unpack(">QIII", self.receive(20))
            check_equal((magic, option), (OPTION_REPLY, number), "option reply")
            result.append((kind, self.receive(length)))
            if kind == REP_ACK or kind & ERR:
                return result

    def option(self, number, data=b""):
        self.send(option_bytes(number, data))
        return self.answers(number)

    def go(self, export="", *infos, number=OPT_GO):
        answer = self.option(number, info_bytes(export, *infos))
        check_equal(answer[-1], (REP_ACK, b""), "answer")
        found = {struct.unpack(">H", data[:2])[0]: data[2:] for kind, data in answer[:-1]}
        self.size, self.flags = struct.unpack(">QH", found[INFO_EXPORT])
        return found

    # ---- requests ----

    def request(self, kind, offset=0, length=0, flags=0, data=b"", cookie=None, magic=None):
        """Sends one; returns its cookie."""
        if cookie is None:
            cookie = self.next_cookie
            self.next_cookie += 1
        if self.style == "extended":
            head = struct.pack(">IHHQQQ", magic or 0x21E41C71, flags, kind, cookie, offset, length)
        else:
            head = struct.pack(">IHHQQI", magic or 0x25609513, flags, kind, cookie, offset, length)
        self.lengths[cookie] = (kind, offset, length)
        self.send(head + data)
        return cookie

    def reply(self):
        """One whole answer: (cookie, Reply). Chunks of different answers must not mingle here."""
        reply = Reply()
        while True:
            magic = struct.unpack(">I", self.receive(4))[0]
            if magic == 0x67446698:
                return self._simple(reply)
            cookie, done = self._chunk(reply, magic)
            if done:
                return cookie, reply

    def _simple(self, reply):
        if self.style == "extended":
            raise Failure("a simple reply among extended ones")
        reply.error, cookie = struct.unpack(">IQ", self.receive(12))
        kind, _, length = self.lengths[cookie]
        if kind == READ:
            check_equal(self.style, "simple", "style of the reply to a read")
            if reply.error == 0:
                reply.data = self.receive(length)
        return cookie, reply

    def _chunk(self, reply, magic):
        if self.style == "extended":
            check_equal(magic, 0x6E8A278C, "magic")
            flags, kind, cookie, offset, length = struct.unpack(">HHQQQ", self.receive(28))
            check_equal(offset, self.lengths[cookie][1], "offset in an extended reply")
        else:
            check_equal((self.style, magic), ("structured", 0x668E33EF), "style and magic")
            flags, kind, cookie, length = struct.unpack(">HHQI", self.receive(16))
        self._content(reply, kind, self.receive(length), *self.lengths[cookie][1:])
        return cookie, flags & 1

    def _content(self, reply, kind, data, offset, length):
        if kind in (CHUNK_DATA, CHUNK_HOLE):
            if reply.data is None:
                reply.data = bytearray(b"\xee" * length)
            at = struct.unpack(">Q", data[:8])[0]
            content = data[8:] if kind == CHUNK_DATA else bytes(struct.unpack(">I", data[8:])[0])
            if not content or at < offset or at + len(content) > offset + length:
                raise Failure(f"a chunk of {len(content)} bytes at {at} for {offset}+{length}")
            reply.data[at - offset:at - offset + len(content)] = content
            reply.chunks.append((kind, at, len(content)))
        elif kind == CHUNK_STATUS:
            check_equal(self.style, "structured", "style of the status chunk")
            self._status(reply, struct.unpack(">I", data[:4])[0], list(struct.iter_unpack(">II", data[4:])))
        elif kind == CHUNK_STATUS_EXT:
            check_equal(self.style, "extended", "style of the status chunk")
            context, count = struct.unpack(">II", data[:8])
            self._status(reply, context, list(struct.iter_unpack(">QQ", data[8:])))
            check_equal(count, len(reply.extents), "count of extents")
        elif kind == CHUNK_ERROR:
            reply.error, length = struct.unpack(">IH", data[:6])
            reply.message = data[6:].decode()
            check_equal(len(data), 6 + length, "length of an error chunk")
        else:
            check_equal((kind, data), (CHUNK_NONE, b""), "chunk")

    def _status(self, reply, context, extents):
        check_in(context, self.contexts or (self.context,), "contexts that are negotiated")
        check_equal(context in reply.by_context, False, "a context that is told twice")
        reply.extents = reply.by_context[context] = extents

    def call(self, kind, offset=0, length=0, flags=0, data=b"", **kwargs):
        cookie = self.request(kind, offset, length, flags, data, **kwargs)
        got, reply = self.reply()
        check_equal(got, cookie, "cookie")
        return reply

    def ok(self, *args, **kwargs):
        reply = self.call(*args, **kwargs)
        check_equal((reply.error, reply.message), (0, ""), "error")
        return reply

    def fails(self, error, *args, **kwargs):
        reply = self.call(*args, **kwargs)
        check_equal(reply.error, error, f"error ({reply.message!r})")
        return reply

    def read(self, offset, length, flags=0):
        return bytes(self.ok(READ, offset, length, flags).data or b"")

    def write(self, offset, data, flags=0):
        if self.style == "extended":
            flags |= PAYLOAD
        self.ok(WRITE, offset, len(data), flags, data)


STYLES = ("simple", "structured", "extended")
