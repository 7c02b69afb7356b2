"""The promises of the search on the GPU engine's side: openai/whisper's, written here by the book, without a cache."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from transformers import WhisperForConditionalGeneration

from speech.encoder import encode
from speech.engine.torch_decoder import Batch
from speech.engine.torch_decoding import LogitFilters, Request, _Draw, _search_with_beams, decode
from speech.engine.torch_engine import greedy

FEW = 16  # tokens, enough to see a difference
ROWS = 6


@pytest.fixture(scope="module")
def reference(tiny):
    """Return the tiny model as transformers loads it."""
    return WhisperForConditionalGeneration.from_pretrained(tiny.checkpoint).eval()


@pytest.fixture(scope="module")
def encoded(reference):
    """Return encoder outputs of six different noises at 200 positions."""
    generator = np.random.default_rng(1)
    levels = np.linspace(0.3, 3, ROWS)[:, None, None]
    features = torch.from_numpy((levels * generator.standard_normal((ROWS, 80, 400))).astype(np.float32))
    with torch.inference_mode():
        return encode(reference.model.encoder, features)


@pytest.fixture(scope="module")
def ending(reference, encoded, tokenizer):
    """Return a model that ends at different steps in different rows, and what it says before."""
    said = [h.tokens for h in greedy(reference, encoded, [tokenizer.prompt("it")] * ROWS, FEW, tokenizer)]
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


@pytest.fixture(scope="module")
def timed(ending, tokenizer):
    """Return a model that likes timestamps now and then."""
    model = copy.deepcopy(ending[0])
    with torch.no_grad():
        model.proj_out.weight[tokenizer.timestamp_begin :, 0] = -3.0
    return model


@pytest.fixture(autouse=True)
def inference():
    """Compute no gradients."""
    with torch.inference_mode():
        yield


def openai_rules(logits, tokens, tokenizer):
    """Apply openai/whisper's ApplyTimestampRules to one row's logits, sentence by sentence."""
    begin = tokenizer.timestamp_begin
    logits[tokenizer.no_timestamps] = -math.inf
    last_was_timestamp = len(tokens) >= 1 and tokens[-1] >= begin
    penultimate_was_timestamp = len(tokens) < 2 or tokens[-2] >= begin
    if last_was_timestamp and penultimate_was_timestamp:
        logits[begin:] = -math.inf
    elif last_was_timestamp:
        logits[: tokenizer.eot] = -math.inf
    if timestamps := [token for token in tokens if token >= begin]:
        may_repeat = last_was_timestamp and not penultimate_was_timestamp
        logits[begin : timestamps[-1] + (0 if may_repeat else 1)] = -math.inf
    if not tokens:
        logits[:begin] = -math.inf
        logits[begin + 51 :] = -math.inf  # 1.0 s
    logprobs = logits.log_softmax(-1)
    if logprobs[begin:].logsumexp(-1) > logprobs[:begin].max():
        logits[:begin] = -math.inf


def next_logprobs(model, encoded, request, tokens, tokenizer):
    """Return the log-probabilities of one row's next token: the whole sequence read again, then what is suppressed."""
    hidden = model.model.decoder(
        input_ids=torch.tensor([[*request.prompt, *tokens]]), encoder_hidden_states=encoded, use_cache=False
    ).last_hidden_state
    logits = model.proj_out(hidden[0, -1])
    logits[model.generation_config.suppress_tokens] = -math.inf
    if not tokens:
        logits[model.generation_config.begin_suppress_tokens] = -math.inf
    if request.timestamps:
        openai_rules(logits, tokens, tokenizer)
    else:
        logits[tokenizer.timestamp_begin :] = -math.inf
    return logits.log_softmax(-1)


def greedy_by_the_book(model, encoded, request, tokenizer):
    """Decode one row: tokens, their log-probabilities, and the mean with the end token's."""
    tokens, logprobs = [], []
    while len(tokens) < request.max_tokens:
        scores = next_logprobs(model, encoded, request, tokens, tokenizer)
        logprobs.append(float(scores.max()))
        if int(scores.argmax()) == tokenizer.eot:
            break
        tokens.append(int(scores.argmax()))
    return tuple(tokens), logprobs, sum(logprobs) / (len(tokens) + 1)


