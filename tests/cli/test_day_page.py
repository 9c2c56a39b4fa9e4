#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The lines of docs/day.md are run, one after the other, and print what the page says.

test_day_page.py --accept rewrites what the page says is printed: look at the difference before it is
committed. A block whose first line serves an image stays until SIGTERM, at the end of its chapter."""
import difflib

from peers import *

PAGE = ROOT / "docs" / "day.md"
BLOCK = re.compile(r"(?<=```console\n)(.*?)(?=```\n)", re.S)
# What differs from one run, and from one file system, to the next.
CHANGING = ((re.compile(r"completed in \d+\.\d+ seconds"), "completed in 0.412 seconds"),
            (re.compile(r"disk size: .*"), "disk size: 2.2 MiB"), (re.compile(r"process \d+\)"), "process N)"))


def as_shown(text):
    text = text.replace(str(pathlib.Path.cwd()), "/home/me")
    for pattern, shown in CHANGING:
        text = pattern.sub(shown, text)
    return text


class Day:
    def __init__(self):
        self.status = 0
        self.server = None
        folder = str(pathlib.Path(oxbow_path()).parent)
        self.env = dict(os.environ, PATH=f"{folder}:{os.environ['PATH']}", HOME=str(tmpdir()))

    def run_line(self, command):
        if command == "echo $?":
            return f"{self.status}\n"
        done = subprocess.run(["bash", "-c", command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, env=self.env, timeout=120, check=False)
        self.status = done.returncode
        return done.stdout

    def serve(self, command):
        self.server = subprocess.Popen(["bash", "-c", f"exec {command}"], stdin=subprocess.DEVNULL,
                                       stdout=subprocess.PIPE, text=True, env=self.env)
        on_exit(self.stop)
        return self.server.stdout.readline()

    def stop(self):
        if self.server is not None:
            self.server.terminate()
            status = self.server.wait(timeout=60)
            self.server.stdout.close()
            self.server = None
            check_equal(status, 0, "exit code of the server")

    def block(self, block):
        text = ""
        for line in block.splitlines():
            if line.startswith("$ "):
                run_it = self.serve if line.startswith("$ oxbow serve ") else self.run_line
                text += line + "\n" + as_shown(run_it(line[2:]))
        return text

    def page(self):
        chapters = re.split(r"(?=^## )", PAGE.read_text(), flags=re.M)
        shown = ""
        for chapter in chapters:
            shown += BLOCK.sub(lambda match: self.block(match.group(1)), chapter)
            self.stop()
        return shown


def test_the_lines_of_the_page_print_what_it_says():
    expected = PAGE.read_text()
    changes = difflib.unified_diff(expected.splitlines(), Day().page().splitlines(), n=0, lineterm="")
    check_equal("\n".join(changes), "", "what docs/day.md says and what is printed (--accept)")


def test_the_readme_leads_to_every_verb():
    table = (ROOT / "README.md").read_text().split("\n## The verbs\n")[1].split("\n## ")[0]
    check_equal(sorted(re.findall(r"^\| `([a-z-]+)` \|", table, re.M)), sorted(documented_verbs()),
                "the verbs of the README")


if sys.argv[1:] == ["--accept"]:
    def test_accept():
        PAGE.write_text(Day().page())

    run_tests({"test_accept": test_accept}, argv=[])
else:
    run_tests(globals())
