#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""README and its neighbours, and the examples of the manual pages: links lead somewhere, and every
make target, subcommand and option that is shown exists."""

import re
import subprocess
import sys

from words import BUILD, ROOT, help_commands, help_options, man_text, report, run

TEXTS = ["README.md", "ARCHITECTURE.md", "SECURITY.md"]
PAGES = ["hawserd.8", "hawser.8", "nbdtab.5"]


def anchors(text):
    headings = re.findall(r"(?m)^#+ (.*)$", text)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = ROOT / (path or name)
        if not file.exists():
            yield f"{name}: the link to {target} leads nowhere"
        elif anchor and anchor not in anchors(file.read_text(encoding="utf-8")):
            yield f"{name}: {target}: no such heading"


def named_paths(name):
    """Paths of the tree in `code spans`: they must exist."""
    text = (ROOT / name).read_text(encoding="utf-8")
    for path in re.findall(r"`([\w.-]+/[\w./-]*)`", text):
        if (ROOT / path.split("/")[0]).exists() and path.split("/")[0] != "build":
            if not (ROOT / path).exists():
                yield f"{name}: {path} does not exist"


def commands(name):
    """Command lines of a text: blocks and spans of code in Markdown, .Dl lines in a manual."""
    if name in PAGES:
        for line in re.findall(r"(?m)^\.Dl (.*)$", man_text(name)):
            yield line.replace("\\-", "-")
        return
    text = (ROOT / name).read_text(encoding="utf-8")
    blocks = re.findall(r"(?ms)^```\w*\n(.*?)^```", text)
    for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
        yield re.sub(r"^\s*[$#] ", "", line)
    yield from re.findall(r"`([^`\n]+)`", re.sub(r"(?ms)^```.*?^```", "", text))


def make_targets():
    database = subprocess.run(["make", "-pRrq", f"BUILD={BUILD}", ":"], cwd=ROOT, text=True,
                              capture_output=True, check=False).stdout
    return set(re.findall(r"(?m)^([a-z][\w-]*):", database))


class Programs:
    """What the two programs say that they know."""

    def __init__(self):
        self.server = set(help_options(run(BUILD / "hawserd", "--help").stdout))
        general = run(BUILD / "hawser", "--help").stdout
        self.commands = {"": set(help_options(general)) | {"-c", "-d"}}
        for command in help_commands(general):
            text = run(BUILD / "hawser", command, "--help").stdout
            self.commands[command] = set(help_options(text))

    def faults(self, words):
        """Of one simple command, as a list of words."""
        if words[0] == "hawserd":
            known, words = self.server, words[1:]
        else:
            command = words[1] if len(words) > 1 and re.fullmatch("[a-z]+", words[1]) else ""
            if command in ("help",):
                return
            if command not in self.commands:
                yield f"no such command: {command}"
                return
            known, words = self.commands[command], words[1:]
        for word in words:
            option = re.match(r"--?[A-Za-z][\w-]*", word)
            if option and option.group() not in known:
                yield f"no such option: {option.group()}"


def check_commands(name, programs, targets):
    for line in commands(name):
        line = re.sub(r"\s+#.*", "", line)
        for part in re.split(r"&&|\|\||[;|\[\]]", line):
            words = part.replace("sudo ", "").split()
            while words and "=" in words[0]:
                words = words[1:]
            if not words:
                continue
            words[0] = words[0].removeprefix("build/").removeprefix("./build/")
            if words[0] in ("hawser", "hawserd"):
                for fault in programs.faults(words):
                    yield f"{name}: '{line}': {fault}"
            elif words[0] == "make":
                for word in words[1:]:
                    if re.fullmatch(r"[a-z][\w-]*", word) and word not in targets:
                        yield f"{name}: '{line}': no such target: {word}"


def main():
    faults = []
    programs, targets = Programs(), make_targets()
    for name in TEXTS:
        faults += links(name)
        faults += named_paths(name)
    for name in TEXTS + PAGES:
        faults += check_commands(name, programs, targets)
    return report(faults)


if __name__ == "__main__":
    sys.exit(main())
