"""Databases of corrections: SQLite's file for every test; PostgreSQL's are tests/integration's."""

import numpy as np
import pytest

from corrections import CorrectionStore, New
from speech.flac import encode_flac


@pytest.fixture
def url(tmp_path):
    """Return the address of a database that is not there yet."""
    return f"sqlite:///{tmp_path}/new/corrections.db"


@pytest.fixture
def store(url):
    """Return the corrections of a database that is not there yet."""
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
