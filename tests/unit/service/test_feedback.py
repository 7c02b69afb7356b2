"""Corrections over HTTP: what is kept, who sees it, what is deleted; and that a refused upload leaves nothing."""

import io
import json
import zipfile

import numpy as np
import pytest

from corrections import CorrectionStore
from service.keys import add_key
from speech.audio import SAMPLE_RATE, decode_audio
from training.data.sources.folder import read_folder

pytestmark = pytest.mark.anyio

FIELDS = {"correction": "Buongiorno a tutti.", "hypothesis": "buon giorno", "language": "it", "consent": "true"}


@pytest.fixture
def url(tmp_path):
    """Return the address of a database that is not there yet."""
    return f"sqlite:///{tmp_path}/corrections.db"


@pytest.fixture
def app(make_app, url):
    """Return an application that keeps corrections."""
    return make_app(corrections=url)


@pytest.fixture
def kept(url):
    """Return a function that counts what is in the database, by looking into it."""

    def count():
        store = CorrectionStore(url)
        try:
            return store.count().clips
        finally:
            store.close()

    return count


async def send(client, content, *, key=None, **changes):
    """Send a correction."""
    fields = {name: value for name, value in {**FIELDS, **changes}.items() if value is not None}
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return await client.post("/v1/feedback", files={"file": ("a.wav", content)}, data=fields, headers=headers)


async def test_a_correction_is_kept(app, serve, wav, tone, kept):
    """201, with all that was said; the clip comes back as FLAC, sample by sample."""
    async with serve(app) as client:
        answer = await send(client, wav(1.5), model="echo@1", speaker="Anna")
        assert answer.status_code == 201, answer.text
        row = answer.json()
        assert answer.headers["Location"] == f"/v1/feedback/{row['id']}"
        assert {name: row[name] for name in ("correction", "hypothesis", "language", "model", "speaker")} == {
            "correction": "Buongiorno a tutti.",
            "hypothesis": "buon giorno",
            "language": "it",
            "model": "echo@1",
            "speaker": "Anna",
        }
        assert (row["seconds"], row["merged"], row["key"]) == (1.5, False, None)
        assert (await client.get(f"/v1/feedback/{row['id']}")).json() == {**row, "merged": None}
        audio = await client.get(f"/v1/feedback/{row['id']}/audio")
        assert audio.headers["content-type"] == "audio/flac"
        assert np.abs(decode_audio(io.BytesIO(audio.content)) - tone(1.5)).max() < 2 / 32768
    assert kept() == 1


async def test_the_same_clip_is_merged(app, serve, wav, kept):
    """200: the newest correction takes the place of the last, and the answer says so."""
    async with serve(app) as client:
        first = await send(client, wav(1.0))
        second = await send(client, wav(1.0), correction="Buonasera.")
        assert (second.status_code, second.json()["merged"]) == (200, True)
        counted = (await client.get("/metrics")).text
        assert 'whisperloop_feedback_total{result="new"} 1.0' in counted
        assert 'whisperloop_feedback_total{result="merged"} 1.0' in counted
        assert second.json()["id"] == first.json()["id"]
        assert (await client.get("/v1/feedback")).json()["data"][0]["correction"] == "Buonasera."
    assert kept() == 1


async def test_a_part_of_a_long_file_is_kept(app, serve, wav, tone, kept):
    """`start` and `end` cut a correction out of a recording of any length."""
    async with serve(app) as client:
        answer = await send(client, wav(40.0), start="31.0", end="33.5")
        assert answer.json()["seconds"] == 2.5
        audio = (await client.get(f"{answer.headers['Location']}/audio")).content
        expected = tone(40.0)[31 * SAMPLE_RATE : round(33.5 * SAMPLE_RATE)]
        assert np.abs(decode_audio(io.BytesIO(audio)) - expected).max() < 2 / 32768
    assert kept() == 1


