"""What a model makes of a set of utterances: hypotheses, error counts, and rates with their intervals.

The engine and the code around it are the service's own, so what is measured here is what users get. It compares
nothing: that is the gate's work.
"""

import gzip
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from speech.engine import Engine
from speech.scores import Errors, Interval, character_errors, corpus_rate, rate_interval, word_errors
from speech.text import normalize
from speech.transcribe import Options, transcribe_many
from training.data.manifest import Utterance, load_audio

CLIPS_AT_ONCE = 32
POOLED = "all"
"""Stands for all languages together where scores are kept by language."""


Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""`with progress("measuring", n_clips) as advance: advance(1)`"""


class Hypothesis(BaseModel):
    """What one model heard in one utterance."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    language: str
    reference: str
    hypothesis: str

    @property
    def words(self) -> Errors:
        """Word errors, normalised."""
        return word_errors(self.reference, self.hypothesis)

    @property
    def characters(self) -> Errors:
        """Character errors, normalised."""
        return character_errors(self.reference, self.hypothesis)

    @property
    def sentence(self) -> str:
        """What the bootstrap resamples whole: clips of one sentence err together."""
        return normalize(self.reference)


def transcribe_utterances(
    engine: Engine,
    utterances: Sequence[Utterance],
    audio_root: Path,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Hypothesis]:
    """Transcribe utterances in their own language, in the order given.

    Args:
        engine: as served.
        utterances: of any number of languages.
        audio_root: what relative audio paths start from.
        progress: called with the number of clips just done.
    """
    hypotheses: dict[str, Hypothesis] = {}
    by_length = sorted(utterances, key=lambda utterance: utterance.audio.duration)
    for start in range(0, len(by_length), CLIPS_AT_ONCE):
        chunk = by_length[start : start + CLIPS_AT_ONCE]
        audios = [load_audio(utterance, audio_root) for utterance in chunk]
        transcriptions = transcribe_many(engine, audios, [Options(language=one.language) for one in chunk])
        for utterance, transcription in zip(chunk, transcriptions, strict=True):
            hypotheses[utterance.id] = Hypothesis(
                id=utterance.id,
                language=utterance.language,
                reference=utterance.text,
                hypothesis=transcription.text,
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


def wer_intervals(hypotheses: Iterable[Hypothesis], seed: int) -> dict[str, Interval]:
    """Return the corpus WER of each language and of all, with 95 % bootstrap intervals over sentences."""
    return {
        language: rate_interval([h.words for h in group], [h.sentence for h in group], seed=seed)
        for language, group in by_language(hypotheses).items()
    }


def character_rates(hypotheses: Iterable[Hypothesis]) -> dict[str, float]:
    """Return the corpus CER of each language and of all."""
    return {language: corpus_rate([h.characters for h in group]) for language, group in by_language(hypotheses).items()}


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
