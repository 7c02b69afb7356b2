"""Whether there is a model to answer with, and who still needs it."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from service.loading import Untuned
from service.scheduler import Scheduler
from service.schemas import Version


class Holds:
    """Counts who needs a model, so that one that was replaced goes when its last request is answered."""

    def __init__(self) -> None:
        self._count = 0
        self._changed = asyncio.Event()

    @property
    def count(self) -> int:
        """How many hold it."""
        return self._count

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Hold it inside the block."""
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1
            self._changed.set()

    async def released(self) -> None:
        """Wait until nobody holds it."""
        while self._count:
            self._changed.clear()
            await self._changed.wait()


@dataclass(frozen=True)
class NotReady:
    """No model, yet or for good."""

    reason: str
    """For people outside: what is wrong and what to run."""


@dataclass(frozen=True)
class Loaded:
    """A model that is loaded and warm. Who needs it beyond the next `await` holds it: `with model.holds.hold():`."""

    version: Version
    scheduler: Scheduler
    language_code: Callable[[str], str]
    """From what a caller wrote to a code of the model's; raises UnknownLanguageError."""
    untuned: Untuned | None = None
    """What is to be measured when it is idle, on a CPU on which nobody has."""
    holds: Holds = field(default_factory=Holds)


@dataclass(frozen=True)
class Refused:
    """A version that is named but not served."""

    place: str  # the reference that names it: whisper@production
    ref: str  # the version
    reason: str  # for people outside
    when: datetime
