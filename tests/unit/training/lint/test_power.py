"""What a held-out set can decide, against simulation and arithmetic."""

import math

import numpy as np
import pytest

from speech.scores import difference_interval
from training.evaluate import Hypothesis
from training.lint.power import ASSUMED_DESIGN_EFFECT, measure_power, resampled_by


def hypotheses(utterances, share, seed):
    """Return hypotheses in which each word is wrong with a probability that varies from clip to clip."""
    rng = np.random.default_rng(seed)
    made = []
    for u in utterances:
        rate = rng.beta(0.5 * share / (1 - share), 0.5)
        words = [w if rng.random() >= rate else "sbagliato" for w in u.text.split()]
        made.append(Hypothesis(id=u.id, language="it", reference=u.text, hypothesis=" ".join(words)))
    return made


def test_nothing_measured_takes_the_binomial_and_a_design_effect(clips):
    """Without a model: 2.80 standard errors of 15 % of the words, three times a binomial's variance."""
    power = measure_power(clips(40), [], 0.05, seed=1)
    error = math.sqrt(ASSUMED_DESIGN_EFFECT * 0.15 * 0.85 / power.words)
    assert not power.measured
    assert power.words == 240
    assert power.detectable == pytest.approx(2.8016 * error, rel=1e-3)
    assert power.more_clips == math.ceil(40 * (power.detectable / 0.05) ** 2) - 40


def test_four_times_as_many_clips_show_half_the_difference(clips):
    """The spread falls with the root of the number of clips, and the number that is named is enough."""
    few = clips(50)
    many = clips(200)
    small = measure_power(few, hypotheses(few, 0.15, 1), None, seed=1)
    large = measure_power(many, hypotheses(many, 0.15, 1), None, seed=1)
    assert small.measured
    assert large.detectable == pytest.approx(small.detectable / 2, rel=0.25)
    again = measure_power(few, hypotheses(few, 0.15, 1), large.detectable, seed=1)
    assert 50 + again.more_clips == pytest.approx(200, rel=0.6)


def test_the_named_difference_is_found_about_as_often_as_is_said(clips):
    """By simulation: a candidate better by that much passes a paired bootstrap in most trials, a tenth of it in few."""
    data = clips(80)
    base = hypotheses(data, 0.2, 1)
    power = measure_power(data, base, None, seed=1)

    def found(share):
        passed = 0
        for trial in range(8):
            rng = np.random.default_rng(trial)
            better = [Hypothesis(**{**h.model_dump(), "hypothesis": mended(h, share, rng)}) for h in base]
            interval = difference_interval([h.words for h in base], [h.words for h in better], [h.id for h in base])
            passed += interval.high < 0
        return passed

    def mended(h, share, rng):
        """Mend a share of the wrong words."""
        pairs = zip(h.reference.split(), h.hypothesis.split(), strict=True)
        return " ".join(r if rng.random() < share else w for r, w in pairs)

    assert found(power.detectable / power.wer) >= 5
    assert found(0.02 * power.detectable / power.wer) <= 4


def test_part_of_a_set_stands_for_the_whole(clips):
    """Where only some clips were listened to, the spread is taken down to the set's own size."""
    data = clips(200)
    part = measure_power(data, hypotheses(data, 0.15, 1)[:50], None, seed=1)
    whole = measure_power(data, hypotheses(data, 0.15, 1), None, seed=1)
    assert part.clips == 200
    assert part.detectable == pytest.approx(whole.detectable, rel=0.35)


def test_languages_without_blanks_are_measured_by_characters(utterance):
    """A set of sentences with one wrong character each shows small differences: none of them is wrong as a whole."""
    data = [utterance(f"{i}", f"今天我们去公园散步吧，{i:02}。", language="zh", split="test") for i in range(40)]
    wrong = [
        Hypothesis(id=u.id, language="zh", reference=u.text, hypothesis=u.text.replace("步" if i % 2 else "吧", "布"))
        for i, u in enumerate(data)
    ]
    assumed, measured = measure_power(data, [], 0.05, seed=1), measure_power(data, wrong, None, seed=1)
    assert assumed.words == measured.words == 12 * 40
    assert measured.wer == pytest.approx(1 / 12)


def test_a_base_without_errors_is_taken_for_one_with_few(clips):
    """No error seen gives no spread: the set is not taken to show everything."""
    data = clips(40)
    right = [Hypothesis(id=u.id, language="it", reference=u.text, hypothesis=u.text) for u in data]
    power = measure_power(data, right, 0.01, seed=1)
    assert not power.measured
    assert power.detectable > 0


def test_speakers_are_resampled_from_twenty_on(clips):
    """With nineteen speakers the interval would rest on nineteen numbers: sentences are taken instead."""
    by_speaker = [u.model_copy(update={"speaker": f"s{i % 20}"}) for i, u in enumerate(clips(60))]
    assert set(resampled_by(by_speaker).values()) == {f"s{i}" for i in range(20)}
    fewer = [u.model_copy(update={"speaker": f"s{i % 19}"}) for i, u in enumerate(clips(60))]
    assert len(set(resampled_by(fewer).values())) == 60
