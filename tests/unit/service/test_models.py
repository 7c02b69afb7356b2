"""Versions come and go while requests are answered; real registry folders, and the echo engine in place of weights."""

import asyncio
import gc
import json
import logging
import threading
import weakref
from datetime import UTC, datetime

import anyio
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

import service.loading
import service.models
from registry import Registry
from service.app import create_app
from service.models import Place, falls_into, places
from service.settings import Settings
from speech.smoke import SmokeClip, write_smoke_clip

pytestmark = pytest.mark.anyio


@pytest.fixture
def registry(tmp_path):
    """An empty registry."""
    return Registry(tmp_path / "registry")


@pytest.fixture
def publish(registry, tmp_path):
    """Publish a version of made-up bytes, and point aliases at it; with a smoke clip that an echo answers, or not."""

    def make(text, *aliases, smoke=None, name="whisper"):
        source = tmp_path / f"source-{name}-{text}"
        (source / "ctranslate2").mkdir(parents=True)
        (source / "ctranslate2" / "model.bin").write_text(text)
        if smoke is not None:
            write_smoke_clip(source, SmokeClip(np.full(16_000, 0.5, np.float32), "it", smoke))
        version = registry.publish(name, source, context={"elastic": False, "margin": 0})
        for alias in aliases:
            point(registry, version, alias)
        return version

    return make


def point(registry, version, alias):
    """Move an alias, wherever it is."""
    current = registry.alias(version.name, alias)
    before = current and current.version
    registry.move_alias(version.name, alias, version.id, expected=before, reason="test")


@pytest.fixture
def engines(make_engine, monkeypatch):
    """Load an echo engine for each version, and keep it by what is in the version's model.bin."""
    made = {}

    def load(folder, *_args, **_options):
        text = (folder / "ctranslate2" / "model.bin").read_text()
        if text == "unloadable":
            raise MemoryError("/secret/path")
        engine = make_engine()
        engine.description = f"echo of {text}"
        engine.explodes = text == "broken"
        made[text] = engine
        return engine

    monkeypatch.setattr(service.loading, "load_engine", load)
    return made


@pytest.fixture
def make(registry, tmp_path, engines):  # noqa: ARG001 - so that no real engine is loaded
    """Make an application that serves the registry; it looks at the aliases when a test says so."""

    def make_with(**settings):
        given = {"watch_seconds": 0, "device": "cpu", "threads": 1, **settings}
        return create_app(Settings(registry=registry.root, cache=tmp_path / "cache", **given))

    return make_with


