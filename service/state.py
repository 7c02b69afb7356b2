"""Whether there is a model to answer with: `app.state.model` is one of these two."""

from collections.abc import Callable
from dataclasses import dataclass

from service.scheduler import Scheduler
from service.schemas import Version


@dataclass(frozen=True)
class NotReady:
    """No model, yet or for good."""

    reason: str
    """For people outside: what is wrong and what to run."""


@dataclass(frozen=True)
class Loaded:
    """A model that is loaded and warm."""

    version: Version
    scheduler: Scheduler
    language_code: Callable[[str], str]
    """From what a caller wrote to a code of the model's; raises UnknownLanguageError."""
