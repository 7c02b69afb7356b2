"""Jobs over HTTP: the whole application with an engine without weights, a real database and a real receiver."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import anyio
import pytest

import service.jobs.runner
import service.jobs.webhooks
from service.jobs.store import JobStore
from service.jobs.webhooks import read_secret, sign
from service.settings import Settings

pytestmark = pytest.mark.anyio

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 - Standard Webhooks' example


@pytest.fixture
def database(tmp_path):
    """Name a database that is not there yet."""
    return f"sqlite:///{tmp_path}/runs/service.db"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    """Look for jobs more often than a service does, and claim them for less."""
    monkeypatch.setattr(service.jobs.runner, "POLL_S", 0.02)
    monkeypatch.setattr(service.jobs.runner, "RENEW_S", 0.02)
    monkeypatch.setattr(service.jobs.runner, "LEASE_S", 5.0)
    monkeypatch.setattr(service.jobs.webhooks, "RETRY_AFTER_S", (0.02, 0.02, 0.02, 0.02))


async def submit(client, data, headers=None, **form):
    """Hand in a job."""
    return await client.post("/v1/jobs", files={"file": ("a.wav", data)}, data=form, headers=headers)


async def polled(client, job_id, is_enough):
    """Poll a job, as a client does, until it is as it is to be."""
    with anyio.fail_after(30):
        while True:
            job = (await client.get(f"/v1/jobs/{job_id}")).json()
            if is_enough(job):
                return job
            await anyio.sleep(0.005)


async def finished(client, job_id):
    """Poll until a job is finished."""
    return await polled(client, job_id, lambda job: job["status"] not in {"queued", "running"})


def check(response, status, code, param=None):
    """Check an error."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert (error["code"], error["param"]) == (code, param), error
    return error["message"]


async def test_a_job_is_answered_as_a_request_would_be(make_app, serve, wav, database):
    """202 with where to ask; then the very words of POST /transcribe, and a result that stays until it expires."""
    data = wav(3, 0.3)
    async with serve(make_app(database=database)) as client:
        direct = await client.post("/transcribe", files={"file": ("a.wav", data)}, data={"language": "it"})
        response = await submit(client, data, language="it")
        assert response.status_code == 202
        job = response.json()
        assert job["object"] == "job"
        assert job["status"] in {"queued", "running"}
        assert (job["result_url"], job["error"], job["webhook"], job["expires_at"]) == (None, None, None, None)
        assert job["position"] == 0
        assert response.headers["location"] == f"/v1/jobs/{job['id']}"
        assert len(job["id"]) > 30
        done = await finished(client, job["id"])
        assert (done["status"], done["progress"], done["position"]) == ("succeeded", 1.0, None)
        assert done["audio_seconds"] == pytest.approx(3)
        assert done["expires_at"] - done["finished_at"] == 24 * 3600
        for _ in range(2):
            result = await client.get(done["result_url"])
            assert result.status_code == 200
            assert result.headers["content-type"] == "application/json"
            assert result.json()["text"] == direct.json()["text"]
            assert result.json()["model"] == direct.json()["model"]


async def test_jobs_give_way(make_app, make_engine, serve, wav, database, until):
    """What somebody waits for is decoded before the rest of a job; meanwhile progress and place can be told."""
    engine = make_engine()
    app = make_app(engine, database=database, max_batch_size=1)
    async with serve(app) as client:
        scheduler = app.state.models.main.scheduler
        warm = len(engine.batches)
        engine.gate.clear()
        ids = [(await submit(client, wav(n, 0.2), language="it")).json()["id"] for n in (119, 5, 5)]
        await until(lambda: len(engine.batches) > warm and scheduler.stats().lanes["batch"].windows >= 3)
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: client.post("/transcribe", files={"file": ("a", wav(1, 0.9))}))
            await until(lambda: scheduler.stats().lanes["interactive"].windows == 1)
            last = (await client.get(f"/v1/jobs/{ids[2]}")).json()
            assert (last["status"], last["position"], last["expected_wait_s"]) == ("queued", 2, None)
            first = (await client.get(f"/v1/jobs/{ids[0]}")).json()
            assert (first["status"], first["position"], first["progress"]) == ("running", 0, 0.0)
            assert first["audio_seconds"] == pytest.approx(119, abs=1)
            engine.gate.set()
        assert engine.batches[warm + 1][0].audio.max() > 0.8
        for job_id in ids:
            assert (await finished(client, job_id))["status"] == "succeeded"