async def test_nobody_speaking_is_a_correction_too(app, serve, wav):
    """With no_speech=true there is no text, and what the model made up is to be unlearned."""
    async with serve(app) as client:
        answer = await send(client, wav(1.0), correction=None, no_speech="true")
        assert (answer.status_code, answer.json()["correction"]) == (201, "")


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"consent": "false"}, "consent_required", "consent"),
        ({"consent": None}, "consent_required", "consent"),
        ({"consent": "perhaps"}, "invalid_value", "consent"),
        ({"correction": None}, "missing_parameter", "correction"),
        ({"correction": "   "}, "missing_parameter", "correction"),
        ({"no_speech": "true"}, "invalid_value", "correction"),
        ({"correction": "a" * 5_001}, "invalid_value", "correction"),
        ({"correction": "a\0b"}, "invalid_value", "correction"),
        ({"speaker": "\x1b[31m"}, "invalid_value", "speaker"),
        ({"language": None}, "missing_parameter", "language"),
        ({"language": "tlh"}, "unknown_language", "language"),
        ({"start": "-1"}, "invalid_value", "start"),
        ({"start": "nan"}, "invalid_value", "start"),
        ({"start": "2", "end": "1"}, "invalid_value", "end"),
        ({"start": "0", "end": "31"}, "invalid_value", "end"),
        ({"start": "0.5", "end": "3"}, "invalid_value", "end"),
        ({"start": "7"}, "audio_too_short", "file"),
        ({"colour": "red"}, "unknown_parameter", "colour"),
    ],
)
async def test_what_is_refused_leaves_nothing(app, serve, wav, kept, changes, code, param):
    """400 with the field's name, and the database is as it was."""
    async with serve(app) as client:
        answer = await send(client, wav(1.0), **changes)
        assert answer.status_code == 400, answer.text
        assert (answer.json()["error"]["code"], answer.json()["error"]["param"]) == (code, param)
    assert kept() == 0


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty_audio"),
        (b"no audio at all, whatever it is called" * 20, "unsupported_audio"),
        ("short", "audio_too_short"),
        ("long", "audio_too_long"),
        ("cut", "truncated_audio"),
    ],
)
async def test_bad_audio_leaves_nothing(app, serve, wav, kept, content, code):
    """Its code says what is wrong with it; a clip of more than 30 s is told how to send a part of it."""
    made = {"short": lambda: wav(0.05), "long": lambda: wav(31.0), "cut": lambda: wav(2.0)[:40_000]}
    async with serve(app) as client:
        answer = await send(client, made[content]() if isinstance(content, str) else content)
        error = answer.json()["error"]
        assert (error["code"], error["param"]) == (code, "file"), answer.text
        assert answer.status_code in {400, 413}
        if code == "audio_too_long":
            assert "30 s" in error["message"]
            assert "start and end" in error["message"]
    assert kept() == 0


async def test_where_nothing_is_kept_everything_is_a_404(make_app, serve, wav):
    """Storing must be asked for, by the operator: the message names the setting."""
    async with serve(make_app()) as client:
        for answer in (
            await send(client, wav(1.0)),
            await client.get("/v1/feedback"),
            await client.get("/v1/feedback/counts"),
            await client.get("/v1/feedback/export"),
            await client.get("/v1/feedback/cor_x"),
            await client.get("/v1/feedback/cor_x/audio"),
            await client.delete("/v1/feedback/cor_x"),
            await client.delete("/v1/feedback?older_than_days=0"),
        ):
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "corrections_off")
            assert "WHISPERLOOP_CORRECTIONS" in answer.json()["error"]["message"]


async def test_pages_and_counts(app, serve, wav):
    """The newest first, page by page; counts by language."""
    async with serve(app) as client:
        ids = [(await send(client, wav(1.0 + i / 10), language="it" if i else "ru")).json()["id"] for i in range(3)]
        page = (await client.get("/v1/feedback?limit=2")).json()
        assert ([row["id"] for row in page["data"]], page["has_more"]) == (ids[:0:-1], True)
        rest = (await client.get(f"/v1/feedback?limit=2&after={page['data'][-1]['id']}")).json()
        assert ([row["id"] for row in rest["data"]], rest["has_more"]) == (ids[:1], False)
        only = (await client.get("/v1/feedback?language=ru")).json()["data"]
        assert [row["id"] for row in only] == ids[:1]
        counts = (await client.get("/v1/feedback/counts")).json()
        assert counts == {"clips": 3, "seconds": 3.3, "by_language": {"it": 2, "ru": 1}}


