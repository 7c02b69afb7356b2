"""One protocol for everything that turns windows of audio into text, and the function that picks an engine.

An engine decodes batches; it neither cuts audio into windows nor queues requests (`speech.transcribe` and the
service's scheduler do). Importing this module imports no engine: a CPU service never loads torch.
"""

import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from speech.context import POSITIONS_PER_SECOND, ElasticContext
from speech.tokens import Task, WhisperTokenizer

Device = Literal["auto", "cpu", "cuda"]

MAX_NEW_TOKENS = 224
"""CTranslate2 and openai/whisper both stop there: half of the decoder's positions."""


@dataclass(frozen=True)
class Window:
    """At most 30 s of 16 kHz mono audio, and what is known of it."""

    audio: NDArray[np.float32]  # (n_samples,)
    language: str | None = None  # a code of the model's; None: detect it
    task: Task = "transcribe"


@dataclass(frozen=True)
class DecodingOptions:
    """What holds for a whole batch."""

    beam_size: int = 1
    without_timestamps: bool = True


GREEDY = DecodingOptions()


@dataclass(frozen=True)
class DecodingResult:
    """One window's hypothesis, in openai/whisper's names."""

    text: str
    tokens: tuple[int, ...]  # text tokens only
    language: str
    language_probability: float  # 1.0 where the language was given
    avg_logprob: float  # natural logarithm, mean over the tokens and the end token
    no_speech_prob: float
    compression_ratio: float
    positions: int  # encoder positions that were paid for


class EngineError(Exception):
    """One window could not be decoded; its batch was not harmed."""


class Engine(Protocol):
    """What the service and training ask of a decoder."""

    tokenizer: WhisperTokenizer
    context: ElasticContext
    description: str
    """What runs where, for humans: "ctranslate2 int8 on cpu"."""

    def transcribe(
        self, windows: Sequence[Window], options: DecodingOptions = GREEDY
    ) -> list[DecodingResult | EngineError]:
        """Return one result or one error a window, in their order."""
        ...


def load_engine(
    folder: Path, context: ElasticContext, *, device: Device = "auto", threads: int = 0, workers: int = 1
) -> Engine:
    """Load a version: torch on a GPU if there is one (and torch is installed), CTranslate2 on the CPU otherwise.

    Args:
        folder: a version's folder: transformers checkpoint, and its export in `ctranslate2/`.
        context: from the version's manifest.
        device: "auto", "cpu" or "cuda".
        threads: of each worker of the CPU engine; 0 shares the cores among the workers.
        workers: batches that the CPU engine decodes at once. One answers a lone request soonest; one a core, of one
            thread each, gets most done in an hour. 0 for one a core.

    Raises:
        RuntimeError: "cuda" was asked for, and there is no GPU or no torch to drive it.
    """
    if device == "cuda" or (device == "auto" and _gpu_is_usable()):
        from speech.engine.torch_engine import TorchEngine

        return TorchEngine.load(folder, context, device="cuda")
    from speech.engine.ctranslate2_engine import CTranslate2Engine

    return CTranslate2Engine.load(folder / "ctranslate2", context, threads=threads, workers=workers)


def _gpu_is_usable() -> bool:
    import importlib.util

    import ctranslate2

    # Asks the driver without importing torch, which takes seconds and hundreds of MB.
    return ctranslate2.get_cuda_device_count() > 0 and importlib.util.find_spec("torch") is not None


def make_result(
    tokenizer: WhisperTokenizer,
    tokens: Sequence[int],
    language: tuple[str, float],
    *,
    avg_logprob: float,
    no_speech_prob: float,
    positions: int,
) -> DecodingResult:
    """Make a result of what an engine generated: special tokens left out, the text decoded and measured."""
    said = tuple(token for token in tokens if token < tokenizer.eot)
    text = tokenizer.decode(said).strip()
    code, probability = language
    return DecodingResult(
        text=text,
        tokens=said,
        language=code,
        language_probability=probability,
        avg_logprob=avg_logprob,
        no_speech_prob=no_speech_prob,
        compression_ratio=compression_ratio(text),
        positions=positions,
    )


def compression_ratio(text: str) -> float:
    """Return how much zlib shrinks `text`: above 2.4 Whisper calls it a loop."""
    encoded = text.encode()
    return len(encoded) / len(zlib.compress(encoded)) if encoded else 0.0


def max_new_tokens(positions: int) -> int:
    """Return how many tokens a window of `positions` may have, a loop cut short and no speech cut off.

    30 a second is twice what the densest scripts need (three byte tokens a letter); 224 is the decoder's own limit.
    """
    return min(MAX_NEW_TOKENS, 24 + 30 * positions // POSITIONS_PER_SECOND)


def decode_by_bucket(
    windows: Sequence[Window],
    context: ElasticContext,
    max_batch: int,
    decode: Callable[[int, list[Window]], list[DecodingResult]],
    *,
    workers: int = 1,
) -> list[DecodingResult | EngineError]:
    """Call `decode` on batches that hold one context each; a window that fails fails alone.

    Args:
        windows: in any order.
        context: says each window's positions.
        max_batch: windows a call at most.
        decode: positions and windows to results; may raise, then the batch is halved until the culprit is alone.
        workers: calls at once; `decode` must bear that if it is more than one.
    """
    positions = [context.positions(window.audio.size) for window in windows]
    order = sorted(range(len(windows)), key=lambda i: (positions[i], windows[i].audio.size))
    batches = [
        same[start : start + max_batch]
        for _, group in groupby(order, key=lambda i: positions[i])
        for same in [list(group)]
        for start in range(0, len(same), max_batch)
    ]

    def run(indices: list[int]) -> list[tuple[int, DecodingResult | EngineError]]:
        try:
            decoded = decode(positions[indices[0]], [windows[i] for i in indices])
        except Exception as error:  # noqa: BLE001 - whatever the engine's library raises is this window's answer
            if len(indices) == 1:
                return [(indices[0], EngineError(str(error)))]
            middle = len(indices) // 2
            return run(indices[:middle]) + run(indices[middle:])
        return list(zip(indices, decoded, strict=True))

    if workers == 1:
        answers = [run(batch) for batch in batches]
    else:
        with ThreadPoolExecutor(workers) as pool:
            answers = list(pool.map(run, reversed(batches)))  # the longest first, or one worker ends alone
    results = dict(answer for batch in answers for answer in batch)
    return [results[i] for i in range(len(windows))]
