"""Corrections in a database, by SQLAlchemy: SQLite's file or PostgreSQL.

Calls block: make them on threads. What is deleted is overwritten (SQLite's secure_delete) and leaves the write-ahead
log at once; copies that a file system, a disk or a backup keeps of its own accord are out of reach.
"""

import hashlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from sqlalchemy import ColumnElement, CursorResult, create_engine, delete, event, func, make_url, select, update
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session, undefer

from corrections.schema import Correction, NewerDatabaseError, upgrade

__all__ = [
    "Correction",
    "CorrectionStore",
    "CorrectionsError",
    "Counts",
    "New",
    "NewerDatabaseError",
    "Page",
    "Which",
]

BUSY_TIMEOUT_MS = 10_000
"""For another process' transaction, each of which writes one clip."""

EXPORTED_AT_ONCE = 32


class CorrectionsError(Exception):
    """The database cannot be used; the message says why, without any password."""


@dataclass(frozen=True)
class New:
    """A correction to be kept, by somebody who agreed to that."""

    audio: bytes  # FLAC
    samples: bytes  # what is in it, as 16-bit little-endian: the same clip is known by it
    seconds: float
    language: str
    hypothesis: str
    correction: str
    model: str | None = None
    speaker: str | None = None


@dataclass(frozen=True)
class Which:
    """Which corrections are meant; None is no condition."""

    key: str | None = None
    language: str | None = None
    model: str | None = None
    before: float | None = None  # last changed before this time, in seconds since 1970
    since: float | None = None  # last changed then or later

    def conditions(self) -> list[ColumnElement[bool]]:
        """Return it for a query."""
        found: list[ColumnElement[bool]] = []
        for column, value in (
            (Correction.key, self.key),
            (Correction.language, self.language),
            (Correction.model, self.model),
        ):
            if value is not None:
                found.append(column == value)
        if self.before is not None:
            found.append(Correction.updated_at < self.before)
        if self.since is not None:
            found.append(Correction.updated_at >= self.since)
        return found


EVERYTHING = Which()


@dataclass(frozen=True)
class Page:
    """Some corrections, the newest first, without their audio."""

    items: list[Correction]
    has_more: bool


@dataclass(frozen=True)
class Counts:
    """How much there is."""

    clips: int
    seconds: float
    bytes: int
    by_language: dict[str, int]


