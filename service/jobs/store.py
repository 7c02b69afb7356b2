"""Where jobs are kept until they are done and fetched: a database, by SQLAlchemy.

Every change of a job's state is one compare-and-swap, so that several processes may share a database and a killed one
loses nothing. Calls block: make them on threads. It knows nothing of audio, HTTP or time: callers say what time it is.

What is forgotten is overwritten (SQLite's secure_delete) and leaves the write-ahead log at once; blocks that a file
system or a disk keeps of its own accord are out of reach.
"""

import hashlib
import json
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from sqlalchemy import (
    JSON,
    ColumnElement,
    CursorResult,
    LargeBinary,
    UniqueConstraint,
    case,
    create_engine,
    delete,
    event,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]
UNFINISHED: tuple[Status, ...] = ("queued", "running")

MAX_ATTEMPTS = 3
"""Times that a job is begun: audio that ends the process each time must not do so for ever."""

BUSY_TIMEOUT_MS = 10_000
"""For another process' transaction: the longest writes one upload."""


class Base(DeclarativeBase):
    """The tables of this room."""


class StoredJob(Base):
    """One job. Times are seconds since 1970; blobs are read only when they are asked for."""

    __tablename__ = "jobs"
    __table_args__ = (UniqueConstraint("owner", "idempotency_key"),)

    number: Mapped[int] = mapped_column(primary_key=True)  # the order in which they are done
    id: Mapped[str] = mapped_column(unique=True)
    owner: Mapped[str]  # the name of an API key; empty where there are none
    status: Mapped[str] = mapped_column(index=True)
    created_at: Mapped[float]
    started_at: Mapped[float | None]
    finished_at: Mapped[float | None]
    expires_at: Mapped[float | None] = mapped_column(index=True)  # None until it is finished

    fields: Mapped[list[list[str]]] = mapped_column(JSON)  # of the form, beside the file
    audio: Mapped[bytes | None] = mapped_column(LargeBinary, deferred=True)
    audio_bytes: Mapped[int]
    idempotency_key: Mapped[str | None]
    fingerprint: Mapped[str]  # of audio and fields

    attempts: Mapped[int] = mapped_column(default=0)
    runner: Mapped[str | None]
    lease_until: Mapped[float | None]  # a runner that does not renew it is dead
    not_before: Mapped[float] = mapped_column(default=0.0)
    progress: Mapped[float] = mapped_column(default=0.0)
    audio_seconds: Mapped[float | None]

    result: Mapped[bytes | None] = mapped_column(LargeBinary, deferred=True)
    result_bytes: Mapped[int] = mapped_column(default=0)
    media_type: Mapped[str | None]
    headers: Mapped[dict[str, str]] = mapped_column(JSON, default=dict)
    error: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))

    webhook: Mapped[str | None]
    webhook_status: Mapped[str | None] = mapped_column(index=True)  # waiting, pending, delivered, failed
    webhook_attempts: Mapped[int] = mapped_column(default=0)
    webhook_next_at: Mapped[float | None]
    webhook_error: Mapped[str | None]

    @property
    def short_id(self) -> str:
        """Name it in the log: whoever knows the whole id may fetch the words."""
        return self.id[:12]

    @property
    def is_finished(self) -> bool:
        """Whether nothing of it will change any more."""
        return self.status not in UNFINISHED


class FullError(Exception):
    """There is no room for another job."""


class ReusedKeyError(Exception):
    """An idempotency key came again with another upload."""


@dataclass(frozen=True)
class Result:
    """What answers a job: the response that the same form would have had at POST /transcribe."""

    body: bytes
    media_type: str | None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """Where in the queue a job is."""

    ahead: int  # jobs that are begun before it, and not done
    seconds: float | None  # of audio that is to be decoded until it is done; None where somebody's length is not known


