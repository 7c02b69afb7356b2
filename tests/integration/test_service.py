"""A real server with the real base model, over HTTP."""

import asyncio
import importlib.util
import json
import subprocess
import sys
import time
import wave
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest

from service.app import create_app
from service.settings import Settings
from speech.audio import SAMPLE_RATE, decode_audio
from speech.scores import corpus_rate, word_errors


def wav(samples):
    """Return 16-bit WAV bytes of float samples at 16 kHz."""
    buffer = BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return buffer.getvalue()


def post(address, content, **data):
    """POST bytes to /transcribe."""
    return httpx.post(f"{address}/transcribe", files={"file": ("clip", content)}, data=data, timeout=300)


def test_curl_returns_the_words(address, clip):
    """The README's curl command, as it stands there, answers with the clip's words."""
    command = ["curl", "-sS", "-F", f"file=@{clip.audio.path}", f"{address}/transcribe"]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert corpus_rate([word_errors(clip.text, answer["text"])]) <= 0.35
    assert answer["language"] == "it"
    assert answer["duration"] == pytest.approx(clip.audio.duration, abs=0.05)
    assert answer["model"].startswith("whisper@")
    assert answer["segments"][0]["text"] == answer["text"]


def test_the_language_can_be_given_in_several_spellings(address, clip):
    """A given language is obeyed and answered as its code."""
    content = Path(clip.audio.path).read_bytes()
    assert post(address, content, language="it-IT").json()["language"] == "it"


def test_containers_do_not_matter(address, clip):
    """The prompts as Debian ships them (8 kHz WAV is resampled) give nearly the same text as 16 kHz WAV."""
    samples = decode_audio(Path(clip.audio.path))
    half = samples.reshape(-1)[: samples.size // 2 * 2].reshape(-1, 2).mean(axis=1)
    buffer = BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE // 2)
        file.writeframes((half * 32767).astype("<i2").tobytes())
    answer = post(address, buffer.getvalue(), language="it").json()
    assert corpus_rate([word_errors(clip.text, answer["text"])]) <= 0.5
    assert answer["duration"] == pytest.approx(clip.audio.duration, abs=0.05)


def test_long_audio_is_not_truncated(address, italian):
    """Audio of more than 30 s comes back whole: words of its first and of its last clip, in their order."""
    chosen = [utterance for utterance in italian if 5 <= utterance.audio.duration <= 9][:7]
    pause = np.zeros(SAMPLE_RATE // 2, dtype=np.float32)
    samples = np.concatenate([part for u in chosen for part in (decode_audio(Path(u.audio.path)), pause)])
    assert samples.size > 35 * SAMPLE_RATE
    answer = post(address, wav(samples), language="it").json()
    assert answer["duration"] == pytest.approx(samples.size / SAMPLE_RATE, abs=0.01)
    assert len(answer["segments"]) >= 2
    assert answer["segments"][-1]["end"] == pytest.approx(answer["duration"], abs=0.01)
    assert corpus_rate([word_errors(" ".join(u.text for u in chosen), answer["text"])]) <= 0.45


def test_silence_is_empty_and_not_an_error(address):
    """Digital silence is answered with 200 and no words."""
    answer = post(address, wav(np.zeros(3 * SAMPLE_RATE)))
    assert answer.status_code == httpx.codes.OK
    assert answer.json()["text"] == ""
    assert answer.json()["segments"] == []


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty_audio"),
        (b"this is no audio at all " * 40, "unsupported_audio"),
        (wav(np.zeros(SAMPLE_RATE))[:44], "empty_audio"),
    ],
)
def test_bad_uploads_get_a_code(address, content, code):
    """An upload that is empty, no audio, or cut off before its first sample is refused with a 4xx and a code."""
    answer = post(address, content)
    assert httpx.codes.is_client_error(answer.status_code)
    assert answer.json()["error"]["code"] == code


def test_what_is_cut_off_is_answered_in_part(address, clip):
    """The words that are there, and that the rest is missing."""
    content = Path(clip.audio.path).read_bytes()
    answer = post(address, content[: len(content) * 3 // 4], language="it")
    assert answer.status_code == httpx.codes.OK
    assert answer.headers["X-Whisperloop-Partial"] == "truncated_audio"
    partial = answer.json()["partial"]
    assert partial["code"] == "truncated_audio"
    assert partial["decoded_seconds"] == pytest.approx(0.75 * clip.audio.duration, abs=0.1)
    assert answer.json()["text"]


def test_many_clients_get_their_own_words(address, italian):
    """Twelve concurrent uploads each get what they get alone, greedily: a doubtful window's second try is a sample."""
    chosen = [u for u in italian if u.audio.duration < 3][:12]
    contents = [Path(u.audio.path).read_bytes() for u in chosen]

    def text(content):
        return post(address, content, language="it", guard="mark").json()["text"]

    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(text, contents))
    alone = [text(content) for content in contents]
    # int8 activations are quantised a row at a time, so the company must not matter at all.
    assert together == alone


def test_two_concurrent_uploads_share_a_batch(registry, clip):
    """What arrives while the engine is busy is decoded in one batch."""
    content = Path(clip.audio.path).read_bytes()

    async def upload_three():
        settings = Settings(registry=registry.root, model="whisper@production", device="cpu")
        app = create_app(settings)
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=120) as client:
                while (await client.get("/health/ready")).status_code != httpx.codes.OK:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                answers = await asyncio.gather(
                    *(client.post("/transcribe", files={"file": content}, data={"language": "it"}) for _ in range(3))
                )
                return [answer.json()["text"] for answer in answers], app.state.models.main.scheduler.stats()

    texts, stats = asyncio.run(upload_three())
    assert len(set(texts)) == 1
    assert stats.windows == 3
    assert max(stats.last_batch_sizes) >= 2


def test_health_answers_while_the_engine_works(address, italian):
    """The event loop is free while a long file is transcribed."""
    longest = max(italian, key=lambda utterance: utterance.audio.duration)
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(post, address, Path(longest.audio.path).read_bytes())
        answers = 0
        while not working.done():
            assert httpx.get(f"{address}/health/live", timeout=5).status_code == httpx.codes.OK
            answers += 1
            time.sleep(0.05)
        assert working.result().status_code == httpx.codes.OK
    assert answers >= 3


@pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="the console is made of gradio")
def test_the_cpu_service_imports_neither_torch_nor_transformers(registry):
    """A service that has loaded a model has not imported what it does not install; the console's Gradio comes after."""
    program = """
import asyncio, os, sys
from service.app import create_app
from service.settings import Settings
app = create_app(Settings(registry=sys.argv[1], model="whisper@production", device="cpu", console=True))
when_asked = []
class Watch:
    def find_spec(name, *_):
        if name == "gradio.blocks":
            when_asked.append(hasattr(app.state.models.main, "scheduler"))
sys.meta_path.insert(0, Watch)
async def main():
    async with app.router.lifespan_context(app):
        while not hasattr(app.state.models.main, "scheduler"):
            await asyncio.sleep(0.05)
        print([name for name in ("torch", "transformers", "datasets", "jiwer") if name in sys.modules])
        while not when_asked:
            await asyncio.sleep(0.05)
        print(when_asked[:1], flush=True)
        os._exit(0)  # the import goes on
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(registry.root)], check=True, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip().splitlines()[-2:] == ["[]", "[True]"]
