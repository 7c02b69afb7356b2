"""The utterance manifest: one JSON object a line, the only form that lint, split, train and evaluate read.

It describes audio and never holds any. Whether a row is fit for training is `checks`' business.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from speech.audio import SAMPLE_RATE, AudioError, decode_audio

SplitName = Literal["train", "dev", "test"]

CORRECTIONS = "corrections"
"""The `source` of what users corrected. It is what a model got wrong: in a test of such clips, whatever differs from
that model would look better, so none is ever for test."""

LANGUAGE_PATTERN = r"^[a-z]{2,3}$"
"""The shape of Whisper's language codes, such as "it" or "yue"."""

CUT_TOLERANCE_S = 0.05
"""A manifest made elsewhere may have rounded a duration up by this much."""

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
NonEmpty = Annotated[str, Field(min_length=1)]


class ManifestError(ValueError):
    """A manifest cannot be read; the message names the file, the line and the field."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class AudioSlice(_Frozen):
    """A stretch of an audio file.

    Attributes:
        path: relative to the manifest's folder when below it, else absolute.
        offset: where the stretch starts, in seconds.
        duration: how long it is, in seconds.
        sha256: of the whole file's bytes.
    """

    path: NonEmpty
    offset: Seconds = 0.0
    duration: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Segment(_Frozen):
    """A timed part of an utterance's text; times in seconds from the utterance's start."""

    start: Seconds
    end: Seconds
    text: str


class Utterance(_Frozen):
    """One clip and what is said in it.

    Attributes:
        id: unique within a data set.
        audio: where the sound is.
        no_speech: nobody speaks; the text is empty.
        text: what is said, as it should be written.
        language: Whisper's code, such as "it".
        speaker: who says it, when known.
        sentence_id: the data set's own name for the sentence, which several may have read.
        split: what the clip is for; None until `splits.split` has decided.
        segments: times inside the utterance, when known.
        prev_text: what was said before, in a longer recording.
        source: where it came from.
        weight: how often it comes in a pass over the training set; see `mix`.
        licence: SPDX identifier, when known.
    """

    id: NonEmpty
    audio: AudioSlice
    no_speech: bool = False
    text: str
    language: Annotated[str, Field(pattern=LANGUAGE_PATTERN)]
    speaker: str | None = None
    sentence_id: str | None = None
    split: SplitName | None = None
    segments: tuple[Segment, ...] | None = None
    prev_text: str | None = None
    source: NonEmpty
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    licence: str | None = None

    @field_validator("text")
    @classmethod
    def _says_something(cls, text: str, info: ValidationInfo) -> str:
        if bool(text) == bool(info.data.get("no_speech")):
            raise ValueError("it is empty if, and only if, no_speech is true")
        return text


def read_manifest(path: Path) -> list[Utterance]:
    """Read a manifest, in the order of its lines; blank lines are skipped.

    Audio paths stay as written: give the manifest's folder to `load_audio`.

    Raises:
        ManifestError: a line is no utterance, or an id comes twice.
    """
    utterances = []
    lines_by_id: dict[str, int] = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                utterance = Utterance.model_validate_json(line)
            except ValidationError as error:
                raise ManifestError(f"{path}, line {number}: {_describe(error)}") from error
            first = lines_by_id.setdefault(utterance.id, number)
            if first != number:
                raise ManifestError(f"{path}, line {number}: id: {utterance.id!r} is already on line {first}")
            utterances.append(utterance)
    return utterances


def _describe(error: ValidationError) -> str:
    """Return every fault as `field: what is wrong`."""
    return "; ".join(
        ": ".join(filter(None, [".".join(map(str, fault["loc"])), fault["msg"]])) for fault in error.errors()
    )


def write_manifest(path: Path, utterances: Iterable[Utterance]) -> None:
    """Write a manifest in one step: a reader sees the old file or the new one, never a part.

    Absolute audio paths below the manifest's folder are written relative to it, so that the folder
    can be moved as a whole; relative ones are taken to be relative to it already.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.parent.resolve()
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            for utterance in utterances:
                file.write(_relative_to(folder, utterance).model_dump_json() + "\n")
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _relative_to(folder: Path, utterance: Utterance) -> Utterance:
    audio_path = Path(utterance.audio.path)
    if not audio_path.is_relative_to(folder):
        return utterance
    relative = audio_path.relative_to(folder).as_posix()
    return utterance.model_copy(update={"audio": utterance.audio.model_copy(update={"path": relative})})


FINGERPRINT_FORMAT = 2
"""Raised whenever `fingerprint` is taken of something else: two of different formats are not compared."""


def fingerprint(utterances: Iterable[Utterance]) -> str:
    """Return the data set's sha256, over all that training and measuring make of its utterances, in no order.

    Speakers are what intervals are drawn by and, as sources are, what windows are filled up with.
    """
    fields = {"id", "text", "language", "speaker", "split", "segments", "prev_text", "source", "weight"}
    stretch = {"sha256", "offset", "duration"}
    rows = sorted(
        json.dumps(
            [u.model_dump(include=fields), u.audio.model_dump(include=stretch)], ensure_ascii=False, sort_keys=True
        )
        for u in utterances
    )
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def load_audio(utterance: Utterance, root: Path) -> NDArray[np.float32]:
    """Decode an utterance's stretch of audio to 16 kHz mono.

    Args:
        utterance: what to load.
        root: the folder that relative paths start from: the manifest's.

    Raises:
        AudioError: the file cannot be decoded.
        ValueError: the file ends before the stretch does.
    """
    audio = utterance.audio
    try:
        samples = decode_audio(root / audio.path)
    except AudioError as error:
        raise AudioError(error.code, f"{utterance.id}: {audio.path}: {error}") from error
    end_s = audio.offset + audio.duration
    if end_s > samples.size / SAMPLE_RATE + CUT_TOLERANCE_S:
        raise ValueError(
            f"{utterance.id}: {audio.path} lasts {samples.size / SAMPLE_RATE:.2f} s, "
            f"but the manifest wants it up to {end_s:.2f} s"
        )
    return samples[round(audio.offset * SAMPLE_RATE) : round(end_s * SAMPLE_RATE)]
