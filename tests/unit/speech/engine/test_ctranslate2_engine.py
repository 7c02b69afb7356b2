"""The promises of the CPU engine that need no other to compare with; test_torch_engine.py has those that do."""

import itertools
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import ctranslate2
import numpy as np
import pytest

from speech.context import MAX_POSITIONS, ElasticContext
from speech.engine import MAX_PROMPT_TOKENS, CancelledError, DecodingOptions, EngineError, Window
from speech.engine.ctranslate2_engine import CTranslate2Engine
from speech.engine.tuning import Tuning
from speech.tokens import N_TIMESTAMPS

ELASTIC = ElasticContext(elastic=True, margin=0)
FLOAT32 = Tuning("float32", workers=1, threads=1)
FEW = 16  # tokens, enough to see a difference


@pytest.fixture(scope="module")
def engine(tiny):
    """Return an engine of one worker and one thread."""
    return CTranslate2Engine.load(tiny.export, ELASTIC, FLOAT32)


@pytest.fixture
def few_tokens(monkeypatch):
    """Let it stop early: a random model seldom ends by itself."""
    monkeypatch.setattr(Window, "max_new_tokens", FEW)


class Watched:
    """A model that tells what is asked of it before it does it."""

    def __init__(self, model, tell):
        self._model = model
        self._tell = tell

    def __getattr__(self, name):
        """Tell of calls."""
        inner = getattr(self._model, name)
        return (lambda *given, **options: [self._tell(name), inner(*given, **options)][1]) if callable(inner) else inner


@pytest.fixture
def watch(engine, monkeypatch):
    """Return the function that has every call of the model told by its name."""
    return lambda tell: monkeypatch.setattr(engine, "_model", Watched(engine._model, tell))


@pytest.mark.usefixtures("few_tokens")
def test_windows_of_every_kind_share_a_call(engine, chirp):
    """Languages, tasks, previous text, timestamps, probabilities and beams differ, and each is as it is alone."""
    kinds = itertools.product((1, 3), (True, False), ((), tuple(range(40, 60)), (70, 71)), ("it", None))
    windows = [
        Window(
            chirp(1.0 + (i % 5) / 2, low=100 + 80 * i) * (0.1 + 0.03 * i),
            language,
            ("transcribe", "translate")[i % 2],
            DecodingOptions(beam_size, without_timestamps, token_logprobs=i % 3 == 0, word_timestamps=i % 4 < 2),
            prompt,
            full_context=i % 7 == 0,
        )
        for i, (beam_size, without_timestamps, prompt, language) in enumerate(kinds)
    ]
    together = engine.transcribe(windows)
    for window, result in zip(windows, together, strict=True):
        (alone,) = engine.transcribe([window])
        assert (result.tokens, result.text, result.language) == (alone.tokens, alone.text, alone.language)
        assert (result.positions, result.finish_reason) == (alone.positions, alone.finish_reason)
        assert result.avg_logprob == pytest.approx(alone.avg_logprob, abs=1e-4)
        assert result.language_probability == pytest.approx(alone.language_probability, abs=1e-4)
        assert (result.token_logprobs is not None) == window.options.token_logprobs
        assert (result.words is not None) == window.options.word_timestamps
        for one, other in zip(result.words or (), alone.words or (), strict=True):
            assert (one.word, one.start, one.end) == (other.word, other.start, other.end)
        if result.token_logprobs is not None:
            assert result.token_logprobs == pytest.approx(alone.token_logprobs, abs=1e-3)
    assert len({result.tokens for result in together}) > 12


@pytest.mark.usefixtures("few_tokens")
def test_rows_of_one_batch_differ_in_language_task_and_prompt(engine, chirp, watch):
    """What does not change a prompt's length is decoded in one call, and each row has its own."""
    audio = chirp(1.0)
    windows = [
        Window(audio, language, task, prompt=prompt)
        for language, task, prompt in itertools.product(("it", "ru"), ("transcribe", "translate"), ((65,), (90,)))
    ]
    expected = [engine.transcribe([window])[0].tokens for window in windows]
    calls = []
    watch(calls.append)
    assert [result.tokens for result in engine.transcribe(windows)] == expected
    assert calls.count("generate") == 1
    assert len(set(expected)) > 4


