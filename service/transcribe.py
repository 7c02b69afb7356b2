"""From an uploaded file to a transcript: decode and cut on a thread, queue the windows, put the answers together.

What speech is and where to cut is `speech.transcribe`'s business; this is its asynchronous twin over the scheduler.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO

import anyio.to_thread

from service.metrics import Metrics
from service.scheduler import Scheduler
from service.turns import Job, Lane
from speech.audio import SAMPLE_RATE, decode_audio
from speech.engine import GREEDY, DecodingOptions, DecodingResult, Engine, Window
from speech.tokens import Task
from speech.transcribe import Slice, Transcription, assemble, at_full_context, cut, looks_wrong, windows

DECODE_THREADS = 2
"""Uploads that are decoded at once: each holds its whole audio in memory before it is admitted."""

PREPARED = 8
"""Windows of a file, from its beginning, whose features are made before they queue: all of a clip's."""


@dataclass(frozen=True)
class Wanted:
    """What is to be done with a file."""

    language: str | None = None  # a code of the model's; None: the one of the first window that is not silent
    task: Task = "transcribe"
    prompt: str | None = None  # what was said before, for every window: its spelling is imitated
    options: DecodingOptions = GREEDY


@dataclass(frozen=True)
class Means:
    """What it is done with."""

    scheduler: Scheduler
    limiter: anyio.CapacityLimiter  # bounds the files that are decoded at once, to `DECODE_THREADS`
    metrics: Metrics  # told how long decoding the file took
    max_seconds: float  # the longest audio to accept
    lane: Lane = "interactive"
    deadline: float | None = None  # when nobody waits for the answer any longer, by the event loop's clock
    on_admit: Callable[[Job], None] = lambda _: None  # told of the request's place in the queue, when it has one


async def transcribe(
    file: BinaryIO, wanted: Wanted, means: Means, *, on_result: Callable[[DecodingResult], None] = lambda _: None
) -> Transcription:
    """Transcribe one encoded file.

    Args:
        file: read from its current position.
        wanted: language, task and how to decode.
        means: what the service has for it.
        on_result: told of each window's answer, in their order, as soon as it and those before it are there.

    Raises:
        AudioError: the file cannot be used.
        OverloadedError: there is too much to do already.
        EngineError: a window could not be decoded.
        DeadlineUnreachableError, DeadlineExceededError: there is too little time for it, or was.
    """
    async with means.limiter:
        reading = asyncio.create_task(anyio.to_thread.run_sync(_read_windows, file, wanted, means))
        try:
            slices, to_decode = await asyncio.shield(reading)
        except asyncio.CancelledError:
            # The thread cannot be stopped: until it ends, its audio is in memory, and the file may not be closed.
            await asyncio.wait([reading])
            raise
    spoken = [window for window in to_decode if window is not None]
    answers = iter(await _decode(means, spoken, on_result))
    results = [None if window is None else next(answers) for window in to_decode]
    return assemble(slices, results, wanted.language)


def _read_windows(file: BinaryIO, wanted: Wanted, means: Means) -> tuple[list[Slice], list[Window | None]]:
    engine: Engine = means.scheduler.engine
    prompt = tuple(engine.tokenizer.encode(wanted.prompt)) if wanted.prompt else ()
    with means.metrics.stage("decode"):
        audio = decode_audio(file.read(), max_seconds=means.max_seconds)
        slices = cut(audio, elastic=engine.context.elastic)
        made = [
            window and replace(window, prompt=prompt, options=wanted.options)
            for window in windows(audio, slices, wanted.language, wanted.task)
        ]
        # Here, while the engine is busy with others. The rest of a long file waits for its turn without taking memory.
        return slices, [window and engine.prepare(window) for window in made[:PREPARED]] + made[PREPARED:]


async def _decode(
    means: Means, to_decode: Sequence[Window], on_result: Callable[[DecodingResult], None]
) -> list[DecodingResult]:
    if not to_decode:
        return []
    results: list[DecodingResult] = []
    scheduler = means.scheduler
    seconds = sum(window.audio.size for window in to_decode) / SAMPLE_RATE
    with scheduler.admit(seconds, lane=means.lane, deadline=means.deadline) as job:
        means.on_admit(job)
        if to_decode[0].language is None:
            # One language a file, as in openai/whisper: else a cough between two sentences is Welsh.
            results.append(await _decode_well(scheduler, job, to_decode[0]))
            on_result(results[0])
            to_decode = [replace(window, language=results[0].language) for window in to_decode[1:]]
        decoding = [asyncio.create_task(_decode_well(scheduler, job, window)) for window in to_decode]
        try:
            for task in decoding:
                results.append(await task)
                on_result(results[-1])
        finally:
            for task in decoding:
                task.cancel()  # if one failed, nobody waits for the others
            await asyncio.gather(*decoding, return_exceptions=True)
    return results


async def _decode_well(scheduler: Scheduler, job: Job, window: Window) -> DecodingResult:
    """Decode a window, and again at 30 s if its answer at a short context looks wrong."""
    result = (await scheduler.submit(job, [window]))[0]
    return (await scheduler.submit(job, [at_full_context(window)]))[0] if looks_wrong(result) else result
