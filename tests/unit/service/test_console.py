"""The console's pure parts, and how it stands beside the API: what is escaped, marked, exported, hidden and let in."""

import asyncio
import json
import random
import re
from datetime import datetime
from pathlib import Path

import pytest
from fastapi import HTTPException, Request, Response

from service.console import bounds, compare, learning, mount, transcript, versions
from service.console.mount import ConsoleRoute
from service.keys import add_key

WORDS = [
    {"word": "<b>Hi</b>", "start": 0.0, "end": 0.4, "probability": 0.97},
    {"word": "there", "start": 0.5, "end": 0.9, "probability": 0.7},
    {"word": "you", "start": 1.0, "end": 1.4, "probability": 0.2},
]
SEGMENT = {
    "id": 0,
    "start": 0.0,
    "end": 1.5,
    "text": "<b>Hi</b> there you",
    "seek": 0,
    "tokens": [],
    "avg_logprob": -0.1,
    "no_speech_prob": 0.0,
    "compression_ratio": 1.0,
    "temperature": 0.0,
    "flags": ["low_logprob"],
    "words": WORDS,
    "logprobs": None,
}
ANSWER = {
    "text": "<b>Hi</b> there you",
    "language": "en",
    "duration": 2.0,
    "no_speech": False,
    "segments": [SEGMENT],
    "model": "whisper@1",
    "warnings": ["<i>careful</i>"],
    "partial": None,
    "timings": {"total": 0.1},
}
BOUNDS = {"value": 0.123, "low": 0.1, "high": 0.15}


def served(ref, base=None):
    """Return a version as GET /version tells of it."""
    return {"ref": ref, "base": base}


def card(ref, *aliases):
    """Return a version as GET /v1/models/{name}/versions lists it."""
    return {"ref": ref, "aliases": list(aliases)}


def test_served_versions_are_called_by_their_roles():
    """Production, candidate and what they are compared with are named; a version that has no role by itself."""
    cards = [card("m@2", "production"), card("m@1"), card("m@0")]
    found = compare.choices(cards, [served("m@2", "m@1"), served("m@1"), served("m@0")])
    assert found == [("production (m@2)", "m@2"), ("base (m@1)", "m@1"), ("m@0", "m@0")]


@pytest.mark.parametrize(
    ("cards", "here", "setting"),
    [
        ([card("m@2", "production"), card("m@3", "candidate")], [served("m@2", "m@1")], "candidate,m@1"),
        ([card("m@2", "production")], [served("m@2", "base@1")], "base@1"),
        ([card("m@2", "production"), card("m@1", "candidate")], [served("m@2", "m@1")], "candidate"),
        ([card("m@2", "production")], [served("m@2", "hub:openai/whisper-base@main")], None),
        ([card("m@2", "production")], [served("m@2", "m@1"), served("m@1")], None),
        ([], [], None),
    ],
)
def test_what_else_could_be_served_to_compare_with(cards, here, setting):
    """The setting that adds candidate and base is said as it is typed, and nothing where all are there."""
    shown = compare.show_others(cards, here)
    assert (f"<code>WHISPERLOOP_ALSO={setting}</code>" in shown) if setting else shown == ""


def test_words_are_marked_by_class_title_and_nothing_is_markup():
    """Each word has its level, its number in words, and no tag of what was said survives."""
    shown = transcript.show(ANSWER, None)
    assert (
        '<span class="w sure" tabindex="-1" title="97% (sure)" data-number="97%">&lt;b&gt;Hi&lt;/b&gt;</span>' in shown
    )
    assert '</span> <span class="w unsure"' in shown
    assert 'title="20% (doubtful)" data-number="20%">you</span>' in shown
    assert "<b>" not in shown
    assert "<i>careful" not in shown