async def post(client, wav, seconds=1.0, data=None, **headers):
    """Transcribe a tone."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.post("/transcribe", files={"file": ("a", wav(seconds))}, data=data or {}, headers=given)


async def scrape(client):
    """Read the metrics, by name and labels."""
    text = (await client.get("/metrics")).text
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_a_new_production_takes_over(publish, make, serve, wav, engines, caplog):
    """It answers as soon as it was looked for, by its name in body and header; the log and the metrics tell."""
    caplog.set_level(logging.INFO, "whisperloop.service")
    first = publish("first", "production")
    app = make()
    async with serve(app) as client:
        before = await post(client, wav)
        second = publish("second", "production")
        await app.state.models.look()
        after = await post(client, wav)
        about = (await client.get("/version")).json()
        metrics = await scrape(client)
    assert [r.json()["model"] for r in (before, after)] == [first.ref, second.ref]
    assert [r.headers["X-Whisperloop-Model"] for r in (before, after)] == [first.ref, second.ref]
    assert (about["model"]["ref"], about["refused"]) == (second.ref, [])
    assert len(engines["second"].batches) == 2  # the warm-up, and the request
    assert metrics["whisperloop_model_swaps_total", "served", "whisper@production"] == 2
    assert metrics["whisperloop_model_info", "echo of second", second.ref, "whisper@production"] == 1
    assert not any(first.ref in labels for name, *labels in metrics if name == "whisperloop_model_info")
    for ref in (first.ref, second.ref):  # the two can be compared
        assert metrics["whisperloop_requests_total", *sorted(("/transcribe", "200", ref))] == 1
        for name in ("batch_windows", "batch_seconds", "request_real_time_factor"):
            assert metrics[f"whisperloop_{name}_count", ref] == 1
        assert metrics["whisperloop_audio_seconds_total", ref] == 1.0
        assert metrics["whisperloop_paid_seconds_total", ref] == 30.0
    assert metrics["whisperloop_queue_windows", *sorted(("interactive", second.ref))] == 0
    assert f"swapped: {second.ref}" in caplog.text


async def test_aliases_are_watched(publish, make, serve, until):
    """Nobody has to tell the service that an alias moved."""
    publish("first", "production")
    app = make(watch_seconds=0.01)
    async with serve(app):
        second = publish("second", "production")
        await until(lambda: app.state.models.main.version.ref == second.ref)


async def test_a_look_that_fails_is_not_the_last(publish, make, serve, until, monkeypatch, caplog):
    """A registry that cannot be read for a while, or a bug, ends neither the service nor the watching."""
    publish("first", "production")
    app = make(watch_seconds=0.01)
    async with serve(app):
        with monkeypatch.context() as broken:
            broken.setattr(Registry, "alias_stamp", lambda *_: 1 / 0)
            await until(lambda: "was not followed" in caplog.text)
            broken.setattr(Registry, "alias_stamp", _unreachable)
            await until(lambda: "cannot be looked at" in caplog.text)
        second = publish("second", "production")
        await until(lambda: app.state.models.main.version.ref == second.ref)


def _unreachable(*_args):
    raise OSError("stale file handle")


async def test_rollback_is_one_alias_move(publish, registry, make, serve, wav):
    """`python -m registry rollback` and the next look bring the version before back."""
    first = publish("first", "production")
    app = make()
    async with serve(app) as client:
        publish("second", "production")
        await app.state.models.look()
        registry.rollback("whisper", reason="test")
        await app.state.models.look()
        assert (await post(client, wav)).json()["model"] == first.ref


async def test_who_began_on_the_old_version_ends_on_it(publish, make, serve, wav, engines, until):
    """A request that is being decoded is answered by the version that it began on; then its engine is freed."""
    first = publish("first", "production")
    app = make()
    async with serve(app) as client:
        engines["first"].gate.clear()
        async with anyio.create_task_group() as group:
            answers = []

            async def ask():
                answers.append(await post(client, wav))

            group.start_soon(ask)
            await until(lambda: len(engines["first"].batches) == 2)
            second = publish("second", "production")
            await app.state.models.look()
            assert (await post(client, wav)).json()["model"] == second.ref
            assert answers == []
            engines["first"].gate.set()
        assert answers[0].json()["model"] == answers[0].headers["X-Whisperloop-Model"] == first.ref
        gone = weakref.ref(engines.pop("first"))
        await until(lambda: gone() is None)


async def test_an_upload_that_is_slow_keeps_its_version(publish, make, serve, wav, until):
    """A request has its version from its first byte on: it is not refused because that was replaced meanwhile."""
    first = publish("first", "production")
    app = make()
    async with serve(app) as client:
        go_on = asyncio.Event()
        whole = client.build_request("POST", "/transcribe", files={"file": ("a", wav(1))})
        body = whole.read()

        async def slowly():
            yield body[:100]
            await go_on.wait()
            yield body[100:]

        async with anyio.create_task_group() as group:
            answers = []

            async def ask():
                headers = {"content-type": whole.headers["content-type"]}
                answers.append(await client.post("/transcribe", content=slowly(), headers=headers))

            old = app.state.models.main
            group.start_soon(ask)
            # ASGITransport sends the body as it is asked for: hold the version as the request does.
            await until(lambda: old.holds.count == 1)
            publish("second", "production")
            await app.state.models.look()
            assert old.scheduler.is_running
            go_on.set()
        assert answers[0].json()["model"] == first.ref
        await until(lambda: not old.scheduler.is_running)


@pytest.mark.parametrize(
    ("text", "smoke", "why"),
    [
        ("broken", None, "could not be loaded"),
        ("unloadable", None, "not enough memory"),
        ("mute", (1, 2, 3, 4, 5, 6), "of the 6 tokens of its smoke clip, 6 are wrong"),
        ("damaged", None, "is damaged: ctranslate2/model.bin"),
    ],
)
async def test_a_bad_version_is_refused_and_the_old_one_goes_on(publish, make, serve, wav, caplog, text, smoke, why):
    """Damaged, unloadable, exploding or talking nonsense: reported with a reason, tried once, and never answers."""
    first = publish("first", "production")
    app = make()
    async with serve(app) as client:
        bad = publish(text, "production", smoke=smoke)
        if text == "damaged":
            weights = bad.path / "ctranslate2" / "model.bin"
            weights.chmod(0o644)
            weights.write_text("DAMAGED")
        for _ in range(3):
            await app.state.models.look()
        assert (await client.get("/health/ready")).status_code == 200
        assert (await post(client, wav)).json()["model"] == first.ref
        (refused,) = (await client.get("/version")).json()["refused"]
        metrics = await scrape(client)
        named = await post(client, wav, data={"model": bad.ref})
        good = publish("good", "production")
        await app.state.models.look()
        about = (await client.get("/version")).json()
    assert (refused["place"], refused["ref"]) == ("whisper@production", bad.ref)
    assert why in refused["reason"]
    assert datetime.fromisoformat(refused["when"]) <= datetime.now(UTC)
    assert "/secret" not in json.dumps(refused)
    assert (named.status_code, named.json()["error"]["code"]) == (404, "model_not_found")
    assert refused["reason"] in named.json()["error"]["message"]
    assert metrics["whisperloop_model_swaps_total", "refused", "whisper@production"] == 1
    assert f"refused: {bad.ref} for whisper@production" in caplog.text
    assert f"{first.ref} goes on" in caplog.text
    assert (about["model"]["ref"], about["refused"]) == (good.ref, [])


async def test_a_smoke_clip_that_is_answered_as_expected_passes(publish, make, serve, engines):
    """The clip is decoded, in its language, before the version is ready; and nothing else is needed to warm it."""
    publish("fine", "production", smoke=())
    async with serve(make()):
        ((window,),) = engines["fine"].batches
    assert (window.audio.size, window.language) == (16_000, "it")


async def test_a_refused_version_is_tried_again_when_its_alias_comes_back(publish, registry, make, serve, engines):
    """What did not fit into memory once may fit when it is promoted again."""
    first = publish("first", "production")
    app = make()
    async with serve(app):
        second = publish("broken", "production")
        await app.state.models.look()
        point(registry, first, "production")
        await app.state.models.look()
        assert app.state.models.refused == []
        engines.pop("broken")
        point(registry, second, "production")
        await app.state.models.look()
        assert engines["broken"].batches


async def test_a_model_that_comes_later_is_loaded(publish, make, serve, wav):
    """A service that was started on an empty registry needs no restart."""
    app = make(watch_seconds=0.01)
    async with serve(app, wait=False) as client:
        message = (await client.get("/health/ready")).json()["error"]["message"]
        while "being loaded" in message:
            await anyio.sleep(0.005)
            message = (await client.get("/health/ready")).json()["error"]["message"]
        assert "as soon as it is there" in message
        first = publish("first", "production")
        with anyio.fail_after(10):
            while (await client.get("/health/ready")).status_code != 200:  # noqa: ASYNC110
                await anyio.sleep(0.005)
        assert (await post(client, wav)).json()["model"] == first.ref


@pytest.mark.parametrize("watch_seconds", [0, 0.01])
async def test_a_start_that_failed_is_tried_again(
    publish, make, serve, wav, monkeypatch, until, engines, watch_seconds
):
    """Memory comes back, or a disk, or the Hub; the process lives, so nobody would restart it."""
    monkeypatch.setattr(service.models, "RETRY_S", 0.02)
    load, tries = service.loading.load_engine, []

    def fail_twice(*arguments, **options):
        tries.append(1)
        if len(tries) < 3:
            raise MemoryError
        return load(*arguments, **options)

    monkeypatch.setattr(service.loading, "load_engine", fail_twice)
    publish("first", "production")
    app = make(watch_seconds=watch_seconds)
    async with serve(app, wait=False) as client:
        await until(lambda: engines and app.state.models.serving)
        assert (await post(client, wav)).status_code == 200
        assert len(tries) == 3


@pytest.mark.usefixtures("engines")
async def test_what_was_tried_and_does_not_work_is_not_tried_again(publish, make, serve, monkeypatch, until):
    """Its bytes are the same the next time."""
    monkeypatch.setattr(service.models, "RETRY_S", 0.02)
    load, tries = service.loading.load_engine, []
    monkeypatch.setattr(service.loading, "load_engine", lambda *a, **o: tries.append(1) or load(*a, **o))
    publish("first", "production", smoke="something else")
    app = make(watch_seconds=0.01)
    async with serve(app, wait=False):
        await until(lambda: app.state.models.refused)
        await anyio.sleep(0.2)
        assert len(tries) == 1


async def test_a_fixed_version_is_not_left(publish, make, serve):
    """Who names an id is served that id, whatever the aliases do; no canary or shadow is beside it."""
    first = publish("first", "production", "canary")
    app = make(model=first.ref, watch_seconds=0.01, shadow_share=1.0)
    async with serve(app) as client:
        publish("second", "production", "canary", "shadow")
        await app.state.models.look()
        about = (await client.get("/version")).json()
    assert (about["model"]["ref"], about["beside"]) == (first.ref, [])


async def test_a_canary_answers_its_share(publish, make, serve, wav):
    """A quarter of the keys, and the same key always alike, by either header; the others stay with production."""
    first, second = publish("first", "production"), publish("second", "canary")
    app = make(canary_share=0.25)
    async with serve(app) as client:
        await app.state.models.look()
        answered = {}
        for i in range(80):
            by_route = await post(client, wav, x_whisperloop_route=f"caller {i}")
            again = await post(client, wav, x_whisperloop_route=f"caller {i}", x_request_id=f"other-{i}")
            assert by_route.json()["model"] == again.json()["model"] == by_route.headers["X-Whisperloop-Model"]
            answered[i] = by_route.json()["model"]
        by_id = {(await post(client, wav, x_request_id="call-7")).json()["model"] for _ in range(3)}
        (beside,) = (await client.get("/version")).json()["beside"]
    assert set(answered.values()) == {first.ref, second.ref}
    assert sum(ref == second.ref for ref in answered.values()) == pytest.approx(20, abs=10)
    assert len(by_id) == 1
    assert (beside["place"], beside["role"], beside["model"]["ref"]) == ("whisper@canary", "canary", second.ref)


async def test_a_canary_that_is_promoted_is_not_loaded_twice(publish, registry, make, serve, wav, engines):
    """It takes production's place at once, and nothing is left beside it."""
    publish("first", "production")
    second = publish("second", "canary")
    app = make(canary_share=1.0)
    async with serve(app) as client:
        await app.state.models.look()
        engine = engines["second"]
        point(registry, second, "production")
        await app.state.models.look()
        assert app.state.models.main.scheduler.engine is engine is engines["second"]
        assert (await client.get("/version")).json()["beside"] == []
        assert (await post(client, wav)).json()["model"] == second.ref


