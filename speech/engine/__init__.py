"""One protocol for everything that turns windows of audio into text, and the function that picks an engine.

An engine decodes batches; it neither cuts audio into windows nor queues requests (`speech.transcribe` and the
service's scheduler do). Importing this module imports no engine: a CPU service never loads torch.
"""

import math
import zlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from speech.audio import SAMPLE_RATE
from speech.context import MAX_POSITIONS, ElasticContext
from speech.device import Device, takes_gpu
from speech.tokens import Task, WhisperTokenizer

if TYPE_CHECKING:
    from speech.engine.tuning import Tuning

FinishReason = Literal["stop", "length"]
"""The end token came, or it did not within `Window.max_new_tokens`."""

MAX_NEW_TOKENS = 224
"""CTranslate2 and openai/whisper both stop there: half of the decoder's positions."""

MAX_PROMPT_TOKENS = 223
"""Of what was said before: with the start of previous text, the other half of the decoder's positions."""


@dataclass(frozen=True)
class DecodingOptions:
    """How one window is decoded, in openai/whisper's names."""

    beam_size: int = 1  # 1: greedily; no beams where tokens are sampled
    without_timestamps: bool = True
    token_logprobs: bool = False  # also return each token's log-probability
    word_timestamps: bool = False  # also return words, aligned by cross-attention
    temperature: float = 0.0  # 0: the most probable tokens; above: sampled

    @property
    def beams(self) -> int:
        """The hypotheses that are followed side by side."""
        return 1 if self.temperature > 0 else self.beam_size


GREEDY = DecodingOptions()


@dataclass(frozen=True)
class Window:
    """At most 30 s of 16 kHz mono audio, and what is known and wanted of it."""

    audio: NDArray[np.float32]  # (n_samples,)
    language: str | None = None  # a code of the model's; None: detect it
    task: Task = "transcribe"
    options: DecodingOptions = GREEDY
    prompt: tuple[int, ...] = ()  # text tokens of what was said before; the last MAX_PROMPT_TOKENS are used
    full_context: bool = False  # pay for 30 s, also where the model's context is elastic
    features: NDArray[np.float32] | None = None  # by Engine.prepare; the engine makes what is missing
    languages: tuple[str, ...] = ()  # codes to choose from where it is detected; empty: all

    def positions(self, context: ElasticContext) -> int:
        """Return the encoder positions to spend on it."""
        return MAX_POSITIONS if self.full_context else context.positions(self.audio.size)

    @property
    def max_new_tokens(self) -> int:
        """How many tokens it may have; by its own length, not by what shares its batch."""
        return max_new_tokens(self.audio.size)


def max_new_tokens(n_samples: int) -> int:
    """Return how many tokens so much audio, at 16 kHz, may have: a loop is cut short, and no speech is cut off.

    30 a second is twice what the densest scripts need (three byte tokens a letter); 224 is the decoder's own limit.
    """
    return min(MAX_NEW_TOKENS, 24 + math.ceil(30 * n_samples / SAMPLE_RATE))


@dataclass(frozen=True)
class Word:
    """A word of a transcript, in openai/whisper's names; times in seconds."""

    start: float  # in a DecodingResult from the window's beginning, in a Segment from the audio's
    end: float
    word: str  # as it stands in the text: blank before, punctuation with it
    probability: float  # geometric mean of its tokens', without the punctuation around it
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class DecodingResult:
    """One window's hypothesis, in openai/whisper's names."""

    text: str
    tokens: tuple[int, ...]  # text tokens, and timestamps where they were asked for; no other special token
    language: str
    language_probability: float  # among all that the model knows; 1.0 where the language was given
    avg_logprob: float  # natural logarithm, mean over the tokens and the end token; at temperature 1, also if sampled
    no_speech_prob: float
    compression_ratio: float
    positions: int  # encoder positions that were paid for
    finish_reason: FinishReason = "stop"
    token_logprobs: tuple[float, ...] | None = None  # one a token; None where they were not asked for
    words: tuple[Word, ...] | None = None  # whose texts together are `text`; None where they were not asked for
    temperature: float = 0.0  # that the tokens were sampled with
    language_probabilities: Mapping[str, float] | None = None  # of all that were to choose from; None where given