def test_the_numbers_are_shown_without_a_pointer():
    """One box, which the tab key reaches, shows all of them, and a tap on a word its own; the words are no stops."""
    for shown in (transcript.show(ANSWER, None), compare.show_answers([ANSWER], ["m@1"], blind=False)):
        assert shown.count('<label class="numbers"><input type="checkbox"> ') == 1
        assert shown.count('tabindex="-1"') == shown.count("data-number=") == len(WORDS)
        assert 'tabindex="0"' not in shown
    page = Path(mount.__file__).with_name("page.py").read_text()  # as text: its import is Gradio's, of seconds
    rule = re.search(r"([^}]*){content:attr\(data-number\)", page)[1]
    assert rule.replace("\n", "").split(",") == [
        ".w[data-number]:focus::after",
        ".transcript:has(.numbers :checked) .w[data-number]::after",
        ".compared:has(.numbers :checked) .w[data-number]::after",
    ]
    assert "numbers" not in transcript.show({**ANSWER, "no_speech": True, "segments": []}, None)


@pytest.mark.parametrize(("probability", "name"), [(0.9, "sure"), (0.89, "unsure"), (0.6, "unsure"), (0.0, "doubtful")])
def test_levels(probability, name):
    """A word on a threshold is called by the better name."""
    assert transcript.level(probability) == name


def test_words_stand_as_they_were_written():
    """Blanks come from the text: none in Chinese, and one where a word is not found."""
    words = [{"word": "你"}, {"word": "好"}, {"word": "x"}]
    assert transcript.gaps(words, "你好") == ["", "", " "]


def test_a_segment_has_a_button_that_says_where_it_plays_from():
    """It is reached by keyboard, and told by a label."""
    shown = transcript.show_segment({**SEGMENT, "start": 62.04})
    assert 'data-start="62.04" aria-label="Play from 1:02.0"' in shown


def test_subtitles_are_laid_out_from_the_answer():
    """The srt and vtt have the words and the times of the answer."""
    assert transcript.subtitles([SEGMENT], "srt").startswith("1\n00:00:00,000 --> ")
    assert ["<b>Hi</b>", "there", "you"][-1] in transcript.subtitles([SEGMENT], "vtt")
    assert transcript.subtitles([SEGMENT], "vtt").startswith("WEBVTT")


def test_downloads_are_in_the_page():
    """All four files are links that no server is asked for."""
    shown = transcript.show_downloads(ANSWER)
    for form in ("txt", "srt", "vtt", "json"):
        assert f'download="transcript.{form}" href="data:' in shown


def test_what_can_be_corrected_is_at_most_30_s():
    """Of a long clip, parts; of a short one, the whole first."""
    assert transcript.parts(ANSWER)[0] == ("the whole clip", "whole")
    assert [value for _, value in transcript.parts({**ANSWER, "duration": 31.0})] == ["0"]
    assert transcript.part(ANSWER, "0") == ("<b>Hi</b> there you", {"start": "0.000", "end": "1.500"})
    assert transcript.part(ANSWER, "whole") == (ANSWER["text"], {})


def test_blind_orders_are_all_equally_likely():
    """Nobody can tell from the place which version answered."""
    rng = random.Random(1)  # noqa: S311 - the same order in every run of the test
    first = [compare.blind_order(["a", "b"], rng)[0] for _ in range(2000)]
    assert 900 < first.count("a") < 1100


def test_one_version_alone_is_not_compared_blind():
    """There is nothing to vote on, and its name would never be shown."""
    assert compare.is_blind(["m@1", "m@2"], wanted=True)
    assert not compare.is_blind(["m@1"], wanted=True)
    assert not compare.is_blind(["m@1", "m@2"], wanted=False)


def test_what_was_ticked_stays_so():
    """Listed anew, a version is ticked if it was, or is new; if that leaves none, all are, as at first."""
    found = [("production (m@3)", "m@3"), ("m@2", "m@2"), ("m@1", "m@1")]
    assert compare.still_ticked(found, [], []) == ["m@3", "m@2", "m@1"]
    assert compare.still_ticked(found, ["m@1"], ["m@1", "m@2"]) == ["m@3", "m@1"]
    assert compare.still_ticked(found[1:], ["m@0"], ["m@0", "m@1", "m@2"]) == ["m@2", "m@1"]


def test_who_may_not_move_an_alias_is_told_where_to_enter_another_key():
    """The page has no field for it: the address is said."""
    from service.console.client import ServiceError

    assert mount.ENTER in str(ServiceError(403, "admin_required", ""))


