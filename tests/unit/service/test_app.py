"""From the registry to a server that is ready, or says why it is not."""

import json
import logging
import subprocess
import sys
import threading
import weakref
from dataclasses import replace
from datetime import UTC, datetime

import anyio
import pytest

import service.loading
import service.models
from registry import Registry
from service.app import create_app
from service.loading import Model, Untuned, load_model
from service.openai_form import DetectForm, TranscribeForm, TranscriptionForm, TranslationForm
from service.schemas import Context, Version
from service.settings import Settings
from speech.engine.tuning import Tuning, cache_file, write_cached

pytestmark = pytest.mark.anyio


@pytest.fixture
def version(tmp_path):
    """Publish a model of made-up bytes, in production; `load_engine` is replaced where it is used."""
    source = tmp_path / "source"
    (source / "ctranslate2").mkdir(parents=True)
    (source / "config.json").write_text("{}")
    (source / "ctranslate2" / "model.bin").write_bytes(b"weights")
    registry = Registry(tmp_path / "registry")
    published = registry.publish("whisper", source, base="hub:org/base", context={"elastic": True, "margin": 64})
    registry.move_alias("whisper", "production", published.id, expected=None, reason="test")
    return published


@pytest.fixture
def settings(tmp_path):
    """Name the temporary registry, and a cache beside it."""
    return Settings(registry=tmp_path / "registry", cache=tmp_path / "cache", device="cpu", threads=3)


async def reason(client):
    """Check that the service is live and not ready, and tell why."""
    assert (await client.get("/health/live")).json() == {"status": "live"}
    response = await client.get("/health/ready")
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "model_not_ready"
    upload = await client.post("/transcribe", files={"file": ("a", b"x")})
    assert upload.status_code == 503
    assert (await client.get("/version")).json()["model"] is None
    return response.json()["error"]["message"]


async def settled(app, until):
    """Wait until loading came to an end."""
    await until(lambda: "is being loaded" not in getattr(app.state.models.main, "reason", ""))


async def test_the_production_version_is_served(version, settings, serve, engine, monkeypatch):
    """The version's folder, context and settings reach the engine; /version tells what answers."""
    calls = []

    def load(folder, context, **options):
        calls.append((folder, context.elastic, context.margin, options))
        return engine

    monkeypatch.setattr(service.loading, "load_engine", load)
    async with serve(create_app(settings)) as client:
        assert (await client.get("/health/ready")).json() == {"status": "ready"}
        model = (await client.get("/version")).json()["model"]
    assert calls == [(version.path, True, 64, {"device": "cpu", "tuning": Tuning(threads=3, workers=1)})]
    assert model.pop("loaded_at")
    assert model == {
        "name": "whisper",
        "version": version.id,
        "ref": version.ref,
        "manifest_sha256": version.manifest_sha256(),
        "base": "hub:org/base",
        "parent": None,
        "engine": "echo",
        "context": {"elastic": True, "margin": 64},
    }
    assert [[w.audio.size for w in batch] for batch in engine.batches] == [[3_200]]  # warm before it was ready


@pytest.mark.parametrize("elastic", [False, True])
async def test_a_model_that_pays_30_s_offers_a_way_out(make_app, make_engine, serve, caplog, elastic):
    """Of what was imported at the first start, say, the log tells once what teaches it short context."""
    caplog.set_level(logging.INFO, "whisperloop.service")
    async with serve(make_app(make_engine(elastic=elastic))):
        pass
    assert caplog.text.count("python -m training elasticize echo@1 --audio FOLDER") == (0 if elastic else 1)


CLIP = 224  # positions of a 3 s clip with a margin of 64


@pytest.fixture
def loaded(engine, monkeypatch):
    """Load the echo engine as if it were the CPU's, and tell the tuning that it was loaded with."""
    tunings = []
    monkeypatch.setattr(service.loading, "CTranslate2Engine", type(engine))
    monkeypatch.setattr(service.loading, "load_engine", lambda *_, tuning, **__: tunings.append(tuning) or engine)
    return tunings