async def test_a_canary_leaves_with_its_alias(publish, registry, make, serve, wav, until):
    """Without the alias, or with a share of 0, there is none."""
    first = publish("first", "production")
    publish("second", "canary")
    app = make(canary_share=1.0)
    async with serve(app) as client:
        await app.state.models.look()
        canary = app.state.models.pick("any")
        (registry.root / "models" / "whisper" / "aliases" / "canary.json").unlink()
        await app.state.models.look()
        assert (await post(client, wav)).json()["model"] == first.ref
        await until(lambda: not canary.scheduler.is_running)
    async with serve(make(canary_share=0)) as client:
        assert (await client.get("/version")).json()["beside"] == []


async def test_a_production_that_is_gone_goes_on(publish, registry, make, serve, wav, caplog):
    """A registry that was removed takes nothing out of service."""
    first = publish("first", "production")
    app = make()
    async with serve(app) as client:
        (registry.root / "models" / "whisper" / "aliases" / "production.json").unlink()
        await app.state.models.look()
        assert (await post(client, wav)).json()["model"] == first.ref
    assert "is gone from the registry" in caplog.text


async def test_whoever_is_loaded_can_be_asked_for_by_name(publish, make, serve, wav):
    """By alias, reference and id, in both APIs; /v1/models lists these names and no other."""
    first, second, third = publish("first", "production"), publish("second", "canary"), publish("third", "candidate")
    small = publish("small", "production", name="small")
    app = make(canary_share=0.5, also="candidate, small@production")
    async with serve(app) as client:
        await app.state.models.look()
        listed = {model["id"] for model in (await client.get("/v1/models")).json()["data"]}
        expected = {
            **dict.fromkeys(("production", "whisper@production", first.id, first.ref), first.ref),
            **dict.fromkeys(("canary", "whisper@canary", second.id, second.ref), second.ref),
            **dict.fromkeys(("candidate", "whisper@candidate", third.id, third.ref), third.ref),
            **dict.fromkeys(("small@production", small.id, small.ref), small.ref),
        }
        for name, ref in expected.items():
            assert (await post(client, wav, data={"model": name})).json()["model"] == ref
            openai = await client.post("/v1/audio/transcriptions", files={"file": ("a", wav(1))}, data={"model": name})
            assert openai.headers["X-Whisperloop-Model"] == ref
            assert (await client.get(f"/v1/models/{name}")).json()["id"] == name
        any_key = {(await post(client, wav, data={"model": "whisper-1"})).json()["model"] for _ in range(20)}
    assert listed == {"whisper-1", "whisper", *expected}
    assert any_key == {first.ref, second.ref}


