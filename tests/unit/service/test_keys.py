"""API keys: the file, the command line that keeps it, and the service that obeys it."""

import json
import logging
import re
import stat
from pathlib import Path
from urllib.parse import quote, unquote

import openai
import pytest
from fastapi.routing import APIRoute
from starlette.routing import Route
from typer.testing import CliRunner

from service.__main__ import app as command_line
from service.authorise import OPEN_PATHS
from service.keys import Keyring, KeysError, add_key, read_keys, revoke_key
from service.server import warn_if_open
from service.settings import Settings

pytestmark = pytest.mark.anyio

SEND = {"files": {"file": ("a.wav", b"no audio")}}


@pytest.fixture
def file(tmp_path):
    """Name a file of keys that is not there yet."""
    return tmp_path / "keys.jsonl"


def bearer(key):
    """Return the header that OpenAI's clients send."""
    return {"Authorization": f"Bearer {key}"}


def run(*arguments, **environment):
    """Run the command line."""
    return CliRunner().invoke(command_line, list(arguments), env=environment)


def test_a_key_is_kept_as_a_hash_that_nobody_else_reads(file):
    """The file holds name, limits and SHA-256, is readable by its owner only, and the key has 256 random bits."""
    key = add_key(file, "app", requests_per_minute=5)
    assert len(key) >= 43
    assert key not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (entry,) = read_keys(file)
    assert (entry.name, entry.requests_per_minute, entry.audio_seconds_per_day) == ("app", 5, None)
    assert Keyring(file).find(key.encode()) == entry
    assert Keyring(file).find(entry.sha256.encode()) is None
    assert list(file.parent.iterdir()) == [file]


def test_names_are_used_once_and_revoked_once(file):
    """A name that is taken, one that is none, and one that is not there are refused, and change nothing."""
    add_key(file, "app")
    before = file.read_bytes()
    for wrong in ("app", "", "two words", "a\nb", 'x"} 1', "x" * 65):
        with pytest.raises(KeysError):
            add_key(file, wrong)
    with pytest.raises(KeysError, match="no key of the name 'other'"):
        revoke_key(file, "other")
    with pytest.raises(KeysError, match="requests_per_minute"):
        add_key(file, "other", requests_per_minute=0)
    assert file.read_bytes() == before
    revoke_key(file, "app")
    assert read_keys(file) == ()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("nonsense", "line 1: Invalid JSON"),
        ("\n{}", "line 2: name: Field required"),
        ('{"name": "a", "sha256": "0", "created": "2026-01-01T00:00:00Z"}', "line 1: sha256"),
        ('{"name": "a", "key": "wl-leaked"}', "line 1"),
    ],
)
def test_a_file_that_is_none_says_where(file, text, why):
    """The line and the field are named, and nothing of what is there is repeated: it may be a key."""
    file.write_text(text)
    with pytest.raises(KeysError, match=re.escape(why)) as caught:
        read_keys(file)
    assert "leaked" not in str(caught.value)


def test_a_file_that_is_not_there_says_how_to_make_one(file):
    """The message is a command."""
    with pytest.raises(KeysError, match="python -m service keys add NAME"):
        Keyring(file)


def test_two_keys_of_one_name_are_refused(file):
    """Whose limits would hold, nobody could tell."""
    add_key(file, "app")
    file.write_bytes(file.read_bytes() * 2)
    with pytest.raises(KeysError, match=r"line 2: there are two keys of the name 'app'"):
        read_keys(file)


def test_the_running_service_follows_the_file(file, caplog):
    """What is added is let in, what is revoked is not; a file that breaks or goes leaves the keys as they were."""
    caplog.set_level(logging.INFO, "whisperloop.service")
    first = add_key(file, "first").encode()
    ring = Keyring(file)
    second = add_key(file, "second").encode()
    assert ring.find(first).name == "first"
    assert ring.find(second).name == "second"
    revoke_key(file, "first")
    assert ring.find(first) is None
    whole = file.read_text()
    file.write_text(whole[:-20])
    for _ in range(3):
        assert ring.find(second).name == "second"
    assert caplog.text.count("the keys that were there before go on") == 1
    file.unlink()
    assert ring.find(second).name == "second"
    assert caplog.text.count("the keys that were there before go on") == 2
    file.write_text("")
    assert ring.find(second) is None


