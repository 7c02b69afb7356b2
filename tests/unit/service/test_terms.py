"""X-Priority, X-Deadline-Ms and GET /v1/queue, over HTTP."""

import anyio
import pytest

pytestmark = pytest.mark.anyio

PATHS = ("/transcribe", "/v1/audio/transcriptions", "/v1/audio/translations")


async def send(client, path, data, **headers):
    """Upload a file under some terms."""
    form = {"model": "whisper-1"} if path.startswith("/v1") else {}
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.post(path, files={"file": ("a.wav", data)}, data=form, headers=headers)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("header", "value"),
    [("X-Deadline-Ms", value) for value in ("", "0", "-5", "soon", "1.5", "1e3", "9" * 30)] + [("X-Priority", "vip")],
)
async def test_headers_that_are_not_understood_are_named(make_app, serve, path, header, value):
    """They are refused before the upload is looked at, by name, spelt as in any other error."""
    async with serve(make_app()) as client:
        response = await send(client, path, b"", **{header: value})
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("invalid_request", header)
    assert header in error["message"]


@pytest.mark.parametrize("path", PATHS)
async def test_terms_that_are_met_change_nothing(make_app, serve, wav, path):
    """In either lane, with or without a deadline, the words are the same."""
    async with serve(make_app()) as client:
        usual = await send(client, path, wav(1))
        for headers in ({"x_priority": "batch"}, {"x_priority": "interactive", "x_deadline_ms": "60000"}):
            response = await send(client, path, wav(1), **headers)
            assert response.status_code == 200, response.text
            assert response.json()["text"] == usual.json()["text"]


@pytest.mark.parametrize("path", PATHS)
async def test_a_deadline_that_passes_in_the_queue(make_app, engine, serve, wav, until, path):
    """504, as soon as it is over, however busy the engine is; the file is never decoded."""
    async with serve(make_app()) as client, anyio.create_task_group() as group:
        engine.gate.clear()
        warm = len(engine.batches)
        group.start_soon(send, client, path, wav(1))
        await until(lambda: len(engine.batches) > warm)
        response = await send(client, path, wav(1), x_deadline_ms="150")
        assert response.status_code == 504
        assert response.json()["error"]["code"] == "deadline_exceeded"
        assert response.headers["x-should-retry"] == "false"
        engine.gate.set()
    assert len(engine.batches) == warm + 1


async def test_a_deadline_that_cannot_be_met(make_app, make_engine, serve, wav, until):
    """503 at once, with when to come back and the wait that was expected, for people and for programs."""
    engine = make_engine()
    app = make_app(engine)
    async with serve(app) as client, anyio.create_task_group() as group:
        app.state.models.main.scheduler._measured.append((10.0, 1.0))  # as if it had been
        engine.gate.clear()
        warm = len(engine.batches)
        for level in (0.3, 0.4, 0.5):
            group.start_soon(send, client, "/transcribe", wav(29, level))
        await until(lambda: len(engine.batches) > warm and app.state.models.main.scheduler.stats().waiting_s > 86)
        busy = await send(client, "/transcribe", wav(29), x_deadline_ms="6000")
        never = await send(client, "/transcribe", wav(29), x_deadline_ms="1000")
        engine.gate.set()
    assert (busy.status_code, busy.json()["error"]["code"]) == (503, "deadline_unreachable")
    assert 1 <= int(busy.headers["retry-after"]) <= 30
    assert float(busy.headers["x-whisperloop-expected-wait-ms"]) == pytest.approx(11_600)
    assert " s, after its deadline" in busy.json()["error"]["message"]
    assert busy.json()["error"]["param"] == "X-Deadline-Ms"
    assert never.status_code == 503
    assert "retry-after" not in never.headers
    assert never.headers["x-should-retry"] == "false"


async def test_a_full_queue_tells_the_wait(make_app, make_engine, serve, wav, until):
    """503 with Retry-After, and the expected wait once one can be told."""
    engine = make_engine(seconds_a_batch=0.05)
    async with serve(make_app(engine, max_queue_seconds=1)) as client, anyio.create_task_group() as group:
        await send(client, "/transcribe", wav(1))
        engine.gate.clear()
        warm = len(engine.batches)
        group.start_soon(send, client, "/transcribe", wav(5))
        await until(lambda: len(engine.batches) > warm)
        response = await send(client, "/transcribe", wav(5))
        engine.gate.set()
    assert (response.status_code, response.json()["error"]["code"]) == (503, "overloaded")
    assert int(response.headers["retry-after"]) >= 1
    assert int(response.headers["x-whisperloop-expected-wait-ms"]) > 0


async def test_the_queue_can_be_looked_at(make_app, make_engine, serve, wav, until):
    """GET /v1/queue tells what waits in each lane, how fast it goes, and when a clip would be done."""
    engine = make_engine(seconds_a_batch=0.05)
    async with serve(make_app(engine)) as client, anyio.create_task_group() as group:
        nothing = {"requests": 0, "windows": 0, "audio_s": 0.0, "expected_wait_s": None}
        assert (await client.get("/v1/queue")).json() == {
            "speed": None,
            "lanes": {"interactive": nothing, "batch": nothing},
        }
        await send(client, "/transcribe", wav(1))
        engine.gate.clear()
        warm = len(engine.batches)
        group.start_soon(send, client, "/transcribe", wav(20))
        await until(lambda: len(engine.batches) > warm)
        busy = (await client.get("/v1/queue")).json()
        engine.gate.set()
    assert busy["speed"] > 1
    lane = busy["lanes"]["interactive"]
    assert (lane["requests"], lane["windows"], lane["audio_s"]) == (1, 0, pytest.approx(20))
    assert lane["expected_wait_s"] == pytest.approx((10 + 10) / busy["speed"])
    assert busy["lanes"]["batch"]["expected_wait_s"] == pytest.approx((20 + 10) / busy["speed"])
