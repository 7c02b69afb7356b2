"""The checks that every source's rows pass, written once so that a rule means the same everywhere.

A row passes as it is or is dropped with a reason; nothing is repaired and nothing put in its place. What only
one source knows to be wrong stays with that source.
"""

import hashlib
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from speech.audio import SAMPLE_RATE, AudioError, decode_audio
from speech.text import normalize
from training.data.manifest import LANGUAGE_PATTERN, AudioSlice, SplitName, Utterance
from training.data.report import Dropped

MAX_SECONDS = 30.0
"""Whisper hears 30 s at a time; the rest of a longer clip would have a transcript and no sound."""

MAX_LABEL_TOKENS = 448
"""Positions of Whisper's decoder."""

SPECIAL_TOKENS = 5
"""Start of transcript, language, task, no timestamps, end of text."""

CountTokens = Callable[[str], int]
"""How many tokens a text is, without special ones."""

REASON_OF_AUDIO_ERROR = {"empty_audio": "zero_length", "audio_too_long": "too_long"}


@dataclass(frozen=True)
class Row:
    """What a source says about one clip, before anyone has looked at the clip itself."""

    id: str
    path: Path
    text: str
    language: str | None
    source: str
    speaker: str | None = None
    split: SplitName | None = None
    licence: str | None = None


def admit(rows: Iterable[Row], *, count_tokens: CountTokens | None = None) -> tuple[list[Utterance], list[Dropped]]:
    """Turn rows into utterances, in their order, and drop those that cannot be one.

    Args:
        rows: what the source lists; of two rows with one id, the first counts.
        count_tokens: the tokenizer to measure labels with; None leaves that check out.
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
    utterances = []
    # Decoding is the cost, and FFmpeg does it outside Python's lock.
    with ThreadPoolExecutor() as pool:
        for checked in pool.map(lambda row: _check(row, count_tokens), unique.values()):
            if isinstance(checked, Utterance):
                utterances.append(checked)
            else:
                dropped.append(checked)
    return utterances, dropped


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


def _check(row: Row, count_tokens: CountTokens | None) -> Utterance | Dropped:
    """Apply every check, the cheap ones first."""
    if fault := _fault_of_text(row, count_tokens):
        return fault
    if not row.language:
        return drop(row, "no_language", "neither the row nor the caller names the language")
    if not row.path.is_file():
        return drop(row, "missing_file", f"no file at {row.path}")
    try:
        with row.path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        n_samples = decode_audio(row.path, max_seconds=MAX_SECONDS).size
    except AudioError as error:
        return drop_undecodable(row, error)
    except OSError as error:
        return drop(row, "undecodable", str(error))
    return Utterance(
        id=row.id,
        audio=AudioSlice(path=str(row.path), duration=n_samples / SAMPLE_RATE, sha256=sha256),
        text=row.text,
        language=row.language,
        speaker=row.speaker,
        split=row.split,
        source=row.source,
        licence=row.licence,
    )


def _fault_of_text(row: Row, count_tokens: CountTokens | None) -> Dropped | None:
    if not normalize(row.text):
        return drop(row, "empty_text", f"no word in {row.text!r}")
    if row.language and not re.fullmatch(LANGUAGE_PATTERN, row.language):
        return drop(row, "unknown_language", f'{row.language!r} is no code such as "it"')
    if count_tokens is not None:
        n_tokens = count_tokens(row.text) + SPECIAL_TOKENS
        if n_tokens > MAX_LABEL_TOKENS:
            return drop(row, "too_many_tokens", f"{n_tokens} of at most {MAX_LABEL_TOKENS}")
    return None
