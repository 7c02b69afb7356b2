"""What a model makes of a set of utterances: hypotheses, error counts, and rates with their intervals.

The engine and the code around it are the service's own, so what is measured here is what users get. It compares
nothing: that is the gate's work. What else a model may lose (long recordings, silence, times) is `guards`' to measure.
"""

import gzip
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from speech.engine import Engine
from speech.guard import Guard
from speech.scores import (
    Errors,
    Interval,
    character_errors,
    corpus_rate,
    rate_interval,
    units,
    word_errors,
)
from speech.text import normalize
from speech.transcribe import Options, transcribe_many
from speech.words import UNSPACED
from training.data.manifest import Utterance, load_audio

CLIPS_AT_ONCE = 32
POOLED = "all"
"""Stands for all languages together where scores are kept by language."""

MIN_SPEAKERS = 20
"""With so many speakers, the bootstrap resamples speakers; fewer are too few blocks, and it resamples sentences."""

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""`with progress("measuring", n_clips) as advance: advance(1)`"""


Unit = Literal["words", "characters"]
BlockKind = Literal["speaker", "sentence"]


class Hypothesis(BaseModel):
    """What one model heard in one utterance."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    language: str
    reference: str
    hypothesis: str
    speaker: str | None = None
    duration: float | None = None  # seconds

    @cached_property
    def words(self) -> Errors:
        """Word errors, normalised."""
        return word_errors(self.reference, self.hypothesis)

    @cached_property
    def characters(self) -> Errors:
        """Character errors, normalised."""
        return character_errors(self.reference, self.hypothesis, language=self.language)

    @property
    def unit(self) -> Unit:
        """What errors are counted in: words, or characters where the language writes no blanks between them."""
        return "characters" if self.language in UNSPACED else "words"

    @property
    def errors(self) -> Errors:
        """Errors in the language's own unit, normalised: what the gate judges by."""
        return self.characters if self.unit == "characters" else self.words

    def tokens(self) -> tuple[list[str], list[str]]:
        """Return reference and hypothesis, normalised, in the language's own unit."""
        return units(self.reference, self.language), units(self.hypothesis, self.language)

    @cached_property
    def sentence(self) -> str:
        """What the bootstrap resamples whole where speakers are few: clips of one sentence err together."""
        return normalize(self.reference)


class Bounds(BaseModel):
    """A rate or a difference, and its interval."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, interval: Interval) -> "Bounds":
        """Take an interval as it was computed."""
        return cls(value=interval.value, low=interval.low, high=interval.high)

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


class Scores(BaseModel):
    """One language's rates on one set, with 95 % bootstrap intervals, and what the bootstrap resampled."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    clips: int
    seconds: float | None
    blocks: BlockKind
    n_blocks: int
    wer: Bounds
    cer: Bounds
    wer_as_written: Bounds  # case and punctuation count
    cer_as_written: Bounds


def transcribe_utterances(
    engine: Engine,
    utterances: Sequence[Utterance],
    audio_root: Path,
    progress: Callable[[int], None] = lambda _: None,
    *,
    guard: Guard = "redecode",
) -> list[Hypothesis]:
    """Transcribe utterances in their own language, in the order given.

    Args:
        engine: as served.
        utterances: of any number of languages.
        audio_root: what relative audio paths start from.
        progress: called with the number of clips just done.
        guard: as served; "keep" decodes greedily, once.
    """
    if len({utterance.id for utterance in utterances}) < len(utterances):
        raise ValueError("two utterances have the same id")
    hypotheses: dict[str, Hypothesis] = {}
    by_length = sorted(utterances, key=lambda utterance: utterance.audio.duration)
    for start in range(0, len(by_length), CLIPS_AT_ONCE):
        chunk = by_length[start : start + CLIPS_AT_ONCE]
        audios = [load_audio(utterance, audio_root) for utterance in chunk]
        options = [Options(language=one.language, guard=guard) for one in chunk]
        transcriptions = transcribe_many(engine, audios, options)
        for utterance, transcription in zip(chunk, transcriptions, strict=True):
            hypotheses[utterance.id] = Hypothesis(
                id=utterance.id,
                language=utterance.language,
                reference=utterance.text,
                hypothesis=transcription.text,
                speaker=utterance.speaker,
                duration=utterance.audio.duration,
            )
        progress(len(chunk))
    return [hypotheses[utterance.id] for utterance in utterances]


