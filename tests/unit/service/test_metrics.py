"""GET /metrics: what operators see, and what they never see."""

import math
from collections import Counter

import anyio
import numpy as np
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from registry import RegistryError
from service.app import create_app
from service.metrics import CONTENT_TYPE, Metrics
from service.scheduler import Batch
from service.settings import Settings
from speech.audio import SAMPLE_RATE

pytestmark = pytest.mark.anyio

Samples = dict[tuple[str, ...], float]


def parse(text: str) -> Samples:
    """Read Prometheus' text format: the sample's name and its labels' values, to its value."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def scrape(client) -> Samples:
    """Ask as Prometheus does."""
    response = await client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"] == CONTENT_TYPE
    return parse(response.text)


def requests(samples: Samples) -> dict[tuple[str, ...], float]:
    """Tell the requests by path and status."""
    counts: dict[tuple[str, ...], float] = Counter()
    for (name, *labels), value in samples.items():
        if name == "whisperloop_requests_total":
            counts[labels[0], labels[1]] += value
    return counts


async def upload(client, data, name="a.wav", headers=None):
    """Send a file."""
    return await client.post("/transcribe", files={"file": (name, data)}, data={"language": "it"}, headers=headers)


async def test_it_is_prometheus_text(make_app, serve):
    """Every name is ours and explained, and every line can be parsed."""
    async with serve(make_app()) as client:
        text = (await client.get("/metrics")).text
    families = list(text_string_to_metric_families(text))
    assert len(families) >= 9
    for family in families:
        assert family.name.startswith("whisperloop_")
        assert len(family.documentation) > 10
        assert family.type in {"counter", "gauge", "histogram", "summary"}
        assert all(math.isfinite(sample.value) for sample in family.samples)


async def test_requests_are_counted_by_route_and_status(make_app, serve, wav):
    """Each answer counts once, under the route that it was given by, with the time that it took."""
    async with serve(make_app(), wait=True) as client:
        before = requests(await scrape(client))
        for _ in range(3):
            assert (await upload(client, wav(1))).status_code == 200
        assert (await upload(client, b"no audio")).status_code == 415
        assert (await client.get("/version")).status_code == 200
        samples = await scrape(client)
    after = requests(samples)
    counted = {key: count - before.get(key, 0) for key, count in after.items() if count != before.get(key, 0)}
    assert counted == {
        ("/transcribe", "200"): 3,
        ("/transcribe", "415"): 1,
        ("/version", "200"): 1,
        ("/metrics", "200"): 1,  # the first scrape, when it was answered
    }
    assert samples["whisperloop_request_seconds_count", "/transcribe"] == 4
    assert samples["whisperloop_request_seconds_sum", "/transcribe"] > 0


async def test_callers_choose_no_labels(make_app, serve):
    """However many paths are tried, they are one: else anybody could fill the memory, or write into the metrics."""
    async with serve(make_app()) as client:
        for path in ("secret-1", "secret-2?a=secret", "transcribe/secret", "secret%22%7D%201%0Asecret", "metrics/"):
            assert (await client.get(f"/{path}")).status_code == 404
        assert (await client.request("SECRET", "/version")).status_code == 405
        text = (await client.get("/metrics")).text
    assert "secret" not in text.lower()
    counts = requests(parse(text))
    assert counts["unknown", "404"] == 5
    assert {path for path, _ in counts} <= {"unknown", "/transcribe", "/health/ready", "/version", "/metrics"}


async def test_padding_waste_can_be_told(make_app, make_engine, serve, wav):
    """Audio that was decoded, and what the engine was paid for it; the rest was padding."""
    async with serve(make_app(make_engine(elastic=True))) as client:
        before = await scrape(client)
        assert (await upload(client, wav(2))).status_code == 200
        assert (await upload(client, wav(0.5))).status_code == 200
        after = await scrape(client)
    for name, seconds in (("audio", 2.5), ("paid", (160 + 96) / 50)):
        key = (f"whisperloop_{name}_seconds_total", "echo@1")
        assert after[key] - before.get(key, 0) == pytest.approx(seconds)


async def test_silence_is_no_work(make_app, serve, wav):
    """A silent file is a request, and no audio that was decoded."""
    async with serve(make_app()) as client:
        assert (await upload(client, wav(3, 0.0))).status_code == 200
        samples = await scrape(client)
    assert requests(samples)["/transcribe", "200"] == 1
    assert not [
        key for key in samples if key[0] in {"whisperloop_audio_seconds_total", "whisperloop_batch_windows_count"}
    ]


async def test_every_stage_is_timed(make_app, make_engine, serve, wav):
    """Reading the form, decoding, waiting and computing each took time after a request, and none before."""
    engine = make_engine(seconds_a_batch=0.02)
    async with serve(make_app(engine)) as client:
        before, _, after = await scrape(client), await upload(client, wav(2)), await scrape(client)
    stages = ("upload", "decode", "queue", "engine")
    assert [before["whisperloop_stage_seconds_total", stage] for stage in stages] == [0] * 4
    assert all(after["whisperloop_stage_seconds_total", stage] > 0 for stage in stages)
    assert after["whisperloop_stage_seconds_total", "engine"] >= 0.02
    assert after["whisperloop_batch_seconds_sum", "echo@1"] == after["whisperloop_stage_seconds_total", "engine"]


async def test_a_stage_that_fails_took_its_time(make_app, serve):
    """Files that are no audio cost something, too."""
    async with serve(make_app()) as client:
        assert (await upload(client, b"no audio")).status_code == 415
        samples = await scrape(client)
    assert samples["whisperloop_stage_seconds_total", "decode"] > 0
    assert samples["whisperloop_stage_seconds_total", "queue"] == 0


async def test_the_queue_is_told_as_it_is(make_app, engine, serve, wav, until):
    """Windows and seconds that wait are read at the moment of the scrape."""
    app: FastAPI = make_app(max_batch_size=1)
    async with serve(app) as client, anyio.create_task_group() as group:
        engine.gate.clear()
        warm = len(engine.batches)
        group.start_soon(upload, client, wav(1))
        await until(lambda: len(engine.batches) > warm)
        group.start_soon(upload, client, wav(2), "a.wav", {"X-Priority": "batch"})
        await until(lambda: app.state.models.main.scheduler.stats().waiting_windows == 1)
        busy = await scrape(client)
        engine.gate.set()
        await until(lambda: app.state.models.main.scheduler.is_idle)
        idle = await scrape(client)
    names = ("whisperloop_queue_windows", "whisperloop_queue_audio_seconds")
    assert [busy[name, "interactive", "echo@1"] for name in names] == [0, pytest.approx(1)]
    assert [busy[name, "batch", "echo@1"] for name in names] == [1, pytest.approx(2)]
    assert [idle[name, lane, "echo@1"] for name in names for lane in ("interactive", "batch")] == [0] * 4


async def test_errors_are_counted_by_code(make_app, serve, wav):
    """What was refused, and why, can be told apart; a code is never the caller's."""
    async with serve(make_app(max_audio_seconds=2)) as client:
        await upload(client, wav(3))
        await upload(client, wav(1))
        await client.get("/metrics/<script>")
        samples = await scrape(client)
    counted = {key[1]: value for key, value in samples.items() if key[0] == "whisperloop_errors_total"}
    assert {code: n for code, n in counted.items() if code != "model_not_ready"} == {
        "audio_too_long": 1,
        "not_found": 1,
    }


