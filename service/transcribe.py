"""From an uploaded file to a transcript: decode and cut on a thread, queue the windows, put the answers together.

What speech is and where to cut is `speech.transcribe`'s business; this is its asynchronous twin over the scheduler.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import BinaryIO

import anyio.to_thread

from service.metrics import Metrics
from service.scheduler import Scheduler
from service.turns import Job
from speech.audio import SAMPLE_RATE, decode_audio
from speech.engine import DecodingResult, Engine, Window
from speech.tokens import Task
from speech.transcribe import Slice, Transcription, assemble, at_full_context, cut, looks_wrong, windows

DECODE_THREADS = 2
"""Uploads that are decoded at once: each holds its whole audio in memory before it is admitted."""

PREPARED = 8
"""Windows of a file, from its beginning, whose features are made before they queue: all of a clip's."""


async def transcribe(
    file: BinaryIO,
    language: str | None,
    task: Task,
    *,
    scheduler: Scheduler,
    limiter: anyio.CapacityLimiter,
    max_seconds: float,
    metrics: Metrics,
) -> Transcription:
    """Transcribe one encoded file.

    Args:
        file: read from its current position.
        language: a code of the model's; None: the one of the first window that is not silent.
        task: "transcribe" or "translate" (to English).
        scheduler: decodes the windows.
        limiter: bounds the files that are decoded at once, to `DECODE_THREADS`.
        max_seconds: the longest audio to accept.
        metrics: told how long decoding the file took.

    Raises:
        AudioError: the file cannot be used.
        OverloadedError: there is too much to do already.
        EngineError: a window could not be decoded.
    """
    slices, to_decode = await anyio.to_thread.run_sync(
        _read_windows, file, language, task, scheduler.engine, max_seconds, metrics, limiter=limiter
    )
    answers = iter(await _decode(scheduler, [window for window in to_decode if window is not None]))
    results = [None if window is None else next(answers) for window in to_decode]
    return assemble(slices, results, language)


def _read_windows(
    file: BinaryIO, language: str | None, task: Task, engine: Engine, max_seconds: float, metrics: Metrics
) -> tuple[list[Slice], list[Window | None]]:
    with metrics.stage("decode"):
        audio = decode_audio(file.read(), max_seconds=max_seconds)
        slices = cut(audio, elastic=engine.context.elastic)
        made = windows(audio, slices, language, task)
        # Here, while the engine is busy with others. The rest of a long file waits for its turn without taking memory.
        return slices, [window and engine.prepare(window) for window in made[:PREPARED]] + made[PREPARED:]


async def _decode(scheduler: Scheduler, to_decode: Sequence[Window]) -> list[DecodingResult]:
    if not to_decode:
        return []
    with scheduler.admit(sum(window.audio.size for window in to_decode) / SAMPLE_RATE) as job:
        if to_decode[0].language is not None:
            return await _decode_well(scheduler, job, to_decode)
        # One language a file, as in openai/whisper: else a cough between two sentences is Welsh.
        first = await _decode_well(scheduler, job, to_decode[:1])
        rest = [replace(window, language=first[0].language) for window in to_decode[1:]]
        return first + await _decode_well(scheduler, job, rest)


async def _decode_well(scheduler: Scheduler, job: Job, to_decode: Sequence[Window]) -> list[DecodingResult]:
    """Decode windows, and those again at 30 s whose answer at a short context looks wrong."""
    results = await scheduler.submit(job, to_decode)
    again = [i for i, result in enumerate(results) if looks_wrong(result)]
    better = await scheduler.submit(job, [at_full_context(to_decode[i]) for i in again])
    for i, result in zip(again, better, strict=True):
        results[i] = result
    return results
