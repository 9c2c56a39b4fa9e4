#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""debian/ fits the sources: what is needed, what is installed, which versions. ./dev deb builds it."""
import fnmatch
import pathlib as _pathlib
import re
import sys as _sys

_sys.path.insert(0, str(_pathlib.Path(__file__).resolve().parent.parent))
from harness import *  # noqa: E402

DEBIAN = ROOT / "debian"
BUILD = pathlib.Path(oxbow_path()).parent
# Where debhelper has meson install.
PLACES = {"prefix": "usr", "bindir": "usr/bin", "datadir": "usr/share", "includedir": "usr/include",
          "libdir": "usr/lib/TRIPLET", "libdir_shared": "usr/lib/TRIPLET", "mandir": "usr/share/man",
          "libdir_static": "usr/lib/TRIPLET", "libexecdir": "usr/libexec/oxbow"}
# Links that meson's plan of an installation leaves out.
LINKS = ["usr/libexec/oxbow/vhost-user-blk", "usr/lib/TRIPLET/liboxbow.so", "usr/lib/TRIPLET/liboxbow.so.0"]


def paragraphs():
    """debian/control: a dict of fields for the source, and one for each package by its name."""
    found = []
    for text in (DEBIAN / "control").read_text().strip().split("\n\n"):
        fields = re.findall(r"^(\S+):((?:.*)(?:\n[ \t].*)*)", text, re.M)
        found.append({name: value.strip() for name, value in fields})
    return found[0], {fields["Package"]: fields for fields in found[1:]}


def names(field):
    """The packages of a list of dependencies, without versions."""
    return {re.match(r"[^ (]+", item.strip()).group() for item in field.split(",") if item.strip()}


def dev_list(name):
    return set(re.search(rf"^{name}=\((.*?)\)", (ROOT / "dev").read_text(), re.M | re.S).group(1).split())


def test_the_packages_are_built_with_what_dev_and_the_readme_install():
    source, _ = paragraphs()
    # build-essential brings a compiler.
    expected = dev_list("OXBOW_PACKAGES") - {"gcc", "libc6-dev"} | {"debhelper-compat"}
    check_equal(sorted(names(source["Build-Depends"])), sorted(expected), "Build-Depends")


def test_every_library_that_is_loaded_when_it_is_wanted_is_recommended():
    _, packages = paragraphs()
    loaded = {"oxbow": set(), "liboxbow0": set()}
    for path in (ROOT / "src").rglob("*.c"):
        for name, version in re.findall(r'"(lib[\w+-]+)\.so\.(\d+)"', path.read_text()):
            package = f"{name.lower().replace('_', '-')}{'-' if name[-1].isdigit() else ''}{version}"
            loaded["oxbow"].add(package)
            if path.relative_to(ROOT / "src").parts[0] not in ("serve", "cli"):
                loaded["liboxbow0"].add(package)
    for package, wanted in loaded.items():
        check_equal(sorted(names(packages[package].get("Recommends", ""))), sorted(wanted),
                    f"Recommends of {package}")


def test_the_static_library_is_installed_with_what_it_is_linked_with():
    _, packages = paragraphs()
    needed = re.search(r"^Requires.private: (.*)$", (BUILD / "meson-private" / "oxbow.pc").read_text(), re.M)
    depends = " ".join(names(packages["liboxbow-dev"]["Depends"]))
    for library in needed.group(1).split(","):
        check_in({"zlib": "zlib1g"}.get(library.split()[0], library.split()[0]) + "-dev", depends)


def test_the_versions_are_those_of_the_build():
    version = re.search(r"^  version: '([^']+)'", (ROOT / "meson.build").read_text(), re.M).group(1)
    check_equal(re.match(r"oxbow \(([^)]+)\)", (DEBIAN / "changelog").read_text()).group(1), version,
                "version of debian/changelog")


def installed_files():
    plan = json.loads(output("meson", "introspect", "--install-plan", BUILD))
    found = list(LINKS)
    for kind in plan.values():
        for entry in kind.values():
            place = re.sub(r"\{(\w+)\}", lambda match: PLACES[match.group(1)], entry["destination"])
            found.append(place.replace("usr/lib/systemd/", "lib/systemd/"))
    return found


def claims(path, wanted):
    """Whether a line of an .install file, a name or a folder with wild cards, takes the path."""
    wanted = wanted.replace("usr/lib/*", "usr/lib/TRIPLET")
    return any(fnmatch.fnmatch(str(part), wanted) for part in (pathlib.PurePath(path),
                                                              *pathlib.PurePath(path).parents))


def test_every_file_that_is_installed_is_in_one_package():
    wanted = {path.stem: path.read_text().split() for path in DEBIAN.glob("*.install")}
    check_equal(sorted(wanted), sorted(paragraphs()[1]), "packages that install something")
    for path in installed_files():
        takers = [package for package, lines in wanted.items() if any(claims(path, line) for line in lines)]
        check_equal(len(takers), 1, f"number of packages with {path} ({takers})")
    for package, lines in wanted.items():
        for line in lines:
            if not any(claims(path, line) for path in installed_files()):
                raise Failure(f"debian/{package}.install: nothing is installed as {line}")


def test_the_licence_is_that_of_the_sources():
    licence = (ROOT / "LICENSE").read_text().split("\n\n", 2)[2].split()
    stated = (DEBIAN / "copyright").read_text().split("License: Expat\n")[-1].split()
    check_equal([word for word in stated if word != "."], licence, "words of debian/copyright")


def test_the_script_that_tries_the_packages_parses():
    run("sh", "-n", ROOT / "tests" / "package" / "smoke.sh")
    check_equal(os.access(DEBIAN / "rules", os.X_OK), True, "debian/rules can be executed")


run_tests(globals())
