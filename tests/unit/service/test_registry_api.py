"""The registry over HTTP: what is told of versions, who may move an alias, and that nobody overrules who was faster."""

import asyncio
import json
from contextlib import asynccontextmanager

import httpx
import pytest

from registry import Registry
from service.keys import add_key

pytestmark = pytest.mark.anyio

PNG = b"\x89PNG\r\n\x1a\nrest"


@pytest.fixture
def store(tmp_path):
    """Return a registry of two versions, the first in production, with a verdict on the second."""
    store = Registry(tmp_path / "registry")
    ids = []
    for number in range(2):
        source = tmp_path / f"source{number}"
        (source / "curves").mkdir(parents=True)
        (source / "curves" / "loss.png").write_bytes(PNG if number else b"<html>")
        (source / "metrics.json").write_text(json.dumps({"number": number}))
        ids.append(store.publish("echo", source, context={"elastic": False, "margin": 0}).id)
    store.move_alias("echo", "production", ids[0], expected=None, reason="first")
    store.record_verdict("echo", ids[1], ids[0], {"decision": "promote"})
    store.ids = ids
    return store


@pytest.fixture
def url():
    """Return where production is moved."""
    return "/v1/models/echo/aliases/production"


@asynccontextmanager
async def _from(app, address):
    transport = httpx.ASGITransport(app, client=(address, 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


def _move(store, **changes):
    return {"version": store.ids[1], "expected": store.ids[0], "reason": "better", **changes}


async def test_versions_tell_of_themselves(make_app, serve, store):
    """Figures, aliases, verdicts and pictures, the newest first."""
    async with serve(make_app(registry=store.root)) as client:
        found = (await client.get("/v1/models/echo/versions")).json()
    assert {card["id"] for card in found["data"]} == set(store.ids)
    assert found["aliases"] == {"production": store.ids[0]}
    second = next(card for card in found["data"] if card["id"] == store.ids[1])
    assert second["metrics"] == {"number": 1}
    assert second["verdicts"][0]["content"] == {"decision": "promote"}
    assert second["pictures"] == ["loss.png"]


async def test_pictures_are_png_or_nothing(make_app, serve, store):
    """A file that calls itself a picture and is none is not sent, and no path is followed."""
    base = "/v1/models/echo/versions"
    async with serve(make_app(registry=store.root)) as client:
        assert (await client.get(f"{base}/{store.ids[1]}/curves/loss.png")).content == PNG
        assert (await client.get(f"{base}/{store.ids[0]}/curves/loss.png")).status_code == 404
        assert (await client.get(f"{base}/{store.ids[1]}/curves/..%2Fmetrics.json")).status_code == 404
        assert (await client.get(f"{base}/..%2F..%2Fx/curves/loss.png")).status_code in {400, 404}


async def test_promote_and_roll_back(make_app, serve, store, url):
    """From this machine an alias moves without keys, its reason is in the log, and previous follows."""
    async with serve(make_app(registry=store.root)) as client:
        moved = await client.post(url, json=_move(store))
        assert moved.json()["version"] == store.ids[1]
        back = await client.post(url, json=_move(store, version=store.ids[0], expected=store.ids[1]))
        assert back.status_code == 200
    assert store.alias("echo", "production").version == store.ids[0]
    assert store.log("echo")[-1].reason == "better"


async def test_a_lost_race_is_409(make_app, serve, store, url):
    """Who believed the alias elsewhere moves nothing."""
    async with serve(make_app(registry=store.root)) as client:
        for expected in (store.ids[1], None):
            lost = await client.post(url, json=_move(store, expected=expected))
            assert lost.status_code == 409
            assert lost.json()["error"]["code"] == "alias_moved"
    assert store.alias("echo", "production").version == store.ids[0]


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"reason": " "}, 400, "missing_parameter"),
        ({"reason": ""}, 400, "invalid_request"),
        ({"version": "20260101T000000Z-00000000"}, 404, "version_not_found"),
        ({"version": "../../etc"}, 400, "invalid_value"),
        ({"verdict": "../../etc/passwd"}, 404, "version_not_found"),
        ({"more": 1}, 400, "invalid_request"),
    ],
)
async def test_what_is_wrong_is_told_in_the_envelope(make_app, serve, store, url, changes, status, code):
    """Every refusal names its code, and moves nothing."""
    async with serve(make_app(registry=store.root)) as client:
        answer = await client.post(url, json=_move(store, **changes))
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert store.alias("echo", "production").version == store.ids[0]


async def test_previous_and_unknown_aliases_are_not_moved(make_app, serve, store):
    """Previous follows production by itself."""
    async with serve(make_app(registry=store.root)) as client:
        for alias in ("previous", "other"):
            answer = await client.post(f"/v1/models/echo/aliases/{alias}", json=_move(store))
            assert answer.json()["error"]["code"] == "invalid_value"


async def test_without_keys_only_this_machine_moves(make_app, serve, store, url):
    """Neither another machine, nor one behind a proxy, nor a page of another site."""
    app = make_app(registry=store.root)
    async with serve(app) as local, _from(app, "192.0.2.7") as other:
        assert (await other.post(url, json=_move(store))).status_code == 403
        rebound = {"Host": "evil.example:8000", "Sec-Fetch-Site": "same-origin"}
        for header in ({"X-Forwarded-For": "192.0.2.7"}, {"Sec-Fetch-Site": "cross-site"}, rebound):
            assert (await local.post(url, json=_move(store), headers=header)).status_code == 403
        text = {"Content-Type": "text/plain"}  # what a page of another site may send unasked
        assert (await local.post(url, content=json.dumps(_move(store)), headers=text)).status_code == 400
    assert store.alias("echo", "production").version == store.ids[0]


async def test_with_keys_only_admins_move(make_app, serve, store, url, tmp_path):
    """A usual key looks; an admin's moves from anywhere, and its name is in the log."""
    file = tmp_path / "keys"
    usual, admin = add_key(file, "usual"), add_key(file, "boss", admin=True)
    app = make_app(registry=store.root, keys=file)
    async with serve(app), _from(app, "192.0.2.7") as client:
        usually, as_admin = ({"Authorization": f"Bearer {key}"} for key in (usual, admin))
        refused = await client.post(url, json=_move(store), headers=usually)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "admin_required")
        assert not (await client.get("/v1/models/echo/versions", headers=usually)).json()["may_move"]
        assert (await client.post(url, json=_move(store), headers=as_admin)).status_code == 200
    assert store.alias("echo", "production").reason == "better (by boss)"


async def test_a_body_without_end_is_refused(make_app, serve, store, url, monkeypatch):
    """However much comes, or however slowly: it is not gathered."""
    sent = []

    async def much():
        while True:
            sent.append(1)
            yield b" " * 1024

    async def little():
        yield b"{"
        await asyncio.sleep(60)

    headers = {"Content-Type": "application/json"}
    monkeypatch.setattr("service.request.BODY_TIMEOUT_S", 0.2)
    async with serve(make_app(registry=store.root)) as client:
        assert (await client.post(url, content=much(), headers=headers)).status_code == 413
        assert len(sent) < 100
        assert (await client.post(url, content=little(), headers=headers)).status_code == 408
    assert store.alias("echo", "production").version == store.ids[0]
