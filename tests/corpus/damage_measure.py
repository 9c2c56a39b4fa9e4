#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Measures what a check and a repair are worth on images damaged at random, oxbow beside QEMU.

    ./dev bench damage [--images N] [--seed S] [--jobs N] [--only SEED] [--show COLUMN] [--json FILE]

Each image is of one of 80 kinds (damage_bases.py), filled with known content and damaged in its
metadata: random bytes, flipped bits, a sector of noise, zeroes or ones, swapped sectors or clusters. The
same bytes then go to `oxbow check -r all` and to `qemu-img check -r all`. What the guest and each
snapshot read before and after is read by code of its own (reader.py), and so is the judgement whether
an image is sound (judge.py). What counts:

    no repair    the repair could not be begun: the image was not opened
    crash, hang, memory   died by a signal, took more than 60 s, or more than 200 MiB
    lowered      at least one guest sector read right before the repair and does not after it
    untrue       called clean (exit 0 of a check after the repair), and it is not: judge.py finds
                 corruption, or the other side's check does
    cleared      the dirty or the corrupt bit was cleared over such corruption
    repaired     of the images in which a check of either side saw the damage: both call it clean, so does
                 judge.py, and no sector was lost. A second figure is what a `-r leaks` of the same side adds
                 where its check saw leaks alone after the `-r all`

--show prints the seeds of a column (or "left": those not repaired, with the findings that remain),
--only does one seed and keeps its images.
"""
import argparse
import collections
import json
import multiprocessing
import os
import pathlib
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time

import damage_bases
import judge
import reader
from damage_bases import DISK

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SIDES = ("oxbow", "qemu")
TIMEOUT_SECONDS = 60
MOST_MEMORY_KIB = 200 << 10
SAMPLED_SECTORS = 12
COLUMNS = ("crash", "hang", "memory", "lowered", "untrue", "cleared")


def oxbow_path():
    return str(pathlib.Path(os.environ.get("OXBOW", ROOT / "build" / "oxbow")).absolute())


# ---- running a command ----

class Ran:
    """What a command came to: exit code, its JSON (None where it gave none), and what went wrong."""

    def __init__(self, argv, folder):
        self.trouble = set()
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            process = subprocess.Popen(argv, cwd=folder, stdin=subprocess.DEVNULL, stdout=out,
                                       stderr=err)
            timer = threading.Timer(TIMEOUT_SECONDS, self._give_up, (process,))
            timer.start()
            _, status, usage = os.wait4(process.pid, 0)
            timer.cancel()
            process.returncode = self.code = os.waitstatus_to_exitcode(status)
            out.seek(0)
            err.seek(0)
            self.out, self.err = out.read(), err.read().decode(errors="replace")
        if self.code < 0 or "Sanitizer" in self.err or ": runtime error: " in self.err:
            self.trouble.add("crash" if "hang" not in self.trouble else "hang")
        # What this process had when it forked counts as its child's.
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if usage.ru_maxrss > max(MOST_MEMORY_KIB, own) and "ASAN_OPTIONS" not in os.environ:
            self.trouble.add("memory")
        try:
            self.report = json.loads(self.out)
        except ValueError:
            self.report = None

    def _give_up(self, process):
        self.trouble.add("hang")
        process.kill()

    def counts(self):
        report = self.report or {}
        return self.code, report.get("corruptions", 0), report.get("leaks", 0)

    def names(self):
        """The findings that oxbow's report has, without notes."""
        found = (self.report or {}).get("findings", [])
        return sorted({f["name"] for f in found
                       if f["severity"] != "note" and not f["repaired"]})


def check(side, path, *options):
    if side == "oxbow":
        argv = [oxbow_path(), "check"]
    else:
        argv = ["qemu-img", "check"]
    return Ran(argv + ["-f", "qcow2", "--output=json", *options, path.name], path.parent)


# ---- one image ----

def header_bits(path):
    """The dirty and corrupt bits."""
    try:
        return reader.Image(path).incompatible & (reader.DIRTY | reader.CORRUPT)
    except ValueError:
        return 0


def oxbow_reads(path, sectors):
    """What oxbow gives for sectors of the active disk: {sector: bytes}."""
    argv = [oxbow_path(), "io", "-r", "-U", "-f", "qcow2", "--recover", "never"]
    for sector in sectors:
        argv += ["-c", f"read -v {sector * reader.SECTOR} {reader.SECTOR}"]
    got = {}
    text = Ran(argv + [path.name], path.parent).out if sectors else b""
    for line in text.decode(errors="replace").splitlines():
        where, _, rest = line.partition(":  ")
        if len(where) == 8 and rest:
            sector = int(where, 16) // reader.SECTOR
            got[sector] = got.get(sector, b"") + bytes.fromhex(rest[:48])
    return got


