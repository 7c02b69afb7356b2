"""Jobs are paid for by the key that handed them in."""

import pytest

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
        await until(lambda: done in app.state.metrics.render([]).decode())
        assert 'whisperloop_key_audio_seconds_total{key="app"} 3.0' in app.state.metrics.render([]).decode()
        assert (await client.get("/version", headers=key)).status_code == 429
