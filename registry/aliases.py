"""Aliases of one model: small files that name a version, moved by compare-and-swap.

A move is three steps, each durable before the next: the log says what is about to happen, the
alias's file is replaced (here the move takes effect), and, for production, so is `previous`'s.
A crash therefore leaves the alias old or new, never between, and the log never behind it. The
next writer settles what a stopped one left: a move that took effect is completed, one that did
not gets a log entry that undoes it. So a move never takes effect later, behind its caller's back.

It does not look at versions: `registry.store` checks that they exist and are whole.
"""

from datetime import UTC, datetime
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from registry.errors import AliasConflictError, DamagedRecordError
from registry.files import write_atomically
from registry.log import Change, LogEntry, MoveLog
from registry.manifest import Sha256, to_json
from registry.names import ALIASES, check_alias


class Alias(BaseModel):
    """Where an alias is, and how it came there.

    Attributes:
        alias: One of `registry.names.ALIASES`.
        version: The id of the version that it names.
        manifest_sha256: Of that version's manifest.
        seq: The log entry that put it there.
        moved_at: When.
        reason: Why.
        verdict: The file name of the verdict that allowed it, if any.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    alias: str
    version: str
    manifest_sha256: Sha256
    seq: int = Field(ge=1)
    moved_at: AwareDatetime
    reason: str
    verdict: str | None = None


class Aliases:
    """The aliases of one model, and the log of their moves.

    Attributes:
        name: The model's name.
        folder: Holds one file for each alias.
        log: The log of moves.
    """

    def __init__(self, name: str, folder: Path, log: MoveLog) -> None:
        self.name, self.folder, self.log = name, folder, log

    def get(self, alias: str) -> Alias | None:
        """Read one alias.

        Args:
            alias: One of `registry.names.ALIASES`.

        Returns:
            Where it is, or None where it does not exist.

        Raises:
            DamagedRecordError: Its file is not what was written.
        """
        path = self._path(alias)
        try:
            found = Alias.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise DamagedRecordError(f"{self.name}@{alias}: {path.name} is no alias") from error
        if found.alias != alias:
            raise DamagedRecordError(f"{self.name}@{alias}: {path.name} says it is {found.alias}")
        return found

    def all(self) -> dict[str, Alias]:
        """Read all aliases that exist.

        Returns:
            The aliases, in the order of `registry.names.ALIASES`.
        """
        return {alias: found for alias in ALIASES if (found := self.get(alias))}

    def move(
        self,
        alias: str,
        version: str,
        manifest_sha256: str,
        *,
        expected: str | None,
        reason: str,
        verdict: str | None = None,
    ) -> Alias:
        """Move an alias if it is where the caller believes it to be. The caller holds the lock.

        Moving an alias to where it already is changes nothing and logs nothing.

        Args:
            alias: The alias to move.
            version: The id of the version that it shall name.
            manifest_sha256: Of that version's manifest.
            expected: The version id that it names now; None if it must not exist.
            reason: Why.
            verdict: The file name of the verdict that allows it.

        Returns:
            The alias, moved.

        Raises:
            AliasConflictError: It is not where the caller believes.
        """
        self.settle()
        current = self.get(alias)
        before = current.version if current else None
        if before != expected:
            raise AliasConflictError(f"{self.name}@{alias}", expected, before)
        if current and before == version:
            return current

        changes = [Change(alias=alias, before=before, after=version, manifest_sha256=manifest_sha256)]
        if alias == "production" and current:
            previous = self.get("previous")
            changes.append(
                Change(
                    alias="previous",
                    before=previous.version if previous else None,
                    after=current.version,
                    manifest_sha256=current.manifest_sha256,
                )
            )
        entry = self._append(reason=reason, verdict=verdict, changes=tuple(changes))
        moved, *_ = [self._apply(entry, change) for change in changes]
        return moved

    def verify(self) -> None:
        """Check the log's chain, and each alias against the log. The caller holds the lock.

        Raises:
            DamagedRecordError: A line of the log or an alias was changed by another hand.
        """
        entries = self.log.verify()
        undone = {entry.undoes for entry in entries}
        for alias in ALIASES:
            moves = [(e, c) for e in entries if e.seq not in undone and (c := e.change(alias))]
            states: list[Alias | None] = [None, *(_alias(*move) for move in moves)]
            # The newest entry's writer may have died between the log and the alias.
            pending = bool(moves) and moves[-1][0] is entries[-1]
            allowed = states[-2:] if pending else states[-1:]
            found = self.get(alias)
            if found not in allowed:
                there = f"{found.version} (seq {found.seq})" if found else "no such alias"
                raise DamagedRecordError(f"{self.name}@{alias} is at {there}, which the log does not say")

    def settle(self) -> None:
        """Complete or undo what a stopped writer left. The caller holds the lock."""
        entry = self.log.last()
        if entry is None or not entry.changes:
            return
        asked, *followers = entry.changes
        if not self._is_applied(entry, asked):
            reason = "undone: its writer stopped before the move took effect"
            self._append(reason=reason, undoes=entry.seq)
            return
        for change in followers:
            if not self._is_applied(entry, change):
                self._apply(entry, change)

    def _is_applied(self, entry: LogEntry, change: Change) -> bool:
        current = self.get(change.alias)
        return current is not None and current.seq == entry.seq

    def _apply(self, entry: LogEntry, change: Change) -> Alias:
        alias = _alias(entry, change)
        write_atomically(self._path(change.alias), to_json(alias))
        return alias

    def _append(
        self, *, reason: str, verdict: str | None = None, changes: tuple[Change, ...] = (), undoes: int | None = None
    ) -> LogEntry:
        seq, prev_sha256 = self.log.head()
        entry = LogEntry(
            seq=seq,
            moved_at=datetime.now(UTC),
            reason=reason,
            verdict=verdict,
            changes=changes,
            undoes=undoes,
            prev_sha256=prev_sha256,
        )
        self.log.append(entry)
        return entry

    def _path(self, alias: str) -> Path:
        return self.folder / alias_file(alias)


def alias_file(alias: str) -> str:
    """Return the name of the file that an alias is kept in.

    Raises:
        InvalidNameError: There is no such alias.
    """
    return f"{check_alias(alias)}.json"


def _alias(entry: LogEntry, change: Change) -> Alias:
    return Alias(
        alias=change.alias,
        version=change.after,
        manifest_sha256=change.manifest_sha256,
        seq=entry.seq,
        moved_at=entry.moved_at,
        reason=entry.reason,
        verdict=entry.verdict,
    )
