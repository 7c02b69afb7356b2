"""The promises of the features on a device: numpy's, a batch at a time."""

import numpy as np
import pytest
import torch

from speech.context import BUCKETS, SAMPLES_PER_POSITION
from speech.engine.torch_features import log_mel_spectrogram
from speech.features import log_mel_spectrogram as numpys
from speech.features import pad_or_trim


@pytest.mark.parametrize("n_mels", [80, 128])
@pytest.mark.parametrize("n_samples", [*(SAMPLES_PER_POSITION * BUCKETS[i] for i in (0, 3, -1)), 12_345])
def test_a_batch_equals_numpy(chirp, n_mels, n_samples):
    """Loud, quiet, short and silent rows have the features that each has alone in numpy."""
    clips = [chirp(1.0), 1e-3 * chirp(0.9, low=3000), chirp(0.3), np.zeros(500, np.float32)]
    audio = np.stack([pad_or_trim(clip, n_samples) for clip in clips])
    found = log_mel_spectrogram(torch.from_numpy(audio), n_mels).numpy()
    expected = np.stack([numpys(row, n_mels) for row in audio])
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-4