class CorrectionStore:
    """The corrections of one database, which is made, or brought to the newest form, when it is first used."""

    def __init__(self, url: str, *, must_exist: bool = False) -> None:
        """Name the database; nothing is opened yet.

        Args:
            url: SQLAlchemy's: sqlite:///file, or postgresql+psycopg://user@host/name.
            must_exist: for who reads: a file that is not there is an error then, not an empty database.

        Raises:
            CorrectionsError: it is none.
        """
        try:
            parsed = make_url(url)
            if parsed.get_backend_name() == "sqlite" and parsed.database in {None, "", ":memory:"}:
                raise CorrectionsError("name a file, as in sqlite:///runs/corrections.db: corrections are to be kept")
            if parsed.drivername == "postgresql":  # SQLAlchemy would take another driver than ours
                parsed = parsed.set(drivername="postgresql+psycopg")
            self._engine = create_engine(parsed, hide_parameters=True)  # errors are logged: without what was said
        except (ArgumentError, ImportError) as error:
            raise CorrectionsError(
                f"not a database: {error}; for example sqlite:///runs/corrections.db or postgresql://user@host/name"
            ) from None
        self.name = parsed.render_as_string(hide_password=True)
        self._is_open = False
        self._must_exist = must_exist
        if self._is_sqlite:
            event.listen(self._engine, "connect", _configure_sqlite)
            # Writers wait for each other at the beginning of a transaction, where waiting is possible.
            event.listen(self._engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))

    @property
    def _is_sqlite(self) -> bool:
        return self._engine.dialect.name == "sqlite"

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def open(self) -> None:
        """Make the database if there is none, and bring it to the newest form; all other calls do so, too.

        Raises:
            CorrectionsError: it cannot be reached, or written, or is not there though it must be.
            NewerDatabaseError: it is of a newer release.
        """
        if self._is_open:
            return
        try:
            if self._is_sqlite:
                path = Path(self._engine.url.database or "")
                if self._must_exist and not path.exists():
                    raise CorrectionsError(f"there is no database of corrections at {path.absolute()}")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch(mode=0o600)  # speech is nobody else's business
            with self._engine.begin() as connection:
                upgrade(connection)
        except NewerDatabaseError:
            self.close()
            raise
        except (SQLAlchemyError, OSError) as error:
            self.close()
            line = str(getattr(error, "orig", None) or error).strip().split("\n")[0]
            raise CorrectionsError(f"the database of corrections {self.name} cannot be used: {line}") from error
        self._is_open = True

    @contextmanager
    def _transaction(self) -> Iterator[Session]:
        self.open()
        with Session(self._engine, expire_on_commit=False) as session, session.begin():
            yield session

    def add(self, new: New, now: float, *, key: str = "") -> tuple[Correction, bool]:
        """Keep a correction; return it and whether its clip is new.

        The same clip of the same key is kept once: its newest correction takes the place of what was there.

        Args:
            new: what to keep.
            now: seconds since 1970.
            key: the name of the API key that sends it.
        """
        digest = hashlib.sha256(new.samples).hexdigest()
        texts = {name: getattr(new, name) for name in ("language", "hypothesis", "correction", "model", "speaker")}
        row = Correction(
            id=f"cor_{secrets.token_urlsafe(18)}",
            key=key,
            created_at=now,
            updated_at=now,
            consented_at=now,
            audio=new.audio,
            audio_sha256=digest,
            seconds=new.seconds,
            **texts,
        )
        try:
            with self._transaction() as session:
                session.add(row)
                session.flush()
        except IntegrityError:
            same = (Correction.key == key, Correction.audio_sha256 == digest)
            with self._transaction() as session:
                session.execute(update(Correction).where(*same).values(updated_at=now, consented_at=now, **texts))
                found = session.scalar(select(Correction).where(*same))
            if found is None:  # it was deleted in between: nothing is in the way now
                return self.add(new, now, key=key)
            return found, False
        return row, True

    def get(self, correction_id: str, which: Which = EVERYTHING) -> Correction | None:
        """Return a correction by its id, if it is one of those that are meant."""
        with self._transaction() as session:
            return session.scalar(select(Correction).where(Correction.id == correction_id, *which.conditions()))

    def audio(self, correction_id: str) -> bytes | None:
        """Return a correction's FLAC."""
        with self._transaction() as session:
            return session.scalar(select(Correction.audio).where(Correction.id == correction_id))

    def list(self, which: Which = EVERYTHING, *, limit: int = 100, after: str | None = None) -> Page:
        """Return corrections, the newest first; those that came before one, if it is named."""
        with self._transaction() as session:
            query = select(Correction).where(*which.conditions()).order_by(Correction.number.desc()).limit(limit + 1)
            if after is not None:
                number = select(Correction.number).where(Correction.id == after, *which.conditions())
                query = query.where(Correction.number < number.scalar_subquery())
            found = list(session.scalars(query).all())
        return Page(found[:limit], len(found) > limit)

    def all(self, which: Which = EVERYTHING) -> Iterator[Correction]:
        """Yield corrections with their audio, the oldest first, some at a time: a long export holds nobody up."""
        last = 0
        while True:
            with self._transaction() as session:
                query = (
                    select(Correction)
                    .options(undefer(Correction.audio))
                    .where(Correction.number > last, *which.conditions())
                    .order_by(Correction.number)
                    .limit(EXPORTED_AT_ONCE)
                )
                rows = session.scalars(query).all()
            if not rows:
                return
            yield from rows
            last = rows[-1].number

    def count(self, which: Which = EVERYTHING) -> Counts:
        """Count the corrections."""
        size = func.coalesce(func.sum(func.length(Correction.audio)), 0)
        with self._transaction() as session:
            rows = session.execute(
                select(Correction.language, func.count(), func.sum(Correction.seconds), size)
                .where(*which.conditions())
                .group_by(Correction.language)
                .order_by(Correction.language)
            ).all()
        return Counts(
            clips=sum(n for _, n, _, _ in rows),
            seconds=float(sum(seconds for _, _, seconds, _ in rows)),
            bytes=int(sum(n_bytes for *_, n_bytes in rows)),
            by_language={language: n for language, n, _, _ in rows},
        )

    def delete(self, correction_id: str, which: Which = EVERYTHING) -> bool:
        """Delete a correction, if it is one of those that are meant; return whether there was one."""
        return self._delete(Correction.id == correction_id, *which.conditions()) > 0

    def delete_all(self, which: Which) -> int:
        """Delete all corrections that are meant; return how many."""
        return self._delete(*which.conditions())

    def _delete(self, *conditions: ColumnElement[bool]) -> int:
        with self._transaction() as session:
            done = session.execute(delete(Correction).where(*conditions))
        if self._is_sqlite:  # what was overwritten is still in the write-ahead log
            connection = self._engine.raw_connection()
            try:
                connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
            finally:
                connection.close()
        return cast("CursorResult[Any]", done).rowcount


def _configure_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions are begun by us: see "begin"
    for pragma in ("journal_mode=WAL", "secure_delete=ON", f"busy_timeout={BUSY_TIMEOUT_MS}"):
        connection.execute(f"PRAGMA {pragma}").close()
