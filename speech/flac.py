"""Audio to FLAC, in memory: how clips are kept, since it loses nothing and is half as large. Decoding is `audio`'s."""

import io

import av
import numpy as np
from numpy.typing import NDArray

from speech.audio import SAMPLE_RATE


def quantize(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    """Return samples in [-1, 1], shape (n_samples,), as 16-bit integers; what is louder is clipped."""
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)


def encode_flac(samples: NDArray[np.int16], rate: int = SAMPLE_RATE) -> bytes:
    """Return 16-bit mono samples, shape (n_samples,), as a FLAC file."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=rate, layout="mono", format="s16")
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return buffer.getvalue()
