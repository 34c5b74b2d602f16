#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""
COVERAGE maps each server rule to the tests that cite it, and to nbdraw.py, which checks it in
every reply of every test. This test fails where the map and the tests differ; --write brings the
map up to date. What no test can reach has a hand-written line "S0 none: reason", which is kept.
"""

import ast
import glob
import os
import re
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
MAP = os.path.join(HERE, "COVERAGE")
RULES = range(1, 108)
LIBRARY = "nbdraw.py"
HEAD = """\
# Server rules and their tests. Kept by test-coverage.py --write; lines with "none" by hand.
# nbdraw.py: checked in every reply of every test. Rules are those of the NBD protocol, in the
# order of its document: S1-S28 handshake, S29-S36 sizes, S37-S46 contexts, S47-S57 TLS, S58-S62
# flags, S63-S73 requests, S74-S83 READ, S84-S88 WRITE FLUSH DISC, S89-S94 TRIM CACHE
# WRITE_ZEROES, S95-S99 BLOCK_STATUS, S100 RESIZE, S101-S107 extended headers.
"""


def numbers(text):
    return [int(number) for number in re.findall(r"\bS(\d+)\b", text or "")]


def citations():
    """{rule: [where, ...]} from docstrings of tests and texts of the library's checks."""
    found = {rule: [] for rule in RULES}
    for path in sorted(glob.glob(os.path.join(HERE, "test-*.py"))):
        name = os.path.basename(path)
        with open(path, encoding="utf-8") as source:
            tree = ast.parse(source.read())
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                head = (ast.get_docstring(node) or "").split(":", 1)[0]
                for rule in numbers(head):
                    found[rule].append(f"{name}:{node.name}")
    with open(os.path.join(HERE, LIBRARY), encoding="utf-8") as source:
        tree = ast.parse(source.read())
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            match = re.match(r"(S\d+ ?)+(?=:|$)", node.value)
            for rule in numbers(match and match.group()):
                if LIBRARY not in found[rule]:
                    found[rule].insert(0, LIBRARY)
    return found


def read_map():
    """{rule: text}"""
    rows = {}
    with open(MAP, encoding="utf-8") as text:
        for line in text:
            match = re.match(r"S(\d+) (.*)", line)
            if match:
                if int(match.group(1)) in rows:
                    sys.exit(f"{MAP}: S{match.group(1)} twice")
                rows[int(match.group(1))] = match.group(2)
    return rows


def main():
    found = citations()
    rows = read_map() if os.path.exists(MAP) else {}
    new, faults = {}, []
    for rule in RULES:
        if found[rule]:
            new[rule] = " ".join(found[rule])
            if new[rule] != rows.get(rule):
                faults.append(f"S{rule}: the map says {rows.get(rule)!r}, the tests {new[rule]!r}")
        elif rows.get(rule, "").startswith("none: "):
            new[rule] = rows[rule]
        else:
            faults.append(f"S{rule}: no test cites it, and the map gives no reason")
    faults += [f"S{rule}: no such rule" for rule in rows if rule not in RULES]
    if "--write" in sys.argv:
        with open(MAP, "w", encoding="utf-8") as out:
            out.write(HEAD)
            out.writelines(f"S{rule} {text}\n" for rule, text in sorted(new.items()))
        return
    for fault in faults:
        print(f"# {fault}")
    print(f"{'not ok' if faults else 'ok'} the map of rules is complete")
    sys.exit(1 if faults else 0)


main()
