#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Nobody waits for whoever reads the server's standard error."""
import fcntl
import re

from nbdwire import *


class PipedServer(Server):
    """Its standard error is a pipe, as small as the kernel makes it, of which .log is our end."""

    def start(self):
        self.log, write_end = os.pipe()
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)
        self._stderr = os.fdopen(write_end, "w")
        self.process = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=write_end, env=self.env)
        self.uri = self._wait_for_uri()

    def stderr(self):
        return ""

    def end_of_log(self):
        """All that is left, once the server has ended; ours is the last other end."""
        self._stderr.close()
        with os.fdopen(self.log, "rb") as file:
            return file.read().decode()


def visit(server, count):
    for _ in range(count):
        Client(server).close()


def test_a_pipe_that_nobody_reads_stops_neither_clients_nor_the_end():
    with PipedServer("-f", FORMAT, "-v", make_disk(MIB)) as server:
        visit(server, 1500)
        Client(server).write(0, b"still served")
        check_equal(server.terminate(60), 0, "exit code")


def test_lines_that_were_lost_are_counted():
    visits = 1500
    with PipedServer("-f", FORMAT, "-v", make_disk(MIB)) as server:
        visit(server, visits)
        os.set_blocking(server.log, False)
        text = ""
        while "lines were lost" not in text:
            Client(server).close()
            visits += 1
            time.sleep(0.01)
            try:
                text += os.read(server.log, 1 << 20).decode()
            except BlockingIOError:
                pass
        os.set_blocking(server.log, True)
        server.process.terminate()
        text += server.end_of_log()
        check_equal(server.wait(60), 0, "exit code")
    told = len(re.findall(r"is connected\n|is gone: .*\n", text))
    lost = sum(int(count) for count in re.findall(r"(\d+) lines were lost", text))
    check_equal(told + lost, 2 * visits, "lines told and lost")


def test_the_flags_of_standard_error_stay_as_they_are():
    with PipedServer("-f", FORMAT, "-v", make_disk(MIB)) as server:
        visit(server, 1)
        flags = fcntl.fcntl(server._stderr.fileno(), fcntl.F_GETFL)
        check_equal(flags & os.O_NONBLOCK, 0, "O_NONBLOCK")
        check_equal(server.terminate(60), 0, "exit code")


def test_a_pipe_whose_reader_is_gone_stops_nobody():
    with PipedServer("-f", FORMAT, "-v", make_disk(MIB)) as server:
        os.close(server.log)
        visit(server, 5)
        Client(server).write(0, b"still served")
        check_equal(server.terminate(60), 0, "exit code")


run_tests(globals())
