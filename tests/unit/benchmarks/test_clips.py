"""Everybody gets the same clips, today and next year."""

import wave
from pathlib import Path

import numpy as np
import pytest

from benchmarks.clips import SILENCE_S, Clip, encode_as, spread, stitch, write_clips, write_long_file
from speech.audio import SAMPLE_RATE, decode_audio


def clips(n, language="it"):
    """Return clips of one to n seconds, which are not on any disk."""
    return [
        Clip(f"{language}{i}", language, f"text {i}", float(i), Path("x.npy"), Path("x.wav")) for i in range(1, n + 1)
    ]


def test_spread_takes_every_length():
    """One clip of each share of the lengths, for each language."""
    chosen = spread([*clips(40), *clips(40, "ru")], 4)
    for language in ("it", "ru"):
        lengths = sorted(clip.seconds for clip in chosen if clip.language == language)
        assert [(length - 1) // 10 for length in lengths] == [0, 1, 2, 3]


def test_spread_is_seeded():
    """The same clips in the same order with the same seed, others with another."""
    assert spread(clips(40), 8) == spread(clips(40)[::-1], 8)
    assert spread(clips(40), 8) != spread(clips(40), 8, seed=21)


def test_spread_takes_no_more_than_there_is():
    """Asked for more clips than there are, it takes each once."""
    assert len(set(spread(clips(3), 8))) == 3


def test_stitching_is_seeded():
    """The long file is the same for everybody."""
    arguments = ([3.0] * 50, [True] * 50, 60.0)
    assert stitch(*arguments) == stitch(*arguments)
    assert stitch(*arguments) != stitch(*arguments, seed=21)


def test_stitching_fills_the_time_and_takes_no_clip_twice():
    """The file is as long as asked but for one clip, with silence of the right length between different clips."""
    chosen = stitch([3.0] * 50, [True] * 50, 60.0)
    indices = [index for index, _ in chosen]
    assert len(set(indices)) == len(indices)
    assert all(SILENCE_S[0] <= silence <= SILENCE_S[1] for _, silence in chosen)
    assert 60.0 - 3.0 - SILENCE_S[1] <= sum(3.0 + silence for _, silence in chosen) <= 60.0


def test_stitching_takes_held_out_clips_first():
    """What the model was trained on only fills up what is left."""
    chosen = stitch([1.0] * 12, [i % 2 == 0 for i in range(12)], 1000.0)
    assert [index % 2 for index, _ in chosen] == [0] * 6 + [1] * 6


def test_the_long_file_holds_what_its_text_says(noise_clips, tmp_path):
    """Every clip in it is in the text, in its order, and the file is as long as its parts."""
    utterances, folder = noise_clips
    written = write_clips(utterances, folder, tmp_path)
    unheard = [i > 5 for i in range(len(written))]
    text = write_long_file(written, unheard, tmp_path / "long.wav", seconds=8.0)
    with wave.open(str(tmp_path / "long.wav")) as file:
        seconds = file.getnframes() / SAMPLE_RATE
    chosen = stitch([clip.seconds for clip in written], unheard, 8.0)
    assert text == " ".join(written[index].text for index, _ in chosen)
    assert seconds == pytest.approx(sum(written[index].seconds + silence for index, silence in chosen), abs=0.01)


def test_engines_and_services_get_the_same_samples(noise_clips, tmp_path):
    """The .npy and the .wav of a clip differ by the rounding to 16 bits."""
    utterances, folder = noise_clips
    clip = write_clips(utterances[:1], folder, tmp_path)[0]
    np.testing.assert_allclose(decode_audio(clip.wav), np.load(clip.npy), atol=1 / 32768)


@pytest.mark.parametrize(("suffix", "codec", "rate"), [(".ogg", "libopus", 48_000), (".wav", "pcm_s16le", 8_000)])
def test_a_clip_in_another_format_is_as_long(noise_clips, tmp_path, suffix, codec, rate):
    """Encoding loses no time."""
    utterances, folder = noise_clips
    clip = write_clips(utterances[:1], folder, tmp_path)[0]
    encode_as(clip.wav, tmp_path / f"other{suffix}", codec, rate)
    assert decode_audio(tmp_path / f"other{suffix}").size / SAMPLE_RATE == pytest.approx(clip.seconds, abs=0.03)