async def test_progress_grows(make_app, make_engine, serve, wav, database, until):
    """What a poll tells is the share of the audio that is decoded, and how long the rest will take."""
    engine = make_engine()
    app = make_app(engine, database=database, max_batch_size=1)
    async with serve(app) as client:
        warm = len(engine.batches)
        engine.gate.clear()
        job_id = (await submit(client, wav(119, 0.2), language="it")).json()["id"]
        seen = []
        for n in range(1, 4):
            await until(lambda n=n: len(engine.batches) >= warm + n)
            job = (await client.get(f"/v1/jobs/{job_id}")).json()
            seen.append((job["progress"], job["expected_wait_s"]))
            engine.gate.set()
            await until(lambda n=n: len(engine.batches) > warm + n)
            engine.gate.clear()
        engine.gate.set()
        await finished(client, job_id)
    progress = [one for one, _ in seen]
    assert progress[0] == 0
    assert progress == sorted(progress)
    assert 0 < progress[-1] < 1
    assert seen[0][1] is None  # nothing was measured yet
    assert seen[-1][1] is not None


async def test_what_cannot_be_a_job_is_refused_now(make_app, serve, wav, database):
    """The form is checked when it comes, by the rules of POST /transcribe, and nothing is kept of it."""
    app = make_app(database=database, max_upload_bytes=100_000)
    async with serve(app) as client:
        check(await submit(client, wav(1), temperature="hot"), 400, "invalid_value", "temperature")
        check(await submit(client, wav(1), language="klingon"), 400, "unknown_language", "language")
        check(await submit(client, wav(1), task="sing"), 400, "invalid_value", "task")
        check(await submit(client, b""), 400, "empty_audio", "file")
        check(await client.post("/v1/jobs", data={"language": "it"}), 400, "invalid_request", "file")
        upload = {"file": ("a", wav(1)), "webhook": ("b", b"https://hooks.example/")}
        check(await client.post("/v1/jobs", files=upload), 400, "unknown_parameter", "webhook")
        check(await submit(client, wav(10)), 413, "file_too_large", "file")
        check(await submit(client, wav(1), {"Idempotency-Key": "a b"}), 400, "invalid_request", "Idempotency-Key")
        check(await submit(client, wav(1), {"Idempotency-Key": "x" * 256}), 400, "invalid_request", "Idempotency-Key")
        check(await client.get("/v1/jobs?limit=0"), 400, "invalid_request", "limit")
        assert not app.state.jobs_ready.result().store.exists


async def test_a_job_has_no_deadline(make_app, serve, wav, database):
    """One that was asked for is refused, as it would be ignored in silence."""
    async with serve(make_app(database=database)) as client:
        response = await submit(client, wav(1), headers={"X-Deadline-Ms": "1000"})
        check(response, 400, "unsupported_parameter", "X-Deadline-Ms")


async def test_a_job_that_fails_says_why(make_app, serve, engine, wav, database, until):
    """Audio that cannot be decoded, or not transcribed: the error is the one that a request would have had."""
    app = make_app(database=database)
    async with serve(app) as client:
        job = await finished(client, (await submit(client, b"Dear sir or madam,\n" * 50)).json()["id"])
        assert (job["status"], job["error"]["code"], job["error"]["param"]) == ("failed", "unsupported_audio", "file")
        assert job["result_url"] is None
        check(await client.get(f"/v1/jobs/{job['id']}/result"), 409, "job_failed")
        engine.fails = lambda _window: True
        job = await finished(client, (await submit(client, wav(1))).json()["id"])
        assert job["error"]["code"] == "decoding_failed"
        assert "secret" not in json.dumps(job)
        # It is counted when it is written down, which a poll may see first.
        await until(lambda: b'whisperloop_jobs_total{status="failed"} 2.0' in app.state.metrics.render({}))


