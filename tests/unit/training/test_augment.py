"""Speed, noise and blanks."""

import wave

import numpy as np
import pytest

from speech.audio import SAMPLE_RATE
from training.augment import (
    add_noise,
    blank,
    change_speed,
    coloured_noise,
    draw_blanks,
    noise_files,
    recorded_noise,
)
from training.config import ConfigError


def tone(hertz, seconds=1.0):
    """Return a sine."""
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE).astype(np.float32)


def peak_hertz(audio):
    """Return the loudest frequency."""
    return np.abs(np.fft.rfft(audio)).argmax() * SAMPLE_RATE / audio.size


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_speed_changes_length_and_pitch(factor):
    """A tone played faster is shorter and higher by the same factor; at 1 nothing is touched."""
    audio = tone(440)
    faster = change_speed(audio, factor)
    assert faster.dtype == np.float32
    assert faster.size == pytest.approx(audio.size / factor, abs=1)
    assert peak_hertz(faster) == pytest.approx(440 * factor, abs=2)
    assert change_speed(audio, 1.0) is audio


@pytest.mark.parametrize("snr_db", [0.0, 20.0])
def test_noise_is_as_loud_as_was_asked_for(snr_db):
    """What is added has the energy of the speech, less the ratio."""
    audio, noise = tone(440), coloured_noise(SAMPLE_RATE, np.random.default_rng(0))
    added = add_noise(audio, noise, snr_db) - audio
    assert 10 * np.log10((audio**2).sum() / (added**2).sum()) == pytest.approx(snr_db, abs=0.1)


def test_silence_takes_no_noise():
    """A ratio to silence is no number, and none gets into the audio."""
    silence = np.zeros(1000, dtype=np.float32)
    assert add_noise(silence, tone(440)[:1000], 10.0) is silence
    assert np.isfinite(add_noise(tone(440)[:1000], silence, 10.0)).all()


def test_noise_has_colours():
    """Drawn noise is flat or falls with frequency, its peak is 1, and the same generator gives the same."""
    slopes = set()
    for seed in range(12):
        noise = coloured_noise(SAMPLE_RATE, np.random.default_rng(seed))
        np.testing.assert_array_equal(noise, coloured_noise(SAMPLE_RATE, np.random.default_rng(seed)))
        assert np.abs(noise).max() == pytest.approx(1.0)
        power = np.abs(np.fft.rfft(noise)) ** 2
        slopes.add(round(np.log(power[100:200].mean() / power[1000:2000].mean()) / np.log(10)))
    assert slopes == {0, 1, 2}


def write_wav(path, samples):
    """Write 16-bit samples."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(np.asarray(samples, dtype="<i2").tobytes())


def test_recorded_noise_is_repeated_to_length(tmp_path):
    """A recording shorter than the clip is repeated from a random point; a longer one is cut."""
    write_wav(tmp_path / "a.wav", np.arange(1000))
    files = noise_files(tmp_path)
    long = recorded_noise(files, 2500, np.random.default_rng(0))
    assert long.shape == (2500,)
    np.testing.assert_array_equal(long[:1000], long[1000:2000])
    assert recorded_noise(files, 300, np.random.default_rng(1)).shape == (300,)


def test_a_folder_without_noise_is_refused(tmp_path):
    """A folder of no recordings is an error that names the field."""
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(ConfigError, match="noise_folder"):
        noise_files(tmp_path)


def test_blanks_lie_inside_and_cover_their_share():
    """Blanks start and end within the given bins, and on average cover about the share, overlaps counted twice."""
    generator = np.random.default_rng(0)
    covered = []
    for _ in range(400):
        blanks = draw_blanks("time", 120, 0.2, 10, generator)
        assert all(0 <= one.start < one.stop <= 120 for one in blanks)
        covered.append(sum(one.stop - one.start for one in blanks) / 120)
    assert np.mean(covered) == pytest.approx(0.2, abs=0.02)
    assert draw_blanks("time", 8, 0.5, 10, generator) == []
    assert draw_blanks("mel", 80, 0.0, 8, generator) == []


def test_a_blank_is_zero_on_its_axis():
    """A blank of time takes all bands, one of bands takes all frames, and nothing else is touched."""
    features = np.ones((4, 6), dtype=np.float32)
    blank(features, draw_blanks("time", 6, 0.5, 3, np.random.default_rng(1)))
    assert set(features.sum(axis=0)) == {0.0, 4.0}
    features = np.ones((4, 6), dtype=np.float32)
    blank(features, draw_blanks("mel", 4, 0.5, 2, np.random.default_rng(0)))
    assert set(features.sum(axis=1)) == {0.0, 6.0}
