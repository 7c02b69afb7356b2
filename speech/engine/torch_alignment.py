"""When each token was said: cross-attention of the alignment heads, and the cheapest way through it.

As openai/whisper's `timing.find_alignment` and CTranslate2's `align` do it, for a batch of texts. Words, and what the
audio says about their edges, are `speech.words`' business.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import WhisperForConditionalGeneration

from speech.tokens import WhisperTokenizer
from speech.words import TokenTimes, starts_of

MEDIAN_FILTER_WIDTH = 7  # openai/whisper's


@torch.inference_mode()
def align(
    model: WhisperForConditionalGeneration,
    encoded: Tensor,
    tokenizer: WhisperTokenizer,
    prompts: Sequence[Sequence[int]],
    texts: Sequence[Sequence[int]],
    positions: Sequence[int],
) -> list[TokenTimes]:
    """Align texts with encoder outputs.

    Args:
        model: on the device of `encoded`; its generation config names the alignment heads.
        encoded: shape (batch, positions, d_model).
        tokenizer: of the model.
        prompts: start, language, task and no timestamps, one a row.
        texts: text tokens, at least one a row.
        positions: of each row that hold its audio; the others are padding.
    """
    rows = [[*prompt, *text, tokenizer.eot] for prompt, text in zip(prompts, texts, strict=True)]
    width = max(len(row) for row in rows)
    # Padded on the right: no token sees what comes after it.
    tokens = torch.tensor([row + [tokenizer.eot] * (width - len(row)) for row in rows]).to(encoded.device)
    hidden, scores = _read(model, tokens, encoded)
    found = []
    for row, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        first = len(prompt) - 1  # what is read there says which token comes first
        logits = model.proj_out(hidden[row, first : first + len(text)]).float()[:, : tokenizer.eot]
        chosen = torch.tensor(text).to(logits.device)[:, None]
        probabilities = logits.softmax(-1).gather(1, chosen)[:, 0]
        matrix = _sharpen(scores[row, :, : len(rows[row]), : positions[row]])[first:-1]  # text, and the end token
        path = cheapest_path(-matrix.cpu().numpy())
        found.append(TokenTimes(starts_of(path), probabilities.tolist()))
    return found


def alignment_heads(model: WhisperForConditionalGeneration) -> list[tuple[int, int]]:
    """Return layer and head of each; as CTranslate2, all of the upper half where the model does not say."""
    layers, heads = model.config.decoder_layers, model.config.decoder_attention_heads
    named = getattr(model.generation_config, "alignment_heads", None)
    named = named or [(layer, head) for layer in range(layers // 2, layers) for head in range(heads)]
    return sorted((layer, head) for layer, head in named)


def _read(model: WhisperForConditionalGeneration, tokens: Tensor, encoded: Tensor) -> tuple[Tensor, Tensor]:
    """Read known tokens at once.

    Returns:
        Hidden states, shape (rows, width, d_model), and what the alignment heads make of each position before the
        softmax, shape (rows, heads, width, positions), in float32.
    """
    decoder, n_heads = model.model.decoder, model.config.decoder_attention_heads
    by_layer: dict[int, list[int]] = {}
    for layer, head in alignment_heads(model):
        by_layer.setdefault(layer, []).append(head)

    def split(hidden: Tensor) -> Tensor:
        return hidden.view(*hidden.shape[:2], n_heads, -1).transpose(1, 2)  # (rows, heads, length, head_dim)

    hidden = decoder.embed_tokens(tokens) + decoder.embed_positions.weight[: tokens.shape[1]]
    scores = []
    for i, layer in enumerate(decoder.layers):
        attention, normed = layer.self_attn, layer.self_attn_layer_norm(hidden)
        queries, keys, values = (split(p(normed)) for p in (attention.q_proj, attention.k_proj, attention.v_proj))
        attended = scaled_dot_product_attention(queries, keys, values, is_causal=True)
        hidden = hidden + attention.out_proj(attended.transpose(1, 2).flatten(2))
        attention, normed = layer.encoder_attn, layer.encoder_attn_layer_norm(hidden)
        queries, keys = split(attention.q_proj(normed)), split(attention.k_proj(encoded))
        if heads := by_layer.get(i):
            products = queries[:, heads].float() @ keys[:, heads].float().transpose(2, 3)
            scores.append(products / queries.shape[-1] ** 0.5)
        attended = scaled_dot_product_attention(queries, keys, split(attention.v_proj(encoded)))
        hidden = hidden + attention.out_proj(attended.transpose(1, 2).flatten(2))
        normed = layer.final_layer_norm(hidden)
        hidden = hidden + layer.fc2(layer.activation_fn(layer.fc1(normed)))
    return decoder.layer_norm(hidden), torch.cat(scores, dim=1)


def _sharpen(scores: Tensor) -> Tensor:
    """Turn one row's scores, shape (heads, tokens, positions), into one matrix of how much each token stands out."""
    weights = scores.softmax(-1)
    deviation, mean = torch.std_mean(weights, dim=1, keepdim=True, unbiased=False)
    weights = (weights - mean) / deviation.clamp(min=1e-10)
    pad = MEDIAN_FILTER_WIDTH // 2
    if weights.shape[-1] > pad:
        padded = nn.functional.pad(weights, (pad, pad), mode="reflect")
        weights = padded.unfold(-1, MEDIAN_FILTER_WIDTH, 1).median(-1).values
    return weights.mean(0)


def cheapest_path(costs: NDArray[np.float32]) -> list[tuple[int, int]]:
    """Return the cheapest way from the first to the last cell, by steps down, right, or both (dynamic time warping).

    Args:
        costs: shape (tokens, positions).

    Returns:
        (token, position) pairs in their order.
    """
    n, m = costs.shape
    total = np.full((n + 1, m + 1), np.inf)
    total[0, 0] = 0.0
    step = np.zeros((n + 1, m + 1), np.int8)  # 0: down and right, 1: down, 2: right
    for diagonal in range(2, n + m + 1):  # cells of one diagonal do not wait for each other
        i = np.arange(max(1, diagonal - m), min(n, diagonal - 1) + 1)
        j = diagonal - i
        both, down, right = total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]
        chosen = np.where(right <= np.minimum(both, down), 2, np.where(both <= down, 0, 1))
        step[i, j] = chosen
        total[i, j] = costs[i - 1, j - 1] + np.choose(chosen, (both, down, right))
    step[0, :], step[:, 0] = 2, 1
    path = []
    i, j = n, m
    while i > 0 or j > 0:
        path.append((i - 1, j - 1))
        i, j = i - int(step[i, j] != 2), j - int(step[i, j] != 1)
    return path[::-1]
