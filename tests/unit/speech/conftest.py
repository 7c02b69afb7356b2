"""Sounds encoded on the spot, and a checkpoint to be tampered with."""

import io

import av
import numpy as np
import pytest


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


@pytest.fixture
def checkpoint(tiny, tmp_path):
    """Return a copy of the tiny checkpoint to be tampered with."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for path in tiny.checkpoint.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    return folder
