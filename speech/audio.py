"""From any container and codec that FFmpeg decodes to the one form that Whisper hears: 16 kHz mono float32.

Called by the service for uploads and by training for data sets. Takes bytes or a local file, never a URL, and
lets no container refer to another file. It does not cut, pad or normalise the level.
"""

import io
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from numpy.typing import NDArray

from speech.truncation import declares_duration, missing_bytes

SAMPLE_RATE = 16_000
"""Samples a second that Whisper was trained on."""

TRUNCATION_TOLERANCE_S = 0.5
TRUNCATION_TOLERANCE_SHARE = 0.02
"""A stream may end this much before the length that its header declares (encoder delay, rounding)."""

ENDS_BYTES = 128 * 1024  # an Ogg page has at most 65,307 bytes


class AudioError(Exception):
    """The audio cannot be used.

    Attributes:
        code: `empty_audio`, `unsupported_audio`, `truncated_audio`, `damaged_audio` or `audio_too_long`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def decode_audio(source: bytes | Path, *, max_seconds: float | None = None) -> NDArray[np.float32]:
    """Decode the first audio stream to 16 kHz mono, resampling once.

    Args:
        source: the encoded audio, or the file that holds it.
        max_seconds: the longest audio to accept; checked while decoding, so a small upload that
            unpacks to hours costs no more memory than this.

    Returns:
        Samples in [-1, 1], shape (n_samples,), n_samples > 0.

    Raises:
        AudioError: nothing in it, not audio, cut off, damaged, or longer than `max_seconds`.
        FileNotFoundError: `source` is a path at which there is no file.
    """
    if isinstance(source, Path) and not source.is_file():
        raise FileNotFoundError(f"no audio file at {source}")
    head, tail, size = _ends(source)
    if size == 0:
        raise AudioError("empty_audio", "The audio is empty (0 bytes).")
    missing = missing_bytes(head, tail, size)
    try:
        # An empty white list of protocols: a playlist inside an upload must not open files or addresses.
        with av.open(
            io.BytesIO(source) if isinstance(source, bytes) else str(source),
            mode="r",
            options={"protocol_whitelist": "file" if isinstance(source, Path) else "none"},
            metadata_errors="ignore",
        ) as container:
            samples = _decode_container(container, head, max_seconds)
    except av.FFmpegError as error:
        raise AudioError(
            "unsupported_audio",
            f"Not audio in a format that FFmpeg knows ({error.strerror}).",
        ) from error
    if missing:
        raise AudioError(
            "truncated_audio",
            f"The audio is cut off after {samples.size / SAMPLE_RATE:.2f} s: the file ends before its own end mark.",
        )
    return samples


def _ends(source: bytes | Path) -> tuple[bytes, bytes, int]:
    """Return the first and the last 128 KiB, and the size in bytes."""
    if isinstance(source, bytes):
        return source[:ENDS_BYTES], source[-ENDS_BYTES:], len(source)
    size = source.stat().st_size
    with source.open("rb") as file:
        head = file.read(ENDS_BYTES)
        file.seek(max(0, size - ENDS_BYTES))
        return head, file.read(), size


def _decode_container(container: InputContainer, head: bytes, max_seconds: float | None) -> NDArray[np.float32]:
    if not container.streams.audio:
        raise AudioError("unsupported_audio", "The file holds no audio stream.")
    stream = container.streams.audio[0]
    stream.codec_context.thread_type = "AUTO"
    declared_s = _declared_seconds(container, stream, head)
    limit = None if max_seconds is None else int(max_seconds * SAMPLE_RATE)
    blocks: list[NDArray[np.float32]] = []
    n_samples = 0
    try:
        for block in _blocks(container, stream):
            blocks.append(block)
            n_samples += block.size
            if limit is not None and n_samples > limit:
                raise AudioError("audio_too_long", f"The audio is longer than {max_seconds:g} seconds.")
    except av.FFmpegError as error:
        raise AudioError(
            "damaged_audio",
            f"The audio is damaged after {n_samples / SAMPLE_RATE:.2f} s ({error.strerror}).",
        ) from error
    if n_samples == 0:
        raise AudioError("empty_audio", "The file holds no samples.")
    seconds = n_samples / SAMPLE_RATE
    tolerance_s = max(TRUNCATION_TOLERANCE_S, TRUNCATION_TOLERANCE_SHARE * declared_s)
    if seconds < declared_s - tolerance_s:
        raise AudioError(
            "truncated_audio",
            f"The audio is cut off: its header declares {declared_s:.2f} s, it holds {seconds:.2f} s.",
        )
    samples = np.concatenate(blocks)
    return np.clip(samples, -1.0, 1.0, out=samples)


def _blocks(container: InputContainer, stream: AudioStream) -> Iterator[NDArray[np.float32]]:
    resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
    for frame in container.decode(stream):
        for resampled in resampler.resample(frame):
            yield resampled.to_ndarray().reshape(-1).astype(np.float32, copy=False)
    for resampled in resampler.resample(None):
        yield resampled.to_ndarray().reshape(-1).astype(np.float32, copy=False)


def _declared_seconds(container: InputContainer, stream: AudioStream, head: bytes) -> float:
    """Return the length that the header declares, 0 where it declares none that can be trusted."""
    if not declares_duration(container.format.name, head):
        return 0.0
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return 0.0 if container.duration is None else container.duration / 1_000_000  # µs
