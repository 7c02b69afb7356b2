"""The statistics of the gate's guards: alignments, tails, p-values and Holm's correction, worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speech.scores import (
    Aligned,
    Errors,
    align,
    character_errors,
    count_errors,
    errors_by_part,
    holm,
    p_at_least,
    p_at_most,
    paired_draws,
    tail_draws,
    tail_rate,
    word_errors,
)

LISTS = st.lists(st.sampled_from("abc "), max_size=7)


def test_an_alignment_by_hand():
    """Each step names its word, or the one that it stands before."""
    assert align(["a", "b", "c", "d"], ["x", "b", "q", "c", "d", "e"]) == [
        Aligned("substitute", 0, 0),
        Aligned("equal", 1, 1),
        Aligned("insert", 2, 2),
        Aligned("equal", 2, 3),
        Aligned("equal", 3, 4),
        Aligned("insert", 4, 5),
    ]
    assert align(["a", "b"], []) == [Aligned("delete", 0, 0), Aligned("delete", 1, 0)]
    assert align([], ["a"]) == [Aligned("insert", 0, 0)]


@given(LISTS, LISTS)
def test_an_alignment_has_as_many_errors_as_are_counted(reference, hypothesis):
    """Every word of both is in exactly one step, in order, and what is not equal is the edit distance."""
    steps = align(reference, hypothesis)
    assert sum(step.kind != "equal" for step in steps) == count_errors(reference, hypothesis).errors
    assert [s.reference for s in steps if s.kind != "insert"] == list(range(len(reference)))
    assert [s.hypothesis for s in steps if s.kind != "delete"] == list(range(len(hypothesis)))


def test_errors_lie_in_their_part():
    """A long hypothesis is scored clip by clip; a word between two clips counts for the one before."""
    parts = [["a", "b"], ["c", "d"], ["e"]]
    assert errors_by_part(parts, ["a", "x", "c", "y", "d"]) == [Errors(1, 2), Errors(1, 2), Errors(1, 1)]
    assert errors_by_part(parts, ["a", "b", "q", "c", "d", "e"]) == [Errors(1, 2), Errors(0, 2), Errors(0, 1)]
    assert errors_by_part(parts, ["q", "a", "b", "c", "d", "e"]) == [Errors(1, 2), Errors(0, 2), Errors(0, 1)]
    assert errors_by_part(parts, []) == [Errors(2, 2), Errors(2, 2), Errors(1, 1)]


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=4), min_size=1, max_size=4), LISTS)
def test_the_parts_errors_are_the_wholes(parts, hypothesis):
    """Dividing errors among clips loses none."""
    whole = count_errors([word for part in parts for word in part], hypothesis)
    divided = errors_by_part(parts, hypothesis)
    assert sum(e.errors for e in divided) == whole.errors
    assert [e.reference for e in divided] == [len(part) for part in parts]


def test_as_written_case_and_punctuation_count():
    """The orthographic rate sees what the normalised one does not, and no other way to encode a letter."""
    assert word_errors("Ciao, mondo!", "ciao mondo") == Errors(0, 2)
    assert word_errors("Ciao, mondo!", "ciao mondo", as_written=True) == Errors(2, 2)
    assert character_errors("Ciao, mondo!", "ciao mondo", as_written=True) == Errors(3, 12)
    assert word_errors("caffè  nero", "caffe\u0300 nero", as_written=True) == Errors(0, 2)


@pytest.mark.parametrize("text", ["हिन्दी में", "กำลังดี", "தமிழ் மொழி"])
def test_failure_11_normalising_keeps_vowel_signs(text):
    """Failure 11 of research: a hypothesis without its vowel signs is wrong, and one that has them is right."""
    bare = "".join(c for c in text if c.isalpha() or c == " ")
    assert word_errors(text, text).errors == 0
    assert character_errors(text, bare).errors > 0


def test_a_tail_by_hand():
    """The worst tenth of 25 utterances is the two worst, and half of the third."""
    rates = [0.0] * 22 + [1.0, 0.5, 0.25]
    assert tail_rate(rates, 0.1) == pytest.approx((1.0 + 0.5 + 0.5 * 0.25) / 2.5)


def test_a_longer_tail_is_seen_where_the_mean_is_the_same():
    """Two models with the same mean, one of which spoils a tenth of the clips: its tail is worse beyond doubt."""
    steady, spoilt = [0.1] * 100, [1.0] * 10 + [0.0] * 90
    draws = tail_draws(steady, spoilt, [str(i) for i in range(100)], 0.1)
    assert draws.size == 10_000
    assert np.mean(steady) == pytest.approx(np.mean(spoilt))
    assert p_at_most(draws, 0.1) < 0.01


def test_a_tails_clusters_come_whole():
    """One bad sentence read ten times is one: resampled whole, it is often left out."""
    base, candidate = [0.0] * 40, [1.0] * 10 + [0.0] * 30
    together = tail_draws(base, candidate, ["bad"] * 10 + [str(i) for i in range(30)], 0.1)
    apart = tail_draws(base, candidate, [str(i) for i in range(40)], 0.1)
    assert np.mean(together == 0) == pytest.approx((30 / 31) ** 31, abs=0.02)
    assert np.mean(apart == 0) < 0.001


def test_p_values_are_never_zero():
    """However clear, 10,000 resamples show no less than one in 10,001."""
    draws = np.full(9_999, -1.0)
    assert p_at_least(draws, 0.0) == 1 / 10_000
    assert p_at_most(draws, 0.0) == 1
    assert p_at_least(draws, -1.0) == 1


def test_holm_by_hand():
    """Four p-values, the smallest times four, and so on; none is below the one before (Holm 1979)."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_never_helps(p_values):
    """Adjusted values are between the raw ones and Bonferroni's, in the same order."""
    adjusted = holm(p_values)
    assert all(p <= a <= min(1, len(p_values) * p) + 1e-12 for p, a in zip(p_values, adjusted, strict=True) if a < 1)
    assert [a for _, a in sorted(zip(p_values, adjusted, strict=True))] == sorted(adjusted)


def test_any_rate_can_be_paired():
    """Letters a minute: one more letter in each of ten half minutes is two a minute, without doubt."""
    draws = paired_draws([3.0] * 10, [4.0] * 10, [0.5] * 10, [str(i) for i in range(10)])
    assert draws == pytest.approx(2.0)
