"""From an uploaded file to a transcript: decode and cut on a thread, queue the windows, put the answers together.

What speech is and where to cut is `speech.transcribe`'s business; this is its asynchronous twin over the scheduler.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import BinaryIO

import anyio.to_thread

from service.scheduler import Scheduler
from speech.audio import SAMPLE_RATE, decode_audio
from speech.engine import DecodingResult, Window
from speech.tokens import Task
from speech.transcribe import Slice, Transcription, assemble, cut, windows

DECODE_THREADS = 2
"""Uploads that are decoded at once: each holds its whole audio in memory before it is admitted."""


async def transcribe(
    file: BinaryIO,
    language: str | None,
    task: Task,
    *,
    scheduler: Scheduler,
    limiter: anyio.CapacityLimiter,
    max_seconds: float,
) -> Transcription:
    """Transcribe one encoded file.

    Args:
        file: read from its current position.
        language: a code of the model's; None: the one of the first window that is not silent.
        task: "transcribe" or "translate" (to English).
        scheduler: decodes the windows.
        limiter: bounds the files that are decoded at once, to `DECODE_THREADS`.
        max_seconds: the longest audio to accept.

    Raises:
        AudioError: the file cannot be used.
        OverloadedError: there is too much to do already.
        EngineError: a window could not be decoded.
    """
    slices, to_decode = await anyio.to_thread.run_sync(
        _read_windows, file, language, task, max_seconds, limiter=limiter
    )
    answers = iter(await _decode(scheduler, [window for window in to_decode if window is not None]))
    results = [None if window is None else next(answers) for window in to_decode]
    return assemble(slices, results, language)


def _read_windows(
    file: BinaryIO, language: str | None, task: Task, max_seconds: float
) -> tuple[list[Slice], list[Window | None]]:
    audio = decode_audio(file.read(), max_seconds=max_seconds)
    slices = cut(audio)
    return slices, windows(audio, slices, language, task)


async def _decode(scheduler: Scheduler, to_decode: Sequence[Window]) -> list[DecodingResult]:
    if not to_decode:
        return []
    with scheduler.admit(sum(window.audio.size for window in to_decode) / SAMPLE_RATE) as job:
        if to_decode[0].language is not None:
            return await scheduler.submit(job, to_decode)
        # One language a file, as in openai/whisper: else a cough between two sentences is Welsh.
        first = await scheduler.submit(job, to_decode[:1])
        rest = [replace(window, language=first[0].language) for window in to_decode[1:]]
        return first + await scheduler.submit(job, rest)