def test_one_that_cannot_answer_does_not_hide_the_others():
    """Its card says why; blind, only that it could not, for the reason may name it."""
    answers = [{"error": "whisper@2 <is> full"}, ANSWER]
    shown = compare.show_answers(answers, ["whisper@2", "whisper@1"], blind=False)
    assert "whisper@2 &lt;is&gt; full" in shown
    assert ">there</" in shown
    blind = compare.show_answers(answers, ["A", "B"], blind=True)
    assert "could not answer" in blind
    assert "whisper@2" not in blind


def test_blind_answers_tell_nothing_but_words():
    """Neither the version nor probabilities, which differ by version, nor how long it took."""
    shown = compare.show_answers([ANSWER, ANSWER], ["A", "B"], blind=True)
    assert "whisper@1" not in shown
    assert "%" not in shown
    assert "numbers" not in shown
    assert "<b>" not in shown


def test_votes_are_counted_and_appended(tmp_path):
    """A vote names the version behind its letter; the file holds no word of what was said."""
    votes = compare.Votes(tmp_path / "in" / "votes.jsonl")
    assert votes.cast(["m@2", "m@1"], "B") == "m@1"
    assert votes.cast(["m@2", "m@1"], compare.SAME) == compare.SAME
    lines = [json.loads(line) for line in (tmp_path / "in" / "votes.jsonl").read_text().splitlines()]
    assert [line["chosen"] for line in lines] == ["m@1", compare.SAME]
    assert set(lines[0]) == {"at", "order", "chosen"}
    assert compare.Votes(None).cast(["m@1"], "A") == "m@1"


def test_versions_are_shown_from_data_and_escaped():
    """Figures with intervals, odd ones as a dash, and no markup of a version's or a verdict's."""
    evil = "<script>alert(1)</script>"
    verdict = {
        "decision": "refuse",
        "base": evil,
        "reasons": [evil],
        "comparisons": {evil: {"clips": 3, "base": BOUNDS, "candidate": "odd", "difference": BOUNDS}, "x": 3},
        "guards": [],
        "notes": "odd",
    }
    card = {
        "id": "1",
        "ref": "m@1",
        "created_at": "today",
        "base": None,
        "parent": evil,
        "aliases": ["production"],
        "served": True,
        "metrics": {"test": {"wer": {"it": BOUNDS, "all": None}}},
        "pictures": [],
        "verdicts": [{"file": evil, "content": verdict}],
    }
    shown = versions.show_versions([card])
    assert "<script" not in shown
    assert "12.3% (10.0 – 15.0)" in shown
    assert "refuse" in shown
    assert versions.word_error_rates(card) == {"all": versions.UNKNOWN, "it": "12.3% (10.0 – 15.0)"}
    assert versions.word_error_rates({"metrics": {"test": []}}) == {}


def test_reports_are_read_and_escaped(tmp_path):
    """The newest first; lines and files that cannot be read are left out."""
    for name, started in (("a", "2026-01-01"), ("b", "2026-01-02")):
        (tmp_path / name).mkdir()
        line = {"name": name, "result": "promoted", "detail": "<b>; kept", "started_at": started}
        line = json.dumps(line | ({"reasons": ["<b>: better; by 3", "kept"]} if name == "b" else {}))
        (tmp_path / name / "reports.jsonl").write_text(f"{line}\nnot json\n")
    found = learning.read_reports(tmp_path)
    assert [one["name"] for one in found] == ["b", "a"]
    assert "<b></b>" not in learning.show_reports(found)
    shown = learning.show_reports(found)
    assert "<ul><li>&lt;b&gt;: better; by 3</li><li>kept</li></ul>" in shown
    assert "<br>&lt;b&gt;; kept</li>" in shown  # of an older release
    assert learning.read_reports(tmp_path / "nowhere") == []


