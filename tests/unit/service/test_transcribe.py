"""POST /transcribe: what a user gets for a file."""

import json
import logging
import threading
from dataclasses import replace

import anyio
import numpy as np
import pytest

from speech.audio import SAMPLE_RATE, decode_audio
from speech.windows import cut

pytestmark = pytest.mark.anyio


async def post(client, data, **form):
    """Upload a file."""
    return await client.post("/transcribe", files={"file": ("a.wav", data)}, data=form)


def expected(data, words):
    """Tell the echo engine's words for a whole file."""
    audio = decode_audio(data)
    return [words(audio[s.start : s.end]) for s in cut(audio)]


async def test_a_clip_is_transcribed(make_app, serve, wav, words):
    """A clip's answer holds all that is known of it, and the version that answered."""
    data = wav(2.0)
    async with serve(make_app()) as client:
        response = await post(client, data)
    assert response.status_code == 200
    body = response.json()
    segment = {"id": 0, "start": 0.0, "end": 2.0, "text": expected(data, words)[0], "seek": 0, "tokens": []}
    scores = {"avg_logprob": -0.1, "no_speech_prob": 0.0, "compression_ratio": 1.0, "temperature": 0.0, "flags": []}
    timings = body.pop("timings")
    assert body == {
        "text": segment["text"],
        "language": "it",
        "language_probabilities": {"it": 1.0},
        "duration": 2.0,
        "no_speech": False,
        "segments": [segment | scores | {"words": None, "logprobs": None}],
        "dropped": [],
        "partial": None,
        "model": "echo@1",
        "warnings": [],
    }
    assert timings.keys() == {"upload", "total"}
    assert min(timings.values()) >= 0
    assert response.headers["x-whisperloop-model"] == "echo@1"
    assert "x-whisperloop-partial" not in response.headers


async def test_a_long_file_is_transcribed_whole_and_in_order(make_app, serve, wav, words, engine):
    """All words of a file over 30 s are there, in order, from windows of 30 s at most."""
    audio = np.random.default_rng(1).uniform(-0.5, 0.5, 200 * SAMPLE_RATE).astype(np.float32)
    audio *= np.linspace(0.2, 1, audio.size, dtype=np.float32)
    data = wav(audio)
    async with serve(make_app()) as client:
        body = (await post(client, data, language="it")).json()
    segments = body["segments"]
    assert [segment["text"] for segment in segments] == expected(data, words)
    assert body["text"] == " ".join(expected(data, words))
    assert len(segments) >= 7
    assert [s["start"] for s in segments[1:]] == [s["end"] for s in segments[:-1]]
    assert all(w.audio.size <= 30 * SAMPLE_RATE for batch in engine.batches for w in batch)


async def test_a_file_has_one_language(make_app, serve, wav, engine):
    """Without a language, a first window of some length decides for the others."""
    async with serve(make_app()) as client:
        body = (await post(client, wav(100))).json()
    first, *rest = [w.language for batch in engine.batches[1:] for w in batch]  # the first batch warmed up
    assert (first, set(rest), body["language"]) == (None, {"it"}, "it")
    assert len(engine.batches[1]) == 1


def pauses(audio, *seconds):
    """Put pauses of 0.4 s there."""
    for start in seconds:
        audio[round(start * SAMPLE_RATE) : round((start + 0.4) * SAMPLE_RATE)] = 0
    return audio


@pytest.fixture
def doubtful(make_engine, words):
    """Make an elastic engine that loops over these pieces of audio unless it may spend 30 s on them."""

    def make(*pieces, **bad):
        engine = make_engine(elastic=True)
        answer, looping = engine._result, {words(piece) for piece in pieces}

        def result(window):
            found = answer(window)
            is_bad = words(window.audio) in looping and not window.full_context
            return replace(found, text="no no no no", **bad) if is_bad else found

        engine._result = result
        return engine

    return make


@pytest.mark.parametrize("bad", [{"compression_ratio": 9.0}, {"finish_reason": "length"}, {"avg_logprob": -2.0}])
@pytest.mark.parametrize("language", [None, "it"])
async def test_what_looks_wrong_is_decoded_again(make_app, doubtful, serve, wav, words, tone, bad, language):
    """Exactly the windows that loop or doubt at a short context pay for 30 s, and that answer is given."""
    data = wav(pauses(tone(46) * np.linspace(0.2, 1, 46 * SAMPLE_RATE, dtype=np.float32), 11, 22, 33))
    audio = decode_audio(data)
    pieces = [audio[s.start : s.end] for s in cut(audio, elastic=True)]
    assert len(pieces) == 4
    engine = doubtful(pieces[0], pieces[2], **bad)
    app = make_app(engine)
    async with serve(app) as client:
        form = {} if language is None else {"language": language}
        body = (await post(client, data, **form)).json()
        assert app.state.models.main.scheduler.stats().waiting_s == pytest.approx(0)
    assert body["text"] == " ".join(map(words, pieces))
    asked = [(words(w.audio), w.full_context) for batch in engine.batches[1:] for w in batch]
    expected = [(words(piece), False) for piece in pieces] + [(words(pieces[i]), True) for i in (0, 2)]
    assert sorted(asked) == sorted(expected)
    assert all(len({w.full_context for w in batch}) == 1 for batch in engine.batches)


