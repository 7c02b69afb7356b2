"""The promises of the GPU engine, kept on a CPU: the reference's tokens, and CTranslate2's."""

import copy
import itertools
import math
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import WhisperForConditionalGeneration

from speech.checkpoint import WEIGHTS
from speech.context import BUCKETS, MAX_POSITIONS, ElasticContext
from speech.convert import export_ctranslate2
from speech.encoder import encode
from speech.engine import MAX_PROMPT_TOKENS, CancelledError, DecodingOptions, EngineError, Window
from speech.engine.ctranslate2_engine import CTranslate2Engine
from speech.engine.torch_decoding import decode
from speech.engine.torch_engine import TorchEngine
from speech.engine.tuning import Tuning

ELASTIC = ElasticContext(elastic=True, margin=0)
FEW = 16  # tokens, enough to see a difference
FLOAT32 = Tuning("float32", workers=1, threads=1)


@pytest.fixture(autouse=True)
def few_tokens(monkeypatch):
    """Let both engines stop early: a random model seldom ends by itself."""
    monkeypatch.setattr(Window, "max_new_tokens", FEW)


@pytest.fixture(scope="module")
def engine(tiny):
    """Return the torch engine on a CPU."""
    return TorchEngine.load(tiny.checkpoint, ELASTIC, device="cpu")


@pytest.fixture(scope="module")
def reference(tiny):
    """Return the same weights as transformers loads them."""
    return WhisperForConditionalGeneration.from_pretrained(tiny.checkpoint).eval()


@pytest.fixture(scope="module")
def ctranslate2_engine(tiny):
    """Return CTranslate2 in the same precision."""
    return CTranslate2Engine.load(tiny.export, ELASTIC, FLOAT32)


@pytest.fixture(scope="module")
def timed(tiny, tokenizer, tmp_path_factory):
    """Return both engines with a model that likes timestamps now and then."""
    folder = tmp_path_factory.mktemp("timed") / "checkpoint"
    shutil.copytree(tiny.checkpoint, folder, ignore=shutil.ignore_patterns("ctranslate2"))
    arrays = load_file(folder / WEIGHTS)
    arrays["model.decoder.embed_tokens.weight"][tokenizer.timestamp_begin :, 0] = -3.0
    save_file(arrays, folder / WEIGHTS, metadata={"format": "pt"})
    export_ctranslate2(folder, folder / "ctranslate2", dtype="float32")
    return (
        TorchEngine.load(folder, ELASTIC, device="cpu"),
        CTranslate2Engine.load(folder / "ctranslate2", ELASTIC, FLOAT32),
    )


@pytest.fixture(scope="module")
def recordings(chirp):
    """Return windows of several lengths, given and unknown languages, and both tasks."""
    return [
        Window(chirp(0.4), "it"),
        Window(chirp(1.0, low=300), None),
        Window(chirp(1.1, low=900, high=100), "en", "translate"),
        Window(chirp(3.1, low=90), None),
        Window(0.01 * chirp(8.0), "ru"),
        Window(chirp(30.0, high=7000), "it"),
    ]


def test_both_engines_say_the_same(engine, ctranslate2_engine, recordings):
    """Tokens, languages and probabilities agree in float32, at every context."""
    ours, theirs = engine.transcribe(recordings), ctranslate2_engine.transcribe(recordings)
    assert len({result.positions for result in ours}) >= 4
    assert {result.positions for result in ours} <= set(BUCKETS)
    for one, other in zip(ours, theirs, strict=True):
        assert one.tokens == other.tokens
        assert (one.text, one.language, one.positions) == (other.text, other.language, other.positions)
        assert one.compression_ratio == other.compression_ratio
        assert one.avg_logprob == pytest.approx(other.avg_logprob, abs=1e-4)
        assert one.no_speech_prob == pytest.approx(other.no_speech_prob, rel=1e-3)
        assert one.language_probability == pytest.approx(other.language_probability, abs=1e-4)


