"""Word and character error rates, and what a difference between two of them is worth.

Everything that is ever called WER in this project comes from here: training's in-loop metric, the gate, benchmarks.
Rates are corpus rates (all errors over all reference words), never means of utterances' rates. Needs jiwer, which the
service does not install.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import jiwer
import numpy as np
from numpy.typing import NDArray

from speech.text import normalize
from speech.words import UNSPACED

Draws = NDArray[np.float64]
"""A bootstrap's resampled differences, shape (n_resamples,)."""

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


def word_errors(reference: str, hypothesis: str, *, as_written: bool = False) -> Errors:
    """Count the word errors of one utterance, both texts normalised, or as they are written.

    As written ("orthographic"), case and punctuation count; only blanks and Unicode's way to write a letter do not.
    """
    return count_errors(*(words(text, as_written=as_written) for text in (reference, hypothesis)))


def character_errors(
    reference: str, hypothesis: str, *, as_written: bool = False, language: str | None = None
) -> Errors:
    """Count the character errors of one utterance, both texts normalised, or as they are written; as `characters`."""
    return count_errors(
        *(characters(text, as_written=as_written, language=language) for text in (reference, hypothesis))
    )


def unit_errors(reference: str, hypothesis: str, language: str | None) -> Errors:
    """Count the errors of one utterance in what its language is judged by: its `units`."""
    return count_errors(*(units(text, language) for text in (reference, hypothesis)))


def words(text: str, *, as_written: bool = False) -> list[str]:
    """Return the words that are compared."""
    return (unicodedata.normalize("NFC", text) if as_written else normalize(text)).split()


def characters(text: str, *, as_written: bool = False, language: str | None = None) -> list[str]:
    """Return the characters that are compared: letters, and single blanks between words.

    In a language without blanks between words, one stands for punctuation: it counts only as it is written.
    """
    blank = "" if language in UNSPACED and not as_written else " "
    return list(blank.join(words(text, as_written=as_written)))


def units(text: str, language: str | None) -> list[str]:
    """Return what a language is judged by: normalised words, or characters where it writes no blanks between them."""
    return characters(text, language=language) if language in UNSPACED else words(text)


def count_errors(reference: Sequence[str], hypothesis: Sequence[str]) -> Errors:
    """Count substitutions, deletions and insertions between two lists of words or characters."""
    if not reference:  # jiwer refuses an empty reference; every word said of nothing is an insertion
        return Errors(errors=len(hypothesis), reference=0)
    output = _process(reference, hypothesis)
    return Errors(output.substitutions + output.deletions + output.insertions, len(reference))


@dataclass(frozen=True)
class Aligned:
    """One step of the best alignment: the same in both, replaced, left out, or put in."""

    kind: str  # "equal", "substitute", "delete" or "insert"
    reference: int  # index of the reference's word; for "insert", of the one that it stands before
    hypothesis: int  # index of the hypothesis's word; for "delete", of the one that it would stand before


def align(reference: Sequence[str], hypothesis: Sequence[str]) -> list[Aligned]:
    """Return the steps that make the hypothesis of the reference, in order; their errors are those that are counted."""
    if not reference:
        return [Aligned("insert", 0, j) for j in range(len(hypothesis))]
    steps: list[Aligned] = []
    for chunk in _process(reference, hypothesis).alignments[0]:
        n = max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
        steps += [
            Aligned(
                chunk.type,
                chunk.ref_start_idx + (i if chunk.type != "insert" else 0),
                chunk.hyp_start_idx + (i if chunk.type != "delete" else 0),
            )
            for i in range(n)
        ]
    return steps


def _process(reference: Sequence[str], hypothesis: Sequence[str]) -> jiwer.WordOutput:
    # Characters may be blanks, so hand jiwer the lists, not sentences for it to split.
    return jiwer.process_words([" ".join(map(_visible, reference))], [" ".join(map(_visible, hypothesis))])


def _visible(symbol: str) -> str:
    return symbol.replace(" ", "␣")


def errors_by_part(parts: Sequence[Sequence[str]], hypothesis: Sequence[str]) -> list[Errors]:
    """Score one hypothesis of several references in a row, and say in which of them its errors are.

    A word that was put in between two parts counts for the one before. So a long recording, which is one hypothesis,
    still has an interval.
    """
    owners = [i for i, part in enumerate(parts) for _ in part]
    errors = [0] * len(parts)
    for step in align([word for part in parts for word in part], hypothesis):
        if step.kind != "equal":
            at = step.reference - 1 if step.kind == "insert" else step.reference
            errors[owners[max(at, 0)] if owners else 0] += 1
    return [Errors(wrong, len(part)) for wrong, part in zip(errors, parts, strict=True)]


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
    return interval_of(corpus_rate(errors), resampled)


def difference_interval(
    base: Sequence[Errors], candidate: Sequence[Errors], clusters: Sequence[str], *, seed: int = 0
) -> Interval:
    """Return candidate's corpus rate minus base's, with its paired bootstrap interval.

    Both must have transcribed the same utterances in the same order; a resample takes the same clusters of both. A
    negative upper end says that the candidate is better.

    Raises:
        ValueError: the two lists are not of the same utterances.
    """
    draws = difference_draws(base, candidate, clusters, seed=seed)
    return interval_of(corpus_rate(candidate) - corpus_rate(base), draws)


