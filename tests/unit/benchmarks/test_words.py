"""The promises of the measurement of words: prompts lie where it says, and errors are theirs."""

import numpy as np
import pytest

from benchmarks.words import LONGEST_CLIP_S, WINDOW_S, errors, stitch, trim
from speech.audio import SAMPLE_RATE
from speech.engine import DecodingResult, Word

LEVEL = 0.1


def prompt(seconds, seed=0):
    """Return a prompt of noise that is loud from its beginning to its end."""
    return LEVEL * np.random.default_rng(seed).standard_normal(round(seconds * SAMPLE_RATE)).astype(np.float32)


def hypothesis(*spans):
    """Return a result with words at these times."""
    words = tuple(Word(start, end, " a", 1.0, (1,)) for start, end in spans)
    return DecodingResult("", (), "it", 1.0, 0.0, 0.0, 1.0, 1500, words=words)


def test_a_trimmed_prompt_begins_and_ends_with_sound():
    """Silence at either end goes, to a hop or two; a pause within stays."""
    quiet = np.full(SAMPLE_RATE, 1e-5, np.float32)
    said = np.concatenate([prompt(0.5), quiet, prompt(0.5, 1)])
    trimmed = trim(np.concatenate([quiet, said, quiet]))
    assert trimmed.size == pytest.approx(said.size, abs=2 * SAMPLE_RATE // 40)


def test_all_prompts_are_stitched_where_it_says():
    """Each once, at its cut to the sample, with silence around it, in windows of at most 30 s."""
    prompts = [prompt(seconds, i) for i, seconds in enumerate((1.0, 3.3, LONGEST_CLIP_S, 0.7, 9.0, 5.5, 2.2, 11.0))]
    stitched = stitch(prompts, "it", seed=3)
    found = []
    for one in stitched:
        assert one.window.language == "it"
        assert one.window.audio.size <= 30 * SAMPLE_RATE
        latest = 0
        for begin, end in one.cuts:
            first, last = round(begin * SAMPLE_RATE), round(end * SAMPLE_RATE)
            assert np.abs(one.window.audio[latest:first]).max() < LEVEL / 10
            found += [i for i, p in enumerate(prompts) if np.array_equal(p, one.window.audio[first:last])]
            latest = last
        assert latest < one.window.audio.size
    assert sorted(found) == list(range(len(prompts)))
    assert max(one.cuts[0][1] for one in stitched) < WINDOW_S[1]


def test_noise_is_as_loud_as_it_should_be():
    """Twenty decibels below the prompts, everywhere."""
    (clean,), (noisy,) = (stitch([prompt(2.0)], "it", snr=snr) for snr in (None, 20.0))
    added = noisy.window.audio - clean.window.audio
    assert 20 * np.log10(LEVEL / np.std(added)) == pytest.approx(20, abs=0.3)
    assert noisy.cuts == clean.cuts


def test_errors_are_the_first_start_and_the_last_end_of_each_prompt():
    """A word is of the prompt that holds its middle; a prompt without one is counted."""
    (one,) = stitch([prompt(2.0)], "it")
    ((begin, end),) = one.cuts
    spans = [(begin - 0.3, begin - 0.1), (begin - 0.05, begin + 0.5), (begin + 0.5, end + 0.02), (end + 0.1, end + 0.3)]
    starts, ends, missed = errors([one], [hypothesis(*spans)])
    assert (starts, ends, missed) == (pytest.approx([-0.05]), pytest.approx([0.02]), 0)
    assert errors([one], [hypothesis(*spans[:1])]) == ([], [], 1)