@pytest.mark.usefixtures("few_tokens")
def test_what_cannot_share_a_call_does_not_try(engine, chirp, watch):
    """Windows with prompts of two lengths, or with two kinds of options, are two calls, and none that fails."""
    calls = []
    watch(calls.append)
    for change in ({"prompt": (65,)}, {"options": DecodingOptions(beam_size=2)}):
        engine.transcribe([Window(chirp(1.0), "it", **(change if i % 2 else {})) for i in range(4)])
        assert calls == ["encode", "generate"] * 2
        calls.clear()


@pytest.mark.usefixtures("few_tokens")
@pytest.mark.parametrize("timestamps", [False, True])
def test_the_tokens_probabilities_make_the_mean(engine, chirp, timestamps):
    """Greedily, one a token; with the end token's, where it came, they sum up to the mean's sum."""
    options = DecodingOptions(without_timestamps=not timestamps, token_logprobs=True)
    for i in range(20):
        (result,) = engine.transcribe([Window(chirp(0.5 + i / 4, low=50 + 100 * i), "it", options=options)])
        assert len(result.token_logprobs) == len(result.tokens)
        assert max(result.token_logprobs) <= 0
        ended = result.avg_logprob * (len(result.tokens) + 1) - math.fsum(result.token_logprobs)
        assert ended < 1e-4
        assert result.finish_reason == "stop" or ended == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("timestamps", [False, True])
def test_what_could_not_be_said_has_no_share(engine, tokenizer, timestamps):
    """Where all logits are equal, all tokens that are allowed share alike, and at first fewer are allowed."""
    n_tokens = tokenizer.timestamp_begin + N_TIMESTAMPS
    generated = SimpleNamespace(sequences_ids=[[65, 66]], logits=[[np.zeros(n_tokens, np.float32)] * 2])
    logprobs = engine._chosen_logprobs(generated, DecodingOptions(without_timestamps=not timestamps))
    suppressed, at_first = set(engine._suppressed), set(engine._suppressed_first)
    assert at_first - suppressed
    allowed = n_tokens if timestamps else tokenizer.timestamp_begin
    shares = [1 / (allowed - len(suppressed | at_first)), 1 / (allowed - len(suppressed))]
    assert np.exp(logprobs) == pytest.approx(shares)


@pytest.mark.usefixtures("few_tokens")
def test_a_beams_tokens_have_probabilities(engine, chirp):
    """One a token, though CTranslate2 keeps none: reading them again gives a plausible one."""
    options = DecodingOptions(beam_size=3, token_logprobs=True)
    windows = [Window(chirp(1.0, low=low), language, options=options) for low, language in ((90, "it"), (700, "ru"))]
    for result in engine.transcribe(windows):
        assert len(result.token_logprobs) == len(result.tokens) > 0
        assert all(-70 < logprob <= 0 for logprob in result.token_logprobs)
        assert math.fsum(result.token_logprobs) == pytest.approx(result.avg_logprob * (len(result.tokens) + 1), rel=0.5)


@pytest.mark.usefixtures("few_tokens")
def test_a_beam_finds_nothing_less_probable(engine, chirp):
    """Looking at more hypotheses does not make the answer worse, and it is another one now and then."""
    windows = [Window(chirp(1.0, low=60 * i), "it") for i in range(1, 9)]
    beams = [replace(window, options=DecodingOptions(beam_size=5)) for window in windows]
    greedy, best = engine.transcribe(windows), engine.transcribe(beams)
    assert sum(result.avg_logprob for result in best) > sum(result.avg_logprob for result in greedy)
    assert [result.tokens for result in best] != [result.tokens for result in greedy]


