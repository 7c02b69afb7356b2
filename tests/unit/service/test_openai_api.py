"""OpenAI's API, spoken to by OpenAI's own client; the engine behind it is the echo of the other tests."""

import asyncio
import io
import json
import threading
import time
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import httpx
import httpx2
import numpy as np
import openai
import pytest

import service.openai_form
import service.transcribe
from service.request import means
from service.transcribe import DECODE_THREADS, transcribe
from speech.audio import SAMPLE_RATE
from speech.transcribe import Options

pytestmark = pytest.mark.anyio


@pytest.fixture
def long_audio():
    """Make 70 s of noise that grows louder, so that each window has words of its own."""
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, 70 * SAMPLE_RATE).astype(np.float32)
    return noise * np.linspace(0.2, 1, noise.size, dtype=np.float32)


@pytest.fixture
def official(serve):
    """Run an application's lifespan around OpenAI's client."""

    @asynccontextmanager
    async def connect(app):
        async with (
            serve(app),
            httpx2.AsyncClient(transport=httpx2.ASGITransport(app)) as http,
            openai.AsyncOpenAI(base_url="http://test/v1", api_key="-", max_retries=0, http_client=http) as client,
        ):
            yield client.audio

    return connect


async def test_json_is_the_default(make_app, official, wav):
    """A text, and the seconds that would be paid for."""
    async with official(make_app()) as audio:
        answer = await audio.transcriptions.create(file=wav(2.5), model="whisper-1")
        native = await audio.transcriptions.create(file=wav(2.5), model="echo@1")
    assert answer.text
    assert answer.text == native.text
    assert (answer.usage.type, answer.usage.seconds) == ("duration", 3)


@pytest.mark.parametrize(
    ("response_format", "begins"),
    [("text", "n"), ("srt", "1\n00:00:00,000 --> 00:00:02,000\nn"), ("vtt", "WEBVTT\n\n")],
)
async def test_plain_formats_are_plain(make_app, official, wav, response_format, begins):
    """The client takes them for a text, not for JSON."""
    async with official(make_app()) as audio:
        answer = await audio.transcriptions.create(file=wav(2), model="whisper-1", response_format=response_format)
    assert isinstance(answer, str)
    assert answer.startswith(begins)


async def test_verbose_json_has_segments(make_app, official, long_audio, wav):
    """With times in seconds, Whisper's scores, the language by name, and the text of all segments."""
    async with official(make_app()) as audio:
        answer = await audio.transcriptions.create(
            file=wav(long_audio), model="whisper-1", language="it", response_format="verbose_json"
        )
    assert (answer.language, answer.duration) == ("italian", 70.0)
    assert answer.text == " ".join(segment.text for segment in answer.segments)
    assert len(answer.segments) >= 3
    assert answer.segments[0].start == 0
    assert answer.segments[-1].end == 70.0
    first = answer.segments[1]
    assert (first.seek, first.temperature, first.avg_logprob) == (round(100 * first.start), 0.0, -0.1)


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # by OpenAI, which ends its own
async def test_a_translation_is_english(make_app, official, wav, engine):
    """The engine is asked to translate, and the answer says in which language it is."""
    async with official(make_app()) as audio:
        answer = await audio.translations.create(file=wav(2), model="whisper-1", response_format="verbose_json")
    assert answer.language == "english"
    assert {window.task for batch in engine.batches[1:] for window in batch} == {"translate"}


async def test_a_stream_is_the_text_in_pieces(make_app, official, long_audio, wav):
    """Deltas in order, a window each, and at the end the whole: the sum of the deltas."""
    async with official(make_app()) as audio:
        events = [
            event
            async for event in await audio.transcriptions.create(file=wav(long_audio), model="whisper-1", stream=True)
        ]
        whole = await audio.transcriptions.create(file=wav(long_audio), model="whisper-1")
    *deltas, done = events
    assert {event.type for event in deltas} == {"transcript.text.delta"}
    assert len(deltas) >= 3
    assert done.type == "transcript.text.done"
    assert done.text == "".join(event.delta for event in deltas) == whole.text


async def test_the_first_words_do_not_wait_for_the_last(make_app, serve, make_engine, long_audio, wav):
    """While later windows are decoded, the first delta is out."""
    engine = make_engine(seconds_a_batch=0.05)
    async with (
        serve(make_app(engine, max_batch_size=1)) as client,
        client.stream(
            "POST",
            "/v1/audio/transcriptions",
            files={"file": ("a.wav", wav(long_audio))},
            data={"model": "whisper-1", "stream": "true"},
        ) as response,
    ):
        assert response.headers["content-type"].startswith("text/event-stream")
        seen = [line async for line in response.aiter_lines() if line]
    assert all(line.startswith("data: ") for line in seen)
    assert json.loads(seen[0].removeprefix("data: "))["type"] == "transcript.text.delta"


