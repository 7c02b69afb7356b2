"""When an export may be published: it says what its checkpoint says."""

import pytest

from speech.context import ElasticContext
from training.evaluate import Hypothesis
from training.gate import Bounds
from training.parity import (
    MAX_CLIPS,
    MAX_DIFFERENCE,
    MAX_HIGH,
    Parity,
    ParityError,
    compare,
    measure_parity,
    take_evenly,
)


def heard(*texts, reference="uno due tre quattro cinque"):
    """Make hypotheses for as many different sentences."""
    return [
        Hypothesis(id=str(i), language="it", reference=f"{reference} {i}", hypothesis=text)
        for i, text in enumerate(texts)
    ]


def test_the_same_words_are_parity():
    """Case and punctuation are not words."""
    parity = compare(heard("Uno, due.", "tre"), heard("uno due", "Tre!"), seed=0)
    assert (parity.clips, parity.same, parity.difference.high) == (2, 1.0, 0.0)
    assert parity.holds


@pytest.mark.parametrize(
    ("others", "clips", "holds"),
    [(2, 30, True), (3, 30, True), (4, 30, False), (2, 20, True), (3, 20, False), (6, 64, True), (7, 64, False)],
)
def test_other_words_on_more_clips_than_chance_explains_are_no_parity(others, clips, holds):
    """Even where neither is nearer to the truth. Rounding decides between words that are as probable: one in twenty."""
    checkpoint, export = ["sei"] * clips, ["sei"] * (clips - others) + ["sette"] * others
    parity = compare(heard(*checkpoint), heard(*export), seed=0)
    assert parity.same == pytest.approx(1 - others / clips)
    assert parity.difference.value == 0.0
    assert parity.holds is holds


def test_the_bound_is_wilsons():
    """As statsmodels' `proportion_confint(28, 30, method="wilson")` has it, and never more than all."""
    nothing = Bounds(value=0.0, low=0.0, high=0.0)
    assert Parity(clips=30, same=28 / 30, difference=nothing).same_at_most == pytest.approx(0.98152, abs=1e-5)
    assert Parity(clips=30, same=1.0, difference=nothing).same_at_most == pytest.approx(1.0)


def test_a_few_very_wrong_clips_are_no_parity():
    """One clip in forty that became a loop adds more errors than may be."""
    good = [f"uno due tre quattro cinque {i}" for i in range(40)]
    loop = [" ".join(["uno"] * 60), *good[1:]]
    parity = compare(heard(*good), heard(*loop), seed=0)
    assert parity.same == pytest.approx(39 / 40)
    assert parity.difference.low == 0.0
    assert parity.difference.high > MAX_HIGH
    assert not parity.holds


def spoken(said, texts, language="it"):
    """Make hypotheses for what was said."""
    return [
        Hypothesis(id=str(i), language=language, reference=one, hypothesis=text)
        for i, (one, text) in enumerate(zip(said, texts, strict=True))
    ]


@pytest.mark.parametrize(("clips", "words", "others"), [(30, 4, 1), (64, 3, 2), (20, 1, 1), (30, 2, 3)])
def test_a_word_here_and_there_is_parity(clips, words, others):
    """However short the clips, and though all of them are errors: so few show nothing."""
    said = [" ".join(f"parola{i}{j}" for j in range(words)) for i in range(clips)]
    export = [" ".join(["altra", *text.split()[1:]]) if i < others else text for i, text in enumerate(said)]
    parity = compare(spoken(said, said), spoken(said, export), seed=0)
    assert parity.difference.value == pytest.approx(others / (clips * words))
    assert parity.difference.high > MAX_DIFFERENCE
    assert parity.holds


@pytest.mark.parametrize(
    ("value", "low", "high", "holds"),
    [(0.03, 0.02, 0.04, False), (0.02, 0.01, 0.03, True), (0.03, 0.0, 0.06, True), (0.07, 0.0, 0.21, False)],
)
def test_a_loss_that_is_shown_is_no_parity(value, low, high, holds):
    """Of more than two errors in a hundred words; one that may be chance is, unless a loop may be in it."""
    assert Parity(clips=64, same=1.0, difference=Bounds(value=value, low=low, high=high)).holds is holds


def test_three_points_over_all_clips_are_no_parity():
    """One word of thirty-three is lost in each: also by the WER alone, were the words not looked at."""
    said = [" ".join(f"parola{i}x{j}" for j in range(33)) for i in range(40)]
    parity = compare(spoken(said, said), spoken(said, [text.rsplit(" ", 1)[0] for text in said]), seed=0)
    assert parity.difference.value == pytest.approx(0.03, abs=0.001)
    assert not parity.holds
    assert not parity.model_copy(update={"same": 1.0}).holds


def test_what_is_doubtful_is_compared_greedily(tiny, noise_clips, monkeypatch):
    """Served, answers that are not believed are sampled anew, and two engines then say two things."""
    monkeypatch.setattr("speech.vad.is_available", lambda: False)  # or noise would be heard by neither
    monkeypatch.setattr("speech.guard.LOGPROB_THRESHOLD", 0.0)
    monkeypatch.setattr("speech.guard.NO_SPEECH_THRESHOLD", 1.0)
    monkeypatch.setattr("speech.transcribe.best", lambda results: results[-1])
    clips, root = noise_clips
    parity = measure_parity(tiny.checkpoint, ElasticContext(), clips[:8], root, seed=0, advance=lambda _: None)
    assert (parity.clips, parity.same, parity.difference.high) == (8, 1.0, 0.0)


def test_the_error_says_what_was_found():
    """Who reads it learns the shares and the limits."""
    parity = Parity(clips=40, same=0.5, difference=Bounds(value=0.1, low=0.0, high=0.2))
    share = r"50% of 40 clips \(so at most on 65% of all; at least 95%\)"
    rate = r"higher by 0\.100 \[0\.000, 0\.200\] \(if that is shown, at most 0\.02; its upper bound, at most 0\.2\)"
    with pytest.raises(ParityError, match=f"{share}.*{rate}"):
        raise ParityError(parity)


@pytest.mark.parametrize("n", [0, 1, MAX_CLIPS, MAX_CLIPS + 1, 1000])
def test_clips_are_taken_evenly(n):
    """All of a few, and a spread of many, from the first on."""
    taken = take_evenly(list(range(n)), MAX_CLIPS)
    assert len(taken) == min(n, MAX_CLIPS)
    assert taken == sorted(set(taken))
    if n >= MAX_CLIPS:
        assert taken[0] == 0
        assert taken[-1] >= n - n // MAX_CLIPS - 1


def test_a_sentence_without_spaces_is_no_single_word():
    """Of 64 Japanese sentences, one character in one of them: nothing that a conversion is broken by."""
    said = [f"これは{i}番目の文章です。よろしくお願いします" for i in range(64)]
    rounded = [said[0].replace("です", "です。"), said[1].replace("文章", "文書"), *said[2:]]
    assert compare(spoken(said, said, "ja"), spoken(said, rounded, "ja"), seed=0).holds
