"""Which context a checkpoint may be served at: the smallest margin that costs nothing against 30 s, or 30 s.

Measured on the dev set by the engine that serves, before the version is sealed. It trains nothing, and what is served
is judged once more, as a whole, by the gate.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from speech.context import ElasticContext
from speech.engine import Engine
from speech.scores import corpus_rate, difference_interval
from training.config import TrainingConfig
from training.data.manifest import Utterance
from training.evaluate import Hypothesis, blocks_of, transcribe_utterances
from training.gate import Bounds

MARGINS = (32, 64, 96, 128)
"""Encoder positions (20 ms each) that are tried, the cheapest first: 0.64 to 2.56 s; see `margins_to_try`."""

LENGTHS_S = (2.0, 4.0, 8.0, 16.0, 30.0)
"""Upper ends of the length buckets: a margin may be enough for long clips and too little for short ones."""

MIN_CLIPS = 16
"""Fewer clips prove nothing, of all, of one length bucket or of one language: the bucket or the language is then
reported, and not judged alone."""

MAX_ELASTIC_LOSS = 0.1
"""A margin holds if the upper 95 % bound of what it costs in WER stays below this, for all clips together, in each
length bucket and in each language. Coarse, for dev sets are small; it finds the loops of a model that has not learned
short contexts."""


class Cost(BaseModel):
    """What a context costs against 30 s, on the same clips."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    clips: int  # in which somebody speaks: what is heard in the others is in the rates, and shows nothing alone
    wer_full: float  # at 30 s
    wer_elastic: float
    difference: Bounds  # elastic minus full: 95 %, paired

    @property
    def is_shown(self) -> bool:
        """Whether there are enough clips, and they show that it costs no more than `MAX_ELASTIC_LOSS`."""
        return self.clips >= MIN_CLIPS and self.difference.high <= MAX_ELASTIC_LOSS


class Trial(BaseModel):
    """One margin, tried."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    margin: int
    all: Cost
    by_length: dict[str, Cost]  # "2-4 s" and so on, those that have clips
    by_language: dict[str, Cost] = {}  # those that have words; none in manifests of before languages were judged

    @property
    def holds(self) -> bool:
        """Whether the margin may be served."""
        return self.all.is_shown and not self.costly

    @property
    def costly(self) -> list[str]:
        """Length buckets and languages that have enough clips, which do not show it."""
        parts = self.by_length | self.by_language
        return [name for name, cost in parts.items() if cost.clips >= MIN_CLIPS and not cost.is_shown]

    @property
    def unjudged(self) -> list[str]:
        """Length buckets and languages that have too few clips to be judged alone."""
        return [name for name, cost in (self.by_length | self.by_language).items() if cost.clips < MIN_CLIPS]


class Evidence(BaseModel):
    """Every margin that was tried, up to the first that holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trials: tuple[Trial, ...]

    @property
    def context(self) -> ElasticContext:
        """What the version may be served at."""
        best = next((trial for trial in self.trials if trial.holds), None)
        return ElasticContext() if best is None else ElasticContext(elastic=True, margin=best.margin)

    def to_manifest(self) -> dict[str, Any]:
        """Return the `evidence` of a manifest's `context`: of the margin that is served, or of the last that failed."""
        last = self.trials[-1]
        return {
            "wer_full": last.all.wer_full,
            "wer_elastic": last.all.wer_elastic,
            "ci": [last.all.difference.low, last.all.difference.high],
            "clips": last.all.clips,
            "trials": [trial.model_dump(mode="json") for trial in self.trials],
        }

    def describe(self) -> str:
        """Return one line for people."""
        last = self.trials[-1]
        found = (
            f"On {last.all.clips} dev clips, WER is {last.all.wer_full:.3f} at 30 s and {last.all.wer_elastic:.3f} "
            f"elastic; at least {MIN_CLIPS} clips must show that elastic costs no more than {MAX_ELASTIC_LOSS:g}"
        )
        if last.unjudged:
            found += f" (too few to judge them alone: {', '.join(last.unjudged)})"
        if last.holds:
            return f"context: elastic, margin {last.margin}. {found}"
        costly = f" (too costly in {', '.join(last.costly)})" if last.costly else ""
        return f"context: 30 s, for no margin up to {last.margin} holds{costly}. {found}"


