"""What the doctor looks at before the service is started, what it finds wrong, and that it says how to mend it."""

import importlib.machinery
import importlib.metadata
import json
import os
import re
import socket
import sys
import threading
import time
import tomllib
import types
from pathlib import Path

import ctranslate2
import httpx
import pytest
import uvicorn
from typer.testing import CliRunner

from registry import Registry
from service import doctor
from service.__main__ import app
from service.keys import add_key
from service.settings import Settings

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture
def store(tmp_path):
    """Return a registry with one version in production, elastic."""
    source = tmp_path / "source"
    (source / "ctranslate2").mkdir(parents=True)
    (source / "ctranslate2" / "model.bin").write_text("weights")
    store = Registry(tmp_path / "registry")
    version = store.publish("whisper", source, context={"elastic": True, "margin": 64})
    store.move_alias("whisper", "production", version.id, expected=None, reason="test")
    return store


def settings(store, **others):
    """Return settings that find the registry."""
    return Settings(registry=store.root, port=0, **others)


def test_this_machine_can_serve(store, tmp_path):
    """With a whole version, nothing is an error; each fault says how to mend it; nothing is changed."""
    before = sorted(tmp_path.rglob("*"))
    findings = doctor.examine(settings(store, database=f"sqlite:///{tmp_path}/jobs/service.db"), {})
    assert [finding for finding in findings if finding.state == "error"] == []
    assert all(finding.found for finding in findings)
    assert all(finding.mend for finding in findings if finding.state != "ok")
    assert sorted(tmp_path.rglob("*")) == before


def test_the_version_to_serve(store):
    """Whole, it is named with its margin; one whose bytes changed is an error that says how to go back."""
    version = store.resolve("whisper@production")
    assert doctor.model(settings(store)).found == f"{version.ref}, whole, elastic with margin 64"
    (version.path / "ctranslate2" / "model.bin").write_text("changed")
    finding = doctor.model(settings(store))
    assert finding.state == "error"
    assert "ctranslate2/model.bin" in finding.mend
    assert "rollback" in finding.mend


def test_no_version_to_serve(store, tmp_path):
    """What to run is said, for a registry without the alias and for none at all."""
    for found in (
        doctor.model(settings(store, model="whisper@candidate")),
        doctor.model(Settings(registry=tmp_path / "nowhere")),
    ):
        assert found.state == "error"
        assert "make demo" in found.mend


def test_a_version_that_costs_30_s_a_clip(store, tmp_path):
    """It can be served, and the command that makes it elastic is named."""
    version = store.publish("plain", tmp_path / "source", context={"elastic": False, "margin": 0})
    finding = doctor.model(settings(store, model=version.ref))
    assert (finding.state, f"elasticize {version.ref}" in finding.mend) == ("warning", True)


def test_the_oldest_packages_are_the_projects():
    """What the doctor holds packages to is what pip holds them to; all of the extra is looked at."""
    extras = PROJECT["optional-dependencies"]
    wanted = [*extras["service"], *(one for one in PROJECT["dependencies"] if one.startswith("ctranslate2"))]
    asked = dict(re.match(r"([\w-]+)>=([\d.]+)", one).groups() for one in wanted)
    assert {name: ".".join(map(str, oldest)) for name, oldest in doctor.OLDEST.items()} == asked
    assert extras["console"] == [f"gradio>={doctor._dotted(doctor.OLDEST_GRADIO)},<7"]


@pytest.mark.parametrize(
    ("name", "version", "says"),
    [
        ("ctranslate2", "4.8.4", "older than was tried: ctranslate2 4.8.4 (at least 4.8.5)"),
        ("fastapi", "0.99.1", "older than was tried: fastapi 0.99.1 (at least 0.165)"),
        ("uvicorn", None, "missing: uvicorn"),
    ],
)
def test_packages_that_are_missing_or_old(name, version, says):
    """By name and version, with the command that installs them; old ones may do, newer ones and one's own builds do."""

    def installed(asked):
        if asked == name and version is None:
            raise importlib.metadata.PackageNotFoundError(asked)
        return version if asked == name else "99.0rc1+mine.1"

    finding = doctor.packages(installed)
    assert (finding.state, finding.found) == ("warning" if version else "error", says)
    assert ".[service]" in finding.mend
    assert doctor.packages(lambda _: "99.0rc1+mine.1").state == "ok"


