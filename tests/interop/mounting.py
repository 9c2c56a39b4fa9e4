# SPDX-License-Identifier: MIT
"""`oxbow mount`, for tests of it."""
import select

from interop import *


def is_mounted(directory):
    path = os.path.realpath(directory)
    return any(line.split()[4] == path for line in open("/proc/self/mountinfo"))


def wait_until(true, what):
    deadline = time.monotonic() + 60
    while not true():
        if time.monotonic() > deadline:
            raise Failure(f"not within a minute: {what}")
        time.sleep(0.01)


class Mount:
    """In the foreground, for the length of a with statement; then `umount`, and exit code 0."""

    def __init__(self, image, *args, directory="m", wrapper=(), env=None):
        self.directory = directory
        os.makedirs(directory, exist_ok=True)
        self.path = os.path.join(directory, "disk")
        self.argv = [*wrapper, oxbow_path(), "mount", "--foreground", *map(str, args), image, directory]
        self.env = dict(os.environ, **(env or {}))
        self.ended = False

    def __enter__(self):
        self.stderr = open(f"{self.directory}.stderr", "w+")
        self.process = subprocess.Popen(self.argv, stdout=subprocess.PIPE, stderr=self.stderr, env=self.env)
        if not select.select([self.process.stdout], [], [], 60)[0]:
            self.process.kill()
            raise Failure("it says nothing")
        line = self.process.stdout.readline().decode()
        if not line:
            raise Failure(f"it exited with {self.process.wait()}: {self.said()}")
        check_equal(line.strip(), os.path.realpath(self.directory) + "/disk", "the path")
        return self

    def said(self):
        self.stderr.seek(0)
        return self.stderr.read()

    def worker(self):
        return children_of(self.process.pid)[0]

    def is_in_sandbox(self):
        """Of its worker; nothing was left out of it."""
        status = dict(line.split(":\t") for line in
                      pathlib.Path(f"/proc/{self.worker()}/status").read_text().splitlines() if ":\t" in line)
        check_equal((status["Seccomp"], status["NoNewPrivs"], status["CapEff"]), ("2", "1", "0" * 16), "restrictions")
        check_equal(self.said(), "", "what it says")

    def wait(self):
        self.ended = True
        return self.process.wait(60)

    def unmount(self, code=0):
        run("umount", self.directory)
        check_equal(self.wait(), code, f"exit code ({self.said()})")

    def __exit__(self, kind, value, trace):
        try:
            if kind is None and not self.ended:
                self.unmount()
        finally:
            if is_mounted(self.directory):
                subprocess.run(["umount", "-l", self.directory], check=False)
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self.process.stdout.close()
            report = self.said()
            self.stderr.close()
        if kind is None and harness._is_sanitizer_report(report):
            raise Failure(report)
