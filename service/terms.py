"""When an answer is wanted, by a request's headers: `X-Priority` and `X-Deadline-Ms`.

What follows from them is the scheduler's business.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header

from service.turns import Job, Lane

MAX_DEADLINE_MS = 7 * 24 * 3_600_000


@dataclass(frozen=True)
class Terms:
    """How urgent a request is."""

    lane: Lane = "interactive"
    deadline: float | None = None  # of the event loop's clock
    on_admit: Callable[[Job], None] = lambda _: None  # told of the request's place in the scheduler's queue


USUAL = Terms()
"""Of a request that says nothing about it."""


async def read_terms(
    x_priority: Annotated[
        Lane, Header(description="batch: nobody waits for the answer; who is waited for goes first.")
    ] = "interactive",
    x_deadline_ms: Annotated[
        int | None,
        Header(
            gt=0,
            le=MAX_DEADLINE_MS,
            description="Milliseconds from the request's arrival, after which nobody waits for the answer.",
        ),
    ] = None,
) -> Terms:
    """Read the headers as soon as they are there: the upload takes its share of the time."""
    now = asyncio.get_running_loop().time()
    return Terms(x_priority, None if x_deadline_ms is None else now + x_deadline_ms / 1000)


OnTerms = Annotated[Terms, Depends(read_terms)]
"""A route's parameter."""
