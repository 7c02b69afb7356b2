"""The clips that everything is measured on: held-out ones of the run that made the version, and a long file of clips.

Every contender gets the same samples: as .npy for engines, as 16-bit WAV for what takes files.
"""

import hashlib
import json
import random
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from numpy.typing import NDArray

from registry import Version
from speech.audio import SAMPLE_RATE
from training.data.manifest import Utterance, load_audio, read_manifest
from training.shell import StepError

MIN_S, MAX_S = 0.6, 28.0
LONG_FILE_S = 600.0
SILENCE_S = (0.3, 1.5)
SEED = 20


@dataclass(frozen=True)
class Clip:
    """A clip on the disk, in both forms."""

    id: str
    language: str
    text: str
    seconds: float
    npy: Path
    wav: Path


def held_out(version: Version, runs: Path, into: Path) -> list[Clip]:
    """Return the test clips of the run that published `version`, of 0.6 to 28 s, sorted by length.

    Raises:
        StepError: that run's folder is not in `runs`.
    """
    manifest = _manifest(version, runs)
    rows = [row for row in _fitting(manifest) if row.split == "test"]
    return sorted(write_clips(rows, manifest.parent, into), key=lambda clip: (clip.seconds, clip.id))


def of_language(version: Version, runs: Path, language: str, into: Path) -> tuple[list[Clip], list[bool]]:
    """Return all clips of a language of that run, and whether each was held out (test or dev).

    Raises:
        StepError: that run's folder is not in `runs`.
    """
    manifest = _manifest(version, runs)
    rows = [row for row in _fitting(manifest) if row.language == language]
    return write_clips(rows, manifest.parent, into), [row.split != "train" for row in rows]


def _fitting(manifest: Path) -> list[Utterance]:
    return [row for row in read_manifest(manifest) if MIN_S <= row.audio.duration <= MAX_S]


def _manifest(version: Version, runs: Path) -> Path:
    for published in sorted(runs.glob("training/*/published.json")):
        if json.loads(published.read_text(encoding="utf-8"))["ref"] == version.ref:
            return published.parent / "manifest.jsonl"
    raise StepError(f"no folder in {runs / 'training'} published {version.ref}, so its held-out clips are not known")


def write_clips(rows: Sequence[Utterance], root: Path, into: Path) -> list[Clip]:
    """Decode utterances and write each as .npy and .wav, unless that was done before."""
    into.mkdir(parents=True, exist_ok=True)
    clips = []
    for row in rows:
        name = hashlib.sha256(f"{row.id} {row.audio.sha256}".encode()).hexdigest()[:16]
        npy, wav = into / f"{name}.npy", into / f"{name}.wav"
        if not npy.is_file():
            audio = load_audio(row, root)
            write_wav(wav, audio)
            partial = npy.with_suffix(".partial")
            with partial.open("wb") as file:
                np.save(file, audio)
            partial.replace(npy)
        clips.append(Clip(row.id, row.language, row.text, row.audio.duration, npy, wav))
    return clips


def spread(clips: Sequence[Clip], per_language: int, *, seed: int = SEED) -> list[Clip]:
    """Choose clips of each language over all lengths: one by lot from each of `per_language` equal shares."""
    generator = random.Random(seed)  # noqa: S311 - a lot, no secret
    chosen = []
    for language in sorted({clip.language for clip in clips}):
        ranked = sorted((clip for clip in clips if clip.language == language), key=lambda c: (c.seconds, c.id))
        n = min(per_language, len(ranked))
        bounds = [round(i * len(ranked) / n) for i in range(n + 1)]
        chosen += [ranked[generator.randrange(low, high)] for low, high in pairwise(bounds)]
    generator.shuffle(chosen)  # as they would arrive: in no order
    return chosen


def stitch(
    lengths: Sequence[float], held_out: Sequence[bool], seconds: float, *, seed: int = SEED
) -> list[tuple[int, float]]:
    """Choose what a long file is made of: clips by lot, held-out ones first, silence after each.

    Args:
        lengths: of the clips, in seconds.
        held_out: whether the model has never heard a clip.
        seconds: how long the file is to be; the first clip that does not fit ends it.
        seed: of the lot.

    Returns:
        (index of the clip, seconds of silence after it); no clip twice.
    """
    generator = random.Random(seed)  # noqa: S311 - a lot, no secret
    order = list(range(len(lengths)))
    generator.shuffle(order)
    chosen: list[tuple[int, float]] = []
    total = 0.0
    for index in sorted(order, key=lambda i: not held_out[i]):
        silence = generator.uniform(*SILENCE_S)
        if total + lengths[index] + silence > seconds:
            break
        chosen.append((index, silence))
        total += lengths[index] + silence
    return chosen


def write_long_file(
    clips: Sequence[Clip], held_out: Sequence[bool], path: Path, *, seconds: float = LONG_FILE_S, seed: int = SEED
) -> str:
    """Write a long WAV of clips and silence, and return what is said in it."""
    chosen = stitch([clip.seconds for clip in clips], held_out, seconds, seed=seed)
    noise = np.random.default_rng(seed)
    parts: list[NDArray[np.float32]] = []
    for index, silence in chosen:
        # A recording's silence is never all zeros: a faint noise, 70 dB below full scale.
        hush = noise.normal(0.0, 10 ** (-70 / 20), round(silence * SAMPLE_RATE)).astype(np.float32)
        parts += [np.load(clips[index].npy), hush]
    write_wav(path, np.concatenate(parts))
    return " ".join(clips[index].text for index, _ in chosen)


def write_wav(path: Path, audio: NDArray[np.float32]) -> None:
    """Write 16 kHz mono 16-bit WAV."""
    partial = path.with_suffix(".part")
    with wave.open(str(partial), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        file.writeframes(np.clip(np.rint(audio * 32768), -32768, 32767).astype("<i2").tobytes())
    partial.replace(path)


def encode_as(source: Path, target: Path, codec: str, sample_rate: int) -> None:
    """Write a WAV again with another codec ("libopus", "libmp3lame") and rate, in the container of the suffix."""
    with av.open(str(source)) as given, av.open(str(target), "w") as made:
        stream = made.add_stream(codec, rate=sample_rate)
        assert isinstance(stream, AudioStream)  # noqa: S101 - for the type checker
        stream.codec_context.layout = "mono"
        resampler = av.AudioResampler(format=stream.codec_context.format, layout="mono", rate=sample_rate)
        for frame in [*given.decode(audio=0), None]:
            for resampled in resampler.resample(frame):
                made.mux(stream.encode(resampled))
        made.mux(stream.encode(None))