@pytest.mark.parametrize("end", ["cancel", "delete"])
async def test_a_running_job_can_be_stopped(make_app, make_engine, serve, wav, database, until, end):
    """Its windows leave the queue, its audio is gone, and the next job runs."""
    engine = make_engine()
    app = make_app(engine, database=database, max_batch_size=1)
    async with serve(app) as client:
        warm = len(engine.batches)
        engine.gate.clear()
        job_id = (await submit(client, wav(119))).json()["id"]
        await until(lambda: len(engine.batches) > warm)
        check(await client.get(f"/v1/jobs/{job_id}/result"), 409, "job_not_finished")
        if end == "cancel":
            for _ in range(2):
                cancelled = (await client.post(f"/v1/jobs/{job_id}/cancel")).json()
                assert (cancelled["status"], cancelled["position"]) == ("cancelled", None)
            check(await client.get(f"/v1/jobs/{job_id}/result"), 409, "job_cancelled")
        else:
            assert (await client.delete(f"/v1/jobs/{job_id}")).status_code == 204
            check(await client.get(f"/v1/jobs/{job_id}"), 404, "job_not_found")
        await until(lambda: app.state.models.main.scheduler.is_idle)
        assert app.state.jobs_ready.result().store.audio(job_id) is None
        engine.gate.set()
        await finished(client, (await submit(client, wav(1))).json()["id"])
    assert len(engine.batches) == warm + 2  # what ran, and the next job's


async def test_a_job_that_is_cancelled_elsewhere_stops_here(make_app, make_engine, serve, wav, database, until):
    """Another process of the service may have been asked: the runner learns it when it renews its claim."""
    engine = make_engine()
    app = make_app(engine, database=database, max_batch_size=1)
    async with serve(app) as client:
        warm = len(engine.batches)
        engine.gate.clear()
        job_id = (await submit(client, wav(119))).json()["id"]
        await until(lambda: len(engine.batches) > warm)
        other = JobStore(database, max_jobs=1, max_bytes=1)
        assert await anyio.to_thread.run_sync(other.cancel, job_id, time.time(), 60.0)
        other.close()
        await until(lambda: app.state.models.main.scheduler.is_idle)
        engine.gate.set()
        assert (await client.get(f"/v1/jobs/{job_id}")).json()["status"] == "cancelled"


async def failing_renewals(app, engine, client, data, until, is_locked):
    """Hand in a job, have renewals fail while `is_locked(store, job_id, n_failed)`, and return it when it is done."""
    store = (await app.state.jobs_ready).store
    renew, failed, renewed = store.renew, [], []

    def locked(job_id, *args, **kwargs):
        if is_locked(store, job_id, len(failed)):
            failed.append(job_id)
            raise OSError("database is locked")
        renewed.append(job_id)
        return renew(job_id, *args, **kwargs)

    store.renew = locked
    engine.gate.clear()
    job_id = (await submit(client, data)).json()["id"]
    await until(lambda: renewed)
    engine.gate.set()
    await finished(client, job_id)
    return store.get(job_id, "", 0.0)


async def test_a_renewal_that_fails_costs_no_work(make_app, make_engine, serve, wav, database, until, caplog):
    """A database may be locked for a moment: the claim holds, the job goes on, and the log says so, without its id."""
    engine = make_engine()
    app = make_app(engine, database=database)
    async with serve(app) as client:
        job = await failing_renewals(app, engine, client, wav(3), until, lambda _store, _id, n_failed: n_failed < 3)
    assert (job.status, job.attempts) == ("succeeded", 1)
    assert "the claim could not be renewed; trying again" in caplog.text
    told = "".join(record.getMessage() for record in caplog.records if record.getMessage().startswith("job "))
    assert job.id[:12] in told
    assert job.id not in told


async def test_who_cannot_renew_a_claim_for_long_stops(
    make_app, make_engine, serve, wav, database, until, caplog, monkeypatch
):
    """Another process may have the job by then: it is begun anew."""
    monkeypatch.setattr(service.jobs.runner, "LEASE_S", 0.5)
    monkeypatch.setattr(service.jobs.runner, "AT_ONCE", 1)
    engine = make_engine()
    app = make_app(engine, database=database)
    async with serve(app) as client:

        def is_first(store, job_id, _n_failed):
            return store.get(job_id, "", 0.0).attempts == 1

        job = await failing_renewals(app, engine, client, wav(3), until, is_first)
    assert (job.status, job.attempts) == ("succeeded", 2)
    assert "its claim has ended, and it is begun anew" in caplog.text