def some_sectors(right, cluster, rng):
    """A few of the sectors that read right in the active disk."""
    per_cluster = cluster // reader.SECTOR
    clusters = sorted(index for tree, index in right if tree == "")
    chosen = set()
    for index in rng.sample(clusters, min(SAMPLED_SECTORS, len(clusters))):
        sector = rng.randrange(per_cluster)
        if right["", index] >> sector & 1:
            chosen.add(index * per_cluster + sector)
    return sorted(chosen)


def sector_of(truth, index, cluster):
    """The bytes of one sector as they should be; None where the truth has none."""
    guest, within = divmod(index * reader.SECTOR, cluster)
    pieces = truth[""][guest]
    size = cluster // len(pieces)
    piece = pieces[within // size]
    if piece is None:
        return None
    return piece.ljust(size, b"\0")[within % size:within % size + reader.SECTOR]


class Case:
    """One damaged image, and what each side made of it."""

    def __init__(self, seed, base, work, sides):
        self.seed, self.base = seed, base
        rng = random.Random(f"damage {seed}")
        self.folder = pathlib.Path(work) / f"case{seed}"
        shutil.copytree(base.folder, self.folder)
        damage = damage_bases.Damage(base, rng)
        self.steps = damage.steps
        self.damaged = self.folder / DISK
        self.damaged.write_bytes(damage.bytes)
        self.outcome = {side: {"trouble": set()} for side in SIDES}
        self.before = {side: self._check(side, self.damaged) for side in SIDES}
        self.visible = any(self.before[side].counts() != base.sound[side] for side in SIDES)
        self.right = reader.right_sectors(self.damaged, *base.truth)
        for side in sides:
            self._repair(side)

    def _check(self, side, path, *options):
        ran = check(side, path, *options)
        self.outcome[side]["trouble"] |= ran.trouble
        return ran

    def _repair(self, side):
        o = self.outcome[side]
        path = self.folder / f"{side}.qcow2"
        shutil.copy(self.damaged, path)
        o["opened"] = True
        self._repair_once(side, path, "all")
        o["repaired"] = o["freed"] = o["clean"]
        # What is left may be leaks alone, which a repair of everything kept.
        if not o["clean"] and o["said"][side][0] == 3:
            self._repair_once(side, path, "leaks")
            o["freed"] = o["clean"]

    def _repair_once(self, side, path, what):
        o = self.outcome[side]
        sampled = self._sample(path) if side == "oxbow" and self.visible else {}
        # What oxbow keeps may be a lost table; the user whose last word is -r leaks frees it.
        how = ("--salvage=none",) if (side, what) == ("oxbow", "leaks") else ()
        repair = self._check(side, path, "-r", what, *how)
        after = {judge_side: self._check(judge_side, path) for judge_side in SIDES}
        lost = reader.lost_sectors(self.right, reader.right_sectors(path, *self.base.truth))
        o["lost"] = sum(mask.bit_count() for mask in lost.values())
        again = oxbow_reads(path, sorted(sampled))
        o["lost"] += sum(again.get(sector) != data for sector, data in sampled.items())
        problems = judge.problems(path)
        other = SIDES[1 - SIDES.index(side)]
        corrupt = problems or after[other].code in (1, 2) and self._is_refuted(after[other])
        clean = after[side].code == 0
        o["opened"] &= repair.report is not None
        if what == "all":
            o["left"] = after["oxbow"].names()
        o["problems"] = problems[:3]
        o["said"] = {s: after[s].counts() for s in SIDES}
        if o["lost"]:
            o["trouble"].add("lowered")
        if clean and corrupt:
            o["trouble"].add("untrue")
        if header_bits(self.damaged) & ~header_bits(path) and (corrupt or after[side].code in (1, 2)):
            o["trouble"].add("cleared")
        o["clean"] = not problems and not o["lost"] and \
            after["oxbow"].code == after["qemu"].code == 0

    @staticmethod
    def _is_refuted(ran):
        """Whether a check says of an image that it is corrupt, and not merely of no use to it."""
        return ran.report is not None or ran.code == 2

    def _sample(self, path):
        """A few sectors as oxbow reads them, where it reads them right."""
        truth, _, cluster = self.base.truth
        some = some_sectors(self.right, cluster, random.Random(self.seed))
        return {sector: data for sector, data in oxbow_reads(path, some).items()
                if data == sector_of(truth, sector, cluster)}

    def summary(self):
        for o in self.outcome.values():
            o["trouble"] = sorted(o["trouble"])
        return {"seed": self.seed, "base": self.base.name, "damage": self.steps,
                "visible": self.visible, "right": sum(m.bit_count() for m in self.right.values()),
                "found": self.before["oxbow"].names(),
                "says": {side: (ran.err or "")[:200] for side, ran in self.before.items()},
                **self.outcome}


# ---- many ----

_bases = {}
_work = None
_sides = SIDES


def make_bases(numbers):
    for number in sorted(numbers):
        base = damage_bases.Base(number, pathlib.Path(_work) / f"base{number}")
        base.sound = {side: check(side, base.path).counts() for side in SIDES}
        _bases[number] = base


def kind_of(seed):
    return seed % damage_bases.KINDS


def run_seed(seed, keep=False):
    case = Case(seed, _bases[kind_of(seed)], _work, _sides)
    summary = case.summary()
    if not keep:
        shutil.rmtree(case.folder)
    return summary


def measure(seeds, jobs, each=lambda summary: None, sides=SIDES):
    """The summaries of all seeds, in their order; sides: whose repairs are measured."""
    global _work, _sides
    _sides = sides
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    out = []
    with tempfile.TemporaryDirectory(prefix="oxbow-damage-", dir=memory) as _work:
        make_bases({kind_of(seed) for seed in seeds})
        with multiprocessing.get_context("fork").Pool(jobs) as pool:
            for summary in pool.imap(run_seed, seeds):
                each(summary)
                out.append(summary)
    return out


def measure_one(seed):
    """Its images stay."""
    global _work
    _work = tempfile.mkdtemp(prefix=f"oxbow-damage-{seed}-")
    make_bases({kind_of(seed)})
    print(json.dumps(run_seed(seed, keep=True), indent=1))
    print(f"its images are in {_work}")


def table(summaries):
    """The figures, as lines of a table in Markdown."""
    visible = [s for s in summaries if s["visible"]]
    rows = [("images; the damage was seen by a check in", [f"{len(summaries)}; {len(visible)}"] * 2)]

    def count(title, among, of):
        rows.append((title, [str(sum(1 for s in among if of(s[side]))) for side in SIDES]))

    count("could not be opened for a repair", visible, lambda o: not o["opened"])
    for column, title in zip(COLUMNS, (
            "crashed", "hung", "took more than 200 MiB of memory",
            "guest sectors that read right before the repair and not after, in images",
            "called clean, and is not",
            "dirty or corrupt bit cleared over what remains")):
        count(title, summaries, lambda o, column=column: column in o["trouble"])
    rows.append(("guest sectors lost so", [str(sum(s[side]["lost"] for s in summaries))
                                           for side in SIDES]))
    count("truly repaired", visible, lambda o: o["repaired"])
    rows.append(("truly repaired, of those seen", [
        f"{100 * sum(s[side]['repaired'] for s in visible) / max(len(visible), 1):.1f} %"
        for side in SIDES]))
    lines = ["| | oxbow | QEMU |", "|---|---|---|"]
    rows.append(("the same, after a `-r leaks` where leaks alone were left", [
        f"{100 * sum(s[side]['freed'] for s in visible) / max(len(visible), 1):.1f} %"
        for side in SIDES]))
    return lines + [f"| {title} | {a} | {b} |" for title, (a, b) in rows]


def causes(summaries):
    """What remains after oxbow's repair of the images that it did not repair: names -> seeds."""
    left = collections.defaultdict(list)
    for s in summaries:
        if s["visible"] and not s["oxbow"]["repaired"]:
            left[", ".join(s["oxbow"]["left"]) or f"said {s['oxbow']['said']}"].append(s["seed"])
    return sorted(left.items(), key=lambda item: -len(item[1]))


def show(summaries, column):
    if column == "left":
        for names, seeds in causes(summaries):
            print(f"{len(seeds):4} {names}: {' '.join(map(str, seeds[:12]))}")
        return
    for s in summaries:
        if column in s["oxbow"]["trouble"]:
            print(json.dumps(s, indent=1))


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1, help="the first one")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", type=int, metavar="SEED")
    parser.add_argument("--show", choices=COLUMNS + ("left",), action="append", default=[])
    parser.add_argument("--json", type=pathlib.Path, help="writes what came of each image there")
    args = parser.parse_args()
    if args.only is not None:
        measure_one(args.only)
        return 0
    began = time.monotonic()

    def tell(summary):
        bad = summary["oxbow"]["trouble"]
        if bad:
            print(f"seed {summary['seed']}, {summary['base']}: {', '.join(bad)}", file=sys.stderr,
                  flush=True)

    summaries = measure(range(args.seed, args.seed + args.images), args.jobs, tell)
    print("\n".join(table(summaries)))
    for column in args.show:
        print(f"\n{column}:")
        show(summaries, column)
    if args.json:
        args.json.write_text(json.dumps(summaries, indent=1))
    print(f"\n{time.monotonic() - began:.0f} s", file=sys.stderr)
    return 1 if any(s["oxbow"]["trouble"] for s in summaries) else 0


if __name__ == "__main__":
    sys.exit(main())
