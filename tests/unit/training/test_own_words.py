"""Listening to speech without transcripts: what becomes of recordings, and that an interrupted run goes on."""

import wave
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest

import training.own_words
from speech import vad
from speech.audio import SAMPLE_RATE
from speech.context import ElasticContext
from speech.engine import DecodingResult
from training.own_words import FILES_AT_ONCE, hear


class Parent:
    """An engine that says how long what it hears is, in the language of its loudness; it can be interrupted."""

    context = ElasticContext()

    def __init__(self):
        self.batches, self.patience = [], None

    def transcribe(self, windows, _is_cancelled=None):
        """Answer each window."""
        if self.patience is not None and len(self.batches) >= self.patience:
            raise KeyboardInterrupt
        self.batches.append(list(windows))
        return [self._answer(window) for window in windows]

    def _answer(self, window):
        language = window.language or ("it" if np.abs(window.audio).max() > 0.5 else "ru")
        text = f"{window.audio.size / SAMPLE_RATE:.1f} s"
        # Of what lasts longer than 3 s, it is not sure.
        avg_logprob = -2.0 if window.audio.size > 3 * SAMPLE_RATE else -0.1
        return DecodingResult(text, (), language, 1.0, avg_logprob, 0.0, 1.0, 1500)


@pytest.fixture
def parent(monkeypatch):
    """Put the engine in the place of a real one, and leave out what is silent only: noise is no speech."""
    engine = Parent()
    monkeypatch.setattr(training.own_words, "load_engine", lambda *_: engine)
    monkeypatch.setattr(vad, "listen_if", lambda **_: nullcontext(None))
    return engine


@pytest.fixture
def record(tmp_path):
    """Return a function that writes noise of a length and a loudness."""

    def write(name, seconds, level=0.9, then=()):
        path = tmp_path / "audio" / name
        path.parent.mkdir(exist_ok=True)
        seed = sum(name.encode())
        noise = level * np.random.default_rng(seed).uniform(-1, 1, round(seconds * SAMPLE_RATE))
        for more, loudness in then:  # after a silence
            another = loudness * np.random.default_rng(seed).uniform(-1, 1, round(more * SAMPLE_RATE))
            noise = np.concatenate([noise, np.zeros(3 * SAMPLE_RATE), another])
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
            file.writeframes((noise * 32767).astype("<i2").tobytes())
        return path

    return write


@pytest.fixture
def listen(tiny_version, tmp_path):
    """Return a function that listens to files, and the lines that were said."""
    lines = []

    @contextmanager
    def progress(_what, _total):
        yield lambda _n: None

    def run(files, language=None):
        lines.clear()
        return hear(tiny_version, files, language, tmp_path / "run" / "manifest.jsonl", lines.append, progress)

    return run, lines


@pytest.fixture
def tiny_version():
    """Stand for a version: what is loaded of it is put in its place."""

    class Version:
        path = None

    return Version()


def test_recordings_become_clips(parent, record, listen):
    """Each with what was heard in it, in its own language, in the order of the files; what is doubtful is left out."""
    run, lines = listen
    files = [record("a.wav", 1.0), record("b.wav", 2.0, level=0.2), record("c.wav", 5.0), record("d.wav", 0.3)]
    heard = run(files)
    assert [(one.text, one.language) for one in heard] == [("1.0 s", "it"), ("2.0 s", "ru")]
    assert [one.audio.duration for one in heard] == [1.0, 2.0]
    assert {one.split for one in heard} <= {"train", "dev"}
    assert "2 stretches of speech" in lines[-1]
    assert "1 doubtful left out" in lines[-1]
    assert [len(batch) for batch in parent.batches] == [3]  # short recordings are heard together


def test_a_short_beginning_is_not_learned_in_the_wrong_language(parent, record, listen):
    """A syllable taken for Russian is left out, once the recording is known to be Italian; the rest is heard so."""
    run, lines = listen
    heard = run([record("a.wav", 1.0, level=0.2, then=[(2.2, 0.9), (2.2, 0.2)])])
    assert [one.language for one in heard] == ["it", "it"]
    assert [window.language for batch in parent.batches for window in batch] == [None, None, "it"]
    assert "1 doubtful left out" in lines[-1]


def test_a_language_that_is_given_is_not_asked_for(parent, record, listen):
    """All windows have it."""
    run, _ = listen
    assert [one.language for one in run([record("a.wav", 1.0)], "en")] == ["en"]
    assert parent.batches[0][0].language == "en"


@pytest.mark.usefixtures("parent")
def test_a_damaged_recording_does_not_end_the_run(record, listen, tmp_path):
    """A line says which, and why; the others are heard."""
    run, lines = listen
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"no audio" * 100)
    heard = run([record("a.wav", 1.0), broken, record("b.wav", 2.0)])
    assert [one.text for one in heard] == ["1.0 s", "2.0 s"]
    assert any(line.startswith(f"left out: {broken}: ") for line in lines)


def test_an_interrupted_run_goes_on(parent, record, listen, tmp_path):
    """What was heard is not heard again, a line cut off in the middle is, and the result is that of one run."""
    run, lines = listen
    files = [record(f"{i:02}.wav", 1.0 + i / 10) for i in range(2 * FILES_AT_ONCE + 3)]
    parent.patience = 1
    with pytest.raises(KeyboardInterrupt):
        run(files)
    journal = tmp_path / "run" / "heard.jsonl"
    assert len(journal.read_text().splitlines()) == FILES_AT_ONCE
    journal.write_text(journal.read_text()[:-40])  # killed while it wrote
    parent.patience, parent.batches = None, []
    resumed = run(files)
    assert lines[0] == f"{FILES_AT_ONCE - 1} of {len(files)} recordings were heard before"
    assert sum(map(len, parent.batches)) == len(files) - FILES_AT_ONCE + 1
    assert [one.text for one in resumed] == [f"{1.0 + i / 10:.1f} s" for i in range(len(files)) if i <= 20]
    assert not journal.exists()
    parent.batches = []
    assert [one.audio.sha256 for one in run(files)] == [one.audio.sha256 for one in resumed]
    assert parent.batches == []  # it is read from the manifest