def test_a_window_is_decoded_alike_in_any_company(engine, recordings):
    """Alone or with others, a window has the same text."""
    together = engine.transcribe([*recordings, *reversed(recordings)])
    alone = [engine.transcribe([window])[0] for window in recordings]
    assert [result.tokens for result in together[:6]] == [result.tokens for result in alone]
    assert [result.tokens for result in together[6:]] == [result.tokens for result in reversed(alone)]


def test_a_given_language_is_certain_and_a_detected_one_is_not(engine, recordings, tokenizer):
    """What was asked for has probability 1; a detected one has the share among the languages."""
    results = engine.transcribe(recordings)
    for window, result in zip(recordings, results, strict=True):
        if window.language is None:
            assert result.language in tokenizer.languages
            assert 1 / 3 <= result.language_probability < 1  # the best of three
        else:
            assert (result.language, result.language_probability) == (window.language, 1.0)
        assert 0 < result.no_speech_prob < 1
        assert result.avg_logprob < 0


def test_the_languages_share_one(engine, reference, tokenizer):
    """Detection is a softmax over the languages alone, read after the start token."""
    audio = (0.1 * np.random.default_rng(2).standard_normal(16_000)).astype(np.float32)
    (result,) = engine.transcribe([Window(audio)])
    from speech.features import log_mel_spectrogram, pad_or_trim

    features = torch.from_numpy(log_mel_spectrogram(pad_or_trim(audio, 96 * 320)))[None]
    with torch.inference_mode():
        hidden = reference.model.decoder(
            input_ids=torch.tensor([[tokenizer.sot]]),
            encoder_hidden_states=encode(reference.model.encoder, features),
        ).last_hidden_state
        logits = reference.proj_out(hidden[0, -1])[list(tokenizer.languages.values())]
    probabilities = dict(zip(tokenizer.languages, logits.softmax(-1).tolist(), strict=True))
    assert sum(probabilities.values()) == pytest.approx(1)
    assert result.language == max(probabilities, key=probabilities.get)
    assert result.language_probability == pytest.approx(probabilities[result.language], abs=1e-5)


def test_a_window_in_an_unknown_language_fails_alone(engine, ctranslate2_engine, chirp):
    """Its neighbours are transcribed, in both engines."""
    batch = [Window(chirp(1), "it"), Window(chirp(1), "de"), Window(chirp(1), "ru")]
    for each in (engine, ctranslate2_engine):
        first, broken, last = each.transcribe(batch)
        assert isinstance(broken, EngineError)
        assert "de" in str(broken)
        assert (first.language, last.language) == ("it", "ru")


def test_both_engines_write_the_same_timestamps(timed, recordings):
    """With timestamps, both follow the same rules."""
    options = DecodingOptions(without_timestamps=False)
    ours, theirs = (each.transcribe([replace(window, options=options) for window in recordings]) for each in timed)
    begin = timed[0].tokenizer.timestamp_begin
    assert any(sum(token >= begin for token in result.tokens) > 2 for result in ours)
    for one, other in zip(ours, theirs, strict=True):
        assert one.tokens == other.tokens
        assert (one.text, one.language, one.finish_reason) == (other.text, other.language, other.finish_reason)
        assert one.avg_logprob == pytest.approx(other.avg_logprob, abs=1e-4)


def test_both_engines_know_what_was_said_before(engine, ctranslate2_engine, recordings):
    """Previous text has a say in the tokens, the same in both engines; only its end fits."""
    before = tuple(int(token) for token in np.random.default_rng(7).integers(0, 255, 300))
    windows = [replace(window, prompt=before[: 100 * i]) for i, window in enumerate(recordings[:4])]
    ours, theirs = engine.transcribe(windows), ctranslate2_engine.transcribe(windows)
    assert [result.tokens for result in ours] == [result.tokens for result in theirs]
    unprompted = engine.transcribe(recordings[:4])
    assert [one.tokens == other.tokens for one, other in zip(ours, unprompted, strict=True)].count(True) == 1
    (same,) = engine.transcribe([replace(windows[3], prompt=before[-MAX_PROMPT_TOKENS:])])
    assert same.tokens == ours[3].tokens


