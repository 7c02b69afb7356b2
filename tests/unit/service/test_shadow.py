"""The shadow transcribes copies when nobody waits, and tells of nothing but how many words differ."""

import os
import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

import service.models
import service.shadow
from service.loading import Model, step_back
from service.shadow import MAX_WAITING, disagreement
from service.state import Loaded

pytestmark = pytest.mark.anyio


@pytest.fixture
def shadowed(make_app, make_engine, engine, monkeypatch, tmp_path):
    """Make an application with an echo engine as its model and another as its shadow, in no real registry."""

    def make(shadow=None, **settings):
        shadow = shadow or make_engine()
        app = make_app(engine, shadow_share=1.0, watch_seconds=0, registry=tmp_path, **settings)
        models = app.state.models
        load = models._load

        def load_either(wanted):
            model = load(wanted)
            if not wanted.model.endswith("@shadow"):
                return model
            return Model(shadow, model.version.model_copy(update={"ref": "echo@2", "version": "2"}))

        models._load = load_either
        # As if the registry had a version there.
        named = service.models.target
        monkeypatch.setattr(
            service.models,
            "target",
            lambda settings, ref: (
                service.models.Target("echo@2", None) if ref.endswith("@shadow") else named(settings, ref)
            ),
        )
        return app, shadow

    return make


async def upload(client, wav, seconds=1.0, **data):
    """Transcribe a tone, in Italian."""
    return await client.post("/transcribe", files={"file": ("a", wav(seconds))}, data={"language": "it", **data})


async def samples(client):
    """Read the metrics, by name and labels."""
    text = (await client.get("/metrics")).text
    found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name, *sample.labels.values()): sample.value for sample in found}


async def ready(app):
    """Wait until the shadow is loaded, too."""
    await app.state.models.look()
    assert isinstance(app.state.models.shadow, Loaded)


async def test_copies_are_compared_and_nothing_changes(shadowed, serve, wav, until):
    """What is answered is the model's; the shadow heard the same, in both APIs and in streams; agreement is 0."""
    app, shadow = shadowed()
    async with serve(app) as client:
        await ready(app)
        native = await upload(client, wav)
        form = {"model": "whisper-1", "language": "it"}
        openai = await client.post("/v1/audio/transcriptions", files={"file": ("a", wav(1))}, data=form)
        stream = await client.post(
            "/v1/audio/transcriptions", files={"file": ("a", wav(1))}, data={**form, "stream": "true"}
        )
        await until(lambda: app.state.shadow.seen and app.state.shadow.seen.requests == 3)
        about = (await client.get("/version")).json()
        metrics = await samples(client)
    assert {answer.headers["X-Whisperloop-Model"] for answer in (native, openai, stream)} == {"echo@1"}
    (heard,) = {(w.audio.size, w.language) for batch in shadow.batches[1:] for w in batch}
    assert heard == (16_000, "it")
    assert about["shadow"] == {"ref": "echo@2", "requests": 3, "edits": 0, "words": 3, "rate": 0.0}
    assert about["beside"][0]["role"] == "shadow"
    assert metrics["whisperloop_shadow_requests_total", "compared"] == 3
    assert metrics["whisperloop_shadow_disagreement_count", "echo@2"] == 3
    assert metrics["whisperloop_audio_seconds_total", "echo@1"] == 3.0  # the requests' alone
    assert metrics["whisperloop_audio_seconds_total", "echo@2"] == 3.0
    assert metrics["whisperloop_stage_seconds_total", "engine"] == metrics["whisperloop_batch_seconds_sum", "echo@1"]


