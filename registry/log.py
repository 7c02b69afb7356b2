"""The log of alias moves: one JSON line a move, each holding the sha256 of the line before.

A changed, removed or inserted line breaks the chain. It does not decide anything: which move
comes next, and whether one took effect, is for `registry.aliases`.
"""

import hashlib
import os
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from registry.errors import DamagedRecordError
from registry.files import fsync_dir
from registry.manifest import Sha256

FIRST = "0" * 64
"""What the first line has in place of the sha256 of the line before."""


class Change(BaseModel):
    """One alias's part in a move.

    Attributes:
        alias: The alias.
        before: The version id that it named; None where it did not exist.
        after: The version id that it names from now on.
        manifest_sha256: Of that version's manifest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    alias: str
    before: str | None
    after: str
    manifest_sha256: Sha256


class LogEntry(BaseModel):
    """One line of the log.

    Attributes:
        seq: The line's number, from 1.
        moved_at: When.
        reason: Why, in the caller's words.
        verdict: The file name of the verdict that allowed the move, if any.
        changes: The alias that was asked for, then `previous` where it followed.
        undoes: The `seq` of a move that never took effect, its writer having stopped; such an
            entry has no changes.
        prev_sha256: Of the line before.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seq: int = Field(ge=1)
    moved_at: AwareDatetime
    reason: str
    verdict: str | None = None
    changes: tuple[Change, ...] = ()
    undoes: int | None = None
    prev_sha256: Sha256

    def change(self, alias: str) -> Change | None:
        """Find what this move did to one alias.

        Args:
            alias: The alias.

        Returns:
            Its change, or None where this move left it alone.
        """
        return next((change for change in self.changes if change.alias == alias), None)


class MoveLog:
    """The log of one model, in one file.

    A line counts from its newline on: a last line without one was never finished, so readers
    skip it and the next writer cuts it off.

    Attributes:
        path: The file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def entries(self) -> list[LogEntry]:
        """Read all moves, oldest first.

        Returns:
            The entries; `verify` tells whether they are the ones that were written.

        Raises:
            DamagedRecordError: A line is no entry.
        """
        return [self._parse(number, line) for number, line in enumerate(self._lines(), 1)]

    def last(self) -> LogEntry | None:
        """Read the newest move alone, so that an old damaged line never stops a rollback.

        Returns:
            The entry, or None where nothing has moved yet.
        """
        lines = self._lines()
        return self._parse(len(lines), lines[-1]) if lines else None

    def head(self) -> tuple[int, str]:
        """Tell where the chain ends.

        Returns:
            The `seq` and `prev_sha256` that the next entry must have.
        """
        lines = self._lines()
        return len(lines) + 1, _sha256(lines[-1]) if lines else FIRST

    def append(self, entry: LogEntry) -> None:
        """Add a move, durable when this returns. The caller holds the model's lock.

        Args:
            entry: The move; it continues the chain (see `head`).
        """
        kept = sum(len(line) + 1 for line in self._lines())
        with self.path.open("ab") as file:
            file.truncate(kept)
            file.write(entry.model_dump_json().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        fsync_dir(self.path.parent)

    def verify(self) -> list[LogEntry]:
        """Check the whole chain.

        Returns:
            The entries.

        Raises:
            DamagedRecordError: A line was changed, removed or inserted; the message says which.
        """
        expected = FIRST
        entries = self.entries()
        for number, (line, entry) in enumerate(zip(self._lines(), entries, strict=True), 1):
            if entry.seq != number or entry.prev_sha256 != expected:
                raise DamagedRecordError(
                    f"{self.path.name}: line {number} does not continue the line before it: "
                    f"expected {expected}, found {entry.prev_sha256} (seq {entry.seq})"
                )
            expected = _sha256(line)
        return entries

    def _lines(self) -> list[bytes]:
        try:
            return self.path.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return []

    def _parse(self, number: int, line: bytes) -> LogEntry:
        try:
            return LogEntry.model_validate_json(line)
        except ValidationError as error:
            raise DamagedRecordError(f"{self.path.name}: line {number} is no entry") from error


def _sha256(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()
