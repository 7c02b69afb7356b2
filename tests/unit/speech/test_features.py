"""The promises of the features: the reference implementation's, at any length."""

import functools

import numpy as np
import pytest

from speech.features import HOP_LENGTH, N_FRAMES, N_SAMPLES, log_mel_spectrogram, mel_filters, pad_or_trim


@functools.cache
def reference(n_mels):
    """Return transformers' own feature extractor."""
    from transformers import WhisperFeatureExtractor

    return WhisperFeatureExtractor(feature_size=n_mels)


def noisy(seconds):
    """Return noise that grows louder."""
    generator = np.random.default_rng(3)
    size = round(seconds * 16_000)
    return (generator.standard_normal(size) * np.linspace(0.001, 0.3, size)).astype(np.float32)


@pytest.mark.parametrize("n_mels", [80, 128])
def test_the_filters_are_slaneys(n_mels):
    """The filter bank is the one that Whisper was trained with."""
    from transformers.audio_utils import mel_filter_bank

    expected = mel_filter_bank(201, n_mels, 0.0, 8000.0, 16_000, norm="slaney", mel_scale="slaney").T
    assert mel_filters(n_mels).shape == (n_mels, 201)
    assert np.abs(mel_filters(n_mels) - expected).max() < 1e-7


@pytest.mark.parametrize("n_mels", [80, 128])
def test_thirty_seconds_equal_transformers(n_mels):
    """A padded clip has the features that transformers computes."""
    audio = noisy(5)
    expected = reference(n_mels)(audio, sampling_rate=16_000, return_tensors="np").input_features[0]
    ours = log_mel_spectrogram(pad_or_trim(audio), n_mels)
    assert ours.shape == expected.shape == (n_mels, N_FRAMES)
    assert ours.dtype == np.float32
    assert np.abs(ours - expected).max() < 1e-4


@pytest.mark.parametrize("n_mels", [80, 128])
@pytest.mark.parametrize("n_samples", [320, 3200, 20_480, 33_333])
def test_short_audio_equals_transformers_without_padding(n_mels, n_samples):
    """Short audio has as many frames as it fills, and the same ones."""
    audio = noisy(3)[:n_samples]
    extractor = reference(n_mels)
    expected = extractor(audio, sampling_rate=16_000, padding=False, return_tensors="np").input_features[0]
    ours = log_mel_spectrogram(audio, n_mels)
    assert ours.shape == (n_mels, n_samples // HOP_LENGTH)
    assert np.abs(ours - expected[:, : ours.shape[1]]).max() < 1e-4


def test_silence_has_features():
    """Digital silence is finite and flat."""
    features = log_mel_spectrogram(np.zeros(16_000, np.float32))
    assert np.all(features == features[0, 0])
    assert np.isfinite(features[0, 0])


def test_the_range_is_eight_powers_of_ten():
    """Nothing lies more than 80 dB, two units of the scale, below the loudest bin."""
    features = log_mel_spectrogram(noisy(2))
    assert features.max() - features.min() <= 2.0 + 1e-6


def test_louder_audio_has_higher_features():
    """Ten times the amplitude is half a unit on the scale."""
    audio = 0.01 * noisy(2)[16_000:]  # nowhere near silence
    assert np.abs(log_mel_spectrogram(10 * audio) - log_mel_spectrogram(audio) - 0.5).max() < 1e-3


def test_padding_comes_after_the_audio():
    """What is too short is followed by silence."""
    padded = pad_or_trim(np.ones(3, np.float32), 5)
    assert padded.tolist() == [1, 1, 1, 0, 0]
    assert padded.dtype == np.float32


def test_what_is_too_long_loses_its_end():
    """The beginning is kept."""
    assert pad_or_trim(np.arange(7, dtype=np.float32), 5).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("size", [0, 1, N_SAMPLES - 1, N_SAMPLES, N_SAMPLES + 1])
def test_thirty_seconds_unless_told(size):
    """Without a length it is Whisper's 480,000 samples."""
    assert pad_or_trim(np.zeros(size, np.float32)).size == N_SAMPLES
