"""The local metric in the form of Hugging Face's `evaluate`."""

import evaluate
import pytest

from training.finetune import METRIC


@pytest.fixture(scope="module")
def metric():
    """Return the metric as fine-tuning loads it: from its path, without the Hub."""
    return evaluate.load(str(METRIC))


def test_the_rates_are_the_corpus_own(metric):
    """Errors are summed over the set before they are divided: one word of six, not the mean of 1 and 0."""
    scores = metric.compute(
        predictions=["no", "uno due tre quattro cinque"], references=["sì", "Uno due tre quattro cinque."]
    )
    assert scores["wer"] == pytest.approx(1 / 6)
    assert scores["cer"] == pytest.approx(2 / 28)


def test_combining_marks_count(metric):
    """A wrong vowel sign in Hindi is an error; Whisper's own normaliser would not see it."""
    assert metric.compute(predictions=["किताब"], references=["कीताब"])["wer"] == 1.0


def test_languages_without_blanks_are_measured_by_characters(metric):
    """One wrong character of four is no wrong sentence, and a comma is none; words stay words beside it."""
    given = {"predictions": ["今天、散布", "uno tre"], "references": ["今天散步。", "Uno due."]}
    assert metric.compute(**given, languages=["zh", "it"])["wer"] == pytest.approx(2 / 6)
    assert metric.compute(**given, languages=["zh", "it"])["cer"] == pytest.approx(3 / 11)
    assert metric.compute(**given)["wer"] == pytest.approx(3 / 3)
    assert metric.compute(**given, languages=["it", "it"]) == metric.compute(**given)
