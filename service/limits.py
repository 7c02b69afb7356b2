"""How much a key may ask for: requests a minute and seconds of audio a day, in the memory of one process.

Each limit is a bucket that holds a whole minute's or day's worth and is refilled evenly, as OpenAI's are. What audio
lasts is known once it is decoded, so it is paid for then: whoever has anything left may ask, and requests that run
side by side may each overdraw the bucket once. Debts are waited off. Several processes would each
allow as much, and a restart fills all buckets.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from service.errors import ApiError

MINUTE_S = 60.0
DAY_S = 86_400.0
PATIENCE_S = 60  # beyond it, OpenAI's clients do not obey Retry-After, and would ask again at once


class Bucket:
    """So much at most, refilled evenly in so many seconds."""

    def __init__(self, size: float, period_s: float, now: float) -> None:
        """It is full."""
        self.size, self._rate = size, size / period_s
        self._left, self._since = size, now

    def left(self, now: float) -> float:
        """Return what is left; less than nothing is a debt."""
        self._left = min(self.size, self._left + (now - self._since) * self._rate)
        self._since = now
        return self._left

    def take(self, amount: float, now: float) -> None:
        """Take out, even what is not there."""
        self._left = self.left(now) - amount

    def seconds_until(self, amount: float, now: float) -> float:
        """Return how long it takes until so much is left."""
        return max(0.0, amount - self.left(now)) / self._rate


@dataclass(frozen=True)
class Verdict:
    """Whether a request is let in."""

    error: ApiError | None  # why not
    headers: dict[str, str]  # of the answer, either way


class Limits:
    """The buckets of all keys."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._requests: dict[str, Bucket] = {}
        self._audio: dict[str, Bucket] = {}

    def enter(
        self, name: str, requests_per_minute: int | None, audio_seconds_per_day: float | None, *, sends: bool = True
    ) -> Verdict:
        """Count a request, if it may be answered; a refused one is not counted.

        Args:
            name: of the key.
            requests_per_minute: its limit as it is now; None for none.
            audio_seconds_per_day: the same.
            sends: whether the request may bring audio; if not, it needs none to be left.
        """
        now = self._clock()
        requests = _bucket(self._requests, name, requests_per_minute, MINUTE_S, now)
        audio = _bucket(self._audio, name, audio_seconds_per_day, DAY_S, now)
        error = None
        if requests is not None and requests.left(now) < 1:
            what = f"{requests_per_minute:,} requests a minute"
            error = _exceeded(what, requests.seconds_until(1, now))
        elif sends and audio is not None and audio.left(now) <= 0:
            what = f"{audio_seconds_per_day:,.0f} seconds of audio a day"
            error = _exceeded(what, audio.seconds_until(1, now))
        elif requests is not None:
            requests.take(1, now)
        headers = _headers("requests", requests, now) | _headers("audio-seconds", audio, now)
        return Verdict(error, headers)

    def charge(self, name: str, audio_s: float) -> None:
        """Take seconds of audio from a key's bucket, if it has one."""
        if name in self._audio:
            self._audio[name].take(audio_s, self._clock())

    def wait_s(self, name: str) -> float:
        """Return how long it takes until a key has any audio left, in seconds; 0 if it has, or has no such limit."""
        audio, now = self._audio.get(name), self._clock()
        return 0.0 if audio is None or audio.left(now) > 0 else max(1.0, audio.seconds_until(0, now))


_PAYER: ContextVar[Callable[[float], None] | None] = ContextVar("_PAYER", default=None)


@contextmanager
def paid_by(charge: Callable[[float], None]) -> Iterator[None]:
    """Have what is decoded inside the block, and in tasks that it starts, paid for by `charge`, which gets seconds."""
    before = _PAYER.set(charge)
    try:
        yield
    finally:
        _PAYER.reset(before)


def heard(seconds: float) -> None:
    """Say that so much audio was decoded: whoever it is for pays now, also if nobody waits for the end of it."""
    charge = _PAYER.get()
    if charge is not None:
        charge(seconds)


def _bucket(buckets: dict[str, Bucket], name: str, size: float | None, period_s: float, now: float) -> Bucket | None:
    """Return a key's bucket; a full one where its limit is new or has changed, None where there is none."""
    if size is None:
        buckets.pop(name, None)
        return None
    if name not in buckets or buckets[name].size != size:
        buckets[name] = Bucket(size, period_s, now)
    return buckets[name]


def _exceeded(what: str, wait_s: float) -> ApiError:
    seconds = max(1, math.ceil(wait_s))
    message = f"This key's limit of {what} is used up; try again in {_duration(seconds)}."
    headers = {"Retry-After": str(seconds)}
    if seconds > PATIENCE_S:
        headers["X-Should-Retry"] = "false"
    return ApiError(429, "rate_limit_exceeded", message, headers=headers)


def _headers(what: str, bucket: Bucket | None, now: float) -> dict[str, str]:
    if bucket is None:
        return {}
    return {
        f"x-ratelimit-limit-{what}": f"{bucket.size:.0f}",
        f"x-ratelimit-remaining-{what}": str(max(0, math.floor(bucket.left(now)))),
        f"x-ratelimit-reset-{what}": _duration(math.ceil(bucket.seconds_until(bucket.size, now))),
    }


def _duration(seconds: int) -> str:
    """Write a duration as OpenAI does: 6m0s."""
    hours, rest = divmod(seconds, 3600)
    minutes, rest = divmod(rest, 60)
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + f"{rest}s"