def difference_draws(
    base: Sequence[Errors], candidate: Sequence[Errors], clusters: Sequence[str], *, seed: int = 0
) -> Draws:
    """Return the resampled differences that `difference_interval` takes its ends from."""
    if [e.reference for e in base] != [e.reference for e in candidate]:
        raise ValueError("base and candidate were not scored on the same utterances")
    return paired_draws(
        [e.errors for e in base], [e.errors for e in candidate], [e.reference for e in base], clusters, seed=seed
    )


def paired_draws(
    base: Sequence[float],
    candidate: Sequence[float],
    measure: Sequence[float],
    clusters: Sequence[str],
    *,
    seed: int = 0,
) -> Draws:
    """Resample the difference of two rates over the same things: (sum of candidate - sum of base) / sum of measure.

    Args:
        base: what is counted for one model: errors, letters, seconds; one a thing.
        candidate: the same for the other.
        measure: what they are counted on: words, minutes, edges; one a thing.
        clusters: what each thing belongs to; clusters are resampled whole.
        seed: of the resampling.
    """
    sums = _cluster_sums(list(zip(base, candidate, measure, strict=True)), clusters)
    return np.concatenate([(rows[:, 1] - rows[:, 0]) / rows[:, 2] for rows in _resample(sums, seed)])


def tail_rate(rates: Sequence[float], share: float) -> float:
    """Return the mean of the worst `share` of utterances' rates: the largest ones, the last one in part."""
    return float(_tail(np.sort(np.asarray(rates))[::-1], np.ones((1, len(rates))), share)[0])


def tail_draws(
    base: Sequence[float], candidate: Sequence[float], clusters: Sequence[str], share: float, *, seed: int = 0
) -> Draws:
    """Resample the difference of two models' tail rates (candidate minus base), each over its own worst utterances."""
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    n = int(index.max()) + 1
    generator = np.random.default_rng(seed)
    orders = [np.argsort(-np.asarray(rates), kind="stable") for rates in (base, candidate)]
    ordered = [np.asarray(rates)[order] for rates, order in zip((base, candidate), orders, strict=True)]
    draws = []
    for start in range(0, N_RESAMPLES, _ROWS_AT_ONCE):
        counts = generator.multinomial(n, np.full(n, 1 / n), size=min(_ROWS_AT_ONCE, N_RESAMPLES - start))
        weights = counts[:, index].astype(np.float64)
        tails = [_tail(rates, weights[:, order], share) for rates, order in zip(ordered, orders, strict=True)]
        draws.append(tails[1] - tails[0])
    return np.concatenate(draws)


def _tail(rates: NDArray[np.float64], weights: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """Return the mean of the first `share` of the weight, one a row; `rates` are in falling order."""
    wanted = share * weights.sum(axis=1, keepdims=True)
    before = np.cumsum(weights, axis=1) - weights
    taken = np.clip(wanted - before, 0.0, weights)
    return np.asarray((taken * rates).sum(axis=1) / wanted[:, 0])


def p_at_least(draws: Draws, value: float) -> float:
    """Return the bootstrap's p-value against "the true difference is `value` or more".

    The share of resamples that say so, one more added to both counts: no number of resamples shows a p of zero
    (Davison and Hinkley, Bootstrap Methods, 1997, 4.2.3).
    """
    return float((1 + np.count_nonzero(draws >= value)) / (1 + draws.size))


def p_at_most(draws: Draws, value: float) -> float:
    """Return the bootstrap's p-value against "the true difference is `value` or less"."""
    return float((1 + np.count_nonzero(draws <= value)) / (1 + draws.size))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values, in the order given: those up to 0.05 hold together at 5 %.

    The smallest is multiplied by their number, the next by one less, and none is smaller than the one before (Holm,
    Scandinavian Journal of Statistics 6, 1979).
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def _cluster_sums(values: Sequence[Sequence[float]], clusters: Sequence[str]) -> NDArray[np.float64]:
    if len(values) != len(clusters):
        raise ValueError(f"{len(values)} utterances, but {len(clusters)} cluster names")
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    table = np.asarray(values, dtype=np.float64)
    sums = np.zeros((int(index.max()) + 1, table.shape[1]))
    np.add.at(sums, index, table)
    return sums


def _resample(sums: NDArray[np.float64], seed: int) -> list[NDArray[np.float64]]:
    """Return the sums of resampled clusters, in blocks; the last column counts reference tokens."""
    generator = np.random.default_rng(seed)
    rows = []
    for start in range(0, N_RESAMPLES, _ROWS_AT_ONCE):  # bounded memory, whatever the test set
        size = min(_ROWS_AT_ONCE, N_RESAMPLES - start)
        chosen = generator.integers(0, len(sums), size=(size, len(sums)))
        totals = sums[chosen].sum(axis=1).astype(np.float64)
        rows.append(totals[totals[:, -1] > 0])  # without a reference word there is no rate
    return rows


def interval_of(value: float, draws: Draws) -> Interval:
    """Return a value with its percentile interval."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(value=value, low=float(low), high=float(high))