async def test_what_was_corrected_since(app, serve, wav):
    """Of a list and of counts, what is newer than the last retraining, by when it was last changed."""
    async with serve(app) as client:
        ids = [(await send(client, wav(1.0 + i / 10))).json()["id"] for i in range(2)]
        with app.state.corrections._engine.begin() as connection:
            connection.exec_driver_sql("update corrections set updated_at = 1000 where id = ?", (ids[0],))
        since = {"params": {"since": 1001}}
        assert [row["id"] for row in (await client.get("/v1/feedback", **since)).json()["data"]] == ids[1:]
        assert (await client.get("/v1/feedback/counts", **since)).json()["clips"] == 1
        refused = await client.get("/v1/feedback/counts?since=yesterday")
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "since")


async def test_the_export_is_a_folder_to_train_on(app, serve, wav, tmp_path):
    """Unpacked, it is an audiofolder, which our own source reads."""
    async with serve(app) as client:
        for i in range(3):
            await send(client, wav(1.0 + i / 10), correction=f"Frase numero {i}.")
        answer = await client.get("/v1/feedback/export")
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path / "out")
    utterances, dropped = read_folder(tmp_path / "out", language="it")
    assert dropped == []
    assert sorted(one.text for one in utterances) == [f"Frase numero {i}." for i in range(3)]


async def test_deleted_is_deleted(app, serve, wav, kept):
    """By id and by age; what is not there is a 404; nothing in particular is a 400."""
    async with serve(app) as client:
        one = (await send(client, wav(1.0))).json()["id"]
        await send(client, wav(2.0))
        assert (await client.delete(f"/v1/feedback/{one}")).status_code == 204
        for answer in (
            await client.delete(f"/v1/feedback/{one}"),
            await client.get(f"/v1/feedback/{one}"),
            await client.get(f"/v1/feedback/{one}/audio"),
        ):
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "feedback_not_found")
        assert (await client.delete("/v1/feedback")).status_code == 400
        assert (await client.delete("/v1/feedback?older_than_days=-1")).status_code == 400
        assert (await client.delete("/v1/feedback?older_than_days=1")).json() == {"deleted": 0}
        assert kept() == 1
        assert (await client.delete("/v1/feedback?older_than_days=0")).json() == {"deleted": 1}
    assert kept() == 0


async def test_a_key_sees_its_own_and_an_admin_all(make_app, serve, wav, url, tmp_path):
    """Another key's correction is not there, whatever is done with its id; only an admin deletes by key."""
    file = tmp_path / "keys"
    mine, other = add_key(file, "mine"), add_key(file, "other")
    admin = add_key(file, "boss", admin=True)
    async with serve(make_app(corrections=url, keys=file)) as client:

        def asked(key):
            return {"Authorization": f"Bearer {key}"}

        row = (await send(client, wav(1.0), key=mine)).json()
        assert row["key"] == "mine"
        await send(client, wav(1.0), key=other)  # the same clip is another one's own
        path = f"/v1/feedback/{row['id']}"
        for method, where in (("GET", path), ("GET", f"{path}/audio"), ("DELETE", path)):
            answer = await client.request(method, where, headers=asked(other))
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "feedback_not_found")
        assert len((await client.get("/v1/feedback", headers=asked(other))).json()["data"]) == 1
        assert (await client.get("/v1/feedback/counts", headers=asked(mine))).json()["clips"] == 1
        refused = await client.delete("/v1/feedback?key=mine", headers=asked(other))
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "admin_required")
        assert {one["key"] for one in (await client.get("/v1/feedback", headers=asked(admin))).json()["data"]} == {
            "mine",
            "other",
        }
        assert (await client.get(path, headers=asked(admin))).status_code == 200
        with zipfile.ZipFile(
            io.BytesIO((await client.get("/v1/feedback/export", headers=asked(mine))).content)
        ) as archive:
            (line,) = archive.read("metadata.jsonl").decode().splitlines()
            assert json.loads(line)["key"] == "mine"
        # Whoever is no admin deletes everything of its own, and nothing else.
        assert (await client.delete("/v1/feedback?older_than_days=0", headers=asked(other))).json() == {"deleted": 1}
        assert (await client.delete("/v1/feedback?key=mine", headers=asked(admin))).json() == {"deleted": 1}
        assert (await client.get("/v1/feedback", headers={})).status_code == 401


