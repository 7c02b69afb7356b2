"""Which language a piece of audio is in."""

import pytest

from speech.audio import SAMPLE_RATE
from speech.language import MAX_SILENT_WINDOWS, MAX_WINDOWS, SpokenLanguage
from speech.windows import Slice


@pytest.fixture
def hear(result):
    """Return the function that makes it hear windows: seconds, language and probability of each."""

    def listen(*windows, given=None, **changes):
        language = SpokenLanguage(given)
        for seconds, code, probability in windows:
            among = {code: probability, "cy": (1 - probability) / 2, "gl": (1 - probability) / 2}
            said = result(language=code, language_probability=probability, language_probabilities=among, **changes)
            language.hear(Slice(0, round(seconds * SAMPLE_RATE), silent=False), said)
        return language

    return listen


@pytest.mark.parametrize(
    ("windows", "code"),
    [
        ([], None),
        ([(2, "it", 0.5)], "it"),
        ([(1.9, "it", 0.99)], None),
        ([(9, "it", 0.49)], None),
        ([(1, "it", 0.9), (1, "it", 0.9)], "it"),
        ([(1, "ru", 0.9), (5, "it", 0.8)], "it"),
        ([(1, "ru", 0.9), (1, "it", 0.9)], None),
        ([(5, "it", 0.9), (20, "ru", 1.0)], "it"),
    ],
)
def test_who_is_sure_decides(hear, windows, code):
    """Two seconds at least, and half of the probability on average; what comes after changes nothing."""
    assert hear(*windows).code == code


def test_of_few_languages_one_is_sure_enough(result):
    """Probabilities are among all that the model knows; of those that it may be, one is much likelier."""
    language = SpokenLanguage()
    among = {"it": 0.2, "ru": 0.05}
    language.hear(Slice(0, 3 * SAMPLE_RATE, silent=False), result(language="it", language_probabilities=among))
    assert (language.code, language.probabilities) == ("it", pytest.approx(among))


def test_nobody_waits_for_ever_for_somebody_to_speak(hear):
    """After some windows of nobody's, the others go together; whoever speaks then is still understood."""
    assert hear(*[(9, "cy", 1.0)] * (MAX_SILENT_WINDOWS - 1), text="").is_awaited
    language = hear(*[(9, "cy", 1.0)] * MAX_SILENT_WINDOWS, text="")
    assert not language.is_awaited
    assert language.code is None
    assert hear((3, "it", 0.4)).is_awaited
    assert not hear((3, "it", 0.9)).is_awaited


def test_after_a_few_windows_the_likeliest_is_taken(hear):
    """Nobody waits for certainty for ever: by how much was said, and how surely."""
    windows = [(3, "it", 0.4), (1, "ru", 0.9), (3, "it", 0.4), (1, "ru", 0.9)]
    assert len(windows) == MAX_WINDOWS
    assert hear(*windows[:3]).code is None
    assert hear(*windows).code == "it"


def test_what_is_not_decided_has_a_likeliest(hear):
    """A clip of a second has a language, too; silence has none, and what is given is not looked for."""
    assert (hear((1, "it", 0.4)).likeliest, hear().likeliest) == ("it", None)
    given = hear((9, "ru", 1.0), given="it")
    assert (given.code, given.likeliest, given.probabilities) == ("it", "it", None)


@pytest.mark.parametrize("changes", [{"text": ""}, {"no_speech_prob": 0.9, "avg_logprob": -1.5}])
def test_nobodys_speech_is_of_no_language(hear, changes):
    """A cough tells nothing, however sure the model is that it is Welsh."""
    language = hear((9, "cy", 1.0), **changes)
    assert (language.code, language.likeliest, language.probabilities) == (None, None, None)


def test_probabilities_are_of_all_that_was_heard(hear):
    """Weighed by length, the likeliest first."""
    language = hear((1, "ru", 0.9), (3, "it", 0.8))
    assert list(language.probabilities)[:2] == ["it", "ru"]
    assert language.probabilities == pytest.approx({"it": 0.6, "ru": 0.225, "cy": 0.0875, "gl": 0.0875})


def test_a_model_of_one_language_decides_at_once(result):
    """It has no probabilities to tell."""
    language = SpokenLanguage()
    language.hear(Slice(0, 3 * SAMPLE_RATE, silent=False), result(language="en"))
    assert (language.code, language.probabilities) == ("en", {"en": 1.0})
