#!/usr/bin/python3
# SPDX-License-Identifier: MIT
# runtests: priority 60
"""The library as another program meets it: installed, found by pkg-config, linked both ways."""
import re
from harness import *

BUILD = pathlib.Path(os.environ.get("OXBOW_BUILD", ROOT / "build"))
PREFIX = None


def installed():
    """A copy that `meson install` made, once for all the tests; its environment for pkg-config."""
    global PREFIX
    if PREFIX is None:
        PREFIX = pathlib.Path(subprocess.run(["mktemp", "-d"], check=True, text=True,
                                             stdout=subprocess.PIPE).stdout.strip())
        run("meson", "install", "-C", BUILD, "--no-rebuild", "--quiet", "--destdir", PREFIX)
    config = next(PREFIX.rglob("oxbow.pc"))
    return dict(os.environ, PKG_CONFIG_PATH=str(config.parent), PKG_CONFIG_SYSROOT_DIR=str(PREFIX))


def library_folder():
    return next(PREFIX.rglob("liboxbow.so")).parent


def build_option(name):
    options = json.loads(output("meson", "introspect", "--buildoptions", BUILD))
    return next(option["value"] for option in options if option["name"] == name)


def compiler_flags():
    """The sanitizers of the library's own build, which what links with it needs as well."""
    sanitizers = build_option("b_sanitize")
    return [] if sanitizers == "none" else [f"-fsanitize={sanitizers}"]


def build_example(*pkg_config_args, libraries=None, name="embed"):
    env = installed()
    cflags = output("pkg-config", "--cflags", "oxbow", env=env).split()
    libs = libraries or output("pkg-config", *pkg_config_args, "--libs", "oxbow", env=env).split()
    program = tmpdir() / name
    run("cc", "-Wall", "-Wextra", "-Werror", ROOT / "examples" / f"{name}.c", *cflags,
        *compiler_flags(), *libs, "-o", program)
    return program


def run_example(program):
    disk = tmpdir() / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", disk, "64M")
    env = dict(os.environ, LD_LIBRARY_PATH=str(library_folder()))
    said = output(program, disk, env=env)
    check_equal(said, "wrote and read 4096 bytes\n", "output of the example")
    qemu_io("-f", "qcow2", "-r", "-c", "read -P 0x5a 1M 4k", "-c", "read -P 0 0 1M", disk)
    qemu_img("check", "-q", disk)


def whole_header():
    """oxbow.h and the parts that it includes."""
    folder = ROOT / "include"
    return "".join(path.read_text() for path in (folder / "oxbow.h", *sorted(folder.glob("oxbow/*.h"))))


def header():
    """The same without its comments."""
    return re.sub(r"/\*.*?\*/", "", whole_header(), flags=re.DOTALL)


def declared_functions():
    return set(re.findall(r"^[a-z][^#()]*?\b\*?(ox_\w+)\(", header(), flags=re.MULTILINE))


def declared_structs():
    """The fields of each struct: pairs of type and name."""
    structs = {}
    for name, body in re.findall(r"^struct (ox_\w+) \{\n(.*?)^\};", header(), flags=re.M | re.S):
        structs[name] = re.findall(r"^\t(.*?)[\s*]*\(?\*?(\w+)(?:\[\w+\]|\)\(.*\))?;", body, flags=re.M)
    return structs


def declared_enums():
    return {name: re.findall(r"\b(OX_\w+)\b", body)
            for name, body in re.findall(r"^enum (ox_\w+) \{\n(.*?)^\};", header(), flags=re.M | re.S)}


def test_the_example_runs_with_the_shared_library():
    program = build_example()
    check_in("liboxbow.so.0", output("ldd", program))
    run_example(program)


def test_the_example_runs_with_the_static_library():
    installed()
    needs = output("pkg-config", "--static", "--libs-only-l", "oxbow", env=installed()).split()
    archive = library_folder() / "liboxbow.a"
    program = build_example(libraries=[archive] + [lib for lib in needs if lib != "-loxbow"])
    if "liboxbow" in output("ldd", program):
        raise Failure("the example is linked with the shared library")
    run_example(program)


def test_the_example_says_what_is_wrong_with_an_image():
    program = build_example()
    env = dict(os.environ, LD_LIBRARY_PATH=str(library_folder()))
    expect_failure(program, tmpdir() / "missing.qcow2", message="missing.qcow2", env=env)