async def test_a_loop_at_full_context_is_decoded_less_greedily(make_app, engine, serve, wav):
    """Hotter and hotter until it is good; what it took is told, and only the windows that needed it paid for it."""
    answer = engine._result

    def result(window):
        heat = window.options.temperature
        said = replace(answer(window), temperature=heat)
        is_bad = window.audio.size == 2 * SAMPLE_RATE and heat < 0.6
        return replace(said, text="no no no", compression_ratio=9.0) if is_bad else said

    engine._result = result
    app = make_app()
    async with serve(app) as client:
        first, second = (await post(client, wav(2))).json(), (await post(client, wav(1))).json()
        assert app.state.models.main.scheduler.stats().waiting_s == 0
    assert first["text"].startswith("n32000")
    assert (first["segments"][0]["temperature"], first["segments"][0]["flags"]) == (0.6, [])
    assert second["segments"][0]["temperature"] == 0.0
    heats = [window.options.temperature for batch in engine.batches[1:] for window in batch]
    assert heats == [0.0, 0.2, 0.4, 0.6, 0.0]


@pytest.mark.parametrize(
    ("guard", "tries", "text", "flags", "dropped"),
    [
        ("redecode", 6, "no no no", ["loop"], []),
        ("mark", 1, "no no no", ["loop"], []),
        ("drop", 6, "", None, ["loop"]),
        ("keep", 1, "no no no", [], []),
    ],
)
async def test_the_guard_is_chosen(make_app, engine, serve, wav, guard, tries, text, flags, dropped):
    """Decode again and mark, mark, leave out and tell, or believe."""
    answer = engine._result
    engine._result = lambda window: replace(answer(window), text="no no no", compression_ratio=9.0)
    async with serve(make_app()) as client:
        warm = len(engine.batches)
        body = (await post(client, wav(2), guard=guard)).json()
    assert len(engine.batches) - warm == tries
    assert (body["text"], [segment["flags"] for segment in body["segments"]]) == (
        text,
        [] if flags is None else [flags],
    )
    assert [segment["flags"] for segment in body["dropped"]] == ([dropped] if dropped else [])
    assert not body["no_speech"]


async def test_sampling_is_done_once(make_app, engine, serve, wav):
    """A temperature that is asked for is the only one."""
    answer = engine._result
    engine._result = lambda window: replace(answer(window), avg_logprob=-2.0, temperature=window.options.temperature)
    async with serve(make_app()) as client:
        warm = len(engine.batches)
        body = (await post(client, wav(2), temperature="0.3")).json()
    assert len(engine.batches) == warm + 1
    assert (body["segments"][0]["temperature"], body["segments"][0]["flags"]) == (0.3, ["low_logprob"])


async def test_silence_inside_a_file_is_not_decoded(make_app, make_engine, serve, wav, tone):
    """Where context is elastic, a minute of silence between two sentences costs nothing."""
    engine = make_engine(elastic=True)
    audio = np.concatenate([tone(12), np.zeros(60 * SAMPLE_RATE, np.float32), tone(5)])
    app = make_app(engine)
    async with serve(app) as client:
        body = (await post(client, wav(audio), language="it")).json()
        assert app.state.models.main.scheduler.stats().audio_s == pytest.approx(12.3 + 5.3)
    assert body["duration"] == 77
    times = [(segment["start"], segment["end"]) for segment in body["segments"]]
    assert times == [(0, pytest.approx(12.3)), (pytest.approx(71.7), 77)]


@pytest.mark.parametrize("language", [None, "it"])
async def test_features_are_prepared_before_queueing(make_app, make_engine, serve, wav, tone, language):
    """The first eight windows are prepared on another thread, and reach the engine so; the rest wait as audio."""
    engine, threads = make_engine(elastic=True), []

    def prepare(window):
        threads.append(threading.current_thread())
        return replace(window, features=np.zeros((80, 128), np.float32))

    engine.prepare = prepare
    audio = pauses(tone(140) * np.linspace(0.2, 1, 140 * SAMPLE_RATE, dtype=np.float32), *range(11, 140, 11))
    form = {} if language is None else {"language": language}
    async with serve(make_app(engine)) as client:
        body = (await post(client, wav(audio), **form)).json()
    decoded = sorted((w for batch in engine.batches[1:] for w in batch), key=lambda w: float((w.audio**2).mean()))
    assert len(decoded) == len(body["segments"]) > 10
    assert [w.features is not None for w in decoded] == [i < 8 for i in range(len(decoded))]
    assert len(threads) == 8
    assert threading.main_thread() not in threads


@pytest.mark.parametrize(("asked", "code"), [("ru", "ru"), ("IT", "it"), ("en-GB", "en")])
async def test_a_given_language_and_task_reach_the_engine(make_app, serve, wav, engine, asked, code):
    """The language is taken however it is spelt, and the task is obeyed."""
    async with serve(make_app()) as client:
        body = (await post(client, wav(1), language=asked, task="translate")).json()
    assert body["language"] == code
    (window,) = engine.batches[-1]
    assert (window.language, window.task) == (code, "translate")


