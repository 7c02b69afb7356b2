"""From any container and codec that FFmpeg decodes to the one form that Whisper hears: 16 kHz mono float32.

Called by the service for uploads and by training for data sets. Takes bytes or a local file, never a URL, and
lets no container refer to another file. It does not cut, pad or normalise the level.
"""

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from numpy.typing import NDArray

from speech.truncation import declares_duration, lacks_index, missing_bytes, ogg_fault

SAMPLE_RATE = 16_000
"""Samples a second that Whisper was trained on."""

MAX_SAMPLE_RATE = 768_000
"""Beyond what any recorder writes; the resampler's filter, and its memory, grow with the rate."""

TRUNCATION_TOLERANCE_S = 0.5
TRUNCATION_TOLERANCE_SHARE = 0.02
"""A stream may end this much before the length that its header declares (encoder delay, rounding)."""

BLOCK = SAMPLE_RATE // 10  # samples that come out of the resampler at once: fewer, and Python takes as long as FFmpeg

HOLE_S = 0.2
"""Samples that begin so much later than those before them end have a hole before them; less is rounding, or drift."""

HEAD_BYTES = 1024 * 1024  # a RIFF list may stand before the data


class AudioError(Exception):
    """The audio cannot be used.

    Attributes:
        code: `empty_audio`, `unsupported_audio`, `no_audio_stream`, `truncated_audio`, `damaged_audio` or
            `audio_too_long`; from a decoder in a process of its own also `undecodable_audio`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def decode_audio(source: bytes | Path | BinaryIO, *, max_seconds: float | None = None) -> NDArray[np.float32]:
    """Decode the first audio stream to 16 kHz mono; arguments and errors are `stream_audio`'s.

    Returns:
        Samples in [-1, 1], shape (n_samples,), n_samples > 0.
    """
    return np.concatenate(list(stream_audio(source, max_seconds=max_seconds)))


def stream_audio(source: bytes | Path | BinaryIO, *, max_seconds: float | None = None) -> Iterator[NDArray[np.float32]]:
    """Decode the first audio stream to 16 kHz mono, resampling once, a tenth of a second at a time.

    Args:
        source: the encoded audio, or the file that holds it, open or not; an open one is left open.
        max_seconds: the longest audio to accept; checked while decoding, so a small upload that
            unpacks to hours costs no more than this.

    Yields:
        Samples in [-1, 1], shape (n_samples,), n_samples > 0.

    Raises:
        AudioError: nothing in it, not audio, or longer than `max_seconds`; and, after what could be decoded was
            yielded, cut off or damaged.
        FileNotFoundError: `source` is a path at which there is no file.
    """
    # FFmpeg gets an open file and no protocol: a playlist must not make it open other files or addresses.
    with _open(source) as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        head = file.read(HEAD_BYTES)
        file.seek(0)
        if size == 0:
            raise AudioError("empty_audio", "The audio is empty (0 bytes).")
        n_samples = 0
        try:
            with av.open(file, "r", options={"protocol_whitelist": "none"}, metadata_errors="ignore") as container:
                for block in _decode_container(container, head, max_seconds):
                    if not np.isfinite(block).all():
                        heard = f"after {n_samples / SAMPLE_RATE:.2f} s"
                        raise AudioError("damaged_audio", f"The audio is damaged {heard}: samples that are no numbers.")
                    n_samples += block.size
                    yield np.clip(block, -1.0, 1.0)
        except av.FFmpegError as error:
            if lacks_index(file):
                message = "The audio is cut off: an MP4 file without its index (moov) cannot be read."
                raise AudioError("truncated_audio", message) from error
            message = f"Not audio in a format that FFmpeg knows ({error.strerror})."
            raise AudioError("unsupported_audio", message) from error
        file.seek(0)
        fault = ogg_fault(file) if head[:4] == b"OggS" else None
    if fault == "damaged":
        raise AudioError("damaged_audio", "The audio is damaged: pages of the Ogg file are missing.")
    if fault or missing_bytes(head, size):
        raise AudioError(
            "truncated_audio",
            f"The audio is cut off after {n_samples / SAMPLE_RATE:.2f} s: the file ends before its own end mark.",
        )


def until_damage(
    blocks: Iterable[NDArray[np.float32]], on_fault: Callable[[AudioError], None]
) -> Iterator[NDArray[np.float32]]:
    """Yield what was heard before a file is cut off or damaged, and tell of that rather than raise it."""
    heard = False
    try:
        for block in blocks:
            heard = True
            yield block
    except AudioError as error:
        if not heard or error.code not in {"truncated_audio", "damaged_audio", "undecodable_audio"}:
            raise
        on_fault(error)


def declared_seconds(source: bytes | Path | BinaryIO) -> float:
    """Return how long the audio says it is, before it is decoded; 0 where that cannot be known.

    Where a header says nothing that can be trusted, the packets' own durations are added up.
    """
    try:
        with _open(source) as file:
            file.seek(0)
            head = file.read(HEAD_BYTES)
            file.seek(0)
            with av.open(file, "r", options={"protocol_whitelist": "none"}, metadata_errors="ignore") as container:
                if not container.streams.audio:
                    return 0.0
                stream = container.streams.audio[0]
                declared_s = _declared_seconds(container, stream, head)
                if declared_s or stream.time_base is None:
                    return declared_s
                if container.format.name == "wav" and stream.duration:  # by its size, which is what there is of it
                    return float(stream.duration * stream.time_base)
                return float(sum(packet.duration or 0 for packet in container.demux(stream)) * stream.time_base)
    except av.FFmpegError:
        return 0.0  # whoever decodes it says what is wrong


def _open(source: bytes | Path | BinaryIO) -> AbstractContextManager[BinaryIO]:
    if isinstance(source, Path):
        if not source.is_file():
            raise FileNotFoundError(f"no audio file at {source}")
        return source.open("rb")
    return io.BytesIO(source) if isinstance(source, bytes) else nullcontext(source)


def _decode_container(
    container: InputContainer, head: bytes, max_seconds: float | None
) -> Iterator[NDArray[np.float32]]:
    if not container.streams.audio:
        raise AudioError("no_audio_stream", "The file holds no audio stream: a picture, or a video without sound.")
    stream = container.streams.audio[0]
    if stream.codec_context is None:
        raise AudioError(
            "unsupported_audio", "The audio is in a codec that FFmpeg does not decode; send WAV, FLAC, MP3 or Opus."
        )
    if not 0 < stream.codec_context.sample_rate <= MAX_SAMPLE_RATE:
        rate = stream.codec_context.sample_rate
        raise AudioError("unsupported_audio", f"A rate of {rate} samples a second is not one of audio.")
    stream.codec_context.thread_count = 1  # at a file's end, FFmpeg drops the errors of what its threads still hold
    declared_s = _declared_seconds(container, stream, head)
    too_long = AudioError("audio_too_long", f"The audio is longer than {max_seconds or 0:g} seconds.")
    if max_seconds is not None and declared_s > max_seconds:
        raise too_long
    n_samples = 0
    try:
        for block in _blocks(container, stream, declared_s):
            n_samples += block.size
            if max_seconds is not None and n_samples > int(max_seconds * SAMPLE_RATE):
                raise too_long
            if block.size:
                yield block
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
        if container.format.name == "ogg":  # its end is there, so what lacks is in the middle
            message = f"The audio is damaged: of {declared_s:.2f} s only {seconds:.2f} s can be decoded."
            raise AudioError("damaged_audio", message)
        message = f"The audio is cut off: its header declares {declared_s:.2f} s, it holds {seconds:.2f} s."
        raise AudioError("truncated_audio", message)


def _blocks(container: InputContainer, stream: AudioStream, declared_s: float) -> Iterator[NDArray[np.float32]]:
    """Yield mono samples at 16 kHz; a hole, in the middle or before the first of them, is silence that lasts as long.

    Only as far as the file says that it lasts: times that jump are not to make one of hours.
    """
    setup: tuple[int, str, str] | None = None
    resampler: av.AudioResampler | None = None
    zero_s = (container.start_time or 0) / av.time_base
    position_s = 0.0
    for frame in _frames(container, stream):
        begin_s = float(frame.pts * frame.time_base) - zero_s if frame.pts is not None and frame.time_base else 0.0
        if position_s + HOLE_S < begin_s < declared_s:
            if resampler is not None:
                yield from map(_mono, resampler.resample(None))
            resampler, setup = None, None
            for start in range(round(position_s * SAMPLE_RATE), round(begin_s * SAMPLE_RATE), BLOCK):
                yield np.zeros(min(BLOCK, round(begin_s * SAMPLE_RATE) - start), dtype=np.float32)
            position_s = begin_s
        position_s += frame.samples / frame.sample_rate
        found = (frame.sample_rate, frame.layout.name, frame.format.name)
        if found != setup and frame.sample_rate > MAX_SAMPLE_RATE:
            raise AudioError("damaged_audio", f"The audio changes to {frame.sample_rate} samples a second.")
        if found != setup:  # joined files change their rate in the middle
            if resampler is not None:
                yield from map(_mono, resampler.resample(None))
            resampler, setup = av.AudioResampler(format="flt", rate=SAMPLE_RATE, frame_size=BLOCK), found
        assert resampler is not None  # noqa: S101 - for the type checker
        yield from map(_mono, resampler.resample(frame))
    if resampler is not None:
        yield from map(_mono, resampler.resample(None))


def _frames(container: InputContainer, stream: AudioStream) -> Iterator[av.AudioFrame]:
    packets = container.demux(stream)
    for packet in packets:
        try:
            yield from packet.decode()
        except av.FFmpegError as error:
            if any(later.size for later in packets):
                raise
            heard = f" after {float(packet.pts * packet.time_base):.2f} s" if packet.pts and packet.time_base else ""
            message = f"The audio is cut off{heard}: its last packet cannot be decoded."
            raise AudioError("truncated_audio", message) from error


def _mono(frame: av.AudioFrame) -> NDArray[np.float32]:
    # The mean: FFmpeg's own downmix adds 3 dB to what both channels say, and clips it. Packed samples, as PyAV reads
    # planes until it meets a NULL, and FFmpeg keeps room for eight.
    samples = frame.to_ndarray().reshape(-1, frame.layout.nb_channels)
    return np.asarray(samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1), dtype=np.float32)


def _declared_seconds(container: InputContainer, stream: AudioStream, head: bytes) -> float:
    """Return how much audio the header declares, 0 where it declares nothing that can be trusted."""
    if not declares_duration(container.format.name, head):
        return 0.0
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    # Matroska has an end for each stream in a tag, and one for all of them; a video may outlast its sound.
    end_s = _clock(stream.metadata.get("DURATION", ""))
    if end_s == 0.0 and len(container.streams) == 1 and container.duration is not None:
        end_s = container.duration / 1_000_000  # µs
    start_s = 0.0 if stream.start_time is None or stream.time_base is None else stream.start_time * stream.time_base
    return max(0.0, end_s - float(start_s))


def _clock(text: str) -> float:
    """Return the seconds of "00:00:06.194000000", 0 for anything else."""
    try:
        hours, minutes, seconds = (float(part) for part in text.split(":"))
    except ValueError:
        return 0.0
    return 3600 * hours + 60 * minutes + seconds
