"""The CPU engine: CTranslate2, int8 where the processor has it, without torch.

Features are numpy's; CTranslate2 takes any even number of frames up to 3,000 and encodes just those. It cannot be
interrupted inside a call, and a call cannot mix options or lengths of prompts. What it samples cannot be had again: its
workers draw from generators of their own. How many workers and threads are best
on a machine is `speech.engine.tuning`'s business.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
from numpy.typing import NDArray

from speech.checkpoint import read_json
from speech.context import FRAMES_PER_POSITION, SAMPLES_PER_POSITION, ElasticContext, positions_of
from speech.engine import (
    MAX_PROMPT_TOKENS,
    CancelledError,
    DecodingOptions,
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
from speech.engine.tuning import Tuning, load_whisper
from speech.features import log_mel_spectrogram, pad_or_trim
from speech.tokens import N_TIMESTAMPS, WhisperTokenizer
from speech.words import TokenTimes, starts_of, texts_to_align, with_words

BATCH_POSITIONS = 4000
"""A batch holds no more audio than this, 80 s: longer ones decode no faster, and who comes meanwhile waits for them."""


class CTranslate2Engine:
    """A loaded model; safe to call from several threads."""

    def __init__(
        self,
        model: ctranslate2.models.Whisper,
        tokenizer: WhisperTokenizer,
        context: ElasticContext,
        config: dict[str, Any],
        max_batch: int = Tuning.batch,
    ) -> None:
        self._model = model
        self._suppressed = list(config["suppress_ids"])
        self._suppressed_first = list(config["suppress_ids_begin"])
        self._timestamps = range(tokenizer.timestamp_begin, tokenizer.timestamp_begin + N_TIMESTAMPS)
        self._max_batch = max_batch
        self.tokenizer = tokenizer
        self.context = context
        self.concurrency = model.num_workers
        self.description = f"ctranslate2 {model.compute_type} on {model.device}"

    @classmethod
    def load(cls, folder: Path, context: ElasticContext, tuning: Tuning | None = None) -> "CTranslate2Engine":
        """Load a CTranslate2 folder.

        Args:
            folder: with model.bin, vocabulary.json, tokenizer.json and preprocessor_config.json.
            context: from the version's manifest.
            tuning: None takes what suits most machines.
        """
        tuning = tuning or Tuning()
        with ThreadPoolExecutor(1) as reader:  # the tokenizer takes a fifth of the time
            tokenizer = reader.submit(WhisperTokenizer.from_folder, folder)
            model = load_whisper(folder, tuning)
        return cls(model, tokenizer.result(), context, read_json(folder / "config.json"), tuning.batch)

    def batch_size(self, positions: int) -> int:
        """Return how many windows of so many positions to hand over at once."""
        return max(1, min(self._max_batch, BATCH_POSITIONS // positions))

    def prepare(self, window: Window) -> Window:
        """Compute the window's features."""
        return replace(window, features=self._features(window))

    def transcribe(
        self, windows: Sequence[Window], is_cancelled: IsCancelled = never
    ) -> list[DecodingResult | EngineError]:
        """Return one result or one error a window, in their order; cancelling has an effect between calls only."""
        return decode_in_batches(
            windows,
            self.context,
            self._decode,
            batch_size=self.batch_size,
            kind=lambda window: (window.options, len(window.prompt)),
            is_cancelled=is_cancelled,
            workers=self.concurrency,
        )

    def _features(self, window: Window) -> NDArray[np.float32]:
        n_samples = window.positions(self.context) * SAMPLES_PER_POSITION
        return log_mel_spectrogram(pad_or_trim(window.audio, n_samples), self._model.n_mels)

    def _decode(
        self, positions: int, windows: list[Window], is_cancelled: IsCancelled
    ) -> list[DecodingResult | EngineError]:
        features = np.stack([self._features(w) if w.features is None else w.features for w in windows])
        encoded = self._model.encode(ctranslate2.StorageView.from_array(features))  # (batch, positions, width)
        if all(is_cancelled(row) for row in range(len(windows))):
            return [CancelledError("cancelled") for _ in windows]
        languages = self._languages(encoded, windows)
        prompts = [self._prompt(w, language.code) for w, language in zip(windows, languages, strict=True)]
        options = windows[0].options
        max_tokens = max(window.max_new_tokens for window in windows)
        generated = self._model.generate(
            encoded,
            prompts,
            beam_size=options.beams,
            # CTranslate2 generates half of max_length, and no more than it leaves after the prompt.
            max_length=max_tokens + max(max_tokens, len(prompts[0])),
            return_scores=True,
            return_no_speech_prob=True,
            return_logits_vocab=options.token_logprobs and options.beams == 1,
            # -1: what the model suppresses. Told to write no timestamps, it still may, where little else is probable.
            suppress_tokens=[-1, *(self._timestamps if options.without_timestamps else ())],
            # Its scores are those of temperature 1, whichever is sampled with.
            **({"sampling_topk": 0, "sampling_temperature": options.temperature} if options.temperature > 0 else {}),
        )
        logprobs: Sequence[Sequence[float] | None] = [None] * len(windows)
        if options.token_logprobs:
            logprobs = (
                [self._chosen_logprobs(result, options) for result in generated]
                if options.beams == 1
                else self._aligned_logprobs(encoded, prompts, [result.sequences_ids[0] for result in generated])
            )
        results: list[DecodingResult | EngineError] = [
            make_result(
                self.tokenizer,
                result.sequences_ids[0],
                language,
                # scores[0] is the mean over the generated tokens, of a sum that has the end token's part.
                avg_logprob=result.scores[0]
                * max(len(result.sequences_ids[0]), 1)
                / (len(result.sequences_ids[0]) + 1),
                no_speech_prob=result.no_speech_prob,
                positions=positions,
                max_tokens=window.max_new_tokens,
                token_logprobs=row_logprobs,
                temperature=options.temperature,
            )
            for window, language, result, row_logprobs in zip(windows, languages, generated, logprobs, strict=True)
        ]
        texts = texts_to_align(self.tokenizer, windows, results)
        times = self._times(encoded, windows, languages, texts) if texts else {}
        return with_words(self.tokenizer, windows, results, times)

    def _chosen_logprobs(
        self, result: ctranslate2.models.WhisperGenerationResult, options: DecodingOptions
    ) -> list[float]:
        """Return the log-probability of each token, among those that were not suppressed."""
        chosen = []
        for step, (token, logits) in enumerate(zip(result.sequences_ids[0], result.logits[0], strict=False)):
            allowed = np.array(logits)  # (vocabulary,), a copy
            allowed[self._suppressed] = -np.inf
            if step == 0:
                allowed[self._suppressed_first] = -np.inf
            if options.without_timestamps:
                allowed[self.tokenizer.timestamp_begin :] = -np.inf
            highest = allowed.max()
            chosen.append(float(allowed[token] - highest - np.log(np.exp(allowed - highest).sum())))
        return chosen

    def _aligned_logprobs(
        self, encoded: ctranslate2.StorageView, prompts: list[list[int]], tokens: list[list[int]]
    ) -> list[list[float]]:
        """Return the log-probability of each token, as reading them again gives it: CTranslate2 keeps no beam's."""
        n_frames = encoded.shape[1]
        added = self.tokenizer.no_timestamps  # by `align` itself
        read = {
            tuple(prompt): self._model.align(encoded, [one for one in prompt if one != added], tokens, n_frames)
            for prompt in {tuple(prompt) for prompt in prompts}
        }
        return [
            np.log(np.maximum(read[tuple(prompt)][row].text_token_probs, 1e-30)).tolist()
            for row, prompt in enumerate(prompts)
        ]

    def _prompt(self, window: Window, language: str) -> list[int]:
        before = [self.tokenizer.sot_prev, *window.prompt[-MAX_PROMPT_TOKENS:]] if window.prompt else []
        # CTranslate2 does not look, and ends the process.
        if not all(0 <= token < self.tokenizer.timestamp_begin + N_TIMESTAMPS for token in before):
            raise ValueError("the prompt has tokens that the model does not know")
        timestamps = not window.options.without_timestamps
        return [*before, *self.tokenizer.prompt(language, window.task, timestamps=timestamps)]

    def _languages(self, encoded: ctranslate2.StorageView, windows: list[Window]) -> list[DetectedLanguage]:
        """Return each window's language; the encoder's output is used twice, not computed twice."""
        if all(window.language is not None for window in windows):
            return [choose_language(self.tokenizer, window, {}) for window in windows]
        return [
            choose_language(self.tokenizer, window, {token.strip("<|>"): float(p) for token, p in ranked})
            for window, ranked in zip(windows, self._model.detect_language(encoded), strict=True)
        ]

    def _times(
        self,
        encoded: ctranslate2.StorageView,
        windows: list[Window],
        languages: list[DetectedLanguage],
        texts: Mapping[int, Sequence[int]],
    ) -> dict[int, TokenTimes]:
        """Align texts (by row) on the encoder output that they were decoded from."""
        outputs = np.array(encoded)  # (batch, positions, width)
        rows_by_start: dict[tuple[int, ...], list[int]] = {}  # a call has one start sequence
        for row in texts:
            prompt = self.tokenizer.prompt(languages[row].code, windows[row].task, timestamps=True)
            rows_by_start.setdefault(tuple(prompt), []).append(row)
        times = {}
        for start, rows in rows_by_start.items():
            aligned = self._model.align(
                ctranslate2.StorageView.from_array(outputs[rows]),
                list(start),
                [list(texts[row]) for row in rows],
                # Of their own each: so no row's times depend on what shares its call, and none lie in its padding.
                [FRAMES_PER_POSITION * min(positions_of(windows[row].audio.size), outputs.shape[1]) for row in rows],
            )
            for row, alignment in zip(rows, aligned, strict=True):
                times[row] = TokenTimes(starts_of(alignment.alignments), alignment.text_token_probs)
        return times
