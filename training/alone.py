"""One process in a folder at a time, held by a lock that is let go when the process ends, however it ends."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def alone_in(folder: Path, otherwise: Exception) -> Iterator[None]:
    """Hold a folder, which is made if need be, for as long as the block runs.

    Args:
        folder: of which a file `lock` is held.
        otherwise: what is raised, at once, where somebody else holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "lock", timeout=0):
            yield
    except Timeout:
        raise otherwise from None
