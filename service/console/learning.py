"""What waits to be learned, and what the last retrainings came to.

Corrections come from the service's own interface, so everybody sees what their key may. Reports are files of the
operator's that are read as data; they hold no word of what was said.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

SHOWN_REPORTS = 20

LEARNED = frozenset({"promoted", "candidate", "refused", "undecided"})
"""Retrainings that came so far as to learn: the next waits for what was corrected since they began."""


def read_reports(folder: Path) -> list[dict[str, Any]]:
    """Return the reports of all retrainings, the newest first; what cannot be read is left out."""
    found = []
    for path in folder.glob("*/reports.jsonl"):
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError):
            continue
        for line in lines:
            try:
                report = json.loads(line)
            except ValueError:
                continue
            if isinstance(report, dict):
                found.append(report)
    return sorted(found, key=lambda report: str(report.get("started_at")), reverse=True)


def learned_at(reports: Sequence[Mapping[str, Any]]) -> float | None:
    """Return since when nothing was learned, in seconds since 1970; None if nothing ever was.

    Of several recipes, that of the one that waits longest: which corrections are whose is not in the reports.
    """
    begun: dict[str, float] = {}
    for report in reports:
        try:
            if report.get("result") in LEARNED:
                at = datetime.fromisoformat(str(report.get("started_at"))).timestamp()
                name = str(report.get("name"))
                begun[name] = max(at, begun.get(name, at))
        except ValueError:
            continue
    return min(begun.values(), default=None)


def show_counts(waiting: Mapping[str, Any], kept: Mapping[str, Any]) -> str:
    """Return how much there is: since the last retraining that learned, and in all."""
    if not kept["clips"]:
        return "<p>Nothing was corrected yet: correct a transcript, and it is listed here.</p>"
    if not waiting["clips"]:
        return f"<p>Nothing: no clip was corrected since the last retraining. {_clips(kept)} in all.</p>"
    return f"<p><b>{_clips(waiting)}</b>, {_more(waiting)}; {_clips(kept)} in all.</p>"


def _clips(counts: Mapping[str, Any]) -> str:
    return "1 clip" if counts["clips"] == 1 else f"{counts['clips']} clips"


def _more(counts: Mapping[str, Any]) -> str:
    languages = ", ".join(f"{escape(name)}: {count}" for name, count in counts["by_language"].items())
    return f"{counts['seconds'] / 60:.1f} minutes ({languages})"


def show_corrections(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return what was corrected: heard, and said."""
    shown = "".join(
        f'<li><p class="facts">{escape(row["language"])} · {row["seconds"]:.1f} s · {escape(row["model"] or "")}</p>'
        f'<p class="said"><del>{escape(row["hypothesis"])}</del></p>'
        f'<p class="said"><ins>{escape(row["correction"] or "(nobody speaks)")}</ins></p></li>'
        for row in rows
    )
    return f'<ul class="corrections">{shown}</ul>' if shown else ""


def show_reports(reports: Sequence[Mapping[str, Any]]) -> str:
    """Return what retrainings came to."""
    if not reports:
        return "<p>No retraining has reported yet.</p>"
    shown = "".join(
        f"<li><b>{escape(str(one.get('result', '')).replace('_', ' '))}</b> · {escape(str(one.get('name', '')))} · "
        f"{escape(str(one.get('started_at', '')))}{_said(one)}</li>"
        for one in reports[:SHOWN_REPORTS]
    )
    return f'<ul class="reports">{shown}</ul>'


def _said(report: Mapping[str, Any]) -> str:
    """Return a verdict's reasons one by one: in a line, a gate's guards are a wall of text; else what is told."""
    reasons = report.get("reasons")
    if isinstance(reasons, list) and reasons:
        return f"<ul>{''.join(f'<li>{escape(str(reason))}</li>' for reason in reasons)}</ul>"
    return f"<br>{escape(str(report.get('detail', '')))}"