def test_windows_of_every_kind_share_a_call(timed, chirp):
    """Languages, tasks, previous text, timestamps, probabilities and beams differ, and each is as it is alone."""
    kinds = itertools.product((True, False), ((), tuple(range(40, 60))), ("it", None), (1, 3))
    windows = [
        Window(
            chirp(1.0, low=100 + 80 * i) * (0.1 + 0.05 * i),
            language,
            ("transcribe", "translate")[i % 2],
            DecodingOptions(beam_size, without_timestamps, token_logprobs=i % 3 == 0),
            prompt,
        )
        for i, (without_timestamps, prompt, language, beam_size) in enumerate(kinds)
    ]
    together = timed[0].transcribe(windows)
    for window, result in zip(windows, together, strict=True):
        (alone,) = timed[0].transcribe([window])
        assert result.tokens == alone.tokens
        assert (result.language, result.finish_reason) == (alone.language, alone.finish_reason)
        assert result.avg_logprob == pytest.approx(alone.avg_logprob, abs=1e-4)
        assert (result.token_logprobs is not None) == window.options.token_logprobs
        if result.token_logprobs is not None:
            assert result.token_logprobs == pytest.approx(alone.token_logprobs, abs=1e-4)
    assert len({result.tokens for result in together}) > 8


@pytest.mark.parametrize("beam_size", [1, 3])
def test_the_tokens_probabilities_are_those_of_the_mean(timed, recordings, beam_size):
    """One a token, in natural logarithms; with the end token's they make the mean."""
    options = DecodingOptions(beam_size, token_logprobs=True)
    for result in timed[0].transcribe([replace(window, options=options) for window in recordings]):
        assert len(result.token_logprobs) == len(result.tokens)
        assert max(result.token_logprobs) < 0
        ended = result.avg_logprob * (len(result.tokens) + 1) - math.fsum(result.token_logprobs)
        assert ended < 0 if result.finish_reason == "stop" else ended == pytest.approx(0, abs=1e-9)


def test_both_engines_give_the_tokens_the_same_probabilities(engine, ctranslate2_engine, recordings):
    """What is compared with a threshold means the same on a GPU and a CPU."""
    windows = [replace(window, options=DecodingOptions(token_logprobs=True)) for window in recordings]
    for one, other in zip(engine.transcribe(windows), ctranslate2_engine.transcribe(windows), strict=True):
        assert one.token_logprobs == pytest.approx(other.token_logprobs, abs=1e-3)


def test_both_engines_say_the_same_words_at_the_same_times(engine, ctranslate2_engine, recordings):
    """Cross-attention is the same in both, at every context; times differ by a position at most."""
    windows = [replace(window, options=DecodingOptions(word_timestamps=True)) for window in recordings]
    for window, one, other in zip(windows, *(e.transcribe(windows) for e in (engine, ctranslate2_engine)), strict=True):
        assert [word.word for word in one.words] == [word.word for word in other.words]
        assert [word.tokens for word in one.words] == [word.tokens for word in other.words]
        assert "".join(word.word for word in one.words).strip() == one.text
        for ours, theirs in zip(one.words, other.words, strict=True):
            assert (ours.start, ours.end) == pytest.approx((theirs.start, theirs.end), abs=0.0201)
            assert ours.probability == pytest.approx(theirs.probability, rel=1e-2)
        assert one.words[-1].end <= window.audio.size / 16_000 + 1e-9


def test_words_are_as_alone_in_any_company(engine, ctranslate2_engine, recordings):
    """Neighbours with words and without, of other languages and lengths, move no word."""
    options = DecodingOptions(word_timestamps=True)
    for each in (engine, ctranslate2_engine):
        windows = [replace(window, options=options, full_context=i % 2 == 0) for i, window in enumerate(recordings)]
        for window, result in zip(windows, each.transcribe([*windows, *recordings]), strict=False):
            (alone,) = each.transcribe([window])
            assert [(w.word, w.start, w.end) for w in result.words] == [(w.word, w.start, w.end) for w in alone.words]


