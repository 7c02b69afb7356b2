"""Audio that lies in no file of its own, written to one: what a table's row holds, or a stretch of a long recording.

Files are named by what they hold, appear in one step, and are never written twice, so an interrupted reading goes on
where it was. A recording is cut rather than decoded up to the stretch each time that a training step asks for it.
"""

import hashlib
import os
from collections.abc import Collection
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray

from speech.audio import AudioError, stream_audio
from speech.flac import encode_flac, quantize

Span = tuple[int, int]
"""From the one sample at 16 kHz to the other, which is not in it."""


def keep_bytes(encoded: bytes, name: str | None, folder: Path) -> Path:
    """Write an encoded clip as it is, and return where; `name` is what it was called, for its ending."""
    path = place_of_bytes(encoded, name, folder)
    if not path.is_file():
        _write(path, encoded)
    return path


def place_of_bytes(encoded: bytes, name: str | None, folder: Path) -> Path:
    """Return where `keep_bytes` writes an encoded clip."""
    suffix = PurePath(name or "").suffix.lower()
    if not suffix[1:].isalnum() or len(suffix) > 6:
        suffix = ".audio"
    digest = hashlib.sha256(encoded).hexdigest()
    return folder / digest[:2] / f"{digest}{suffix}"


def keep_samples(samples: NDArray[np.float32], rate: int, folder: Path) -> Path:
    """Write samples in [-1, 1], shape (n_samples,), as 16-bit FLAC, and return where."""
    quantised = quantize(samples)
    digest = hashlib.sha256(f"{rate}:".encode() + quantised.tobytes()).hexdigest()
    path = folder / digest[:2] / f"{digest}.flac"
    if not path.is_file():
        _write(path, encode_flac(quantised, rate))
    return path


def cut(recording: Path, spans: Collection[Span], folder: Path) -> tuple[dict[Span, Path], AudioError | None]:
    """Cut stretches out of a recording as 16 kHz FLAC, decoding it once, and not at all if that was done before.

    Args:
        recording: of any length; no more of it than its open stretches is held in memory.
        spans: may overlap.
        folder: where the clips go.

    Returns:
        The clips, and what was wrong with the recording after the last of them. A stretch that the recording ends in
        ends with it; one that it ends before has no clip.
    """
    with recording.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    paths = {span: folder / digest[:2] / f"{digest}-{span[0]}-{span[1]}.flac" for span in spans}
    waiting = sorted((span for span, path in paths.items() if not path.is_file()), reverse=True)
    parts: dict[Span, list[NDArray[np.float32]]] = {}
    position = 0
    fault = None
    try:
        for block in stream_audio(recording) if waiting else ():
            after = position + block.size
            while waiting and waiting[-1][0] < after:
                parts[waiting.pop()] = []
            for span, blocks in list(parts.items()):
                blocks.append(block[max(0, span[0] - position) : span[1] - position])
                if span[1] <= after:
                    _write(paths[span], encode_flac(quantize(np.concatenate(parts.pop(span)))))
            position = after
            if not waiting and not parts:
                break
        for span, blocks in parts.items():
            _write(paths[span], encode_flac(quantize(np.concatenate(blocks))))
    except AudioError as error:
        fault = error
    return {span: path for span, path in paths.items() if path.is_file()}, fault


def _write(path: Path, content: bytes) -> None:
    partial = _partial(path)
    partial.write_bytes(content)
    partial.replace(path)


def _partial(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_suffix(f".{os.getpid()}.part")
