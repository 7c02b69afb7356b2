"""CORS: which pages' scripts may use the service, and read what it answers, errors among it."""

import pytest

from service.keys import add_key
from service.settings import Settings

pytestmark = pytest.mark.anyio

PAGE = "https://app.example"
PREFLIGHT = {
    "Origin": PAGE,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization, x-stainless-lang",
}


@pytest.fixture
def file(tmp_path):
    """Name a file of keys that is not there yet."""
    return tmp_path / "keys.jsonl"


async def test_without_the_setting_no_page_is_let_in(make_app, serve):
    """By default, a browser lets no other origin's page read an answer."""
    async with serve(make_app()) as client:
        answer = await client.get("/version", headers={"Origin": PAGE})
        assert answer.status_code == 200
        assert not [name for name in answer.headers if name.startswith("access-control-")]
        assert (await client.options("/transcribe", headers=PREFLIGHT)).status_code == 405


async def test_a_preflight_needs_no_key(make_app, serve, file):
    """Browsers send none with it; the request that follows needs one, and its headers are allowed."""
    add_key(file, "app")
    async with serve(make_app(keys=file, cors_origins=[PAGE])) as client:
        for path in ("/transcribe", "/v1/audio/transcriptions"):
            answer = await client.options(path, headers=PREFLIGHT)
            assert answer.status_code == 200
            assert answer.headers["access-control-allow-origin"] == PAGE
            assert "POST" in answer.headers["access-control-allow-methods"]
            assert "authorization" in answer.headers["access-control-allow-headers"].lower()
        other = await client.options("/transcribe", headers=PREFLIGHT | {"Origin": "https://evil.example"})
        assert other.status_code == 400
        assert "access-control-allow-origin" not in other.headers


async def test_pages_can_read_errors(make_app, serve, file, wav, engine):
    """401, 404, 413, 429 and 500 have the headers, too: else a page learns nothing but that something failed."""
    key = add_key(file, "app", requests_per_minute=3)
    app = make_app(keys=file, cors_origins=[PAGE], max_upload_bytes=50_000)
    origin = {"Origin": PAGE}
    known = origin | {"Authorization": f"Bearer {key}"}
    async with serve(app) as client:
        engine.fails = lambda _: True
        answers = [
            await client.get("/version", headers=origin),
            await client.get("/nothing", headers=known),
            await client.post("/transcribe", files={"file": ("a", wav(2))}, headers=known),
            await client.post("/transcribe", files={"file": ("a", wav(1))}, headers=known),
            await client.get("/version", headers=known),
        ]
    assert [answer.status_code for answer in answers] == [401, 404, 413, 500, 429]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == PAGE
        exposed = answer.headers["access-control-expose-headers"].lower()
        assert "x-request-id" in exposed
        assert "x-ratelimit-remaining-requests" in exposed
        assert "retry-after" in exposed
        assert "location" in exposed  # of a job


async def test_any_origin(make_app, serve):
    """`*` is every page, without credentials: keys are sent by scripts, and there are no cookies."""
    async with serve(make_app(cors_origins=["*"])) as client:
        answer = await client.get("/version", headers={"Origin": "https://any.example"})
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in answer.headers


def test_origins_are_a_list_in_the_environment(monkeypatch):
    """Commas separate them, blanks do not matter."""
    monkeypatch.setenv("WHISPERLOOP_CORS_ORIGINS", "https://a.example, https://b.example")
    assert Settings().cors_origins == ("https://a.example", "https://b.example")
