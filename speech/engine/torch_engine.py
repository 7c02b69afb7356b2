"""The GPU engine: torch on the weights of transformers' modules, with a decoder and a search of its own.

Also runs on the CPU, where the conformance tests compare it with CTranslate2, and in training's evaluation, which
hands its model over. Here are the batches, from audio to results; see `torch_decoder` for the arithmetic,
`torch_decoding` for the search, `torch_alignment` for the times of words, and `torch_graphs` for what makes small steps
fast on a GPU.
"""

import threading
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import WhisperForConditionalGeneration

from speech.audio import SAMPLE_RATE
from speech.context import MAX_POSITIONS, SAMPLES_PER_POSITION, ElasticContext, positions_of
from speech.encoder import encode
from speech.engine import (
    MAX_PROMPT_TOKENS,
    CancelledError,
    DecodingResult,
    DetectedLanguage,
    EngineError,
    IsCancelled,
    Window,
    choose_language,
    decode_in_batches,
    make_result,
    never,
)
from speech.engine.torch_alignment import align
from speech.engine.torch_decoder import Batch, memory_sizes
from speech.engine.torch_decoding import Hypothesis, Request, decode
from speech.engine.torch_features import log_mel_spectrogram
from speech.engine.torch_graphs import ROWS, Graphs, Memory, padded_rows
from speech.features import pad_or_trim
from speech.tokens import WhisperTokenizer
from speech.words import TokenTimes, texts_to_align, with_words

GPU_BATCH = 32
GPU_BATCH_POSITIONS = 16 * MAX_POSITIONS
"""Encoder positions that a batch on a GPU has at most, with `GPU_BATCH` rows at most."""

CPU_BATCH = 8

ENCODER_GRAPH_ROWS = 4
"""More rows keep a GPU busy for longer than launching their kernels takes; padding them up would only cost."""

WARM_UP_SECONDS = (2, 5, 10, 30)


