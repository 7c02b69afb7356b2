"""Whose turn it is: the admitted requests, and which of their windows make the next batch.

Plain data and plain rules, used on the event loop only; `service.scheduler` does the waiting and the decoding.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from speech.audio import SAMPLE_RATE
from speech.context import POSITIONS_PER_SECOND
from speech.engine import DecodingResult, Window

Lane = Literal["interactive", "batch"]
LANES: tuple[Lane, ...] = get_args(Lane)

INTERACTIVE_SHARE = 9
"""Seconds of the engine that the interactive lane gets for each of the batch lane's, while both wait: so a tenth is
guaranteed to work that nobody waits for, and it is done some day under any load."""

UNKNOWN_S = 30.0
"""What a request of unknown length is taken to last when it comes: a window, which is the least that follows."""


@dataclass(eq=False)
class Job:
    """One admitted request, whose windows may come one after another."""

    declared_s: float = 0.0  # audio that is to come, as far as is known when it is admitted
    lane: Lane = "interactive"
    deadline: float | None = None  # of the event loop's clock
    submitted_s: float = 0.0
    again_s: float = 0.0  # of what was submitted: it was decoded before, and is no more audio
    decoded_s: float = 0.0
    length_s: float = field(init=False)  # as declared at first; silence, of which nobody waits for the end, with it
    waiting: deque["Item"] = field(default_factory=deque)

    def __post_init__(self) -> None:
        """Keep what was declared."""
        self.length_s = self.declared_s

    @property
    def remaining_s(self) -> float:
        """Audio that is not decoded yet: what was declared, or what was submitted where that is more."""
        return max(self.declared_s + self.again_s, self.submitted_s) - self.decoded_s

    @property
    def progress(self) -> float:
        """How much of the audio is decoded, as far as its length is known: 0 to 1."""
        return min(1.0, self.decoded_s / max(self.declared_s + self.again_s, self.submitted_s, 1e-9))

    def has_expired(self, now: float) -> bool:
        """Whether nobody waits for the answer any longer."""
        return self.deadline is not None and now >= self.deadline

    def add(self, items: Sequence["Item"], *, again: bool = False) -> None:
        """Let windows wait: those that are decoded again before the rest, as those that follow wait to be sent."""
        seconds = sum(item.seconds for item in items)
        self.submitted_s += seconds
        if again:
            self.waiting.extendleft(reversed(items))
            self.again_s += seconds
            for item in items:
                item.again = True
        else:
            self.waiting.extend(items)

    def withdraw(self, item: "Item") -> None:
        """Forget a window that was not taken yet."""
        if item in self.waiting:
            self.waiting.remove(item)
            self.submitted_s -= item.seconds
            if item.again:
                self.again_s -= item.seconds


@dataclass(eq=False)
class Item:
    """One window, and the promise of its result."""

    job: Job
    window: Window
    positions: int  # its bucket
    result: asyncio.Future[DecodingResult]
    submitted: float = field(default_factory=time.perf_counter)
    again: bool = False  # it was decoded before

    @property
    def seconds(self) -> float:
        """How long the window is."""
        return self.window.audio.size / SAMPLE_RATE

    @property
    def paid_s(self) -> float:
        """What the engine is paid for: the window with its margin and padding."""
        return self.positions / POSITIONS_PER_SECOND


class Queue:
    """The admitted requests, in the order of their turns."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self._credit_s = 0.0  # of the batch lane

    def remaining_s(self, lane: Lane) -> float:
        """Return the audio of a lane's requests that is not decoded yet."""
        return sum(job.remaining_s for job in self.jobs if job.lane == lane)

    def seconds_ahead(self, seconds: float, lane: Lane = "interactive") -> float:
        """Return how much audio of others is decoded before a new request with so much of its own is done.

        As a lane's requests are served in turn, each of the others costs it no more than it itself lasts; and the other
        lane no more than its share.
        """
        seconds = seconds or UNKNOWN_S
        beside = sum(min(job.remaining_s, seconds) for job in self.jobs if job.lane == lane)
        if lane == "interactive":
            return beside + min(self.remaining_s("batch"), (beside + seconds) / INTERACTIVE_SHARE)
        return beside + min(self.remaining_s("interactive"), (beside + seconds) * INTERACTIVE_SHARE)

    def next_batch(self, max_size: Callable[[int], int], now: float = float("-inf")) -> list[Item]:
        """Take windows of one bucket and lane: the first of the request whose turn it is, one of each other, then more.

        The batch lane is served when the interactive one is empty, or has had its share. Lanes do not mix: a batch
        takes longer with each window (docs/experiments.md), and would keep the clip that somebody waits for.

        Args:
            max_size: from the bucket's positions to the most windows of it in a batch.
            now: by the event loop's clock; requests whose deadline is over are passed by.
        """
        batch, later = (self._gather(lane, max_size, now) for lane in LANES)
        if batch and later and self._credit_s < _paid_s(later):
            self._credit_s += _paid_s(batch) / INTERACTIVE_SHARE
        elif later:
            self._credit_s = max(0.0, self._credit_s - _paid_s(later))
            batch = later
        else:
            self._credit_s = 0.0  # who does not wait saves nothing up
        for item in batch:
            item.job.waiting.remove(item)
        return batch

    def _gather(self, lane: Lane, max_size: Callable[[int], int], now: float) -> list[Item]:
        jobs = [job for job in self.jobs if job.lane == lane and job.waiting and not job.has_expired(now)]
        if not jobs:
            return []
        positions = jobs[0].waiting[0].positions
        turns = _in_turn([(item for item in job.waiting if item.positions == positions) for job in jobs])
        return [item for item, _ in zip(turns, range(max_size(positions)), strict=False)]

    def mark_decoded(self, batch: Sequence[Item]) -> None:
        """Count a batch as decoded, and send its requests to the back.

        Not before it is decoded: so who came meanwhile goes before who was served just now.
        """
        for item in batch:
            item.job.decoded_s += item.seconds
        served = {item.job for item in batch}
        self.jobs.sort(key=lambda job: job in served)  # a stable sort: nothing else moves


def _paid_s(batch: Iterable[Item]) -> float:
    return sum(item.paid_s for item in batch)


def _in_turn(sources: list[Iterator[Item]]) -> Iterator[Item]:
    """Yield one of each, then a second of each, until all are empty."""
    while sources:
        for source in tuple(sources):
            if (item := next(source, None)) is None:
                sources.remove(source)
            else:
                yield item
