"""The CPU engine: CTranslate2, int8 where the processor has it, without torch.

Features are numpy's; CTranslate2 takes any even number of frames up to 3,000 and encodes just those. It cannot be
interrupted inside a call.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import ctranslate2
import numpy as np

from speech.checkpoint import read_json
from speech.context import SAMPLES_PER_POSITION, ElasticContext
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

MAX_BATCH = 8  # measured on 2 cores: 16 is slower (the longest text of a batch decides)


class CTranslate2Engine:
    """A loaded model; safe to call from several threads."""

    def __init__(
        self, model: ctranslate2.models.Whisper, tokenizer: WhisperTokenizer, context: ElasticContext, n_mels: int
    ) -> None:
        self._model = model
        self._n_mels = n_mels
        self.tokenizer = tokenizer
        self.context = context
        self.description = f"ctranslate2 {model.compute_type} on {model.device}"

    @classmethod
    def load(
        cls,
        folder: Path,
        context: ElasticContext,
        *,
        compute_type: str = "int8",
        threads: int = 0,
        workers: int = 1,
    ) -> "CTranslate2Engine":
        """Load a CTranslate2 folder.

        Args:
            folder: with model.bin, vocabulary.json, tokenizer.json and preprocessor_config.json.
            context: from the version's manifest.
            compute_type: what the weights are turned into: "int8" or "float32".
            threads: of each worker; 0 shares the cores among the workers.
            workers: batches that are decoded at once, from one copy of the weights; 0 for one a core.
        """
        workers = workers or _cores()
        model = ctranslate2.models.Whisper(
            str(folder),
            device="cpu",
            compute_type=compute_type,
            inter_threads=workers,
            intra_threads=threads or max(1, _cores() // workers),
        )
        n_mels = int(read_json(folder / "preprocessor_config.json")["feature_size"])
        return cls(model, WhisperTokenizer.from_folder(folder), context, n_mels)

    def transcribe(
        self, windows: Sequence[Window], options: DecodingOptions = GREEDY
    ) -> list[DecodingResult | EngineError]:
        """Return one result or one error a window, in their order."""
        return decode_by_bucket(
            windows,
            self.context,
            MAX_BATCH,
            lambda positions, batch: self._decode(positions, batch, options),
            workers=self._model.num_workers,
        )

    def _decode(self, positions: int, windows: list[Window], options: DecodingOptions) -> list[DecodingResult]:
        n_samples = positions * SAMPLES_PER_POSITION
        features = np.stack([log_mel_spectrogram(pad_or_trim(w.audio, n_samples), self._n_mels) for w in windows])
        encoded = self._model.encode(ctranslate2.StorageView.from_array(features))  # (batch, positions, width)
        languages = self._languages(encoded, windows)
        prompts = [
            self.tokenizer.prompt(language, window.task, timestamps=not options.without_timestamps)
            for (language, _), window in zip(languages, windows, strict=True)
        ]
        generated = self._model.generate(
            encoded,
            prompts,
            beam_size=options.beam_size,
            max_length=2 * max_new_tokens(positions),  # CTranslate2 generates half of max_length
            return_scores=True,
            return_no_speech_prob=True,
        )
        results = []
        for language, result in zip(languages, generated, strict=True):
            n_scored = max(len(result.sequences_ids[0]), 1)  # scores[0] is the mean over the generated tokens
            results.append(
                make_result(
                    self.tokenizer,
                    result.sequences_ids[0],
                    language,
                    avg_logprob=result.scores[0] * n_scored / (n_scored + 1),
                    no_speech_prob=result.no_speech_prob,
                    positions=positions,
                )
            )
        return results

    def _languages(self, encoded: ctranslate2.StorageView, windows: list[Window]) -> list[tuple[str, float]]:
        """Return code and probability for each window; the encoder's output is used twice, not computed twice."""
        if all(window.language is not None for window in windows):
            return [(str(window.language), 1.0) for window in windows]
        detected = self._model.detect_language(encoded)
        return [
            (window.language, 1.0) if window.language is not None else (ranked[0][0].strip("<|>"), float(ranked[0][1]))
            for window, ranked in zip(windows, detected, strict=True)
        ]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
