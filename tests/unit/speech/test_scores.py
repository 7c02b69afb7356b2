"""The promises of the scores: errors counted by hand, and intervals that mean what they say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speech import scores
from speech.scores import (
    Errors,
    character_errors,
    corpus_rate,
    difference_interval,
    rate_interval,
    units,
    word_errors,
)

WORDS = st.lists(st.sampled_from(["uno", "due", "tre", "quattro"]), max_size=8).map(" ".join)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "errors", "words"),
    [
        ("uno due tre", "uno due tre", 0, 3),
        ("uno due tre", "uno tre", 1, 3),
        ("uno due tre", "uno due e tre", 1, 3),
        ("uno due tre", "uno dua tre", 1, 3),
        ("uno due tre", "", 3, 3),
        ("uno due tre", "tre uno due", 2, 3),
        ("Uno, due: tre!", "uno due TRE", 0, 3),
        ("l'ultimo", "lultimo", 2, 2),
        ("", "uno due", 2, 0),
        ("…", "", 0, 0),
    ],
)
def test_word_errors_by_hand(reference, hypothesis, errors, words):
    """Substitutions, deletions and insertions over the reference's words, both texts normalised."""
    assert word_errors(reference, hypothesis) == Errors(errors, words)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "errors", "characters"),
    [
        ("ab cd", "ab cd", 0, 5),
        ("ab cd", "abcd", 1, 5),
        ("ab cd", "ab  cd", 0, 5),
        ("ab cd", "ax cd", 1, 5),
        ("ab", "", 2, 2),
        ("", "ab c", 4, 0),
        ("日本語", "日本", 1, 3),
        ("दिन", "दीन", 1, 3),
    ],
)
def test_character_errors_by_hand(reference, hypothesis, errors, characters):
    """Blanks are characters, marks are characters."""
    assert character_errors(reference, hypothesis) == Errors(errors, characters)


@pytest.mark.parametrize(
    ("language", "as_written", "errors"),
    [
        ("it", False, Errors(1, 5)),
        (None, False, Errors(1, 5)),
        ("zh", False, Errors(0, 4)),
        ("th", False, Errors(0, 4)),
        ("zh", True, Errors(1, 5)),
    ],
)
def test_a_blank_that_stands_for_punctuation_is_no_character(language, as_written, errors):
    """Where none stands between words, an omitted one counts no more than an omitted comma: only as it is written."""
    assert character_errors("ab cd", "abcd", as_written=as_written, language=language) == errors
    if not as_written:
        assert character_errors("ab、cd", "abcd", language=language) == errors


@pytest.mark.parametrize(("language", "found"), [("it", ["ab", "cd"]), ("ja", [*"abcd"]), (None, ["ab", "cd"])])
def test_a_language_has_its_unit(language, found):
    """Words, or characters where words are not told apart."""
    assert units("Ab, cd.", language) == found


@given(WORDS, WORDS)
def test_errors_are_an_edit_distance(one, other):
    """None for equal texts, symmetric, and at most the longer text's words."""
    errors = word_errors(one, other).errors
    assert word_errors(one, one).errors == 0
    assert errors == word_errors(other, one).errors
    assert abs(len(one.split()) - len(other.split())) <= errors <= max(len(one.split()), len(other.split()))


def test_a_corpus_rate_is_not_the_mean_of_rates():
    """Two wrong words of two and none of eight are 20 %, not 50 %."""
    assert corpus_rate([Errors(2, 2), Errors(0, 8)]) == 0.2


def test_words_said_of_nothing_count():
    """Insertions where the reference is silent raise the rate of the whole."""
    assert corpus_rate([Errors(1, 0), Errors(0, 4)]) == 0.25


@pytest.mark.parametrize("errors", [[], [Errors(3, 0)]])
def test_without_references_there_is_no_rate(errors):
    """An empty test set has no score, not a perfect one."""
    with pytest.raises(ValueError, match="no error rate"):
        corpus_rate(errors)


def draw(generator, n, rate=0.2, words=10):
    """Draw utterances that err independently."""
    return [Errors(int(generator.binomial(words, rate)), words) for _ in range(n)]


def names(n):
    """Name clusters of one utterance each."""
    return [str(i) for i in range(n)]


def test_an_interval_can_be_had_again():
    """The same seed gives the same interval; another seed hardly another one."""
    errors = draw(np.random.default_rng(1), 80)
    first = rate_interval(errors, names(80), seed=7)
    other = rate_interval(errors, names(80), seed=8)
    assert first == rate_interval(errors, names(80), seed=7)
    assert not np.array_equal(*(scores._resample(np.arange(80)[:, None], seed)[0] for seed in (7, 8)))
    assert other.low == pytest.approx(first.low, abs=0.01)
    assert other.high == pytest.approx(first.high, abs=0.01)


def test_an_interval_holds_its_value():
    """The value is the corpus rate, between the ends."""
    errors = draw(np.random.default_rng(2), 50)
    interval = rate_interval(errors, names(50))
    assert interval.value == corpus_rate(errors)
    assert interval.low < interval.value < interval.high


def test_intervals_cover_the_truth_19_times_in_20(monkeypatch):
    """Of simulated test sets with a true rate of 20 %, about 95 % have it inside."""
    monkeypatch.setattr(scores, "N_RESAMPLES", 1000)
    generator = np.random.default_rng(3)
    covered = 0
    for _ in range(200):
        interval = rate_interval(draw(generator, 60), names(60))
        covered += interval.low <= 0.2 <= interval.high
    assert 0.89 <= covered / 200 <= 0.99


