"""From an uploaded file to a transcript: decode and cut on a thread, queue the windows, put the answers together.

What speech is, where to cut and what to believe is `speech`'s business; this is `speech.transcribe`'s asynchronous twin
over the scheduler. A file is decoded while its first windows are, and no more of it is in memory than `WINDOWS_AHEAD`.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import BinaryIO, TypeVar

import anyio.to_thread

from service.metrics import Metrics
from service.scheduler import Scheduler
from service.turns import Job
from speech import vad
from speech.audio import SAMPLE_RATE, AudioError, declared_seconds, stream_audio, until_damage
from speech.engine import DecodingResult, Engine, Window
from speech.guard import best
from speech.transcribe import Assembly, OnAdded, Options, Transcription, again, ignore, window_of
from speech.windows import Slice, cut_stream

DECODE_THREADS = 2
"""Files that are decoded at once."""

PREPARED = 8
"""Windows of a file, from its beginning, whose features are made before they queue: all of a clip's."""

WINDOWS_AHEAD = 32
"""Windows of a file that wait for the engine: some 60 MB at most."""

T = TypeVar("T")
Cut = tuple[Slice, Window | None]


@dataclass(frozen=True)
class Means:
    """What a file is transcribed with."""

    scheduler: Scheduler
    limiter: anyio.CapacityLimiter  # bounds the files that are decoded at once, to `DECODE_THREADS`
    metrics: Metrics  # told how long decoding the file took
    max_seconds: float  # the longest audio to accept
    vad: bool = True  # whether to look for speech at all


@dataclass(frozen=True)
class Answer:
    """What was made of a file."""

    transcription: Transcription
    fault: AudioError | None  # why the rest of the file is missing


async def transcribe(
    file: BinaryIO,
    options: Options,
    means: Means,
    *,
    on_added: OnAdded = ignore,
) -> Answer:
    """Transcribe one encoded file.

    Args:
        file: seekable; read from its beginning.
        options: language, task and how to decode, with codes of the model's.
        means: what the service has for it.
        on_added: told of each window, in order, as soon as it and those before it are done.

    Raises:
        AudioError: nothing in the file can be used.
        OverloadedError: there is too much to do already.
        EngineError: a window could not be decoded.
    """
    faults: list[AudioError] = []
    reader = _read(file, options, means, faults.append)
    assembly = Assembly(options)
    pending: deque[tuple[Slice, asyncio.Task[DecodingResult] | None]] = deque()

    async def deliver(most: int) -> None:
        """Take what is decoded, and wait until no more than so many windows are not."""
        while pending:
            place, task = pending[0]
            if len(pending) <= most and task is not None and not task.done():
                break
            result = None if task is None else await task
            pending.popleft()
            on_added(assembly.add(place, result))

    try:
        first = await _in_thread(means, lambda: (declared_seconds(file), next(reader, None)))
        with means.scheduler.admit(min(first[0], means.max_seconds)) as job:
            cut = first[1]
            while cut is not None:
                place, window = cut
                task = None
                if window is not None:
                    window = _continued(window, options, assembly)
                    task = asyncio.create_task(_decode_well(means.scheduler, job, window, options))
                pending.append((place, task))
                # One language a file, as in openai/whisper: else a cough between two sentences is Welsh.
                is_awaited = window is not None and (window.language is None or options.condition_on_previous_text)
                await deliver(0 if is_awaited else WINDOWS_AHEAD)
                if is_awaited and task is not None and options.language is None:
                    options = replace(options, language=task.result().language)
                cut = await _in_thread(means, lambda: next(reader, None))
            await deliver(0)
    finally:
        reader.close()  # first: whoever is cancelled once more gets no further than the next await
        tasks = [task for _, task in pending if task is not None]
        for task in tasks:
            task.cancel()  # if one failed, nobody waits for the others
        await asyncio.gather(*tasks, return_exceptions=True)
    return Answer(assembly.whole(), faults[0] if faults else None)


async def first_result(file: BinaryIO, options: Options, means: Means) -> DecodingResult | None:
    """Decode the first window in which somebody speaks; None if nobody does. Errors are those of `transcribe`."""
    reader = _read(file, options, means, lambda _: None)
    window: Window | None = None
    try:
        while window is None and (cut := await _in_thread(means, lambda: next(reader, None))) is not None:
            _, window = cut
        if window is None:
            return None
        with means.scheduler.admit(window.audio.size / SAMPLE_RATE) as job:
            return (await means.scheduler.submit(job, [window]))[0]
    finally:
        reader.close()


def _read(
    file: BinaryIO, options: Options, means: Means, on_fault: Callable[[AudioError], None]
) -> Generator[Cut, None, None]:
    """Decode and cut; run on threads, a window at a time."""
    engine: Engine = means.scheduler.engine
    blocks = until_damage(stream_audio(file, max_seconds=means.max_seconds), on_fault)
    n_prepared = 0
    with vad.listen_if(options.vad and means.vad) as detector:
        for place, audio in cut_stream(blocks, elastic=engine.context.elastic, detector=detector):
            window = None if place.silent else window_of(audio, options)
            if window is not None and n_prepared < PREPARED:
                # Here, while the engine is busy with others.
                window, n_prepared = engine.prepare(window), n_prepared + 1
            yield place, window


def _continued(window: Window, options: Options, assembly: Assembly) -> Window:
    """Return the window with what is known by now: the file's language, and what was said before."""
    known = window_of(window.audio, options, assembly.said)
    return replace(window, language=known.language, prompt=known.prompt)


async def _in_thread(means: Means, work: Callable[[], T]) -> T:
    async with means.limiter:
        with means.metrics.stage("decode"):
            working = asyncio.create_task(anyio.to_thread.run_sync(work))
            try:
                return await asyncio.shield(working)
            except asyncio.CancelledError:
                # The thread cannot be stopped: until it ends, its audio is in memory, and the file may not be closed.
                while not working.done():
                    with suppress(asyncio.CancelledError):  # who is told to leave twice waits, too
                        await asyncio.wait([working])
                raise


async def _decode_well(scheduler: Scheduler, job: Job, window: Window, options: Options) -> DecodingResult:
    """Decode a window, and again while its answer is doubtful and something is left to try."""
    results: list[DecodingResult] = []
    attempt: Window | None = window
    while attempt is not None:
        results += await scheduler.submit(job, [attempt], again=bool(results))
        attempt = again(attempt, results[-1], options)
    return best(results)
