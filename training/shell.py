"""What the training commands print: stages with the time they began, progress bars, tables, errors. No logic."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PRINT_EVERY_S = 30.0
LOG_WIDTH = 120


class StepError(RuntimeError):
    """A step of a command failed; the message says which one and what to do."""


def run_command_line(app: typer.Typer, program: str | None, user_errors: tuple[type[Exception], ...]) -> None:
    """Run a command line; one clear line and status 1 on what a user can mend, a traceback on a bug."""
    try:
        app(prog_name=program)
    except user_errors as error:
        Console(stderr=True, highlight=False).print(f"error: {error}", markup=False, soft_wrap=True)
        sys.exit(1)


class Shell:
    """Says what happens, to a person or to a log."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        if not self.console.is_terminal:
            self.console.width = LOG_WIDTH
        self._started = time.monotonic()

    def say(self, line: str) -> None:
        """Print a line after the minutes since the start."""
        minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
        self.console.print(f"{minutes:3d}:{seconds:02d}  {line}", markup=False, soft_wrap=True)

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show a bar with the remaining time; in a log, a line every half minute."""
        if self.console.is_terminal:
            columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            with Progress(*columns, console=self.console, transient=True) as bar:
                task = bar.add_task(what, total=total)
                yield lambda count: bar.advance(task, count)
            return
        done, started = 0, time.monotonic()
        printed = started

        def advance(count: int) -> None:
            nonlocal done, printed
            done += count
            now = time.monotonic()
            if now - printed >= PRINT_EVERY_S:
                printed = now
                self.say(f"{what}: {done} of {total}, {(now - started) / done * (total - done):.0f} s left")

        yield advance
