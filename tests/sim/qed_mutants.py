# SPDX-License-Identifier: MIT
"""Mutants of what writes QED images: fields as those of SIM_MUTANTS in mutants.py. Each line of the tables
"Invariants for writing" and "On disk, in order" in docs/qed.md is broken once at least."""

QED_MUTANTS = [
]
