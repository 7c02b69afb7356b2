"""How far two sequences are apart."""

import jiwer
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speech.edits import edit_distance

WORDS = st.lists(st.sampled_from("abc"), max_size=12)


@pytest.mark.parametrize(
    ("one", "other", "edits"),
    [("", "", 0), ("", "abc", 3), ("abc", "", 3), ("kitten", "sitting", 3), ("abc", "abc", 0), ((1, 2), (2, 1), 2)],
)
def test_known_distances(one, other, edits):
    """Of letters, of numbers, of nothing."""
    assert edit_distance(one, other) == edits


@given(WORDS, WORDS)
def test_it_is_what_jiwer_counts(one, other):
    """Any two sequences: the same number as the library that training counts with."""
    if one:
        counted = jiwer.process_words(" ".join(one), " ".join(other))
        assert edit_distance(one, other) == counted.substitutions + counted.insertions + counted.deletions
    assert edit_distance(one, other) == edit_distance(other, one)
