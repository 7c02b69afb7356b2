"""Jobs are paid for by the key that handed them in."""

import asyncio
import io
import re
from dataclasses import replace

import av
import pytest

import service.jobs.runner
from service.keys import add_key

pytestmark = pytest.mark.anyio


async def test_a_jobs_audio_is_charged(make_app, serve, wav, until, tmp_path):
    """When a job is done, its seconds are taken from its key's day, and counted by the key's name."""
    file = tmp_path / "keys.jsonl"
    key = {"Authorization": f"Bearer {add_key(file, 'app', audio_seconds_per_day=2)}"}
    app = make_app(keys=file, database=f"sqlite:///{tmp_path}/jobs.db")
    async with serve(app) as client:
        answer = await client.post("/v1/jobs", files={"file": ("a", wav(3))}, headers=key)
        assert answer.status_code == 202, answer.text
        done = 'whisperloop_jobs_total{status="succeeded"} 1.0'
        await until(lambda: done in app.state.metrics.render({}).decode())
        assert 'whisperloop_key_audio_seconds_total{key="app"} 3.0' in app.state.metrics.render({}).decode()
        assert (await client.post("/v1/jobs", headers=key)).status_code == 429


async def test_jobs_wait_until_their_key_has_audio_left(make_app, make_engine, serve, wav, tmp_path, monkeypatch):
    """Handed in before the first was paid for, they run one by one as the day goes on; other keys' do not wait."""
    monkeypatch.setattr(service.jobs.runner, "AT_ONCE", 1)
    monkeypatch.setattr(service.jobs.runner, "LOOK_AGAIN_S", 0.05)
    monkeypatch.setattr(service.jobs.runner, "POLL_S", 0.02)
    engine = make_engine()
    file = tmp_path / "keys.jsonl"
    spender = {"Authorization": f"Bearer {add_key(file, 'spender', audio_seconds_per_day=2)}"}
    other = {"Authorization": f"Bearer {add_key(file, 'other', audio_seconds_per_day=100)}"}
    app = make_app(engine, keys=file, database=f"sqlite:///{tmp_path}/jobs.db")
    async with serve(app) as client:
        now = app.state.limits._clock()
        late = [0.0]
        app.state.limits._clock = lambda: now + late[0]
        engine.gate.clear()
        jobs = []
        for key in (spender, spender, spender, other):
            answer = await client.post("/v1/jobs", files={"file": ("a", wav(3))}, headers=key)
            assert answer.status_code == 202, answer.text
            jobs.append((f"/v1/jobs/{answer.json()['id']}", key))

        async def ended():
            found = [(await client.get(path, headers=key)).json()["status"] for path, key in jobs]
            return [status == "succeeded" for status in found]

        async def rest(expected):
            """Wait until these have ended, and see that no more do."""
            for _ in range(500):
                if await ended() == expected:
                    break
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.3)
            assert await ended() == expected

        engine.gate.set()
        await rest([True, False, False, True])
        late[0] = 0.6 * 86_400  # its debt of one second is half a day's
        await rest([True, True, False, True])


def claiming(data, seconds):
    """Return a FLAC file of a WAV file's 16 kHz audio, whose header says that it lasts longer."""
    buffer = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(buffer, "w", format="flac") as sink:
        stream = sink.add_stream("flac", rate=16_000, layout="mono")
        for frame in source.decode(audio=0):
            frame.pts = None
            sink.mux(stream.encode(frame))
        sink.mux(stream.encode(None))
    written = bytearray(buffer.getvalue())
    written[22:26] = (seconds * 16_000).to_bytes(4, "big")  # the samples of its STREAMINFO
    return bytes(written)


@pytest.mark.parametrize("doubtful", [False, True])
async def test_a_job_is_charged_for_what_was_heard(make_app, make_engine, serve, wav, until, tmp_path, doubtful):
    """Once, and neither what a header claims nor what was decoded again: not 100 s, but 3."""
    engine = make_engine()
    sure = engine._result
    engine._result = lambda window: replace(sure(window), avg_logprob=-2.0 if doubtful else -0.1)
    data = wav(3) if doubtful else claiming(wav(3), seconds=100)
    file = tmp_path / "keys.jsonl"
    key = {"Authorization": f"Bearer {add_key(file, 'app', audio_seconds_per_day=1000)}"}
    app = make_app(engine, keys=file, database=f"sqlite:///{tmp_path}/jobs.db")
    async with serve(app) as client:
        warm = len(engine.batches)
        job = (await client.post("/v1/jobs", files={"file": ("a", data)}, headers=key)).json()
        done = 'whisperloop_jobs_total{status="succeeded"} 1.0'
        await until(lambda: done in app.state.metrics.render({}).decode())
        assert (len(engine.batches) > warm + 1) == doubtful
        assert 'whisperloop_key_audio_seconds_total{key="app"} 3.0' in app.state.metrics.render({}).decode()
        answer = await client.get(f"/v1/jobs/{job['id']}", headers=key)
        assert answer.json()["audio_seconds"] == 3
        assert answer.headers["x-ratelimit-remaining-audio-seconds"] == "997"


@pytest.mark.parametrize("end", ["cancel", "delete"])
async def test_a_job_that_is_given_up_is_charged(make_app, make_engine, serve, wav, until, tmp_path, end):
    """For what was heard before: or an engine could be had without limit, by giving each job up at its end."""
    engine = make_engine()
    file = tmp_path / "keys.jsonl"
    key = {"Authorization": f"Bearer {add_key(file, 'app', audio_seconds_per_day=1000)}"}
    app = make_app(engine, keys=file, database=f"sqlite:///{tmp_path}/jobs.db", max_batch_size=1)
    async with serve(app) as client:
        warm = len(engine.batches)
        engine.gate.clear()
        job = (await client.post("/v1/jobs", files={"file": ("a", wav(119))}, headers=key)).json()
        await until(lambda: len(engine.batches) > warm)
        if end == "cancel":
            await client.post(f"/v1/jobs/{job['id']}/cancel", headers=key)
        else:
            await client.delete(f"/v1/jobs/{job['id']}", headers=key)

        def charged():
            found = re.search(
                r'whisperloop_key_audio_seconds_total\{key="app"\} ([\d.]+)', app.state.metrics.render({}).decode()
            )
            return found is not None and 0 < float(found[1]) <= 119

        await until(charged)
        engine.gate.set()