def test_what_waits_is_what_came_since_the_last_retraining():
    """One that learned, whatever became of it; one that failed or found nothing new took nothing away."""
    begun = "2026-01-02T00:00:00Z"
    reports = [
        {"result": "failed", "started_at": "2026-01-03T00:00:00Z"},
        {"result": "refused", "started_at": begun},
        {"result": "promoted", "started_at": "2026-01-01T00:00:00Z"},
        {"result": "promoted", "started_at": "once"},
    ]
    assert learning.learned_at(reports) == datetime.fromisoformat(begun).timestamp()
    assert learning.learned_at(reports[:1]) is None
    others = {"name": "another recipe", "result": "candidate"}
    later, earlier = (others | {"started_at": f"{year}-01-01T00:00:00Z"} for year in (2027, 2025))
    assert learning.learned_at([*reports, later]) == learning.learned_at(reports)
    assert learning.learned_at([*reports, earlier]) < learning.learned_at(reports)


def test_what_waits_and_what_is_kept_are_told_apart():
    """After a retraining, nothing waits, and all is still there."""
    none, one = {"clips": 0, "seconds": 0.0, "by_language": {}}, {"clips": 1, "seconds": 6.0, "by_language": {"it": 1}}
    many = {"clips": 7, "seconds": 60.0, "by_language": {"it": 7}}
    assert "Nothing was corrected yet" in learning.show_counts(none, none)
    assert learning.show_counts(none, many) == (
        "<p>Nothing: no clip was corrected since the last retraining. 7 clips in all.</p>"
    )
    assert learning.show_counts(one, many) == "<p><b>1 clip</b>, 0.1 minutes (it: 1); 7 clips in all.</p>"


@pytest.mark.parametrize(
    ("path", "is_ours"),
    [
        ("/", True),
        ("/assets/index.js", True),
        ("/gradio_api/queue/join", True),
        ("/gradio_api/proxy=https://x", False),
        ("/gradio_api/file=https://x", False),
        ("/gradio_api/file=/tmp/whisperloop-console-a/b/clip.wav", True),
        ("/gradio_api/file=HTTPS://x", False),
        ("/gradio_api/file/https://x", False),
        ("/gradio_api/process_recording", False),
        ("/gradio_api/upload", True),
        ("/gradio_api/run/predict", False),
        ("/gradio_api/", False),
        ("/transcribe", False),
        ("/v1/models", False),
        ("/console", False),
    ],
)
def test_the_console_takes_its_own_paths_only(path, is_ours):
    """The API keeps its paths, and what Gradio has beside the page is closed."""
    assert mount.is_console_path(path) == is_ours


def test_tags_of_other_hosts_are_taken_out():
    """Whatever Gradio's page would fetch from elsewhere is not in it; the rest is."""
    page = b'<link rel="preconnect" href="https://a"/><script src="https://b" async></script><script>1</script>'
    assert mount.ELSEWHERE.sub(b"", page) == b"<script>1</script>"


@pytest.mark.anyio
async def test_until_it_is_there_a_page_reloads_itself(make_app, serve):
    """GET / answers at once, whether or not there is a model, and says that the API does not wait."""
    async with serve(make_app(console=True), wait=False) as client:
        answer = await client.get("/")
        assert answer.status_code == 200
        assert "refresh" in answer.text
        assert (await client.get("/nothing")).json()["error"]["code"] == "not_found"
        assert (await client.get("/transcribe")).status_code == 405


@pytest.mark.anyio
async def test_without_gradio_it_says_what_to_install(make_app, serve, monkeypatch):
    """Where the extra is missing, / names it."""
    monkeypatch.setattr(mount, "is_installed", lambda: False)
    async with serve(make_app(console=True)) as client:
        assert ".[service,console]" in (await client.get("/")).text


@pytest.mark.anyio
async def test_off_by_a_setting(make_app, serve):
    """Without the console, / is nothing."""
    async with serve(make_app(console=False)) as client:
        assert (await client.get("/")).status_code == 404