def beams_by_the_book(model, encoded, request, tokenizer, beam_size):
    """Decode one row as openai/whisper's BeamSearchDecoder and MaximumLikelihoodRanker do."""
    sequences, finished = {(): 0.0}, {}
    for _ in range(request.max_tokens):
        scores = {}
        for tokens, total in sequences.items():
            best = next_logprobs(model, encoded, request, list(tokens), tokenizer).topk(beam_size + 1)
            for logprob, token in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                scores[*tokens, token] = total + logprob
        sequences, newly_finished = {}, {}
        for tokens in sorted(scores, key=scores.get, reverse=True):
            (newly_finished if tokens[-1] == tokenizer.eot else sequences)[tokens] = scores[tokens]
            if len(sequences) == beam_size:
                break
        for tokens in sorted(newly_finished, key=newly_finished.get, reverse=True):
            if len(finished) < beam_size:
                finished[tokens] = newly_finished[tokens]
        if len(finished) == beam_size:
            break
    for tokens in sorted(sequences, key=sequences.get, reverse=True):
        if len(finished) < beam_size:
            finished[*tokens, tokenizer.eot] = sequences[tokens]
    best = max(finished, key=lambda tokens: finished[tokens] / max(len(tokens) - 1, 1))
    return best[:-1], finished[best] / len(best)


def requests_of(tokenizer, *, max_tokens=FEW, timestamps=False):
    """Return six requests of three languages."""
    prompts = [tokenizer.prompt(code, timestamps=timestamps) for code in ("it", "en", "ru", "it", "en", "ru")]
    return [Request(prompt, max_tokens, timestamps) for prompt in prompts]


def mixed(tokenizer):
    """Return six requests that differ in everything but their beams."""
    said = tuple(range(40, 60))
    return [
        Request(tokenizer.prompt("it"), FEW),
        Request([tokenizer.sot_prev, *said[:3], *tokenizer.prompt("en", "translate")], 5),
        Request(tokenizer.prompt("ru", timestamps=True), FEW, timestamps=True),
        Request([tokenizer.sot_prev, *said, *tokenizer.prompt("en", timestamps=True)], 9, timestamps=True),
        Request([tokenizer.sot_prev, *said * 8, *tokenizer.prompt("it")], FEW),
        Request(tokenizer.prompt("en"), 1),
    ]


def test_greedy_equals_decoding_by_the_book(reference, encoded, tokenizer):
    """Cache, batch and masks change neither a token nor its probability."""
    requests = requests_of(tokenizer)
    found = greedy(reference, encoded, [request.prompt for request in requests], FEW, tokenizer)
    assert len({hypothesis.tokens for hypothesis in found}) > 1  # the audio matters
    for row, hypothesis in enumerate(found):
        tokens, logprobs, mean = greedy_by_the_book(reference, encoded[row : row + 1], requests[row], tokenizer)
        assert hypothesis.tokens == tokens
        assert hypothesis.logprobs == pytest.approx(logprobs, abs=1e-4)
        assert hypothesis.avg_logprob == pytest.approx(mean, abs=1e-4)


def test_greedy_equals_transformers_generate(reference, chirp, tokenizer):
    """At 30 s the tokens are those of transformers' own generate, which must be kept from writing timestamps, too."""
    from speech.features import log_mel_spectrogram, pad_or_trim

    features = torch.from_numpy(np.stack([log_mel_spectrogram(pad_or_trim(chirp(s))) for s in (1, 7)]))
    with torch.inference_mode():
        found = greedy(
            reference, encode(reference.model.encoder, features), [tokenizer.prompt("it")] * 2, FEW, tokenizer
        )
        timestamps = range(tokenizer.timestamp_begin, reference.config.vocab_size)
        expected = reference.generate(
            features,
            language="it",
            task="transcribe",
            max_new_tokens=FEW,
            num_beams=1,
            do_sample=False,
            suppress_tokens=[*reference.generation_config.suppress_tokens, *timestamps],
        ).tolist()
    for hypothesis, row in zip(found, expected, strict=True):
        text = [token for token in row if token < tokenizer.eot]
        assert list(hypothesis.tokens) == text


def test_suppressed_tokens_never_appear(reference, encoded, tokenizer, monkeypatch):
    """What the generation config forbids is not generated, at the beginning or anywhere."""
    prompts = [tokenizer.prompt("it")] * ROWS
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
    for hypothesis in greedy(model, encoded, [tokenizer.prompt("it")] * ROWS, FEW, tokenizer):
        assert max(hypothesis.tokens) < tokenizer.timestamp_begin


