"""The promises of the clip cache: what it writes, where, and that it does so once."""

import numpy as np
import pytest

from speech.audio import AudioError, decode_audio
from training.data.clips import cut, keep_bytes, keep_samples


def samples_of(path):
    """Decode a clip to the 16-bit samples that were written."""
    return np.rint(decode_audio(path) * 32768).astype(np.int16)


def test_encoded_clips_are_kept_byte_for_byte(tmp_path):
    """A clip is written as it came, under its hash and its own ending, and the same one lies there once."""
    path = keep_bytes(b"some mp3", "folder/a.MP3", tmp_path)
    assert path.read_bytes() == b"some mp3"
    assert path.suffix == ".mp3"
    assert keep_bytes(b"some mp3", "other.mp3", tmp_path) == path
    assert keep_bytes(b"some other", "a.mp3", tmp_path) != path
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("name", [None, "", "a", "a.../../x", "a.tar gz", "a.verylongone"])
def test_a_name_without_a_plain_ending_gets_one(tmp_path, name):
    """Whatever a row calls its clip, the file stays in the cache."""
    path = keep_bytes(b"x", name, tmp_path)
    assert path.suffix == ".audio"
    assert path.is_relative_to(tmp_path)


def test_samples_survive_as_flac(tmp_path):
    """An array is written without loss at its own rate, and the rate is a part of what it is."""
    samples = np.random.default_rng(1).integers(-32768, 32767, 16_000).astype(np.int16)
    path = keep_samples(samples / np.float32(32768), 16_000, tmp_path)
    np.testing.assert_array_equal(samples_of(path), samples)
    slower = keep_samples(samples / np.float32(32768), 8000, tmp_path)
    assert slower != path
    assert decode_audio(slower).size == 2 * samples.size


def test_stretches_are_cut_to_the_sample(tmp_path, write_noise):
    """Overlapping, nested and neighbouring stretches each hold their own samples, one pass for all of them."""
    samples = write_noise(tmp_path / "long.wav", 3.0)
    spans = [(0, 16_000), (1, 5), (15_999, 16_001), (20_000, 40_000), (10_000, 48_000)]
    cuts, fault = cut(tmp_path / "long.wav", spans, tmp_path / "clips")
    assert fault is None
    for start, end in spans:
        np.testing.assert_array_equal(samples_of(cuts[start, end]), samples[start:end])


def test_a_stretch_ends_with_its_recording(tmp_path, write_noise):
    """What lies after the end is no clip, and what lies across it is shorter."""
    samples = write_noise(tmp_path / "long.wav", 1.0)
    cuts, _ = cut(tmp_path / "long.wav", [(8000, 20_000), (16_000, 17_000)], tmp_path / "clips")
    assert list(cuts) == [(8000, 20_000)]
    np.testing.assert_array_equal(samples_of(cuts[8000, 20_000]), samples[8000:])


def test_an_interrupted_cutting_goes_on(tmp_path, write_noise):
    """What is there stays untouched, what is missing is cut, and the recording's content decides, not its name."""
    recording = tmp_path / "long.wav"
    write_noise(recording, 2.0)
    spans = [(0, 8000), (8000, 16_000)]
    cuts, _ = cut(recording, spans, tmp_path / "clips")
    before = cuts[spans[0]].stat().st_mtime_ns
    content = cuts[spans[1]].read_bytes()
    cuts[spans[1]].unlink()
    again, _ = cut(recording, spans, tmp_path / "clips")
    assert again == cuts
    assert again[spans[0]].stat().st_mtime_ns == before
    assert again[spans[1]].read_bytes() == content
    write_noise(recording, 2.0, seed=1)
    assert set(cut(recording, spans, tmp_path / "clips")[0].values()).isdisjoint(cuts.values())


def test_of_a_damaged_recording_the_whole_stretches_are_kept(tmp_path, write_noise):
    """Cut off in the middle: the stretches before are good, the one across is none, and the fault is told."""
    recording = tmp_path / "long.wav"
    samples = write_noise(recording, 4.0)
    recording.write_bytes(recording.read_bytes()[: 44 + 2 * 40_000])
    cuts, fault = cut(recording, [(0, 16_000), (32_000, 64_000)], tmp_path / "clips")
    assert isinstance(fault, AudioError)
    assert fault.code == "truncated_audio"
    assert list(cuts) == [(0, 16_000)]
    np.testing.assert_array_equal(samples_of(cuts[0, 16_000]), samples[:16_000])
