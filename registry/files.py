"""Files that survive a crash: durable writes, a walk that follows no link, and a lock.

It knows nothing of versions or aliases, and never removes what it did not write itself.
"""

import fcntl
import os
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Progress = Callable[[int], None]
"""Called with the number of bytes that were just read or written."""

CHUNK = 32 << 20  # large: between two chunks, hashing waits for whatever else Python does


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file so that any reader, at any time, finds the old bytes or the new.

    Args:
        path: The file to write; its folder exists.
        data: Its new content, durable when this returns.
    """
    # A name of its own, since flock is a silent no-op on some network file systems.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        write_synced(temporary, data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_dir(path.parent)


def write_synced(path: Path, data: bytes) -> None:
    """Write a new file and force its bytes to the disk (its name: see `fsync_dir`).

    Args:
        path: The file, which must not exist.
        data: Its content.
    """
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def fsync_dir(folder: Path) -> None:
    """Force a folder's list of names to the disk.

    Args:
        folder: The folder in which something was created, renamed or removed.
    """
    _fsync(folder, os.O_RDONLY | os.O_DIRECTORY)


def fsync_tree(folder: Path) -> None:
    """Force a folder, all its files and all its folders to the disk.

    Args:
        folder: The top of the tree.
    """
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            _fsync(Path(parent, name), os.O_RDONLY)
        fsync_dir(Path(parent))


def make_folder(folder: Path) -> Path:
    """Create a folder and its parents, durably; one that exists is left alone.

    Args:
        folder: The folder.

    Returns:
        The same folder.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        fsync_dir(path.parent)
    return folder


def walk(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """List all that is in a folder and is not a folder itself, following no link.

    Args:
        folder: The top of the tree.

    Yields:
        The path relative to `folder`, with forward slashes, and what `lstat` says of it; sorted
        by path within each folder.
    """
    for path in sorted(folder.iterdir()):
        status = path.lstat()
        if stat.S_ISDIR(status.st_mode):
            for below, status_below in walk(path):
                yield f"{path.name}/{below}", status_below
        else:
            yield path.name, status


def copy_file(source: Path, target: Path, progress: Progress | None = None) -> None:
    """Copy a file's bytes, and neither its permissions nor its times.

    Args:
        source: The file to read.
        target: The file to write, which must not exist.
        progress: Told how many bytes were just copied.
    """
    with source.open("rb") as reader, target.open("xb") as writer:
        while chunk := reader.read(CHUNK):
            writer.write(chunk)
            if progress:
                progress(len(chunk))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock among all processes and threads that name the same file.

    Args:
        path: The lock's file, created on demand and never removed.

    Yields:
        Nothing; the lock is let go when the block ends, however it ends.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _fsync(path: Path, flags: int) -> None:
    handle = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
