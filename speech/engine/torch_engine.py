"""The GPU engine: torch on transformers' modules, with an encoder for any context and a decode loop of its own.

Also runs on the CPU, where the conformance tests compare it with CTranslate2, and in training's evaluation, which
hands its model over. Greedy only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, WhisperForConditionalGeneration

from speech.context import SAMPLES_PER_POSITION, ElasticContext
from speech.encoder import encode
from speech.engine import (
    GREEDY,
    DecodingOptions,
    DecodingResult,
    EngineError,
    Window,
    decode_by_bucket,
    make_result,
    max_new_tokens,
)
from speech.features import log_mel_spectrogram, pad_or_trim
from speech.tokens import WhisperTokenizer

MAX_BATCH = {"cuda": 32, "cpu": 8}


class TorchEngine:
    """A loaded model on one device; one call at a time."""

    def __init__(
        self, model: WhisperForConditionalGeneration, tokenizer: WhisperTokenizer, context: ElasticContext
    ) -> None:
        self._model = model.eval()
        self.tokenizer = tokenizer
        self.context = context
        self.description = f"torch {str(model.dtype).removeprefix('torch.')} on {model.device.type}"

    @classmethod
    def load(
        cls, folder: Path, context: ElasticContext, *, device: str = "cuda", dtype: torch.dtype | None = None
    ) -> "TorchEngine":
        """Load a version's transformers checkpoint.

        Args:
            folder: with config.json, model.safetensors and tokenizer.json.
            context: from the version's manifest.
            device: "cuda" or "cpu".
            dtype: bfloat16 on a GPU and float32 on a CPU unless told.

        Raises:
            RuntimeError: there is no such device.
        """
        if device == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("device 'cuda' was asked for, but torch finds no GPU here")
        dtype = dtype or (torch.bfloat16 if device == "cuda" else torch.float32)
        model = WhisperForConditionalGeneration.from_pretrained(
            folder, dtype=dtype, attn_implementation="sdpa", local_files_only=True, use_safetensors=True
        )
        return cls(model.to(device), WhisperTokenizer.from_folder(folder), context)

    def transcribe(
        self, windows: Sequence[Window], options: DecodingOptions = GREEDY
    ) -> list[DecodingResult | EngineError]:
        """Return one result or one error a window, in their order."""
        if options.beam_size != 1 or not options.without_timestamps:
            raise NotImplementedError("the torch engine decodes greedily and without timestamps")
        return decode_by_bucket(windows, self.context, MAX_BATCH[self._model.device.type], self._decode)

    @torch.inference_mode()
    def _decode(self, positions: int, windows: list[Window]) -> list[DecodingResult]:
        n_samples, n_mels = positions * SAMPLES_PER_POSITION, self._model.config.num_mel_bins
        features = np.stack([log_mel_spectrogram(pad_or_trim(w.audio, n_samples), n_mels) for w in windows])
        encoder = self._model.model.encoder
        encoded = encode(encoder, torch.from_numpy(features).to(self._model.device, self._model.dtype))
        languages = self._languages(encoded, windows)
        prompts = [self.tokenizer.prompt(code, w.task) for (code, _), w in zip(languages, windows, strict=True)]
        decoded = greedy(self._model, encoded, prompts, max_new_tokens(positions), self.tokenizer)
        return [
            make_result(
                self.tokenizer,
                hypothesis.tokens,
                language,
                avg_logprob=hypothesis.avg_logprob,
                no_speech_prob=hypothesis.no_speech_prob,
                positions=positions,
            )
            for language, hypothesis in zip(languages, decoded, strict=True)
        ]

    def _languages(self, encoded: Tensor, windows: list[Window]) -> list[tuple[str, float]]:
        """Return code and probability for each window, from the step after the start token (Whisper §2.3)."""
        if all(window.language is not None for window in windows):
            return [(str(window.language), 1.0) for window in windows]
        codes = list(self.tokenizer.languages)
        starts = torch.full((len(windows), 1), self.tokenizer.sot, device=encoded.device)
        hidden = self._model.model.decoder(input_ids=starts, encoder_hidden_states=encoded).last_hidden_state
        logits = self._model.proj_out(hidden[:, -1]).float()[:, list(self.tokenizer.languages.values())]
        best = logits.softmax(-1).max(-1)
        return [
            (window.language, 1.0) if window.language is not None else (codes[int(index)], float(probability))
            for window, probability, index in zip(windows, best.values, best.indices, strict=True)
        ]


@dataclass(frozen=True)
class GreedyHypothesis:
    """What greedy decoding found for one row."""

    tokens: tuple[int, ...]  # without the end token
    avg_logprob: float
    no_speech_prob: float


@torch.inference_mode()
def greedy(
    model: WhisperForConditionalGeneration,
    encoded: Tensor,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    tokenizer: WhisperTokenizer,
) -> list[GreedyHypothesis]:
    """Decode a batch greedily from encoder outputs of any length.

    Args:
        model: on the device of `encoded`.
        encoded: shape (batch, positions, d_model).
        prompts: start, language, task, no timestamps; equally long.
        max_tokens: new tokens a row at most.
        tokenizer: of the model.
    """
    rows = len(prompts)
    input_ids = torch.tensor([list(prompt) for prompt in prompts], device=encoded.device)
    suppress = _mask(model, model.generation_config.suppress_tokens)
    # No timestamp follows <|notimestamps|>; a blank or an empty answer is not a first token.
    suppress[tokenizer.timestamp_begin :] = float("-inf")
    first = suppress + _mask(model, model.generation_config.begin_suppress_tokens)
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    finished = torch.zeros(rows, dtype=torch.bool, device=encoded.device)
    log_probability = torch.zeros(rows, device=encoded.device)
    steps: list[Tensor] = []
    no_speech = torch.zeros(rows)
    for step in range(max_tokens):
        hidden = model.model.decoder(
            input_ids=input_ids, encoder_hidden_states=encoded, past_key_values=cache, use_cache=True
        ).last_hidden_state
        if step == 0:
            at_start = model.proj_out(hidden[:, 0]).float().softmax(-1)  # what follows <|startoftranscript|>
            no_speech = at_start[:, tokenizer.no_speech].cpu()
        logits = model.proj_out(hidden[:, -1]).float() + (first if step == 0 else suppress)
        best = logits.log_softmax(-1).max(-1)
        token = torch.where(finished, tokenizer.eot, best.indices)
        log_probability += torch.where(finished, 0.0, best.values)
        steps.append(token)
        finished = finished | (token == tokenizer.eot)
        if bool(finished.all()):
            break
        input_ids = token[:, None]
    chosen = torch.stack(steps, dim=1).tolist()
    hypotheses = []
    for row, row_tokens in enumerate(chosen):
        length = row_tokens.index(tokenizer.eot) if tokenizer.eot in row_tokens else len(row_tokens)
        hypotheses.append(
            GreedyHypothesis(
                tokens=tuple(row_tokens[:length]),
                avg_logprob=float(log_probability[row]) / (length + 1),
                no_speech_prob=float(no_speech[row]),
            )
        )
    return hypotheses


def _mask(model: WhisperForConditionalGeneration, tokens: Sequence[int] | None) -> Tensor:
    """Return what to add to the logits so that `tokens` cannot be chosen, shape (vocabulary,)."""
    mask = torch.zeros(model.config.vocab_size, device=model.device)
    if tokens:
        mask[list(tokens)] = float("-inf")
    return mask