def test_a_loop_is_cut_short_by_the_windows_own_length(engine, chirp):
    """A window that never ends has its 30 tokens a second and says so, whoever shares its batch."""
    windows = [Window(chirp(seconds), "it") for seconds in (0.4, 0.8, 1.2)]
    results = engine.transcribe(windows)
    looping = [(w, r) for w, r in zip(windows, results, strict=True) if r.finish_reason == "length"]
    assert looping
    for window, result in zip(windows, results, strict=True):
        (alone,) = engine.transcribe([window])
        assert (result.tokens, result.finish_reason) == (alone.tokens, alone.finish_reason)
        assert len(result.tokens) <= window.max_new_tokens
    for window, result in looping:
        assert len(result.tokens) == window.max_new_tokens


@pytest.mark.usefixtures("few_tokens")
def test_preparing_changes_no_answer(engine, chirp, monkeypatch):
    """Features made beforehand, on any thread, are those that the engine makes, and it makes them no second time."""
    windows = [Window(chirp(seconds), "it") for seconds in (0.4, 3.1, 30)]
    windows.append(replace(windows[0], full_context=True))
    expected = engine.transcribe(windows)
    with ThreadPoolExecutor(2) as pool:
        prepared = list(pool.map(engine.prepare, windows))
    assert [window.features.shape for window in prepared] == [(80, 2 * result.positions) for result in expected]
    mixed = engine.transcribe([prepared[0], windows[1], *prepared[2:]])
    monkeypatch.setattr(engine, "_features", lambda _: pytest.fail("the features were there"))
    assert engine.transcribe(prepared) == mixed == expected


@pytest.mark.usefixtures("few_tokens")
def test_a_window_can_have_the_full_context(tiny, engine, chirp):
    """Whoever pays for 30 s has what a model without an elastic context finds."""
    inelastic = CTranslate2Engine.load(tiny.export, ElasticContext(), FLOAT32)
    (short,), (full,) = (engine.transcribe([Window(chirp(1.0), "it", full_context=pay)]) for pay in (False, True))
    (expected,) = inelastic.transcribe([Window(chirp(1.0), "it")])
    assert (short.positions, full.positions) == (96, MAX_POSITIONS)
    assert full == expected


def test_who_is_cancelled_before_is_not_decoded(engine, chirp, watch):
    """Nothing is computed for windows that nobody waits for."""
    calls = []
    watch(calls.append)
    results = engine.transcribe([Window(chirp(1.0), "it")] * 3, lambda _: True)
    assert [type(result) for result in results] == [CancelledError] * 3
    assert calls == []


@pytest.mark.usefixtures("few_tokens")
def test_who_is_cancelled_between_calls_is_not_decoded_further(engine, chirp, watch):
    """If all of a batch left while it was encoded, no token is generated; a batch of others is."""
    gone, calls = set(), []

    def leave(name):
        calls.append(name)
        if calls == ["encode"]:
            gone.update({0, 1})

    watch(leave)
    windows = [Window(chirp(1.0), "it"), Window(chirp(1.1), "it"), Window(chirp(5.0), "it")]
    first, second, third = engine.transcribe(windows, lambda i: i in gone)
    assert isinstance(first, CancelledError)
    assert isinstance(second, CancelledError)
    assert third.tokens
    assert calls == ["encode", "encode", "generate"]


@pytest.mark.usefixtures("few_tokens")
def test_one_who_stays_keeps_the_batch_going(engine, chirp, watch):
    """Half a batch cannot be stopped: who stays is answered as ever."""
    gone, windows = set(), [Window(chirp(1.0), "it"), Window(chirp(1.1), "it")]
    expected = engine.transcribe(windows)
    watch(lambda _: gone.add(0))
    _, stayed = engine.transcribe(windows, lambda i: i in gone)
    assert stayed == expected[1]


