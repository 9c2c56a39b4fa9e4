#!/usr/bin/python3
# SPDX-License-Identifier: MIT
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


def compiler_flags():
    """The sanitizers of the library's own build, which what links with it needs as well."""
    options = json.loads(output("meson", "introspect", "--buildoptions", BUILD))
    sanitizers = next(o["value"] for o in options if o["name"] == "b_sanitize")
    return [] if sanitizers == "none" else [f"-fsanitize={sanitizers}"]


def build_example(*pkg_config_args, libraries=None):
    env = installed()
    cflags = output("pkg-config", "--cflags", "oxbow", env=env).split()
    libs = libraries or output("pkg-config", *pkg_config_args, "--libs", "oxbow", env=env).split()
    program = tmpdir() / "embed"
    run("cc", "-Wall", "-Wextra", "-Werror", ROOT / "examples" / "embed.c", *cflags,
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


def header():
    """oxbow.h without its comments."""
    return re.sub(r"/\*.*?\*/", "", (ROOT / "include" / "oxbow.h").read_text(), flags=re.DOTALL)


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
    for name in ("oxbow", "oxbow.h", "oxbow.pc", "oxbow.1", "oxbow.3", "liboxbow.a", "liboxbow.so",
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


def test_the_manual_page_names_every_function():
    page = (ROOT / "man" / "oxbow.3").read_text()
    check_equal(sorted(name for name in declared_functions() if name not in page), [],
                "functions that oxbow.3 does not name")


try:
    run_tests(globals())
finally:
    if PREFIX is not None:
        subprocess.run(["rm", "-rf", str(PREFIX)], check=True)