class DetectedLanguage(NamedTuple):
    """A window's language, given or found."""

    code: str
    probability: float = 1.0
    among: Mapping[str, float] | None = None  # of all that were to choose from, the most probable first


class EngineError(Exception):
    """One window could not be decoded; its batch was not harmed."""


class CancelledError(EngineError):
    """Nobody waits for this window any more; it was left where it was."""


IsCancelled = Callable[[int], bool]
"""Whether nobody waits any more for the window of this index. Asked on the engine's threads."""


def never(_index: int) -> bool:
    """Cancel nothing."""
    return False


class Engine(Protocol):
    """What the service and training ask of a decoder."""

    tokenizer: WhisperTokenizer
    context: ElasticContext
    description: str
    """What runs where, for humans: "ctranslate2 int8 on cpu"."""
    concurrency: int
    """Calls of `transcribe` at once that make it faster; more only wait."""

    def batch_size(self, positions: int) -> int:
        """Return how many windows of so many positions to hand over at once: more of them gain nothing."""
        ...

    def prepare(self, window: Window) -> Window:
        """Do what can be done for a window on any thread, while the engine is busy with others."""
        ...

    def transcribe(
        self, windows: Sequence[Window], is_cancelled: IsCancelled = never
    ) -> list[DecodingResult | EngineError]:
        """Return one result or one error a window, in their order.

        Args:
            windows: any mixture of lengths, languages, tasks, options and prompts.
            is_cancelled: asked now and then; a cancelled window's answer is a `CancelledError`.
        """
        ...


def load_engine(
    folder: Path, context: ElasticContext, *, device: Device = "auto", tuning: "Tuning | None" = None
) -> Engine:
    """Load a version: torch on a GPU if there is one (and torch is installed), CTranslate2 on the CPU otherwise.

    Args:
        folder: a version's folder: transformers checkpoint, and its export in `ctranslate2/`.
        context: from the version's manifest.
        device: "auto", "cpu" or "cuda".
        tuning: of the CPU engine; None takes what suits most machines.

    Raises:
        RuntimeError: "cuda" was asked for, and there is no GPU or no torch to drive it.
    """
    if takes_gpu(device):
        from speech.engine.torch_engine import TorchEngine

        return TorchEngine.load(folder, context, device="cuda")
    from speech.engine.ctranslate2_engine import CTranslate2Engine

    return CTranslate2Engine.load(folder / "ctranslate2", context, tuning)


def choose_language(
    tokenizer: WhisperTokenizer, window: Window, probabilities: Mapping[str, float]
) -> DetectedLanguage:
    """Return the language that a window is decoded in: the given one, or the most probable that it may be.

    Probabilities are among all languages, as openai/whisper's: where few are allowed, their sum says whether it is any
    of them.

    Args:
        tokenizer: of the model.
        window: says the language, or which it may be.
        probabilities: by code, of all languages that the model knows; not looked at where the language is given.

    Raises:
        UnknownLanguageError: the model knows one of them not.
    """
    if window.language is not None:
        return DetectedLanguage(window.language)
    allowed = [tokenizer.language_code(code) for code in window.languages] or list(probabilities)
    among = dict(sorted(((code, probabilities[code]) for code in allowed), key=lambda item: -item[1]))
    code = next(iter(among))
    return DetectedLanguage(code, among[code], among)


