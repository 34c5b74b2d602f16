# SPDX-License-Identifier: MIT
"""Words of the documents: the options that a help text, a manual page and a completion speak of.

A help line of an option begins with blanks and a dash: "  -p, --port=PORT   text". A manual page
has ".It Fl p , Fl \\-port Ns = Ns Ar port" in the part that belongs to the subcommand. Of a
completion we ask bash itself, with the word "-" to complete. Nothing here knows an option by name.
"""

import os
import pathlib
import re
import shlex
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("BUILD", "build"))
BUILD = BUILD if BUILD.is_absolute() else ROOT / BUILD


def run(*command, **more):
    """The finished process of a command, its output as text; it never reads our stdin."""
    return subprocess.run([str(c) for c in command], stdin=subprocess.DEVNULL, text=True,
                          capture_output=True, timeout=30, check=False, **more)


def help_options(text):
    """{option: whether it takes a value} of a help text."""
    options = {}
    for line in text.splitlines():
        if not re.match(r"\s+-", line):
            continue
        head = re.split(r"\s{2,}", line.strip())[0]
        value = "=" in head or bool(re.search(r"--?[\w-]+ [A-Z]", head))
        for option in re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", head):
            options[option] = value
    return options


def help_commands(text):
    """Subcommands in the general help: lines "  attach   what it does" below "Commands:"."""
    part = re.search(r"(?ims)^commands:\s*\n(.*?)(?:\n\S|\Z)", text)
    return re.findall(r"(?m)^ {1,4}([a-z]+)\b", part.group(1)) if part else []


def man_text(page):
    return (ROOT / "man" / page).read_text(encoding="utf-8")


def man_options(text):
    """{option: whether it takes a value} of the .It lines of a piece of a manual page."""
    options = {}
    for line in re.findall(r"(?m)^\.It (Fl .*)$", text):
        for flag in re.findall(r"Fl (\S+)", line):
            name = "-" + flag.replace("\\-", "-")
            options[name] = " Ar " in line
    return options


def man_part(text, title):
    """The subsection of a manual page whose title begins with this word."""
    part = re.search(rf"(?ms)^\.Ss {re.escape(title)}\b.*?$(.*?)(?=^\.S[sh] |\Z)", text)
    return part.group(1) if part else None


COMPLETE = r"""
compopt() { :; } # works only where a person completes
source /usr/share/bash-completion/bash_completion
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}; COMP_TYPE=9; COMP_KEY=9
function=$(complete -p "$1" | sed -n 's/.* -F \([^ ]*\) .*/\1/p')
"$function" "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\n' "${COMPREPLY[@]}"
"""


def complete(program, *words):
    """What bash offers for the last of the words behind the program."""
    path = ROOT / "kmod-helpers" / "bash-completion" / program
    done = run("bash", "-c", COMPLETE, "complete", path, program, *words, cwd="/",
               env={**os.environ, "PATH": f"{BUILD}:{os.environ['PATH']}"})
    if done.returncode or done.stderr:
        raise AssertionError(f"completion of {shlex.join((program,) + words)}: {done.stderr}")
    return set(done.stdout.split())


def both_ways(what, left_name, left, right_name, right):
    """Sentences about everything that is in one collection and not in the other."""
    return ([f"{what}: {x} is in {left_name}, not in {right_name}" for x in sorted(set(left) - set(right))]
            + [f"{what}: {x} is in {right_name}, not in {left_name}" for x in sorted(set(right) - set(left))])


def report(faults):
    for fault in faults:
        print(fault)
    return 1 if faults else 0
