"""How the command line shows things: tables, sizes, and how far what takes long has come, in a terminal and in a log.

It reads nothing from the registry: whoever calls it hands it what to show.
"""

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pydantic import JsonValue
from rich import box
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from registry.files import Progress as Callback

PRINT_EVERY_S = 30.0


def table(*columns: str) -> Table:
    """Start a table whose cells are never cut short."""
    empty = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        empty.add_column(column, overflow="fold")
    return empty


def show(content: Table) -> None:
    """Print a table: as wide as the terminal, or wide enough for ids where there is none."""
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = 160
    console.print(content)


def megabytes(size: int) -> str:
    """Write a number of bytes for people."""
    return f"{size / 1e6:,.1f} MB"


def compact(value: Mapping[str, JsonValue], limit: int = 200) -> str:
    """Write JSON on one line, cut short after `limit` characters."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def flat(value: Mapping[str, JsonValue]) -> str:
    """Write the plain values of a JSON object as `key value`; what is nested is for `show`."""
    return ", ".join(f"{key} {json.dumps(item)}" for key, item in value.items() if not isinstance(item, dict | list))


def outcome(verdict: Mapping[str, JsonValue]) -> tuple[str, str]:
    """Return whether a verdict passed and its reasons, or its JSON where it does not say so."""
    passed, reasons = verdict.get("passed"), verdict.get("reasons")
    if not isinstance(passed, bool) or not isinstance(reasons, list):
        return "?", compact(verdict)
    return "yes" if passed else "no", "\n".join(str(reason) for reason in reasons)


def say(line: str) -> None:
    """Print a line on stderr: stdout is for the answer."""
    Console(stderr=True).print(line, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def stage(what: str) -> Iterator[None]:
    """Say what begins; in a log, also every half minute that it still goes on, for nobody knows how long it takes."""
    started, is_over = time.monotonic(), threading.Event()
    say(what)
    if Console(stderr=True).is_terminal:
        yield
        return

    def go_on() -> None:
        while not is_over.wait(PRINT_EVERY_S):
            say(f"{what}: {time.monotonic() - started:.0f} s so far")

    thread = threading.Thread(target=go_on, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


@contextmanager
def bar(what: str, total: int) -> Iterator[Callback]:
    """Show a bar of bytes on a terminal's stderr while the block runs; in a log, a line every half minute.

    Yields:
        What to call with the number of bytes that were just read or written.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(what, total)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda size: progress.advance(task, size)


def _lines(what: str, total: int) -> Callback:
    done, started = 0, time.monotonic()
    printed = started

    def advance(size: int) -> None:
        nonlocal done, printed
        done += size
        now = time.monotonic()
        if done and now - printed >= PRINT_EVERY_S:
            printed = now
            left_s = (now - started) / done * max(0, total - done)
            say(f"{what}: {megabytes(done)} of {megabytes(total)}, {left_s:.0f} s left")

    return advance
