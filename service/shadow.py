"""The shadow: a version that transcribes copies of requests after they are answered, to see where it disagrees.

It never delays an answer and never is one. Copies wait in memory, a few at most, for a moment without requests; where
there is none, they are dropped. Of what was said, only counts of words leave this module.
"""

import asyncio
import io
import logging
from collections import deque
from dataclasses import dataclass

import anyio

from service.metrics import Metrics
from service.models import Models, falls_into
from service.settings import Settings
from service.state import Loaded
from service.transcribe import Means, transcribe
from speech.edits import edit_distance
from speech.text import normalize
from speech.transcribe import Options

logger = logging.getLogger("whisperloop.service")

MAX_WAITING = 8
MAX_WAITING_BYTES = 32 * 1024**2
"""Of copies that wait, together; what is larger than that is not copied at all."""

LOOK_S = 0.05
"""How often a waiting copy looks whether the requests are done."""


@dataclass(frozen=True)
class Copy:
    """A request that was answered."""

    content: bytes  # the encoded file
    options: Options
    text: str  # the answer


@dataclass(frozen=True)
class Disagreement:
    """How far a shadow's words are from those that were answered, over all copies since it was loaded."""

    ref: str
    requests: int = 0
    edits: int = 0
    words: int = 0  # of whichever transcript has more

    @property
    def rate(self) -> float:
        """Edits a word, from 0 to 1."""
        return self.edits / self.words if self.words else 0.0


def disagreement(one: str, other: str) -> tuple[int, int]:
    """Return the word edits between two transcripts, normalised, and the words of the longer one."""
    ours, theirs = normalize(one).split(), normalize(other).split()
    return edit_distance(ours, theirs), max(len(ours), len(theirs))


class Shadow:
    """The copies that wait, and what came of those before. `app.state.shadow`."""

    def __init__(self, models: Models, metrics: Metrics, settings: Settings) -> None:
        self._models, self._metrics, self._settings = models, metrics, settings
        self._waiting: deque[Copy] = deque()
        self._came = asyncio.Event()
        self._unwatched = Metrics()  # what is decoded here is no request's time
        self.seen: Disagreement | None = None

    def wants(self, key: str, answered: Loaded, n_bytes: int) -> bool:
        """Say whether a request is to be copied: it is of the shadow's share, the model's own, and there is room."""
        if self._models.shadow is None or answered is not self._models.main:
            return False
        if not falls_into(key, self._settings.shadow_share, "shadow"):
            return False
        return self._has_room(n_bytes)

    def _has_room(self, n_bytes: int) -> bool:
        waiting_bytes = sum(len(copy.content) for copy in self._waiting)
        has_room = len(self._waiting) < MAX_WAITING and waiting_bytes + n_bytes <= MAX_WAITING_BYTES
        if not has_room:
            self._metrics.shadowed("dropped")
        return has_room

    def offer(self, copy: Copy) -> None:
        """Take a copy of a request whose answer is out; others may have come since `wants` was asked."""
        if not self._has_room(len(copy.content)):
            return
        self._waiting.append(copy)
        self._came.set()

    async def run(self) -> None:
        """Transcribe copies, one after the other, while there are no requests."""
        limiter = anyio.CapacityLimiter(1)
        while True:
            if not self._waiting:
                self._came.clear()
                await self._came.wait()
            elif not self._models.is_idle:
                await asyncio.sleep(LOOK_S)
            elif (model := self._models.shadow) is None:
                self._waiting.clear()
            else:
                await self._compare(model, self._waiting.popleft(), limiter)
                del model  # or it would stay in memory after it was replaced

    async def _compare(self, model: Loaded, copy: Copy, limiter: anyio.CapacityLimiter) -> None:
        ref = model.version.ref
        try:
            with model.holds.hold():
                means = Means(
                    model.scheduler,
                    limiter,
                    self._unwatched,
                    self._settings.max_audio_seconds,
                    vad=self._settings.vad,
                )
                answer = await transcribe(io.BytesIO(copy.content), copy.options, means)
            edits, words = await anyio.to_thread.run_sync(disagreement, copy.text, answer.transcription.text)
        except Exception as error:  # noqa: BLE001 - nobody waits for it
            logger.warning("the shadow %s failed: %s", ref, type(error).__name__)
            self._metrics.shadowed("failed")
            return
        before = self.seen if self.seen and self.seen.ref == ref else Disagreement(ref)
        self.seen = Disagreement(ref, before.requests + 1, before.edits + edits, before.words + words)
        self._metrics.shadowed("compared")
        self._metrics.disagreed(ref, edits / words if words else 0.0)
