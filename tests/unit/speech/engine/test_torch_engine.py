"""The promises of the GPU engine, kept on a CPU: the reference's tokens, and CTranslate2's."""

import copy

import numpy as np
import pytest
import torch
from transformers import WhisperForConditionalGeneration

from speech.context import BUCKETS, ElasticContext
from speech.encoder import encode
from speech.engine import DecodingOptions, EngineError, Window
from speech.engine.ctranslate2_engine import CTranslate2Engine
from speech.engine.torch_engine import TorchEngine, greedy

ELASTIC = ElasticContext(elastic=True, margin=0)
FEW = 16  # tokens, enough to see a difference


@pytest.fixture(autouse=True)
def few_tokens(monkeypatch):
    """Let both engines stop early: a random model seldom ends by itself."""
    for engine in ("torch_engine", "ctranslate2_engine"):
        monkeypatch.setattr(f"speech.engine.{engine}.max_new_tokens", lambda _: FEW)


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
    return CTranslate2Engine.load(tiny.export, ELASTIC, compute_type="float32", threads=1)


@pytest.fixture(scope="module")
def encoded(reference):
    """Return encoder outputs of six different noises at 200 positions."""
    generator = np.random.default_rng(1)
    levels = np.linspace(0.3, 3, 6)[:, None, None]
    features = torch.from_numpy((levels * generator.standard_normal((6, 80, 400))).astype(np.float32))
    with torch.inference_mode():
        return encode(reference.model.encoder, features)


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


@torch.inference_mode()
def without_cache(model, encoded, prompt, max_tokens, tokenizer):
    """Decode one row by the book: the whole sequence again for every token."""
    suppressed = [*model.generation_config.suppress_tokens, *range(tokenizer.timestamp_begin, model.config.vocab_size)]
    tokens, logprob = [], 0.0
    for step in range(max_tokens):
        hidden = model.model.decoder(
            input_ids=torch.tensor([[*prompt, *tokens]]), encoder_hidden_states=encoded, use_cache=False
        ).last_hidden_state
        logits = model.proj_out(hidden[0, -1])
        logits[suppressed] = float("-inf")
        if step == 0:
            logits[model.generation_config.begin_suppress_tokens] = float("-inf")
        token = int(logits.argmax())
        logprob += float(logits.log_softmax(-1)[token])
        if token == tokenizer.eot:
            break
        tokens.append(token)
    return tuple(tokens), logprob / (len(tokens) + 1)


def test_greedy_equals_decoding_by_the_book(reference, encoded, tokenizer):
    """Cache, batch and masks change neither a token nor its probability."""
    prompts = [tokenizer.prompt(code) for code in ("it", "en", "ru", "it", "en", "ru")]
    found = greedy(reference, encoded, prompts, FEW, tokenizer)
    assert len({hypothesis.tokens for hypothesis in found}) > 1  # the audio matters
    for row, hypothesis in enumerate(found):
        tokens, logprob = without_cache(reference, encoded[row : row + 1], prompts[row], FEW, tokenizer)
        assert hypothesis.tokens == tokens
        assert hypothesis.avg_logprob == pytest.approx(logprob, abs=1e-4)


def test_greedy_equals_transformers_generate(reference, chirp, tokenizer):
    """At 30 s the tokens are those of transformers' own generate."""
    from speech.features import log_mel_spectrogram, pad_or_trim

    features = torch.from_numpy(np.stack([log_mel_spectrogram(pad_or_trim(chirp(s))) for s in (1, 7)]))
    with torch.inference_mode():
        found = greedy(
            reference, encode(reference.model.encoder, features), [tokenizer.prompt("it")] * 2, FEW, tokenizer
        )
        expected = reference.generate(
            features, language="it", task="transcribe", max_new_tokens=FEW, num_beams=1, do_sample=False
        ).tolist()
    for hypothesis, row in zip(found, expected, strict=True):
        text = [token for token in row if token < tokenizer.eot]
        assert list(hypothesis.tokens) == text


def test_suppressed_tokens_never_appear(reference, encoded, tokenizer, monkeypatch):
    """What the generation config forbids is not generated, at the beginning or anywhere."""
    prompts = [tokenizer.prompt("it")] * 6
    free = greedy(reference, encoded, prompts, FEW, tokenizer)
    first, later = free[0].tokens[0], free[0].tokens[-1]
    monkeypatch.setattr(reference.generation_config, "suppress_tokens", [later])
    monkeypatch.setattr(reference.generation_config, "begin_suppress_tokens", [first])
    for hypothesis in greedy(reference, encoded, prompts, FEW, tokenizer):
        assert later not in hypothesis.tokens
        assert hypothesis.tokens[0] != first


def test_no_timestamps_follow_their_no(reference, encoded, tokenizer):
    """Timestamps are masked although no config names them."""
    model = copy.deepcopy(reference)
    with torch.no_grad():
        model.proj_out.weight[tokenizer.timestamp_begin :, 0] = 30.0  # nothing else is as probable
    for hypothesis in greedy(model, encoded, [tokenizer.prompt("it")] * 6, FEW, tokenizer):
        assert max(hypothesis.tokens) < tokenizer.timestamp_begin