def test_more_utterances_make_it_narrower():
    """Four times the data, about half the width."""
    generator = np.random.default_rng(4)
    widths = []
    for n in (50, 200):
        interval = rate_interval(draw(generator, n), names(n))
        widths.append(interval.high - interval.low)
    assert 0.35 < widths[1] / widths[0] < 0.7


def test_a_perfect_score_has_no_width():
    """Where nothing varies, nothing is uncertain."""
    interval = rate_interval([Errors(0, 5)] * 10, names(10))
    assert (interval.value, interval.low, interval.high) == (0, 0, 0)


def test_resamples_without_a_word_do_not_count():
    """A cluster whose references are silent may be drawn again and again; the ends stay numbers."""
    errors, better = [Errors(1, 0), Errors(1, 4)], [Errors(0, 0), Errors(1, 4)]
    for interval in (rate_interval(errors, ["a", "b"]), difference_interval(errors, better, ["a", "b"])):
        assert np.isfinite([interval.low, interval.high]).all()
        assert interval.low <= interval.value <= interval.high


def test_clusters_that_err_together_widen_the_interval():
    """Ten takes of one sentence are not ten independent utterances."""
    generator = np.random.default_rng(5)
    errors, clusters = [], []
    for sentence in range(20):
        hard = int(generator.integers(0, 8))
        errors += [Errors(hard, 10)] * 10
        clusters += [str(sentence)] * 10
    together = rate_interval(errors, clusters)
    apart = rate_interval(errors, names(200))
    assert together.value == apart.value
    assert together.high - together.low > 2 * (apart.high - apart.low)


def test_the_order_of_utterances_does_not_matter():
    """Clusters are told by their names, not by their neighbours."""
    errors = draw(np.random.default_rng(6), 30)
    clusters = [str(i % 10) for i in range(30)]
    order = np.random.default_rng(7).permutation(30)
    shuffled = rate_interval([errors[i] for i in order], [clusters[i] for i in order])
    assert shuffled == rate_interval(errors, clusters)


def test_a_clear_improvement_is_seen():
    """Where every tenth word is repaired, the whole interval is negative."""
    base = [Errors(3, 10), Errors(2, 10)] * 30
    candidate = [Errors(e.errors - 1, 10) for e in base]
    interval = difference_interval(base, candidate, names(60))
    assert interval.value == pytest.approx(-0.1)
    assert interval.high < 0


def test_pairing_sees_what_two_separate_intervals_do_not():
    """A small, steady gain shows although the utterances themselves differ widely."""
    generator = np.random.default_rng(8)
    base = [Errors(int(generator.integers(1, 11)), 10) for _ in range(100)]
    candidate = [Errors(e.errors - (i % 4 == 0), 10) for i, e in enumerate(base)]
    before, after = rate_interval(base, names(100)), rate_interval(candidate, names(100))
    assert after.high > before.low  # they overlap
    assert difference_interval(base, candidate, names(100)).high < 0


def test_no_difference_is_not_seen_as_one(monkeypatch):
    """Two equally good models are told apart about once in 20 times only."""
    monkeypatch.setattr(scores, "N_RESAMPLES", 1000)
    generator = np.random.default_rng(9)
    found = 0
    for _ in range(200):
        interval = difference_interval(draw(generator, 60), draw(generator, 60), names(60))
        found += not interval.low <= 0 <= interval.high
    assert found / 200 <= 0.11


def test_a_model_does_not_differ_from_itself():
    """The same errors twice are a difference of exactly nothing."""
    errors = draw(np.random.default_rng(10), 40)
    interval = difference_interval(errors, errors, names(40))
    assert (interval.value, interval.low, interval.high) == (0, 0, 0)


def test_swapping_the_models_turns_the_interval_round():
    """Worse is better with the sign changed."""
    generator = np.random.default_rng(11)
    one, other = draw(generator, 40), draw(generator, 40)
    forth, back = difference_interval(one, other, names(40)), difference_interval(other, one, names(40))
    assert (back.value, back.low, back.high) == pytest.approx((-forth.value, -forth.high, -forth.low))


@pytest.mark.parametrize("other", [[Errors(0, 3)], [Errors(0, 3), Errors(0, 5)], [Errors(0, 4), Errors(0, 3)]])
def test_other_utterances_cannot_be_compared(other):
    """A missing, another or a moved utterance is a mistake, not a result."""
    with pytest.raises(ValueError, match="same utterances"):
        difference_interval([Errors(1, 3), Errors(1, 4)], other, ["a", "b"])


def test_every_utterance_needs_a_cluster():
    """Mismatched lists are refused."""
    with pytest.raises(ValueError, match="2 utterances, but 1"):
        rate_interval([Errors(1, 3), Errors(1, 4)], ["a"])


@pytest.mark.parametrize("n", [1, 255, 256, 257, 10_000])
def test_chunks_of_resamples_add_up(monkeypatch, n):
    """Working in chunks changes neither how many resamples there are nor how large each is."""
    monkeypatch.setattr(scores, "N_RESAMPLES", n)
    rows = np.concatenate(scores._resample(np.array([[1, 5], [2, 5], [0, 5]]), seed=0))
    assert rows.shape == (n, 2)
    assert np.all(rows[:, 1] == 15)


def test_ten_thousand_resamples_of_95_percent():
    """The documentation's numbers are the code's."""
    assert scores.N_RESAMPLES == 10_000
    assert scores.CONFIDENCE == 0.95