def test_words_are_of_what_was_said_with_timestamps_too(timed, recordings):
    """Timestamps between the tokens are no words, and change no time of one."""
    options = DecodingOptions(without_timestamps=False, word_timestamps=True)
    for each in timed:
        for result in each.transcribe([replace(window, options=options) for window in recordings]):
            said = tuple(token for token in result.tokens if token < each.tokenizer.eot)
            assert tuple(token for word in result.words for token in word.tokens) == said
            assert "".join(word.word for word in result.words).strip() == result.text


def test_words_share_the_encoders_output(engine, recordings, monkeypatch):
    """The audio is encoded once, and without words nothing is aligned."""
    calls = []
    encode_one = engine._encode
    monkeypatch.setattr(engine, "_encode", lambda *given: calls.append("encode") or encode_one(*given))
    monkeypatch.setattr("speech.engine.torch_engine.align", lambda *_: pytest.fail("nobody asked"))
    (result,) = engine.transcribe(recordings[:1])
    assert result.words is None
    monkeypatch.undo()
    monkeypatch.setattr(engine, "_encode", lambda *given: calls.append("encode") or encode_one(*given))
    (result,) = engine.transcribe([replace(recordings[0], options=DecodingOptions(word_timestamps=True))])
    assert result.words
    assert calls == ["encode", "encode"]


