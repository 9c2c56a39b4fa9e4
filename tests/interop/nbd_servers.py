# SPDX-License-Identifier: MIT
"""Servers of exports, for tests of oxbow as their client."""
import socket
import threading

from harness import *

FORGETFUL = ROOT / "tests" / "interop" / "forgetful.py"


def wait_for(condition, what, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Failure(f"{what} does not come about")
        time.sleep(0.01)


def uri(socket, export="", scheme="nbd+unix", **parameters):
    more = "".join(f"&{key.replace('_', '-')}={value}" for key, value in parameters.items())
    return f"{scheme}:///{export}?socket={socket}{more}"


class Program:
    """A server that is told a socket, for the length of a with statement."""

    def __init__(self, *argv, socket):
        self.argv = [str(arg) for arg in argv]
        self.socket = str(socket)

    def _is_ready(self):
        if not os.path.exists(self.socket):
            return False
        if not pathlib.Path(self.socket).is_socket():
            return True
        try:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(self.socket)
        except ConnectionRefusedError:
            return False
        return True

    def __enter__(self):
        pathlib.Path(self.socket).unlink(missing_ok=True)
        self.process = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL)
        wait_for(lambda: self._is_ready() or self.process.poll() is not None,
                 f"the socket of {self.argv[0]}")
        if self.process.poll() is not None:
            raise Failure(f"{self.argv[0]} ended with {self.process.returncode}")
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def uri(self, **parameters):
        return uri(self.socket, **parameters)


def nbdkit(*args):
    socket = tmpdir() / "nbdkit.sock"
    return Program("nbdkit", "-f", "-U", socket, *args, socket=socket)


def qemu_nbd(*args):
    socket = tmpdir() / "qemu-nbd.sock"
    return Program("qemu-nbd", "-t", "-k", socket, *args, socket=socket)


class Forgetful:
    """The server of forgetful.py over a file. With lives it is started anew whenever it dies, each
    time with the next of them; the last one stays."""

    def __init__(self, file, *lives):
        self.file = file
        self.lives = [dict(life) for life in lives] or [{}]
        self.socket = str(tmpdir() / "forgetful.sock")
        self.started = 0
        self._ending = False

    def _start(self):
        life = self.lives[min(self.started, len(self.lives) - 1)]
        words = [f"{key}={value}" for key, value in life.items()]
        process = subprocess.Popen([sys.executable, FORGETFUL, self.socket, self.file, *words],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        if process.stdout.readline() != b"ready\n":
            raise Failure("the forgetful server does not start")
        process.stdout.close()
        self.started += 1
        self.process = process

    def _keep_alive(self):
        while True:
            self.process.wait()
            with self._lock:
                if self._ending or self.started == len(self.lives):
                    return
                self._start()

    def __enter__(self):
        self._lock = threading.Lock()
        self._start()
        self._thread = threading.Thread(target=self._keep_alive)
        self._thread.start()
        return self

    def __exit__(self, *_):
        with self._lock:
            self._ending = True
            self.process.kill()
        self._thread.join()

    def uri(self, **parameters):
        return uri(self.socket, **parameters)
