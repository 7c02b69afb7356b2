"""A release of Mozilla's Common Voice as it is given out today: an archive a language, of tables and MP3 clips.

Reads scripted speech (`clips/`, a table a split) and spontaneous speech (`audios/`, `ss-corpus-*.tsv`). The tables are
not CSV: a quotation mark is a part of a sentence like any other letter. Nothing is downloaded: that needs an account
and consent to the data set's terms.
"""

import hashlib
import logging
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from speech.text import normalize
from training.data.checks import CountTokens, Row, admit
from training.data.manifest import SplitName, Utterance
from training.data.report import Dropped
from training.data.sources.config import CommonVoiceSource
from training.data.sources.rows import (
    SPLIT_NAMES,
    SourceError,
    UnusableRowError,
    locate,
    read_lines,
    short_language,
)

logger = logging.getLogger(__name__)

LICENCE = "CC0-1.0"
OFFICIAL: tuple[SplitName, ...] = ("train", "dev", "test")
SPONTANEOUS = "ss-corpus-*.tsv"


@dataclass(frozen=True)
class _Line:
    table: str
    number: int
    cells: dict[str, str]
    fault: str = ""


def read_common_voice(
    source: CommonVoiceSource, cache: Path, *, count_tokens: CountTokens | None = None
) -> tuple[list[Utterance], list[Dropped]]:
    """Read one language of a release.

    Args:
        source: what to read.
        cache: folder for what is unpacked.
        count_tokens: see `checks.admit`.

    Returns:
        Utterances with absolute audio paths, and the clips left out.

    Raises:
        SourceError: no release, several languages to choose from, or an archive that is none.
    """
    unpacked = source.path if source.path.is_dir() else unpack(source.path, cache)
    folder = _find(unpacked, source.locale).resolve()
    if any(folder.glob(SPONTANEOUS)):
        return _admit(source, folder, _spontaneous(folder), "audios", count_tokens)
    lines = [(split, line) for split in OFFICIAL for line in _read_table(folder / f"{split}.tsv")]
    if source.splits == "official":
        return _admit(source, folder, lines, "clips", count_tokens)

    held_out = [line.cells for split, line in lines if split != "train"]
    speakers = {cells.get("client_id", "") for cells in held_out}
    sentences = {_sentence(cells) for cells in held_out}
    ids = {cells["sentence_id"] for cells in held_out if cells.get("sentence_id")}
    lines = [(split, line) for split, line in lines if split != "train"]
    held_out_clips = {cells.get("path") for cells in held_out}
    left_out: list[Dropped] = []
    for line in _read_table(folder / "validated.tsv"):
        if line.cells.get("path") in held_out_clips:
            continue  # it is there already
        reason = None
        if line.cells.get("client_id", "") in speakers:
            reason, detail = "held_out_speaker", "its speaker is in dev or test"
        elif _sentence(line.cells) in sentences or line.cells.get("sentence_id") in ids:
            reason, detail = "held_out_sentence", f"its sentence is in dev or test: {line.cells.get('sentence')!r}"
        if reason is None or line.fault:
            lines.append(("train", line))
        else:
            clip = f"{_source(folder)}/{line.cells.get('path')}"
            left_out.append(Dropped(id=clip, source=_source(folder), reason=reason, detail=detail, by_source_rule=True))
    utterances, dropped = _admit(source, folder, lines, "clips", count_tokens)
    return utterances, dropped + left_out


def unpack(archive: Path, cache: Path) -> Path:
    """Unpack a release once, and return the folder; an interrupted one goes on with the files that are not there yet.

    Only plain files below the folder are written: names that lead out of it, links and devices are refused.

    Raises:
        SourceError: no such archive, a damaged one, or one that holds what a release does not.
    """
    if not archive.is_file():
        raise SourceError(f"{archive}: no release of Common Voice there, neither an archive nor a folder")
    state = archive.stat()
    key = hashlib.sha256(f"{archive.resolve()}:{state.st_size}:{state.st_mtime_ns}".encode()).hexdigest()[:12]
    folder = cache / f"{archive.name.split('.tar')[0]}-{key}"
    marker = folder / ".complete"
    if marker.is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    logger.info("unpacking %s to %s", archive, folder)
    try:
        with tarfile.open(archive, "r:*") as release:
            for member in release:
                if member.isdir():
                    continue
                if not member.isfile():
                    raise SourceError(f"{archive}: {member.name!r} is no plain file, and a release holds only those")
                target = folder / tarfile.data_filter(member, str(folder)).name
                if target.is_file() and target.stat().st_size == member.size:
                    continue
                release.extract(member, folder, filter="data")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise SourceError(f"{archive}: {error}") from error
    marker.touch()
    return folder


