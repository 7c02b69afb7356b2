"""Both engines on the real base model and real speech, Russian and English: one protocol, one answer."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from benchmarks.words import errors, stitch, trim
from speech.context import ElasticContext
from speech.engine import DecodingOptions, Window
from speech.engine.ctranslate2_engine import CTranslate2Engine
from speech.engine.torch_engine import TorchEngine
from speech.engine.tuning import Tuning
from speech.text import normalize
from training.data.manifest import load_audio

CLIPS = 4  # a language


@pytest.fixture(scope="module")
def windows(prompts, tmp_path_factory):
    """Return clips of 1.5 to 5 s in two languages."""
    chosen = []
    for language in ("ru", "en"):
        fitting = [u for u in prompts(language) if 1.5 <= u.audio.duration <= 5]
        chosen += [
            Window(load_audio(u, tmp_path_factory.getbasetemp()), language)
            for u in fitting[:: len(fitting) // CLIPS][:CLIPS]
        ]
    return chosen


@pytest.fixture(scope="module")
def engines(base):
    """Return both engines in the same precision."""
    context = ElasticContext()
    return (
        TorchEngine.load(base.path, context, device="cpu"),
        CTranslate2Engine.load(base.path / "ctranslate2", context, Tuning("float32")),
    )


def both(engines, windows):
    """Transcribe with each engine."""
    return zip(*(engine.transcribe(windows) for engine in engines), strict=True)


def test_the_same_tokens_and_probabilities(engines, windows):
    """Greedy decoding gives the same tokens, each with the same log-probability, and the same doubts."""
    asked = [replace(window, options=DecodingOptions(token_logprobs=True)) for window in windows]
    for torch_result, ctranslate2_result in both(engines, asked):
        assert torch_result.text
        assert torch_result.tokens == ctranslate2_result.tokens
        assert torch_result.finish_reason == ctranslate2_result.finish_reason == "stop"
        assert torch_result.avg_logprob == pytest.approx(ctranslate2_result.avg_logprob, abs=0.02)
        assert torch_result.no_speech_prob == pytest.approx(ctranslate2_result.no_speech_prob, abs=1e-3)
        assert torch_result.token_logprobs == pytest.approx(ctranslate2_result.token_logprobs, abs=0.05)


def test_the_same_language_is_detected(engines, windows):
    """Russian is Russian and English is English, with the same probability."""
    for window, (one, other) in zip(
        windows, both(engines, [replace(window, language=None) for window in windows]), strict=True
    ):
        assert one.language == other.language == window.language
        assert one.language_probability == pytest.approx(other.language_probability, abs=0.01)


def test_any_mixture_is_decoded_as_alone(engines, windows):
    """Timestamps, prompts and tasks side by side: each window has the answer that it has alone, in both engines."""
    said = tuple(engines[0].tokenizer.encode("Please enter your password."))
    mixed = [
        windows[-1],
        replace(windows[-1], options=DecodingOptions(without_timestamps=False)),
        replace(windows[-1], prompt=said),
        replace(windows[0], task="translate"),
    ]
    for engine in engines:
        alone = [engine.transcribe([window])[0] for window in mixed]
        assert [result.tokens for result in engine.transcribe(mixed)] == [result.tokens for result in alone]
    for one, other in both(engines, mixed):
        assert one.tokens == other.tokens
    (timed,) = engines[0].transcribe(mixed[1:2])
    assert timed.tokens[0] == engines[0].tokenizer.timestamp_begin


def test_beams_find_the_same_words(engines, windows):
    """Both beam searches, whose ties and ends differ in detail, agree on the words of nearly every clip."""
    asked = [replace(window, options=DecodingOptions(beam_size=5)) for window in windows]
    same = [normalize(one.text) == normalize(other.text) for one, other in both(engines, asked)]
    assert sum(same) >= len(same) - 1


def test_the_same_words_at_the_same_times(engines, windows):
    """Both engines cut the text alike, with times at most 60 ms apart; together the words are the text."""
    asked = [replace(window, options=DecodingOptions(word_timestamps=True)) for window in windows]
    for window, (one, other) in zip(asked, both(engines, asked), strict=True):
        assert [word.word for word in one.words] == [word.word for word in other.words]
        assert "".join(word.word for word in one.words).strip() == one.text
        for ours, theirs in zip(one.words, other.words, strict=True):
            assert (ours.start, ours.end) == pytest.approx((theirs.start, theirs.end), abs=0.06)
            assert ours.probability == pytest.approx(theirs.probability, abs=0.02)
        assert one.words[0].start >= 0
        assert one.words[-1].end <= window.audio.size / 16_000 + 1e-9
        assert all(before.end <= after.start for before, after in pairwise(one.words))


def test_words_begin_and_end_where_prompts_do(base, windows):
    """Prompts trimmed by energy and stitched: half of the edges are within 80 ms, in int8 as it is served."""
    engine = CTranslate2Engine.load(base.path / "ctranslate2", ElasticContext())
    stitched = stitch([trim(window.audio) for window in windows if window.language == "en"], "en")
    options = DecodingOptions(word_timestamps=True)
    results = engine.transcribe([replace(one.window, options=options) for one in stitched])
    starts, ends, missed = errors(stitched, results)
    assert missed == 0
    assert np.median(np.abs([starts, ends])) <= 0.08


def test_a_short_context_moves_few_words(base, windows):
    """At its own length and a second, a clip's words are within 100 ms of where 30 s have them, in the median."""
    elastic = CTranslate2Engine.load(base.path / "ctranslate2", ElasticContext(elastic=True, margin=50))
    asked = [replace(window, options=DecodingOptions(word_timestamps=True)) for window in windows]
    full = elastic.transcribe([replace(window, full_context=True) for window in asked])
    differences = []
    for short, long in zip(elastic.transcribe(asked), full, strict=True):
        assert short.positions < long.positions
        if [word.word for word in short.words] == [word.word for word in long.words]:
            differences += [abs(a.start - b.start) for a, b in zip(short.words, long.words, strict=True)]
    assert len(differences) >= 10
    assert np.median(differences) <= 0.1


def test_a_cold_sample_says_nearly_the_same(engines, windows):
    """At a temperature of 0.2 most clips keep their words, and each says what it was sampled with."""
    for engine in engines:
        cold = engine.transcribe([replace(window, options=DecodingOptions(temperature=0.2)) for window in windows])
        pairs = zip(cold, engine.transcribe(windows), strict=True)
        assert sum(normalize(one.text) == normalize(other.text) for one, other in pairs) >= len(windows) // 2
        assert {result.temperature for result in cold} == {0.2}


def test_the_language_is_one_of_those_allowed(engines, windows):
    """Russian that may only be English or Italian is one of them, and how improbable that is can be seen."""
    for engine in engines:
        (result,) = engine.transcribe([replace(windows[0], language=None, languages=("en", "it"))])
        assert result.language in {"en", "it"}
        assert set(result.language_probabilities) == {"en", "it"}
        assert sum(result.language_probabilities.values()) < 0.5
