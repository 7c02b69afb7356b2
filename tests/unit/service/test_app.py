"""From the registry to a server that is ready, or says why it is not."""

import logging
import subprocess
import sys
import threading

import pytest

import service.app
from registry import Registry
from service.app import create_app
from service.settings import Settings

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
    """Name the temporary registry."""
    return Settings(registry=tmp_path / "registry", device="cpu", threads=3)


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
    await until(lambda: "is being loaded" not in getattr(app.state.model, "reason", ""))


async def test_the_production_version_is_served(version, settings, serve, engine, monkeypatch):
    """The version's folder, context and settings reach the engine; /version tells what answers."""
    calls = []

    def load(folder, context, **options):
        calls.append((folder, context.elastic, context.margin, options))
        return engine

    monkeypatch.setattr(service.app, "load_engine", load)
    async with serve(create_app(settings)) as client:
        assert (await client.get("/health/ready")).json() == {"status": "ready"}
        model = (await client.get("/version")).json()["model"]
    assert calls == [(version.path, True, 64, {"device": "cpu", "threads": 3})]
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
    assert [[w.audio.size for w in batch] for batch in engine.batches] == [[16_000]]  # warm before it was ready


async def test_the_server_is_live_while_the_model_loads(make_app, serve, engine, until):
    """Health answers during a load, and readiness comes after the warm-up."""
    engine.gate.clear()
    app = make_app(engine)
    async with serve(app, wait=False) as client:
        await until(lambda: engine.batches)
        assert "is being loaded" in await reason(client)
        engine.gate.set()
        await until(lambda: not hasattr(app.state.model, "reason"))
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
    monkeypatch.setattr(service.app, "load_engine", lambda *_a, **_k: pytest.fail("it was loaded"))
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
    """Readiness is about decoding, not about having loaded once."""
    app = make_app()
    async with serve(app) as client:
        await app.state.model.scheduler.close()
        response = await client.get("/health/ready")
    assert response.status_code == 503
    assert "restart" in response.json()["error"]["message"]


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


async def test_the_interface_describes_itself(make_app, serve):
    """/openapi.json shows the form's fields, which are read by hand."""
    async with serve(make_app()) as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
    form = paths["/transcribe"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["properties"].keys() == {"file", "language", "task"}
    assert form["required"] == ["file"]


def test_the_service_needs_no_torch():
    """Importing the whole service imports neither torch nor transformers nor training."""
    check = "import sys, service.app, service.__main__; print({'torch', 'transformers', 'training'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
