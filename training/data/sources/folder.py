"""A folder of clips with a `metadata.csv` or `metadata.jsonl`, laid out as Hugging Face's audiofolder.

Each clip is named by its row and never paired by sort order; a row that cannot be used is dropped with a reason.
It reads no archive, no `.txt` beside a clip, and no file outside the folder.
"""

import csv
import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path

from training.data.checks import CountTokens, Row, admit
from training.data.manifest import Utterance
from training.data.report import Dropped
from training.data.sources.rows import (
    SPEAKER_COLUMNS,
    SPLIT_NAMES,
    TEXT_COLUMNS,
    SourceError,
    UnusableRowError,
    locate,
)

NO_SPEECH = "no_speech"
"""Column of what nobody speaks in; what is written there for yes is `true`, in any case, `1` or `yes`."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Line:
    """One row of a metadata file: its cells, or why it has none."""

    number: int
    cells: dict[str, str]
    fault: str = ""


@dataclass(frozen=True)
class _Metadata:
    path: Path
    columns: list[str]
    lines: list[_Line]


def read_folder(
    root: Path,
    *,
    language: str | None,
    text_column: str | None = None,
    count_tokens: CountTokens | None = None,
) -> tuple[list[Utterance], list[Dropped]]:
    """Read every row of the folder's metadata.

    A row's split is its `split` column, else the top folder that its clip lies in, when that is
    called exactly `train`, `validation`, `dev` or `test`.

    Args:
        root: holds the metadata, or `train/`, `validation/`, `dev/` and `test/` that do.
        language: of rows that name none themselves.
        text_column: where the transcript is; by default the first of `TEXT_COLUMNS` that exists.
        count_tokens: see `checks.admit`.

    Returns:
        Utterances with absolute audio paths, and the rows left out.

    Raises:
        SourceError: no metadata, no such column, or a file that is no CSV.
    """
    root = root.resolve()
    rows: list[Row] = []
    dropped: list[Dropped] = []
    for metadata in _find_metadata(root):
        column = _choose_text_column(metadata, text_column)
        logger.info("%s: transcripts from column %r", metadata.path, column)
        for line in metadata.lines:
            try:
                rows.append(_to_row(root, metadata.path, line, column, language))
            except UnusableRowError as error:
                where = f"{metadata.path.relative_to(root).as_posix()}:{line.number}"
                dropped.append(Dropped(id=where, source=_source(root), reason=error.reason, detail=error.detail))
    utterances, faulty = admit(rows, count_tokens=count_tokens)
    return utterances, dropped + faulty


def _find_metadata(root: Path) -> list[_Metadata]:
    """Read the metadata of the folder and of the split folders in it."""
    found = []
    for folder in (root, *(root / name for name in SPLIT_NAMES)):
        csv_file, jsonl_file = folder / "metadata.csv", folder / "metadata.jsonl"
        if csv_file.is_file() and jsonl_file.is_file():
            raise SourceError(f"{folder} holds metadata.csv and metadata.jsonl: keep one of them")
        if csv_file.is_file():
            found.append(_read_csv(csv_file))
        elif jsonl_file.is_file():
            found.append(_read_jsonl(jsonl_file))
    if not found:
        raise SourceError(
            f"{root} holds no metadata.csv or metadata.jsonl, and neither does a train, validation "
            "or test folder in it; it is a table with the columns file_name and text"
        )
    return found


def _read_csv(path: Path) -> _Metadata:
    lines: list[_Line] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            # Strict, as the lenient reader swallows rows after an unbalanced quote.
            reader = csv.DictReader(file, strict=True)
            columns = list(reader.fieldnames or [])
            lines.extend(_csv_line(reader.line_num, values) for values in reader)
    except (csv.Error, UnicodeDecodeError) as error:
        raise SourceError(f"{path}, after row {len(lines)}: {error}") from error
    return _Metadata(path, columns, lines)


def _csv_line(number: int, values: dict[str | None, str | list[str] | None]) -> _Line:
    cells = {key: value for key, value in values.items() if key and isinstance(value, str)}
    if len(cells) != len(values):
        return _Line(number, cells, "it has more or fewer cells than the header")
    if any("\n" in cell for cell in cells.values()):
        return _Line(number, cells, "a line break in a cell: is a quote unbalanced?")
    return _Line(number, cells)


def _read_jsonl(path: Path) -> _Metadata:
    lines = []
    columns: dict[str, None] = {}
    for number, raw in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not raw.strip():
            continue
        try:
            values = json.loads(raw.decode("utf-8-sig"))
        except ValueError as error:
            lines.append(_Line(number, {}, f"no JSON: {error}"))
            continue
        if not isinstance(values, dict):
            lines.append(_Line(number, {}, "no JSON object"))
            continue
        columns |= dict.fromkeys(values)
        cells = {key: str(value) for key, value in values.items() if _is_cell(value) or key == NO_SPEECH}
        lines.append(_Line(number, cells))
    return _Metadata(path, list(columns), lines)


def _is_cell(value: object) -> bool:
    """Say whether it is text, or a number, as many name their speakers: no flag, list or object, nor pandas' NaN."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, str | int) and not isinstance(value, bool)


def _choose_text_column(metadata: _Metadata, asked: str | None) -> str:
    if "file_name" not in metadata.columns:
        raise SourceError(f"{metadata.path} has no column file_name, only {metadata.columns}")
    candidates = TEXT_COLUMNS if asked is None else (asked,)
    for column in candidates:
        if column in metadata.columns:
            return column
    raise SourceError(f"{metadata.path} has no text column {' or '.join(candidates)}, only {metadata.columns}")


def _to_row(root: Path, metadata: Path, line: _Line, text_column: str, language: str | None) -> Row:
    """Return what the row says, or raise `UnusableRowError`."""
    if line.fault:
        raise UnusableRowError("malformed_row", line.fault)
    name, named_split = line.cells.get("file_name", ""), line.cells.get("split", "")
    if named_split and named_split not in SPLIT_NAMES:
        detail = f"{named_split!r} is none of {', '.join(SPLIT_NAMES)}"
        raise UnusableRowError("unknown_split", detail)
    said, text = line.cells.get(NO_SPEECH, ""), line.cells.get(text_column, "").strip()
    no_speech = said.lower() in {"true", "1", "yes"}
    if no_speech and text:
        raise UnusableRowError("malformed_row", f"{NO_SPEECH} is {said}, and yet it says {text!r}")
    path = locate(root, metadata.parent, name)
    clip = (metadata.parent / name).relative_to(root)
    folder = clip.parts[0] if len(clip.parts) > 1 else ""
    speakers = (line.cells[column] for column in SPEAKER_COLUMNS if line.cells.get(column))
    return Row(
        id=f"{root.name}/{clip.as_posix()}",
        path=path,
        text=text,
        no_speech=no_speech,
        language=line.cells.get("language") or language,
        source=_source(root),
        speaker=next(speakers, None),
        split=SPLIT_NAMES.get(named_split or folder),
    )


def _source(root: Path) -> str:
    return f"folder:{root.name}"