def test_a_cpu_engine_that_nobody_measured_is_to_be_tuned(version, settings, loaded):
    """Without an answer from an earlier start the defaults are loaded, and it is known what to measure."""
    untuned = load_model(settings.model_copy(update={"threads": 0})).untuned
    assert loaded == [None]
    assert untuned == Untuned(version.path / "ctranslate2", cache_file(settings.cache, version.manifest_sha256(), CLIP))


def test_a_cached_tuning_is_used_from_the_start(version, settings, loaded):
    """What was measured once on this machine is not measured again."""
    tuning = Tuning("float32", workers=5, threads=1, batch=4)
    write_cached(cache_file(settings.cache, version.manifest_sha256(), CLIP), tuning)
    assert load_model(settings.model_copy(update={"threads": 0})).untuned is None
    assert loaded == [tuning]


def test_a_damaged_cache_is_measured_anew(version, settings, loaded):
    """Whatever lies there, the service starts."""
    cached = cache_file(settings.cache, version.manifest_sha256(), CLIP)
    write_cached(cached, Tuning())
    cached.write_text('{"workers": "many"}')
    assert load_model(settings.model_copy(update={"threads": 0})).untuned.cached == cached
    assert loaded == [None]


def test_who_sets_the_threads_is_obeyed(version, settings, loaded, monkeypatch):
    """WHISPERLOOP_THREADS is neither measured against nor overruled by what was measured."""
    write_cached(cache_file(settings.cache, version.manifest_sha256(), CLIP), Tuning("float32"))
    monkeypatch.setenv("WHISPERLOOP_THREADS", "7")
    model = load_model(Settings(registry=settings.registry, cache=settings.cache))
    assert model.untuned is None
    assert loaded == [Tuning(workers=1, threads=7)]


@pytest.mark.usefixtures("version")
def test_another_engine_is_not_tuned(settings, engine, monkeypatch):
    """Only the CPU engine has anything to tune."""
    monkeypatch.setattr(service.loading, "takes_gpu", lambda _: True)
    monkeypatch.setattr(service.loading, "load_engine", lambda *_, **__: engine)
    assert load_model(settings.model_copy(update={"threads": 0})).untuned is None


@pytest.fixture
def tune(tmp_path, monkeypatch):
    """Make an application whose measurement ends at once with this answer, and whose engine is then loaded so."""

    def make(answer, reload):
        async def measured(*given):
            calls.append(given)
            return answer

        calls = []
        monkeypatch.setattr(service.models, "tune_when_idle", measured)
        monkeypatch.setattr(service.loading.CTranslate2Engine, "load", reload)
        untuned = Untuned(tmp_path / "ctranslate2", tmp_path / "tuning.json")

        def create(*models):
            waiting = [replace(model, untuned=untuned) for model in models]
            return create_app(Settings(vad=False), load=lambda _: waiting.pop())

        return calls, create

    return make


@pytest.fixture
def model(engine):
    """Return the echo engine with its version."""
    context = Context(elastic=False, margin=0)
    facts = {"name": "echo", "version": "1", "ref": "echo@1", "manifest_sha256": "0" * 64, "base": None, "parent": None}
    return Model(engine, Version(**facts, engine="echo", context=context, loaded_at=datetime.now(UTC)))


