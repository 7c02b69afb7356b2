"""How the command line shows things: tables, sizes, and a bar for what takes long.

It reads nothing from the registry: `registry.__main__` hands it what to show.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pydantic import JsonValue
from rich import box
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from registry.files import Progress as Callback


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


@contextmanager
def bar(what: str, total: int) -> Iterator[Callback]:
    """Show a bar of bytes on a terminal's stderr while the block runs; yields what to call."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task(what, total=total)
        yield lambda size: progress.advance(task, size)