async def test_an_upload_is_counted_until_it_is_stored(make_app, serve, wav, database, until):
    """It is in memory until then, and uploads beside it are to know; afterwards, it is not."""
    app = make_app(database=database)
    async with serve(app) as client:
        store = (await app.state.jobs_ready).store
        keep, counted = store.submit, []

        def submitted(*args, **kwargs):
            counted.append(app.state.buffered.n_bytes)
            return keep(*args, **kwargs)

        store.submit = submitted
        await finished(client, (await submit(client, wav(3))).json()["id"])
        assert counted[0] > len(wav(3))
        await until(lambda: app.state.buffered.n_bytes == 0)


async def test_the_form_is_described(make_app, serve):
    """OpenAPI tells of the file, of POST /transcribe's fields and of the webhook."""
    async with serve(make_app()) as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
    jobs, direct = (
        paths[path]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
        for path in ("/v1/jobs", "/transcribe")
    )
    assert jobs.keys() == direct.keys() | {"webhook"}
    assert jobs["webhook"]["type"] == "string"
    assert jobs["file"]["format"] == "binary"


async def test_jobs_survive_a_restart(make_app, make_engine, serve, wav, database, until):
    """A service that is stopped gives back what runs; the next one does it, and it counts as one attempt."""
    engine = make_engine()
    app = make_app(engine, database=database, max_batch_size=1)
    async with serve(app) as client:
        warm = len(engine.batches)
        engine.gate.clear()
        ids = [(await submit(client, wav(seconds, 0.2))).json()["id"] for seconds in (65, 2, 3)]
        await until(lambda: len(engine.batches) > warm)
        # The engine's thread cannot be stopped in the middle of a batch.
        threading.Timer(0.1, engine.gate.set).start()
    store = JobStore(database, max_jobs=9, max_bytes=10**9)
    kept = store.list("", time.time(), limit=9)
    assert [(job.id, job.status, job.attempts) for job in kept] == [(one, "queued", 0) for one in ids[::-1]]
    store.close()
    async with serve(make_app(make_engine(), database=database)) as client:
        for job_id in ids:
            assert (await finished(client, job_id))["status"] == "succeeded"


async def test_a_killed_services_jobs_are_taken_over(make_app, serve, wav, database, until):
    """A claim that nobody renews ends; a job that was claimed three times so has failed."""
    store = JobStore(database, max_jobs=9, max_bytes=10**9)
    survivor, _ = store.submit(wav(1), [], time.time())
    doomed, _ = store.submit(wav(1), [], time.time())
    long_ago = time.time() - 3600
    store.claim("dead", long_ago, 5.0)
    for _ in range(3):
        assert store.claim("dead", long_ago, 0.0).id in {survivor.id, doomed.id}
    store.close()
    app = make_app(database=database)
    async with serve(app) as client:
        assert (await finished(client, survivor.id))["status"] == "succeeded"
        job = await finished(client, doomed.id)
        assert (job["status"], job["error"]["code"]) == ("failed", "job_abandoned")
        await until(lambda: b'whisperloop_jobs_total{status="failed"} 1.0' in app.state.metrics.render({}))


async def test_a_full_queue_delays_a_job(make_app, make_engine, serve, wav, database, until):
    """A job is not refused because requests are in the way: it goes back, and is begun again."""
    engine = make_engine()
    app = make_app(engine, database=database, max_batch_size=1, max_queue_seconds=1)
    async with serve(app) as client, anyio.create_task_group() as group:
        warm = len(engine.batches)
        engine.gate.clear()
        group.start_soon(lambda: client.post("/transcribe", files={"file": ("a", wav(20))}))
        await until(lambda: len(engine.batches) > warm)
        job_id = (await submit(client, wav(20))).json()["id"]
        store = app.state.jobs_ready.result().store
        await until(lambda: store.get(job_id, "", 0.0).not_before > time.time())
        waiting = store.get(job_id, "", 0.0)
        assert (waiting.status, waiting.attempts) == ("queued", 0)
        assert waiting.not_before <= time.time() + 60
        engine.gate.set()