async def test_what_is_decoded_for_a_correction_is_paid_for(make_app, serve, wav, url, tmp_path):
    """All of a recording of which a part is kept, and of one that is refused; then the key's day is used up."""
    file = tmp_path / "keys.jsonl"
    key = add_key(file, "app", audio_seconds_per_day=100)
    async with serve(make_app(corrections=url, keys=file)) as client:
        left = "x-ratelimit-remaining-audio-seconds"
        assert (await send(client, wav(70), key=key, start="1", end="3")).status_code == 201
        headers = {"Authorization": f"Bearer {key}"}
        assert (await client.get("/v1/feedback", headers=headers)).headers[left] == "30"
        assert (await send(client, wav(40), key=key)).status_code == 413  # more than 30 s, and no part was named
        assert (await client.get("/v1/feedback", headers=headers)).headers[left] == "0"
        assert (await send(client, wav(2), key=key)).status_code == 429


async def test_a_database_that_cannot_be_used_is_a_503(make_app, serve, wav, tmp_path, caplog):
    """The service answers everything else; the log says what is wrong, without what was said."""
    (tmp_path / "file").write_text("")
    app = make_app(corrections=f"sqlite:///{tmp_path}/file/x.db")
    async with serve(app) as client:
        for answer in (await send(client, wav(1.0)), await client.get("/v1/feedback")):
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "corrections_unavailable")
            assert "Retry-After" in answer.headers
        transcribed = await client.post("/transcribe", files={"file": ("a.wav", wav(1.0))})
        assert transcribed.status_code == 200
    assert "cannot be used" in caplog.text
    assert "Buongiorno" not in caplog.text


async def test_nothing_of_a_correction_is_logged(app, serve, wav, caplog):
    """Neither what was heard nor what was said, nor who speaks."""
    caplog.set_level("DEBUG")
    async with serve(app) as client:
        await send(client, wav(1.0), speaker="Anna Bianchi")
    for secret in ("Buongiorno", "buon giorno", "Bianchi"):
        assert secret not in caplog.text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Origin": "https://evil.example"}, 403),
        ({"Origin": "https://evil.example"}, 403),  # of a browser that says no more
        ({"Sec-Fetch-Site": "cross-site", "Origin": "https://app.example"}, 201),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://test"}, 201),
        ({"Origin": "http://test"}, 201),
        ({"Sec-Fetch-Site": "same-origin", "Host": "evil.example:8000"}, 403),  # its name points to this machine now
        ({"Host": "app.example"}, 201),
        ({"Host": "app.example", "Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}, 403),
        ({"Host": "app.example", "Origin": "https://evil.example"}, 403),
        ({"Host": "127.0.0.1:8000"}, 201),
        ({"Host": "[::1]:8000"}, 201),
        ({"Host": "localhost:8000"}, 201),
        ({}, 201),
    ],
)
@pytest.mark.parametrize("listens_to", ["127.0.0.1", "0.0.0.0"])  # noqa: S104 - as in a container
async def test_a_page_of_another_site_teaches_nothing(make_app, serve, wav, url, kept, headers, status, listens_to):
    """Without API keys, whoever looks at a page would speak for it; sites that may use the service may correct, too."""
    async with serve(make_app(corrections=url, cors_origins=("https://app.example",), host=listens_to)) as client:
        headers = {"Host": "test", **headers}
        answer = await client.post("/v1/feedback", files={"file": ("a.wav", wav(1.0))}, data=FIELDS, headers=headers)
        assert answer.status_code == status, answer.text
        assert kept() == (status == 201)
        if status == 403:
            assert answer.json()["error"]["code"] == "cross_site"
            assert (await client.get("/v1/feedback", headers=headers)).status_code == 403
