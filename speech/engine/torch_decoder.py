"""Whisper's decoder, one token at a time for a whole batch, on the weights of transformers' modules.

Keys and values lie in memory that is allocated once a batch, or once for all. Which token comes next is decided
elsewhere (`speech.engine.torch_decoding`).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import WhisperForConditionalGeneration

from speech.engine.torch_graphs import Graphs, Memory, padded_rows

SLOTS = 456
"""Keys a lane in static memory: the longest prompt (228) and its new tokens, rounded up to what GPUs align to."""

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""Layer, queries, keys and values of the new tokens, each (lanes, heads, width, head_dim), to the attended values."""


def memory_sizes(model: WhisperForConditionalGeneration, lanes: int, cross_positions: int) -> dict[str, int]:
    """Return the elements that `Batch` needs of a `Memory`.

    Args:
        model: gives the layers and their width.
        lanes: rows at once at most.
        cross_positions: rows times encoder positions at most.
    """
    width = len(model.model.decoder.layers) * model.config.d_model
    return {
        **dict.fromkeys(("keys", "values"), width * lanes * SLOTS),
        **dict.fromkeys(("cross_keys", "cross_values"), width * cross_positions),
        **dict.fromkeys(("tokens", "pads"), lanes),
        "slot": 1,
    }


class Batch:
    """Encoder outputs that are being decoded.

    Each row has `beams` lanes that share its cross-attention: row r's are r * beams to (r + 1) * beams - 1. All lanes
    write to the same slot of their caches at the same time; prompts are padded on the left for that, so a lane's
    position is its slot less its padding.

    Args:
        model: on the device of `encoded`.
        encoded: shape (rows, positions, d_model).
        memory: None allocates what this batch needs, and each step looks at the slots in use only. Otherwise tensors
            are cut from it and each step looks at all slots, masked, so that a step is the same whatever its place.
        capacity: rows to cut from the memory: the same for all batches of so many positions.
        graphs: run the steps of static memory.
    """

    def __init__(
        self,
        model: WhisperForConditionalGeneration,
        encoded: Tensor,
        *,
        memory: Memory | None = None,
        capacity: int | None = None,
        graphs: Graphs | None = None,
    ) -> None:
        self._decoder = model.model.decoder
        self._proj_out = model.proj_out
        self._memory = memory
        self._graphs = graphs or Graphs(torch.device("cpu"))
        self._capacity = capacity or encoded.shape[0]
        self._heads: int = model.config.decoder_attention_heads
        self.device = encoded.device
        device_type = encoded.device.type
        # Under autocast, its format is that of the projections.
        autocast = torch.is_autocast_enabled(device_type)
        self._dtype = torch.get_autocast_dtype(device_type) if autocast else model.dtype
        self.rows, self._positions, self._width = encoded.shape
        self.beams = 1
        self._length = 0  # slots in use
        shape = (len(self._decoder.layers), self._capacity, self._heads, self._positions, self._width // self._heads)
        self._cross_keys, self._cross_values = self._new("cross_keys", shape), self._new("cross_values", shape)
        # Here and not within the first step: a captured step would write them again at each replay, from whatever lies
        # then where its encoder output lay (transformers#48199).
        for i, layer in enumerate(self._decoder.layers):
            attention = layer.encoder_attn
            self._cross_keys[i, : self.rows].copy_(self._split(attention.k_proj(encoded)))
            self._cross_values[i, : self.rows].copy_(self._split(attention.v_proj(encoded)))

    def start(self, token: int) -> Tensor:
        """Return the logits after a lone first token, shape (rows, vocabulary); nothing is kept of it."""
        tokens = torch.full((self.rows, 1), token, device=self.device)
        hidden = self._forward(tokens, torch.zeros_like(tokens), self.rows, lambda _i, _q, _k, values: values)
        return self.logits(hidden[:, -1])

    def prefill(self, prompts: Sequence[Sequence[int]], *, beams: int = 1, max_new_tokens: int) -> Tensor:
        """Read the prompts.

        Args:
            prompts: one a row, of any lengths.
            beams: lanes a row from now on.
            max_new_tokens: one more than the steps to come at most.

        Returns:
            Hidden states, shape (rows, longest prompt, d_model), padded on the left.
        """
        width = max(len(prompt) for prompt in prompts)
        self.beams, self._length = beams, width
        slots = width + max_new_tokens if self._memory is None else SLOTS
        lanes = self._capacity * beams
        shape = (len(self._decoder.layers), lanes, self._heads, slots, self._width // self._heads)
        self._keys, self._values = self._new("keys", shape), self._new("values", shape)
        self._tokens = self._new("tokens", (lanes,), torch.long)
        self._pads = self._new("pads", (lanes,), torch.long)
        self._slot = self._new("slot", (1,), torch.long)
        pads = torch.tensor([width - len(prompt) for prompt in prompts])
        self._is_padded = bool(pads.any())
        pads = pads.to(self.device)
        # No lane may be left without a slot to see, the idle ones neither: a softmax over nothing is not a number, and
        # would stay in the memory.
        self._pads.zero_()
        self._pads[: self.rows * beams].copy_(pads.repeat_interleave(beams))
        tokens = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts]).to(self.device)
        columns = torch.arange(width, device=self.device)
        mask = None
        if self._is_padded:
            seen = (columns <= columns[:, None]) & (columns >= pads[:, None, None])  # (rows, width, width)
            mask = (seen | torch.eye(width, dtype=torch.bool, device=self.device))[:, None]  # padding sees itself

        def attend(i: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            for cache, new in ((self._keys[i], keys), (self._values[i], values)):
                by_row = cache[: self.rows * beams].view(self.rows, beams, *cache.shape[1:])
                by_row[:, :, :, :width].copy_(new[:, None].expand(-1, beams, -1, -1, -1))
            return scaled_dot_product_attention(queries, keys, values, attn_mask=mask, is_causal=mask is None)

        return self._forward(tokens, (columns - pads[:, None]).clamp(min=0), self.rows, attend)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits of hidden states, shape (..., vocabulary), in float32."""
        logits: Tensor = self._proj_out(hidden).float()
        return logits

    def step(self, tokens: Tensor) -> Tensor:
        """Read one token a lane.

        Args:
            tokens: shape (rows * beams,).

        Returns:
            The logits of the next, shape (rows * beams, vocabulary); valid until the next step.
        """
        lanes = self.rows * self.beams
        self._tokens[:lanes].copy_(tokens)
        self._slot.fill_(self._length)
        self._length += 1
        if self._memory is None:
            return self._step(self.rows, self._length, is_masked=self._is_padded)
        rows = min(padded_rows(self.rows), self._capacity)  # the idle rows compute on what was left there
        key = ("step", self._positions, rows, self.beams)
        return self._graphs.run(key, lambda: self._step(rows, SLOTS, is_masked=True))[:lanes]

    def _step(self, rows: int, slots: int, *, is_masked: bool) -> Tensor:
        # May be captured: all that varies comes from _tokens, _pads, _slot, and the caches. Reading the same token at
        # the same slot again writes the same keys and values, so the calls before a capture do no harm.
        lanes = rows * self.beams
        pads = self._pads[:lanes, None]
        columns = torch.arange(slots, device=self.device)
        mask = ((columns >= pads) & (columns <= self._slot))[:, None, None] if is_masked else None

        def attend(i: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            own_keys, own_values = self._keys[i, :lanes], self._values[i, :lanes]
            own_keys.index_copy_(2, self._slot, keys)
            own_values.index_copy_(2, self._slot, values)
            return scaled_dot_product_attention(
                queries, own_keys[:, :, :slots], own_values[:, :, :slots], attn_mask=mask
            )

        # A row that has ended on a GPU may run past the last position until the host looks: it must stay in bounds.
        positions = (self._slot - pads).clamp(max=self._decoder.embed_positions.num_embeddings - 1)
        return self.logits(self._forward(self._tokens[:lanes, None], positions, rows, attend)[:, -1])

    def keep(self, rows: Sequence[int]) -> None:
        """Drop the other rows: row i is from now on what was `rows[i]`.

        Only what moves is copied, so gaps are best filled from the end (`survivors`).
        """
        for new, old in enumerate(rows):
            if new != old:
                for cache in (self._cross_keys, self._cross_values):
                    cache[:, new].copy_(cache[:, old])
                to, of = (slice(row * self.beams, (row + 1) * self.beams) for row in (new, old))
                for cache in (self._keys, self._values):
                    cache[:, to, :, : self._length].copy_(cache[:, of, :, : self._length])
                self._pads[to].copy_(self._pads[of])
        self.rows = len(rows)

    def reorder(self, lanes: Sequence[int]) -> None:
        """Let lane i go on from what lane `lanes[i]` has read; both are of one row."""
        moved = [(new, old) for new, old in enumerate(lanes) if new != old]
        if moved:
            to, of = (torch.tensor(indices).to(self.device) for indices in zip(*moved, strict=True))
            for cache in (self._keys, self._values):
                cache[:, to, :, : self._length] = cache[:, of, :, : self._length]  # the right side is a copy

    def _forward(self, tokens: Tensor, positions: Tensor, rows: int, attend: Attend) -> Tensor:
        """Return the hidden states of tokens at positions, both (lanes, width), shape (lanes, width, d_model)."""
        decoder = self._decoder
        hidden = decoder.embed_tokens(tokens) + decoder.embed_positions.weight[positions]
        for i, layer in enumerate(decoder.layers):
            attention, normed = layer.self_attn, layer.self_attn_layer_norm(hidden)
            projections = (attention.q_proj, attention.k_proj, attention.v_proj)
            attended = attend(i, *(self._split(project(normed)) for project in projections))
            hidden = hidden + attention.out_proj(attended.transpose(1, 2).flatten(2))
            attention, normed = layer.encoder_attn, layer.encoder_attn_layer_norm(hidden)
            # A row's lanes stand side by side as its queries: they share keys and values without a copy.
            queries = self._split(attention.q_proj(normed).view(rows, -1, self._width))
            attended = scaled_dot_product_attention(queries, self._cross_keys[i, :rows], self._cross_values[i, :rows])
            hidden = hidden + attention.out_proj(attended.transpose(1, 2).reshape(hidden.shape))
            normed = layer.final_layer_norm(hidden)
            hidden = hidden + layer.fc2(layer.activation_fn(layer.fc1(normed)))
        normalised: Tensor = decoder.layer_norm(hidden)
        return normalised

    def _split(self, hidden: Tensor) -> Tensor:
        """Turn (n, width, d_model) into (n, heads, width, head_dim)."""
        return hidden.view(*hidden.shape[:-1], self._heads, -1).transpose(1, 2)

    def _new(self, name: str, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        if self._memory is not None:
            return self._memory.cut(name, shape, dtype)
        return torch.empty(shape, dtype=dtype or self._dtype, device=self.device)


def survivors(rows: int, done: Sequence[int]) -> list[int]:
    """Return which rows stay when `done` go, each gap filled from the end.

    Args:
        rows: how many there are.
        done: which of them go.
    """
    kept = list(range(rows))
    for row in sorted(done, reverse=True):
        kept[row] = kept[-1]
        kept.pop()
    return kept