async def test_disagreement_is_counted(shadowed, serve, wav, until, make_engine, caplog):
    """Each word that differs is an edit, and no word of either transcript is in the log or the report."""
    other = make_engine()
    result = other._result
    other._result = lambda window: type(result(window))(**{**vars(result(window)), "text": "secret words"})
    app, _ = shadowed(other)
    async with serve(app) as client:
        await ready(app)
        said = (await upload(client, wav)).json()["text"]
        await until(lambda: app.state.shadow.seen)
        about = await client.get("/version")
        metrics = await samples(client)
    assert about.json()["shadow"] == {"ref": "echo@2", "requests": 1, "edits": 2, "words": 2, "rate": 1.0}
    assert metrics["whisperloop_shadow_disagreement_sum", "echo@2"] == 1.0
    for told in (about.text, caplog.text):
        assert "secret" not in told
        assert said not in told


async def test_copies_wait_for_a_quiet_moment_and_are_dropped_in_a_rush(shadowed, serve, wav, until):
    """While a request is being decoded the shadow does nothing; what does not fit is dropped, and counted."""
    app, shadow = shadowed()
    async with serve(app) as client:
        await ready(app)
        with app.state.models.main.scheduler.admit(1.0):  # somebody waits
            for _ in range(MAX_WAITING + 2):
                assert (await upload(client, wav)).status_code == 200
            assert len(shadow.batches) == 1  # its warm-up
        await until(lambda: app.state.shadow.seen and app.state.shadow.seen.requests == MAX_WAITING)
        assert (await samples(client))["whisperloop_shadow_requests_total", "dropped"] == 2


async def test_a_large_file_is_not_copied(shadowed, serve, wav, monkeypatch):
    """Copies wait in memory, which they must not fill."""
    monkeypatch.setattr(service.shadow, "MAX_WAITING_BYTES", 20_000)
    app, shadow = shadowed()
    async with serve(app) as client:
        await ready(app)
        assert (await upload(client, wav)).status_code == 200
        assert (await samples(client))["whisperloop_shadow_requests_total", "dropped"] == 1
    assert len(shadow.batches) == 1


async def test_a_shadow_that_fails_is_no_harm(shadowed, serve, wav, until, make_engine, caplog):
    """Its error is counted, without what the engine says; the next copy is tried again."""
    other = make_engine()
    app, _ = shadowed(other)
    async with serve(app) as client:
        await ready(app)
        other.fails = lambda _window: True
        assert (await upload(client, wav)).status_code == 200
        await until(lambda: "the shadow echo@2 failed" in caplog.text)
        other.fails = lambda _window: False
        assert (await upload(client, wav)).status_code == 200
        await until(lambda: app.state.shadow.seen)
        assert (await samples(client))["whisperloop_shadow_requests_total", "failed"] == 1


async def test_the_shadow_answers_nobody(shadowed, serve, wav):
    """Not by its name either: its engine steps back for all others."""
    app, shadow = shadowed(model="echo@production")
    async with serve(app) as client:
        await ready(app)
        before = len(shadow.batches)
        for name in ("shadow", "echo@2"):
            answer = await upload(client, wav, model=name)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
        assert len(shadow.batches) == before


async def test_without_a_share_there_is_no_shadow(make_app, serve, wav):
    """By default, nothing is copied."""
    async with serve(make_app()) as client:
        assert (await upload(client, wav)).status_code == 200
        about = (await client.get("/version")).json()
    assert (about["shadow"], about["beside"]) == (None, [])


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("Ciao, mondo!", "ciao mondo", (0, 2)),
        ("uno due tre", "uno tre", (1, 3)),
        ("", "uno due", (2, 2)),
        ("", "", (0, 0)),
        ("uno due", "tre quattro cinque", (3, 3)),
    ],
)
def test_words_are_compared_normalised(one, other, expected):
    """Case and punctuation do not differ; the rate can be no more than 1."""
    assert disagreement(one, other) == disagreement(other, one) == expected


def test_the_shadow_steps_back_for_others():
    """Its threads, and those that they start, get what nobody else wants of the processor."""
    niceness = []

    def tell():
        niceness.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    def start():
        step_back()
        child = threading.Thread(target=tell)
        child.start()
        child.join()

    parent = threading.Thread(target=start)
    parent.start()
    parent.join()
    tell()
    assert niceness[0] == 19
    assert niceness[1] < 19
