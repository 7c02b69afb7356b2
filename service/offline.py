"""Files to transcripts without a server: many together, for speed, in bounded memory; one that fails fails alone.

What is a file is `service.files`' business, and what is a transcript `speech.transcribe`'s.
"""

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from service.files import Input
from speech.audio import SAMPLE_RATE, AudioError, declared_seconds, stream_audio, until_damage
from speech.engine import Engine, EngineError
from speech.transcribe import Options, Transcription, transcribe, transcribe_many

TOGETHER_S = 160.0
"""Files are decoded together up to so much audio for each of the engine's workers: two of its largest batches."""

Audio = NDArray[np.float32]


@dataclass(frozen=True)
class Heard:
    """What was said in one input."""

    transcription: Transcription
    fault: AudioError | None = None  # why the rest is missing: the file is cut off or damaged


Outcome = Heard | AudioError | EngineError | OSError


def transcripts(
    engine: Engine,
    inputs: Sequence[Input],
    options: Options,
    on_progress: Callable[[Input, float], None] = lambda _one, _seconds: None,
) -> Iterator[tuple[Input, Outcome]]:
    """Yield what was said in each input, or why that cannot be told.

    Args:
        engine: decodes.
        inputs: in any number; no more than `TOGETHER_S` of them is in memory at once, and of a longer one less.
        options: for all of them.
        on_progress: told of the seconds that are done of an input that takes long.

    Raises:
        UnknownLanguageError: the model has no such language.
    """
    together: dict[Input, tuple[Audio, AudioError | None]] = {}
    for one in inputs:
        try:
            if one.path is None:
                with tempfile.TemporaryFile() as file:  # most containers cannot be read without going back
                    shutil.copyfileobj(sys.stdin.buffer, file)
                    yield one, _long(engine, one, file, options, on_progress)
                continue
            if not 0 < declared_seconds(one.path) <= TOGETHER_S:  # 0: its header does not say
                yield one, _long(engine, one, one.path, options, on_progress)
                continue
            together[one] = _read(one.path)
        except (AudioError, EngineError, OSError) as error:
            yield one, error
        if sum(audio.size for audio, _ in together.values()) >= TOGETHER_S * SAMPLE_RATE * engine.concurrency:
            yield from _decode(engine, together, options)
            together = {}
    if together:
        yield from _decode(engine, together, options)


def _read(source: Path) -> tuple[Audio, AudioError | None]:
    """Return what can be heard of a file, and why the rest cannot."""
    faults: list[AudioError] = []
    blocks = list(until_damage(stream_audio(source), faults.append))
    return np.concatenate(blocks), faults[0] if faults else None


def _long(
    engine: Engine,
    one: Input,
    source: Path | BinaryIO,
    options: Options,
    on_progress: Callable[[Input, float], None],
) -> Heard:
    """Transcribe a file while it is decoded."""
    faults: list[AudioError] = []
    blocks = until_damage(stream_audio(source), faults.append)
    said = transcribe(engine, blocks, options, lambda added: on_progress(one, added.seconds))
    return Heard(said, faults[0] if faults else None)


def _decode(
    engine: Engine, together: dict[Input, tuple[Audio, AudioError | None]], options: Options
) -> Iterator[tuple[Input, Outcome]]:
    try:
        results = transcribe_many(engine, [audio for audio, _ in together.values()], [options] * len(together))
        for (one, (_, fault)), said in zip(together.items(), results, strict=True):
            yield one, Heard(said, fault)
    except EngineError as error:
        if len(together) == 1:
            yield next(iter(together)), error
            return
        for one, heard in together.items():  # the others are not to blame
            yield from _decode(engine, {one: heard}, options)
