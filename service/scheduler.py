"""Batching for the one engine: windows of all requests wait together and are decoded in shared batches.

A batch is dispatched as soon as the engine is idle, so a lone request pays nothing and batches grow with the load.
Requests are served in turn, so a clip never waits for a film; those that somebody waits for go before those that nobody
does; and nothing is begun whose deadline is over (whose turn it is: `service.turns`). Everything here runs on the event
loop; only `engine.transcribe` runs elsewhere, on as many threads as make the engine faster. It knows neither HTTP nor
files.
"""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from service.turns import LANES, UNKNOWN_S, Item, Job, Lane, Queue
from speech.engine import DecodingResult, Engine, EngineError, Window

logger = logging.getLogger("whisperloop.service")


MEASURED_BATCHES = 32
"""How many of the last batches tell how fast the engine is: some seconds' worth under load."""

HUNG_S = 600.0
"""What no batch takes, as it holds 80 s of audio at most: an engine that takes longer never comes back."""

STALE_S = 10.0
"""How long an idle engine's speed is believed when it refuses a deadline. Who is refused measures nothing: one slow
batch would refuse all who have a deadline for ever. What is tried in vain is stopped at its deadline."""


class OverloadedError(Exception):
    """The queue is full.

    Attributes:
        retry_after_s: when there will be room, by the speed measured so far.
        expected_wait_s: when the request would have been answered; None if nothing was measured yet.
    """

    def __init__(self, retry_after_s: int, expected_wait_s: float | None) -> None:
        about = "" if expected_wait_s is None else f" (this would be done in about {math.ceil(expected_wait_s)} s)"
        super().__init__(f"Too much audio is waiting already{about}; try again in {retry_after_s} s.")
        self.retry_after_s, self.expected_wait_s = retry_after_s, expected_wait_s


class DeadlineUnreachableError(Exception):
    """A request would not be done before its deadline, so it is not begun.

    Attributes:
        retry_after_s: when a request with as much time would be; None if never, as its own audio takes longer.
        expected_wait_s: when it would have been answered.
    """

    def __init__(self, retry_after_s: int | None, expected_wait_s: float) -> None:
        advice = (
            "give it more time" if retry_after_s is None else f"give it more time, or try again in {retry_after_s} s"
        )
        super().__init__(f"This would be done in about {expected_wait_s:.1f} s, after its deadline; {advice}.")
        self.retry_after_s, self.expected_wait_s = retry_after_s, expected_wait_s


class DeadlineExceededError(Exception):
    """A request's deadline was over before it was done; what of it was not begun never will be."""

    def __init__(self) -> None:
        super().__init__("The deadline was over before this was done; give it more time.")


@dataclass(frozen=True)
class Batch:
    """What one call of the engine was given, and what it took."""

    windows: int
    audio_s: float
    padded_s: float  # what the engine was paid for: audio_s, and the padding of each window to its bucket
    waited_s: float  # of all windows together, from submission to dispatch
    busy_s: float


@dataclass(frozen=True)
class Waiting:
    """What of one lane is to be done."""

    requests: int
    windows: int
    audio_s: float


