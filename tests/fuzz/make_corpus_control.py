#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Writes the seed corpus of fuzz_control into corpus/control: a line for each command."""
import json
import pathlib

LINES = {
    "status": {"command": "status"},
    "stats": {"command": "stats", "disk": "vm1"},
    "metrics": {"command": "metrics"},
    "flush": {"command": "flush", "disk": ""},
    "resize": {"command": "resize", "disk": "vm1", "size": 1 << 40, "shrink": True},
    "grow": {"command": "resize", "grow-by": 512, "shrink": False},
    "limit": {"command": "limit", "iops": 5, "iops-burst": 10, "bandwidth": 1 << 30, "bandwidth-burst": 1},
    "stop": {"command": "stop"},
    "remove": {"command": "remove", "disk": "vm1"},
    "add": {"command": "add", "name": "vm1", "image": "/disk", "lock": "write", "drain-ms": 1, "hang-ms": 2,
            "nbd": "unix:/x", "vhost-user-blk": "/y", "options": ["cache=none", "read-only"],
            "descriptors": {"chain": 3, "nbd": 1, "vhost-user-blk": 1}},
}

folder = pathlib.Path(__file__).parent / "corpus" / "control"
folder.mkdir(exist_ok=True)
for name, line in LINES.items():
    (folder / name).write_text(json.dumps(line))