@pytest.mark.parametrize("seconds", [1, 45])
async def test_silence_is_an_empty_text(make_app, serve, wav, engine, seconds):
    """Silence of any length is 200 with an empty text, and the engine never hears of it."""
    async with serve(make_app()) as client:
        warm = len(engine.batches)
        response = await post(client, wav(seconds, 0.0))
    assert response.status_code == 200
    body = response.json()
    assert (body["text"], body["language"], body["segments"]) == ("", None, [])
    assert body["duration"] == seconds
    assert len(engine.batches) == warm


async def test_concurrent_uploads_share_a_batch(make_app, serve, wav, words, engine, until):
    """Two uploads that arrive while the engine is busy are decoded in one batch, each with its own words."""
    app = make_app()
    files = [wav(1 + i, 0.1 + 0.1 * i) for i in range(3)]
    texts = {}

    async def upload(client, i):
        texts[i] = (await post(client, files[i])).json()["text"]

    async with serve(app) as client, anyio.create_task_group() as group:
        engine.gate.clear()
        warm = len(engine.batches)
        group.start_soon(upload, client, 0)
        await until(lambda: len(engine.batches) > warm)
        group.start_soon(upload, client, 1)
        group.start_soon(upload, client, 2)
        await until(lambda: app.state.models.main.scheduler.stats().waiting_windows == 2)
        engine.gate.set()
        await until(lambda: len(texts) == 3)
        assert app.state.models.main.scheduler.stats().last_batch_sizes == (1, 2)
    assert texts == {i: expected(data, words)[0] for i, data in enumerate(files)}


async def test_many_uploads_each_get_their_own_words(make_app, make_engine, serve, wav, words):
    """Forty files of any length at once: no answer holds a word of another's file."""
    rng = np.random.default_rng(7)
    files = [wav(float(s), float(a)) for s, a in zip(rng.uniform(0.1, 35, 40), rng.uniform(0.1, 1, 40), strict=True)]
    texts = {}

    async def upload(client, i):
        texts[i] = (await post(client, files[i])).json()["text"]

    async with serve(make_app(make_engine(elastic=True))) as client, anyio.create_task_group() as group:
        for i in range(len(files)):
            group.start_soon(upload, client, i)
    assert texts == {i: " ".join(expected(data, words)) for i, data in enumerate(files)}


async def test_health_answers_while_the_engine_computes(make_app, make_engine, serve, wav, until):
    """A batch that takes long holds up nothing else."""
    engine = make_engine()
    async with serve(make_app(engine)) as client, anyio.create_task_group() as group:
        engine.gate.clear()
        group.start_soon(post, client, wav(1))
        await until(lambda: len(engine.batches) == 2)
        with anyio.fail_after(1):
            for path in ("/health/live", "/health/ready", "/version"):
                assert (await client.get(path)).status_code == 200
        engine.gate.set()


async def test_a_client_that_leaves_frees_its_place(make_app, serve, wav, engine, until):
    """When the connection is gone, the waiting windows go too, and nothing more is decoded for it."""
    app = make_app(max_batch_size=1)
    async with serve(app) as client:
        request = client.build_request("POST", "/transcribe", files={"file": ("a", wav(300))}, data={"language": "it"})
        body, gone, sent = request.read(), anyio.Event(), []

        async def receive():
            if not sent:
                sent.append(body)
                return {"type": "http.request", "body": body, "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/transcribe", "query_string": b"", "http_version": "1.1"}
        scope["headers"] = [(name.lower(), value) for name, value in request.headers.raw]
        engine.gate.clear()
        async with anyio.create_task_group() as group:
            group.start_soon(app, scope, receive, send)
            await until(lambda: app.state.models.main.scheduler.stats().waiting_windows >= 9)
            gone.set()
            await until(lambda: app.state.models.main.scheduler.stats().waiting_s == 0)
        assert sent[1]["status"] == 499
        engine.gate.set()
        assert (await post(client, wav(1))).status_code == 200
    assert len(engine.batches) <= 4  # the warm-up, the one that ran, perhaps the next, and the last upload's


async def test_one_line_is_logged_and_no_word_of_it(make_app, serve, wav, caplog):
    """The log tells a request's id, status, time and seconds of audio; no text, no file name."""
    caplog.set_level(logging.INFO, "whisperloop.service")
    async with serve(make_app()) as client:
        caplog.clear()
        response = await client.post(
            "/transcribe", files={"file": ("private-name.wav", wav(2))}, headers={"X-Request-ID": "call-1"}
        )
    (record,) = [r for r in caplog.records if r.name == "whisperloop.service"]
    line = json.loads(record.getMessage())
    assert line | {"ms": 0} == {
        "request_id": "call-1",
        "model": "echo@1",
        "audio_s": 2.0,
        "segments": 1,
        "method": "POST",
        "path": "/transcribe",
        "status": 200,
        "ms": 0,
    }
    assert "private-name" not in caplog.text
    assert response.json()["text"] not in caplog.text
