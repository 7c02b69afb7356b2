"""Whose turn it is: the admitted requests, and which of their windows make the next batch.

Plain data and plain rules, used on the event loop only; `service.scheduler` does the waiting and the decoding.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from speech.audio import SAMPLE_RATE
from speech.engine import DecodingResult, Window


@dataclass(eq=False)
class Job:
    """One admitted request."""

    remaining_s: float  # audio that is not decoded yet
    waiting: deque["Item"] = field(default_factory=deque)

    def take(self, positions: int) -> "Item | None":
        """Take the first waiting window of a bucket."""
        item = next((item for item in self.waiting if item.positions == positions), None)
        if item is not None:
            self.waiting.remove(item)
        return item


@dataclass(eq=False)
class Item:
    """One window, and the promise of its result."""

    job: Job
    window: Window
    positions: int  # its bucket
    result: asyncio.Future[DecodingResult]
    submitted: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """How long the window is."""
        return self.window.audio.size / SAMPLE_RATE


class Queue:
    """The admitted requests, in the order of their turns."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def seconds_ahead(self, seconds: float) -> float:
        """Return how much audio of others is decoded before a new request with so much of its own is done.

        As requests are served in turn, each of the others costs it no more than it itself lasts.
        """
        return sum(min(job.remaining_s, seconds) for job in self.jobs)

    def next_batch(self, max_size: Callable[[int], int]) -> list[Item]:
        """Take windows of one bucket: the first of the request whose turn it is, one of each other, then more.

        Args:
            max_size: from the bucket's positions to the most windows of it in a batch.
        """
        jobs = [job for job in self.jobs if job.waiting]
        if not jobs:
            return []
        positions = jobs[0].waiting[0].positions
        size = max_size(positions)
        batch: list[Item] = []
        while jobs:
            for job in tuple(jobs):
                item = job.take(positions)
                if item is None:
                    jobs.remove(job)
                    continue
                batch.append(item)
                if len(batch) == size:
                    return batch
        return batch

    def mark_decoded(self, batch: Sequence[Item]) -> None:
        """Count a batch as decoded, and send its requests to the back.

        Not before it is decoded: so who came meanwhile goes before who was served just now.
        """
        for item in batch:
            item.job.remaining_s = max(0.0, item.job.remaining_s - item.seconds)
        served = {item.job for item in batch}
        self.jobs.sort(key=lambda job: job in served)  # a stable sort: nothing else moves
