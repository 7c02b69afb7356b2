"""NIST's matched-pairs sentence-segment word error test: do two recognisers differ on the same speech?

Gillick and Cox, "Some statistical issues in the comparison of speech recognition algorithms", ICASSP 1989; as in SCTK's
`sc_stats` (src/sclite/mtchprs.c). Utterances are cut into segments that are far enough apart to err independently: at
least two words in a row that both have right lie between them. It takes no notice of speakers or sentences that come
again; the bootstrap of `speech.scores` does.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from speech.scores import align

MIN_GOOD = 2
"""So many words that both have right part two segments: SCTK's default."""


@dataclass(frozen=True)
class MatchedPairs:
    """The test's outcome."""

    segments: int  # stretches in which at least one of the two errs
    mean: float  # of the second's errors minus the first's, a segment: below zero, the second is better
    z: float | None  # None: too few segments, or all of them differ alike
    p: float  # two-tailed


def matched_pairs(utterances: Iterable[tuple[Sequence[str], Sequence[str], Sequence[str]]]) -> MatchedPairs:
    """Compare two recognisers.

    Args:
        utterances: reference, first and second hypothesis of each, in words (or characters).
    """
    counts = [pair for reference, first, second in utterances for pair in error_segments(reference, first, second)]
    differences = np.array([second - first for first, second in counts], dtype=np.float64)
    n = len(differences)
    if n < 2:
        return MatchedPairs(segments=n, mean=float(differences.mean()) if n else 0.0, z=None, p=1.0)
    mean, deviation = float(differences.mean()), float(differences.std(ddof=1))
    if deviation == 0:
        return MatchedPairs(segments=n, mean=mean, z=None, p=1.0 if mean == 0 else 0.0)
    z = mean / (deviation / math.sqrt(n))
    return MatchedPairs(segments=n, mean=mean, z=z, p=math.erfc(abs(z) / math.sqrt(2)))


def error_segments(
    reference: Sequence[str], first: Sequence[str], second: Sequence[str], min_good: int = MIN_GOOD
) -> list[tuple[int, int]]:
    """Return the errors of both in each segment of one utterance."""
    (wrong_1, inserted_1), (wrong_2, inserted_2) = (_errors(reference, hypothesis) for hypothesis in (first, second))
    segments: list[tuple[int, int]] = []
    open_segment: list[int] | None = None
    good = 0
    for i in range(len(reference) + 1):
        at_word = i < len(reference)
        errors = (inserted_1[i] + (at_word and wrong_1[i]), inserted_2[i] + (at_word and wrong_2[i]))
        if any(errors):
            open_segment = [n + m for n, m in zip(open_segment or [0, 0], errors, strict=True)]
            # What was inserted stands before the word, which may itself be the first good one.
            good = 0 if at_word and (wrong_1[i] or wrong_2[i]) else 1
        elif open_segment is not None:
            good += 1
        if open_segment is not None and good >= min_good:
            segments.append((open_segment[0], open_segment[1]))
            open_segment = None
    if open_segment is not None:
        segments.append((open_segment[0], open_segment[1]))
    return segments


def _errors(reference: Sequence[str], hypothesis: Sequence[str]) -> tuple[list[bool], list[int]]:
    """Return which of the reference's words are wrong, and how many were put in before each, and after the last."""
    wrong, inserted = [False] * len(reference), [0] * (len(reference) + 1)
    for step in align(reference, hypothesis):
        if step.kind == "insert":
            inserted[step.reference] += 1
        elif step.kind != "equal":
            wrong[step.reference] = True
    return wrong, inserted