async def test_an_error_in_the_stream_is_its_last_event(make_app, official, make_engine, long_audio, wav):
    """The client raises; nothing is passed off as the whole text."""
    engine = make_engine()
    async with official(make_app(engine, max_batch_size=1)) as audio:
        engine.fails = lambda _window: len(engine.batches) > 2  # the first is the warm-up
        stream = await audio.transcriptions.create(file=wav(long_audio), model="whisper-1", stream=True)
        got = []

        async def read():
            async for event in stream:
                got.append(event.type)  # noqa: PERF401 - what came before the error counts

        with pytest.raises(openai.APIError, match="could not be decoded"):
            await read()
    assert got == ["transcript.text.delta"]


async def test_silence_is_an_empty_text(make_app, official, wav):
    """In every form of the answer, and no error."""
    silence = wav(np.zeros(3 * SAMPLE_RATE, np.float32))
    async with official(make_app()) as audio:
        plain = await audio.transcriptions.create(file=silence, model="whisper-1")
        verbose = await audio.transcriptions.create(file=silence, model="whisper-1", response_format="verbose_json")
        srt = await audio.transcriptions.create(file=silence, model="whisper-1", response_format="srt")
        stream = await audio.transcriptions.create(file=silence, model="whisper-1", stream=True)
        events = [event async for event in stream]
        speech = await audio.transcriptions.create(file=wav(1), model="whisper-1")
    assert (plain.text, verbose.text, verbose.segments, srt) == ("", "", [], "")
    assert [answer.no_speech for answer in (plain, verbose, *events)] == [True, True, True]
    assert not hasattr(speech, "no_speech")
    assert [(event.type, event.text) for event in events] == [("transcript.text.done", "")]


async def test_a_prompt_reaches_every_window(make_app, official, engine, wav, long_audio):
    """What is said in it is spelled so to the end of a long file."""
    async with official(make_app()) as audio:
        await audio.transcriptions.create(file=wav(long_audio), model="whisper-1", prompt="en it ru")
    prompts = {window.prompt for batch in engine.batches[1:] for window in batch}
    assert len(prompts) == 1
    assert prompts != {()}


@pytest.mark.parametrize(
    ("fields", "raised", "code", "param"),
    [
        ({"model": "whisper-9"}, openai.NotFoundError, "model_not_found", "model"),
        ({"temperature": 3}, openai.BadRequestError, "invalid_value", "temperature"),
        ({"language": "klingon"}, openai.BadRequestError, "unknown_language", "language"),
        ({"file": b"no audio"}, openai.BadRequestError, "unsupported_audio", "file"),
        ({"file": b"no audio", "stream": True}, openai.BadRequestError, "unsupported_audio", "file"),
        ({"response_format": "diarized_json"}, openai.BadRequestError, "invalid_value", "response_format"),
    ],
)
async def test_errors_are_the_clients_own_exceptions(make_app, official, wav, fields, raised, code, param):
    """By their status; with a code for programs, the field to blame, and the id that the log has."""
    async with official(make_app()) as audio:
        with pytest.raises(raised) as error:
            await audio.transcriptions.create(**{"file": wav(1), "model": "whisper-1"} | fields)
    assert (error.value.code, error.value.param, error.value.type) == (code, param, "invalid_request_error")
    assert error.value.request_id


async def test_what_had_no_effect_is_said(make_app, serve, wav):
    """In the JSON, and in a header for the formats that have no room for it; in strict mode it is refused."""
    form = {"model": "whisper-1", "known_speaker_names[]": "Anna"}
    async with serve(make_app()) as client:
        json_answer, text_answer = [
            await client.post("/v1/audio/transcriptions", files={"file": ("a", wav(1))}, data=form | more)
            for more in ({}, {"response_format": "text"})
        ]
    assert "speakers apart" in json_answer.json()["warnings"][0]
    assert json.loads(text_answer.headers["x-whisperloop-warnings"]) == json_answer.json()["warnings"]
    async with serve(make_app(strict=True)) as client:
        refused = await client.post("/v1/audio/transcriptions", files={"file": ("a", wav(1))}, data=form)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "unsupported_parameter")


async def test_models_are_listed(make_app, serve):
    """Each name that may be asked for, and nothing of one that may not."""
    async with serve(make_app(model="echo@production")) as client:
        listed = (await client.get("/v1/models")).json()
        one = await client.get("/v1/models/echo@production")
        none = await client.get("/v1/models/whisper-9")
    assert [model["id"] for model in listed["data"]] == [
        "whisper-1",
        "echo",
        "echo@production",
        "production",
        "echo@1",
        "1",
    ]
    assert one.json() == listed["data"][2]
    assert (none.status_code, none.json()["error"]["code"]) == (404, "model_not_found")


