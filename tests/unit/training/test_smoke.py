"""Which clip a version is tried on."""

import numpy as np

from speech.engine import DecodingResult, EngineError
from training.data.manifest import CORRECTIONS, AudioSlice, Utterance
from training.smoke import MIN_S, MIN_TOKENS, candidates, surest

CLIPS = [(np.full(16_000, i, np.float32), "it") for i in range(5)]
WORDS = tuple(range(MIN_TOKENS))


class Recites:
    """An engine that has an answer to each clip: tokens and log-probability."""

    def __init__(self, *answers):
        self.answers = answers

    def transcribe(self, windows):
        """Answer one window."""
        answer = self.answers[int(windows[0].audio[0])]
        if answer is None:
            return [EngineError("too much")]
        return [DecodingResult("", answer[0], windows[0].language, 1.0, answer[1], 0.0, 1.0, 1500)]


def test_the_surest_on_which_both_agree():
    """Where they differ, fail or say little, the clip is not taken, however sure they are."""
    checkpoint = Recites((WORDS, -0.5), (WORDS, -0.2), ((*WORDS, 9), -0.1), (WORDS[:-1], -0.01), (WORDS, 0))
    export = Recites((WORDS, -0.5), (WORDS, -0.2), ((*WORDS, 8), -0.1), (WORDS[:-1], -0.01), None)
    advanced = []
    clip = surest(checkpoint, export, CLIPS, advanced.append)
    assert (clip.audio[0], clip.language, clip.tokens) == (1.0, "it", WORDS)
    assert sum(advanced) == len(CLIPS)


def test_there_may_be_none():
    """A version is published without, and the service warns."""
    assert surest(Recites(None), Recites(None), CLIPS[:1]) is None
    assert surest(Recites(), Recites(), []) is None


def test_no_correction_is_sealed_into_a_version():
    """Its speaker may want it deleted, and a version cannot be changed."""
    audio = AudioSlice(path="a.wav", offset=0.0, duration=MIN_S, sha256="0" * 64)
    clips = [
        Utterance(id=name, audio=audio, text="uno", language="it", source=name) for name in ("folder", CORRECTIONS)
    ]
    assert [one.source for one in candidates(clips)] == ["folder"]
