"""What a measure comes to, and the file that keeps it: benchmarks/results/latest.json."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter

RESULTS = Path(__file__).parent / "results"
LATEST = RESULTS / "latest.json"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Side(_Frozen):
    """One contender's figure."""

    name: str
    value: float  # the median of the rounds, in the entry's `side_unit`
    rounds: list[float]


class WordErrors(_Frozen):
    """Word error rates of both over the same clips, and ours minus theirs with its paired 95 % interval."""

    ours: float
    theirs: float
    difference: float
    low: float
    high: float
    clips: int


class Entry(_Frozen):
    """One figure with its target.

    Attributes:
        measure: its name; a measure may have several entries.
        value: what the target is about, in `unit`.
        unit: of `value`; "x" is a ratio.
        against: what ours was compared with.
        target: as it is written in the documents, such as ">= 10".
        met: None where there is no target.
        rounds: how often each contender was measured.
        wer: None where nothing is transcribed, or both sides are ours.
        title: one line for the table.
        how: what was measured, for the document.
        ours: our figure.
        theirs: the other's.
        side_unit: of both.
        detail: tables and points of plots, by the measure's own names.
    """

    measure: str
    value: float
    unit: str
    against: str
    target: str | None = None
    met: bool | None = None
    rounds: int
    wer: WordErrors | None = None
    title: str
    how: str
    ours: Side | None = None
    theirs: Side | None = None
    side_unit: str = ""
    detail: dict[str, Any] = {}


_ENTRIES = TypeAdapter(list[Entry])


def read_entries(path: Path = LATEST) -> list[Entry]:
    """Read a results file; an absent one holds nothing."""
    return _ENTRIES.validate_json(path.read_bytes()) if path.is_file() else []


def write_entries(entries: Sequence[Entry], path: Path = LATEST) -> None:
    """Write a results file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = [entry.model_dump(mode="json") for entry in entries]
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)


def merge(old: Sequence[Entry], new: Sequence[Entry], order: Sequence[str]) -> list[Entry]:
    """Put new entries in the place of those of the same measures, all in the order of the measures.

    Args:
        old: of the file.
        new: of the measures that were run now.
        order: entries' names, by their measures' order; unknown ones come last.
    """
    measured = {entry.measure for entry in new}
    entries = [entry for entry in old if entry.measure not in measured] + list(new)
    places = {name: i for i, name in enumerate(order)}
    return sorted(entries, key=lambda entry: places.get(entry.measure, len(places)))