async def test_what_is_decoded_again_goes_first(make_app, serve, make_engine, tone, wav):
    """A first window that looks wrong does not hold up the stream until the whole file is decoded."""
    engine = make_engine(elastic=True)
    audio = np.tile(np.concatenate([tone(11), tone(0.5, 0.0)]), 4)  # four windows, each shorter than 30 s
    echo, doubtful = engine.transcribe, []

    def transcribe_doubtfully(windows, *given):
        if windows[0].language and not doubtful:
            doubtful.append(windows[0])
            return [replace(result, avg_logprob=-2.0) for result in echo(windows, *given)]
        return echo(windows, *given)

    engine.transcribe = transcribe_doubtfully
    async with serve(make_app(engine, max_batch_size=1)) as client:
        form = {"model": "whisper-1", "stream": "true", "language": "it"}
        await client.post("/v1/audio/transcriptions", files={"file": ("a", wav(audio))}, data=form)
    assert len(engine.batches) > 4
    assert [batch[0].full_context for batch in engine.batches[1:4]] == [False, True, False]


async def test_a_stream_that_cannot_be_sent_leaves_nothing_behind(make_app, serve, make_engine, long_audio, wav):
    """When the connection breaks at the first byte, the windows that wait are not decoded."""
    engine = make_engine(seconds_a_batch=0.3)  # time enough to leave before the third window
    app = make_app(engine, max_batch_size=1)
    request = httpx.Request(
        "POST",
        "http://test/v1/audio/transcriptions",
        files={"file": ("a", wav(long_audio))},
        data={"model": "whisper-1", "stream": "true"},
    )
    body, forever = [{"type": "http.request", "body": request.read()}], asyncio.Event()

    async def receive():
        return body.pop() if body else await forever.wait()

    async def send(message):
        raise OSError(f"nobody reads {message['type']}")

    headers = [(name.lower(), value) for name, value in request.headers.raw]
    scope = {"type": "http", "method": "POST", "path": request.url.path, "query_string": b"", "headers": headers}
    async with serve(app):
        with pytest.raises((OSError, ExceptionGroup)):
            await app(scope | {"asgi": {"spec_version": "2.3"}, "http_version": "1.1"}, receive, send)
        assert app.state.models.main.scheduler.is_idle
    assert len(engine.batches) < 4


async def test_who_left_keeps_a_place_until_its_thread_ends(make_app, serve, tone, decode_with):
    """A thread cannot be stopped: no more files are in memory than are decoded, however many clients come and go."""
    busy, most, lock = 0, 0, threading.Lock()

    def decode(_content, **_limits):
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        time.sleep(0.05)
        with lock:
            busy -= 1
        yield tone(1)

    app = make_app()
    async with serve(app):
        decode_with(decode)
        tasks = [
            asyncio.create_task(transcribe(io.BytesIO(b"x"), Options("it"), means(app, app.state.models.main)))
            for _ in range(4 * DECODE_THREADS)
        ]
        for task in tasks:
            await anyio.sleep(0.01)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert 0 < most <= DECODE_THREADS
    assert busy == 0


@pytest.mark.parametrize("charset", ["undefined", "punycode", '"utf-7"'])
@pytest.mark.parametrize("path", ["/transcribe", "/v1/audio/transcriptions"])
async def test_a_form_is_utf_8(make_app, serve, path, charset):
    """Another charset is the caller's mistake; Python knows some that cannot be read at all."""
    content = b'--XX\r\nContent-Disposition: form-data; name="+2AA-"\r\n\r\nx\r\n--XX--\r\n'
    async with serve(make_app()) as client:
        kind = {"Content-Type": f"multipart/form-data; boundary=XX; charset={charset}"}
        answer = await client.post(path, content=content, headers=kind)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


async def test_the_warnings_header_is_short(make_app, serve, wav):
    """However many fields are unknown, and however long: proxies and clients refuse long headers."""
    form = {"model": "whisper-1"} | {f"{i}{'ж' * 150}": "x" for i in range(200)}
    async with serve(make_app()) as client:
        answer = await client.post("/v1/audio/transcriptions", files={"file": ("a", wav(1))}, data=form)
    assert answer.status_code == 200
    assert "and 195 more" in answer.json()["warnings"][0]
    assert len(answer.headers["x-whisperloop-warnings"]) < 2048


async def test_a_prompt_that_is_too_long_is_said(make_app, serve, wav, monkeypatch):
    """The decoder reads its end only."""
    monkeypatch.setattr(service.openai_form, "MAX_PROMPT_TOKENS", 0)
    form = {"model": "whisper-1", "prompt": "it"}
    async with serve(make_app()) as client:
        answer = await client.post("/v1/audio/transcriptions", files={"file": ("a", wav(1))}, data=form)
    assert "prompt: only the last 0 tokens" in answer.json()["warnings"][0]
    async with serve(make_app(strict=True)) as client:
        refused = await client.post("/v1/audio/transcriptions", files={"file": ("a", wav(1))}, data=form)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "prompt")
