"""The checks that every source's rows pass, written once so that a rule means the same everywhere.

A row passes as it is or is dropped with a reason; nothing is repaired and nothing put in its place. A row that is a
stretch of a longer file gets a file of its own. What only one source knows to be wrong stays with that source.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from speech.audio import SAMPLE_RATE, AudioError, declared_seconds, decode_audio
from speech.text import normalize
from training.data.clips import cut
from training.data.manifest import CUT_TOLERANCE_S, LANGUAGE_PATTERN, AudioSlice, Segment, SplitName, Utterance
from training.data.report import Dropped

MAX_SECONDS = 30.0
"""Whisper hears 30 s at a time; the rest of a longer clip would have a transcript and no sound."""

MAX_LABEL_TOKENS = 448
"""Positions of Whisper's decoder."""

SPECIAL_TOKENS = 5
"""Start of transcript, language, task, no timestamps, end of text."""

MAX_OVERSHOOT_S = 0.5
"""A row may end this much after its file, which then ends it; Kaldi's `extract-segments` allows the same."""

CountTokens = Callable[[str], int]
"""How many tokens a text is, without special ones."""

REASON_OF_AUDIO_ERROR = {"empty_audio": "zero_length", "audio_too_long": "too_long"}


@dataclass(frozen=True)
class Row:
    """What a source says about one clip, before anyone has looked at the clip itself.

    With an offset or a duration (seconds) it is a stretch of the file, and without a duration what comes after the
    offset. The other fields are `Utterance`'s.
    """

    id: str
    path: Path
    text: str
    language: str | None
    source: str
    speaker: str | None = None
    split: SplitName | None = None
    licence: str | None = None
    offset: float = 0.0
    duration: float | None = None
    segments: tuple[Segment, ...] | None = None
    prev_text: str | None = None
    sentence_id: str | None = None
    no_speech: bool = False

    @property
    def is_stretch(self) -> bool:
        """Whether it is a part of its file."""
        return self.offset > 0 or self.duration is not None


def admit(
    rows: Iterable[Row], *, count_tokens: CountTokens | None = None, clips: Path | None = None
) -> tuple[list[Utterance], list[Dropped]]:
    """Turn rows into utterances, in their order, and drop those that cannot be one.

    Args:
        rows: what the source lists; of two rows with one id, the first counts.
        count_tokens: the tokenizer to measure labels with; None leaves that check out.
        clips: folder for the stretches of longer files, each of which becomes a file; a source without any needs none.
    """
    rows = list(rows)
    unique: dict[str, Row] = {}
    for row in rows:
        unique.setdefault(row.id, row)
    dropped = [
        drop(row, "duplicate_id", f"listed before as {unique[row.id].text!r}")
        for row in rows
        if unique[row.id] is not row
    ]
    files: defaultdict[Path, list[Row]] = defaultdict(list)
    for row in unique.values():
        files[row.path].append(row)
    checked: dict[str, Utterance | Dropped] = {}
    # Decoding is the cost, and FFmpeg does it outside Python's lock.
    with ThreadPoolExecutor() as pool:
        for results in pool.map(lambda rows: _check_file(rows, count_tokens, clips), files.values()):
            checked |= results
    in_order = [checked[name] for name in unique]
    dropped += [row for row in in_order if isinstance(row, Dropped)]
    return [row for row in in_order if isinstance(row, Utterance)], dropped


def drop(row: Row, reason: str, detail: str, *, by_source_rule: bool = False) -> Dropped:
    """Say why a row was left out."""
    return Dropped(
        id=row.id,
        source=row.source,
        reason=reason,
        detail=detail,
        by_source_rule=by_source_rule,
    )


def drop_undecodable(row: Row, error: AudioError) -> Dropped:
    """Say in this module's codes what `speech` found wrong with the audio."""
    return drop(row, REASON_OF_AUDIO_ERROR.get(error.code, "undecodable"), str(error))