@pytest.mark.parametrize(
    ("wanted", "gpus", "has_driver", "state", "says"),
    [
        ("auto", 0, False, "ok", "CPU"),
        ("cpu", 1, True, "ok", "CPU"),
        ("auto", 0, True, "warning", "nvidia-smi is here"),
        ("cuda", 0, False, "error", "no GPU"),
    ],
)
def test_devices(monkeypatch, wanted, gpus, has_driver, state, says):
    """A GPU that is not used is told, as an error only where one was asked for."""
    monkeypatch.setattr(ctranslate2, "get_cuda_device_count", lambda: gpus)
    monkeypatch.setattr(doctor.shutil, "which", lambda _: "/usr/bin/nvidia-smi" if has_driver else None)
    finding = doctor.device(Settings(device=wanted))
    assert (finding.state, says in finding.found) == (state, True)


@pytest.mark.parametrize(("wanted", "state"), [("auto", "warning"), ("cuda", "error")])
def test_a_gpu_without_torch(monkeypatch, wanted, state):
    """The extra that drives it is named."""
    monkeypatch.setattr(ctranslate2, "get_cuda_device_count", lambda: 1)
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda _: None)
    finding = doctor.device(Settings(device=wanted))
    assert (finding.state, ".[service,gpu]" in finding.mend) == (state, True)


def fake_torch(version, cuda, *, finds_gpu):
    """Return a torch that only says what it is."""
    torch = types.ModuleType("torch")
    torch.__spec__ = importlib.machinery.ModuleSpec("torch", None)
    torch.__version__, torch.version = version, types.SimpleNamespace(cuda=cuda)
    torch.cuda = types.SimpleNamespace(is_available=lambda: finds_gpu)
    return torch


@pytest.mark.parametrize(
    ("torch", "state", "says", "mend"),
    [
        (fake_torch("2.14.1", "13.0", finds_gpu=True), "ok", "1 GPU, driven by torch 2.14.1", ""),
        (fake_torch("2.14.1+cpu", None, finds_gpu=False), "error", "built for CPUs only", "torch==2.14.1, from an"),
        (fake_torch("2.14.1", "13.0", finds_gpu=False), "error", "can use none", "new enough for this torch (CUDA"),
    ],
)
def test_a_gpu_that_torch_is_asked_for(monkeypatch, torch, state, says, mend):
    """The driver has one; whether torch can use it, torch says, for the service would not be ready without."""
    monkeypatch.setattr(ctranslate2, "get_cuda_device_count", lambda: 1)
    monkeypatch.setitem(sys.modules, "torch", torch)
    finding = doctor.device(Settings(device="auto"))
    assert (finding.state, says in finding.found, mend in finding.mend) == (state, True, True)
    assert ("WHISPERLOOP_DEVICE=cpu" in finding.mend) == (state != "ok")


def test_a_torch_that_cannot_be_imported(monkeypatch):
    """Beside a GPU, it is an error with its reason; where there is none, nobody tries."""
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda _: object())
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(doctor.shutil, "which", lambda _: None)
    monkeypatch.setattr(ctranslate2, "get_cuda_device_count", lambda: 1)
    finding = doctor.device(Settings())
    assert (finding.state, "cannot be imported: import of torch" in finding.found) == ("error", True)
    monkeypatch.setattr(ctranslate2, "get_cuda_device_count", lambda: 0)
    assert doctor.device(Settings()).state == "ok"


def test_a_port_in_use():
    """Anything else that is there is an error."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        finding = doctor.port(Settings(port=listener.getsockname()[1]))
    assert (finding.state, "Address already in use" in finding.found) == ("error", True)
    assert "WHISPERLOOP_PORT" in finding.mend


@pytest.mark.parametrize("has_keys", [False, True])
def test_the_service_runs_already(make_app, tmp_path, has_keys):
    """A Whisperloop at its own port is no fault, and what it serves is said unless it wants a key."""
    file = tmp_path / "keys.jsonl"
    add_key(file, "app")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        app = make_app(keys=file) if has_keys else make_app()
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            deadline = time.monotonic() + 30
            while httpx.get(f"http://127.0.0.1:{port}/health/ready", timeout=30).is_error:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            finding = doctor.port(Settings(port=port))
        finally:
            server.should_exit = True
            thread.join()
    assert finding.state == "ok"
    assert finding.found.endswith("whoever has a key" if has_keys else "already, with echo@1")


def test_keys(tmp_path):
    """Without keys for other machines, with a file that is none, with an empty one, with one that others may write."""
    file = tmp_path / "keys.jsonl"
    assert doctor.keys(Settings()).state == "ok"
    assert doctor.keys(Settings(host="localhost")).state == "ok"
    assert "whoever reaches 0.0.0.0" in doctor.keys(Settings(host="0.0.0.0")).found  # noqa: S104
    assert doctor.keys(Settings(keys=file)).state == "error"
    file.write_text("")
    assert "nobody is let in" in doctor.keys(Settings(keys=file)).found
    secret = add_key(file, "app")
    assert doctor.keys(Settings(keys=file)).found == "1, of which 0 for admins"
    assert secret not in str(doctor.keys(Settings(keys=file)))
    file.chmod(0o666)
    assert doctor.keys(Settings(keys=file)).mend == f"chmod 600 {file}"


def test_settings_that_are_none():
    """A misspelt variable is named, with what may have been meant."""
    finding = doctor.variables({"WHISPERLOOP_KEY": "x", "PATH": "/bin"})
    assert (finding.state, "WHISPERLOOP_KEYS is one" in finding.found) == ("warning", True)
    assert doctor.variables({"WHISPERLOOP_PORT": "1"}).found == "1 set by the environment"


def test_where_jobs_are_kept(tmp_path):
    """A password in the database's address is not shown; a folder that cannot be is an error."""
    found = doctor.jobs(Settings(database="postgresql+psycopg://me:secret@db/jobs"))
    assert (found.state, "secret" in found.found) == ("ok", False)
    (tmp_path / "file").write_text("")
    assert doctor.jobs(Settings(database=f"sqlite:///{tmp_path}/file/service.db")).state == "error"
    assert "none are taken" in doctor.jobs(Settings(database="")).found


