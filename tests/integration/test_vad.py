"""Who speaks: the voice detector on real speech, and what a real server makes of what is none."""

import io
import wave
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest

from speech import vad
from speech.audio import SAMPLE_RATE, decode_audio
from speech.windows import cut

SECONDS = 10
TIMES = np.arange(SECONDS * SAMPLE_RATE) / SAMPLE_RATE


def is_speech(audio):
    """Say whether any window of a clip would be decoded."""
    with vad.listen() as detector:
        return not all(place.silent for place in cut(audio, elastic=True, detector=detector))


@pytest.mark.parametrize("language", ["it", "en", "ru"])
def test_every_clip_is_speech(prompts, language):
    """None of the real clips would be lost, and at 10 dB of white noise no more than 2 % of them."""
    clips = [decode_audio(Path(utterance.audio.path)) for utterance in prompts(language)]
    assert len(clips) > 100
    assert sum(not is_speech(clip) for clip in clips) == 0
    generator = np.random.default_rng(1)
    noisy = [clip + generator.normal(0, np.sqrt((clip**2).mean() / 10), clip.size).astype(np.float32) for clip in clips]
    assert np.mean([is_speech(clip) for clip in noisy]) >= 0.98


def music():
    """Make a chord a second, each with overtones that fade away."""
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    roots = 220 * 2 ** (np.array([0, 5, 7, 3, 8, 10, 2, 0, 5, 7]) / 12)
    notes = [[root * 2 ** (step / 12) for step in (0, 4, 7)] for root in roots]
    fading = np.exp(-2 * time)
    return np.concatenate(
        [
            0.1 * fading * sum(np.sin(2 * np.pi * k * f * time) / k for f in chord for k in range(1, 6))
            for chord in notes
        ]
    )


NO_SPEECH = {
    "silence": np.zeros(TIMES.size),
    "noise": np.random.default_rng(1).normal(0, 0.1, TIMES.size),
    "tone": 0.5 * np.sin(2 * np.pi * 440 * TIMES),
    "music": music(),
}


@pytest.fixture(params=NO_SPEECH)
def nothing_said(request):
    """Encode what is no speech."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((np.clip(NO_SPEECH[request.param], -1, 1) * 32767).astype("<i2").tobytes())
    return buffer.getvalue()


def test_what_is_no_speech_has_no_text(address, nothing_said):
    """Whisper makes words up for some of it; the answer is 200, empty, and says why, whatever the format."""
    files = {"file": ("a.wav", nothing_said)}
    answer = httpx.post(f"{address}/transcribe", files=files, timeout=300)
    assert answer.status_code == httpx.codes.OK
    body = answer.json()
    assert (body["text"], body["no_speech"], body["segments"], body["language"]) == ("", True, [], None)
    assert body["duration"] == SECONDS
    detected = httpx.post(f"{address}/detect-language", files=files, timeout=300).json()
    assert (detected["language"], detected["no_speech"]) == (None, True)


def test_openais_formats_of_no_speech_are_empty(address, nothing_said):
    """Through OpenAI's client, streamed or not."""
    with openai.OpenAI(base_url=f"{address}/v1", api_key="-", max_retries=0) as client:

        def ask(**fields):
            return client.audio.transcriptions.create(file=nothing_said, model="whisper-1", **fields)

        assert ask().text == ""
        verbose = ask(response_format="verbose_json")
        assert (verbose.text, verbose.segments) == ("", [])
        assert [ask(response_format=name).strip() for name in ("text", "srt", "vtt")] == ["", "", "WEBVTT"]
        assert [(event.type, event.text) for event in ask(stream=True)] == [("transcript.text.done", "")]
