"""What all command lines have in common: examples that can be typed as they stand, and completion by the shell."""

import importlib
import inspect
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

PROGRAMS = ("service", "training", "registry", "corrections")


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
    for program in PROGRAMS:
        app = importlib.import_module(f"{program}.__main__").app
        found += commands(typer.main.get_command(app), f"python -m {program}")
    return found


@pytest.mark.parametrize(("command", "typed"), everything())
def test_help_has_examples_that_can_be_typed(command, typed):
    """Each command shows how it is called, in options and with arguments that it has."""
    lines = [line.strip() for line in inspect.cleandoc(command.help).splitlines()]
    examples = [line for line in lines if re.match(rf"{re.escape(typed)}( |$)", line)]
    assert examples, f"--help of {typed} has no example"
    options = {name for one in command.params for name in one.opts}
    # A schedule hands on what it is given to `retrain`.
    if command.context_settings.get("ignore_unknown_options"):
        options |= {"--config", "--minutes"}
    for example in examples:
        given = shlex.split(example)
        assert [one for one in given if one.startswith("--") and one not in options] == []


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
