#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Every option of both programs is in the help, in the manual and in the completion, and all three
know whether it takes a value. The help fits a terminal and goes to stdout; a wrong option goes to
stderr and fails."""

import sys

from words import (BUILD, both_ways, complete, help_commands, help_options, man_options, man_part,
                   man_text, report, run)

BASH_COMPLETION = "/usr/share/bash-completion/bash_completion"


def manners(*command):
    """Faults in how a program answers --help and an option that does not exist."""
    what = " ".join(str(c) for c in command)
    shown = run(*command, "--help")
    if shown.returncode or shown.stderr:
        yield f"{what} --help: status {shown.returncode}, stderr '{shown.stderr}'"
    for line in shown.stdout.expandtabs().splitlines():
        if len(line) > 80:
            yield f"{what} --help: more than 80 columns: {line}"
    wrong = run(*command, "--no-such-option")
    if wrong.returncode == 0 or wrong.stdout or "--no-such-option" not in wrong.stderr:
        yield (f"{what} --no-such-option: status {wrong.returncode}, stdout '{wrong.stdout}', "
               f"stderr '{wrong.stderr}'")


def compare(what, helped, manual, offered):
    yield from both_ways(what, "--help", helped, "the manual", manual)
    for option in sorted(set(helped) & set(manual)):
        if helped[option] != manual[option]:
            yield f"{what}: {option}: help and manual differ on whether it takes a value"
    # bash shows what it completes: long options with a value carry their "=".
    long_options = {o + ("=" if helped[o] else "") for o in helped if o.startswith("--")}
    yield from both_ways(what, "--help", long_options, "the completion",
                         {o if o.endswith("=") or not helped.get(o) else o + "="
                          for o in offered if o.startswith("--")})


def server():
    program = BUILD / "hawserd"
    yield from manners(program)
    helped = help_options(run(program, "--help").stdout)
    if len(helped) < 20:
        yield f"hawserd --help shows only {len(helped)} options: is the test blind?"
    yield from compare("hawserd", helped, man_options(man_text("hawserd.8")),
                       complete("hawserd", "--"))


def client():
    program = BUILD / "hawser"
    yield from manners(program)
    page = man_text("hawser.8")
    general = run(program, "--help").stdout
    commands = help_commands(general)
    if len(commands) < 5:
        yield f"hawser --help shows only {len(commands)} commands: is the test blind?"
    described = [line.split()[2] for line in page.splitlines() if line.startswith(".Ss hawser ")]
    yield from both_ways("commands", "--help", commands, "the manual", described)
    yield from both_ways("commands", "--help", commands, "the completion",
                         {word for word in complete("hawser", "") if word.isalpha()})
    for command in commands:
        yield from manners(program, command)
        helped = help_options(run(program, command, "--help").stdout)
        part = man_part(page, f"hawser {command}")
        yield from compare(f"hawser {command}", helped, man_options(part or ""),
                           complete("hawser", command, "--"))


def main():
    try:
        with open(BASH_COMPLETION, encoding="utf-8"):
            pass
    except OSError:
        print("needs bash-completion")
        return 77
    return report([*server(), *client()])


if __name__ == "__main__":
    sys.exit(main())