def by_language(hypotheses: Iterable[Hypothesis]) -> dict[str, list[Hypothesis]]:
    """Return the hypotheses of each language, and of all of them under `POOLED` if there are several."""
    groups: dict[str, list[Hypothesis]] = {}
    for hypothesis in hypotheses:
        groups.setdefault(hypothesis.language, []).append(hypothesis)
    if len(groups) > 1:
        groups = {**groups, POOLED: [hypothesis for group in groups.values() for hypothesis in group]}
    return groups


def blocks_of(hypotheses: Sequence[Hypothesis]) -> tuple[list[str], BlockKind]:
    """Return what each utterance belongs to, and what kind of thing that is, for the bootstrap.

    Speakers, if all are known and there are `MIN_SPEAKERS` (one speaker's clips err together: arXiv:1912.09508); else
    sentences, of which an utterance is one where no sentence was read twice.
    """
    speakers = [h.speaker for h in hypotheses if h.speaker is not None]
    if len(speakers) == len(hypotheses) and len(set(speakers)) >= MIN_SPEAKERS:
        return speakers, "speaker"
    return [h.sentence for h in hypotheses], "sentence"


def wer_intervals(hypotheses: Iterable[Hypothesis], seed: int) -> dict[str, Interval]:
    """Return the corpus WER of each language and of all, with 95 % bootstrap intervals over `blocks_of`."""
    return {
        language: rate_interval([h.words for h in group], blocks_of(group)[0], seed=seed)
        for language, group in by_language(hypotheses).items()
    }


def character_rates(hypotheses: Iterable[Hypothesis]) -> dict[str, float]:
    """Return the corpus CER of each language and of all."""
    return {language: corpus_rate([h.characters for h in group]) for language, group in by_language(hypotheses).items()}


def scores_of(hypotheses: Iterable[Hypothesis], seed: int) -> dict[str, Scores]:
    """Return all rates of each language and of all together."""
    return {language: _scores(group, seed) for language, group in by_language(hypotheses).items()}


def _scores(group: Sequence[Hypothesis], seed: int) -> Scores:
    clusters, kind = blocks_of(group)

    def rate(errors: list[Errors]) -> Bounds:
        return Bounds.of(rate_interval(errors, clusters, seed=seed))

    seconds = [h.duration for h in group if h.duration is not None]
    return Scores(
        clips=len(group),
        seconds=sum(seconds) if len(seconds) == len(group) else None,
        blocks=kind,
        n_blocks=len(set(clusters)),
        wer=rate([h.words for h in group]),
        cer=rate([h.characters for h in group]),
        wer_as_written=rate([word_errors(h.reference, h.hypothesis, as_written=True) for h in group]),
        cer_as_written=rate([character_errors(h.reference, h.hypothesis, as_written=True) for h in group]),
    )


def write_hypotheses(path: Path, hypotheses: Iterable[Hypothesis]) -> None:
    """Write hypotheses as gzipped JSON lines; the same hypotheses give the same bytes."""
    lines = "".join(hypothesis.model_dump_json() + "\n" for hypothesis in hypotheses)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(gzip.compress(lines.encode(), mtime=0))
    temporary.replace(path)


def read_hypotheses(path: Path) -> list[Hypothesis]:
    """Read what `write_hypotheses` wrote."""
    # Not splitlines: a text may hold U+2028, which that takes for the end of a line and JSON does not.
    lines = gzip.decompress(path.read_bytes()).decode().split("\n")
    return [Hypothesis.model_validate(json.loads(line)) for line in lines if line]
