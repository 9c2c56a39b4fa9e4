#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Which tests of a suite ./dev iotests chooses, and what it makes of their ends."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import run as iotests
from harness import *

SHELL = "#!/usr/bin/env bash\n. ./common.rc\n"
PYTHON = "#!/usr/bin/env python3\nimport iotests\n"


def needs_more(text):
    path = tmpdir() / "test"
    path.write_text(text)
    return iotests.needs_more(path)


def test_a_test_that_starts_a_guest_or_asks_it_is_left_out():
    for text in (SHELL + "_launch_qemu -drive x\n", SHELL + "echo quit | $QEMU -drive x\n",
                 SHELL + "run_qemu <<EOF\n", SHELL + "$QSD --blockdev x\n",
                 PYTHON + "vm = iotests.VM()\n", PYTHON + "self.vm.qmp('query')\n",
                 PYTHON + "qsd = iotests.QemuStorageDaemon()\n"):
        check_equal(needs_more(text), True, f"of {text!r}")


def test_a_test_of_the_three_tools_is_chosen():
    for text in (SHELL + "$QEMU_IMG info x\n$QEMU_IO -c quit x\n$QEMU_NBD x\n",
                 SHELL + "# _launch_qemu is not needed here\n$QEMU_IMG info x | _filter_qmp\n",
                 SHELL + "run_qemu_img info x\n",
                 PYTHON + "class T(iotests.QMPTestCase):\n    def test(self):\n        qemu_img('x')\n"):
        check_equal(needs_more(text), False, f"of {text!r}")


def test_the_page_has_the_tests_that_need_what_is_missing():
    page = (ROOT / "docs" / "iotests.md").read_text()
    table = page.split("| missing | tests of 10.0 that need it |\n|---|---|\n")[1].split("\n\n")[0]
    rows = [row.split("|")[2].split(", a part of")[0] for row in table.splitlines()]
    check_equal([row.split() for row in rows], [names.split() for names in iotests.LACKS.values()], "the table")


def test_a_test_without_an_end_is_ended_with_all_that_it_has_started():
    scratch = tmpdir() / "scratch"
    (scratch / "images").mkdir(parents=True)
    script = "setsid sleep 1000 & echo begun; while true; do sleep 0.01; done"
    process = subprocess.Popen(["bash", "-c", script], stdout=subprocess.PIPE, text=True,
                               env=dict(os.environ, TEST_DIR=f"{scratch}/images"), start_new_session=True)
    text = iotests.await_end(process, scratch, "031", 1)
    check_in("begun\n\nno end after 1 seconds\n", text, "what is told")
    check_equal(iotests.judge("031", text)[0], "fail", "the end")
    left = [process.name for process in pathlib.Path("/proc").glob("[0-9]*") if iotests.belongs_to(process, scratch)]
    check_equal(left, [], "processes that are left")


def test_the_end_of_a_test_is_read():
    line = "{}      {}       [12:00:00] [12:00:01]  0.7s                 {}\n"
    head = "QEMU_IMG -- \"x\"\n\n"
    for status in ("pass", "fail", "not run"):
        said = head + line.format("031", status, "why")
        check_equal(iotests.judge("031", said)[0], status, f"of {said!r}")
    check_equal(iotests.judge("031", head + line.format("0310", "pass", ""))[0], "fail", "another test's end")
    check_equal(iotests.judge("031", head)[0], "fail", "no end")


run_tests(globals())
