"""Whisper's log-mel spectrogram, in numpy, for any length of audio.

The service needs it without torch, and training uses the same lines. Equal to transformers' feature extractor and
to openai/whisper's `log_mel_spectrogram` at 30 s. A batch on a GPU has its own path in the torch engine.
"""

from functools import lru_cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from speech.audio import SAMPLE_RATE

N_FFT = 400  # samples: 25 ms
HOP_LENGTH = 160  # samples: 10 ms
CHUNK_LENGTH = 30  # seconds
N_SAMPLES = CHUNK_LENGTH * SAMPLE_RATE  # 480,000 samples in a 30-second chunk
N_FRAMES = N_SAMPLES // HOP_LENGTH  # 3,000 frames of mel


def pad_or_trim(audio: NDArray[np.float32], n_samples: int = N_SAMPLES) -> NDArray[np.float32]:
    """Return exactly `n_samples`: the beginning of `audio`, followed by silence."""
    if audio.size >= n_samples:
        return audio[:n_samples]
    return np.pad(audio, (0, n_samples - audio.size))


def log_mel_spectrogram(audio: NDArray[np.float32], n_mels: int = 80) -> NDArray[np.float32]:
    """Compute the features that a Whisper encoder takes.

    Args:
        audio: 16 kHz mono samples in [-1, 1], shape (n_samples,), n_samples > 200.
        n_mels: 80, or 128 for large-v3 and its kin.

    Returns:
        Shape (n_mels, n_samples // 160). The scale depends on the loudest frame, so pad the audio
        (`pad_or_trim`) and not the features: silence is not a zero here.
    """
    # Reflected edges and a frame dropped at the end, as torch.stft(center=True) has them.
    frames = sliding_window_view(np.pad(audio, N_FFT // 2, mode="reflect"), N_FFT)[::HOP_LENGTH]
    spectrum = np.fft.rfft(frames[: audio.size // HOP_LENGTH] * _hann_window(), axis=1)
    power = spectrum.real**2 + spectrum.imag**2  # (n_frames, 201)
    mel = mel_filters(n_mels) @ power.T
    log_mel = np.log10(np.maximum(mel, 1e-10))
    log_mel = np.maximum(log_mel, log_mel.max() - 8.0)  # 80 dB below the loudest bin
    return np.asarray((log_mel + 4.0) / 4.0, dtype=np.float32)


@lru_cache
def mel_filters(n_mels: int) -> NDArray[np.float32]:
    """Return Slaney's mel filter bank, area-normalised, shape (n_mels, 201), as librosa's defaults make it.

    The scale (Slaney, Auditory Toolbox, 1998) is linear below 1 kHz (200/3 Hz a mel) and logarithmic above
    (a factor of 6.4 in 27 mels).
    """
    bins = np.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1)
    top = 15.0 + 27.0 * np.log(SAMPLE_RATE / 2 / 1000.0) / np.log(6.4)
    mels = np.linspace(0.0, top, n_mels + 2)
    edges = np.where(mels < 15.0, mels * 200.0 / 3.0, 1000.0 * np.exp((mels - 15.0) * np.log(6.4) / 27.0))
    widths = np.diff(edges)
    rising = (bins[None, :] - edges[:-2, None]) / widths[:-1, None]
    falling = (edges[2:, None] - bins[None, :]) / widths[1:, None]
    filters = np.maximum(0.0, np.minimum(rising, falling)) * (2.0 / (edges[2:] - edges[:-2]))[:, None]
    return np.asarray(filters, dtype=np.float32)


@lru_cache
def _hann_window() -> NDArray[np.float32]:
    # Periodic, as torch.hann_window's default: np.hanning is symmetric.
    return (0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(N_FFT) / N_FFT)).astype(np.float32)
