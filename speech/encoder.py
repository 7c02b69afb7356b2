"""Whisper's encoder for any length of audio, on transformers' modules (torch).

transformers' own forward refuses everything but 3,000 frames. Training and the torch engine call this one; at 3,000
frames the two agree to rounding.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import WhisperForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.whisper.modeling_whisper import WhisperEncoder


def encode(encoder: WhisperEncoder, input_features: Tensor) -> Tensor:
    """Encode features of any even number of frames.

    Args:
        encoder: of a `WhisperForConditionalGeneration`.
        input_features: log-mel, shape (batch, n_mels, frames), frames at most 3,000.

    Returns:
        Hidden states, shape (batch, frames / 2, d_model).

    Raises:
        ValueError: more frames than the encoder has positions for, or an odd number.
    """
    frames = input_features.shape[-1]
    if frames % 2 or frames > 2 * encoder.embed_positions.num_embeddings:
        raise ValueError(f"cannot encode {frames} frames: an even number up to 3,000 is needed")
    hidden = nn.functional.gelu(encoder.conv1(input_features))
    hidden = nn.functional.gelu(encoder.conv2(hidden)).transpose(1, 2)
    hidden = hidden + encoder.embed_positions.weight[: hidden.shape[1]]
    hidden = nn.functional.dropout(hidden, p=encoder.dropout, training=encoder.training)
    for layer in encoder.layers:
        if encoder.training and encoder.layerdrop > 0 and torch.rand(()) < encoder.layerdrop:
            continue
        hidden = layer(hidden, None)
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
    normalised: Tensor = encoder.layer_norm(hidden)
    return normalised


class ElasticWhisperEncoder(WhisperEncoder):  # type: ignore[misc]
    """transformers' encoder, taking features of any length."""

    def forward(self, input_features: Tensor, **_: Any) -> BaseModelOutput:
        """Encode; arguments that ask for attentions or hidden states are passed over."""
        return BaseModelOutput(last_hidden_state=encode(self, input_features))


def make_elastic(model: WhisperForConditionalGeneration) -> None:
    """Let `model` take features of any length in its own forward, so that Trainer and DDP need not know."""
    # The class is exchanged, not the module: weights, hooks and checkpoints stay what they were.
    model.model.encoder.__class__ = ElasticWhisperEncoder