def test_batches_hold_eighty_seconds(engine, tiny):
    """Sixteen short windows or two of 30 s are enough; a tuning may say otherwise of the short ones."""
    assert [engine.batch_size(positions) for positions in (96, 224, 320, 448, 1500)] == [16, 16, 12, 8, 2]
    large = CTranslate2Engine.load(tiny.export, ELASTIC, replace(FLOAT32, batch=24))
    assert [large.batch_size(positions) for positions in (96, 224, 1500)] == [24, 17, 2]
    single = CTranslate2Engine.load(tiny.export, ELASTIC, replace(FLOAT32, batch=1))
    assert [single.batch_size(positions) for positions in (96, 1500)] == [1, 1]


@pytest.mark.usefixtures("few_tokens")
def test_calls_are_no_larger_than_that(engine, chirp, monkeypatch):
    """However many windows are handed over, a call gets a batch."""
    sizes = []
    decode = engine._decode
    monkeypatch.setattr(engine, "_decode", lambda p, batch, c: sizes.append((p, len(batch))) or decode(p, batch, c))
    engine.transcribe([Window(chirp(1.0), "it")] * 19 + [Window(chirp(29.9), "it")] * 3)
    assert sorted(sizes) == [(96, 3), (96, 16), (1500, 1), (1500, 2)]


@pytest.mark.usefixtures("few_tokens")
def test_only_the_end_of_a_long_prompt_is_used(engine, chirp):
    """What was said last matters, up to 223 tokens; one more at the beginning changes nothing, one less does."""
    before = tuple(int(token) for token in np.random.default_rng(7).integers(0, 255, 400))
    said = [
        engine.transcribe([Window(chirp(1.0), "it", prompt=before[-length:])])[0].tokens
        for length in (400, MAX_PROMPT_TOKENS + 1, MAX_PROMPT_TOKENS, MAX_PROMPT_TOKENS - 1)
    ]
    assert said[0] == said[1] == said[2] != said[3]


@pytest.mark.parametrize("options", [DecodingOptions(), DecodingOptions(3, without_timestamps=False)])
def test_a_text_ends_where_the_decoders_positions_end(engine, chirp, options):
    """After the longest prompt, a window that never ends gets as many tokens as there is room for, and no error."""
    window = Window(chirp(8.0), "it", prompt=tuple(range(300)), options=options)
    assert window.max_new_tokens == 224
    (result,) = engine.transcribe([window])
    prompt = 1 + MAX_PROMPT_TOKENS + (4 if options.without_timestamps else 3)
    assert 200 < len(result.tokens) <= 448 - prompt + 1
    assert result.avg_logprob < 0


def test_a_long_prompt_leaves_a_short_window_its_tokens(engine, chirp):
    """Previous text takes nothing from what a short window may say."""
    window = Window(chirp(1.0), "it", prompt=tuple(range(223)))
    assert window.max_new_tokens == 54
    (result,) = engine.transcribe([window])
    assert len(result.tokens) == 54 or result.finish_reason == "stop"


@pytest.mark.usefixtures("few_tokens")
def test_an_impossible_window_fails_alone(engine, chirp):
    """A token that the model does not have, or a language, is its window's error only."""
    first, no_token, no_language, last = engine.transcribe(
        [
            Window(chirp(1.0), "it", prompt=(5,)),
            Window(chirp(1.0), "it", prompt=(10**6,)),
            Window(chirp(1.0), "de", prompt=(5,)),
            Window(chirp(1.0), "ru", prompt=(5,)),
        ]
    )
    assert isinstance(no_token, EngineError)
    assert isinstance(no_language, EngineError)
    assert (first.language, last.language) == ("it", "ru")


@pytest.mark.usefixtures("few_tokens")
def test_workers_decode_several_batches_at_once(tiny, engine, chirp):
    """As many as the tuning says, with the answers of one; it says so to the scheduler."""
    both = CTranslate2Engine.load(tiny.export, ELASTIC, Tuning("float32", workers=2, threads=1))
    assert (engine.concurrency, both.concurrency) == (1, 2)
    meet, decode = threading.Barrier(2, timeout=10), both._decode

    def decode_together(*given):
        meet.wait()
        return decode(*given)

    both._decode = decode_together
    windows = [Window(chirp(1.0), "it"), Window(chirp(5.0), "it")]
    assert [r.tokens for r in both.transcribe(windows)] == [r.tokens for r in engine.transcribe(windows)]