@pytest.fixture(scope="module")
def ending(reference, encoded, tokenizer):
    """Return a model that ends at different steps in different rows, and what it says before."""
    said = [h.tokens for h in greedy(reference, encoded, [tokenizer.prompt("it")] * 6, FEW, tokenizer)]
    steps = {
        token: [tokens.index(token) if token in tokens else FEW for tokens in said]
        for token in {token for tokens in said for token in tokens} - {tokens[0] for tokens in said}
    }
    token = max(sorted(steps), key=lambda t: len(set(steps[t])))
    assert len(set(steps[token])) > 1
    model = copy.deepcopy(reference)
    with torch.no_grad():  # the end takes this token's place
        weight = model.proj_out.weight
        weight[[token, tokenizer.eot]] = weight[[tokenizer.eot, token]]
    return model, [tokens[:step] for tokens, step in zip(said, steps[token], strict=True)]


def test_it_stops_at_the_end_token(ending, encoded, tokenizer):
    """A row's tokens are those before its end, whenever the others end."""
    model, expected = ending
    found = greedy(model, encoded, [tokenizer.prompt("it")] * 6, FEW, tokenizer)
    assert [hypothesis.tokens for hypothesis in found] == expected
    assert tokenizer.eot not in {token for hypothesis in found for token in hypothesis.tokens}


def test_finished_rows_do_not_change_the_others(ending, encoded, tokenizer):
    """Six in a batch are six alone: tokens, probabilities and silence."""
    model, _ = ending
    prompts = [tokenizer.prompt("it")] * 6
    together = greedy(model, encoded, prompts, FEW, tokenizer)
    assert len({len(hypothesis.tokens) for hypothesis in together}) > 1
    for row, hypothesis in enumerate(together):
        (alone,) = greedy(model, encoded[row : row + 1], prompts[:1], FEW, tokenizer)
        assert alone.tokens == hypothesis.tokens
        assert alone.avg_logprob == pytest.approx(hypothesis.avg_logprob, abs=1e-4)
        assert alone.no_speech_prob == pytest.approx(hypothesis.no_speech_prob, rel=1e-3)


def test_the_end_counts_in_the_probability(ending, encoded, tokenizer):
    """The mean is over the tokens and the end token, as in openai/whisper."""
    model, expected = ending
    row = min(range(6), key=lambda i: len(expected[i]))
    (found,) = greedy(model, encoded[row : row + 1], [tokenizer.prompt("it")], FEW, tokenizer)
    assert len(found.tokens) < FEW
    _, mean = without_cache(model, encoded[row : row + 1], tokenizer.prompt("it"), FEW, tokenizer)
    assert found.avg_logprob == pytest.approx(mean, abs=1e-4)


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

    features = torch.from_numpy(log_mel_spectrogram(pad_or_trim(audio, 64 * 320)))[None]
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


@pytest.mark.parametrize("options", [DecodingOptions(beam_size=5), DecodingOptions(without_timestamps=False)])
def test_what_it_cannot_do_it_says(engine, options, chirp):
    """Beams and timestamps are refused, not ignored."""
    with pytest.raises(NotImplementedError, match="greedily"):
        engine.transcribe([Window(chirp(1), "it")], options)


def test_a_results_tokens_are_text(engine, tokenizer, chirp, monkeypatch):
    """A special token that no config suppresses is left out of the tokens, as it is of the text."""
    model = copy.deepcopy(engine._model)
    model.generation_config.suppress_tokens = []
    with torch.no_grad():
        model.proj_out.weight[tokenizer.languages["ru"], 0] = 6.0  # now and then the most probable
    decoded = []
    monkeypatch.setattr(
        "speech.engine.torch_engine.greedy", lambda *given: decoded.extend(greedy(*given)) or decoded[-1:]
    )
    (result,) = TorchEngine(model, tokenizer, ELASTIC).transcribe([Window(chirp(1), "it")])
    (hypothesis,) = decoded
    text = tuple(token for token in hypothesis.tokens if token < tokenizer.eot)
    assert 0 < len(text) < len(hypothesis.tokens)
    assert result.tokens == text
    assert result.text == tokenizer.decode(text).strip()


def test_ctranslate2_searches_with_beams(ctranslate2_engine, chirp):
    """The CPU engine takes more than one beam."""
    (result,) = ctranslate2_engine.transcribe([Window(chirp(1), "it")], DecodingOptions(beam_size=3))
    assert not isinstance(result, EngineError)
    assert 0 < len(result.tokens) <= FEW


def test_int8_is_loaded_from_the_same_export(tiny, chirp):
    """CTranslate2 quantises on loading; the export needs no twin."""
    quantised = CTranslate2Engine.load(tiny.export, ELASTIC, threads=1)
    assert quantised.description.startswith("ctranslate2 int8")
    (result,) = quantised.transcribe([Window(chirp(1), "it")])
    assert not isinstance(result, EngineError)


def test_it_says_what_runs_where(engine, ctranslate2_engine):
    """Humans read precision and device."""
    assert engine.description == "torch float32 on cpu"
    assert ctranslate2_engine.description == "ctranslate2 float32 on cpu"
