"""Files to transcripts without a server: many together, for speed, in bounded memory; one that fails fails alone.

What is a file is `service.files`' business, and what is a transcript `speech.transcribe`'s.
"""

import sys
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from service.files import Input
from speech.audio import SAMPLE_RATE, AudioError, decode_audio
from speech.engine import Engine, EngineError
from speech.tokens import Task
from speech.transcribe import Transcription, transcribe_many

TOGETHER_S = 160.0
"""Files are decoded together up to so much audio for each of the engine's workers: two of its largest batches."""

Audio = NDArray[np.float32]
Outcome = Transcription | AudioError | EngineError | OSError


def transcripts(
    engine: Engine, inputs: Sequence[Input], *, language: str | None = None, task: Task = "transcribe"
) -> Iterator[tuple[Input, Outcome]]:
    """Yield what was said in each input, or why that cannot be told.

    Args:
        engine: decodes.
        inputs: in any number; no more than `TOGETHER_S`, or one that is longer, is in memory at once.
        language: of all of them; None: each is in the language that it begins with.
        task: for all of them.

    Raises:
        UnknownLanguageError: the model has no such language.
    """
    together: dict[Input, Audio] = {}
    for one in inputs:
        try:
            together[one] = _read(one)
        except (AudioError, OSError) as error:
            yield one, error
        if sum(audio.size for audio in together.values()) >= TOGETHER_S * SAMPLE_RATE * engine.concurrency:
            yield from _decode(engine, together, language, task)
            together = {}
    if together:
        yield from _decode(engine, together, language, task)


def _read(one: Input) -> Audio:
    return decode_audio(sys.stdin.buffer.read() if one.path is None else one.path)


def _decode(
    engine: Engine, together: dict[Input, Audio], language: str | None, task: Task
) -> Iterator[tuple[Input, Outcome]]:
    try:
        results = transcribe_many(engine, list(together.values()), [language] * len(together), task=task)
        yield from zip(together, results, strict=True)
    except EngineError as error:
        if len(together) == 1:
            yield next(iter(together)), error
            return
        for one, audio in together.items():  # the others are not to blame
            yield from _decode(engine, {one: audio}, language, task)