@pytest.mark.parametrize("path", ["/transcribe", "/v1/audio/transcriptions"])
async def test_an_alias_that_is_not_loaded_says_how_it_would_be(publish, make, serve, wav, path):
    """404, with the setting to start the service with; a name that can be nothing says only what there is."""
    publish("first", "production", "candidate")
    async with serve(make()) as client:
        files = {"file": ("a", wav(1))}
        alias = await client.post(path, files=files, data={"model": "candidate"})
        nonsense = await client.post(path, files=files, data={"model": "gpt-5"})
    for answer in (alias, nonsense):
        assert (answer.status_code, answer.json()["error"]["param"]) == (404, "model")
        assert "there are: whisper-1, whisper, whisper@production" in answer.json()["error"]["message"]
    assert "WHISPERLOOP_ALSO=candidate" in alias.json()["error"]["message"]
    assert "WHISPERLOOP_ALSO" not in nonsense.json()["error"]["message"]


async def test_a_version_beside_that_is_bad_is_no_harm(publish, make, serve, wav):
    """A canary that does not load, and a name that breaks the grammar, are refused; production answers all."""
    first = publish("first", "production")
    publish("broken", "canary")
    app = make(canary_share=1.0, also="no such name")
    async with serve(app) as client:
        await app.state.models.look()
        assert (await post(client, wav)).json()["model"] == first.ref
        refused = (await client.get("/version")).json()["refused"]
    assert [one["place"] for one in refused] == ["whisper@canary", "whisper@no such name"]


