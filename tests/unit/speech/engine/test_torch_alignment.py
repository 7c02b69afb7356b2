"""The promises of the alignment: transformers' own attention, and the cheapest of all ways through it."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from transformers import WhisperForConditionalGeneration

from speech.encoder import encode
from speech.engine.torch_alignment import _read, _sharpen, align, alignment_heads, cheapest_path


@pytest.fixture(scope="module")
def model(tiny):
    """Return the tiny model with attention that can be looked at."""
    return WhisperForConditionalGeneration.from_pretrained(tiny.checkpoint, attn_implementation="eager").eval()


@pytest.fixture(scope="module")
def encoded(model):
    """Return three encoder outputs of 48 positions."""
    features = torch.from_numpy(np.random.default_rng(3).normal(0, 1, (3, 80, 96)).astype(np.float32))
    with torch.inference_mode():
        return encode(model.model.encoder, features)


def cost(costs, path):
    """Add up what a path costs."""
    return sum(costs[i, j] for i, j in path)


def all_paths(n, m):
    """Yield all ways from the first to the last cell."""
    if (n, m) == (1, 1):
        yield [(0, 0)]
        return
    for i, j in ((n - 1, m), (n, m - 1), (n - 1, m - 1)):
        if i and j:
            yield from ([*path, (n - 1, m - 1)] for path in all_paths(i, j))


@given(st.integers(1, 4), st.integers(1, 5), st.data())
def test_the_path_is_the_cheapest(n, m, data):
    """Of all ways that go from corner to corner by single steps, none costs less."""
    costs = data.draw(arrays(np.float32, (n, m), elements=st.floats(-2, 2, width=32)))
    path = cheapest_path(costs)
    assert path in list(all_paths(n, m))
    assert cost(costs, path) == pytest.approx(min(cost(costs, other) for other in all_paths(n, m)), abs=1e-5)


def test_a_diagonal_is_followed():
    """Tokens that stand out one after the other are found there."""
    costs = np.ones((3, 9), np.float32)
    for token in range(3):
        costs[token, 3 * token : 3 * token + 3] = -1
    starts = {}
    for token, position in cheapest_path(costs):
        starts.setdefault(token, position)
    assert starts == {0: 0, 1: 3, 2: 6}


@pytest.mark.parametrize("shape", [(1, 1), (5, 1), (1, 5), (30, 4)])
def test_the_smallest_windows_have_a_path(shape):
    """More tokens than positions, or one of them only: every token is somewhere."""
    path = cheapest_path(np.zeros(shape, np.float32))
    assert path[0] == (0, 0)
    assert path[-1] == (shape[0] - 1, shape[1] - 1)
    assert {token for token, _ in path} == set(range(shape[0]))


def test_what_is_read_is_what_transformers_reads(model, encoded, tokenizer):
    """Hidden states, and the alignment heads' attention, are those of the model's own forward."""
    tokens = torch.tensor([[*tokenizer.prompt("it"), 40 + row, 50, 60, tokenizer.eot] for row in range(3)])
    with torch.inference_mode():
        hidden, scores = _read(model, tokens, encoded)
        expected = model.model.decoder(input_ids=tokens, encoder_hidden_states=encoded, output_attentions=True)
    torch.testing.assert_close(hidden, expected.last_hidden_state, atol=1e-4, rtol=1e-4)
    heads = [expected.cross_attentions[layer][:, head] for layer, head in alignment_heads(model)]
    torch.testing.assert_close(scores.softmax(-1), torch.stack(heads, dim=1), atol=1e-5, rtol=1e-3)


def test_the_named_heads_are_looked_at(model, monkeypatch):
    """Those of the generation config; without any, the upper half of the decoder's, as in CTranslate2's export."""
    assert alignment_heads(model) == [(1, 0), (1, 1)]
    monkeypatch.setattr(model.generation_config, "alignment_heads", [[1, 1], [0, 1]])
    assert alignment_heads(model) == [(0, 1), (1, 1)]
    monkeypatch.setattr(model.generation_config, "alignment_heads", None)
    assert alignment_heads(model) == [(1, 0), (1, 1)]


def test_a_row_is_aligned_alike_in_any_company(model, encoded, tokenizer):
    """Longer texts and audio beside it change nothing; padding is not looked at."""
    prompts = [tokenizer.prompt(language) for language in ("it", "ru", "en")]
    texts, positions = [(40, 41), (50, 51, 52, 53, 54, 55), (60,)], [20, 48, 9]
    together = align(model, encoded, tokenizer, prompts, texts, positions)
    for row, found in enumerate(together):
        (alone,) = align(
            model,
            encoded[row : row + 1],
            tokenizer,
            prompts[row : row + 1],
            texts[row : row + 1],
            positions[row : row + 1],
        )
        assert found.starts == alone.starts
        assert found.probabilities == pytest.approx(alone.probabilities, rel=1e-3)
        assert len(found.starts) == len(found.probabilities) + 1 == len(texts[row]) + 1
        assert found.starts[0] == 0
        assert found.starts[-1] <= 0.02 * (positions[row] - 1)
        assert all(early <= late for early, late in itertools.pairwise(found.starts))


def test_probabilities_are_among_text_tokens(model, encoded, tokenizer):
    """A token's share of all that could have been written, timestamps and special tokens apart."""
    prompt, text = tokenizer.prompt("it"), (40, 41, 42)
    (found,) = align(model, encoded[:1], tokenizer, [prompt], [text], [48])
    with torch.inference_mode():
        logits = model(encoder_outputs=(encoded[:1],), decoder_input_ids=torch.tensor([[*prompt, *text]])).logits[0]
    shares = logits[len(prompt) - 1 : -1, : tokenizer.eot].softmax(-1)
    assert found.probabilities == pytest.approx([float(shares[i, token]) for i, token in enumerate(text)], rel=1e-3)


@pytest.mark.parametrize("positions", [1, 2, 3, 4])
def test_a_window_too_short_for_the_filter_is_aligned(model, encoded, tokenizer, positions):
    """With next to no audio, tokens have times all the same, and none is not a number."""
    prompt = tokenizer.prompt("it")
    (found,) = align(model, encoded[:1], tokenizer, [prompt], [(40, 41, 42)], [positions])
    assert max(found.starts) <= 0.02 * (positions - 1)
    assert not _sharpen(torch.ones(2, 5, positions)).isnan().any()
