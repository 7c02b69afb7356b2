"""Corrections in SQLite: what every database promises, and what a file does beside."""

import sqlite3
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine

from corrections import CorrectionsError, CorrectionStore, NewerDatabaseError, Which
from corrections.schema import Base
from tests.corrections_store import StorePromises

ROOT = Path(__file__).parents[3]


class TestOnSqlite(StorePromises):
    """All promises, on a file."""


def test_the_steps_lead_to_the_tables_that_the_code_knows(store, url):
    """A column that was added to one and not to the other is found here."""
    store.open()
    engine = create_engine(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": "corrections_version"})
        assert compare_metadata(context, Base.metadata) == []
    engine.dispose()


def test_a_database_is_made_once_and_opened_ever_after(store, url, new, tmp_path):
    """Also by another process at the same time; only its owner can read it."""
    row, _ = store.add(new(1), 1.0)
    again = CorrectionStore(url)
    assert again.get(row.id).correction == "giusto 1"
    again.close()
    path = tmp_path / "new" / "corrections.db"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_database_of_a_newer_release_is_left_alone(store, url, new, tmp_path):
    """Its form is not known: one line, and not a byte of it is changed."""
    store.add(new(1), 1.0)
    store.close()
    path = tmp_path / "new" / "corrections.db"
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE corrections_version SET version_num = '9999'")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(NewerDatabaseError, match="written by a newer release of Whisperloop"):
        CorrectionStore(url).list()
    assert path.read_bytes() == before


def test_nothing_of_what_was_deleted_is_in_the_files(store, new, tmp_path):
    """Neither its words nor its audio, in the database or its log."""
    given = new(1, correction="parola segretissima")
    row, _ = store.add(given, 1.0)
    store.add(new(2), 1.0)
    needle = given.audio[-200:-168]

    def held():
        return b"".join(path.read_bytes() for path in (tmp_path / "new").iterdir())

    assert needle in held()
    assert b"parola segretissima" in held()
    store.delete(row.id)
    assert needle not in held()
    assert b"parola segretissima" not in held()


def test_a_writer_that_is_killed_leaves_what_was_kept(store, url):
    """Every correction that was answered is there after kill -9, and no half of another."""
    code = f"""
import sys, numpy as np
from corrections import CorrectionStore, New
store = CorrectionStore({url!r})
for i in range(1000):
    samples = np.full(8000, i, dtype=np.int16)
    store.add(New(samples.tobytes(), samples.tobytes(), 0.5, "it", "", f"testo {{i}}"), float(i))
    print(i, flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    for _ in range(20):
        last = int(process.stdout.readline())
    time.sleep(0.01)
    process.kill()
    rest = process.communicate()[0].split()
    last = int(rest[-1]) if rest else last
    kept = list(store.all())
    assert [row.correction for row in kept] == [f"testo {i}" for i in range(len(kept))]
    assert last + 1 <= len(kept) <= last + 2
    assert all(len(row.audio) == 16_000 for row in kept)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nonsense", "not a database"),
        ("sqlite://", "name a file"),
        ("sqlite:///:memory:", "name a file"),
        ("oracle+nothing://x", "not a database"),
    ],
)
def test_what_is_no_database_is_said(address, message):
    """One line with an example of what it could be."""
    with pytest.raises(CorrectionsError, match=message):
        CorrectionStore(address)


def test_a_database_that_cannot_be_reached_is_said_without_its_password(tmp_path):
    """The name of the server is in the message, the password is not; nor is a traceback's worth of it."""
    store = CorrectionStore("postgresql://somebody:s3cret@127.0.0.1:1/corrections")
    with pytest.raises(CorrectionsError, match=r"127\.0\.0\.1:1/corrections cannot be used") as caught:
        store.list()
    assert "s3cret" not in str(caught.value)
    (tmp_path / "file").write_text("")
    with pytest.raises(CorrectionsError, match="cannot be used"):
        CorrectionStore(f"sqlite:///{tmp_path}/file/x.db").list()


def test_a_file_that_is_no_database_is_said(tmp_path):
    """It is not overwritten."""
    path = tmp_path / "x.db"
    path.write_bytes(b"this is something else, and long enough to be looked into" * 20)
    with pytest.raises(CorrectionsError, match="not a database"):
        CorrectionStore(f"sqlite:///{path}").list(Which())
    assert path.read_bytes().startswith(b"this is something else")
