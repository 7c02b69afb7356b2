"""The promises of the encoder: transformers' own at 30 s, and any shorter length."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speech.encoder import encode


@pytest.fixture(scope="module")
def encoder(tiny):
    """Return the tiny model's encoder."""
    from transformers import WhisperForConditionalGeneration

    return WhisperForConditionalGeneration.from_pretrained(tiny.checkpoint).eval().model.encoder


def features(frames, rows=1, seed=0):
    """Make something that looks like log-mel features."""
    generator = np.random.default_rng(seed)
    return torch.from_numpy(generator.standard_normal((rows, 80, frames)).astype(np.float32))


@torch.inference_mode()
def test_thirty_seconds_equal_transformers(encoder):
    """At 3,000 frames it is the encoder that everybody knows."""
    inputs = features(3000, rows=2)
    expected = encoder(inputs).last_hidden_state
    assert torch.allclose(encode(encoder, inputs), expected, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 1500))
@torch.inference_mode()
def test_every_even_length_is_encoded(encoder, positions):
    """Two frames make a position, up to 1,500."""
    output = encode(encoder, features(2 * positions))
    assert output.shape == (1, positions, 16)
    assert torch.isfinite(output).all()


@pytest.mark.parametrize("frames", [1, 99, 2999, 3001, 3002, 6000])
def test_odd_and_too_many_frames_are_refused(encoder, frames):
    """Half a position, or one that the encoder does not have, is an error."""
    with pytest.raises(ValueError, match=f"cannot encode {frames} frames"):
        encode(encoder, features(frames))


@torch.inference_mode()
def test_a_row_depends_on_its_own_frames_only(encoder):
    """What shares the batch changes nothing."""
    inputs = features(200, rows=3)
    together = encode(encoder, inputs)
    for row in range(3):
        assert torch.allclose(together[row], encode(encoder, inputs[row : row + 1])[0], atol=1e-5)


@torch.inference_mode()
def test_the_shorter_context_is_another_one(encoder):
    """Attention sees what is there: 4 s encoded alone differ from 4 s followed by silence."""
    inputs = features(3000)
    inputs[:, :, 400:] = -1.0
    assert not torch.allclose(encode(encoder, inputs[:, :, :400]), encode(encoder, inputs)[:, :200], atol=1e-3)


def test_training_drops_layers_and_units(encoder):
    """Dropout and layer drop work in training mode, and in no other."""
    inputs = features(100)
    settled = encode(encoder, inputs)
    assert torch.equal(encode(encoder, inputs), settled)
    before = encoder.dropout, encoder.layerdrop
    try:
        encoder.train()
        encoder.dropout = 0.5
        assert not torch.equal(encode(encoder, inputs), encode(encoder, inputs))
        encoder.dropout, encoder.layerdrop = 0.0, 1.0
        without_layers = encode(encoder, inputs)
        assert not torch.allclose(without_layers, settled, atol=1e-2)
        assert torch.equal(encode(encoder, inputs), without_layers)
    finally:
        encoder.eval()
        encoder.dropout, encoder.layerdrop = before


def test_gradients_reach_the_first_layer(encoder):
    """Training goes through it."""
    encode(encoder, features(60)).sum().backward()
    assert encoder.conv1.weight.grad is not None
    assert encoder.conv1.weight.grad.abs().sum() > 0
    encoder.zero_grad()
