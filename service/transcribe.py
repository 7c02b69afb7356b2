"""From an uploaded file to a transcript: decode and cut on a thread, queue the windows, put the answers together.

What speech is, where to cut and what to believe is `speech`'s business; this is `speech.transcribe`'s asynchronous twin
over the scheduler. A file is decoded while its first windows are, and no more of it is in memory than `WINDOWS_AHEAD`.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import BinaryIO, TypeVar

import anyio.to_thread

from service.decoder import BusyError, decoding
from service.limits import heard
from service.metrics import Metrics
from service.scheduler import DeadlineExceededError, Scheduler
from service.turns import Job, Lane
from speech import vad
from speech.audio import SAMPLE_RATE, AudioError, until_damage
from speech.engine import DecodingResult, Engine, Window
from speech.guard import best
from speech.language import SpokenLanguage
from speech.transcribe import Assembly, OnAdded, Options, Transcription, again, ignore, window_of
from speech.windows import Audio, Slice, cut_stream

DECODE_THREADS = 2
"""Files that are decoded at once."""

OPEN_FILES = 48
"""Files that are open at once: each has a process of some 40 MB that decodes it, until its last window is cut."""

SLOT_WAIT_S = 30.0
"""Whoever waits longer for a place among the open files is told to come again."""

PREPARED = 8
"""Windows of a file, from its beginning, whose features are made before they queue: all of a clip's."""

WINDOWS_AHEAD = 32
"""Windows of a file that wait for the engine: some 60 MB at most."""