def test_words_that_cannot_be_aligned_fail_their_window(engine, ctranslate2_engine, recordings, monkeypatch):
    """Whoever asked for times gets no invented ones: an error, and the neighbours their answers."""

    def broken(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("speech.engine.torch_engine.align", broken)
    monkeypatch.setattr(ctranslate2_engine, "_times", broken)
    windows = [recordings[0], replace(recordings[0], options=DecodingOptions(word_timestamps=True))]
    for each in (engine, ctranslate2_engine):
        plain, failed = each.transcribe(windows)
        assert plain.text
        assert isinstance(failed, EngineError)
        assert "out of memory" in str(failed)


def test_sampling_is_the_same_again(engine, recordings):
    """The audio decides what is drawn: alone, in company, twice; another temperature draws otherwise."""
    windows = [replace(window, options=DecodingOptions(temperature=0.8)) for window in recordings]
    greedy = [result.tokens for result in engine.transcribe(recordings)]
    first = engine.transcribe([*windows, *recordings])
    assert [result.tokens for result in first[len(windows) :]] == greedy
    assert [result.temperature for result in first] == [0.8] * len(windows) + [0.0] * len(windows)
    for window, result, best in zip(windows, first, greedy, strict=False):
        (alone,) = engine.transcribe([window])
        assert alone.tokens == result.tokens != best
    hotter = engine.transcribe([replace(window, options=DecodingOptions(temperature=1.0)) for window in recordings])
    assert [r.tokens for r in hotter] != [r.tokens for r in first[: len(windows)]]


def test_what_is_sampled_is_scored_at_temperature_one(engine, ctranslate2_engine, recordings):
    """Its log-probability is the model's, in both engines: comparable with a greedy answer's, and seldom above it."""
    for each in (engine, ctranslate2_engine):
        hot = DecodingOptions(temperature=1.0, token_logprobs=True, beam_size=5)
        sampled = each.transcribe([replace(window, options=hot) for window in recordings])
        greedy = each.transcribe(recordings)
        means = [sum(result.avg_logprob for result in results) for results in (sampled, greedy)]
        assert means[0] < means[1]
        for result in sampled:
            assert result.temperature == 1.0
            assert len(result.token_logprobs) == len(result.tokens)
            ended = result.avg_logprob * (len(result.tokens) + 1) - math.fsum(result.token_logprobs)
            assert ended < 1e-3
            assert result.finish_reason == "stop" or ended == pytest.approx(0, abs=1e-3)


def test_next_to_no_temperature_is_greedy(engine, ctranslate2_engine, recordings):
    """The colder, the surer: the limit is the most probable token, suppressed ones never."""
    for each in (engine, ctranslate2_engine):
        cold = each.transcribe([replace(w, options=DecodingOptions(temperature=1e-4)) for w in recordings])
        assert [result.tokens for result in cold] == [result.tokens for result in each.transcribe(recordings)]


def test_the_language_is_one_of_those_allowed(engine, ctranslate2_engine, recordings):
    """The most probable of them; probabilities are among all, of all that were to choose from, and only if detected."""
    window = replace(recordings[1], language=None)
    for each in (engine, ctranslate2_engine):
        (free,) = each.transcribe([window])
        ranked = list(free.language_probabilities.items())
        assert set(free.language_probabilities) == {"en", "it", "ru"}
        assert ranked == sorted(ranked, key=lambda item: -item[1])
        assert math.fsum(free.language_probabilities.values()) == pytest.approx(1, abs=1e-4)
        assert (free.language, free.language_probability) == ranked[0]
        others = tuple(code for code, _ in reversed(ranked[1:]))
        (bound,) = each.transcribe([replace(window, languages=others)])
        assert (bound.language, bound.language_probability) == pytest.approx(ranked[1])
        assert list(bound.language_probabilities) == [code for code, _ in ranked[1:]]
        (told,) = each.transcribe([replace(window, language="ru", languages=("it",))])
        assert (told.language, told.language_probability, told.language_probabilities) == ("ru", 1.0, None)
        (unknown,) = each.transcribe([replace(window, languages=("it", "de"))])
        assert isinstance(unknown, EngineError)
        assert "de" in str(unknown)


def test_it_says_whether_the_end_came(engine, chirp):
    """A text cut short is told from a whole one."""
    (whole,) = engine.transcribe([Window(chirp(1.0), "it")])
    assert (len(whole.tokens), whole.finish_reason) == (FEW, "length")
    model = copy.deepcopy(engine._model)
    token = next(token for token in whole.tokens if token != whole.tokens[0])
    with torch.no_grad():  # the end takes its place
        weight, end = model.proj_out.weight, engine.tokenizer.eot
        weight[[token, end]] = weight[[end, token]]
    (ended,) = TorchEngine(model, engine.tokenizer, ELASTIC).transcribe([Window(chirp(1.0), "it")])
    assert ended.finish_reason == "stop"
    assert ended.tokens == whole.tokens[: whole.tokens.index(token)]


def test_a_text_ends_where_the_decoders_positions_end(engine, chirp, monkeypatch):
    """After the longest previous text, there is room for 221 tokens and not for 224."""
    monkeypatch.setattr(Window, "max_new_tokens", 224)
    (result,) = engine.transcribe([Window(chirp(1.0), "it", prompt=tuple(range(223)))])
    assert (len(result.tokens), result.finish_reason) == (221, "length")


def test_an_impossible_prompt_fails_alone(engine, chirp):
    """A token that the model does not have is found before a GPU stumbles over it."""
    first, broken = engine.transcribe([Window(chirp(1), "it"), Window(chirp(1), "it", prompt=(5, 10**6))])
    assert first.tokens
    assert isinstance(broken, EngineError)
    assert "prompt" in str(broken)


def test_a_window_can_have_the_full_context(engine, chirp):
    """Whoever pays for 30 s has what a model without an elastic context finds."""
    window = Window(chirp(1.0), "it", full_context=True)
    full = TorchEngine(engine._model, engine.tokenizer, ElasticContext())
    (ours,), (expected,) = engine.transcribe([window]), full.transcribe([Window(chirp(1.0), "it")])
    assert ours.positions == expected.positions == MAX_POSITIONS
    assert ours.tokens == expected.tokens


def test_cancelled_windows_leave_their_batch(engine, recordings):
    """Their answer says so, and the others' is what it was."""
    expected = engine.transcribe(recordings)
    asked = [0] * len(recordings)

    def is_cancelled(i):
        asked[i] += 1
        return i in {1, 5} and asked[i] > 3

    results = engine.transcribe(recordings, is_cancelled)
    assert [i for i, result in enumerate(results) if isinstance(result, CancelledError)] == [1, 5]
    assert all(asked[i] == 4 for i in (1, 5))  # before, and after three tokens
    for one, other in zip(results, expected, strict=True):
        assert isinstance(one, CancelledError) or one.tokens == other.tokens


def test_calls_wait_for_one_another(engine, recordings, monkeypatch):
    """Several threads have the answers of one, and never decode at the same time: they would share its memory."""
    expected = [result.tokens for result in engine.transcribe(recordings)]
    decode_one, inside, most = engine._decode, [], []

    def watched(*batch):
        inside.append(batch)
        time.sleep(0.01)
        most.append(len(inside))
        answers = decode_one(*batch)
        inside.remove(batch)
        return answers

    monkeypatch.setattr(engine, "_decode", watched)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(engine.transcribe, [[window] for window in recordings]))
    assert [result.tokens for (result,) in found] == expected
    assert engine.concurrency == max(most) == 1


