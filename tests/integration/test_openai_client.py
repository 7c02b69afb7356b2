"""OpenAI's own clients, for Python and for Node, against a real server with the real base model."""

import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest

from benchmarks.clips import write_wav
from speech.audio import SAMPLE_RATE, decode_audio
from speech.languages import LANGUAGES
from speech.scores import corpus_rate, word_errors
from speech.tokens import WhisperTokenizer


@pytest.fixture
def audio(address):
    """Connect OpenAI's client."""
    with openai.OpenAI(base_url=f"{address}/v1", api_key="-", max_retries=0) as client:
        yield client.audio


@pytest.fixture(scope="module")
def content(clip):
    """Return the clip's file."""
    return Path(clip.audio.path).read_bytes()


def spoken(subtitles):
    """Return the words of SubRip or WebVTT."""
    cues = subtitles.removeprefix("WEBVTT\n\n").split("\n\n")
    return " ".join(line for cue in cues for line in re.split(r".* --> .*\n", cue)[-1].splitlines())


def test_all_formats_say_the_same_words(audio, address, clip, content):
    """JSON, text, subtitles, verbose JSON, the stream and POST /transcribe agree; the words are the clip's."""
    asked = {"file": content, "model": "whisper-1", "language": "it"}
    text = audio.transcriptions.create(**asked).text
    assert corpus_rate([word_errors(clip.text, text)]) <= 0.35
    assert audio.transcriptions.create(**asked, response_format="text").strip() == text
    assert spoken(audio.transcriptions.create(**asked, response_format="srt")) == text
    assert spoken(audio.transcriptions.create(**asked, response_format="vtt")) == text
    verbose = audio.transcriptions.create(**asked, response_format="verbose_json")
    assert (verbose.text, verbose.language, [s.text for s in verbose.segments]) == (text, "italian", [text])
    assert verbose.duration == pytest.approx(clip.audio.duration, abs=0.05)
    assert [event.type for event in audio.transcriptions.create(**asked, stream=True)] == [
        "transcript.text.delta",
        "transcript.text.done",
    ]
    native = httpx.post(f"{address}/transcribe", files={"file": content}, data={"language": "it"}, timeout=300)
    assert native.json()["text"] == text


def test_logprobs_are_the_tokens(audio, content):
    """Their bytes, joined, are the text; their mean is near the segment's."""
    asked = {"file": content, "model": "whisper-1", "language": "it"}
    answer = audio.transcriptions.create(**asked, include=["logprobs"])
    assert bytes(int(byte) for one in answer.logprobs for byte in one.bytes).decode().strip() == answer.text
    assert all(one.logprob <= 0 for one in answer.logprobs)
    verbose = audio.transcriptions.create(**asked, response_format="verbose_json")
    mean = math.fsum(one.logprob for one in answer.logprobs) / len(answer.logprobs)
    assert mean == pytest.approx(verbose.segments[0].avg_logprob, abs=0.1)


def test_a_long_file_is_streamed_in_pieces(audio, italian, tmp_path):
    """The deltas of a file of several windows are its text."""
    chosen = [utterance for utterance in italian if 5 <= utterance.audio.duration <= 9][:7]
    pause = np.zeros(SAMPLE_RATE // 2, dtype=np.float32)
    whole = [part for utterance in chosen for part in (decode_audio(Path(utterance.audio.path)), pause)]
    write_wav(tmp_path / "long.wav", np.concatenate(whole))
    asked = {"file": tmp_path / "long.wav", "model": "whisper-1", "language": "it"}
    *deltas, done = audio.transcriptions.create(**asked, stream=True)
    assert len(deltas) >= 2
    assert "".join(event.delta for event in deltas) == done.text
    assert done.text == audio.transcriptions.create(**asked).text


def test_it_is_translated(audio, content):
    """The translation of an Italian clip is not what was said."""
    with pytest.warns(DeprecationWarning, match="deprecated"):  # OpenAI ends its own
        said = audio.translations.create(file=content, model="whisper-1").text
    assert said
    assert said != audio.transcriptions.create(file=content, model="whisper-1", language="it").text


@pytest.mark.skipif(shutil.which("npm") is None, reason="Node is not installed")
def test_the_node_client_gets_the_same(audio, address, clip, tmp_path):
    """Every format, the stream, an error and the models, by the newest client that runs on Node 20."""
    subprocess.run(["npm", "install", "--silent", "--prefix", tmp_path, "openai@6"], check=True, timeout=300)
    script = shutil.copy(Path(__file__).with_name("openai_client.mjs"), tmp_path)
    run = subprocess.run(["node", script, address, clip.audio.path], check=True, capture_output=True, text=True)
    got = json.loads(run.stdout)
    text = audio.transcriptions.create(file=Path(clip.audio.path), model="whisper-1", language="it").text
    assert {got[name] for name in ("json", "verbose", "deltas", "done")} == {text}
    assert got["text"].strip() == text
    assert got["vtt"].startswith("WEBVTT")
    assert spoken(got["srt"]) == text
    assert (got["logprobs"] > 0, got["language"]) == (True, "italian")
    assert got["failure"] == {"kind": "NotFoundError", "status": 404, "code": "model_not_found", "param": "model"}
    assert got["models"][0] == "whisper-1"


def test_silence_and_rubbish(audio, tmp_path):
    """Silence is an empty text; what is no audio is the caller's mistake, by its code."""
    write_wav(tmp_path / "silence.wav", np.zeros(SAMPLE_RATE, np.float32))
    assert audio.transcriptions.create(file=tmp_path / "silence.wav", model="whisper-1").text == ""
    with pytest.raises(openai.BadRequestError) as error:
        audio.transcriptions.create(file=b"rubbish", model="whisper-1")
    assert error.value.code == "unsupported_audio"


def test_every_language_of_the_model_has_a_name(base):
    """verbose_json names languages in English."""
    assert set(WhisperTokenizer.from_folder(base.path / "ctranslate2").languages) <= set(LANGUAGES)
