#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""./dev on machines that lack something: a copy of it runs where every tool is a stand-in that notes
how it was called."""
from harness import *

TOOLS = ("bash", "cat", "dirname", "grep", "head", "ls", "mkdir", "mktemp", "rm", "sed", "touch")
OXBOW_NEEDS = ("gcc", "libc6-dev", "meson", "ninja-build", "pkg-config", "liburing-dev", "zlib1g-dev",
               "libzstd-dev", "libisal-dev", "libdeflate-dev", "libjansson-dev", "libseccomp-dev",
               "libgnutls28-dev", "libfuse3-dev", "libnbd-dev", "nettle-dev")
TESTS_NEED = ("libcmocka-dev", "qemu-utils", "valgrind")


class Machine:
    """A PATH of stand-ins, and ./dev in a tree of its own."""

    def __init__(self, user_id=1000, installed=()):
        self.bin = tmpdir() / "bin"
        self.tree = tmpdir() / "tree"
        self.calls = tmpdir() / "calls"
        self.bin.mkdir()
        self.tree.mkdir()
        self.calls.touch()
        (self.tree / "dev").write_text((ROOT / "dev").read_text())
        for tool in TOOLS:
            found = output("sh", "-c", f"command -v {tool}").strip()
            (self.bin / tool).symlink_to(found)
        self.add("id", f"echo {user_id}", noted=False)
        self.add("nproc", "echo 2", noted=False)
        self.add("cc", "echo 12 __clang_major__", noted=False)
        self.add("dpkg-query", f"case ' {' '.join(installed)} ' in *\" $3 \"*) echo installed;; esac",
                 noted=False)
        self.add("apt-get", "true")
        self.add("meson", "[ $1 != setup ] || touch $2/build.ninja")
        self.add("ninja", "echo 'echo oxbow \"$@\" >>$CALLS' >build/oxbow; chmod +x build/oxbow")
        (self.bin / "chmod").symlink_to(output("sh", "-c", "command -v chmod").strip())

    def add(self, name, does, noted=True):
        note = f'echo {name} "$@" >>$CALLS\n' if noted else ""
        (self.bin / name).write_text(f"#!{self.bin}/bash\n{note}{does}\n")
        (self.bin / name).chmod(0o755)

    def dev(self, *args, **kwargs):
        env = {"PATH": str(self.bin), "CALLS": str(self.calls), "HOME": str(tmpdir())}
        return run("/bin/bash", self.tree / "dev", *args, env=env, check=False, **kwargs)

    def called(self, name):
        """The arguments of each call of a tool, in their order."""
        lines = [line.partition(" ") for line in self.calls.read_text().splitlines()]
        return [rest for word, _, rest in lines if word == name]


def line_for_root(result):
    """The packages of the line that ./dev wants an administrator to run."""
    check_equal(result.returncode, 1, f"exit code of ./dev, which said {result.stderr!r}")
    start = "apt-get update && apt-get install -y --no-install-recommends "
    lines = [line for line in result.stderr.splitlines() if line.startswith(start)]
    check_equal(len(lines), 1, f"number of lines for root in {result.stderr!r}")
    return lines[0][len(start):].split()


def test_who_may_not_install_is_told_what_an_administrator_has_to_run():
    machine = Machine(installed=("gcc", "python3"))
    packages = line_for_root(machine.dev("serve"))
    check_equal(sorted(packages), sorted(set(OXBOW_NEEDS) - {"gcc"}), "packages")
    check_equal(machine.called("apt-get"), [], "calls of apt-get")


def test_what_the_tests_need_is_told_in_one_line_too():
    packages = line_for_root(Machine().dev("test"))
    for package in OXBOW_NEEDS + TESTS_NEED:
        check_in(package, packages)


def test_a_sudo_that_refuses_leads_to_the_same_line():
    machine = Machine()
    machine.add("sudo", "echo not you >&2; exit 1")
    result = machine.dev("serve")
    check_in("not you", result.stderr)
    check_in("liburing-dev", line_for_root(result))


def test_who_may_install_gets_what_is_missing_and_no_more():
    machine = Machine(installed=OXBOW_NEEDS[1:])
    machine.add("sudo", '"$@"')
    machine.add("env", 'while [ "${1#*=}" != "$1" ]; do shift; done; "$@"', noted=False)
    check_equal(machine.dev("serve", "disk").returncode, 0, "exit code")
    check_equal(machine.called("apt-get"),
                ["update -qq", "install -qq -y --no-install-recommends gcc python3"], "apt-get's calls")


def test_a_user_who_has_the_packages_needs_nobody():
    machine = Machine(installed=OXBOW_NEEDS + ("python3",))
    result = machine.dev("serve", "disk")
    check_equal(result.returncode, 0, f"exit code of ./dev, which said {result.stderr!r}")
    check_equal(machine.called("apt-get"), [], "calls of apt-get")
    check_in("serve -f qcow2 --nbd", machine.called("oxbow")[-1])


def test_serve_builds_the_command_alone_and_build_the_rest_in_the_same_folder():
    machine = Machine(installed=OXBOW_NEEDS + ("python3", "libcmocka-dev"))
    machine.dev("serve", "disk")
    check_in("-Dtests=false", machine.called("meson")[0])
    check_equal(machine.called("ninja"), ["-C build -j 2 oxbow"], "ninja's calls")
    check_equal(machine.dev("build").returncode, 0, "exit code")
    check_in("configure build", machine.called("meson")[1])
    check_in("-Dtests=true", machine.called("meson")[1])
    check_equal(machine.called("ninja")[1:], ["-C build -j 2"], "ninja's calls")
    machine.dev("serve", "disk")
    machine.dev("build")
    check_equal(len(machine.called("meson")), 2, "number of calls of meson")


def test_warnings_are_errors_with_the_compilers_that_give_none():
    for position, (says, expected) in enumerate((("12 __clang_major__", "true"), ("4 14", "true"),
                                                 ("14 __clang_major__", "false"), ("", "false"))):
        machine = Machine(installed=OXBOW_NEEDS + ("python3", "libcmocka-dev"))
        machine.add("cc", f"echo {says}", noted=False)
        machine.dev("build")
        check_in(f"-Dwerror={expected}", machine.called("meson")[-1])
        for path in (machine.bin, machine.tree, machine.calls):
            path.rename(tmpdir() / f"{path.name}{position}")


run_tests(globals())
