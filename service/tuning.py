"""Finding out, while nobody waits, how the CPU engine is best run on this machine.

The measurement is `speech.engine.tuning`'s, in a process of its own: it is stopped as soon as a request comes, and
begun anew when all is quiet again. Its answer is kept for the next start. Never an error for anybody: without an
answer, the service goes on as it is.
"""

import asyncio
import json
import logging
import sys
from contextlib import suppress
from pathlib import Path

from service.scheduler import Scheduler
from speech.engine.tuning import Tuning, write_cached

logger = logging.getLogger("whisperloop.service")

QUIET_S = 10.0
"""No request for so long is idle."""

LOOK_S = 0.05
"""How often a measurement looks whether a request came."""

ATTEMPTS = 20


async def tune_when_idle(scheduler: Scheduler, export: Path, positions: int, cached: Path) -> Tuning | None:
    """Measure, keep the answer in `cached`, and return it; None where there was no peace for it.

    Args:
        scheduler: tells whether somebody waits.
        export: the version's CTranslate2 folder.
        positions: that a clip of 3 s is given.
        cached: see `speech.engine.tuning.cache_file`.
    """
    for _ in range(ATTEMPTS):
        await _wait_until_idle(scheduler)
        try:
            answer = await _measure(scheduler, export, positions)
        except OSError as error:
            logger.warning("not tuned: the measurement cannot be started (%s); the service goes on as it is", error)
            return None
        if answer is None:
            continue
        try:
            best = json.loads(answer)[0]
            tuning = Tuning(**best["tuning"])
        except (ValueError, KeyError, IndexError, TypeError):
            logger.warning("not tuned: the measurement failed; the service goes on as it is")
            return None
        logger.info("tuned: %s; a clip alone %.3f s, in a crowd %.3f s", tuning, best["clip_s"], best["crowd_s"])
        try:
            write_cached(cached, tuning)
        except OSError as error:
            logger.warning("the tuning cannot be kept for the next start: %s", error)
        return tuning
    return None


async def _wait_until_idle(scheduler: Scheduler) -> None:
    quiet_s = 0.0
    while quiet_s < QUIET_S:
        batches = scheduler.stats().batches
        await asyncio.sleep(min(QUIET_S, 0.5))
        quiet_s = quiet_s + 0.5 if scheduler.is_idle and scheduler.stats().batches == batches else 0.0


async def _measure(scheduler: Scheduler, export: Path, positions: int) -> bytes | None:
    """Return what the measurement printed; None if a request came."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "speech.engine.tuning", str(export), str(positions)),
        stdout=asyncio.subprocess.PIPE,
    )
    reading = asyncio.ensure_future(process.communicate())
    try:
        while not reading.done():
            if not scheduler.is_idle:
                return None
            await asyncio.wait([reading], timeout=LOOK_S)
        return reading.result()[0]
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await asyncio.gather(reading, return_exceptions=True)
