"""Word and character error rates, and what a difference between two of them is worth.

Everything that is ever called WER in this project comes from here: training's in-loop metric, the gate, benchmarks.
Rates are corpus rates (all errors over all reference words), never means of utterances' rates. Needs jiwer, which the
service does not install.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jiwer
import numpy as np
from numpy.typing import NDArray

from speech.text import normalize

N_RESAMPLES = 10_000
CONFIDENCE = 0.95
_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Errors:
    """What one hypothesis got wrong, in words or in characters."""

    errors: int  # substitutions + deletions + insertions
    reference: int  # words (or characters) in the reference


@dataclass(frozen=True)
class Interval:
    """A corpus rate, or a difference of two, with its bootstrap interval."""

    value: float
    low: float
    high: float


def word_errors(reference: str, hypothesis: str) -> Errors:
    """Count the word errors of one utterance, both texts normalised."""
    return _errors(normalize(reference).split(), normalize(hypothesis).split())


def character_errors(reference: str, hypothesis: str) -> Errors:
    """Count the character errors of one utterance, both texts normalised; blanks count."""
    return _errors(list(normalize(reference)), list(normalize(hypothesis)))


def _errors(reference: list[str], hypothesis: list[str]) -> Errors:
    if not reference:  # jiwer refuses an empty reference; every word said of nothing is an insertion
        return Errors(errors=len(hypothesis), reference=0)
    # Characters may be blanks, so hand jiwer the lists, not sentences for it to split.
    output = jiwer.process_words([" ".join(map(_visible, reference))], [" ".join(map(_visible, hypothesis))])
    return Errors(output.substitutions + output.deletions + output.insertions, len(reference))


def _visible(symbol: str) -> str:
    return "␣" if symbol == " " else symbol


def corpus_rate(errors: Sequence[Errors]) -> float:
    """Return all errors over all reference tokens.

    Raises:
        ValueError: the references hold no token, so there is no rate.
    """
    reference = sum(error.reference for error in errors)
    if reference == 0:
        raise ValueError("the references are empty: there is no error rate")
    return sum(error.errors for error in errors) / reference


def rate_interval(errors: Sequence[Errors], clusters: Sequence[str], *, seed: int = 0) -> Interval:
    """Return the corpus rate with its percentile bootstrap interval (95 %, 10,000 resamples).

    Args:
        errors: one entry an utterance.
        clusters: what each utterance belongs to (its sentence, its speaker). Clusters are resampled whole, for
            utterances of one cluster err together (Bisani and Ney, ICASSP 2004; Liu and Peng, arXiv:1912.09508).
        seed: of the resampling.
    """
    sums = _cluster_sums([[e.errors, e.reference] for e in errors], clusters)
    resampled = np.concatenate([rows[:, 0] / rows[:, 1] for rows in _resample(sums, seed)])
    return _interval(corpus_rate(errors), resampled)


def difference_interval(
    base: Sequence[Errors], candidate: Sequence[Errors], clusters: Sequence[str], *, seed: int = 0
) -> Interval:
    """Return candidate's corpus rate minus base's, with its paired bootstrap interval.

    Both must have transcribed the same utterances in the same order; a resample takes the same clusters of both. A
    negative upper end says that the candidate is better.

    Raises:
        ValueError: the two lists are not of the same utterances.
    """
    if [e.reference for e in base] != [e.reference for e in candidate]:
        raise ValueError("base and candidate were not scored on the same utterances")
    sums = _cluster_sums([[b.errors, c.errors, b.reference] for b, c in zip(base, candidate, strict=True)], clusters)
    resampled = np.concatenate([(rows[:, 1] - rows[:, 0]) / rows[:, 2] for rows in _resample(sums, seed)])
    return _interval(corpus_rate(candidate) - corpus_rate(base), resampled)


def _cluster_sums(values: Sequence[Sequence[int]], clusters: Sequence[str]) -> NDArray[np.int64]:
    if len(values) != len(clusters):
        raise ValueError(f"{len(values)} utterances, but {len(clusters)} cluster names")
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    table = np.asarray(values, dtype=np.int64)
    sums = np.zeros((int(index.max()) + 1, table.shape[1]), dtype=np.int64)
    np.add.at(sums, index, table)
    return sums


def _resample(sums: NDArray[np.int64], seed: int) -> list[NDArray[np.float64]]:
    """Return the sums of resampled clusters, in blocks; the last column counts reference tokens."""
    generator = np.random.default_rng(seed)
    rows = []
    for start in range(0, N_RESAMPLES, _ROWS_AT_ONCE):  # bounded memory, whatever the test set
        size = min(_ROWS_AT_ONCE, N_RESAMPLES - start)
        chosen = generator.integers(0, len(sums), size=(size, len(sums)))
        totals = sums[chosen].sum(axis=1).astype(np.float64)
        rows.append(totals[totals[:, -1] > 0])  # without a reference word there is no rate
    return rows


def _interval(value: float, resampled: NDArray[np.float64]) -> Interval:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Interval(value=value, low=float(low), high=float(high))
