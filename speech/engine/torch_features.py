"""Whisper's log-mel spectrogram on torch: the twin of `speech.features`, for a batch on any device."""

from functools import lru_cache

import torch
from torch import Tensor

from speech.features import HOP_LENGTH, N_FFT, mel_filters


def log_mel_spectrogram(audio: Tensor, n_mels: int = 80) -> Tensor:
    """Compute the features that a Whisper encoder takes.

    Args:
        audio: 16 kHz mono samples in [-1, 1], padded with silence, shape (batch, n_samples), n_samples > 200.
        n_mels: 80, or 128 for large-v3 and its kin.

    Returns:
        Shape (batch, n_mels, n_samples // 160). Each row's scale is its own: the loudest frame decides.
    """
    window, filters = _constants(n_mels, audio.device)
    spectrum = torch.stft(
        audio, N_FFT, HOP_LENGTH, window=window, center=True, pad_mode="reflect", return_complex=True
    )[..., :-1]
    power = spectrum.real.square() + spectrum.imag.square()  # (batch, 201, n_frames)
    log_mel = (filters @ power).clamp(min=1e-10).log10()
    log_mel = torch.maximum(log_mel, log_mel.amax((1, 2), keepdim=True) - 8.0)  # 80 dB below the loudest bin
    return (log_mel + 4.0) / 4.0


@lru_cache
def _constants(n_mels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    # hann_window is periodic unless told otherwise.
    return torch.hann_window(N_FFT, device=device), torch.from_numpy(mel_filters(n_mels)).to(device)