def test_it_stops_at_the_end_token(ending, encoded, tokenizer):
    """A row's tokens are those before its end, whenever the others end."""
    model, expected = ending
    found = greedy(model, encoded, [tokenizer.prompt("it")] * ROWS, FEW, tokenizer)
    assert [hypothesis.tokens for hypothesis in found] == expected
    assert tokenizer.eot not in {token for hypothesis in found for token in hypothesis.tokens}


def test_finished_rows_do_not_change_the_others(ending, encoded, tokenizer):
    """Six in a batch are six alone: tokens, probabilities and silence."""
    model, _ = ending
    prompts = [tokenizer.prompt("it")] * ROWS
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
    row = min(range(ROWS), key=lambda i: len(expected[i]))
    (found,) = greedy(model, encoded[row : row + 1], [tokenizer.prompt("it")], FEW, tokenizer)
    assert len(found.tokens) < FEW
    assert len(found.logprobs) == len(found.tokens) + 1
    request = Request(tokenizer.prompt("it"), FEW)
    _, _, mean = greedy_by_the_book(model, encoded[row : row + 1], request, tokenizer)
    assert found.avg_logprob == pytest.approx(mean, abs=1e-4)


def test_training_evaluates_under_autocast(reference, encoded, tokenizer):
    """Weights in float32 and projections in bfloat16 give much the same text."""
    prompts = [tokenizer.prompt("it")] * ROWS
    expected = greedy(reference, encoded, prompts, FEW, tokenizer)
    with torch.autocast("cpu", torch.bfloat16):
        found = greedy(reference, encoded, prompts, FEW, tokenizer)
    assert [h.tokens[0] for h in found] == [h.tokens[0] for h in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.logprobs[0] == pytest.approx(other.logprobs[0], abs=0.1)


@pytest.mark.parametrize("steps_a_look", [1, 3, 4, 50])
def test_the_host_may_look_seldom(timed, encoded, tokenizer, monkeypatch, steps_a_look):
    """What a GPU generates past a row's end, before the host looks, is left out."""
    requests = mixed(tokenizer)
    expected = decode(timed, Batch(timed, encoded), requests, tokenizer)
    monkeypatch.setattr("speech.engine.torch_decoding._steps_a_look", lambda _: steps_a_look)
    found = decode(timed, Batch(timed, encoded), requests, tokenizer)
    assert [h.tokens for h in found] == [h.tokens for h in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


@pytest.mark.parametrize("beam_size", [1, 3])
def test_rows_of_every_kind_share_a_batch(timed, encoded, tokenizer, beam_size):
    """Languages, tasks, previous text, timestamps and limits differ by row, and a row is what it is alone."""
    requests = mixed(tokenizer)
    together = decode(timed, Batch(timed, encoded), requests, tokenizer, beam_size=beam_size)
    for row, (hypothesis, request) in enumerate(zip(together, requests, strict=True)):
        one = encoded[row : row + 1]
        (alone,) = decode(timed, Batch(timed, one), [request], tokenizer, beam_size=beam_size)
        assert hypothesis.tokens == alone.tokens
        assert len(hypothesis.tokens) <= request.max_tokens
        assert hypothesis.logprobs == pytest.approx(alone.logprobs, abs=1e-4)
        assert hypothesis.no_speech_prob == pytest.approx(alone.no_speech_prob, rel=1e-3)
        if beam_size == 1:
            assert hypothesis.tokens == greedy_by_the_book(timed, one, request, tokenizer)[0]
        else:
            assert hypothesis.tokens == beams_by_the_book(timed, one, request, tokenizer, beam_size)[0]


def test_silence_is_read_at_the_start_token(reference, encoded, tokenizer):
    """The probability of no speech is that after the start, whatever was said before."""
    for request in mixed(tokenizer):
        (found,) = decode(reference, Batch(reference, encoded[:1]), [request], tokenizer)
        start = list(request.prompt).index(tokenizer.sot)
        with torch.inference_mode():
            hidden = reference.model.decoder(
                input_ids=torch.tensor([list(request.prompt)]), encoder_hidden_states=encoded[:1], use_cache=False
            ).last_hidden_state
            expected = reference.proj_out(hidden[0, start]).softmax(-1)[tokenizer.no_speech]
        assert found.no_speech_prob == pytest.approx(float(expected), rel=1e-3)


def test_timestamps_follow_openais_rules(timed, encoded, tokenizer):
    """With timestamps, the tokens are those that openai/whisper's rules leave."""
    requests = requests_of(tokenizer, max_tokens=40, timestamps=True)
    found = decode(timed, Batch(timed, encoded), requests, tokenizer)
    n_timestamps = [sum(token >= tokenizer.timestamp_begin for token in h.tokens) for h in found]
    assert max(n_timestamps) > 3  # more than the first segment's
    assert any(len(h.tokens) > n for h, n in zip(found, n_timestamps, strict=True))
    for row, hypothesis in enumerate(found):
        tokens, logprobs, _ = greedy_by_the_book(timed, encoded[row : row + 1], requests[row], tokenizer)
        assert hypothesis.tokens == tokens
        assert hypothesis.logprobs == pytest.approx(logprobs, abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_every_past_has_openais_rules(reference, tokenizer, seed):
    """Whatever has been said, in pairs or not, the allowed tokens are openai/whisper's."""
    generator = np.random.default_rng(seed)
    filters = LogitFilters(reference, tokenizer, torch.device("cpu"))
    n_rows, begin = 64, tokenizer.timestamp_begin
    states = filters.start([Request((), 1, timestamps=True)] * n_rows)
    pasts = [[] for _ in range(n_rows)]
    for step in range(8):
        logits = torch.from_numpy(generator.normal(0, 3, (n_rows, reference.config.vocab_size)).astype(np.float32))
        logits[:, begin:] -= 6 * torch.from_numpy(generator.random((n_rows, 1)).astype(np.float32))
        expected = logits.clone()
        expected[:, reference.generation_config.suppress_tokens] = -math.inf
        if step == 0:
            expected[:, reference.generation_config.begin_suppress_tokens] = -math.inf
        for row, past in enumerate(pasts):
            openai_rules(expected[row], past, tokenizer)
        found = filters.apply(logits, states, first=step == 0, timestamps=True)
        assert torch.equal(found, expected)
        ranges = ((0, 255), (begin, begin + 1501), (tokenizer.eot, tokenizer.eot + 1))
        tokens = [int(generator.integers(*ranges[i])) for i in generator.choice(3, n_rows, p=(0.45, 0.5, 0.05))]
        states = filters.advance(states, torch.tensor(tokens))
        pasts = [[*past, token] for past, token in zip(pasts, tokens, strict=True)]


@pytest.mark.parametrize("beam_size", [2, 5])
@pytest.mark.parametrize("timestamps", [False, True])
def test_beams_equal_the_book(ending, timed, encoded, tokenizer, beam_size, timestamps):
    """The search with a cache finds what openai/whisper's finds without one."""
    model = timed if timestamps else ending[0]
    requests = requests_of(tokenizer, max_tokens=10, timestamps=timestamps)
    found = decode(model, Batch(model, encoded), requests, tokenizer, beam_size=beam_size)
    for row, hypothesis in enumerate(found):
        tokens, mean = beams_by_the_book(model, encoded[row : row + 1], requests[row], tokenizer, beam_size)
        assert hypothesis.tokens == tokens
        assert hypothesis.avg_logprob == pytest.approx(mean, abs=1e-4)


def test_enough_beams_find_the_best_of_all(ending, encoded, tokenizer):
    """With a beam for every token, the answer is the most probable of all texts, a token, that are so short."""
    model, request = ending[0], Request(tokenizer.prompt("it"), 2)
    (found,) = decode(model, Batch(model, encoded[:1]), [request], tokenizer, beam_size=300)
    scores = {}
    firsts = next_logprobs(model, encoded[:1], request, [], tokenizer)
    for first in range(tokenizer.eot):
        seconds = next_logprobs(model, encoded[:1], request, [first], tokenizer)
        scores[first,] = float(firsts[first] + seconds[tokenizer.eot])
        scores.update({(first, second): float(firsts[first] + seconds[second]) / 2 for second in range(tokenizer.eot)})
    assert found.tokens == max(scores, key=scores.get)


def test_one_beam_is_greedy(ending, encoded, tokenizer, monkeypatch):
    """The search with beams, given one, takes the most probable token each time."""
    requests = requests_of(tokenizer)
    expected = decode(ending[0], Batch(ending[0], encoded), requests, tokenizer)
    monkeypatch.setattr("speech.engine.torch_decoding._search_greedily", _search_with_beams)
    found = decode(ending[0], Batch(ending[0], encoded), requests, tokenizer)
    assert [h.tokens for h in found] == [h.tokens for h in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_more_beams_find_more_probable_texts(reference, tokenizer):
    """Five beams are worse than none on few inputs."""
    generator = np.random.default_rng(6)
    features = torch.from_numpy(generator.normal(0, 1, (24, 80, 128)).astype(np.float32))
    with torch.inference_mode():
        encoded = encode(reference.model.encoder, features)
    requests = [Request(tokenizer.prompt("it"), FEW)] * 24
    one, five = (
        [h.avg_logprob for h in decode(reference, Batch(reference, encoded), requests, tokenizer, beam_size=beam_size)]
        for beam_size in (1, 5)
    )
    assert sum(b >= a - 1e-4 for a, b in zip(one, five, strict=True)) >= 22
    assert sum(b > a + 1e-3 for a, b in zip(one, five, strict=True)) >= 6


@pytest.mark.parametrize("beam_size", [1, 3])
def test_cancelled_rows_leave_the_batch(reference, encoded, tokenizer, beam_size):
    """They have no answer, and the others have the one that they have in peace."""
    requests = requests_of(tokenizer)
    expected = decode(reference, Batch(reference, encoded), requests, tokenizer, beam_size=beam_size)
    asked = itertools.count()
    found = decode(
        reference,
        Batch(reference, encoded),
        requests,
        tokenizer,
        beam_size=beam_size,
        is_cancelled=lambda row: next(asked) > 20 and row in {0, 4},
    )
    assert [row for row, hypothesis in enumerate(found) if hypothesis is None] == [0, 4]
    for one, other in zip(found, expected, strict=True):
        assert one is None or one.tokens == other.tokens


@pytest.mark.parametrize("beam_size", [1, 3])
def test_when_all_are_cancelled_it_stops(reference, encoded, tokenizer, monkeypatch, beam_size):
    """No step is taken for nobody."""
    steps = []
    step = Batch.step
    monkeypatch.setattr(Batch, "step", lambda batch, tokens: steps.append(batch.rows) or step(batch, tokens))
    asked = itertools.count()
    found = decode(
        reference,
        Batch(reference, encoded),
        requests_of(tokenizer),
        tokenizer,
        beam_size=beam_size,
        is_cancelled=lambda row: next(asked) >= 2 * ROWS or row >= 4,
    )
    assert found == [None] * ROWS
    assert 2 <= len(steps) <= 3
    assert max(steps) == 4


def test_tokens_are_drawn_as_often_as_they_are_probable():
    """At a temperature, frequencies are the softmax of the scaled logits; what cannot come never does."""
    logits = torch.tensor([2.0, 1.0, -torch.inf, 0.0])
    requests = [Request((), 1, temperature=2.0, seed=seed) for seed in range(4000)]
    drawn = _Draw(requests, 1, torch.device("cpu"))(logits.expand(4000, -1), 0)
    shares = torch.bincount(drawn, minlength=4) / 4000
    torch.testing.assert_close(shares, (logits / 2).softmax(-1), atol=0.03, rtol=0)
    assert shares[2] == 0


def test_a_draw_depends_on_its_own_seed_and_temperature(reference, encoded, tokenizer):
    """Rows that have none are greedy, rows that leave take nothing with them, and the same seed draws the same."""
    prompt = tokenizer.prompt("it")
    plain = [Request(prompt, FEW)] * ROWS
    drawn = [Request(prompt, FEW - row % 3, temperature=row % 2, seed=row) for row in range(ROWS)]
    greedily, found, again = (
        [h.tokens for h in decode(reference, Batch(reference, encoded), requests, tokenizer)]
        for requests in (plain, drawn, drawn)
    )
    assert found == again
    for row, tokens in enumerate(found):
        (alone,) = decode(reference, Batch(reference, encoded[row : row + 1]), drawn[row : row + 1], tokenizer)
        assert alone.tokens == tokens
        assert (tokens == greedily[row][: FEW - row % 3]) == (row % 2 == 0)


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53])
def test_the_ends_of_a_draw_are_tokens_that_may_come(uniform):
    """The least and the greatest number draw the first and the last token that has a probability."""
    draw = _Draw([Request((), 1, temperature=1.0)], 1, torch.device("cpu"))
    draw._uniform.fill_(uniform)
    logits = torch.full((1, 50_000), -torch.inf)
    logits[0, 100:49_000] = torch.randn(48_900, generator=torch.Generator().manual_seed(1))
    assert draw(logits, 0).tolist() == [100 if uniform == 0 else 48_999]
