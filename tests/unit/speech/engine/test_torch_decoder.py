"""The promises of the decoder on the GPU engine's side: transformers' arithmetic, whatever shares the batch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import WhisperForConditionalGeneration

from speech.engine import MAX_NEW_TOKENS, MAX_PROMPT_TOKENS
from speech.engine.torch_decoder import SLOTS, Batch, survivors

POSITIONS = 96


@pytest.fixture(scope="module")
def model(tiny):
    """Return the tiny model as transformers loads it."""
    return WhisperForConditionalGeneration.from_pretrained(tiny.checkpoint).eval()


@pytest.fixture(scope="module")
def encoded():
    """Return five rows that could be an encoder's."""
    return torch.from_numpy(np.random.default_rng(4).standard_normal((5, POSITIONS, 16)).astype(np.float32))


@pytest.fixture(autouse=True)
def inference():
    """Compute no gradients."""
    with torch.inference_mode():
        yield


def tokens_of(lengths):
    """Return different tokens for each row."""
    generator = np.random.default_rng(5)
    return [generator.integers(0, 255, length).tolist() for length in lengths]


def whole(model, encoded, row, tokens):
    """Return the logits after each of a row's tokens, as transformers' decoder finds them."""
    hidden = model.model.decoder(
        input_ids=torch.tensor([tokens]), encoder_hidden_states=encoded[row : row + 1], use_cache=False
    ).last_hidden_state
    return model.proj_out(hidden[0])


def test_it_computes_what_transformers_computes(model, encoded):
    """A prompt and then token after token: the logits are those of the whole sequence."""
    said = tokens_of([12] * 5)
    batch = Batch(model, encoded)
    hidden = batch.prefill([row[:4] for row in said], max_new_tokens=9)
    steps = [batch.logits(hidden), *(batch.step(torch.tensor([row[i] for row in said]))[:, None] for i in range(4, 12))]
    found = torch.cat(steps, dim=1)
    for row, tokens in enumerate(said):
        torch.testing.assert_close(found[row], whole(model, encoded, row, tokens), atol=1e-4, rtol=1e-4)


def test_prompts_of_any_length_share_a_batch(model, encoded):
    """Padding on the left changes no row's positions and is seen by none."""
    prompts, said = tokens_of([4, 11, 1, 228, 4]), tokens_of([6] * 5)
    batch = Batch(model, encoded)
    found = [batch.logits(batch.prefill(prompts, max_new_tokens=7)[:, -1])]
    found += [batch.step(torch.tensor([row[i] for row in said])) for i in range(6)]
    for row in range(5):
        expected = whole(model, encoded, row, prompts[row] + said[row])[-7:]
        torch.testing.assert_close(torch.stack(found)[:, row], expected, atol=1e-4, rtol=1e-4)


def test_a_lone_start_leaves_no_trace(model, encoded):
    """The step that detects languages is not remembered."""
    prompts = tokens_of([3] * 5)
    batch = Batch(model, encoded)
    at_start = batch.start(prompts[0][0])
    hidden = batch.prefill(prompts, max_new_tokens=1)
    torch.testing.assert_close(at_start[0], batch.logits(hidden[0, 0]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        batch.logits(hidden[1, -1]), whole(model, encoded, 1, prompts[1])[-1], atol=1e-4, rtol=1e-4
    )


def test_rows_leave_and_the_others_stay_what_they_are(model, encoded):
    """Who takes whose place in the memory changes no row's logits."""
    prompts, said = tokens_of([4, 2, 5, 3, 4]), tokens_of([6] * 5)
    batch = Batch(model, encoded)
    batch.prefill(prompts, max_new_tokens=7)
    live = list(range(5))
    for i, done in enumerate([[], [0, 3], [1], [], [], []]):
        kept = survivors(len(live), done)
        batch.keep(kept)
        live = [live[row] for row in kept]
        logits = batch.step(torch.tensor([said[row][i] for row in live]))
        for found, row in zip(logits, live, strict=True):
            expected = whole(model, encoded, row, prompts[row] + said[row][: i + 1])[-1]
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert len(live) == 2


def test_beams_share_their_row_and_go_on_from_one_another(model, encoded):
    """Each lane has its own past, which another may take over; rows with beams may leave, too."""
    prompts = tokens_of([4, 6, 2, 4, 4])
    batch = Batch(model, encoded)
    batch.prefill(prompts, beams=3, max_new_tokens=4)
    pasts = [[list(prompt) for _ in range(3)] for prompt in prompts]
    live = list(range(5))
    for i, (done, order) in enumerate([([], [0, 1, 2]), ([1], [2, 2, 0]), ([], [1, 0, 1])]):
        kept = survivors(len(live), done)
        live = [live[row] for row in kept]
        batch.keep(kept)
        batch.reorder([3 * row + lane for row in range(len(live)) for lane in order])
        tokens = [[10 * i + 3 * row + lane for lane in range(3)] for row in live]
        for row, new in zip(live, tokens, strict=True):
            pasts[row] = [[*pasts[row][lane], token] for lane, token in zip(order, new, strict=True)]
        logits = batch.step(torch.tensor(tokens).flatten())
        expected = [whole(model, encoded, row, past)[-1] for row in live for past in pasts[row]]
        torch.testing.assert_close(logits, torch.stack(expected), atol=1e-4, rtol=1e-4)


def test_the_model_computes_in_bfloat16_and_under_autocast(model, encoded):
    """Both precisions of a GPU: the cache has that of the projections."""
    prompts, token = tokens_of([4] * 5), torch.arange(5)
    batch = Batch(model, encoded)
    batch.prefill(prompts, max_new_tokens=2)
    expected = batch.step(token)
    half = WhisperForConditionalGeneration.from_pretrained(model.name_or_path, dtype=torch.bfloat16).eval()
    batches = [Batch(half, encoded.bfloat16())]
    with torch.autocast("cpu", torch.bfloat16):
        batches.append(Batch(model, encoded))
        batches[1].prefill(prompts, max_new_tokens=2)
        found = [batches[1].step(token)]
    batches[0].prefill(prompts, max_new_tokens=2)
    for logits, other in zip([batches[0].step(token), *found], batches, strict=True):
        assert other._keys.dtype == other._cross_keys.dtype == torch.bfloat16
        assert logits.dtype == torch.float32
        assert (logits - expected).abs().mean() < 0.1 * expected.std()


def test_the_longest_prompt_and_text_fit_into_static_memory():
    """224 tokens after 223 of previous text and five special ones."""
    assert SLOTS >= 1 + MAX_PROMPT_TOKENS + 4 + MAX_NEW_TOKENS
    assert SLOTS % 8 == 0


@given(st.integers(1, 40).flatmap(lambda rows: st.tuples(st.just(rows), st.sets(st.integers(0, rows - 1)))))
def test_gaps_are_filled_from_the_end(rows_and_done):
    """All others stay, and only as many move as there are gaps."""
    rows, done = rows_and_done
    kept = survivors(rows, sorted(done))
    assert sorted(kept) == [row for row in range(rows) if row not in done]
    assert all(old == new or (old > new and old >= len(kept) and new in done) for new, old in enumerate(kept))