async def test_the_engine_is_replaced_by_the_tuned_one(tune, model, engine, make_engine, serve, wav, until, tmp_path):
    """It is loaded as measured and warm before it takes over, and /version tells of it."""
    tuned, tuning = make_engine(), Tuning("float32", workers=3, threads=1)
    tuned.description = "echo, tuned"
    loads = []
    calls, create = tune(tuning, lambda *given: loads.append(given) or tuned)
    app = create(model)
    async with serve(app) as client:
        await until(lambda: app.state.models.main.version.engine == "echo, tuned")
        scheduler = app.state.models.main.scheduler
        assert scheduler.engine is tuned
        warm = len(tuned.batches)
        assert (await client.post("/transcribe", files={"file": ("a", wav(1))})).status_code == 200
        assert (await client.get("/version")).json()["model"]["engine"] == "echo, tuned"
    assert calls == [(scheduler, tmp_path / "ctranslate2", 1500, tmp_path / "tuning.json")]
    assert loads == [(tmp_path / "ctranslate2", engine.context, tuning)]
    assert (warm, len(tuned.batches), len(engine.batches)) == (1, 2, 1)


async def test_the_replaced_engine_is_freed(tune, model, make_engine, serve, until):
    """A second model would take its memory, and its threads would slow down the one that took over."""
    tuned = make_engine()
    tuned.description = "echo, tuned"
    _, create = tune(Tuning("float32"), lambda *_: tuned)
    untuned = make_engine()
    first = weakref.ref(untuned)
    app = create(replace(model, engine=untuned))
    del untuned
    async with serve(app):
        await until(lambda: app.state.models.main.version.engine == "echo, tuned")
        await until(lambda: first() is None)


@pytest.mark.parametrize("answer", [None, Tuning()])
async def test_nothing_better_changes_nothing(tune, model, engine, serve, until, answer):
    """Where nothing was measured or the defaults are best, the engine stays."""
    calls, create = tune(answer, lambda *_: pytest.fail("it was loaded again"))
    app = create(model)
    async with serve(app) as client:
        await until(lambda: calls)
        await anyio.sleep(0.02)
        assert app.state.models.main.scheduler.engine is engine
        assert (await client.get("/health/ready")).status_code == 200


async def test_a_tuned_engine_that_does_not_load_changes_nothing(
    tune, model, engine, make_engine, serve, wav, until, caplog
):
    """The service goes on as it is, and the log says why."""
    broken = make_engine()
    broken.explodes = True
    _, create = tune(Tuning("float32"), lambda *_: broken)
    app = create(model)
    async with serve(app) as client:
        await until(lambda: "as tuned" in caplog.text)
        assert app.state.models.main.scheduler.engine is engine
        assert (await client.post("/transcribe", files={"file": ("a", wav(1))})).status_code == 200


async def test_the_server_is_live_while_the_model_loads(make_app, serve, engine, until):
    """Health answers during a load, and readiness comes after the warm-up."""
    engine.gate.clear()
    app = make_app(engine)
    async with serve(app, wait=False) as client:
        await until(lambda: engine.batches)
        assert "is being loaded" in await reason(client)
        engine.gate.set()
        await until(lambda: not hasattr(app.state.models.main, "reason"))
        assert (await client.get("/health/ready")).status_code == 200


async def test_without_a_model_it_says_what_to_run(settings, serve, until, caplog):
    """An empty registry leaves the service live, with the commands that make a model."""
    app = create_app(settings)
    async with serve(app, wait=False) as client:
        await settled(app, until)
        message = await reason(client)
    assert "make demo" in message
    assert "python -m registry import" in message
    assert "--name whisper --alias production" in message
    assert "make demo" in caplog.text


async def test_a_damaged_version_is_not_loaded(version, settings, serve, until, monkeypatch, caplog):
    """A changed byte is found before any parser sees it, and the file is named in the reason and the log."""
    weights = version.path / "ctranslate2" / "model.bin"
    weights.chmod(0o644)
    weights.write_bytes(b"weightz")
    monkeypatch.setattr(service.loading, "load_engine", lambda *_a, **_k: pytest.fail("it was loaded"))
    app = create_app(settings)
    async with serve(app, wait=False) as client:
        await settled(app, until)
        message = await reason(client)
    assert "ctranslate2/model.bin" in message
    assert "python -m registry rollback whisper" in message
    assert "ctranslate2/model.bin" in caplog.text
    assert str(settings.registry) not in message


