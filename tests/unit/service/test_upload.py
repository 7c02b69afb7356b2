"""Uploads: in memory, never on a disk, bounded in size, number and patience."""

import tempfile
import time
import wave
from io import BytesIO

import anyio
import numpy as np
import pytest

from service.upload import MAX_FIELDS, MAX_FILES, MAX_TEXT_BYTES

pytestmark = pytest.mark.anyio

HEADERS = {"content-type": "multipart/form-data; boundary=b"}
HEAD = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
TAIL = b"\r\n--b--\r\n"


def code_of(response):
    """Return the status and the code of an answer."""
    return response.status_code, response.json()["error"]["code"]


def stereo(seconds):
    """Make PCM at 48 kHz in two channels, which is large: 0.2 MB a second."""
    buffer = BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(48_000)
        file.writeframes(np.random.default_rng(0).integers(-9000, 9000, seconds * 96_000, dtype="<i2").tobytes())
    return buffer.getvalue()


async def test_nothing_is_written_to_a_disk(make_app, serve, monkeypatch):
    """A file of 5 MB, five times what Starlette keeps in memory, is answered where no temporary file can be made."""
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere/at/all")
    with pytest.raises(FileNotFoundError):
        tempfile.TemporaryFile()  # noqa: SIM115 - or the test would show nothing
    content = stereo(26)
    assert len(content) > 4_900_000
    async with serve(make_app(max_upload_bytes=5_000_000)) as client:
        for path in ("/transcribe", "/v1/audio/transcriptions"):
            answer = await client.post(path, files={"file": ("a", content)}, data={"model": "whisper-1"})
            assert answer.status_code == 200, answer.text


async def test_uploads_are_bounded_together(make_app, serve, wav, engine, until):
    """What is in memory counts until its request is answered; what has no room is 503, told early where it can be."""
    content = wav(60)  # 1.9 MB
    app = make_app(max_upload_bytes=2_000_000, max_buffered_bytes=4_200_000)
    buffered = app.state.buffered
    answers = []

    async def upload(client):
        answers.append(await client.post("/transcribe", files={"file": ("a", content)}, data={"language": "it"}))

    async def endless():
        yield HEAD
        for _ in range(100):
            yield b"x" * 10_000

    async def unread():
        raise AssertionError("the body was read")
        yield b""

    async with serve(app) as client:
        engine.gate.clear()
        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(upload, client)
            await until(lambda: buffered.n_bytes > 3_800_000)
            refused = await client.post("/transcribe", content=endless(), headers=HEADERS)
            assert code_of(refused) == (503, "overloaded")
            assert int(refused.headers["retry-after"]) >= 1
            early = await client.post("/transcribe", content=unread(), headers=HEADERS | {"content-length": "500000"})
            assert code_of(early) == (503, "overloaded")
            small = {"files": {"file": ("a", wav(1))}, "data": {"language": "it"}}
            group.start_soon(lambda: client.post("/transcribe", **small))
            engine.gate.set()
        assert [answer.status_code for answer in answers] == [200, 200]
        assert buffered.n_bytes == 0
        await upload(client)
        assert answers[-1].status_code == 200


@pytest.mark.parametrize("content", [HEAD + b"x", b"nonsense", HEAD + b"no audio" + TAIL])
async def test_what_fails_holds_nothing(make_app, serve, content):
    """A broken form, and a file that is none, leave room for others."""
    app = make_app()
    async with serve(app) as client:
        assert 400 <= (await client.post("/transcribe", content=content, headers=HEADERS)).status_code < 500
    assert app.state.buffered.n_bytes == 0


async def test_a_form_that_is_cut_off_says_so(make_app, serve, wav):
    """Without the last boundary nobody knows whether the file is whole."""
    async with serve(make_app()) as client:
        answer = await client.post("/transcribe", content=HEAD + wav(1), headers=HEADERS)
        assert code_of(answer) == (400, "invalid_request")
        assert "cut off" in answer.json()["error"]["message"]
        assert (await client.post("/transcribe", content=HEAD + wav(1) + TAIL, headers=HEADERS)).status_code == 200


