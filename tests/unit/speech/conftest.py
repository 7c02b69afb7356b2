"""Sounds encoded on the spot, what an engine might say of them, and a checkpoint to be tampered with."""

import dataclasses
import io

import av
import numpy as np
import pytest

from speech.audio import SAMPLE_RATE
from speech.engine import DecodingResult


def _chirp(seconds, rate=16_000, *, low=200.0, high=1500.0):
    """A tone that rises: shifted, reversed or resampled badly it no longer correlates with itself."""
    time = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * (low * time + (high - low) * time**2 / (2 * seconds))
    return (0.5 * np.sin(phase)).astype(np.float32)


def _encode(samples, container, codec, *, rate=16_000, sample_format=None, muxer=None, codec_rate=None):
    """Encode float samples, shape (n,) or (channels, n), with FFmpeg."""
    planes = np.atleast_2d(samples)
    layout = {1: "mono", 2: "stereo"}[planes.shape[0]]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container, options=muxer or {}) as output:
        stream = output.add_stream(codec, rate=codec_rate or rate, layout=layout)
        if sample_format:
            stream.format = sample_format
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(planes, dtype=np.float32), format="fltp", layout=layout)
        frame.sample_rate = rate
        frame.pts = 0
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return buffer.getvalue()


@pytest.fixture(scope="session")
def chirp():
    """Return the function that makes a rising tone."""
    return _chirp


@pytest.fixture(scope="session")
def encode_audio():
    """Return the function that encodes samples in a container."""
    return _encode


def _tone(seconds, level=0.3):
    times = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (level * np.sin(2 * np.pi * 220 * times)).astype(np.float32)


def _with_pauses(seconds, *pauses):
    audio = _tone(seconds)
    for start, end in pauses:
        audio[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)] = 0
    return audio


def _result(text="ciao", **changes):
    said = DecodingResult(
        text=text,
        tokens=(1, 2),
        language="it",
        language_probability=1.0,
        avg_logprob=-0.2,
        no_speech_prob=0.01,
        compression_ratio=1.1,
        positions=64,
    )
    return dataclasses.replace(said, **changes)


@pytest.fixture(scope="session")
def tone():
    """Return the function that makes something that is loud throughout: seconds, level."""
    return _tone


@pytest.fixture(scope="session")
def with_pauses():
    """Return the function that makes a tone with silences, given as (start, end) in seconds."""
    return _with_pauses


@pytest.fixture(scope="session")
def result():
    """Return the function that makes what an engine says of a window."""
    return _result


@pytest.fixture
def checkpoint(tiny, tmp_path):
    """Return a copy of the tiny checkpoint to be tampered with."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for path in tiny.checkpoint.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    return folder
