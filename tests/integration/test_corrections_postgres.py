"""Corrections in PostgreSQL: the promises of every database, on a real server that the test starts."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import create_engine, text

from corrections import CorrectionsError, CorrectionStore, New, NewerDatabaseError
from speech.flac import encode_flac
from tests.corrections_store import StorePromises

USER = "nobody"  # PostgreSQL does not run as root


@pytest.fixture(scope="module")
def server(tmp_path_factory, free_port, from_debian):
    """Start a server of our own, and return its address without a database's name."""
    binaries = from_debian(lambda: sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")), "postgresql")[-1].parent
    folder = tmp_path_factory.mktemp("postgres")
    as_user = ["setpriv", f"--reuid={USER}", "--clear-groups"] if os.geteuid() == 0 else []
    if as_user:
        for path in (folder, *list(folder.parents)[: len(folder.parents) - 2]):
            path.chmod(path.stat().st_mode | 0o011)  # the server's user gets through pytest's folders
        shutil.chown(folder, USER)
    port = free_port()

    def run(name, *arguments):
        subprocess.run([*as_user, str(binaries / name), *arguments], check=True, cwd=folder, stdout=subprocess.DEVNULL)

    run("initdb", "--pgdata=data", "--username=somebody", "--auth=trust", "--encoding=UTF8", "--no-sync")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -k {folder} -c fsync=off"
    run("pg_ctl", "--pgdata=data", "--wait", "--log=log", f"--options={options}", "start")
    yield f"postgresql://somebody@127.0.0.1:{port}"
    run("pg_ctl", "--pgdata=data", "--wait", "--mode=immediate", "stop")


@pytest.fixture
def url(server, request):
    """Return the address of a database that is new."""
    name = f"db_{abs(hash(request.node.nodeid))}"
    engine = create_engine(
        f"{server.replace('postgresql:', 'postgresql+psycopg:')}/postgres", isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return f"{server}/{name}"


@pytest.fixture
def store(url):
    """Return the corrections of a database that is new."""
    store = CorrectionStore(url)
    yield store
    store.close()


@pytest.fixture
def new():
    """Return a function that makes a correction of a clip of its own."""

    def make(clip=0, **changes):
        samples = np.random.default_rng(clip).integers(-3000, 3000, 16_000 + clip, dtype=np.int16)
        fields = {
            "audio": encode_flac(samples),
            "samples": samples.tobytes(),
            "seconds": samples.size / 16_000,
            "language": "it",
            "hypothesis": f"sbagliato {clip}",
            "correction": f"giusto {clip}",
            "model": "whisper@1",
        }
        return New(**{**fields, **changes})

    return make


class TestOnPostgres(StorePromises):
    """All promises, on a server."""


def test_two_services_may_make_the_table_at_once(url, new):
    """Neither of them fails, whoever is first."""
    from concurrent.futures import ThreadPoolExecutor

    stores = [CorrectionStore(url) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda store: store.open(), stores))
    stores[0].add(new(1), 1.0)
    assert stores[3].count().clips == 1
    for store in stores:
        store.close()


def test_a_database_of_a_newer_release_is_left_alone(store, url, new):
    """Its form is not known: one line."""
    store.add(new(1), 1.0)
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.execute(text("UPDATE corrections_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(NewerDatabaseError, match="written by a newer release of Whisperloop"):
        CorrectionStore(url).list()


def test_a_database_that_is_not_there_is_one_line(server):
    """With the server's own words."""
    with pytest.raises(CorrectionsError, match=r'cannot be used: .*database "nothing" does not exist'):
        CorrectionStore(f"{server}/nothing").list()