@pytest.mark.anyio
async def test_with_keys_the_page_asks_for_one(make_app, serve, tmp_path):
    """Without a key there is the form, and no upload; with one, a cookie of the session that scripts cannot read."""
    file = tmp_path / "keys"
    key = add_key(file, "me")
    async with serve(make_app(keys=file, console=True)) as client:
        assert 'type="password"' in (await client.get("/")).text
        assert (await client.post("/gradio_api/upload")).status_code == 401
        wrong = await client.get("/", headers={"Cookie": "whisperloop_key=wrong"})
        assert "not valid here" in wrong.text
        entered = await client.post("/console/enter", data={"key": key})
        cookie = entered.headers["set-cookie"]
        assert entered.status_code == 303
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert "Max-Age" not in cookie
        inside = await client.get("/", headers={"Cookie": f"whisperloop_key={key}"})
        assert 'type="password"' not in inside.text
        refused = await client.get("/version", headers={"Cookie": f"whisperloop_key={key}"})
        assert refused.status_code == 401  # the cookie opens the console, and nothing else


@pytest.mark.anyio
async def test_the_console_asks_as_any_caller(make_app, serve, wav, tmp_path):
    """Its way to the service needs a key where keys are wanted, streams, and says errors in the service's words."""
    from service.console.client import Caller, ServiceError

    file = tmp_path / "keys"
    key = add_key(file, "me")
    app = make_app(keys=file)
    async with serve(app):
        caller = Caller(app, key, ("127.0.0.1", 1))
        events = [event async for event in caller.transcribe("a.wav", wav(1.0), {"language": "it"})]
        assert events[-1]["type"] == "transcript.text.done"
        with pytest.raises(ServiceError, match="switch them on"):
            await caller.get("/v1/feedback/counts")
        with pytest.raises(ServiceError, match="not valid any more"):
            await Caller(app, None, ("127.0.0.1", 1)).get("/version")
        with pytest.raises(ServiceError):
            [event async for event in caller.transcribe("a.wav", b"no audio", {})]


OTHER_SITE = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("POST", "/gradio_api/queue/join", OTHER_SITE, 403),
        ("POST", "/gradio_api/upload", {"Origin": "http://evil.example"}, 403),  # of a browser that says no more
        ("OPTIONS", "/gradio_api/queue/join", OTHER_SITE, 403),
        ("POST", "/console/enter", OTHER_SITE, 403),
        ("POST", "/console/enter", {"Origin": "http://test", "Sec-Fetch-Site": "same-origin"}, 303),
        ("POST", "/gradio_api/queue/join", {"Origin": "https://app.example", "Sec-Fetch-Site": "cross-site"}, 200),
        ("POST", "/gradio_api/queue/join", {"Origin": "http://test"}, 200),
        ("GET", "/", {"Sec-Fetch-Site": "cross-site"}, 200),  # by a link
    ],
)
async def test_a_page_of_another_site_does_not_drive_the_console(make_app, serve, method, path, headers, status):
    """It is refused before Gradio is asked, and no key is entered for its visitor; a link from elsewhere leads in."""
    app = make_app(console=True, cors_origins=("https://app.example",))
    async with serve(app) as client:
        answer = await client.request(method, path, headers=headers, data={"key": "a"} if "enter" in path else None)
        assert answer.status_code == status


@pytest.mark.anyio
async def test_no_other_site_reads_the_console(make_app, serve):
    """Gradio lets any site read, with its visitor's cookies; that is taken out of its answers."""

    async def page(_scope, _receive, send):
        allowed = [
            (b"access-control-allow-origin", b"https://evil.example"),
            (b"access-control-allow-credentials", b"1"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"a/b"), *allowed]})
        await send({"type": "http.response.body", "body": b"x"})

    app = make_app(console=True)
    async with serve(app) as client:
        (route,) = [one for one in app.router.routes if isinstance(one, ConsoleRoute)]
        route.console._page = page
        answer = await client.get("/config", headers={"Origin": "http://test"})
        assert (answer.content, answer.headers["content-type"]) == (b"x", "a/b")
        assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.fixture
def console(make_app):
    """Return a service whose console's page counts what it reads, and the sizes of the bodies that it read whole."""
    sizes = []

    async def page(scope, receive, send):
        request = Request(scope, receive)
        try:
            sizes.append(len(await request.body()))
            response = Response("read")
        except HTTPException as error:
            response = Response(str(error.detail), error.status_code)
        await response(scope, receive, send)

    app = make_app(console=True, max_upload_bytes=3_000_000, upload_timeout_s=0.2)
    (route,) = [one for one in app.router.routes if isinstance(one, ConsoleRoute)]
    route.console._page = page
    return app, route.console, sizes