MIN_SECONDS = 0.1
"""Shorter audio is refused, in OpenAI's words: it is a mistake of whoever recorded it."""

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
    lane: Lane = "interactive"
    deadline: float | None = None  # when nobody waits for the answer any longer, by the event loop's clock
    on_admit: Callable[[Job], None] = lambda _: None  # told of the request's place in the queue, when it has one
    open_files: asyncio.Semaphore | None = None  # bounds the files that are open at once, to `OPEN_FILES`


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
        DeadlineUnreachableError, DeadlineExceededError: there is too little time for it, or was.
        BusyError: too many files are open.
    """
    async with _in_time(means):
        return await _transcribe(file, options, means, on_added)


async def _transcribe(file: BinaryIO, options: Options, means: Means, on_added: OnAdded) -> Answer:
    declared: list[float] = []
    faults: list[AudioError] = []
    slot = await _Slot.taken(means.open_files)
    reader = _read(file, options, means, declared, faults, slot.free_from_a_thread)
    assembly = Assembly(options)
    pending: deque[tuple[Slice, asyncio.Task[DecodingResult] | None]] = deque()

    async def deliver(job: Job, most: int) -> None:
        """Take what is decoded, and wait until no more than so many windows are not."""
        while pending:
            place, task = pending[0]
            if len(pending) <= most and task is not None and not task.done():
                break
            seconds = (place.end - place.start) / SAMPLE_RATE
            if task is None:
                result = None
                job.declared_s = max(0.0, job.declared_s - seconds)  # nobody need wait for silence
            else:
                result = await task
            pending.popleft()
            on_added(assembly.add(place, result))

    try:
        cut = await _in_thread(means, lambda: next(reader, None))
        with _admitted(means, declared[0]) as job:
            while cut is not None:
                place, window = cut
                heard((place.end - place.start) / SAMPLE_RATE)  # now: who leaves before the end had the work done, too
                task = None
                if window is not None:
                    window = _continued(window, options, assembly)
                    task = asyncio.create_task(_decode_well(means.scheduler, job, window, options))
                pending.append((place, task))
                waits = assembly.language.is_awaited or options.condition_on_previous_text
                is_awaited = window is not None and waits
                await deliver(job, 0 if is_awaited else WINDOWS_AHEAD)
                options = replace(options, language=assembly.language.code)
                cut = await _in_thread(means, lambda: next(reader, None))
            await deliver(job, 0)
    finally:
        reader.close()  # first: whoever is cancelled once more gets no further than the next await
        slot.free()
        tasks = [task for _, task in pending if task is not None]
        for task in tasks:
            task.cancel()  # if one failed, nobody waits for the others
        await asyncio.gather(*tasks, return_exceptions=True)
    return Answer(assembly.whole(), faults[0] if faults else None)


async def detect_language(file: BinaryIO, options: Options, means: Means) -> SpokenLanguage:
    """Decode windows with speech until the language is known, as `transcribe` does; errors are the same."""
    language = SpokenLanguage()
    async with _in_time(means):
        slot = await _Slot.taken(means.open_files)
        reader = _read(file, options, means, [], [], slot.free_from_a_thread)
        try:
            while language.is_awaited and (cut := await _in_thread(means, lambda: next(reader, None))) is not None:
                place, window = cut
                if window is not None:
                    seconds = (place.end - place.start) / SAMPLE_RATE
                    with _admitted(means, seconds) as job:
                        (result,) = await means.scheduler.submit(job, [window])
                    heard(seconds)
                    language.hear(place, result)
        finally:
            reader.close()
            slot.free()
    return language


class _Slot:
    """The right to have a file open, given back once, by whoever is done with it first."""

    def __init__(self, semaphore: asyncio.Semaphore | None) -> None:
        self._semaphore, self._loop = semaphore, asyncio.get_running_loop()

    @classmethod
    async def taken(cls, semaphore: asyncio.Semaphore | None) -> "_Slot":
        """Wait for one, in turn.

        Raises:
            BusyError: there was none for a while.
        """
        if semaphore is not None:
            try:
                async with asyncio.timeout(SLOT_WAIT_S):
                    await semaphore.acquire()
            except TimeoutError:
                raise BusyError from None
        return cls(semaphore)

    def free(self) -> None:
        """Give it back, unless that was done."""
        if self._semaphore is not None:
            self._semaphore.release()
            self._semaphore = None

    def free_from_a_thread(self) -> None:
        """Give it back on the event loop."""
        self._loop.call_soon_threadsafe(self.free)


@asynccontextmanager
async def _in_time(means: Means) -> AsyncIterator[None]:
    """Stop the block at the deadline: hours of silence are read, too, and never get to the scheduler, which looks."""
    try:
        async with asyncio.timeout_at(means.deadline) as until:
            yield
    except TimeoutError:
        if until.expired():
            raise DeadlineExceededError from None
        raise


def _read(
    file: BinaryIO,
    options: Options,
    means: Means,
    declared: list[float],
    faults: list[AudioError],
    on_closed: Callable[[], None],
) -> Generator[Cut, None, None]:
    """Decode and cut; run on threads, a window at a time.

    Args:
        file: to be read.
        options: of the file.
        means: to read it with.
        declared: gets the file's length in seconds, as its header has it, before the first window is out.
        faults: gets why the rest of the file is missing, if it is.
        on_closed: told when nothing of the file is open any longer.
    """
    engine: Engine = means.scheduler.engine
    n_prepared = 0
    held: Cut | None = None
    with decoding(file, means.max_seconds) as (seconds, blocks), vad.listen_if(options.vad and means.vad) as detector:
        declared.append(seconds)
        heard = _long_enough(until_damage(blocks, faults.append), faults)
        for place, audio in cut_stream(heard, elastic=engine.context.elastic, detector=detector):
            window = None if place.silent else window_of(audio, options)
            if window is not None and n_prepared < PREPARED:
                # Here, while the engine is busy with others.
                window, n_prepared = engine.prepare(window), n_prepared + 1
            if held is not None:
                yield held
            held = place, window
    # Who waits for the last window's answer waits without a process and a detector.
    on_closed()
    if held is not None:
        yield held


def _long_enough(blocks: Iterator[Audio], faults: list[AudioError]) -> Iterator[Audio]:
    """Pass audio on that is long enough to have a sound in it."""
    n_samples = 0
    for block in blocks:
        n_samples += block.size
        yield block
    if n_samples < MIN_SECONDS * SAMPLE_RATE:
        message = f"Audio file is too short. Minimum audio length is {MIN_SECONDS} seconds."
        raise faults[0] if faults else AudioError("audio_too_short", message)


@contextmanager
def _admitted(means: Means, seconds: float) -> Iterator[Job]:
    seconds = min(seconds, means.max_seconds)
    with means.scheduler.admit(seconds, lane=means.lane, deadline=means.deadline) as job:
        means.on_admit(job)
        yield job


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