async def test_twice_is_once(make_app, serve, wav, database):
    """A client that is not sure that it was heard may send again; with another file, it made a mistake."""
    app = make_app(database=database)
    async with serve(app) as client:
        headers = {"Idempotency-Key": "4711"}
        first = await submit(client, wav(1), headers, language="it")
        again = await submit(client, wav(1), headers, language="it")
        assert (first.status_code, again.status_code) == (202, 202)
        assert first.json()["id"] == again.json()["id"]
        assert "idempotent-replayed" not in first.headers
        assert again.headers["idempotent-replayed"] == "true"
        check(await submit(client, wav(2), headers), 400, "idempotency_key_reused", "Idempotency-Key")
        assert len(app.state.jobs_ready.result().store.list("", 0.0, limit=9)) == 1


async def test_too_many_jobs_are_refused(make_app, make_engine, serve, wav, database):
    """503 and when to come back; who was accepted is done."""
    engine = make_engine()
    async with serve(make_app(engine, database=database, max_jobs=2)) as client:
        engine.gate.clear()
        ids = [(await submit(client, wav(1))).json()["id"] for _ in range(2)]
        refused = await submit(client, wav(1))
        check(refused, 503, "overloaded")
        assert int(refused.headers["retry-after"]) > 0
        engine.gate.set()
        for job_id in ids:
            assert (await finished(client, job_id))["status"] == "succeeded"
        assert (await submit(client, wav(1))).status_code == 202


class Keys:
    """Stands where API keys are checked, and lets everybody in."""

    def __init__(self, inner):
        self.inner = inner

    async def __call__(self, scope, receive, send):
        """Take the key's name from a header."""
        if scope["type"] == "http":
            key = dict(scope["headers"]).get(b"x-test-key")
            scope["state"]["facts"]["key"] = key and key.decode()
        await self.inner(scope, receive, send)


def with_keys(app):
    """Return the application with keys."""
    app.user_middleware.append(type(app.user_middleware[0])(Keys))
    return app


async def test_jobs_are_their_keys(make_app, serve, wav, database):
    """Who came with another API key finds nothing: no job, no result, nothing to cancel or delete."""
    app = with_keys(make_app(database=database))
    anna, bruno = {"X-Test-Key": "anna"}, {"X-Test-Key": "bruno"}
    async with serve(app) as client:
        job_id = (await submit(client, wav(1), anna)).json()["id"]
        assert (await client.get(f"/v1/jobs/{job_id}", headers=anna)).status_code == 200
        for others in (bruno, {}):
            for method, path in (("GET", ""), ("GET", "/result"), ("POST", "/cancel"), ("DELETE", "")):
                check(await client.request(method, f"/v1/jobs/{job_id}{path}", headers=others), 404, "job_not_found")
        assert [job["id"] for job in (await client.get("/v1/jobs", headers=anna)).json()["data"]] == [job_id]
        assert (await client.get("/v1/jobs", headers=bruno)).json() == {"object": "list", "data": [], "has_more": False}
        check(await client.get("/v1/jobs"), 403, "key_required")  # without a key, the id is the key


async def test_pages_of_jobs(make_app, serve, wav, database):
    """The newest first, so many at a time, each once."""
    async with serve(with_keys(make_app(database=database))) as client:
        anna = {"X-Test-Key": "anna"}
        ids = [(await submit(client, wav(1), anna)).json()["id"] for _ in range(5)]
        seen, after = [], None
        while True:
            params = {"limit": 2} | ({"after": after} if after else {})
            page = (await client.get("/v1/jobs", params=params, headers=anna)).json()
            seen += [job["id"] for job in page["data"]]
            after = seen[-1]
            if not page["has_more"]:
                break
    assert seen == ids[::-1]


