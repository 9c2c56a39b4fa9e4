#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Makes the seeds of fuzz_guest: the images of fuzz_check's, each behind the requests of a guest."""
import pathlib
import random

HERE = pathlib.Path(__file__).resolve().parent
REQUESTS = 16

if __name__ == "__main__":
    folder = HERE / "corpus" / "guest"
    folder.mkdir(exist_ok=True)
    for image in sorted((HERE / "corpus" / "check").iterdir()):
        rng = random.Random(image.name)
        (folder / image.name).write_bytes(rng.randbytes(4 * REQUESTS) + image.read_bytes())
