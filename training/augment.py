"""What is done to the sound of a training clip: speed, noise, blanks in the spectrogram; all by a given generator.

What is drawn how often is `training.windows`' business.
"""

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import torchaudio.functional
from numpy.random import Generator
from numpy.typing import NDArray

from speech.audio import SAMPLE_RATE, decode_audio
from training.config import ConfigError

Audio = NDArray[np.float32]

COLOURS = (0.0, 1.0, 2.0)
"""Power of white, pink and brown noise falls with this power of the frequency."""

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".mp3"})


class Blank(NamedTuple):
    """A stretch of a spectrogram that SpecAugment blanks (Park et al. 2019)."""

    axis: Literal["mel", "time"]
    start: int
    stop: int


def change_speed(audio: Audio, factor: float) -> Audio:
    """Play audio `factor` times as fast, pitch and all, as Kaldi's speed perturbation (Ko et al. 2015).

    Returns:
        Shape (about n_samples / factor,).
    """
    if factor == 1.0:
        return audio
    changed, _ = torchaudio.functional.speed(torch.from_numpy(audio), SAMPLE_RATE, factor)
    return np.asarray(changed.numpy(), dtype=np.float32)


def add_noise(audio: Audio, noise: Audio, snr_db: float) -> Audio:
    """Add noise of the same length at a ratio of energies; silence on either side leaves the audio as it is."""
    if not audio.any() or not noise.any():
        return audio
    mixed = torchaudio.functional.add_noise(torch.from_numpy(audio), torch.from_numpy(noise), torch.tensor(snr_db))
    return np.asarray(mixed.numpy(), dtype=np.float32)


def coloured_noise(n_samples: int, generator: Generator) -> Audio:
    """Return white, pink or brown Gaussian noise, whichever is drawn, with a peak of 1."""
    spectrum = np.fft.rfft(generator.standard_normal(n_samples))
    spectrum[1:] /= np.arange(1, spectrum.size) ** (generator.choice(COLOURS) / 2)
    spectrum[0] = 0.0
    noise = np.fft.irfft(spectrum, n_samples)
    return np.asarray(noise / max(1e-9, np.abs(noise).max()), dtype=np.float32)


def recorded_noise(files: list[Path], n_samples: int, generator: Generator) -> Audio:
    """Return a stretch of one of the recordings, from a random point, repeated where it is too short.

    Raises:
        AudioError: it cannot be decoded.
    """
    recording = decode_audio(files[int(generator.integers(len(files)))])
    start = int(generator.integers(recording.size))
    return np.resize(np.roll(recording, -start), n_samples)


def noise_files(folder: Path) -> list[Path]:
    """Return the recordings below a folder, in an order that does not depend on the machine.

    Raises:
        ConfigError: there is none.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
    if not files:
        raise ConfigError(f"augment.noise_folder: no {', '.join(sorted(AUDIO_SUFFIXES))} file is below {folder}")
    return files


def draw_blanks(
    axis: Literal["mel", "time"], size: int, share: float, length: int, generator: Generator
) -> list[Blank]:
    """Draw blanks of `length` that cover about `share` of the first `size` bins; they may overlap.

    As many as transformers' `_compute_mask_indices` makes, its rounding drawn, too. An axis that has no room for one
    gets none.
    """
    count = int(share * size / length + generator.random())
    starts = generator.integers(0, max(1, size - length + 1), size=count)
    return [Blank(axis, int(start), int(start) + length) for start in starts] if size > length else []


def blank(features: NDArray[np.float32], blanks: list[Blank]) -> None:
    """Set blanks of features (n_mels, frames) to 0, the middle of Whisper's scale, as transformers does."""
    for axis, start, stop in blanks:
        if axis == "mel":
            features[start:stop] = 0.0
        else:
            features[:, start:stop] = 0.0
