"""The table of corrections, and how its database is brought to the newest form (alembic, `corrections/migrations`)."""

from typing import TYPE_CHECKING

from sqlalchemy import Index, LargeBinary, UniqueConstraint, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

if TYPE_CHECKING:
    from sqlalchemy import Connection

LOCK = 0x57_68_69_73_70_65_72  # of PostgreSQL's advisory locks: any number that nobody else takes


class Base(DeclarativeBase):
    """The tables of this room."""


class Correction(Base):
    """One clip with what was heard in it and what was said. Times are seconds since 1970."""

    __tablename__ = "corrections"
    __table_args__ = (
        UniqueConstraint("key", "audio_sha256", name="uq_corrections_key_audio"),
        Index("ix_corrections_updated_at", "updated_at"),
    )

    number: Mapped[int] = mapped_column(primary_key=True)  # the order in which they came
    id: Mapped[str] = mapped_column(unique=True)
    key: Mapped[str]  # the name of the API key that sent it; empty where there are none
    created_at: Mapped[float]
    updated_at: Mapped[float]
    consented_at: Mapped[float]  # without consent, nothing is kept

    audio: Mapped[bytes] = mapped_column(LargeBinary, deferred=True)  # FLAC; read only when it is asked for
    audio_sha256: Mapped[str]  # of its samples, so that two encodings of one clip are one
    seconds: Mapped[float]

    language: Mapped[str]  # Whisper's code
    hypothesis: Mapped[str]  # what was heard; may be empty
    correction: Mapped[str]  # what was said; empty where nobody speaks
    model: Mapped[str | None]  # the version that heard it, as name@id
    speaker: Mapped[str | None]


class NewerDatabaseError(Exception):
    """The database was written by a newer release, whose form this one does not know."""


def upgrade(connection: "Connection") -> None:
    """Bring the database to the newest form; one that is there already is left alone.

    Raises:
        NewerDatabaseError: it is of a newer release.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.script.revision import ResolutionError
    from alembic.util import CommandError

    if connection.dialect.name == "postgresql":  # two services may start at once; on SQLite the transaction is enough
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
    config = Config()
    config.set_main_option("script_location", "corrections:migrations")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except (CommandError, ResolutionError) as error:
        if "Can't locate revision" not in str(error):
            raise
        raise NewerDatabaseError(
            "this database of corrections was written by a newer release of Whisperloop: update this one, "
            "or name another database"
        ) from error