async def test_errors_name_the_version_too(publish, make, serve):
    """Also what could not be transcribed was refused by a version that has a name."""
    first = publish("first", "production")
    async with serve(make()) as client:
        answer = await client.post("/transcribe", files={"file": ("a", b"no audio")})
    assert (answer.status_code, answer.headers["X-Whisperloop-Model"]) == (415, first.ref)


async def test_swaps_leave_nothing_behind(publish, registry, make, serve, wav, until):
    """After a dozen moves back and forth, under requests, one scheduler is left, and no request was lost."""
    versions = [publish(text, "production") for text in ("one", "two")]
    app = make()
    async with serve(app) as client:
        answers, stop = [], False

        async def ask():
            while not stop:
                answers.append(await post(client, wav))

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(ask)
            for i in range(12):
                point(registry, versions[i % 2], "production")
                await app.state.models.look()
            stop = True
        await until(lambda: not app.state.models._leaving)
        gc.collect()
        tasks = [task.get_name() for task in asyncio.all_tasks()]
    assert {answer.status_code for answer in answers} == {200}
    assert all(answer.json()["model"] == answer.headers["X-Whisperloop-Model"] for answer in answers)
    assert tasks.count("scheduler") == 1


async def test_jobs_need_not_wait_for_other_versions(publish, make, serve, engines, tmp_path, monkeypatch, until):
    """What comes after the model comes after the model alone: others may take minutes to load."""
    publish("main", "production")
    publish("slow", "production", name="small")
    may_load, load = threading.Event(), service.loading.load_engine

    def load_slowly(folder, *args, **options):
        if (folder / "ctranslate2" / "model.bin").read_text() == "slow":
            assert may_load.wait(60)
        return load(folder, *args, **options)

    monkeypatch.setattr(service.loading, "load_engine", load_slowly)
    app = make(also="small@production", database=f"sqlite:///{tmp_path}/jobs.db")
    try:
        async with serve(app) as client:
            await until(app.state.jobs_ready.done)
            assert "slow" not in engines
            assert (await client.get("/v1/jobs/job_none")).json()["error"]["code"] == "job_not_found"
            may_load.set()
            await until(lambda: "slow" in engines)
    finally:
        may_load.set()


def test_places_are_loaded_once_each():
    """A model that is itself the canary has none beside it, and a reference that is listed twice is one place."""
    settings = Settings(model="whisper@canary", also="small@production,small@production", shadow_share=0.5)
    assert places(settings) == (
        Place("whisper@canary", "main"),
        Place("whisper@shadow", "shadow"),
        Place("small@production", "also"),
    )


def test_a_share_is_a_share():
    """All of 1, none of 0, about a tenth of 0.1; and who is of a small share is of every larger one."""
    keys = [f"key {i}" for i in range(2_000)]
    tenth = {key for key in keys if falls_into(key, 0.1, "canary")}
    assert len(tenth) == pytest.approx(200, abs=60)
    assert all(falls_into(key, 0.2, "canary") for key in tenth)
    assert all(falls_into(key, 1.0, "canary") and not falls_into(key, 0.0, "canary") for key in keys)
    assert {key for key in keys if falls_into(key, 0.1, "shadow")} != tenth