async def test_results_expire(make_app, serve, wav, database, until, monkeypatch):
    """After its time a job is gone without a trace: 404, and no row."""
    monkeypatch.setattr(service.jobs.runner, "SWEEP_S", 0.02)
    app = make_app(database=database, job_ttl_hours=0.2 / 3600)
    async with serve(app) as client:
        job_id = (await submit(client, wav(1))).json()["id"]
        store = app.state.jobs_ready.result().store
        await until(lambda: store.get(job_id, "", 0.0) is None)
        check(await client.get(f"/v1/jobs/{job_id}"), 404, "job_not_found")
        check(await client.get(f"/v1/jobs/{job_id}/result"), 404, "job_not_found")


async def test_without_a_database_there_are_no_jobs(make_app, serve, wav):
    """404, and what an operator would have to set; transcribing goes on."""
    async with serve(make_app(database="")) as client:
        assert "WHISPERLOOP_DATABASE" in check(await submit(client, wav(1)), 404, "jobs_disabled")
        for method, path in (("GET", ""), ("GET", "/x"), ("GET", "/x/result"), ("POST", "/x/cancel"), ("DELETE", "/x")):
            check(await client.request(method, f"/v1/jobs{path}"), 404, "jobs_disabled")
        assert (await client.post("/transcribe", files={"file": ("a", wav(1))})).status_code == 200


async def test_a_database_that_breaks_stops_no_request(make_app, serve, wav, database, tmp_path, caplog):
    """Jobs answer 500 and go on when it is whole again; who transcribes notices nothing."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "service.db").write_bytes(b"this is no database at all" * 100)
    async with serve(make_app(database=database)) as client:
        check(await submit(client, wav(1)), 500, "internal_error")
        assert (await client.post("/transcribe", files={"file": ("a", wav(1))})).status_code == 200
        (tmp_path / "runs" / "service.db").unlink()
        job = await finished(client, (await submit(client, wav(1))).json()["id"])
        assert job["status"] == "succeeded"
    assert "the jobs cannot go on" in caplog.text


@pytest.fixture
def receiver():
    """Run a server that answers with the statuses that a test puts there, and keeps what it got."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            server.got.append((dict(self.headers), body))
            self.send_response(server.statuses.pop(0) if server.statuses else 204)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.got, server.statuses = [], []
    server.host = f"127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


async def told(client, job_id):
    """Poll until nothing more is sent about a job."""
    return await polled(client, job_id, lambda job: job["webhook"]["status"] in {"delivered", "failed"})


async def test_who_wants_to_be_told_is(make_app, serve, wav, database, receiver):
    """Signed, without a word of what was said, and again until it is heard, under the same id."""
    app = make_app(database=database, webhook_hosts=f"http://{receiver.host}", webhook_secret=SECRET)
    receiver.statuses = [500, 302]
    async with serve(app) as client:
        url = f"http://{receiver.host}/hook"
        job_id = (await submit(client, wav(1), webhook=url, language="it")).json()["id"]
        job = await told(client, job_id)
        text = (await client.get(f"/v1/jobs/{job_id}/result")).json()["text"]
    assert job["webhook"] == {"url": url, "status": "delivered", "attempts": 3, "error": None}
    assert len(receiver.got) == 3
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
    for headers, body in receiver.got:
        timestamp = int(headers["webhook-timestamp"])
        assert abs(timestamp - time.time()) < 60
        assert headers["webhook-signature"] == sign(headers["webhook-id"], timestamp, body, read_secret(SECRET))
        event = json.loads(body)
        assert event["type"] == "job.succeeded"
        assert event["data"]["id"] == job_id
        assert event["data"]["result_url"] == f"/v1/jobs/{job_id}/result"
        assert text not in body.decode()


@pytest.mark.parametrize(("statuses", "attempts"), [([500] * 9, 5), ([410], 1)])
async def test_who_does_not_listen_is_given_up(make_app, serve, wav, database, receiver, statuses, attempts):
    """After five attempts, or at once where the receiver is gone; the job's result is there all the same."""
    app = make_app(database=database, webhook_hosts=f"http://{receiver.host}", webhook_secret=SECRET)
    receiver.statuses = list(statuses)
    async with serve(app) as client:
        job = await told(client, (await submit(client, wav(1), webhook=f"http://{receiver.host}/")).json()["id"])
        assert (await client.get(job["result_url"])).status_code == 200
    assert (job["webhook"]["status"], job["webhook"]["attempts"]) == ("failed", attempts)
    assert job["webhook"]["error"] == str(statuses[0])
    assert len(receiver.got) == attempts