@pytest.mark.anyio
async def test_what_the_console_reads_is_bounded(console, serve):
    """An event is small, an upload is as large as any; both are counted while they are read, and given back."""
    app, _, sizes = console

    async def endless(n):
        for _ in range(n):
            yield b"x" * 100_000
            assert app.state.buffered.n_bytes > 0

    async with serve(app) as client:
        for path, n, status in (
            ("/gradio_api/queue/join", 5, 200),
            ("/gradio_api/queue/join", 11, 413),
            ("/gradio_api/upload", 20, 200),
            ("/gradio_api/upload", 500, 413),
        ):
            answer = await client.post(path, content=endless(n))
            assert answer.status_code == status, (path, n)
        declared = await client.post("/gradio_api/upload", content=b"x" * 6_000_000)
        assert declared.status_code == 413
    assert sizes == [500_000, 2_000_000]
    assert app.state.buffered.n_bytes == 0


@pytest.mark.anyio
async def test_a_body_that_stops_is_given_up(console, serve):
    """Whoever sends a byte now and then to the console is told so, as everywhere, and holds nothing."""
    app, _, _ = console

    async def trickle():
        for _ in range(50):
            yield b"x"
            await asyncio.sleep(0.05)

    async with serve(app) as client:
        answer = await client.post("/gradio_api/queue/join", content=trickle())
    assert answer.status_code == 408
    assert app.state.buffered.n_bytes == 0


@pytest.mark.anyio
async def test_a_full_folder_takes_no_more(console, serve, tmp_path):
    """All uploads may take ten of the largest files; events go on, and so do uploads once it is swept."""
    app, page, _ = console
    page._folder = tmp_path
    (tmp_path / "deep").mkdir()
    file = tmp_path / "deep" / "broken off"
    with file.open("wb") as opened:
        opened.truncate(31_000_000)
    async with serve(app) as client:
        answer = await client.post("/gradio_api/upload", content=b"x")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "overloaded")
        assert (await client.post("/gradio_api/queue/join", content=b"x")).status_code == 200
        bounds.sweep(tmp_path, file.stat().st_mtime)  # not older
        assert file.exists()
        bounds.sweep(tmp_path, file.stat().st_mtime + 1)
        assert not file.exists()
        assert (await client.post("/gradio_api/upload", content=b"x")).status_code == 200


@pytest.mark.anyio
async def test_the_console_fetches_nothing():
    """An address that stands where an upload is meant is an error, and nobody goes there."""
    with pytest.raises(ValueError, match="fetches nothing"):
        await bounds.fetch_nothing("https://example.org/endless")


@pytest.mark.anyio
async def test_the_console_says_by_which_name_it_was_asked(make_app, serve, tmp_path):
    """A page whose name points to this machine meanwhile reads and teaches nothing through the console, either."""
    from service.console.client import PASSED_ON, Caller, ServiceError

    app = make_app(corrections=f"sqlite:///{tmp_path}/corrections.db")
    async with serve(app):
        assert {"host", "origin"} <= set(PASSED_ON)
        mine = Caller(app, None, ("127.0.0.1", 1), {"host": "127.0.0.1:8000", "origin": "http://127.0.0.1:8000"})
        assert (await mine.get("/v1/feedback"))["data"] == []
        rebound = Caller(app, None, ("127.0.0.1", 1), {"host": "evil.example", "origin": "http://evil.example"})
        with pytest.raises(ServiceError, match="public name"):
            await rebound.get("/v1/feedback")


def test_the_language_of_a_correction():
    """Is the one that was chosen, whatever was heard; with neither, it is not known, and not English."""
    assert transcript.language({"language": "it"}, None) == "it"
    assert transcript.language({"language": "es"}, "it") == "it"
    assert transcript.language({"language": None}, "ru") == "ru"
    assert transcript.language({"language": None}, None) is None
