"""Tiny real WAV files and utterances for the tests of `training.data`."""

import hashlib
import math
import struct
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from training.data.manifest import AudioSlice, SplitName, Utterance


@pytest.fixture(scope="session")
def write_wav() -> Callable[..., Path]:
    """Write a tone as 16-bit mono WAV."""

    def write(path: Path, seconds: float = 0.1, *, hertz: float = 440, rate: int = 16_000) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        angles = (2 * math.pi * hertz * n / rate for n in range(round(seconds * rate)))
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, rate, 0, "NONE", ""))
            file.writeframes(b"".join(struct.pack("<h", round(9000 * math.sin(a))) for a in angles))
        return path

    return write


@pytest.fixture(scope="session")
def write_noise() -> Callable[..., np.ndarray]:
    """Write noise, no two stretches of which are alike, as 16 kHz 16-bit mono WAV, and return its samples."""

    def write(path: Path, seconds: float, *, seed: int = 0) -> np.ndarray:
        samples = np.random.default_rng(seed).integers(-9000, 9000, round(seconds * 16_000)).astype("<i2")
        path.parent.mkdir(parents=True, exist_ok=True)
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, 16_000, 0, "NONE", ""))
            file.writeframes(samples.tobytes())
        return samples

    return write


@pytest.fixture(scope="session")
def make_utterance() -> Callable[..., Utterance]:
    """Make an utterance without a file behind it."""

    def make(
        id: str = "a",  # noqa: A002
        text: str = "buongiorno a tutti",
        *,
        language: str = "it",
        split: SplitName | None = None,
        path: str | None = None,
        offset: float = 0.0,
        duration: float = 1.0,
        sha256: str | None = None,
    ) -> Utterance:
        return Utterance(
            id=id,
            audio=AudioSlice(
                path=path or f"{id}.wav",
                offset=offset,
                duration=duration,
                sha256=sha256 or hashlib.sha256(id.encode()).hexdigest(),
            ),
            text=text,
            language=language,
            split=split,
            source="test",
        )

    return make
