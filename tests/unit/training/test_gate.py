"""The gate's decision, on hypotheses made up to be clearly better, clearly worse, or neither."""

import pytest

from training.evaluate import POOLED, Hypothesis
from training.gate import judge

WORDS = ("uno", "due", "tre", "quattro", "cinque")


def hypotheses(n, wrong, language="it", prefix=""):
    """Return `n` hypotheses of six words, of which `wrong` (or `wrong(i)` in the i-th) are wrong."""
    result = []
    for i in range(n):
        count = wrong(i) if callable(wrong) else wrong
        reference = f"{' '.join(WORDS)} {prefix}{i}"
        heard = ["sbagliato"] * count + [*WORDS[count:], f"{prefix}{i}"]
        result.append(
            Hypothesis(id=f"{language}/{i}", language=language, reference=reference, hypothesis=" ".join(heard))
        )
    return result


def decide(base, candidate):
    """Judge with names that do not matter."""
    refs = {"base_ref": "m@old", "candidate_ref": "m@new", "test_fingerprint": "f", "seed": 1}
    return judge(base, candidate, **refs)


def test_a_clear_gain_passes():
    """A candidate that makes fewer errors nearly everywhere is let through, and the numbers are kept."""
    verdict = decide(hypotheses(60, 2), hypotheses(60, lambda i: i % 2))
    assert verdict.passed
    comparison = verdict.comparisons["it"]
    assert comparison.base.value == pytest.approx(2 / 6)
    assert comparison.candidate.value == pytest.approx(0.5 / 6)
    assert comparison.difference.low < comparison.difference.value < comparison.difference.high < 0
    assert "better" in verdict.reasons[0]


def test_a_loss_is_refused():
    """A worse candidate is refused, and the reason says worse."""
    verdict = decide(hypotheses(60, lambda i: i % 2), hypotheses(60, 2))
    assert not verdict.passed
    assert "worse" in verdict.reasons[0]


def test_an_equal_is_refused():
    """A candidate that is exactly as good is not shown to be better."""
    same = hypotheses(60, lambda i: i % 3)
    verdict = decide(same, same)
    assert not verdict.passed
    assert verdict.comparisons["it"].difference.high == 0
    assert "not shown to be better" in verdict.reasons[0]


def test_a_small_gain_on_few_clips_is_refused():
    """What chance explains as well is not enough: one clip in ten got better, one got worse."""
    base = hypotheses(10, lambda i: 2 if i == 0 else 1)
    candidate = hypotheses(10, lambda i: 2 if i == 1 else 0 if i == 0 else 1)
    assert not decide(base, candidate).passed


def test_one_language_cannot_pay_for_another():
    """A great gain in one language does not excuse a loss in another, though all together gain."""
    base = hypotheses(60, 4) + hypotheses(60, 0, "ru")
    candidate = hypotheses(60, 0) + hypotheses(60, lambda i: i % 2, "ru")
    verdict = decide(base, candidate)
    assert verdict.comparisons["it"].better
    assert verdict.comparisons[POOLED].better
    assert not verdict.comparisons["ru"].better
    assert not verdict.passed


def test_several_languages_are_judged_apart_and_together():
    """With two languages there are three comparisons, and all must pass."""
    base = hypotheses(60, 3) + hypotheses(60, 3, "ru")
    candidate = hypotheses(60, 1) + hypotheses(60, 1, "ru")
    verdict = decide(base, candidate)
    assert set(verdict.comparisons) == {"it", "ru", POOLED}
    assert verdict.comparisons[POOLED].clips == 120
    assert verdict.passed


def test_clips_of_one_sentence_count_as_one_piece_of_evidence():
    """A gain on one sentence read fifty times is a gain on one sentence."""
    base = [h.model_copy(update={"id": str(i)}) for i, h in enumerate(hypotheses(1, 3) * 50)]
    candidate = [h.model_copy(update={"id": str(i)}) for i, h in enumerate(hypotheses(1, 0) * 50)]
    others = hypotheses(5, 1, prefix="x")
    worse = hypotheses(5, 2, prefix="x")
    assert not decide([*base, *others], [*candidate, *worse]).passed


def test_a_verdict_can_be_repeated():
    """The same hypotheses and seed give the same intervals."""
    base, candidate = hypotheses(40, 2), hypotheses(40, lambda i: i % 3)
    assert decide(base, candidate).comparisons == decide(base, candidate).comparisons


def test_different_clips_cannot_be_compared():
    """Hypotheses for other clips, or in another order, are refused rather than compared."""
    base = hypotheses(10, 1)
    with pytest.raises(ValueError, match="same clips"):
        decide(base, base[:-1])
    with pytest.raises(ValueError, match="same clips"):
        decide(base, base[::-1])
    with pytest.raises(ValueError, match="no held-out clips"):
        decide([], [])