async def test_what_is_too_much_of_a_form_names_its_field(make_app, serve):
    """Text beyond the limit, in one field or in several, or one file too many, with the limit in the message.

    Too many fields are nobody's.
    """
    text = b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n'
    async with serve(make_app()) as client:
        for content, param, limit in (
            (text + b"x" * (MAX_TEXT_BYTES + 1), "prompt", f"{MAX_TEXT_BYTES // 1024}KB"),
            ((text + b"x" * (MAX_TEXT_BYTES // 2) + b"\r\n") * 3, "prompt", "for all fields"),
            ((HEAD + b"x\r\n") * (MAX_FILES + 1), "file", str(MAX_FILES)),
            ((text + b"x\r\n") * (MAX_FIELDS + 1), None, str(MAX_FIELDS)),
        ):
            answer = await client.post("/transcribe", content=content + TAIL, headers=HEADERS)
            assert code_of(answer) == (400, "invalid_request")
            assert answer.json()["error"]["param"] == param
            assert limit in answer.json()["error"]["message"]


async def test_a_stream_holds_its_upload_to_its_end(make_app, serve, wav):
    """A streamed answer, and one whose client leaves, give back what they held."""
    app = make_app()
    files = {"file": ("a", wav(70))}
    async with serve(app) as client:
        whole = await client.post("/transcribe", files=files, data={"stream": "true", "language": "it"})
        assert "transcript.text.done" in whole.text
    assert app.state.buffered.n_bytes == 0


async def test_an_upload_that_stops_is_given_up(make_app, serve):
    """Where nothing comes any more, the answer is 408, the connection is closed and nothing is held."""
    app = make_app(upload_timeout_s=0.1)
    n_sent = 0

    async def body():
        nonlocal n_sent
        yield HEAD
        for _ in range(5):
            n_sent += 1
            await anyio.sleep(0.04)  # slow, but coming
            yield b"x" * 200
        await anyio.sleep(30)

    started = time.monotonic()
    async with serve(app) as client:
        answer = await client.post("/transcribe", content=body(), headers=HEADERS)
    assert code_of(answer) == (408, "upload_timeout")
    assert answer.headers["connection"] == "close"
    assert "0.1 s" in answer.json()["error"]["message"]
    assert n_sent == 5
    assert time.monotonic() - started < 20  # it did not wait for the rest
    assert app.state.buffered.n_bytes == 0


async def test_a_byte_now_and_then_is_no_upload(make_app, serve):
    """Whoever trickles is given up as who stops is: a byte a second for hours would hold a connection and its bytes."""
    n_sent = 0

    async def body():
        nonlocal n_sent
        yield HEAD
        while True:
            n_sent += 1
            await anyio.sleep(0.02)
            yield b"x"

    app = make_app(upload_timeout_s=0.3)
    with anyio.fail_after(20):
        async with serve(app) as client:
            answer = await client.post("/transcribe", content=body(), headers=HEADERS)
    assert code_of(answer) == (408, "upload_timeout")
    assert n_sent > 3
    assert app.state.buffered.n_bytes == 0


async def test_what_is_no_multipart_is_not_read(make_app, serve):
    """Another kind of body is refused by its type, however large it is."""

    async def unread():
        raise AssertionError("the body was read")
        yield b""

    async with serve(make_app()) as client:
        for kind in (
            "application/json",
            "application/x-www-form-urlencoded",
            "audio/wav",
            "multipart/mixed; boundary=b",
        ):
            answer = await client.post("/transcribe", content=unread(), headers={"content-type": kind})
            assert code_of(answer) == (400, "invalid_request")
            assert "multipart/form-data" in answer.json()["error"]["message"]