class JobStore:
    """The jobs of one database, which is made when the first of them comes."""

    def __init__(self, url: str, *, max_jobs: int, max_bytes: int) -> None:
        """Name the database; nothing is opened yet.

        Args:
            url: SQLAlchemy's.
            max_jobs: that are not finished.
            max_bytes: of audio and results together.
        """
        self._engine = create_engine(url, hide_parameters=True)  # errors are logged: without the prompts
        self._max_jobs, self._max_bytes = max_jobs, max_bytes
        self._is_open = False
        if self._is_sqlite:
            event.listen(self._engine, "connect", _configure_sqlite)
            # Writers wait for each other at the beginning of a transaction, where waiting is possible.
            event.listen(self._engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))

    @property
    def _is_sqlite(self) -> bool:
        return self._engine.dialect.name == "sqlite"

    @property
    def exists(self) -> bool:
        """Whether there may be jobs: an SQLite file is not made before there are."""
        return self._is_open or not self._is_sqlite or Path(self._engine.url.database or "").exists()

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    @contextmanager
    def _transaction(self) -> Iterator[Session]:
        if not self._is_open:
            if self._is_sqlite:
                path = Path(self._engine.url.database or "")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch(mode=0o600)  # speech is nobody else's business
            Base.metadata.create_all(self._engine)
            self._is_open = True
        with Session(self._engine, expire_on_commit=False) as session, session.begin():
            yield session

    def submit(
        self,
        audio: bytes,
        fields: Sequence[tuple[str, str]],
        now: float,
        *,
        owner: str = "",
        webhook: str | None = None,
        idempotency_key: str | None = None,
        audio_seconds: float | None = None,
    ) -> tuple[StoredJob, bool]:
        """Keep a job; return it and whether it is new.

        Raises:
            FullError: there are too many, or they are too large.
            ReusedKeyError: the owner's key stands for another upload.
        """
        written = [list(pair) for pair in fields]
        fingerprint = hashlib.sha256(json.dumps([written, webhook]).encode() + audio).hexdigest()
        job = StoredJob(
            id=f"job_{secrets.token_urlsafe(24)}",
            owner=owner,
            status="queued",
            created_at=now,
            fields=written,
            audio=audio,
            audio_bytes=len(audio),
            audio_seconds=audio_seconds,
            idempotency_key=idempotency_key,
            fingerprint=fingerprint,
            webhook=webhook,
            webhook_status="waiting" if webhook else None,
        )
        try:
            with self._transaction() as session:
                if idempotency_key is not None:  # its last holder may have expired, and not be swept yet
                    held = (StoredJob.owner == owner, StoredJob.idempotency_key == idempotency_key)
                    session.execute(delete(StoredJob).where(*held, StoredJob.expires_at <= now))
                session.add(job)
                session.flush()
                unfinished = session.scalar(select(func.count()).where(StoredJob.status.in_(UNFINISHED))) or 0
                stored = session.scalar(select(func.sum(StoredJob.audio_bytes + StoredJob.result_bytes))) or 0
                if unfinished > self._max_jobs or stored > self._max_bytes:
                    raise FullError
        except IntegrityError:
            known = self._by_key(owner, idempotency_key)
            if known is None or known.fingerprint != fingerprint:
                raise ReusedKeyError from None
            return known, False
        return job, True

    def _by_key(self, owner: str, key: str | None) -> StoredJob | None:
        with self._transaction() as session:
            return session.scalar(select(StoredJob).where(StoredJob.owner == owner, StoredJob.idempotency_key == key))

    def get(self, job_id: str, owner: str, now: float) -> StoredJob | None:
        """Return an owner's job, if it has not expired."""
        if not self.exists:
            return None
        with self._transaction() as session:
            return session.scalar(select(StoredJob).where(StoredJob.id == job_id, *_visible(owner, now)))

    def list(self, owner: str, now: float, *, limit: int, before: str | None = None) -> Sequence[StoredJob]:
        """Return an owner's jobs, the newest first; those that came before one, if it is named."""
        if not self.exists:
            return []
        with self._transaction() as session:
            query = select(StoredJob).where(*_visible(owner, now)).order_by(StoredJob.number.desc()).limit(limit)
            if before is not None:
                number = select(StoredJob.number).where(StoredJob.id == before, *_visible(owner, now))
                query = query.where(StoredJob.number < number.scalar_subquery())
            return session.scalars(query).all()

    def place(self, job: StoredJob) -> Place:
        """Return where in the queue a job is that is not finished."""
        with self._transaction() as session:
            ahead = session.execute(
                select(StoredJob.audio_seconds, StoredJob.progress)
                .where(StoredJob.status.in_(UNFINISHED), StoredJob.number <= job.number)
                .order_by(StoredJob.number)
            ).all()
        seconds = [None if total is None else total * (1 - progress) for total, progress in ahead]
        known = [one for one in seconds if one is not None]
        return Place(max(0, len(ahead) - 1), sum(known) if len(known) == len(seconds) else None)

    def result(self, job_id: str) -> Result | None:
        """Return what answers a job, if it was answered."""
        with self._transaction() as session:
            row = session.execute(
                select(StoredJob.result, StoredJob.media_type, StoredJob.headers).where(
                    StoredJob.id == job_id, StoredJob.status == "succeeded"
                )
            ).one_or_none()
        return None if row is None or row[0] is None else Result(row[0], row[1], row[2])

    def audio(self, job_id: str) -> bytes | None:
        """Return a job's audio, if it is not done yet."""
        with self._transaction() as session:
            return session.scalar(select(StoredJob.audio).where(StoredJob.id == job_id))

    def claim(self, runner: str, now: float, lease_s: float) -> StoredJob | None:
        """Take the job whose turn it is: one that waits, or one whose runner died."""
        is_free = or_(
            (StoredJob.status == "queued") & (StoredJob.not_before <= now),
            (StoredJob.status == "running") & (StoredJob.lease_until <= now),
        )
        with self._transaction() as session:
            query = select(StoredJob).where(is_free, StoredJob.attempts < MAX_ATTEMPTS).order_by(StoredJob.number)
            job = session.scalar(query.limit(1))
            if job is None:
                return None
            taken = _updated(
                session,
                # Where a database lets two look at once, one of them finds the attempt counted.
                [StoredJob.id == job.id, StoredJob.status == job.status, StoredJob.attempts == job.attempts],
                status="running",
                runner=runner,
                lease_until=now + lease_s,
                attempts=job.attempts + 1,
                started_at=job.started_at or now,
                progress=0.0,
            )
            return session.get_one(StoredJob, job.number, populate_existing=True) if taken else None

    def renew(
        self, job_id: str, runner: str, now: float, lease_s: float, *, progress: float, audio_seconds: float | None
    ) -> bool:
        """Say that a runner lives and how far it is; False if the job is no longer its own."""
        values: dict[str, Any] = {"lease_until": now + lease_s, "progress": progress}
        if audio_seconds is not None:
            values["audio_seconds"] = audio_seconds
        with self._transaction() as session:
            return _updated(session, _held(job_id, runner), **values) > 0

    def release(self, job_id: str, runner: str, *, not_before: float = 0.0) -> bool:
        """Give a job back as if it had not been begun."""
        with self._transaction() as session:
            released = _updated(
                session,
                _held(job_id, runner),
                status="queued",
                runner=None,
                lease_until=None,
                attempts=StoredJob.attempts - 1,
                started_at=case((StoredJob.attempts <= 1, None), else_=StoredJob.started_at),
                not_before=not_before,
                progress=0.0,
            )
        return released > 0

    def succeed(
        self, job_id: str, runner: str, result: Result, now: float, ttl_s: float, *, audio_seconds: float | None
    ) -> bool:
        """Keep a job's result, and its audio no longer; False if the job is no longer the runner's."""
        finished = self._finish(
            _held(job_id, runner),
            "succeeded",
            now,
            ttl_s,
            progress=1.0,
            result=result.body,
            result_bytes=len(result.body),
            media_type=result.media_type,
            headers=result.headers,
            audio_seconds=audio_seconds,
        )
        return finished > 0

    def fail(self, job_id: str, runner: str, error: dict[str, Any], now: float, ttl_s: float) -> bool:
        """Keep why a job failed, and its audio no longer; False if the job is no longer the runner's."""
        return self._finish(_held(job_id, runner), "failed", now, ttl_s, error=error) > 0

    def cancel(self, job_id: str, now: float, ttl_s: float) -> bool:
        """End a job that is not finished; whoever runs it learns at its next renewal. False if it is finished."""
        return self._finish([StoredJob.id == job_id, StoredJob.status.in_(UNFINISHED)], "cancelled", now, ttl_s) > 0

    def _finish(
        self, where: Sequence[ColumnElement[bool]], status: Status, now: float, ttl_s: float, **values: Any
    ) -> int:
        with self._transaction() as session:
            finished = _updated(
                session,
                where,
                status=status,
                runner=None,
                lease_until=None,
                finished_at=now,
                expires_at=now + ttl_s,
                audio=None,
                audio_bytes=0,
                fields=[],  # a prompt is text of somebody's
                **values,
            )
            if finished:
                _updated(
                    session,
                    [StoredJob.webhook_status == "waiting", StoredJob.status.not_in(UNFINISHED)],
                    webhook_status="pending",
                    webhook_next_at=now,
                )
        self.wipe()
        return finished

    def delete(self, job_id: str) -> bool:
        """Forget a job, whatever its state."""
        with self._transaction() as session:
            gone = session.execute(delete(StoredJob).where(StoredJob.id == job_id))
        self.wipe()
        return cast("CursorResult[Any]", gone).rowcount > 0

    def sweep(self, now: float, ttl_s: float, abandoned: dict[str, Any]) -> int:
        """Forget what has expired, and fail what was begun too often; return how many of these there were."""
        dead = [StoredJob.status == "running", StoredJob.lease_until <= now, StoredJob.attempts >= MAX_ATTEMPTS]
        n_failed = self._finish(dead, "failed", now, ttl_s, error=abandoned)
        with self._transaction() as session:
            session.execute(delete(StoredJob).where(StoredJob.expires_at <= now))
        self.wipe()
        return n_failed

    def next_webhook(self, now: float, lease_s: float) -> StoredJob | None:
        """Take a message that is due; it is due again after `lease_s` if nobody says how it went."""
        with self._transaction() as session:
            is_due = [StoredJob.webhook_status == "pending", StoredJob.webhook_next_at <= now]
            job = session.scalar(select(StoredJob).where(*is_due).order_by(StoredJob.webhook_next_at).limit(1))
            if job is None:
                return None
            taken = _updated(
                session,
                [StoredJob.id == job.id, *is_due],
                webhook_next_at=now + lease_s,
                webhook_attempts=job.webhook_attempts + 1,
            )
            return session.get_one(StoredJob, job.number, populate_existing=True) if taken else None

    def webhook_sent(self, job_id: str, *, error: str | None, next_at: float | None) -> None:
        """Say how a message went: delivered (no error), to be sent again (`next_at`), or given up."""
        status = "delivered" if error is None else "failed" if next_at is None else "pending"
        with self._transaction() as session:
            _updated(
                session,
                [StoredJob.id == job_id, StoredJob.webhook_status == "pending"],
                webhook_status=status,
                webhook_error=error,
                webhook_next_at=next_at,
            )

    def wipe(self) -> None:
        """Empty SQLite's write-ahead log, which holds what was written and forgotten since; else do nothing.

        While somebody reads, it stays: the next call, at the next sweep at the latest, finds it free.
        """
        if self._is_sqlite:
            connection = self._engine.raw_connection()
            try:
                connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
            finally:
                connection.close()


def _configure_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions are begun by us: see "begin"
    for pragma in ("journal_mode=WAL", "secure_delete=ON", f"busy_timeout={BUSY_TIMEOUT_MS}"):
        connection.execute(f"PRAGMA {pragma}").close()


def _visible(owner: str, now: float) -> tuple[ColumnElement[bool], ...]:
    return StoredJob.owner == owner, or_(StoredJob.expires_at.is_(None), StoredJob.expires_at > now)


def _held(job_id: str, runner: str) -> Sequence[ColumnElement[bool]]:
    return StoredJob.id == job_id, StoredJob.status == "running", StoredJob.runner == runner


def _updated(session: Session, where: Sequence[ColumnElement[bool]], **values: Any) -> int:
    done = session.execute(
        update(StoredJob).where(*where).values(**values).execution_options(synchronize_session=False)
    )
    return cast("CursorResult[Any]", done).rowcount
