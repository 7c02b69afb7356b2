"""What Gradio's page may send, and what is kept of it: Gradio itself bounds the size of a file, and nothing else.

The bodies of its requests are bounded as uploads are, by `service.upload.Body`; here is what the disk holds, and that
Gradio fetches nothing.
"""

import asyncio
import logging
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

logger = logging.getLogger("whisperloop.service")

KEEP_S = 2 * 3600.0
"""Of a file: Gradio deletes those that it knows of after an hour or two, and uploads that broke off never."""

SWEEP_S = 300.0

FILES = 10
"""Of the largest size that is accepted: so much may lie in the folder, from all visitors."""


async def sweep_for_ever(folder: Path) -> None:
    """Delete what is old, now and then, until cancelled."""
    while True:
        await asyncio.sleep(SWEEP_S)
        try:
            await asyncio.to_thread(sweep, folder, time.time() - KEEP_S)
        except OSError:
            logger.exception("what was uploaded to the console could not be looked through; trying again")


def sweep(folder: Path, before: float) -> None:
    """Delete the files of a folder, and of those below it, that nobody has written to since a time."""
    for path, size_and_time in _files(folder):
        if size_and_time.st_mtime < before:
            path.unlink(missing_ok=True)


def kept_bytes(folder: Path) -> int:
    """Return what all files of a folder, and of those below it, take."""
    return sum(found.st_size for _, found in _files(folder))


def _files(folder: Path) -> list[tuple[Path, os.stat_result]]:
    found = []
    for inside, _, names in os.walk(folder):  # which passes over folders that vanish
        for path in (Path(inside) / name for name in names):
            with suppress(OSError):  # it was moved meanwhile
                found.append((path, path.lstat()))
    return found


async def fetch_nothing(url: str) -> NoReturn:
    """Stand in for Gradio's way to other hosts: for whoever names an address instead of a file, it would go there."""
    raise ValueError(f"the console fetches nothing: {url[:80]!r} is no upload")
