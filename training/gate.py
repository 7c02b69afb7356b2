"""The gate: may a candidate take production's place?

Both models have transcribed the same held-out clips. The difference of their word error rates gets a paired bootstrap
interval, for each trained language and for all together, and the candidate passes only if every upper end is
below zero. A pure function: it moves no alias and reads no file.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict

from speech.scores import CONFIDENCE, N_RESAMPLES, difference_interval, rate_interval
from speech.text import NORMALIZER_VERSION
from training.evaluate import Hypothesis, by_language


class Bounds(BaseModel):
    """A rate or a difference, and its interval."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float
    low: float
    high: float


class Comparison(BaseModel):
    """Base and candidate on one language's clips, or on all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    clips: int
    base: Bounds
    candidate: Bounds
    difference: Bounds  # candidate minus base: below zero is better

    @property
    def better(self) -> bool:
        """Whether the whole interval of the difference is below zero."""
        return self.difference.high < 0


class Verdict(BaseModel):
    """What the gate decided, with everything needed to decide it again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    candidate: str
    base: str
    passed: bool
    reasons: tuple[str, ...]
    comparisons: dict[str, Comparison]  # by language, and "all"
    test_fingerprint: str
    normalizer_version: str
    confidence: float
    resamples: int
    seed: int
    judged_at: datetime


def judge(
    base: Sequence[Hypothesis],
    candidate: Sequence[Hypothesis],
    *,
    base_ref: str,
    candidate_ref: str,
    test_fingerprint: str,
    seed: int,
) -> Verdict:
    """Compare two models' hypotheses for the same clips.

    Args:
        base: of the model in production, or of the one that the candidate was trained from.
        candidate: of the new model, for the same clips in the same order.
        base_ref: reference of the base's version.
        candidate_ref: reference of the candidate's version.
        test_fingerprint: of the held-out set.
        seed: of the bootstrap.

    Raises:
        ValueError: the two are not about the same clips, or there are none.
    """
    if [(h.id, h.reference) for h in base] != [(h.id, h.reference) for h in candidate]:
        raise ValueError("base and candidate were not run on the same clips in the same order")
    if not base:
        raise ValueError("there are no held-out clips to judge by")
    theirs, ours = by_language(base), by_language(candidate)
    comparisons = {language: _compare(theirs[language], ours[language], seed) for language in theirs}
    reasons = tuple(_reason(language, comparison) for language, comparison in comparisons.items())
    return Verdict(
        candidate=candidate_ref,
        base=base_ref,
        passed=all(comparison.better for comparison in comparisons.values()),
        reasons=reasons,
        comparisons=comparisons,
        test_fingerprint=test_fingerprint,
        normalizer_version=NORMALIZER_VERSION,
        confidence=CONFIDENCE,
        resamples=N_RESAMPLES,
        seed=seed,
        judged_at=datetime.now(UTC),
    )


def _compare(base: Sequence[Hypothesis], candidate: Sequence[Hypothesis], seed: int) -> Comparison:
    theirs, ours = [h.words for h in base], [h.words for h in candidate]
    sentences = [h.sentence for h in base]
    intervals = (
        rate_interval(theirs, sentences, seed=seed),
        rate_interval(ours, sentences, seed=seed),
        difference_interval(theirs, ours, sentences, seed=seed),
    )
    first, second, difference = (Bounds(value=i.value, low=i.low, high=i.high) for i in intervals)
    return Comparison(clips=len(base), base=first, candidate=second, difference=difference)


def _reason(language: str, comparison: Comparison) -> str:
    base, candidate, difference = comparison.base, comparison.candidate, comparison.difference
    change = (
        f"{language}: WER {base.value:.3f} → {candidate.value:.3f}, difference {difference.value:+.3f} "
        f"[{difference.low:+.3f}, {difference.high:+.3f}] on {comparison.clips} clips"
    )
    if comparison.better:
        return f"{change}: better"
    if difference.low > 0:
        return f"{change}: worse"
    return f"{change}: not shown to be better; the interval must lie below zero"