def test_a_window_is_ready_as_it_is(engine, chirp):
    """The device makes the features; batches are small on a CPU."""
    window = Window(chirp(1), "it")
    assert engine.prepare(window) is window
    assert engine.batch_size(96) == engine.batch_size(MAX_POSITIONS) == 8


def test_read_only_audio_is_read(engine, chirp):
    """Samples that belong to someone else are left alone."""
    audio = chirp(BUCKETS[0] * 0.02)  # a whole context: padding would copy it
    audio.flags.writeable = False
    (result,) = engine.transcribe([Window(audio, "it")])
    assert result.tokens


def test_there_is_no_gpu_here(tiny):
    """Asking for one that is not there is said at once."""
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(RuntimeError, match="cuda"):
        TorchEngine.load(tiny.checkpoint, ELASTIC)


def test_a_results_tokens_are_text(engine, tokenizer, chirp, monkeypatch):
    """A special token that no config suppresses is left out of the tokens, as it is of the text."""
    model = copy.deepcopy(engine._model)
    model.generation_config.suppress_tokens = []
    with torch.no_grad():
        model.proj_out.weight[tokenizer.languages["ru"], 0] = 6.0  # now and then the most probable
    decoded = []
    monkeypatch.setattr(
        "speech.engine.torch_engine.decode",
        lambda *given, **options: decoded.extend(decode(*given, **options)) or decoded[-1:],
    )
    (result,) = TorchEngine(model, tokenizer, ELASTIC).transcribe([Window(chirp(1), "it")])
    (hypothesis,) = decoded
    text = tuple(token for token in hypothesis.tokens if token < tokenizer.eot)
    assert 0 < len(text) < len(hypothesis.tokens)
    assert result.tokens == text
    assert result.text == tokenizer.decode(text).strip()


def test_ctranslate2_searches_with_beams(ctranslate2_engine, chirp):
    """The CPU engine takes more than one beam."""
    (result,) = ctranslate2_engine.transcribe([Window(chirp(1), "it", options=DecodingOptions(beam_size=3))])
    assert not isinstance(result, EngineError)
    assert 0 < len(result.tokens) <= FEW


def test_int8_is_loaded_from_the_same_export(tiny, chirp):
    """CTranslate2 quantises on loading; the export needs no twin."""
    quantised = CTranslate2Engine.load(tiny.export, ELASTIC, Tuning(workers=1, threads=1))
    assert quantised.description.startswith("ctranslate2 int8")
    (result,) = quantised.transcribe([Window(chirp(1), "it")])
    assert not isinstance(result, EngineError)


def test_it_says_what_runs_where(engine, ctranslate2_engine):
    """Humans read precision and device."""
    assert engine.description == "torch float32 on cpu"
    assert ctranslate2_engine.description == "ctranslate2 float32 on cpu"