async def test_failures_and_cancellations_are_told_too(make_app, make_engine, serve, wav, database, receiver):
    """The event's type is the job's end."""
    engine = make_engine()
    settings = {"webhook_hosts": f"http://{receiver.host}", "webhook_secret": SECRET}
    async with serve(make_app(engine, database=database, **settings)) as client:
        url = f"http://{receiver.host}/"
        await told(client, (await submit(client, b"no audio at all " * 50, webhook=url)).json()["id"])
        engine.gate.clear()
        job_id = (await submit(client, wav(1), webhook=url)).json()["id"]
        await client.post(f"/v1/jobs/{job_id}/cancel")
        await told(client, job_id)
        engine.gate.set()
    assert [json.loads(body)["type"] for _, body in receiver.got] == ["job.failed", "job.cancelled"]
    assert json.loads(receiver.got[0][1])["data"]["error"]["code"] == "unsupported_audio"


async def test_a_host_that_is_no_longer_allowed_is_not_called(make_app, serve, wav, database, receiver):
    """A job may be older than the list of hosts: its message is given up, unsent."""
    url = f"http://{receiver.host}/"
    store = JobStore(database, max_jobs=9, max_bytes=10**9)
    job, _ = store.submit(wav(1), [], time.time(), webhook=url)
    store.close()
    async with serve(make_app(database=database, webhook_hosts="hooks.example", webhook_secret=SECRET)) as client:
        webhook = (await told(client, job.id))["webhook"]
    assert webhook == {"url": url, "status": "failed", "attempts": 1, "error": "not allowed"}
    assert receiver.got == []


async def test_a_message_that_cannot_be_made_is_given_up(make_app, serve, wav, database, receiver, caplog):
    """A bug is an attempt that failed, and counted as one: it is not tried for ever."""
    app = make_app(database=database, webhook_hosts=f"http://{receiver.host}", webhook_secret=SECRET)
    async with serve(app) as client:
        (await app.state.jobs_ready)._message = lambda _job: {"data": object()}
        job = await told(client, (await submit(client, wav(1), webhook=f"http://{receiver.host}/")).json()["id"])
    assert (job["webhook"]["status"], job["webhook"]["attempts"]) == ("failed", 5)
    assert job["webhook"]["error"] == "TypeError"
    assert "the webhook could not be sent" in caplog.text
    assert receiver.got == []


async def test_webhooks_that_are_refused(make_app, serve, wav, database):
    """Nobody is called whom the operator did not name, and nothing is sent unsigned."""
    allowed = {"webhook_hosts": "hooks.example", "webhook_secret": SECRET}
    for settings, webhook, named in (
        ({}, "https://hooks.example/", "WHISPERLOOP_WEBHOOK_HOSTS"),
        (allowed, "https://evil.example/", "WHISPERLOOP_WEBHOOK_HOSTS"),
        (allowed, "http://hooks.example/", "WHISPERLOOP_WEBHOOK_HOSTS"),
        ({"webhook_hosts": "hooks.example"}, "https://hooks.example/", "WHISPERLOOP_WEBHOOK_SECRET"),
    ):
        app = make_app(database=database, **settings)
        async with serve(app) as client:
            assert named in check(await submit(client, wav(1), webhook=webhook), 400, "invalid_webhook", "webhook")
            assert not app.state.jobs_ready.result().store.exists


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("database", "postgres//nowhere"),
        ("database", "nosuchdatabase:///x"),
        ("database", "sqlite://"),
        ("database", "sqlite:///:memory:"),
        ("webhook_hosts", "https://a.example/path"),
        ("webhook_secret", "secret"),
        ("job_ttl_hours", 0),
    ],
)
def test_settings_that_cannot_be_used(name, value):
    """The service does not start, and says which setting it is."""
    with pytest.raises(ValueError, match=name):
        Settings(**{name: value})