def test_where_corrections_are_kept(tmp_path, monkeypatch):
    """Without one, the setting is named; where no file can be, or somebody else has one, is an error."""
    file = tmp_path / "corrections.db"
    settings = Settings(corrections=f"sqlite:///{file}")
    assert "WHISPERLOOP_CORRECTIONS" in doctor.corrections(Settings()).found
    assert doctor.corrections(settings).found == f"kept in {file}"
    assert not file.exists()
    file.touch()
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert doctor.corrections(settings).found == f"{file} cannot be written to"
    assert doctor.corrections(Settings(corrections=f"sqlite:///{file}/x.db")).state == "error"


def test_the_console(monkeypatch):
    """Without Gradio, or with one that is too old, the extra is named."""
    assert doctor.console(Settings(console=True)).found.startswith("at /")
    assert doctor.console(Settings(console=False)).found.startswith("off")
    monkeypatch.setattr(doctor.importlib.metadata, "version", lambda _: "5.49.1")
    old = doctor.console(Settings(console=True))
    assert (old.state, old.found) == ("warning", "Gradio 5.49.1 is too old (at least 6.31)")
    assert ".[service,console]" in old.mend
    monkeypatch.setattr("service.console.mount.importlib.util.find_spec", lambda _: None)
    assert ".[service,console]" in doctor.console(Settings(console=True)).mend


def test_what_the_console_keeps(tmp_path, monkeypatch):
    """Whether corrections are, and where votes are; votes that cannot be written down stop no service."""
    file, database = tmp_path / "in" / "votes.jsonl", f"sqlite:///{tmp_path}/corrections.db"
    here = {"console": True, "console_votes": file}
    assert doctor.console(Settings(console=True)).found == (
        "at /; what is corrected there is refused, for WHISPERLOOP_CORRECTIONS is not set; "
        "votes are counted in memory only"
    )
    kept = doctor.console(Settings(**here, corrections=database))
    assert kept.found == f"at /; what is corrected there is kept; votes are kept in {file}"
    assert not file.parent.exists()
    lost = doctor.console(Settings(**here, corrections=f"sqlite:///{tmp_path}"))
    assert "refused, for the reason above" in lost.found
    file.mkdir(parents=True)
    folder = doctor.console(Settings(**here))
    assert (folder.state, folder.found) == ("warning", f"{file} is a folder")
    assert "WHISPERLOOP_CONSOLE_VOTES" in folder.mend
    file.rmdir()
    file.touch()
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert doctor.console(Settings(**here)).found == f"{file} cannot be written to"
    nowhere = doctor.console(Settings(console=True, console_votes=file / "votes.jsonl"))
    assert (nowhere.state, "WHISPERLOOP_CONSOLE_VOTES" in nowhere.mend) == ("warning", True)


def test_the_command(store):
    """Status 0 for a machine that can serve, 1 for a registry without its version; the same findings as JSON."""
    run = CliRunner().invoke
    arguments = ["doctor", "--registry", str(store.root), "--port", "0"]
    fine = run(app, arguments)
    assert (fine.exit_code, re.search(r"ok  Model: whisper@\S+, whole", fine.output) is not None) == (0, True)
    broken = run(app, [*arguments, "--model", "whisper@canary", "--json"])
    assert broken.exit_code == 1
    assert {one["what"]: one["state"] for one in json.loads(broken.stdout)}["Model"] == "error"