def test_it_says_what_runs_where(engine):
    """For humans: library, precision and device."""
    assert engine.description == "ctranslate2 float32 on cpu"


def test_the_tuning_reaches_the_model(tiny, monkeypatch):
    """Precision, workers and threads are CTranslate2's; without a tuning the defaults are."""
    loads, whisper = [], ctranslate2.models.Whisper
    monkeypatch.setattr(
        ctranslate2.models, "Whisper", lambda *given, **options: loads.append(options) or whisper(*given, **options)
    )
    CTranslate2Engine.load(tiny.export, ELASTIC, Tuning("float32", workers=2, threads=1))
    CTranslate2Engine.load(tiny.export, ELASTIC)
    named = [(load["compute_type"], load["inter_threads"], load["intra_threads"]) for load in loads]
    assert named == [("float32", 2, 1), ("int8", Tuning().workers, Tuning().threads)]


@pytest.mark.usefixtures("few_tokens")
def test_words_share_the_encoders_output(engine, chirp, watch):
    """The audio is encoded once; one alignment serves all rows of a language and task; without words, none is made."""
    calls = []
    watch(calls.append)
    options = DecodingOptions(word_timestamps=True)
    (plain,) = engine.transcribe([Window(chirp(1.0), "it")])
    assert plain.words is None
    windows = [
        Window(chirp(1.0, low=90 * i), language, options=options) for i, language in enumerate(("it", "ru", "it"), 1)
    ]
    results = engine.transcribe(windows)
    assert calls == ["encode", "generate", "encode", "generate", "align", "align"]
    assert all(result.words for result in results)


@pytest.mark.usefixtures("few_tokens")
@pytest.mark.parametrize("seconds", [0.02, 0.05, 0.1, 0.3])
def test_next_to_no_audio_has_words_inside_it(engine, chirp, seconds):
    """More tokens than positions: words are short, in order, and do not reach into the padding."""
    window = Window(chirp(1.0)[: round(seconds * 16_000)], "it", options=DecodingOptions(word_timestamps=True))
    (result,) = engine.transcribe([window])
    assert "".join(word.word for word in result.words).strip() == result.text
    edges = [edge for word in result.words for edge in (word.start, word.end)]
    assert edges == sorted(edges)
    assert all(word.start < word.end for word in result.words)
    assert edges[-1] <= seconds + 1e-9


def test_nothing_said_has_no_words(engine, chirp, monkeypatch):
    """An empty text was asked for its words, and has none."""
    monkeypatch.setattr(Window, "max_new_tokens", 0)
    monkeypatch.setattr(engine, "_model", Silent(engine._model))
    (result,) = engine.transcribe([Window(chirp(1.0), "it", options=DecodingOptions(word_timestamps=True))])
    assert (result.text, result.words) == ("", ())


class Silent:
    """A model that says nothing, and cannot align it."""

    def __init__(self, model):
        self.encode = model.encode
        self.n_mels = model.n_mels

    def generate(self, encoded, *_, **__):
        """End at once."""
        return [SimpleNamespace(sequences_ids=[[]], scores=[-0.1], no_speech_prob=0.9)] * encoded.shape[0]


@pytest.mark.usefixtures("few_tokens")
def test_a_hot_sample_is_another_each_time(engine, chirp):
    """CTranslate2 draws from generators of its own: texts differ, and all say so."""
    window = Window(chirp(1.0), "it", options=DecodingOptions(temperature=1.0))
    results = [engine.transcribe([window])[0] for _ in range(6)]
    assert len({result.tokens for result in results}) > 1
    assert {result.temperature for result in results} == {1.0}
