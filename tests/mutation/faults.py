# SPDX-License-Identifier: MIT
"""
The list of mutations: small faults, each with the test that must notice it. Reads the .faults
files of this folder and puts a fault into a source text; it never touches a file itself.

An entry, as in a unified diff without line numbers:

    [name]
    rule S87
    test protocol/test-faults.py test_failed_sync_is_never_forgotten
    file server/export.c
     a line of context
    -a line that goes
    +a line that comes

White space inside and before lines does not count, so formatting the code breaks no entry. The
lines of context and those that go must be found exactly once, in a row. More "file" lines with
hunks may follow. Behind a test of tests/crash stands the pairing of features in which it must see
the fault, maybe with the number of cuts before it. A rule is one of the protocol's, as tests cite it (S87, C8), or "own" for what
the project itself demands.
"""

import dataclasses
import os
import re

HERE = os.path.dirname(os.path.abspath(__file__))
TESTS = os.path.dirname(HERE)
TOP = os.path.dirname(TESTS)


class BadFault(Exception):
    """An entry that is wrong or does not apply; the text says why."""


@dataclasses.dataclass
class Hunk:
    """One change of one file."""
    file: str
    old: list = dataclasses.field(default_factory=list)
    new: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Fault:
    """One mutation: its hunks, and the test that must fail."""
    name: str
    place: str
    rule: str = ""
    test: str = ""
    function: str = ""
    hunks: list = dataclasses.field(default_factory=list)


def read_field(fault, word, rest):
    if word == "rule":
        fault.rule = rest
    elif word == "test":
        fault.test, _, fault.function = rest.partition(" ")
    elif word == "file":
        fault.hunks.append(Hunk(rest))
    else:
        raise BadFault(f"{fault.place}: unknown word '{word}'")


def read_hunk_line(fault, line):
    if not fault.hunks:
        raise BadFault(f"{fault.place}: a hunk before its file")
    hunk = fault.hunks[-1]
    if line[0] in " -":
        hunk.old.append(line[1:])
    if line[0] in " +":
        hunk.new.append(line[1:])


def read_list(path):
    faults = []
    with open(path, encoding="utf-8") as text:
        for number, line in enumerate(text, 1):
            line = line.rstrip("\n")
            if not line or line.startswith("#"):
                continue
            if line.startswith("["):
                place = f"{os.path.relpath(path, TOP)}:{number}"
                faults.append(Fault(line.strip("[]"), place))
            elif line[0] in " -+":
                read_hunk_line(faults[-1], line)
            else:
                word, _, rest = line.partition(" ")
                read_field(faults[-1], word, rest.strip())
    return faults


def read_all():
    faults = []
    for name in sorted(os.listdir(HERE)):
        if name.endswith(".faults"):
            faults += read_list(os.path.join(HERE, name))
    names = [fault.name for fault in faults]
    for fault in faults:
        if names.count(fault.name) > 1:
            raise BadFault(f"{fault.place}: the name '{fault.name}' is taken twice")
    return faults


def squeezed(line):
    return re.sub(r"\s+", " ", line).strip()


def apply(text, hunk, place):
    """The text with the hunk put in."""
    lines = text.split("\n")
    wanted = [squeezed(line) for line in hunk.old]
    have = [squeezed(line) for line in lines]
    hits = [at for at in range(len(lines) - len(wanted) + 1)
            if have[at:at + len(wanted)] == wanted]
    if not wanted or len(hits) != 1:
        raise BadFault(f"{place}: {hunk.file} has these lines {len(hits)} times: {wanted}")
    if [squeezed(line) for line in hunk.new] == wanted:
        raise BadFault(f"{place}: changes nothing")
    at = hits[0]
    return "\n".join(lines[:at] + hunk.new + lines[at + len(wanted):])


def applied(fault, top):
    """{file: changed text} of a fault on the tree at top."""
    texts = {}
    for hunk in fault.hunks:
        if hunk.file not in texts:
            with open(os.path.join(top, hunk.file), encoding="utf-8") as source:
                texts[hunk.file] = source.read()
        texts[hunk.file] = apply(texts[hunk.file], hunk, fault.place)
    return texts


def check_citation(fault):
    """The test exists, and it is about the rule."""
    path = os.path.join(TESTS, fault.test)
    if not os.path.exists(path):
        raise BadFault(f"{fault.place}: no test tests/{fault.test}")
    with open(path, encoding="utf-8") as source:
        text = source.read()
    if fault.function and fault.test.endswith(".py"):
        found = re.search(rf'^def {re.escape(fault.function)}\(\):\n    """(.*?)"""', text,
                          re.MULTILINE | re.DOTALL)
        if not found:
            raise BadFault(f"{fault.place}: {fault.test} has no {fault.function}")
        text = found.group(1)
    if not re.fullmatch(r"[SC]\d+|own", fault.rule):
        raise BadFault(f"{fault.place}: '{fault.rule}' is no rule")
    if fault.rule != "own" and not re.search(rf"\b{fault.rule}\b", text):
        raise BadFault(f"{fault.place}: {fault.test} {fault.function} does not cite {fault.rule}")