def margins_to_try(config: TrainingConfig) -> tuple[int, ...]:
    """Return those of `MARGINS` that training showed: what is shorter than its longest margin was.

    Where it showed none of them, there is the one that the model was evaluated with all along, shown by its own rule.
    """
    return tuple(margin for margin in MARGINS if margin <= max(config.train_margins)) or (config.serving_margin,)


def choose_context(
    load: Callable[[ElasticContext], Engine],
    utterances: Sequence[Utterance],
    audio_root: Path,
    *,
    margins: Sequence[int] = MARGINS,
    seed: int = 0,
    advance: Callable[[int], None] = lambda _: None,
) -> Evidence:
    """Try margins, from the smallest on, until one holds.

    Args:
        load: loads the checkpoint's engine, as it will serve, for a context.
        utterances: of the dev set.
        audio_root: what relative audio paths start from.
        margins: in positions; at least one.
        seed: of the bootstrap.
        advance: called with the number of clips just done, of at most `(1 + len(margins)) * len(utterances)`.
    """
    full = transcribe_utterances(load(ElasticContext()), utterances, audio_root, advance)
    trials: list[Trial] = []
    for margin in sorted(margins):
        context = ElasticContext(elastic=True, margin=margin)
        elastic = transcribe_utterances(load(context), utterances, audio_root, advance)
        trials.append(try_margin(margin, utterances, full, elastic, seed))
        if trials[-1].holds:
            break
    return Evidence(trials=tuple(trials))


def try_margin(
    margin: int, utterances: Sequence[Utterance], full: Sequence[Hypothesis], elastic: Sequence[Hypothesis], seed: int
) -> Trial:
    """Compare what was heard at 30 s and at a margin, all clips together, by their length and by their language."""
    buckets: dict[str, list[int]] = {length_bucket(end): [] for end in LENGTHS_S}
    languages: dict[str, list[int]] = {code: [] for code in sorted({one.language for one in utterances})}
    for i, utterance in enumerate(utterances):
        buckets[length_bucket(utterance.audio.duration)].append(i)
        languages[utterance.language].append(i)

    def cost(rows: Sequence[int]) -> Cost:
        return cost_of([full[i] for i in rows], [elastic[i] for i in rows], seed)

    def costs(groups: dict[str, list[int]]) -> dict[str, Cost]:
        # A group of clips in which nobody speaks has no words to be wrong.
        return {name: cost(rows) for name, rows in groups.items() if any(full[i].errors.reference for i in rows)}

    return Trial(
        margin=margin, all=cost(range(len(utterances))), by_length=costs(buckets), by_language=costs(languages)
    )


def cost_of(full: Sequence[Hypothesis], elastic: Sequence[Hypothesis], seed: int) -> Cost:
    """Compare what was heard in the same clips at 30 s and at a margin."""
    theirs, ours = [heard.errors for heard in full], [heard.errors for heard in elastic]
    found = difference_interval(theirs, ours, blocks_of(full)[0], seed=seed)
    return Cost(
        clips=sum(error.reference > 0 for error in theirs),
        wer_full=corpus_rate(theirs),
        wer_elastic=corpus_rate(ours),
        difference=Bounds(value=found.value, low=found.low, high=found.high),
    )


def length_bucket(seconds: float) -> str:
    """Return the name of a clip's length bucket.

    >>> length_bucket(2.5)
    '2-4 s'
    """
    ends = (0.0, *LENGTHS_S)
    i = next((i for i, end in enumerate(LENGTHS_S) if seconds <= end), len(LENGTHS_S) - 1)
    return f"{ends[i]:g}-{ends[i + 1]:g} s"
