#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""generate.py SHELL TEMPLATE OXBOW: prints the completion of a shell for the command as it is."""
import pathlib
import sys

import model
import shells

if __name__ == "__main__":
    shell, template, program = sys.argv[1:]
    tables = shells.SHELLS[shell](model.Reader(program).command())
    sys.stdout.write(pathlib.Path(template).read_text().replace("@TABLES@", tables))
