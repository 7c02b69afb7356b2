"""Every answer that is not a success: its status, its code, and nothing of what is inside."""

import base64
import re
import struct

import anyio
import pytest
from fastapi import HTTPException

from service.routes import router
from speech.audio import AudioError

PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)

pytestmark = pytest.mark.anyio


def check(response, status, code, param=None):
    """Check the envelope, and that nothing leaks."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert response.json().keys() == {"error"}
    assert error.keys() == {"message", "type", "param", "code", "request_id"}
    assert (error["code"], error["param"]) == (code, param)
    assert error["message"]
    assert error["request_id"] == response.headers["x-request-id"]
    assert not re.search(r"Traceback|/secret|site-packages|\.py|0x[0-9a-f]{6}", response.text)


async def send(client, data=b"", name="file", **form):
    """Upload bytes under a field's name."""
    return await client.post("/transcribe", files={name: ("a.wav", data)}, data=form)


async def test_files_that_are_not_usable_audio(make_app, serve, wav):
    """Empty, text, a picture and too long: each has its own code, and blames the file."""
    data = wav(3.0)
    no_samples = data[:40] + struct.pack("<I", 0)
    async with serve(make_app(max_audio_seconds=5)) as client:
        check(await send(client, b""), 400, "empty_audio", "file")
        check(await send(client, no_samples), 400, "empty_audio", "file")
        check(await send(client, b"Dear sir or madam,\n" * 50), 415, "unsupported_audio", "file")
        check(await send(client, b"#EXTM3U\nfile:///etc/passwd\n"), 415, "unsupported_audio", "file")
        check(await send(client, PICTURE), 415, "no_audio_stream", "file")
        check(await send(client, data[:44]), 400, "empty_audio", "file")  # cut off before its first sample
        check(await send(client, wav(5.1)), 413, "audio_too_long", "file")
        assert (await send(client, data)).status_code == 200


async def test_what_is_cut_off_is_refused_in_strict_mode(make_app, serve, wav):
    """Half an answer is none, if that is what is wanted; OpenAI's API has one status for what a request has wrong."""
    data = wav(3.0)[:60_000]
    form = {"model": "whisper-1"}
    async with serve(make_app(strict=True)) as client:
        check(await send(client, data), 422, "truncated_audio", "file")
        answer = await client.post("/v1/audio/transcriptions", files={"file": ("a.wav", data)}, data=form)
        check(answer, 400, "truncated_audio", "file")


@pytest.mark.parametrize("path", ["/transcribe", "/v1/audio/transcriptions"])
async def test_damage_of_which_nothing_was_heard_is_refused(make_app, serve, wav, decode_with, path):
    """There is nothing to be answered in part."""

    def damaged(*_args, **_kwargs):
        raise AudioError("damaged_audio", "The audio is damaged after 0.00 s.")
        yield

    decode_with(damaged)
    async with serve(make_app()) as client:
        answer = await client.post(path, files={"file": ("a.wav", wav(1))}, data={"model": "whisper-1"})
        check(answer, 422 if path == "/transcribe" else 400, "damaged_audio", "file")


async def test_forms_that_are_not_understood(make_app, serve, wav):
    """Missing, repeated, misspelt and wrong fields are refused by name, never passed over."""
    data = wav(1)
    async with serve(make_app()) as client:
        check(await client.post("/transcribe"), 400, "invalid_request", "file")
        check(await client.post("/transcribe", json={"file": "x"}), 400, "invalid_request", "file")
        check(await client.post("/transcribe", data={"file": "not a file"}), 400, "invalid_request", "file")
        check(await client.post("/transcribe", data={"language": "it"}), 400, "invalid_request", "file")
        check(await send(client, data, name="audio"), 400, "unknown_parameter", "audio")
        check(await send(client, data, lang="it"), 400, "unknown_parameter", "lang")
        check(await send(client, data, language="klingon"), 400, "unknown_language", "language")
        check(await send(client, data, task="summarise"), 400, "invalid_value", "task")
        check(await send(client, data, model="whisper-9"), 404, "model_not_found", "model")
        check(await send(client, data, language=["it", "en"]), 400, "invalid_request", "language")
        check(await send(client, data, language="x" * 100_000), 400, "invalid_value", "language")
        files = [("file", (f"{i}", data)) for i in range(17)]
        check(await client.post("/transcribe", files=files), 400, "invalid_request", "file")
        check(await client.post("/detect-language", files=files[:2]), 400, "invalid_request", "file")
        files = {"file": ("a", data)}
        check(
            await client.post("/transcribe", params={"language": "it"}, files=files),
            400,
            "unknown_parameter",
            "language",
        )
        as_file = [("file", ("a", data)), ("language", (None, "it"))]
        assert (await client.post("/transcribe", files=as_file)).status_code == 200
        assert (await send(client, data, language="", model="")).status_code == 200  # how forms leave a field out


@pytest.mark.parametrize(
    "headers", [{"content-type": "multipart/form-data"}, {"content-type": "multipart/form-data; boundary=b"}]
)
async def test_a_broken_form_is_the_callers_fault(make_app, serve, headers):
    """A body that is not the multipart that it claims to be is 400, not 500."""
    async with serve(make_app()) as client:
        check(await client.post("/transcribe", content=b"--c\r\nnonsense", headers=headers), 400, "invalid_request")


