#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Each fault of the mutation list still fits the tree, and its test exists and cites its rule."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "mutation"))
from faults import TOP, BadFault, applied, check_citation, read_all  # noqa: E402

LEAST = 35


def main():
    wrong = 0
    faults = read_all()
    for fault in faults:
        try:
            applied(fault, TOP)
            check_citation(fault)
        except BadFault as error:
            print(f"not ok {fault.name}: {error}")
            wrong += 1
    if len(faults) < LEAST:
        print(f"not ok: {len(faults)} faults, at least {LEAST} are wanted")
        wrong += 1
    print(f"{len(faults)} faults, {wrong} wrong")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
