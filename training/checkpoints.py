"""Checkpoints that a kill cannot spoil: sealed when whole, checked before use, and never fewer than two.

Trainer writes a checkpoint file by file. What makes it whole is its seal, written last: each file's size and sha256. A
folder without one, or unlike its seal, is passed over, and removed once a later one is sealed.

`optimizer.pt`, `scheduler.pt`, `rng_state.pth` and `training_args.bin` are pickles, as Trainer writes them. They are
the run's own and never leave its folder; Trainer reads three of them with torch's `weights_only` loader, nobody the
last.
"""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError

from registry import FileEntry, hash_file
from registry.files import fsync_tree, walk, write_atomically

SEAL = "sealed.json"
KEPT = 2
TORCH_WRITER = "inline_container"
"""The source file that torch names when it cannot write; it raises a bare RuntimeError."""


class SaveError(RuntimeError):
    """Something could not be written; the message says where, why, and what to do."""


class Seal(BaseModel):
    """What a whole checkpoint holds, and how the run stood.

    Attributes:
        step: optimiser steps done.
        finished: no step is left to do.
        threads: that torch computed with; another number sums in another order, and the last bits differ.
        files: all but the seal, by path.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int = Field(ge=0)
    finished: bool
    threads: int = Field(ge=1)
    files: dict[str, FileEntry]


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint."""

    path: Path
    seal: Seal


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return where Trainer puts the checkpoint of a step."""
    return folder / f"checkpoint-{step}"


def seal(path: Path, *, step: int, finished: bool, threads: int) -> None:
    """Declare a checkpoint whole: all its bytes are on the disk before its seal is."""
    fsync_tree(path)
    files = {name: FileEntry(sha256=hash_file(path / name), size=status.st_size) for name, status in walk(path)}
    content = Seal(step=step, finished=finished, threads=threads, files=files)
    write_atomically(path / SEAL, content.model_dump_json(indent=2).encode() + b"\n")


def last_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the newest whole checkpoint, every byte of it compared with its seal."""
    for step, path in sorted(_steps(folder), reverse=True):
        found = _read_seal(path)
        if found is not None and found.step == step and _unspoilt(path, found):
            return Checkpoint(path, found)
    return None


def prune(folder: Path, spare: Path | None = None) -> None:
    """Remove all but the newest `KEPT` sealed checkpoints and `spare`; call it after sealing a new one."""
    sealed = [path for _, path in sorted(_steps(folder)) if (path / SEAL).is_file()]
    kept = {*sealed[-KEPT:], spare}
    for _, path in _steps(folder):
        if path not in kept:
            discard(path)


def discard(path: Path) -> None:
    """Remove a checkpoint, its seal first, so that what a kill leaves of it is not taken for whole."""
    (path / SEAL).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


@contextmanager
def saving(what: str, folder: Path, then: str) -> Iterator[None]:
    """Turn what a full or failing disk raises into one line.

    Args:
        what: is being saved, such as "the checkpoint of step 200".
        folder: it is saved to.
        then: what happens once the disk has room again.

    Raises:
        SaveError: it could not be written.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and TORCH_WRITER not in str(error):
            raise
        raise SaveError(
            f"{what} could not be written to {folder}: {_reason(error, folder)}. "
            f"Free some room there, or name another disk with --runs; {then}"
        ) from error


def _reason(error: Exception, folder: Path) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    number = re.search(r"os error (\d+)", str(error))
    if number:
        return os.strerror(int(number[1]))
    return os.strerror(errno.ENOSPC) if shutil.disk_usage(folder).free < 1 << 20 else "torch could not write a file"


def _steps(folder: Path) -> Iterator[tuple[int, Path]]:
    for path in folder.glob("checkpoint-*"):
        step = path.name.removeprefix("checkpoint-")
        if step.isdigit():
            yield int(step), path


def _read_seal(path: Path) -> Seal | None:
    try:
        return Seal.model_validate_json((path / SEAL).read_bytes())
    except (OSError, ValidationError):
        return None


def _unspoilt(path: Path, found: Seal) -> bool:
    for name, entry in found.files.items():
        file = path / name
        if not file.is_file() or file.stat().st_size != entry.size or hash_file(file) != entry.sha256:
            return False
    return True
