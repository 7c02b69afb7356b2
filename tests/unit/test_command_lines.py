"""What all command lines have in common: examples that can be typed as they stand, and completion by the shell.

What the documents say of them is held against them, too: in blocks, and in running text, which no other test reads.
"""

import importlib
import importlib.util
import inspect
import itertools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

PROGRAMS = ("service", "training", "registry", "corrections", "benchmarks")
MEASUREMENTS = tuple(f"benchmarks.{one}" for one in ("allocator", "language", "threads", "windows", "words"))

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^ *```\w*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
TYPED = re.compile(r"python -m ([\w.]+.*)")
OPERATORS = {"|", ">", ">>", "<", "&", "&&", ";"}


def program(name):
    """Return a program's command, or its group of commands."""
    module = name if "." in name else f"{name}.__main__"
    return typer.main.get_command(importlib.import_module(module).app)


def commands(command, path):
    """Yield the commands of a program, with what is typed to run them."""
    for name, one in getattr(command, "commands", {}).items():
        if hasattr(one, "commands"):
            yield from commands(one, f"{path} {name}")
        else:
            yield pytest.param(one, f"{path} {name}", id=f"{path} {name}")


def everything():
    """Return all commands of all programs."""
    found = []
    for name in PROGRAMS:
        found += commands(program(name), f"python -m {name}")
    for name in MEASUREMENTS:  # a command each
        found.append(pytest.param(program(name), f"python -m {name}", id=f"python -m {name}"))
    return found


def unknown(command, words):
    """Return what a command does not know of the words after it: one of its commands, or options."""
    while hasattr(command, "commands"):
        if words and not words[0].startswith("-"):
            name, *words = words
            if name not in command.commands:
                return [name]
            command = command.commands[name]
        elif words and words[0] != "--help" and "serve" in command.commands:
            command = command.commands["serve"]  # what the service's own options are of
        else:
            break
    options = {name for one in command.params for name in (*one.opts, *one.secondary_opts)} | {"--help"}
    if command.context_settings.get("ignore_unknown_options"):  # a schedule hands them on to `retrain`
        options |= {name for one in program("training").commands["retrain"].params for name in one.opts}
    given = [word.partition("=")[0] for word in words if re.match(r"--\w|-[a-z]", word)]
    return [name for name in given if name not in options]


def shown(page):
    """Return what a page shows after `python -m`, in its blocks and in its running text."""
    text = page.read_text(encoding="utf-8")
    lines = [line for block in BLOCK.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    return [match[1] for one in (*lines, *spans(text)) if (match := TYPED.search(one))]


def spans(text):
    """Return what stands in backticks in running text."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", BLOCK.sub("", text))]


@pytest.mark.parametrize(("command", "typed"), everything())
def test_help_has_examples_that_can_be_typed(command, typed):
    """Each command shows how it is called, in options and with arguments that it has."""
    lines = [line.strip() for line in inspect.cleandoc(command.help).splitlines()]
    examples = [line for line in lines if re.match(rf"{re.escape(typed)}( |$)", line)]
    assert examples, f"--help of {typed} has no example"
    for example in examples:
        assert unknown(command, shlex.split(example.removeprefix(typed))) == [], example


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES if shown(page)])
def test_a_page_names_commands_that_there_are(page):
    """Whatever a page says to run with `python -m` is there, and ours has the commands and options that it gives."""
    for line in shown(page):
        name, *words = itertools.takewhile(lambda word: word not in OPERATORS, shlex.split(line, comments=True))
        if name in {*PROGRAMS, *MEASUREMENTS}:
            assert unknown(program(name), words) == [], line
        else:
            assert importlib.util.find_spec(name) is not None, line


def test_commands_in_running_text_are_found():
    """The README has `keys add` in a sentence alone: sentences are looked through, too."""
    assert "service keys add NAME" in shown(ROOT / "README.md")


def test_a_command_that_is_none_is_found_out():
    """A misspelt command, an option of another command, and one that a group does not have."""
    for line, fault in {
        "service keyz add": "keyz",
        "service keys ad": "ad",
        "registry list --limit 3": "--limit",
        "service --format srt": "--format",
        "service transcribe -x": "-x",
    }.items():
        name, *words = line.split()
        assert unknown(program(name), words) == [fault]


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES])
def test_a_page_names_targets_that_there_are(page):
    """Whatever `make` is said to do in running text, the Makefile does."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert "loop-demo" in targets
    named = [span.split()[1:] for span in spans(page.read_text(encoding="utf-8")) if span.startswith("make ")]
    assert {word for words in named for word in words if "=" not in word} <= targets


@pytest.mark.parametrize(
    ("program", "typed", "offered"),
    [
        ("service", "tra", "transcribe"),
        ("service", "transcribe --for", "--format"),
        ("training", "elast", "elasticize"),
        ("registry", "roll", "rollback"),
        ("corrections", "exp", "export"),
    ],
)
def test_the_shell_completes(program, typed, offered):
    """The installed program answers bash; what is offered are its commands and their options."""
    words = f"whisperloop-{program} {typed}"
    asked = {
        f"_WHISPERLOOP_{program.upper()}_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    script = Path(sys.executable).with_name(f"whisperloop-{program}")
    answer = subprocess.run([script], env=os.environ | asked, capture_output=True, text=True, check=False)
    assert answer.stdout.split() == [offered], answer.stderr
