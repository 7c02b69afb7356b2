"""Limits of keys: buckets that are refilled evenly, and what refused callers are told."""

from functools import partial

import anyio
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.keys import add_key, revoke_key
from service.limits import DAY_S, Bucket, Limits

pytestmark = pytest.mark.anyio


class Clock:
    """Time that passes when it is told to."""

    now = 1000.0

    def __call__(self):
        """Tell the time."""
        return self.now


@pytest.fixture
def clock():
    """Make a clock."""
    return Clock()


@pytest.fixture
def file(tmp_path):
    """Name a file of keys that is not there yet."""
    return tmp_path / "keys.jsonl"


def bearer(key):
    """Return the header that OpenAI's clients send."""
    return {"Authorization": f"Bearer {key}"}


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 10)), max_size=30))
def test_a_bucket_never_gives_more_than_it_holds_and_gets(steps):
    """Whatever is taken when: what is left is at most the bucket's size, and grows by its rate and no faster."""
    now, bucket = 0.0, Bucket(10, 60, 0.0)
    for waited, amount in steps:
        before = bucket.left(now)
        now += waited
        after = bucket.left(now)
        assert after <= bucket.size
        assert after <= before + waited * 10 / 60 + 1e-6
        bucket.take(amount, now)
        assert bucket.left(now + bucket.seconds_until(5, now)) >= 5 - 1e-6


def test_requests_a_minute(clock):
    """So many are let in at once, then one as often as the minute has room for; each key has its own."""
    limits = Limits(clock)
    for left in (2, 1, 0):
        verdict = limits.enter("app", 3, None)
        assert verdict.error is None
        assert verdict.headers["x-ratelimit-limit-requests"] == "3"
        assert verdict.headers["x-ratelimit-remaining-requests"] == str(left)
    assert verdict.headers["x-ratelimit-reset-requests"] == "1m0s"
    error = limits.enter("app", 3, None).error
    assert (error.status, error.code, error.headers) == (429, "rate_limit_exceeded", {"Retry-After": "20"})
    assert "3 requests a minute" in error.message
    assert limits.enter("other", 3, None).error is None
    clock.now += 20
    assert limits.enter("app", 3, None).error is None
    assert limits.enter("app", 3, None).error is not None


def test_audio_seconds_a_day(clock):
    """Audio is paid for when it was answered: one request may overdraw, and the debt is waited off."""
    limits = Limits(clock)
    assert limits.enter("app", None, 3600).error is None
    limits.charge("app", 3600 + 1800)
    verdict = limits.enter("app", None, 3600)
    assert verdict.error.headers == {"Retry-After": str(int(DAY_S / 2) + 24), "X-Should-Retry": "false"}
    assert "3,600 seconds of audio a day" in verdict.error.message
    assert verdict.headers["x-ratelimit-remaining-audio-seconds"] == "0"
    assert verdict.headers["x-ratelimit-reset-audio-seconds"] == "36h0m0s"
    clock.now += DAY_S / 2 + 24
    assert limits.enter("app", None, 3600).error is None


def test_limits_that_change_hold_at_once(clock):
    """A new limit is a full bucket of the new size; without one, nothing is counted."""
    limits = Limits(clock)
    assert limits.enter("app", 1, None).error is None
    assert limits.enter("app", 1, None).error is not None
    assert limits.enter("app", 2, None).headers["x-ratelimit-remaining-requests"] == "1"
    assert limits.enter("app", None, None).headers == {}
    limits.charge("app", 10)


async def test_the_service_refuses_what_is_too_much(make_app, serve, file, wav):
    """A key's requests are counted by the service, its answers say what is left, and another key is not concerned."""
    few, many = add_key(file, "few", requests_per_minute=2), add_key(file, "many")
    async with serve(make_app(keys=file)) as client:
        answer = await client.post("/transcribe", files={"file": ("a", wav(1))}, headers=bearer(few))
        assert answer.status_code == 200
        assert answer.headers["x-ratelimit-remaining-requests"] == "1"
        assert (await client.get("/nothing/here", headers=bearer(few))).status_code == 404
        refused = await client.get("/version", headers=bearer(few))
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert 25 <= int(refused.headers["retry-after"]) <= 30
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        free = await client.get("/version", headers=bearer(many))
        assert free.status_code == 200
        assert not [name for name in free.headers if name.startswith("x-ratelimit")]
        assert (
            'whisperloop_key_requests_total{key="few"} 3.0' in (await client.get("/metrics", headers=bearer(many))).text
        )