def _find(unpacked: Path, locale: str | None) -> Path:
    """Return the folder of the language: the tables lie in it, at most two folders down."""
    found = sorted(
        {
            table.parent
            for pattern in ("validated.tsv", "train.tsv", SPONTANEOUS)
            for depth in ("", "*/", "*/*/")
            for table in unpacked.glob(depth + pattern)
        }
    )
    chosen = [folder for folder in found if locale is None or _locale(folder) == locale]
    if len(chosen) == 1:
        return chosen[0]
    if not found:
        raise SourceError(
            f"{unpacked} holds no release of Common Voice: there is no validated.tsv, train.tsv or {SPONTANEOUS}"
        )
    names = ", ".join(_locale(folder) or str(folder) for folder in found)
    raise SourceError(f"{unpacked} holds {names}: say with locale which one to read")


def _locale(folder: Path) -> str:
    """Return the locale as the first row has it, or else the folder's name."""
    for table in sorted(folder.glob("*.tsv")):
        for line in _read_table(table, limit=2):
            for column in ("locale", "language"):
                if line.cells.get(column):
                    return line.cells[column]
    return folder.name


def _read_table(path: Path, limit: int | None = None) -> Iterator[_Line]:
    """Yield the lines of a table, each with as many cells as the header or a fault; quotation marks mean nothing."""
    if limit is None:
        lines = read_lines(path)
    else:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            lines = [line.rstrip("\r\n") for line, _ in zip(file, range(limit), strict=False)]
    header = lines[0].split("\t")
    for number, line in enumerate(lines[1:], start=2):
        if line:
            cells = line.split("\t")
            fault = "" if len(cells) == len(header) else f"{len(cells)} cells under {len(header)} titles"
            yield _Line(path.name, number, dict(zip(header, cells, strict=False)), fault)


def _spontaneous(folder: Path) -> list[tuple[SplitName | None, _Line]]:
    lines: list[tuple[SplitName | None, _Line]] = []
    for table in sorted(folder.glob(SPONTANEOUS)):
        for line in _read_table(table):
            name = line.cells.get("split") or line.cells.get("splits") or ""
            lines.append((SPLIT_NAMES.get(name), line))
    return lines


def _admit(
    source: CommonVoiceSource,
    folder: Path,
    lines: Iterable[tuple[SplitName | None, _Line]],
    audio: str,
    count_tokens: CountTokens | None,
) -> tuple[list[Utterance], list[Dropped]]:
    rows: list[Row] = []
    dropped: list[Dropped] = []
    for split, line in lines:
        try:
            if line.fault:
                raise UnusableRowError("malformed_row", line.fault)
            rows.append(_row(source, folder, split, line, audio))
        except UnusableRowError as error:
            where = f"{line.table}:{line.number}"
            dropped.append(Dropped(id=where, source=_source(folder), reason=error.reason, detail=error.detail))
    utterances, faulty = admit(rows, count_tokens=count_tokens)
    return utterances, dropped + faulty


def _row(source: CommonVoiceSource, folder: Path, split: SplitName | None, line: _Line, audio: str) -> Row:
    cells = line.cells
    name = cells.get("path") or cells.get("audio_file") or ""
    return Row(
        id=f"{_source(folder)}/{name}",
        path=locate(folder, folder / audio, name),
        text=(cells.get("sentence") or cells.get("transcription") or "").strip(),
        language=source.language or short_language(cells.get("locale") or cells.get("language")),
        source=_source(folder),
        speaker=cells.get("client_id") or None,
        sentence_id=cells.get("sentence_id") or None,
        split=split,
        licence=LICENCE,
    )


def _sentence(cells: dict[str, str]) -> str:
    return normalize(cells.get("sentence", ""))


def _source(folder: Path) -> str:
    return f"common-voice:{folder.parent.name}/{folder.name}"
