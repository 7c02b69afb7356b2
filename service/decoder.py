"""Decoding uploads in processes of their own: a file that crashes or hangs FFmpeg costs its request, not the service.

What decoding is, `speech.audio` says; here is only the pipe to it. ``python -m service.decoder`` is the other end: it
reads files from its standard input and writes samples to its standard output until its parent is gone.
"""

import io
import json
import os
import queue
import selectors
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, BinaryIO

import numpy as np
from numpy.typing import NDArray

from speech.audio import SAMPLE_RATE, AudioError, declared_seconds, stream_audio

REQUEST = struct.Struct("<Qd")  # bytes of the file that follow, seconds at most
DECLARED = struct.Struct("<d")  # seconds
LENGTH = struct.Struct("<I")  # samples that follow, float32; 0: a verdict follows, its length and JSON of an AudioError

PATIENCE_S = 30.0
"""A tenth of a second of audio takes milliseconds: whoever takes longer hangs."""

MAX_MEMORY = 2 * 1024**3
"""Of address space, beside the file: no codec needs as much, and a hostile file may not have more."""

MAX_IDLE = 2
"""Processes that are kept for the next file; more are started when they are needed."""

_idle: "queue.SimpleQueue[Decoder]" = queue.SimpleQueue()


@contextmanager
def decoding(file: BinaryIO, max_seconds: float) -> Iterator[tuple[float, Iterator[NDArray[np.float32]]]]:
    """Decode a file in another process, as `speech.audio.stream_audio` does.

    Args:
        file: seekable; read from its beginning.
        max_seconds: the longest audio to accept.

    Yields:
        The seconds that the file declares (0: none), and the blocks of its samples, each of shape (n_samples,). They
        raise AudioError as `stream_audio`'s, and `undecodable_audio` where the process died, hung or ran out of memory.
    """
    decoder = _take()
    try:
        yield decoder.open(file, max_seconds), decoder.blocks()
    finally:
        if decoder.is_free and _idle.qsize() < MAX_IDLE:
            _idle.put(decoder)
        else:
            decoder.close()


class BusyError(Exception):
    """There is no room for another file, or another process, now."""


def start() -> None:
    """Start a process before the first file comes."""
    if _idle.empty():
        with suppress(OSError):  # the first file says so
            _idle.put(Decoder())


def close_idle() -> None:
    """End the processes that wait."""
    with suppress(queue.Empty):
        while True:
            _idle.get_nowait().close()


def _take() -> "Decoder":
    with suppress(queue.Empty):
        while True:
            decoder = _idle.get_nowait()
            if decoder.is_alive:
                return decoder
            decoder.close()
    try:
        return Decoder()
    except OSError as error:  # no more files may be open, or no more processes be there
        raise BusyError from error


class Decoder:
    """A process that decodes one file after another."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "service.decoder"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # FFmpeg's complaints quote what is in the file
            bufsize=0,
            start_new_session=True,  # Ctrl+C is for the service, which ends it
            env=_without_secrets(),
        )
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._process.stdout, selectors.EVENT_READ)  # type: ignore[arg-type]
        self.is_free = True  # has no file

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def open(self, file: BinaryIO, max_seconds: float) -> float:
        """Send a file, and return the seconds that it declares.

        Raises:
            AudioError: the process died.
        """
        assert self._process.stdin is not None  # noqa: S101 - for the type checker
        self.is_free = False
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        with _given_up():
            _write(self._process.stdin, REQUEST.pack(size, max_seconds))
            while chunk := file.read(1024 * 1024):
                _write(self._process.stdin, chunk)
            return float(DECLARED.unpack(self._read(DECLARED.size))[0])

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Yield the file's samples; see `decoding`."""
        with _given_up():
            while n_samples := LENGTH.unpack(self._read(LENGTH.size))[0]:
                yield np.frombuffer(self._read(4 * n_samples), np.float32)
            verdict = json.loads(self._read(LENGTH.unpack(self._read(LENGTH.size))[0]))
        self.is_free = True
        if verdict:
            raise AudioError(verdict["code"], verdict["message"])

    def close(self) -> None:
        """End it, whatever it is doing."""
        self._selector.close()
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def _read(self, size: int) -> bytearray:
        assert self._process.stdout is not None  # noqa: S101 - for the type checker
        data = bytearray(size)
        view = memoryview(data)
        while view:
            if not self._selector.select(PATIENCE_S):
                raise TimeoutError
            n_bytes = self._process.stdout.readinto(view)  # type: ignore[attr-defined]
            if not n_bytes:
                raise EOFError
            view = view[n_bytes:]
        return data


def _without_secrets() -> dict[str, str]:
    """Return the environment without what whoever takes the process over could use: it needs none of it."""
    secret = ("WHISPERLOOP_", "HF_", "AWS_", "AZURE_", "OTEL_")
    words = ("TOKEN", "SECRET", "PASSWORD", "CREDENTIAL", "API_KEY")
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(secret) and not any(word in name.upper() for word in words)
    }


@contextmanager
def _given_up() -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError) as error:  # TimeoutError is an OSError
        message = "The audio could not be decoded: the decoder gave up on this file."
        raise AudioError("undecodable_audio", message) from error


def _write(pipe: IO[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[pipe.write(view) or 0 :]


def _read_exactly(pipe: BinaryIO, size: int) -> bytes:
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError
    return data


def _serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Decode the files that arrive on `source` until it ends."""
    while head := source.read(REQUEST.size):
        size, max_seconds = REQUEST.unpack(head)
        _limit_memory(size)
        file = io.BytesIO(_read_exactly(source, size))
        declared_s = declared_seconds(file)
        sink.write(DECLARED.pack(declared_s))
        verdict = {}
        try:
            if declared_s > max_seconds:  # before hours of it are transcribed
                raise AudioError("audio_too_long", f"The audio is longer than {max_seconds:g} seconds.")
            for block in _seconds_of(stream_audio(file, max_seconds=max_seconds)):
                sink.write(LENGTH.pack(block.size))
                sink.write(block.tobytes())
        except AudioError as error:
            verdict = {"code": error.code, "message": str(error)}
        except MemoryError:
            message = "The audio could not be decoded: it takes too much memory."
            verdict = {"code": "undecodable_audio", "message": message}
        written = json.dumps(verdict).encode()
        sink.write(LENGTH.pack(0) + LENGTH.pack(len(written)) + written)
        sink.flush()


def _seconds_of(blocks: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    """Join blocks to a second or more: fewer are handed over. What came before an error comes before it."""
    gathered: list[NDArray[np.float32]] = []
    fault: AudioError | None = None
    try:
        for block in blocks:
            gathered.append(block)
            if sum(one.size for one in gathered) >= SAMPLE_RATE:
                yield np.concatenate(gathered)
                gathered.clear()
    except AudioError as error:
        fault = error
    if gathered:
        yield np.concatenate(gathered)
    if fault is not None:
        raise fault


def _limit_memory(file_size: int = 0) -> None:
    with suppress(ImportError, ValueError, OSError):  # Windows has no limits, macOS not this one
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_AS)
        wanted = MAX_MEMORY + file_size
        resource.setrlimit(resource.RLIMIT_AS, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    _limit_memory()
    with suppress(BrokenPipeError, EOFError):
        _serve(sys.stdin.buffer, sys.stdout.buffer)
