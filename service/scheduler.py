"""Batching for the one engine: windows of all requests wait together and are decoded in shared batches.

A batch is dispatched as soon as the engine is idle, so a lone request pays nothing and batches grow with the load.
Requests are served in turn, so a clip never waits for a film. Everything here runs on the event loop; only
`engine.transcribe` runs elsewhere, on the one worker thread. It knows neither HTTP nor files.
"""

import asyncio
import logging
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

from service.turns import Item, Job, Queue
from speech.context import POSITIONS_PER_SECOND
from speech.engine import DecodingResult, Engine, EngineError, Window

logger = logging.getLogger("whisperloop.service")


class OverloadedError(Exception):
    """The queue is full.

    Attributes:
        retry_after_s: when there will be room, by the speed measured so far.
    """

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"Too much audio is waiting already; try again in {retry_after_s} s.")
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class Stats:
    """What was decoded so far, and what waits."""

    batches: int = 0
    windows: int = 0
    audio_s: float = 0.0
    padded_s: float = 0.0  # what the engine was paid for: audio_s, and the padding of each window to its bucket
    busy_s: float = 0.0
    last_batch_sizes: tuple[int, ...] = ()
    waiting_windows: int = 0
    waiting_s: float = 0.0  # audio of admitted requests that is not decoded yet

    @property
    def mean_batch_size(self) -> float:
        """Windows a batch."""
        return self.windows / self.batches if self.batches else 0.0


class Scheduler:
    """Batches the windows of all requests; made, used and closed on one running event loop.

    ::

        with scheduler.admit(seconds) as job:
            results = await scheduler.submit(job, windows)
    """

    def __init__(self, engine: Engine, *, max_batch_size: int = 8, max_queue_s: float = 3600.0) -> None:
        self._engine = engine
        self._max_batch_size = max_batch_size
        self._max_queue_s = max_queue_s
        self._queue = Queue()
        self._batch: list[Item] = []  # being decoded
        self._stats = Stats()
        self._closing = False
        self._wake = asyncio.Event()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._task = asyncio.create_task(self._run(), name="scheduler")
        self._task.add_done_callback(self._fail_the_rest)

    @contextmanager
    def admit(self, seconds: float) -> Iterator[Job]:
        """Admit one request with so much audio; leaving the block takes whatever still waits out of the queue.

        Raises:
            OverloadedError: more than `max_queue_s` of other requests' audio is decoded before this request would
                be done (so a clip is admitted behind a film, and a second film is not), or the scheduler is closing.
        """
        ahead_s = self._queue.seconds_ahead(seconds)
        if self._closing or ahead_s > self._max_queue_s:
            speed = self._stats.audio_s / self._stats.busy_s if self._stats.busy_s else 1.0
            raise OverloadedError(max(1, math.ceil((ahead_s - self._max_queue_s) / speed)))
        job = Job(seconds)
        self._queue.jobs.append(job)
        try:
            yield job
        finally:
            self._queue.jobs.remove(job)
            for item in job.waiting:
                item.result.cancel()
            self._wake.set()  # `close` may be waiting for this request

    async def submit(self, job: Job, windows: Sequence[Window]) -> list[DecodingResult]:
        """Decode some of a request's windows.

        Raises:
            EngineError: one of them could not be decoded.
        """
        if not self.is_running:
            raise EngineError("the scheduler has stopped")
        positions = self._engine.context.positions
        items = [Item(job, window, positions(window.audio.size), asyncio.Future()) for window in windows]
        job.waiting.extend(items)
        self._wake.set()
        return await asyncio.gather(*(item.result for item in items))

    async def close(self) -> None:
        """Admit nothing more, let the admitted requests finish, and end the worker thread."""
        self._closing = True
        self._wake.set()
        await asyncio.wait([self._task])
        self._worker.shutdown()

    @property
    def is_running(self) -> bool:
        """Whether windows are being taken from the queue."""
        return not self._task.done()

    def stats(self) -> Stats:
        """Return the counters as they are now."""
        return replace(
            self._stats,
            waiting_windows=sum(len(job.waiting) for job in self._queue.jobs),
            waiting_s=sum(job.remaining_s for job in self._queue.jobs),
        )

    async def _run(self) -> None:
        while self._queue.jobs or not self._closing:
            batch = self._batch = self._queue.next_batch(self._max_batch_size)
            if not batch:
                self._wake.clear()
                await self._wake.wait()
                continue
            started = time.perf_counter()
            results = await asyncio.get_running_loop().run_in_executor(
                self._worker, _decode, self._engine, [item.window for item in batch]
            )
            self._count(batch, time.perf_counter() - started)
            self._queue.mark_decoded(batch)
            for item, result in zip(batch, results, strict=True):
                if item.result.done():
                    continue  # cancelled: nobody waits for it
                if isinstance(result, EngineError):
                    item.result.set_exception(result)
                else:
                    item.result.set_result(result)

    def _fail_the_rest(self, task: asyncio.Task[None]) -> None:
        """If a bug ended the loop, nobody may wait for it for ever."""
        if not task.cancelled() and (error := task.exception()):
            logger.critical("the scheduler has stopped; restart the service", exc_info=error)
        for item in (*self._batch, *(item for job in self._queue.jobs for item in job.waiting)):
            if not item.result.done():
                item.result.set_exception(EngineError("the scheduler has stopped"))

    def _count(self, batch: list[Item], busy_s: float) -> None:
        stats = self._stats
        self._stats = replace(
            stats,
            batches=stats.batches + 1,
            windows=stats.windows + len(batch),
            audio_s=stats.audio_s + sum(item.seconds for item in batch),
            padded_s=stats.padded_s + sum(item.positions for item in batch) / POSITIONS_PER_SECOND,
            busy_s=stats.busy_s + busy_s,
            last_batch_sizes=(*stats.last_batch_sizes[-31:], len(batch)),
        )


def _decode(engine: Engine, windows: list[Window]) -> list[DecodingResult | EngineError]:
    """Decode on the worker thread; whatever goes wrong is an answer, or every later request would wait for ever."""
    try:
        results = engine.transcribe(windows)
        if len(results) != len(windows):
            raise RuntimeError(f"the engine returned {len(results)} results for {len(windows)} windows")
    except Exception as error:
        logger.exception("a batch of %d windows failed", len(windows))
        return [EngineError(f"the batch failed: {error}") for _ in windows]
    return results