async def test_an_upload_that_says_it_is_too_large(make_app, serve):
    """By its Content-Length, an upload is refused before its body is read."""
    app = make_app(max_upload_bytes=1000)

    async def never():
        raise AssertionError("the body was read")
        yield b""

    async with serve(app) as client:
        response = await client.post("/transcribe", content=never(), headers={"content-length": "5000000"})
    check(response, 413, "file_too_large", "file")
    assert "1,000 bytes" in response.json()["error"]["message"]


async def test_an_upload_that_turns_out_too_large(make_app, serve):
    """A body without a length is read only as far as it is allowed to be large, beside 2 MiB for texts."""
    n_read = 0

    async def body():
        nonlocal n_read
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(10_000):
            n_read += 10_000
            yield b"x" * 10_000

    async with serve(make_app(max_upload_bytes=50_000)) as client:
        headers = {"content-type": "multipart/form-data; boundary=b"}
        check(await client.post("/transcribe", content=body(), headers=headers), 413, "file_too_large", "file")
    assert n_read < 2_300_000


async def test_the_limit_is_the_files_own_size(make_app, serve, wav):
    """A file of exactly the limit is accepted, one byte more is not."""
    data = wav(1)
    async with serve(make_app(max_upload_bytes=len(data))) as client:
        assert (await send(client, data)).status_code == 200
    async with serve(make_app(max_upload_bytes=len(data) - 1)) as client:
        check(await send(client, data), 413, "file_too_large", "file")


async def test_a_full_queue_says_when_to_come_back(make_app, serve, wav, engine, until):
    """Overload is 503 with Retry-After, a clip still finds room, and who was admitted is answered."""
    app = make_app(max_queue_seconds=10)
    answers = []

    async def upload(client, seconds):
        answers.append(await send(client, wav(seconds), language="it"))

    async with serve(app) as client, anyio.create_task_group() as group:
        engine.gate.clear()
        group.start_soon(upload, client, 60)
        await until(lambda: app.state.models.main.scheduler.stats().waiting_s > 0)
        refused = await send(client, wav(20))
        check(refused, 503, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        group.start_soon(upload, client, 5)
        await until(lambda: app.state.models.main.scheduler.stats().waiting_s > 60)
        engine.gate.set()
    assert [answer.status_code for answer in answers] == [200, 200]


async def test_a_window_that_cannot_be_decoded(make_app, serve, wav, engine, caplog):
    """A failed window is 500 with its cause in the log only, and the next request is answered."""
    async with serve(make_app()) as client:
        engine.fails = lambda _window: True
        check(await send(client, wav(1)), 500, "decoding_failed")
        assert "no /secret/words" in caplog.text
        engine.fails = lambda _window: False
        engine.explodes = True
        check(await send(client, wav(1)), 500, "decoding_failed")
        engine.explodes = False
        assert (await send(client, wav(1))).status_code == 200


async def test_what_nobody_foresaw(make_app, serve, wav, monkeypatch, caplog):
    """A bug is 500 in the envelope; its traceback is in the log, under the request's id."""

    def broken(*_args, **_kwargs):
        raise KeyError("/secret/bug")

    monkeypatch.setattr("service.transcribe.decoding", broken)
    async with serve(make_app()) as client:
        response = await send(client, wav(1))
    check(response, 500, "internal_error")
    assert "/secret/bug" in caplog.text
    assert response.headers["x-request-id"] in caplog.text


async def test_wrong_paths_and_methods(make_app, serve):
    """404 and 405 come in the envelope, and slashes are not redirected."""
    async with serve(make_app()) as client:
        check(await client.get("/nothing/here"), 404, "not_found")
        check(await client.post("/transcribe/"), 404, "not_found")
        wrong = await client.get("/transcribe")
        check(wrong, 405, "method_not_allowed")
        assert wrong.headers["allow"] == "POST"


async def test_what_fastapi_itself_refuses(make_app, serve):
    """Other routes' validation errors and HTTP errors come in the envelope, too."""
    app = make_app()

    @app.get("/number")
    async def number(n: int) -> int:
        raise HTTPException(418, f"{n}")

    async with serve(app) as client:
        check(await client.get("/number?n=x"), 400, "invalid_request", "n")
        check(await client.get("/number?n=1"), 418, "invalid_request")


@pytest.mark.parametrize("given", ["a", "call-17_B.2", "x" * 64])
async def test_a_callers_request_id_is_kept(make_app, serve, given):
    """An id of letters, digits, dots, dashes and underscores comes back as it was."""
    async with serve(make_app()) as client:
        response = await client.get("/nothing", headers={"X-Request-ID": given})
    assert response.headers["x-request-id"] == response.json()["error"]["request_id"] == given


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", 'a"}', "../a", "é".encode("latin-1")])
async def test_any_other_request_id_is_replaced(make_app, serve, given):
    """What could break a header, a log or a file name is answered with a new id."""
    async with serve(make_app()) as client:
        response = await client.get("/health/live", headers=[(b"X-Request-ID", given)])
    assert re.fullmatch("[0-9a-f]{32}", response.headers["x-request-id"])


def test_these_are_all_the_routes():
    """No path is served that nobody decided on."""
    assert {route.path for route in router.routes} == {
        "/transcribe",
        "/detect-language",
        "/health/live",
        "/health/ready",
        "/version",
        "/v1/queue",
        "/metrics",
    }
