"""NIST's matched-pairs test, on segments and statistics worked out by hand."""

import math

import pytest

from speech.mapsswe import error_segments, matched_pairs

REFERENCE = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"]


def said(text):
    """Split a hypothesis into words."""
    return text.split()


@pytest.mark.parametrize(
    ("first", "second", "segments"),
    [
        ("a b c d e f g h i j", "a b c d e f g h i j", []),
        ("x b c d e f g h i j", "a b c d e f g h i j", [(1, 0)]),
        ("x b x d e f g h i j", "a b c d e f g h i j", [(2, 0)]),  # one good word between does not part them
        ("x b c x e f g h i j", "a b c d e f g h i j", [(1, 0), (1, 0)]),  # two do
        ("x b c d e f g h i j", "a b x d e f g h i j", [(1, 1)]),  # both must have both right
        ("x b c d e f g h i j", "a b c d e f g h x j", [(1, 0), (0, 1)]),
        ("a b c d e f g h i j k l", "a b c d e f g h i", [(2, 1)]),  # the end of the utterance ends a segment
        ("y a b c d e f g h i j", "a b c d e f g h i j", [(1, 0)]),  # put in at the front; a and b part
        ("y a b x d e f g h i j", "a b c d e f g h i j", [(1, 0), (1, 0)]),
        ("", "a b c d e f g h i j", [(10, 0)]),
    ],
)
def test_segments_by_hand(first, second, segments):
    """Two words in a row that both have right part two segments; each counts the errors of both (mtchprs.c)."""
    assert error_segments(REFERENCE, said(first), said(second)) == segments


def test_the_statistic_by_hand():
    """Differences -1, -1, 0, -1: mean -3/4, variance 1/4, so z = -0.75 / (0.5 / 2) = -3."""
    utterances = [
        (REFERENCE, said("x b c d e f g h i j"), REFERENCE),
        (REFERENCE, said("a b c d e f g h i"), REFERENCE),
        (REFERENCE, said("a b c d x f g h i j"), said("a b c d y f g h i j")),
        (REFERENCE, said("a b c d e x f g h i j"), REFERENCE),
        (REFERENCE, REFERENCE, REFERENCE),  # no error, no segment
    ]
    outcome = matched_pairs(utterances)
    assert (outcome.segments, outcome.mean, outcome.z) == (4, -0.75, pytest.approx(-3.0))
    assert outcome.p == pytest.approx(0.0026998, abs=1e-6)  # 2 (1 - Φ(3))


def test_the_order_of_the_two_is_the_sign():
    """Exchanged, the same z with the other sign, and the same p."""
    pairs = [(REFERENCE, said("x b c d e f g h i x"), REFERENCE), (REFERENCE, REFERENCE, said("x b c d e f g h i j"))]
    forth = matched_pairs(pairs)
    back = matched_pairs([(r, second, first) for r, first, second in pairs])
    assert back.z == pytest.approx(-forth.z)
    assert back.p == forth.p


def test_without_variance_there_is_no_statistic():
    """One segment decides nothing; equal errors are no difference; the same gain everywhere is one beyond doubt."""
    gain = (REFERENCE, said("x b c d e f g h i j"), REFERENCE)
    draw = (REFERENCE, said("x b c d e f g h i j"), said("y b c d e f g h i j"))
    assert matched_pairs([]).p == 1
    assert matched_pairs([gain]).p == 1
    assert matched_pairs([draw] * 30).p == 1
    assert (matched_pairs([gain] * 30).p, matched_pairs([gain] * 30).z) == (0, None)
    assert not math.isnan(matched_pairs([gain, draw]).p)
