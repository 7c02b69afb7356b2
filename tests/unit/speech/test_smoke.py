"""A version's smoke clip: kept as it was, and told from what it should not be."""

import numpy as np
import pytest

from speech.engine import DecodingResult, EngineError
from speech.smoke import SmokeClip, SmokeError, quantize, read_smoke_clip, write_smoke_clip

NOISE = np.random.default_rng(0).normal(scale=0.2, size=16_001).astype(np.float32)
TOKENS = tuple(range(100, 120))


class Says:
    """An engine that says the same tokens to everything."""

    def __init__(self, tokens):
        self.tokens, self.heard = tokens, []

    def transcribe(self, windows):
        """Answer one window."""
        self.heard += windows
        if self.tokens is None:
            return [EngineError("no memory")]
        return [DecodingResult("", self.tokens, "it", 1.0, -0.1, 0.0, 1.0, 1500)]


def test_it_comes_back_as_it_was_put(tmp_path):
    """Audio in 16 bits, language and tokens; a folder without one has none."""
    assert read_smoke_clip(tmp_path) is None
    write_smoke_clip(tmp_path, SmokeClip(NOISE, "it", TOKENS))
    clip = read_smoke_clip(tmp_path)
    assert (clip.language, clip.tokens) == ("it", TOKENS)
    np.testing.assert_array_equal(clip.audio, quantize(NOISE))
    np.testing.assert_array_equal(quantize(clip.audio), clip.audio)


def test_loud_audio_does_not_wrap():
    """Samples beyond full scale stay at it."""
    assert quantize(np.array([2.0, -2.0], np.float32)).tolist() == [32767 / 32768, -1.0]


@pytest.mark.parametrize("wrong", [0, 1, 4])
def test_a_few_other_tokens_pass(wrong):
    """Another processor rounds otherwise: a fifth of the tokens may differ; it is heard in its language."""
    engine = Says((*TOKENS[: 20 - wrong], *range(wrong)))
    SmokeClip(NOISE, "it", TOKENS).check(engine)
    assert [(window.audio is NOISE, window.language) for window in engine.heard] == [(True, "it")]


@pytest.mark.parametrize("said", [(), TOKENS[:15], (*TOKENS, *range(5)), tuple(range(20))])
def test_other_words_do_not_pass(said):
    """Nothing, half of it, more than there is, or something else."""
    with pytest.raises(SmokeError, match="of the 20 tokens of its smoke clip"):
        SmokeClip(NOISE, "it", TOKENS).check(Says(said))


def test_what_cannot_be_decoded_does_not_pass():
    """The engine's error is passed on."""
    with pytest.raises(EngineError, match="no memory"):
        SmokeClip(NOISE, "it", TOKENS).check(Says(None))