def _check_file(
    rows: list[Row], count_tokens: CountTokens | None, clips: Path | None
) -> dict[str, Utterance | Dropped]:
    """Apply every check to the rows of one file, the cheap ones first, and cut their stretches out in one go."""
    checked: dict[str, Utterance | Dropped] = {}
    for row in rows:
        if fault := _fault_of_text(row, count_tokens) or _fault_of_place(row):
            checked[row.id] = fault
    path = rows[0].path
    try:
        stretches = [row for row in rows if row.id not in checked and row.is_stretch and not _is_whole(row)]
        if stretches:
            checked |= _check_stretches(path, stretches, clips)
        return checked | {row.id: _check_audio(row) for row in rows if row.id not in checked}
    except OSError as error:
        return checked | {row.id: drop(row, "undecodable", str(error)) for row in rows if row.id not in checked}


def _is_whole(row: Row) -> bool:
    """Say whether a row with a duration means its file from end to end."""
    if row.offset > 0 or row.duration is None:
        return False
    declared_s = declared_seconds(row.path)
    return 0 < declared_s <= row.duration + CUT_TOLERANCE_S


def _check_stretches(path: Path, rows: list[Row], clips: Path | None) -> dict[str, Utterance | Dropped]:
    if clips is None:
        raise ValueError(f"{path}: no folder to write its stretches to")
    checked: dict[str, Utterance | Dropped] = {}
    spans: dict[str, tuple[int, int]] = {}
    for row in rows:
        end_s = declared_seconds(path) if row.duration is None else row.offset + row.duration
        if end_s - row.offset > MAX_SECONDS:
            checked[row.id] = drop(row, "too_long", f"{end_s - row.offset:.2f} s of at most {MAX_SECONDS:g}")
        else:
            spans[row.id] = (round(row.offset * SAMPLE_RATE), round(end_s * SAMPLE_RATE))
    cuts, error = cut(path, set(spans.values()), clips)
    for row in rows:
        clip = cuts.get(spans.get(row.id, (0, 0)))
        if clip is not None:
            checked[row.id] = _check_audio(replace(row, path=clip))
        elif row.id in spans:
            why = "its file ends before it begins"
            checked[row.id] = drop(row, "beyond_end", why) if error is None else drop_undecodable(row, error)
    return checked


def _check_audio(row: Row) -> Utterance | Dropped:
    """Decode a clip from end to end."""
    try:
        with row.path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        n_samples = decode_audio(row.path, max_seconds=MAX_SECONDS).size
    except AudioError as error:
        return drop_undecodable(row, error)
    duration = n_samples / SAMPLE_RATE
    if row.duration is not None and duration < row.duration - MAX_OVERSHOOT_S:
        return drop(row, "beyond_end", f"{row.duration:.2f} s are wanted, but its file ends after {duration:.2f} s")
    return Utterance(
        id=row.id,
        audio=AudioSlice(path=str(row.path), duration=duration, sha256=sha256),
        no_speech=row.no_speech,
        text=row.text,
        language=row.language or "",
        speaker=row.speaker,
        sentence_id=row.sentence_id,
        split=row.split,
        segments=None if row.segments is None else tuple(_until(segment, duration) for segment in row.segments),
        prev_text=row.prev_text,
        source=row.source,
        licence=row.licence,
    )


def _until(segment: Segment, duration: float) -> Segment:
    """End a segment with its clip, which its file may have ended."""
    return segment.model_copy(update={"start": min(segment.start, duration), "end": min(segment.end, duration)})


def _fault_of_text(row: Row, count_tokens: CountTokens | None) -> Dropped | None:
    if not row.no_speech and not normalize(row.text):
        return drop(row, "empty_text", f"no word in {row.text!r}")
    if row.language and not re.fullmatch(LANGUAGE_PATTERN, row.language):
        return drop(row, "unknown_language", f'{row.language!r} is no code such as "it"')
    if count_tokens is not None:
        n_tokens = count_tokens(row.text) + SPECIAL_TOKENS
        if n_tokens > MAX_LABEL_TOKENS:
            return drop(row, "too_many_tokens", f"{n_tokens} of at most {MAX_LABEL_TOKENS}")
    return None


def _fault_of_place(row: Row) -> Dropped | None:
    if not row.language:
        return drop(row, "no_language", "neither the row nor the caller names the language")
    if row.offset < 0 or (row.duration is not None and not row.duration > 0):
        return drop(row, "malformed_row", f"no stretch of a file: offset {row.offset} s, duration {row.duration} s")
    if not row.path.is_file():
        return drop(row, "missing_file", f"no file at {row.path}")
    return None