async def test_the_service_counts_seconds_of_audio(make_app, serve, file, wav):
    """What was answered is taken from the key's day, on all routes that transcribe; OpenAI's client says so."""
    key = add_key(file, "app", audio_seconds_per_day=5)
    async with serve(make_app(keys=file)) as client:
        one = await client.post("/transcribe", files={"file": ("a", wav(2))}, headers=bearer(key))
        assert one.headers["x-ratelimit-remaining-audio-seconds"] == "5"
        ours = openai.AsyncOpenAI(base_url="http://test/v1", api_key=key, http_client=client, max_retries=0)
        two = await ours.audio.transcriptions.with_raw_response.create(file=("a.wav", wav(4)), model="whisper-1")
        assert two.headers["x-ratelimit-remaining-audio-seconds"] == "3"
        with pytest.raises(openai.RateLimitError) as caught:
            await ours.audio.transcriptions.create(file=("a.wav", wav(1)), model="whisper-1")
        assert caught.value.code == "rate_limit_exceeded"
        assert caught.value.response.headers["x-should-retry"] == "false"
        revoke_key(file, "app")
        richer = add_key(file, "app", audio_seconds_per_day=50)
        again = await client.post("/transcribe", files={"file": ("a", wav(2))}, headers=bearer(richer))
        assert again.status_code == 200


async def left(client, key):
    """Ask how many seconds of audio a key has left."""
    return int((await client.get("/version", headers=bearer(key))).headers["x-ratelimit-remaining-audio-seconds"])


async def test_who_leaves_pays_for_what_was_heard(make_app, serve, file, wav, engine, until):
    """A client that goes before the end has had the decoder's time; nothing that is never answered is free."""
    key = add_key(file, "app", audio_seconds_per_day=100)
    app = make_app(keys=file)
    async with serve(app) as client:
        engine.gate.clear()
        warm = len(engine.batches)
        async with anyio.create_task_group() as group:
            form = {"files": {"file": ("a", wav(12))}, "data": {"stream": "true"}, "headers": bearer(key)}
            group.start_soon(partial(client.post, "/transcribe", **form))
            await until(lambda: len(engine.batches) > warm)
            group.cancel_scope.cancel()
        engine.gate.set()
        assert await left(client, key) == 88


async def test_a_job_that_used_up_the_day_is_fetched(make_app, serve, file, wav, tmp_path):
    """Who has no audio left may send none, and still ask, read and delete what is there: it was paid for."""
    key = add_key(file, "app", audio_seconds_per_day=5)
    app = make_app(keys=file, database=f"sqlite:///{tmp_path}/service.db")
    async with serve(app) as client:
        client.headers.update(bearer(key))
        job = (await client.post("/v1/jobs", files={"file": ("a", wav(9))})).json()
        path = f"/v1/jobs/{job['id']}"
        with anyio.fail_after(30):
            while (await client.get(path)).json()["status"] != "succeeded":  # noqa: ASYNC110
                await anyio.sleep(0.02)
            while await left(client, key) > 0:  # noqa: ASYNC110 - it is written down as done, then paid for
                await anyio.sleep(0.02)
        assert (await client.get(f"{path}/result")).json()["duration"] == 9
        for route in ("/transcribe", "/v1/audio/transcriptions", "/detect-language", "/v1/jobs"):
            assert (await client.post(route, files={"file": ("a", wav(1))})).status_code == 429
        assert (await client.delete(path)).status_code == 204


async def test_every_way_to_be_heard_is_paid_for(make_app, serve, file, wav, tmp_path):
    """Silence, several files, streams, a search for the language, jobs: seconds are seconds; each key has its own."""
    key, other = (add_key(file, name, audio_seconds_per_day=100) for name in ("app", "other"))
    app = make_app(keys=file, database=f"sqlite:///{tmp_path}/service.db")
    async with serve(app) as client:

        async def ask(path, *seconds, level=0.5, **fields):
            files = [("file", ("a", wav(one, level))) for one in seconds]
            return await client.post(path, files=files, data=fields, headers=bearer(key))

        await ask("/transcribe", 10, level=0.0)
        assert await left(client, key) == 90
        await ask("/transcribe", 5, 5)
        assert await left(client, key) == 80
        await ask("/v1/audio/transcriptions", 10, model="whisper-1", stream="true")
        assert await left(client, key) == 70
        await ask("/detect-language", 10)
        assert await left(client, key) == 60
        job = (await ask("/v1/jobs", 10)).json()
        with anyio.fail_after(30):  # it is written down as done, then paid for
            while await left(client, key) != 50:  # noqa: ASYNC110
                await anyio.sleep(0.02)
        shown = await client.get(f"/v1/jobs/{job['id']}", headers=bearer(key))
        assert shown.json()["status"] == "succeeded"
        assert await left(client, other) == 100