class TorchEngine:
    """A loaded model on one device; calls wait for one another."""

    concurrency = 1

    def __init__(
        self, model: WhisperForConditionalGeneration, tokenizer: WhisperTokenizer, context: ElasticContext
    ) -> None:
        self._model = model.eval()
        self._device = model.device
        self._lock = threading.Lock()
        self._graphs = Graphs(model.device)
        self._memory = static_memory(model) if model.device.type == "cuda" else None
        self.tokenizer = tokenizer
        self.context = context
        self.description = f"torch {str(model.dtype).removeprefix('torch.')} on {model.device.type}"

    @classmethod
    def load(
        cls, folder: Path, context: ElasticContext, *, device: str = "cuda", dtype: torch.dtype | None = None
    ) -> "TorchEngine":
        """Load a version's transformers checkpoint, and warm a GPU up.

        Args:
            folder: with config.json, model.safetensors and tokenizer.json.
            context: from the version's manifest.
            device: "cuda" or "cpu".
            dtype: bfloat16 on a GPU and float32 on a CPU unless told.

        Raises:
            RuntimeError: there is no such device.
        """
        if device == "cuda" and not torch.cuda.is_available():
            raise RuntimeError(
                "device 'cuda' was asked for, and torch finds no GPU: ask for cpu, or see `python -m service doctor`"
            )
        dtype = dtype or (torch.bfloat16 if device == "cuda" else torch.float32)
        model = WhisperForConditionalGeneration.from_pretrained(
            folder, dtype=dtype, attn_implementation="sdpa", local_files_only=True, use_safetensors=True
        )
        engine = cls(model.to(device), WhisperTokenizer.from_folder(folder), context)
        if device == "cuda":
            engine.warm_up()
        return engine

    def batch_size(self, positions: int) -> int:
        """Return how many windows of so many positions to hand over at once."""
        return batch_size(positions) if self._device.type == "cuda" else CPU_BATCH

    def prepare(self, window: Window) -> Window:
        """Return the window as it is: the device makes the features, a batch at a time."""
        return window

    def transcribe(
        self, windows: Sequence[Window], is_cancelled: IsCancelled = never
    ) -> list[DecodingResult | EngineError]:
        """Return one result or one error a window, in their order; a cancelled one leaves its batch in a few steps."""
        with self._lock:
            return decode_in_batches(
                windows,
                self.context,
                self._decode,
                batch_size=self.batch_size,
                kind=lambda window: window.options.beams,  # rows of one batch have equally many lanes
                is_cancelled=is_cancelled,
            )

    def warm_up(self) -> None:
        """Decode a little noise of several lengths and in batches of several sizes, so that no request pays for it.

        On a GPU this captures the graphs that most requests need; those of other contexts come with their first batch.
        """
        contexts = sorted({self.context.positions(seconds * SAMPLE_RATE) for seconds in WARM_UP_SECONDS})
        generator = np.random.default_rng(0)
        with self._lock:
            for positions in contexts:
                noise = 0.1 * generator.standard_normal(positions * SAMPLES_PER_POSITION, dtype=np.float32)
                for rows in ROWS:
                    if rows <= self.batch_size(positions):
                        # Cancelled at the first look: a few steps are enough.
                        self._decode(positions, [Window(noise)] * rows, lambda _: True)

    @torch.inference_mode()
    def _decode(
        self, positions: int, windows: list[Window], is_cancelled: IsCancelled
    ) -> list[DecodingResult | EngineError]:
        beam_size = windows[0].options.beams
        # Beams wait for the host at each step, and their lanes are many: no graphs for them, and memory of their own.
        memory = self._memory if beam_size == 1 else None
        encoded = self._encode(positions, windows)
        is_timed = any(window.options.word_timestamps for window in windows)
        kept = encoded.clone() if is_timed else encoded  # what a graph computed is overwritten while tokens are decoded
        batch = Batch(
            self._model,
            encoded,
            memory=memory,
            capacity=None if memory is None else self.batch_size(positions),
            graphs=self._graphs,
        )
        languages = self._languages(batch, windows)
        requests = [self._request(window, language.code) for window, language in zip(windows, languages, strict=True)]
        hypotheses = decode(
            self._model, batch, requests, self.tokenizer, beam_size=beam_size, is_cancelled=is_cancelled
        )
        results: list[DecodingResult | EngineError] = [
            CancelledError("cancelled")
            if hypothesis is None
            else make_result(
                self.tokenizer,
                hypothesis.tokens,
                language,
                avg_logprob=hypothesis.avg_logprob,
                no_speech_prob=hypothesis.no_speech_prob,
                positions=positions,
                max_tokens=request.max_tokens,
                token_logprobs=hypothesis.logprobs[: len(hypothesis.tokens)] if window.options.token_logprobs else None,
                temperature=window.options.temperature,
            )
            for window, request, language, hypothesis in zip(windows, requests, languages, hypotheses, strict=True)
        ]
        texts = texts_to_align(self.tokenizer, windows, results)
        times = self._times(kept, windows, languages, texts) if texts else {}
        return with_words(self.tokenizer, windows, results, times)

    def _times(
        self,
        encoded: Tensor,
        windows: list[Window],
        languages: list[DetectedLanguage],
        texts: Mapping[int, Sequence[int]],
    ) -> dict[int, TokenTimes]:
        """Align texts (by row) on the encoder output that they were decoded from."""
        aligned = align(
            self._model,
            encoded[list(texts)],
            self.tokenizer,
            [self.tokenizer.prompt(languages[row].code, windows[row].task) for row in texts],
            list(texts.values()),
            [min(positions_of(windows[row].audio.size), encoded.shape[1]) for row in texts],
        )
        return dict(zip(texts, aligned, strict=True))

    def _encode(self, positions: int, windows: list[Window]) -> Tensor:
        """Return the encoder's output, shape (windows, positions, d_model)."""
        n_samples, n_mels = positions * SAMPLES_PER_POSITION, self._model.config.num_mel_bins
        audio = torch.from_numpy(np.stack([pad_or_trim(window.audio, n_samples) for window in windows]))
        if self._device.type == "cuda":
            audio = audio.pin_memory().to(self._device, non_blocking=True)
        features = log_mel_spectrogram(audio, n_mels).to(self._model.dtype)
        encoder, rows = self._model.model.encoder, len(windows)
        if self._memory is None or rows > ENCODER_GRAPH_ROWS:
            return encode(encoder, features)
        still = self._memory.cut("features", (padded_rows(rows), *features.shape[1:]))
        still[:rows].copy_(features)
        return self._graphs.run(("encode", still.shape), lambda: encode(encoder, still))[:rows]

    def _languages(self, batch: Batch, windows: list[Window]) -> list[DetectedLanguage]:
        """Return each window's language, from the step after the start token (Whisper §2.3)."""
        if all(window.language is not None for window in windows):
            return [choose_language(self.tokenizer, window, {}) for window in windows]
        codes, tokens = zip(*self.tokenizer.languages.items(), strict=True)
        # Also for rows whose language is known: a step of theirs costs less than leaving them out.
        probabilities = batch.start(self.tokenizer.sot)[:, list(tokens)].softmax(-1).tolist()
        return [
            choose_language(self.tokenizer, window, dict(zip(codes, row, strict=True)))
            for window, row in zip(windows, probabilities, strict=True)
        ]

    def _request(self, window: Window, language: str) -> Request:
        timestamps = not window.options.without_timestamps
        before = [self.tokenizer.sot_prev, *window.prompt[-MAX_PROMPT_TOKENS:]] if window.prompt else []
        if not all(0 <= token < self._model.config.vocab_size for token in before):
            # On a GPU an index out of bounds would end the whole process' work, not this window's.
            raise ValueError("the prompt has tokens that the model does not know")
        prompt = [*before, *self.tokenizer.prompt(language, window.task, timestamps=timestamps)]
        room = self._model.config.max_target_positions - len(prompt) + 1  # the last token is not read
        temperature = window.options.temperature
        seed = zlib.crc32(window.audio.tobytes()) if temperature > 0 else 0  # the same audio has the same answer
        return Request(prompt, min(window.max_new_tokens, room), timestamps, temperature, seed)


def batch_size(positions: int) -> int:
    """Return how many windows of so many positions a GPU decodes at once."""
    return min(GPU_BATCH, GPU_BATCH_POSITIONS // positions)


def static_memory(model: WhisperForConditionalGeneration) -> Memory:
    """Return the memory that all greedy batches of a model share; nothing is allocated before it is needed."""
    sizes = memory_sizes(model, GPU_BATCH, GPU_BATCH_POSITIONS)
    sizes["features"] = model.config.num_mel_bins * 2 * MAX_POSITIONS * ENCODER_GRAPH_ROWS
    return Memory(sizes, dtype=model.dtype, device=model.device)


@torch.inference_mode()
def greedy(
    model: WhisperForConditionalGeneration,
    encoded: Tensor,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    tokenizer: WhisperTokenizer,
) -> list[Hypothesis]:
    """Decode a batch greedily, without timestamps, from encoder outputs of any length.

    Args:
        model: on the device of `encoded`.
        encoded: shape (batch, positions, d_model).
        prompts: start, language, task, no timestamps; of any lengths.
        max_tokens: new tokens a row at most.
        tokenizer: of the model.
    """
    requests = [Request(prompt, max_tokens) for prompt in prompts]
    found = decode(model, Batch(model, encoded), requests, tokenizer)
    return [hypothesis for hypothesis in found if hypothesis is not None]  # nobody cancels
