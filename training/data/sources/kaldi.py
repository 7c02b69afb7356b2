"""A data directory of Kaldi: `wav.scp` names the recordings, `segments` the stretches, `text` what is said in them.

A recording that is the output of a command, or a place in an archive, is refused: reading data runs no program.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from training.data.checks import CountTokens, Row, admit
from training.data.manifest import Utterance
from training.data.report import Dropped
from training.data.sources.config import KaldiSource
from training.data.sources.rows import SourceError, UnusableRowError, locate, read_lines, short_language


@dataclass(frozen=True)
class _Stretch:
    recording: str
    offset: float = 0.0
    duration: float | None = None


def read_kaldi(
    source: KaldiSource, clips: Path, *, count_tokens: CountTokens | None = None
) -> tuple[list[Utterance], list[Dropped]]:
    """Read every utterance of a data directory.

    Args:
        source: what to read.
        clips: folder for the stretches that `segments` names.
        count_tokens: see `checks.admit`.

    Returns:
        Utterances with absolute audio paths, and the ones left out.

    Raises:
        SourceError: `wav.scp` or `text` is missing, a recording is a command or in an archive, or a table is broken.
    """
    root = (source.root or source.path).resolve()
    name = f"kaldi:{source.path.resolve().name}"
    recordings = _table(source.path / "wav.scp")
    for key, where in recordings.items():
        _refuse_commands(source.path / "wav.scp", key, where)
    texts = _table(source.path / "text")
    stretches = _segments(source.path / "segments") if (source.path / "segments").is_file() else None
    speakers, languages = (_optional_table(source.path / file) for file in ("utt2spk", "utt2lang"))

    rows: list[Row] = []
    dropped: list[Dropped] = []
    for utterance in texts.keys() | (recordings.keys() if stretches is None else stretches.keys()):
        try:
            if utterance not in texts:
                raise UnusableRowError("no_transcript", "it is not in text")
            if stretches is not None and utterance not in stretches:
                raise UnusableRowError("missing_segment", "it is not in segments")
            stretch = _Stretch(utterance) if stretches is None else stretches[utterance]
            if stretch.recording not in recordings:
                raise UnusableRowError("missing_file", f"{stretch.recording!r} is not in wav.scp")
            path = locate(root, root, recordings[stretch.recording], absolute=True)
        except UnusableRowError as error:
            dropped.append(Dropped(id=utterance, source=name, reason=error.reason, detail=error.detail))
            continue
        rows.append(
            Row(
                id=f"{source.path.resolve().name}/{utterance}",
                path=path,
                text=texts[utterance],
                language=short_language(languages.get(utterance)) or source.language,
                source=name,
                speaker=speakers.get(utterance),
                offset=stretch.offset,
                duration=stretch.duration,
            )
        )
    rows.sort(key=lambda row: row.id)
    utterances, faulty = admit(rows, count_tokens=count_tokens, clips=clips)
    return utterances, sorted(dropped, key=lambda row: row.id) + faulty


def _refuse_commands(scp: Path, key: str, where: str) -> None:
    if where.endswith("|") or where.startswith("|"):
        raise SourceError(
            f"{scp}: {key} is a command ({where!r}), and reading data runs none: write its output to a file "
            "once, and name that file"
        )
    _, colon, place = where.rpartition(":")
    if colon and place.isdigit():
        raise SourceError(f"{scp}: {key} is a place in an archive ({where!r}): write it to a file of its own once")


def _table(path: Path) -> dict[str, str]:
    """Read lines of a key and what belongs to it; a key that comes twice is an error, as it is in Kaldi."""
    table: dict[str, str] = {}
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        key, _, value = line.strip().replace("\t", " ").partition(" ")
        if key in table:
            raise SourceError(f"{path}, line {number}: {key!r} comes twice")
        table[key] = value.strip()
    return table


def _optional_table(path: Path) -> dict[str, str]:
    return _table(path) if path.is_file() else {}


def _segments(path: Path) -> dict[str, _Stretch]:
    stretches = {}
    for utterance, line in _table(path).items():
        try:
            recording, start, end = line.split()[:3]
            offset, until = float(start), float(end)
        except ValueError:
            raise SourceError(f"{path}: {utterance} {line}: not a recording, its start and its end") from None
        if not (math.isfinite(offset) and math.isfinite(until)):
            raise SourceError(f"{path}: {utterance} {line}: not seconds")
        # Kaldi writes -1 for the end of the recording.
        stretches[utterance] = _Stretch(recording, offset, None if until == -1 else until - offset)
    return stretches