@dataclass(frozen=True)
class Stats:
    """What was decoded so far, and what waits."""

    batches: int = 0
    windows: int = 0
    audio_s: float = 0.0
    padded_s: float = 0.0
    waited_s: float = 0.0
    busy_s: float = 0.0
    last_batch_sizes: tuple[int, ...] = ()
    lanes: dict[Lane, Waiting] = field(default_factory=dict)

    @property
    def waiting_windows(self) -> int:
        """Windows that were submitted and not taken yet."""
        return sum(lane.windows for lane in self.lanes.values())

    @property
    def waiting_s(self) -> float:
        """Audio of admitted requests that is not decoded yet."""
        return sum(lane.audio_s for lane in self.lanes.values())

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

    def __init__(
        self,
        engine: Engine,
        *,
        max_batch_size: int | None = None,
        max_queue_s: float = 3600.0,
        on_batch: Callable[[Batch], None] = lambda _: None,
    ) -> None:
        """Start decoding.

        Args:
            engine: says how large its batches are, and how many at once.
            max_batch_size: windows a batch at most; None leaves it to the engine.
            max_queue_s: see `admit`.
            on_batch: told of every batch that was decoded.
        """
        self._engine = engine
        self._max_batch_size = max_batch_size
        self._max_queue_s = max_queue_s
        self._on_batch = on_batch
        self._queue = Queue()
        self._running: dict[asyncio.Task[None], list[Item]] = {}
        self._began: dict[asyncio.Task[None], float] = {}
        self._stats = Stats()
        self._measured: deque[tuple[float, float]] = deque(maxlen=MEASURED_BATCHES)  # audio and engine seconds
        self._measured_at = -math.inf
        self._closing = False
        self._wake = asyncio.Event()
        self._workers = ThreadPoolExecutor(thread_name_prefix="engine")
        self._task = asyncio.create_task(self._run(), name="scheduler")
        self._task.add_done_callback(self._fail_the_rest)

    @property
    def engine(self) -> Engine:
        """What decodes. May be replaced by another that loaded the same version: running batches finish on the old."""
        return self._engine

    @engine.setter
    def engine(self, engine: Engine) -> None:
        self._engine = engine
        self._wake.set()

    @property
    def is_idle(self) -> bool:
        """Whether no request is admitted."""
        return not self._queue.jobs

    @property
    def speed(self) -> float | None:
        """Seconds of audio that were decoded in a second, by the last batches; None before the first."""
        audio_s, engine_s = (sum(column) for column in zip(*self._measured, strict=True)) if self._measured else (0, 0)
        return audio_s / engine_s if engine_s else None

    def expected_wait_s(self, seconds: float, lane: Lane = "interactive") -> float | None:
        """Return when a request with so much audio would be done, if nobody else came; None if nothing was measured."""
        speed = self.speed
        return None if speed is None else (self._queue.seconds_ahead(seconds, lane) + (seconds or UNKNOWN_S)) / speed

    @contextmanager
    def admit(self, seconds: float, *, lane: Lane = "interactive", deadline: float | None = None) -> Iterator[Job]:
        """Admit one request; leaving the block takes whatever of it still waits out of the queue.

        Args:
            seconds: of audio that it will submit, as far as is known; 0 if it is not.
            lane: whether somebody waits for the answer.
            deadline: when nobody will wait for it any longer, by the event loop's clock.

        Raises:
            OverloadedError: more than `max_queue_s` of other requests' audio is decoded before this request would
                be done (so a clip is admitted behind a film, and a second film is not), or the scheduler is closing.
            DeadlineUnreachableError: by the measured speed, it would be done after its deadline.
            DeadlineExceededError: its deadline is over.
        """
        ahead_s = self._queue.seconds_ahead(seconds, lane)
        expected_s = self.expected_wait_s(seconds, lane)
        if self._closing or ahead_s > self._max_queue_s:
            raise OverloadedError(max(1, math.ceil((ahead_s - self._max_queue_s) / (self.speed or 1.0))), expected_s)
        if deadline is not None:
            self._check_deadline(deadline, seconds, ahead_s)
        job = Job(seconds, lane, deadline)
        self._queue.jobs.append(job)
        try:
            yield job
        finally:
            self._queue.jobs.remove(job)
            for item in job.waiting:
                item.result.cancel()
            self._wake.set()  # `close` may be waiting for this request

    def _check_deadline(self, deadline: float, seconds: float, ahead_s: float) -> None:
        now = asyncio.get_running_loop().time()
        left_s = deadline - now
        if left_s <= 0:
            raise DeadlineExceededError
        if self.speed is None:
            return  # it may well be reached: the first request of a day is not refused on a guess
        if self.is_idle and now - self._measured_at >= STALE_S:
            return
        own_s, expected_s = seconds / self.speed, (ahead_s + seconds) / self.speed
        if expected_s > left_s:
            raise DeadlineUnreachableError(
                None if own_s > left_s else max(1, math.ceil(expected_s - left_s)), expected_s
            )

    async def submit(self, job: Job, windows: Sequence[Window], *, again: bool = False) -> list[DecodingResult]:
        """Decode some of a request's windows.

        Args:
            job: from `admit`.
            windows: in the order of their turns.
            again: they were decoded before, and go before the request's others, which wait to be sent.

        Raises:
            EngineError: one of them could not be decoded.
            DeadlineExceededError: the request's deadline came first; what had begun is stopped.
        """
        if not self.is_running:
            raise EngineError("the scheduler has stopped")
        context = self._engine.context
        items = [Item(job, window, window.positions(context), asyncio.Future()) for window in windows]
        job.add(items, again=again)
        self._wake.set()
        try:
            async with asyncio.timeout_at(job.deadline) as until:
                return await asyncio.gather(*(item.result for item in items))
        except TimeoutError:
            if until.expired():
                raise DeadlineExceededError from None
            raise
        finally:
            for item in items:
                job.withdraw(item)
                item.result.cancel()  # if one failed, nobody waits for the others, which may be running

    async def close(self) -> None:
        """Admit nothing more, let the admitted requests finish, and end the engine's threads."""
        self._closing = True
        self._wake.set()
        await asyncio.wait([self._task])
        self._workers.shutdown()

    @property
    def is_running(self) -> bool:
        """Whether windows are being taken from the queue, and come back from the engine."""
        now = asyncio.get_running_loop().time()
        return not self._task.done() and all(now - began < HUNG_S for began in self._began.values())

    def stats(self) -> Stats:
        """Return the counters as they are now."""
        return replace(
            self._stats,
            lanes={
                lane: Waiting(len(jobs), sum(len(job.waiting) for job in jobs), sum(job.remaining_s for job in jobs))
                for lane in LANES
                for jobs in [[job for job in self._queue.jobs if job.lane == lane]]
            },
        )

    async def _run(self) -> None:
        while True:
            for task in [task for task in self._running if task.done()]:
                task.result()  # a bug in there ends the loop
                del self._running[task], self._began[task]
            if self._closing and not self._queue.jobs and not self._running:
                return
            is_free = len(self._running) < self._engine.concurrency
            now = asyncio.get_running_loop().time()
            if is_free and (batch := self._queue.next_batch(self._batch_size, now)):
                task = asyncio.create_task(self._decode(batch), name="batch")
                task.add_done_callback(lambda _: self._wake.set())
                self._running[task], self._began[task] = batch, now
            else:
                self._wake.clear()
                await self._wake.wait()

    def _batch_size(self, positions: int) -> int:
        size = self._engine.batch_size(positions)
        return size if self._max_batch_size is None else min(size, self._max_batch_size)

    async def _decode(self, batch: list[Item]) -> None:
        started = time.perf_counter()
        results = await asyncio.get_running_loop().run_in_executor(self._workers, _transcribe, self._engine, batch)
        self._count(batch, started)
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
        running = (item for batch in self._running.values() for item in batch)
        for item in (*running, *(item for job in self._queue.jobs for item in job.waiting)):
            if not item.result.done():
                item.result.set_exception(EngineError("the scheduler has stopped"))

    def _count(self, items: list[Item], started: float) -> None:
        batch = Batch(
            windows=len(items),
            audio_s=sum(item.seconds for item in items),
            padded_s=sum(item.paid_s for item in items),
            waited_s=sum(started - item.submitted for item in items),
            busy_s=time.perf_counter() - started,
        )
        # Batches that run side by side take the time of one.
        self._measured.append((batch.audio_s, batch.busy_s / max(1, len(self._running))))
        self._measured_at = asyncio.get_running_loop().time()
        stats = self._stats
        self._stats = replace(
            stats,
            batches=stats.batches + 1,
            windows=stats.windows + batch.windows,
            audio_s=stats.audio_s + batch.audio_s,
            padded_s=stats.padded_s + batch.padded_s,
            waited_s=stats.waited_s + batch.waited_s,
            busy_s=stats.busy_s + batch.busy_s,
            last_batch_sizes=(*stats.last_batch_sizes[-31:], batch.windows),
        )
        self._on_batch(batch)


def _transcribe(engine: Engine, batch: list[Item]) -> list[DecodingResult | EngineError]:
    """Decode on an engine's thread; whatever goes wrong is an answer, or every later request would wait for ever.

    A batch that fails is tried again in halves: who sent the window that nobody can decode is alone with it in the end.
    """
    try:
        results = engine.transcribe([item.window for item in batch], lambda i: batch[i].result.done())
        if len(results) != len(batch):
            raise RuntimeError(f"the engine returned {len(results)} results for {len(batch)} windows")
    except Exception as error:
        logger.exception("a batch of %d windows failed", len(batch))
        failed = EngineError(f"the batch failed: {error}")
    else:
        return results
    # Beyond the block above, which holds the error and with it the memory that was perhaps too little.
    if len(batch) == 1:
        return [failed]
    half = len(batch) // 2
    return [*_transcribe(engine, batch[:half]), *_transcribe(engine, batch[half:])]
