"""The results of one server or of several, as a table in Markdown."""

import json
from collections.abc import Sequence
from pathlib import Path

from tests.conformance.suite import Result

MARKS = {"pass": "yes", "fail": "**no**", "skip": "–"}


def save(results: Sequence[Result], name: str, path: Path) -> None:
    """Write a server's results, so that another run can put them beside its own."""
    path.write_text(json.dumps({"name": name, "results": [one.as_json() for one in results]}, indent=1) + "\n")


def load(path: Path) -> tuple[str, list[Result]]:
    """Return a server's name and its results."""
    saved = json.loads(path.read_text())
    return saved["name"], [Result(**one) for one in saved["results"]]


def summary(results: Sequence[Result]) -> str:
    """Count the outcomes."""
    count = [sum(one.outcome == outcome for one in results) for outcome in MARKS]
    return f"{count[0]} of {count[0] + count[1]} pass" + (f", {count[2]} skipped" if count[2] else "")


def markdown(servers: Sequence[tuple[str, Sequence[Result]]], command: str) -> str:
    """Return the page: a line a server, and a table an area with a column a server.

    Args:
        servers: names and results; the first has the order of the checks.
        command: what wrote the page.
    """
    lines = [
        "# Conformance to OpenAI's audio API",
        "",
        "What [the suite](../tests/conformance/) found; how to run it against any server is in its",
        "[README](../tests/conformance/README.md). This page is written by",
        "",
        "```sh",
        command,
        "```",
        "",
        *(f"- {name}: {summary(results)}" for name, results in servers),
        "",
    ]
    by_name = [(name, {one.name: one for one in results}) for name, results in servers]
    reasons = []
    for area in dict.fromkeys(one.area for one in servers[0][1]):
        lines += [f"## {area[0].upper()}{area[1:]}", ""]
        lines += [f"| promise | {' | '.join(name for name, _ in servers)} | source |"]
        lines += ["|---|" + "---|" * len(servers) + "---|"]
        for one in servers[0][1]:
            if one.area == area:
                marks = " | ".join(_mark(results.get(one.name)) for _, results in by_name)
                lines.append(f"| {_cell(one.promise)} | {marks} | {_cell(one.source)} |")
        lines.append("")
    for name, results in servers:
        reasons += [f"- {name}, `{one.name}`: {one.detail}" for one in results if one.outcome != "pass"]
    if reasons:
        lines += ["## What was not kept, or could not be seen", "", *reasons, ""]
    return "\n".join(lines)


def _mark(result: Result | None) -> str:
    return "" if result is None else MARKS[result.outcome]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