@pytest.mark.parametrize("model", ["nonsense", "../../etc@production", "hub:org/name@main"])
async def test_a_reference_that_names_no_version(settings, serve, until, model):
    """A setting that breaks the grammar is told back in one line."""
    app = create_app(settings.model_copy(update={"model": model}))
    async with serve(app, wait=False) as client:
        await settled(app, until)
        assert "cannot be served" in await reason(client)


@pytest.mark.parametrize("explodes", [True, False])
async def test_a_model_that_does_not_work_is_never_ready(make_app, serve, engine, until, caplog, explodes):
    """If loading or the warm-up fails, the cause is in the log and no path of it in the answer."""
    engine.explodes, engine.fails = explodes, lambda _window: True
    app = make_app(engine)
    async with serve(app, wait=False) as client:
        await settled(app, until)
        message = await reason(client)
    assert "log says why" in message
    assert "/secret" not in message
    assert "/secret" in caplog.text


async def test_a_dead_scheduler_is_not_ready(make_app, serve):
    """Health is about decoding, not about having loaded once: not ready, nor alive, as only a restart helps."""
    app = make_app()
    async with serve(app) as client:
        assert (await client.get("/health/live")).status_code == 200
        await app.state.models.main.scheduler.close()
        answers = [await client.get("/health/ready"), await client.get("/health/live")]
    for response in answers:
        assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_stopped")
        assert "restart" in response.json()["error"]["message"]
        assert response.headers["retry-after"] == "5"


async def test_stopping_ends_the_worker_thread(make_app, serve, wav):
    """No thread of the scheduler outlives the application."""
    async with serve(make_app()) as client:
        assert (await client.post("/transcribe", files={"file": ("a", wav(1))})).status_code == 200
        assert any(thread.name.startswith("engine") for thread in threading.enumerate())
    assert not any(thread.name.startswith("engine") for thread in threading.enumerate())


async def test_probes_do_not_fill_the_log(make_app, serve, caplog):
    """A healthy answer to a probe is logged for debugging only."""
    caplog.set_level(logging.INFO, "whisperloop.service")
    async with serve(make_app()) as client:
        caplog.clear()
        await client.get("/health/ready")
        await client.get("/health/live")
        assert caplog.records == []


async def test_the_log_names_no_file(make_app, serve, caplog):
    """Paths by which the console's clips and their names could be had are cut; others are logged as they are."""
    caplog.set_level(logging.INFO, "whisperloop.service")
    async with serve(make_app()) as client:
        caplog.clear()
        await client.get("/gradio_api/file=/tmp/whisperloop-console-x/ab12/Rossi-diagnosis.wav")
        await client.get("/gradio_api/stream/ab12/Rossi-diagnosis.wav")
        await client.get("/v1/jobs/job_secret")
        await client.get("/version")
    logged = [json.loads(record.message)["path"] for record in caplog.records]
    assert logged == ["/gradio_api/file", "/gradio_api/stream", "/v1/jobs/{job_id}", "/version"]


async def test_the_interface_describes_itself(make_app, serve):
    """/openapi.json shows each form's fields, which are read by hand, and whether there may be several files."""
    async with serve(make_app()) as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
    for path, form, required, file in (
        ("/transcribe", TranscribeForm, ["file"], "array"),
        ("/detect-language", DetectForm, ["file"], "string"),
        ("/v1/audio/transcriptions", TranscriptionForm, ["file", "model"], "string"),
        ("/v1/audio/translations", TranslationForm, ["file", "model"], "string"),
    ):
        schema = paths[path]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
        assert schema["properties"].keys() == {"file"} | form.model_fields.keys()
        assert schema["required"] == required
        assert schema["properties"]["file"]["type"] == file
        assert "$ref" not in json.dumps(schema)


def test_the_service_needs_no_torch():
    """Importing the whole service imports neither torch nor transformers nor training."""
    check = "import sys, service.app, service.__main__; print({'torch', 'transformers', 'training'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
