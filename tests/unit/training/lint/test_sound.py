"""Findings of the sound, on files that are made here and really read."""

import hashlib
import wave

import numpy as np
import pytest

from speech.audio import SAMPLE_RATE
from training.lint.sound import check_sound, faults_of_samples

RNG = np.random.default_rng(0)


def speech(seconds, rate=SAMPLE_RATE, level=0.2):
    """Return noise as loud as speech, shape (n_samples,)."""
    return (RNG.normal(0, level / 3, round(seconds * rate))).clip(-0.9, 0.9).astype(np.float32)


@pytest.fixture
def recorded(tmp_path, utterance):
    """Return the function that writes samples to a WAV file and describes it."""

    def record(name, samples, rate=SAMPLE_RATE, **audio):
        path = tmp_path / f"{name}.wav"
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, rate, 0, "NONE", ""))
            file.writeframes((samples * 32767).astype("<i2").tobytes())
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        return utterance(name, "Uno due tre.", audio={"duration": len(samples) / rate, "sha256": sha256, **audio})

    return record


def codes_of(found):
    """Return code → ids."""
    return {one.code: one.ids for one in found}


def test_good_audio_has_no_finding(recorded, tmp_path):
    """Two clips, one of them a stretch of a longer file: nothing to say, and all clips are counted."""
    clips = [recorded("a", speech(1)), recorded("b", speech(3), offset=1.0, duration=1.5)]
    counted = []
    assert check_sound(clips, tmp_path, counted.append) == ([], set())
    assert sum(counted) == 2


def test_files_that_cannot_be_read_are_errors_and_nobody_listens(recorded, utterance, tmp_path):
    """Missing, empty, no audio, cut off, outside of the folder: each has its code and is kept from the model."""
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("no audio at all, but a good deal of text instead")
    clips = [
        recorded("good", speech(1)),
        recorded("early", speech(1), offset=0.5, duration=1.0),
        utterance("gone", "Uno."),
        utterance("empty", "Uno."),
        utterance("text", "Uno."),
        utterance("out", "Uno.", audio={"path": "../out.wav"}),
    ]
    found, unreadable = check_sound(clips, tmp_path)
    assert codes_of(found) == {
        "missing_file": ("gone",),
        "zero_length": ("empty",),
        "undecodable": ("text",),
        "beyond_end": ("early",),
        "outside_root": ("out",),
    }
    assert {one.level for one in found} == {"error"}
    assert unreadable == {"gone", "empty", "text", "early", "out"}


def test_a_link_out_of_the_folder_is_an_error(recorded, utterance, tmp_path):
    """What lies elsewhere does not travel with the data, and may be anybody's."""
    recorded("inside", speech(1))
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "link.wav").symlink_to(tmp_path / "inside.wav")
    found, _ = check_sound([utterance("link", "Uno.")], folder)
    assert codes_of(found) == {"outside_root": ("link",)}


def test_a_file_that_has_changed_is_an_error(recorded, tmp_path):
    """A transcript belongs to the bytes that it was made of."""
    found, unreadable = check_sound([recorded("a", speech(1), sha256="0" * 64)], tmp_path)
    assert codes_of(found) == {"changed_audio": ("a",)}
    assert unreadable == set()


def test_silence_with_a_transcript_is_an_error(recorded, tmp_path):
    """Training on it would teach to say words that nobody spoke."""
    (found,) = check_sound([recorded("a", np.zeros(SAMPLE_RATE, np.float32))], tmp_path)[0]
    assert (found.code, found.level) == ("silent_audio", "error")


def test_a_telephone_rate_is_a_warning(recorded, tmp_path):
    """8 kHz lacks the upper half of the band, and the resampled samples do not show it."""
    (found,) = check_sound([recorded("a", speech(1, rate=8000), rate=8000)], tmp_path)[0]
    assert (found.code, found.level, found.details) == ("low_sample_rate", "warning", ("8000 Hz",))


def test_clipping_is_found_and_a_single_peak_is_not():
    """Flat tops are clipped; single samples at full scale, however many, are peaks that were scaled to fit."""
    loud = np.clip(speech(1, level=6.0) * 3, -1, 1)
    assert [fault.code for fault in faults_of_samples(loud)] == ["clipping"]
    peak = speech(1)
    peak[::100] = 1.0
    assert list(faults_of_samples(peak)) == []


def test_long_pauses_are_found_at_any_level():
    """Seven tenths of silence are named in a loud and in a soft clip; four tenths are not."""
    for level in (0.5, 0.01):
        sound, hush = speech(1, level=level), speech(1, level=level / 1000)
        mostly = np.concatenate([sound[:4800], hush[:11200]])
        assert [fault.code for fault in faults_of_samples(mostly)] == ["mostly_silence"]
        assert list(faults_of_samples(np.concatenate([sound[:9600], hush[:6400]]))) == []