def test_the_command_line_keeps_the_file(file):
    """Add prints the key alone, list shows names and limits, revoke ends it; errors are a line."""
    environment = {"WHISPERLOOP_KEYS": str(file)}
    limits = ("--requests-per-minute", "60", "--audio-seconds-per-day", "7200")
    added = run("keys", "add", "app", *limits, **environment)
    assert added.exit_code == 0
    key = added.stdout.strip()
    assert Keyring(file).find(key.encode()).audio_seconds_per_day == 7200
    listed = run("keys", "list", **environment).output
    assert "app" in listed
    assert "7,200" in listed
    assert key not in listed
    again = run("keys", "add", "app", **environment)
    assert (again.exit_code, len(again.output.strip().splitlines())) == (1, 1)
    assert run("keys", "revoke", "app", **environment).exit_code == 0
    assert Keyring(file).find(key.encode()) is None
    assert run("keys", "revoke", "app", **environment).exit_code == 1


def test_the_service_does_not_start_with_a_broken_file(file):
    """A file that was set and cannot be used is one line and exit status 1, never an open door."""
    result = run("--port", "0", WHISPERLOOP_KEYS=str(file))
    assert result.exit_code == 1
    assert len(result.output.strip().splitlines()) == 1
    assert str(file) in result.output


def test_who_listens_to_all_without_keys_is_warned(caplog):
    """Beyond this machine, an open door is a line in the log; on it, or with keys, it is not."""
    for host, keys, warns in (
        ("0.0.0.0", None, True),  # noqa: S104
        ("::", None, True),
        ("speech.example", None, True),
        ("127.0.0.1", None, False),
        ("localhost", None, False),
        ("::1", None, False),
        ("0.0.0.0", Path("keys"), False),  # noqa: S104
    ):
        caplog.clear()
        warn_if_open(Settings(host=host, keys=keys))
        assert ("WHISPERLOOP_KEYS" in caplog.text) is warns, host


async def test_nothing_is_answered_without_a_key(make_app, serve, file):
    """Of every route, by every method and every spelling of its path: 401, or 404 or 405, and health is open."""
    key = add_key(file, "app")
    app = make_app(keys=file)
    paths = {route.path.replace("{name:path}", "whisper-1") for route in _routes(app)}
    assert {"/transcribe", "/v1/audio/transcriptions", "/v1/models", "/metrics", "/docs", "/openapi.json"} <= paths
    assert paths >= OPEN_PATHS
    wrong = [
        {},
        bearer("wl-wrong"),
        bearer(""),
        {"Authorization": key},
        {"Authorization": f"Basic {key}"},
        {"X-Api-Key": key},
        {"Cookie": f"key={key}"},
    ]
    async with serve(app) as client:
        for path in paths:
            spellings = {
                path,
                "/" + path,
                path + "/",
                path + "/.",
                path.replace("/", "/%2e/", 1),
                "/" + quote(path[1:], safe=""),
            }
            spellings |= {f"/health/live/..{path}", f"/health/live%2f..{path}", f"/x/..{path}", path + ";a"}
            for spelling in {one for one in spellings if unquote(one) not in OPEN_PATHS}:
                for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "QUERY"):
                    for headers in wrong if method in {"GET", "POST"} and spelling == path else wrong[:2]:
                        await _is_refused(app, method, spelling, headers, f"api_key={key}&key={key}")
        for path in OPEN_PATHS:
            assert (await client.get(path)).status_code == 200
            assert (await client.post(path)).status_code == 405
        twice = [("Authorization", f"Bearer {key}"), ("Authorization", "Bearer wl-wrong")]
        assert (await client.get("/version", headers=twice)).status_code == 401


def _routes(app):
    found, waiting = [], list(app.routes)
    while waiting:
        route = waiting.pop()
        inner = getattr(route, "routes", None) or getattr(getattr(route, "original_router", None), "routes", None)
        waiting += inner or []
        if isinstance(route, (APIRoute, Route)):
            found.append(route)
    return found


