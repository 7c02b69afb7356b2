"""Settings, and the command line that overrides them."""

import re
import socket
import time
import weakref
from pathlib import Path

import pytest
import uvicorn
from pydantic import ValidationError
from typer.testing import CliRunner

import service.__main__
import service.app
from service.__main__ import app
from service.settings import Settings


@pytest.fixture
def served(monkeypatch):
    """Catch what would be served, with the sockets still open."""
    calls = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: calls.append((self.config, sockets[0].fileno())))
    return calls


def run(*arguments):
    """Run the command line."""
    return CliRunner().invoke(app, list(arguments))


def test_every_setting_is_documented():
    """No setting is without a description."""
    assert all(field.description for field in Settings.model_fields.values())


def test_settings_come_from_the_environment(monkeypatch):
    """`WHISPERLOOP_` and the field's name set it; without, defaults bind to this machine only."""
    assert Settings().host == "127.0.0.1"
    assert Settings().model == "whisper@production"
    monkeypatch.setenv("WHISPERLOOP_PORT", "9000")
    monkeypatch.setenv("WHISPERLOOP_MODEL", "mine@candidate")
    assert (Settings().port, Settings().model) == (9000, "mine@candidate")


@pytest.mark.parametrize(
    "wrong", [{"port": 70_000}, {"max_batch_size": 0}, {"max_upload_bytes": -1}, {"device": "tpu"}, {"threads": -1}]
)
def test_senseless_settings_are_refused(wrong):
    """A value that cannot work stops the start, not a request."""
    with pytest.raises(ValidationError):
        Settings(**wrong)


@pytest.mark.parametrize("name", ["keys", "console_votes"])
def test_a_file_that_is_not_set(monkeypatch, name):
    """Compose passes on an empty variable: that is no file, and not the folder that it runs in."""
    monkeypatch.setenv(f"WHISPERLOOP_{name.upper()}", "")
    assert getattr(Settings(), name) is None
    monkeypatch.setenv(f"WHISPERLOOP_{name.upper()}", "some.jsonl")
    assert getattr(Settings(), name) == Path("some.jsonl")


def test_a_setting_that_is_none_is_told(served, monkeypatch, tmp_path):
    """A misspelt one is named, with what may have been meant: it would else be ignored in silence."""
    monkeypatch.setenv("WHISPERLOOP_KEY", "keys.jsonl")
    monkeypatch.setenv("WHISPERLOOP_VAD", "false")
    monkeypatch.setenv("whisperloop_drain_s", "1")
    said = run("--port", "0", "--registry", str(tmp_path)).output
    assert [line for line in said.splitlines() if line.startswith("warning: ")] == [
        "warning: WHISPERLOOP_KEY is no setting and has no effect; WHISPERLOOP_KEYS is one"
    ]
    assert served


def test_help_documents_options_and_settings():
    """--help names every setting's variable."""
    text = re.sub(r"[\s│]+", "", run("--help").output)
    for name in Settings.model_fields:
        assert f"WHISPERLOOP_{name.upper()}" in text


def test_the_command_line_keeps_no_model(served, monkeypatch):
    """What it loaded is the application's alone, so that a model that was replaced is freed."""
    monkeypatch.setattr(service.__main__, "_load", lambda _: type("Model", (), {})())
    monkeypatch.setattr(service.app, "create_app", lambda _settings, load: load)
    assert run("--port", "0").exit_code == 0
    load = served[0][0].app
    model = weakref.ref(load(None))
    deadline = time.monotonic() + 10
    while model() is not None and time.monotonic() < deadline:
        time.sleep(0.01)  # the thread that loaded it has yet to let go
    assert model() is None


def test_options_go_before_the_environment(served, monkeypatch, tmp_path):
    """What is typed wins, and the address and the model are printed."""
    monkeypatch.setenv("WHISPERLOOP_MODEL", "environment@production")
    monkeypatch.setenv("WHISPERLOOP_SHUTDOWN_GRACE_S", "7")
    result = run("--port", "0", "--model", "typed@production", "--registry", str(tmp_path))
    assert result.exit_code == 0, result.output
    ((config, fileno),) = served
    assert fileno > 0
    settings = config.app.state.settings
    assert (settings.model, settings.registry) == ("typed@production", tmp_path)
    assert (config.timeout_graceful_shutdown, config.timeout_keep_alive) == (7, 5)
    assert re.match(r"http://127\.0\.0\.1:[1-9]\d* serves typed@production", result.output)


def test_a_port_in_use_is_one_line(served):
    """Nothing is loaded if the port is taken: one clear line, exit status 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("--port", str(port))
    assert result.exit_code == 1
    assert result.output.strip() == (
        f"error: cannot listen on 127.0.0.1:{port}: Address already in use; choose another with --port"
    )
    assert served == []


@pytest.mark.parametrize("arguments", [("--host", "203.0.113.1"), ("--port", "70000")])
def test_wrong_options_are_one_line(served, arguments):
    """A host or port that cannot be is told in one line, exit status 1."""
    result = run(*arguments)
    assert result.exit_code == 1
    assert len(result.output.strip().splitlines()) == 1
    assert result.output.startswith("error: ")
    assert served == []
