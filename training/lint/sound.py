"""What the clips' sound shows: files that cannot be read, silence, clipping, telephone rates.

It hears no words: that is `listen`. Files are measured in threads, since FFmpeg decodes outside Python's lock.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from speech.audio import SAMPLE_RATE, AudioError, decode_audio
from training.data.manifest import CUT_TOLERANCE_S, Utterance
from training.lint.report import Finding, finding

FRAME = SAMPLE_RATE // 50  # 20 ms
SILENT_PEAK = 0.001  # -60 dBFS: below it, no microphone was on
QUIET_BELOW_LOUDEST = 0.01  # -40 dB below the clip's loudest frame: a pause, at any recording level
MOSTLY_SILENCE = 0.6
CLIPPED_LEVEL = 0.999
CLIPPED_RUN = 3
"""Samples in a row at full scale: one may be a peak that was scaled to fit."""
CLIPPED_SHARE = 0.001


@dataclass(frozen=True)
class Fault:
    """What is wrong with one clip."""

    code: str
    detail: str


def check_sound(
    utterances: Sequence[Utterance], root: Path, advance: Callable[[int], None] = lambda _: None
) -> tuple[list[Finding], set[str]]:
    """Read every clip once, a file at a time.

    Args:
        utterances: to measure.
        root: what relative audio paths start from, and must not leave.
        advance: called with the number of clips just done.

    Returns:
        The findings, and the ids of the clips that cannot be read: nobody can listen to them.
    """
    files: defaultdict[str, list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        files[utterance.audio.path].append(utterance)
    faults: defaultdict[str, dict[str, str]] = defaultdict(dict)
    unreadable: set[str] = set()
    with ThreadPoolExecutor() as pool:
        for group, found in zip(
            files.values(), pool.map(lambda group: list(_measure(group, root)), files.values()), strict=True
        ):
            for name, fault in found:
                faults[fault.code][name] = fault.detail
                if fault.code in UNREADABLE:
                    unreadable.add(name)
            advance(len(group))
    return [finding(code, ids=found, details=found.values()) for code, found in faults.items()], unreadable


UNREADABLE = frozenset({"outside_root", "missing_file", "undecodable", "zero_length", "beyond_end"})


def _measure(group: Sequence[Utterance], root: Path) -> Iterator[tuple[str, Fault]]:
    """Yield the faults of all clips of one file."""
    written = Path(group[0].audio.path)
    path = root / written
    if not written.is_absolute() and not path.resolve().is_relative_to(root.resolve()):
        yield from ((u.id, Fault("outside_root", str(written))) for u in group)
        return
    if not path.is_file():
        yield from ((u.id, Fault("missing_file", str(path))) for u in group)
        return
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        samples = decode_audio(path)
        rate = _sample_rate(path)
    except (AudioError, OSError, av.FFmpegError) as error:
        empty = isinstance(error, AudioError) and error.code == "empty_audio"
        yield from ((u.id, Fault("zero_length" if empty else "undecodable", str(error))) for u in group)
        return
    for u in group:
        if u.audio.sha256 != sha256:
            yield u.id, Fault("changed_audio", f"now {sha256[:12]}…")
        end = u.audio.offset + u.audio.duration
        if end > samples.size / SAMPLE_RATE + CUT_TOLERANCE_S:
            yield u.id, Fault("beyond_end", f"after {samples.size / SAMPLE_RATE:.2f} s of {end:.2f}")
            continue
        if rate < SAMPLE_RATE:
            yield u.id, Fault("low_sample_rate", f"{rate} Hz")
        clip = samples[round(u.audio.offset * SAMPLE_RATE) : round(end * SAMPLE_RATE)]
        silence = {"silent_audio", "mostly_silence"} if u.no_speech else set()
        yield from ((u.id, fault) for fault in faults_of_samples(clip) if fault.code not in silence)


def _sample_rate(path: Path) -> int:
    with path.open("rb") as file, av.open(file, "r", options={"protocol_whitelist": "none"}) as container:
        return int(container.streams.audio[0].rate)


def faults_of_samples(samples: NDArray[np.float32]) -> Iterator[Fault]:
    """Yield what is wrong with the sound of one clip, shape (n_samples,)."""
    level = np.abs(samples)
    if level.size == 0 or level.max() < SILENT_PEAK:
        yield Fault("silent_audio", "below -60 dBFS throughout")
        return
    full = (level >= CLIPPED_LEVEL).astype(np.int8)
    runs = np.convolve(full, np.ones(CLIPPED_RUN, np.int8), "valid") == CLIPPED_RUN
    clipped = float(runs.mean()) if runs.size else 0.0
    if clipped > CLIPPED_SHARE:
        yield Fault("clipping", f"{clipped:.1%} of the samples")
    frames = samples[: samples.size // FRAME * FRAME].reshape(-1, FRAME)
    if len(frames):
        loudness = np.sqrt(np.mean(np.square(frames), axis=1))
        quiet = float(np.mean(loudness < QUIET_BELOW_LOUDEST * loudness.max()))
        if quiet > MOSTLY_SILENCE:
            yield Fault("mostly_silence", f"{quiet:.0%}")