async def _is_refused(app, method, path, headers, query):
    """Ask as a server does, which unlike a client leaves dots and slashes as they are."""
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "http_version": "1.1", "method": method, "scheme": "http", "root_path": ""}
    scope |= {"server": ("test", 80), "client": ("test", 1), "query_string": query.encode()}
    scope |= {"path": unquote(path), "raw_path": path.encode()}
    scope["headers"] = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await app(scope, receive, send)
    status = sent[0]["status"]
    assert status in {401, 404, 405}, (method, path, headers)
    if status == 401:
        assert (b"www-authenticate", b"Bearer") in sent[0]["headers"]
        assert json.loads(sent[1]["body"])["error"]["code"] == "invalid_api_key"


async def test_a_key_opens_everything(make_app, serve, file, wav, caplog):
    """With its key, a request is answered as without keys; the log and the metrics have its name, and never the key."""
    key = add_key(file, "app")
    caplog.set_level(logging.INFO, "whisperloop.service")
    async with serve(make_app(keys=file)) as client:
        caplog.clear()
        refused = await client.post("/transcribe", **SEND)
        answered = await client.post("/transcribe", files={"file": ("a", wav(2))}, headers=bearer(key))
        assert answered.status_code == 200
        lower = {"authorization": f"bearer  {key} "}
        for path in ("/version", "/metrics", "/docs", "/openapi.json", "/v1/models"):
            assert (await client.get(path, headers=lower)).status_code == 200
        metrics = (await client.get("/metrics", headers=bearer(key))).text
    lines = [json.loads(record.message) for record in caplog.records if record.message.startswith("{")]
    assert (lines[0]["status"], lines[0]["error"]) == (401, "invalid_api_key")
    assert lines[0]["request_id"] == refused.headers["x-request-id"]
    assert "key" not in lines[0]
    assert lines[1]["key"] == "app"
    assert 'whisperloop_key_requests_total{key="app"} 6.0' in metrics
    assert 'whisperloop_key_audio_seconds_total{key="app"} 2.0' in metrics
    assert 'whisperloop_errors_total{code="invalid_api_key"} 1.0' in metrics
    assert 'whisperloop_request_real_time_factor_count{version="echo@1"} 1.0' in metrics
    assert key not in caplog.text
    assert key not in metrics


async def test_without_a_file_everybody_is_let_in(make_app, serve):
    """No keys are needed unless some are set, and one that is sent all the same does no harm."""
    async with serve(make_app()) as client:
        assert (await client.get("/version")).status_code == 200
        assert (await client.get("/version", headers=bearer("unused"))).status_code == 200


async def test_websockets_need_a_key_too(make_app, file):
    """What is no plain request is closed before it is accepted."""
    add_key(file, "app")
    app = make_app(keys=file)
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "websocket", "path": "/health/live", "headers": [], "query_string": b""}
    await app(scope, None, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]


async def test_openais_client_knows_what_is_wrong(make_app, serve, file, wav):
    """The official client raises AuthenticationError for a wrong key, and works with the right one."""
    key = add_key(file, "app")
    async with serve(make_app(keys=file)) as client:
        wrong = openai.AsyncOpenAI(base_url="http://test/v1", api_key="sk-wrong", http_client=client, max_retries=0)
        with pytest.raises(openai.AuthenticationError) as caught:
            await wrong.audio.transcriptions.create(file=("a.wav", wav(1)), model="whisper-1")
        assert caught.value.code == "invalid_api_key"
        right = openai.AsyncOpenAI(base_url="http://test/v1", api_key=key, http_client=client, max_retries=0)
        assert (await right.audio.transcriptions.create(file=("a.wav", wav(1)), model="whisper-1")).text


async def test_the_interface_says_that_it_wants_a_key(make_app, serve, file):
    """/openapi.json has the bearer scheme where there are keys, and only there, so that /docs can send one."""
    key = add_key(file, "app")
    async with serve(make_app(keys=file)) as client:
        described = (await client.get("/openapi.json", headers=bearer(key))).json()
    (scheme,) = described["components"]["securitySchemes"].values()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    assert described["paths"]["/transcribe"]["post"]["security"]
    async with serve(make_app()) as client:
        assert "securitySchemes" not in (await client.get("/openapi.json")).json()["components"]