def make_result(
    tokenizer: WhisperTokenizer,
    generated: Sequence[int],
    language: DetectedLanguage,
    *,
    avg_logprob: float,
    no_speech_prob: float,
    positions: int,
    max_tokens: int,
    token_logprobs: Sequence[float] | None = None,
    temperature: float = 0.0,
) -> DecodingResult:
    """Make a result of what an engine generated, special tokens left out, the text decoded and measured.

    Args:
        tokenizer: of the model.
        generated: without the end token.
        language: given or detected.
        avg_logprob: over `generated` and the end token.
        no_speech_prob: after the start token.
        positions: that were paid for.
        max_tokens: of the window; what goes beyond is left out.
        token_logprobs: one for each of `generated`.
        temperature: that they were sampled with.
    """
    kept = [
        i
        for i, token in enumerate(generated[:max_tokens])
        if token < tokenizer.eot or token >= tokenizer.timestamp_begin
    ]
    tokens = tuple(generated[i] for i in kept)
    text = tokenizer.decode(tokens).strip()
    return DecodingResult(
        text=text,
        tokens=tokens,
        language=language.code,
        language_probability=language.probability,
        avg_logprob=avg_logprob,
        no_speech_prob=no_speech_prob,
        compression_ratio=compression_ratio(text),
        positions=positions,
        finish_reason="length" if len(generated) >= max_tokens else "stop",
        token_logprobs=None if token_logprobs is None else tuple(token_logprobs[i] for i in kept),
        temperature=temperature,
        language_probabilities=language.among,
    )


def compression_ratio(text: str) -> float:
    """Return how much zlib shrinks `text`: above 2.4 Whisper calls it a loop."""
    encoded = text.encode()
    return len(encoded) / len(zlib.compress(encoded)) if encoded else 0.0


BatchKey = tuple[int, Hashable]


def decode_in_batches(
    windows: Sequence[Window],
    context: ElasticContext,
    decode: Callable[[int, list[Window], IsCancelled], list[DecodingResult | EngineError]],
    *,
    batch_size: Callable[[int], int],
    kind: Callable[[Window], Hashable] = lambda _: None,
    is_cancelled: IsCancelled = never,
    workers: int = 1,
) -> list[DecodingResult | EngineError]:
    """Call `decode` on batches of one context and one kind each; a window that fails fails alone.

    Args:
        windows: in any order.
        context: says each window's positions.
        decode: positions, windows, and which of them (by index in the batch) are cancelled, to answers; may raise,
            then the batch is halved until the culprit is alone.
        batch_size: windows of so many positions a call at most.
        kind: windows of different kinds cannot share a call.
        is_cancelled: as in `Engine.transcribe`.
        workers: calls at once; `decode` must bear that if it is more than one.
    """
    keys: list[BatchKey] = [(window.positions(context), kind(window)) for window in windows]
    groups: dict[BatchKey, list[int]] = {}
    for i in sorted(range(len(windows)), key=lambda i: (keys[i][0], windows[i].audio.size)):
        groups.setdefault(keys[i], []).append(i)  # like lengths together: the longest text of a batch decides
    batches = [
        indices[start : start + batch_size(positions)]
        for (positions, _), indices in groups.items()
        for start in range(0, len(indices), batch_size(positions))
    ]

    def run(indices: list[int]) -> list[tuple[int, DecodingResult | EngineError]]:
        wanted = [i for i in indices if not is_cancelled(i)]
        answers: list[tuple[int, DecodingResult | EngineError]] = [
            (i, CancelledError("cancelled")) for i in indices if i not in wanted
        ]
        if not wanted:
            return answers
        try:
            decoded = decode(keys[wanted[0]][0], [windows[i] for i in wanted], lambda row: is_cancelled(wanted[row]))
        except Exception as error:  # noqa: BLE001 - whatever the engine's library raises is this window's answer
            if len(wanted) == 1:
                return [*answers, (wanted[0], EngineError(str(error)))]
            middle = len(wanted) // 2
            return answers + run(wanted[:middle]) + run(wanted[middle:])
        return [*answers, *zip(wanted, decoded, strict=True)]

    if workers == 1:
        answers = [run(batch) for batch in batches]
    else:
        with ThreadPoolExecutor(workers) as pool:
            answers = list(pool.map(run, reversed(batches)))  # the longest first, or one worker ends alone
    results = dict(answer for batch in answers for answer in batch)
    return [results[i] for i in range(len(windows))]