async def test_it_works_before_a_model_is_loaded(serve):
    """An operator sees the service that is not ready, too."""

    def load(_settings):
        raise RegistryError("there is none")

    async with serve(create_app(Settings(), load=load), wait=False) as client:
        assert (await client.get("/health/ready")).status_code == 503
        samples = await scrape(client)
    assert requests(samples) == {("/health/ready", "503"): 1}
    assert not [key for key in samples if key[0] == "whisperloop_queue_windows"]


async def test_nothing_said_is_told(make_app, serve, wav):
    """No word of a transcript, no file name, no request's id."""
    noise = np.random.default_rng(3).uniform(-0.5, 0.5, 50 * SAMPLE_RATE).astype(np.float32)
    async with serve(make_app()) as client:
        response = await upload(client, wav(noise), "private-name.wav")
        text = (await client.get("/metrics")).text
    segments = [segment["text"] for segment in response.json()["segments"]]
    assert len(segments) >= 2
    for secret in (*segments, "private-name", response.headers["x-request-id"], "it"):
        assert f'"{secret}"' not in text
    assert not any(segment in text for segment in segments)


async def test_two_applications_do_not_share_their_numbers(make_app, make_engine, serve, wav):
    """Instruments belong to an application, not to the process."""
    async with serve(make_app()) as one, serve(make_app(make_engine())) as other:
        await upload(one, wav(1))
        assert ("/transcribe", "200") in requests(await scrape(one))
        assert ("/transcribe", "200") not in requests(await scrape(other))


def test_batches_are_counted_by_size():
    """How full the batches are can be told from how many windows they held."""
    metrics = Metrics()
    for windows in (1, 4, 5):
        metrics.batch("a@1", Batch(windows=windows, audio_s=2.0, padded_s=3.0, waited_s=0.5, busy_s=0.25))
    samples = parse(metrics.render({}).decode())
    assert samples["whisperloop_batch_windows_sum", "a@1"] == 10
    assert [samples["whisperloop_batch_windows_bucket", size, "a@1"] for size in ("1.0", "4.0", "8.0")] == [1, 2, 3]
    assert samples["whisperloop_paid_seconds_total", "a@1"] == 9
    assert samples["whisperloop_stage_seconds_total", "queue"] == 1.5