def test_the_example_with_an_opener_reads_a_chain_of_one_folder():
    program = build_example(name="handover")
    env = dict(os.environ, LD_LIBRARY_PATH=str(library_folder()))
    folder = tmpdir() / "folder"
    (folder / "sub").mkdir(parents=True)
    for place in (folder / "sub", tmpdir()):
        qemu_img("create", "-q", "-f", "qcow2", place / "base.qcow2", "1M")
        qemu_io("-f", "qcow2", "-c", "write -q -P 0x5a 0 64k", place / "base.qcow2")
    for name, backing in (("good", "sub/base.qcow2"), ("bad", "../base.qcow2")):
        qemu_img("create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", backing,
                 folder / f"{name}.qcow2", "1M")
    check_equal(output(program, folder, "good.qcow2", env=env),
                "read 4096 bytes, the first is 0x5a\n", "output of the example")
    expect_failure(program, folder, "bad.qcow2", env=env,
                   message="Could not open '../base.qcow2': Invalid cross-device link")
    writer = subprocess.Popen(["qemu-io", "-f", "qcow2", folder / "sub" / "base.qcow2"], text=True,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with writer:
        writer.stdin.write("read 0 512\n")
        writer.stdin.flush()
        check_in("read 512/512", writer.stdout.readline())
        expect_failure(program, folder, "good.qcow2", env=env,
                       message=f"(held by qemu-io, process {writer.pid})")
        writer.stdin.close()


def run_supervisor_through_kills(program, kills=6, each=40, at_once=8, **env):
    """Kills each worker once it has answered so much, with more to do: at_once numbers, of which the next
    worker hears no more. Returns the blocks answered."""
    env = dict(os.environ, LD_LIBRARY_PATH=str(library_folder()), **env)
    answered = []
    workers = []
    with subprocess.Popen([program, "disk.qcow2"], env=env, text=True, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as supervisor:
        numbers = list(reversed(range((kills + 1) * each)))

        def give(count):
            for _ in range(min(count, len(numbers))):
                supervisor.stdin.write(f"{numbers.pop()}\n")
            if not supervisor.stdin.closed:
                supervisor.stdin.flush()
            if not numbers:
                supervisor.stdin.close()

        for line in supervisor.stdout:
            word, number = line.split()
            if word == "worker":
                workers.append(int(number))
                give(at_once)
                continue
            answered.append(int(number))
            if len(workers) <= kills and len(answered) >= len(workers) * each // 2:
                os.kill(workers[-1], signal.SIGKILL)
            give(1)
    check_equal(supervisor.returncode, 0, "exit code of the supervisor")
    check_equal(len(workers), kills + 1, "workers")
    least = (kills + 1) * (each - at_once)
    if len(answered) < least:
        raise Failure(f"only {len(answered)} writes were answered, and not {least}")
    return answered


def test_the_example_with_a_supervisor_loses_nothing_that_was_answered():
    program = build_example(name="supervisor")
    for env in ({}, {"OXBOW_IO": "threads"}):
        qemu_img("create", "-q", "-f", "qcow2", "disk.qcow2", "64M")
        answered = run_supervisor_through_kills(program, **env)
        reads = [f"read -P {number % 255 + 1} {number * 64}k 64k" for number in answered]
        qemu_io("-f", "qcow2", "-r", *(part for read in reads for part in ("-c", read)), "disk.qcow2")
        qemu_img("check", "-q", "disk.qcow2")


def test_the_workers_of_the_example_end_with_their_supervisor():
    program = build_example(name="supervisor")
    qemu_img("create", "-q", "-f", "qcow2", "disk.qcow2", "64M")
    env = dict(os.environ, LD_LIBRARY_PATH=str(library_folder()))
    supervisor = subprocess.Popen([program, "disk.qcow2"], env=env, text=True, stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE)
    with supervisor:
        check_in("worker ", supervisor.stdout.readline())
        expect_failure("qemu-io", "-f", "qcow2", "-c", "write 0 512", "disk.qcow2", message="lock")
        supervisor.kill()
        check_equal(supervisor.stdout.read(), "", "what is said until nobody is left to say more")


def test_the_shared_library_exports_the_public_functions_and_no_others():
    symbols = output("nm", "-D", "--defined-only", "--with-symbol-versions",
                     BUILD / "src" / "lib" / "liboxbow.so").split("\n")
    exported = {line.split()[2] for line in symbols if line and line.split()[1] != "A"}
    declared = {f"{name}@@OXBOW_0" for name in declared_functions()}
    check_equal(sorted(exported - declared), [], "what is exported and not declared")
    check_equal(sorted(declared - exported), [], "what is declared and not exported")


def test_the_header_is_whole_for_c_and_cplusplus():
    source = tmpdir() / "a.c"
    source.write_text("#include <oxbow.h>\nint main(void) { return ox_version() == 0; }\n")
    include = f"-I{ROOT / 'include'}"
    run("cc", "-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only", include,
        source)
    run("clang++-14", "-x", "c++", "-Wall", "-Werror", "-fsyntax-only", include, source)


def test_the_install_holds_header_pages_and_libraries():
    installed()
    names = {path.name for path in PREFIX.rglob("*")}
    for name in ("oxbow", "oxbow.h", "check.h", "oxbow.pc", "oxbow.1", "oxbow.3", "_oxbow",
                 "oxbow.fish", "liboxbow.a", "liboxbow.so",
                 "liboxbow.so.0"):
        check_in(name, sorted(names))


def test_the_versions_agree():
    installed()
    version = output("pkg-config", "--modversion", "oxbow", env=installed()).strip()
    header = (ROOT / "include" / "oxbow.h").read_text()
    parts = [re.search(rf"#define OX_VERSION_{part} (\d+)", header).group(1)
             for part in ("MAJOR", "MINOR", "PATCH")]
    check_equal(".".join(parts), version, "version of the header")


def test_every_choice_flag_and_truth_of_the_options_is_checked():
    """src/lib/options.c has a row for each; a choice's names the last enumerator."""
    table = re.sub(r"\s+", " ", (ROOT / "src" / "lib" / "options.c").read_text())
    enums = declared_enums()
    missing = []
    for struct, fields in declared_structs().items():
        if not struct.endswith("_options"):
            continue
        for kind, name in fields:
            if kind.startswith("enum "):
                row = f"CHOICE, {enums[kind.split()[1]][-1]}}}"
            elif kind == "bool":
                row = "TRUTH, 0}"
            elif kind == "unsigned" and name == "flags":
                row = "FLAGS, "
            else:
                continue
            if f'{{"{name}", offsetof(struct {struct}, {name}), {row}' not in table:
                missing.append(f"{struct}.{name}")
    check_equal(missing, [], "options that are not checked")


def manual_page():
    """oxbow.3: the text of its sections by name, of the subsections of DESCRIPTION as well."""
    text = (ROOT / "man" / "oxbow.3").read_text()
    parts = re.split(r"^\.S[hs] (.*)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2]))


def test_the_manual_page_has_every_function_as_the_header_declares_it():
    declared = {}
    for kind, name, arguments in re.findall(
            r"^([a-z][^#(){};]*?\*?)\b(ox_\w+)\(([^;]*?)\)\s*(?:OX_CHECKED)?;", header(),
            flags=re.MULTILINE | re.DOTALL):
        arguments = [" ".join(a.split()) for a in re.split(r",(?![^()]*\))", arguments)]
        declared[name] = (" ".join(kind.split()), arguments)
    check_equal(sorted(declared), sorted(declared_functions()), "what was found in the header")
    synopsis = {}
    for kind, name, arguments in re.findall(r"^\.Ft (.*)\n\.Fn (\w+)(.*)$", manual_page()["SYNOPSIS"],
                                            flags=re.MULTILINE):
        synopsis[name] = (kind, re.findall(r'"([^"]*)"', arguments) or [arguments.strip()])
    check_equal(synopsis, declared, "prototypes of the page, and of the header")


def test_the_manual_page_explains_every_function_field_and_value():
    page = manual_page()
    items = [item for text in page.values() for item in re.findall(r"^\.It Fn (\w+)$", text, re.M)]
    check_equal(sorted(items), sorted(declared_functions()), "functions that are explained, once each")
    for struct, fields in declared_structs().items():
        text = page.get(f"struct {struct}", "")
        explained = re.findall(r"^\.It Va (\w+)\n(?!\.It|\.El)", text, re.M)
        check_equal(explained, [name for _, name in fields], f"fields of struct {struct}")
    named = set(re.findall(r"\b(OX_[A-Z0-9_]+)\b", "".join(page.values())))
    values = {value for values in declared_enums().values() for value in values}
    values |= set(re.findall(r"^#define (OX_(?!CHECKED)\w+)", header(), re.M))
    check_equal(sorted(values - named), [], "values and macros that oxbow.3 does not name")
    check_equal(sorted(named - values), [], "those that it names, and that are none")


def test_the_manual_page_lists_the_errors_that_the_header_speaks_of():
    spoken = set(re.findall(r"-(E[A-Z0-9]+)\b", whole_header()))
    listed = set(re.findall(r"^\.It Bq Er -(E\w+)$", manual_page()["ERRORS"], re.M))
    check_equal(sorted(spoken - listed), [], "errors that oxbow.3 does not list")


def installing_lines():
    """The lines of each block of shell in the README's chapter on installing."""
    chapter = (ROOT / "README.md").read_text().split("\n## Installing\n")[1].split("\n## ")[0]
    blocks = re.findall(r"^```sh\n(.*?)^```$", chapter, flags=re.MULTILINE | re.DOTALL)
    check_equal(len(blocks), 2, "number of blocks")
    return blocks


def bare_machine():
    """What the README's lines see: a copy of the sources without what was built, a DESTDIR that
    stands for /, and tools that leave the real / alone. Returns the tree, DESTDIR and environment."""
    tree, root, tools = (tmpdir() / name for name in ("tree", "root", "tools"))
    tree.mkdir()
    for name in ("src", "include", "man", "tools", "examples", "units", "data", "completions",
                 "meson.build", "meson_options.txt"):
        run("cp", "-r", ROOT / name, tree)
    (root / "etc").mkdir(parents=True)
    run("cp", "-r", "/etc/ld.so.conf", "/etc/ld.so.conf.d", root / "etc")
    # Of pkg-config's own folders, only those without what the tests alone need.
    folders = output("pkg-config", "--variable", "pc_path", "pkg-config").strip().split(":")
    packages = tmpdir() / "packages"
    packages.mkdir()
    for file in (file for folder in reversed(folders) for file in pathlib.Path(folder).glob("*.pc")):
        if file.stem not in ("cmocka", "oxbow"):
            (packages / file.name).unlink(missing_ok=True)
            (packages / file.name).symlink_to(file)
    tools.mkdir()
    for name, does in (("sudo", '"$@"'), ("apt-get", 'echo "$@" >>$DESTDIR/apt-get'),
                       ("ldconfig", "/sbin/ldconfig -r $DESTDIR"),
                       # dpkg-dev is not there, from which meson learns Debian's folder of libraries.
                       ("dpkg-architecture", "exit 1")):
        (tools / name).write_text(f"#!/bin/sh\n{does}\n")
        (tools / name).chmod(0o755)
    env = dict(os.environ, DESTDIR=str(root), PATH=f"{tools}:{root}/usr/local/bin:{os.environ['PATH']}",
               PKG_CONFIG_LIBDIR=":".join([f"{root}{folder}" for folder in folders] + [str(packages)]))
    return tree, root, env


def test_the_installing_chapter_of_the_readme_holds_on_a_bare_machine():
    tree, root, env = bare_machine()
    install, use = installing_lines()
    said = output("bash", "-eux", input=install, cwd=tree, env=env)
    if build_option("werror") and "warning:" in said:
        raise Failure(f"the compiler warns in a release build: {said[said.index('warning:') - 200:]}")
    loader = output("/sbin/ldconfig", "-r", root, "-p")
    found = re.search(r"liboxbow\.so\.0 .*=> (\S+)", loader)
    if not found:
        raise Failure(f"the loader does not find the library: {loader}")
    env["LD_LIBRARY_PATH"] = str(root) + os.path.dirname(found.group(1))
    env["PKG_CONFIG_SYSROOT_DIR"] = str(root)
    said = output("bash", "-eux", input=use, cwd=tree, env=env)
    check_in("wrote and read 4096 bytes\n", said)
    check_in(str(root), output("ldd", tree / "embed", env=env))
    packages = (root / "apt-get").read_text().split()
    check_equal(packages[:3], ["update", "install", "-y"], "apt-get's first words")
    dev = re.search(r"^OXBOW_PACKAGES=\((.*?)\)", (ROOT / "dev").read_text(), re.MULTILINE | re.DOTALL)
    check_equal(sorted(packages[3:]), sorted(set(dev.group(1).split()) - {"python3"}),
                "packages of the README, and those of ./dev, whose scripts need Python")


try:
    run_tests(globals())
finally:
    if PREFIX is not None:
        subprocess.run(["rm", "-rf", str(PREFIX)], check=True)
