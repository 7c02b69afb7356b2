"""What answers look like: formats, streams, several files, files that are damaged, and which language is spoken."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from speech.audio import SAMPLE_RATE, AudioError, stream_audio
from speech.engine import Word

pytestmark = pytest.mark.anyio

OPENAI = "/v1/audio/transcriptions"
PLAIN = {
    "text": ("text/plain", r"n\d+r\d+\n"),
    "srt": ("text/plain", r"1\n00:00:00,000 --> 00:00:\d\d,\d{3}\nn\d+r\d+\n\n"),
    "vtt": ("text/vtt", r"WEBVTT\n\n00:00:00\.000 --> 00:00:\d\d\.\d{3}\nn\d+r\d+\n\n"),
    "tsv": ("text/tab-separated-values", r"start\tend\ttext\n0\t\d+\tn\d+r\d+\n"),
}
EMPTY = {"text": "\n", "srt": "", "vtt": "WEBVTT\n\n", "tsv": "start\tend\ttext\n"}


async def post(client, data, path="/transcribe", **form):
    """Upload a file."""
    model = {"model": "whisper-1"} if path.startswith("/v1") else {}
    return await client.post(path, files={"file": ("a.wav", data)}, data=model | form)


async def events(client, data, path="/transcribe", **form):
    """Return the events of a stream."""
    response = await post(client, data, path, stream="true", **form)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-accel-buffering"] == "no"  # or nginx would keep all until the last
    return [json.loads(line.removeprefix("data: ")) for line in response.text.splitlines() if line]


@pytest.fixture
def noise():
    """Make so many seconds of noise that grows louder, so that each window has words of its own."""

    def make(seconds):
        samples = np.random.default_rng(1).uniform(-0.5, 0.5, seconds * SAMPLE_RATE).astype(np.float32)
        return samples * np.linspace(0.2, 1, samples.size, dtype=np.float32)

    return make


@pytest.fixture
def cut_off(wav, noise):
    """Return a file whose header promises 60 s, and of which two thirds are there."""
    data = wav(noise(60))
    return data[: 44 + 2 * 40 * SAMPLE_RATE]


@pytest.mark.parametrize(
    ("path", "response_format"),
    [(path, name) for path in ("/transcribe", OPENAI) for name in PLAIN if (path, name) != (OPENAI, "tsv")],
)
async def test_plain_formats_are_plain_bodies(make_app, serve, wav, path, response_format):
    """With their own content type, in UTF-8; silence is the format's emptiest file."""
    content_type, pattern = PLAIN[response_format]
    async with serve(make_app()) as client:
        answer = await post(client, wav(2), path, response_format=response_format)
        silence = await post(client, wav(2, 0.0), path, response_format=response_format)
    assert answer.headers["content-type"] == f"{content_type}; charset=utf-8"
    assert re.fullmatch(pattern, answer.text)
    assert answer.headers["x-whisperloop-model"] == "echo@1"
    assert (silence.status_code, silence.text) == (200, EMPTY[response_format])


@pytest.mark.parametrize("response_format", ["json", "verbose_json"])
async def test_json_is_json(make_app, serve, wav, response_format):
    """By both routes; the native one has one JSON, whatever it is called."""
    async with serve(make_app()) as client:
        for path in ("/transcribe", OPENAI):
            answer = await post(client, wav(2), path, response_format=response_format)
            assert answer.headers["content-type"] == "application/json"
            assert answer.json()["text"].startswith("n32000")
            assert ("timings" in answer.json()) is (path == "/transcribe")
            assert (await post(client, wav(2, 0.0), path, response_format=response_format)).json()["text"] == ""


@pytest.fixture
def timed(engine):
    """Let the echo engine say two sentences, with times and log-probabilities where they are asked for."""
    answer = engine._result

    def result(window):
        words = (Word(0.5, 1.0, " Uno.", 0.9, (2,)), Word(1.2, 1.5, " Due", 0.8, (3, 4)))
        return replace(
            answer(window),
            text="Uno. Due",
            tokens=(2, 3, 4),
            token_logprobs=(-0.1, -0.2, -0.3) if window.options.token_logprobs else None,
            words=words if window.options.word_timestamps else None,
        )

    engine._result = result


@pytest.mark.usefixtures("timed")
async def test_words_and_log_probabilities_are_told_where_asked_for(make_app, serve, wav):
    """A sentence's own, in the native JSON; without, one segment a window and null."""
    form = {"timestamp_granularities": "word", "include": "logprobs"}
    async with serve(make_app()) as client:
        body, bare = (await post(client, wav(2), **form)).json(), (await post(client, wav(2))).json()
    assert [segment["text"] for segment in body["segments"]] == ["Uno.", "Due"]
    assert [segment["words"] for segment in body["segments"]] == [
        [{"word": "Uno.", "start": 0.5, "end": 1.0, "probability": 0.9}],
        [{"word": "Due", "start": 1.2, "end": 1.5, "probability": 0.8}],
    ]
    told = [[one["logprob"] for one in segment["logprobs"]] for segment in body["segments"]]
    assert told == [[-0.1], [-0.2, -0.3]]
    assert [(segment["seek"], segment["tokens"]) for segment in body["segments"]] == [(0, [2]), (0, [3, 4])]
    assert [(segment["words"], segment["logprobs"]) for segment in bare["segments"]] == [(None, None)]
    assert body["text"] == bare["text"] == "Uno. Due"


@pytest.mark.usefixtures("timed")
async def test_subtitles_are_cut_at_sentences(make_app, serve, wav):
    """With the times of their words; OpenAI's verbose JSON has the words, too."""
    async with serve(make_app()) as client:
        srt = (await post(client, wav(2), OPENAI, response_format="srt")).text
        tsv = (await post(client, wav(2), response_format="tsv")).text
        form = {"response_format": "verbose_json", "timestamp_granularities[]": ["word", "segment"]}
        verbose = (await post(client, wav(2), OPENAI, **form)).json()
    assert srt == "1\n00:00:00,500 --> 00:00:01,500\nUno. Due\n\n"  # two flashes of a second are one that can be read
    assert tsv == "start\tend\ttext\n500\t1000\tUno.\n1200\t1500\tDue\n"
    assert [(word["word"], word["start"]) for word in verbose["words"]] == [("Uno.", 0.5), ("Due", 1.2)]
    assert [segment["text"] for segment in verbose["segments"]] == ["Uno.", "Due"]


async def test_a_damaged_file_is_answered_in_part(make_app, serve, cut_off):
    """What could be heard, and why the rest is missing; the header says it in every format, both JSONs in full."""
    async with serve(make_app()) as client:
        for path in ("/transcribe", OPENAI):
            for response_format in ("json", "verbose_json"):
                answer = await post(client, cut_off, path, response_format=response_format)
                assert answer.status_code == 200
                partial = answer.json()["partial"]
                assert (partial["code"], partial["decoded_seconds"]) == ("truncated_audio", pytest.approx(40, abs=0.2))
                assert "40.00 s" in partial["message"]
                assert answer.headers["x-whisperloop-partial"] == "truncated_audio"
                assert answer.json()["text"]
            for response_format in ("text", "srt", "vtt"):
                answer = await post(client, cut_off, path, response_format=response_format)
                assert (answer.status_code, answer.headers["x-whisperloop-partial"]) == (200, "truncated_audio")
                assert "n" in answer.text


async def test_a_damaged_file_ends_its_stream_with_the_reason(make_app, serve, cut_off):
    """The last event has it; in strict mode it is an error, after what was heard."""
    async with serve(make_app()) as client:
        for path in ("/transcribe", OPENAI):
            *deltas, done = await events(client, cut_off, path)
            assert done["type"] == "transcript.text.done"
            assert done["partial"]["code"] == "truncated_audio"
            assert done["text"] == "".join(delta["delta"] for delta in deltas)
    async with serve(make_app(strict=True)) as client:
        for path in ("/transcribe", OPENAI):
            *deltas, error = await events(client, cut_off, path)
            assert {delta["type"] for delta in deltas} == {"transcript.text.delta"}
            assert error.keys() == {"error"}
            assert error["error"]["code"] == "truncated_audio"


async def test_damage_in_the_middle_is_told_with_the_time(make_app, serve, wav, noise, decode_with):
    """What was decoded until there is transcribed."""

    def damaged(file, **limits):
        for i, block in enumerate(stream_audio(file, **limits)):
            if i == 350:
                raise AudioError("damaged_audio", "The audio is damaged after 35.00 s.")
            yield block

    decode_with(damaged)
    async with serve(make_app()) as client:
        body = (await post(client, wav(noise(60)))).json()
    assert body["partial"] == {
        "code": "damaged_audio",
        "message": "The audio is damaged after 35.00 s.",
        "decoded_seconds": 35.0,
    }
    assert len(body["segments"]) == 2


async def test_a_native_stream_is_the_text_in_pieces_and_then_everything(make_app, serve, wav, noise):
    """Deltas as they come, a window each, and at the end the whole answer as without a stream."""
    data = wav(noise(70))
    async with serve(make_app()) as client:
        *deltas, done = await events(client, data)
        whole = (await post(client, data)).json()
    assert len(deltas) == len(whole["segments"]) >= 3
    assert {delta["type"] for delta in deltas} == {"transcript.text.delta"}
    assert "".join(delta["delta"] for delta in deltas) == whole["text"]
    assert done.pop("type") == "transcript.text.done"
    assert done.pop("timings").keys() == whole.pop("timings").keys()
    assert done == whole


@pytest.mark.usefixtures("timed")
async def test_a_delta_has_its_log_probabilities(make_app, serve, wav):
    """Those of its own tokens."""
    async with serve(make_app()) as client:
        delta, done = await events(client, wav(2), include="logprobs")
    assert [one["logprob"] for one in delta["logprobs"]] == [-0.1, -0.2, -0.3]
    assert [one["logprob"] for segment in done["segments"] for one in segment["logprobs"]] == [-0.1, -0.2, -0.3]


async def test_a_native_stream_of_silence_is_its_end(make_app, serve, wav):
    """There is nothing to tell before."""
    async with serve(make_app()) as client:
        (done,) = await events(client, wav(40, 0.0))
    assert (done["type"], done["text"], done["no_speech"], done["duration"]) == ("transcript.text.done", "", True, 40.0)


async def test_a_stream_that_cannot_begin_is_an_error_as_everywhere(make_app, serve):
    """With a status, for nothing was sent yet."""
    async with serve(make_app()) as client:
        answer = await post(client, b"no audio", stream="true")
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_audio")


async def several(client, *files, **form):
    """Upload several files."""
    uploads = [("file", (name, content)) for name, content in files]
    return await client.post("/transcribe", files=uploads, data=form)


async def test_several_files_are_answered_in_their_order(make_app, serve, wav, cut_off):
    """Each with its transcription or its error: one that cannot be used does not harm the others."""
    async with serve(make_app()) as client:
        files = [("b.wav", wav(3)), ("bad.txt", b"no audio"), ("a.wav", wav(2)), ("half.wav", cut_off), ("b.wav", b"")]
        answer = await several(client, *files, language="it")
        alone = (await post(client, wav(3), language="it")).json()
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [result["file"] for result in results] == [name for name, _ in files]
    assert [result["error"] and result["error"]["code"] for result in results] == [
        *(None, "unsupported_audio", None, None, "empty_audio")
    ]
    assert [result["transcription"] is None for result in results] == [False, True, False, False, True]
    assert results[1]["error"]["request_id"] == answer.headers["x-request-id"]
    assert results[3]["transcription"]["partial"]["code"] == "truncated_audio"
    for body in (alone, results[0]["transcription"]):
        body.pop("timings")
    assert results[0]["transcription"] == alone
    assert results[2]["transcription"]["duration"] == 2.0


async def test_of_several_files_a_damaged_one_is_an_error_in_strict_mode(make_app, serve, wav, cut_off):
    """Its own; the others are answered."""
    async with serve(make_app(strict=True)) as client:
        results = (await several(client, ("a", wav(1)), ("b", cut_off))).json()["results"]
    assert [result["error"] and result["error"]["code"] for result in results] == [None, "truncated_audio"]


async def test_a_window_that_fails_fails_its_file_only(make_app, serve, wav, engine):
    """With the same code as alone, and no word of why."""
    engine.fails = lambda window: window.audio.size == 2 * SAMPLE_RATE
    async with serve(make_app()) as client:
        answer = await several(client, ("a", wav(1)), ("b", wav(2)), ("c", wav(3)))
    assert [result["error"] and result["error"]["code"] for result in answer.json()["results"]] == [
        *(None, "decoding_failed", None)
    ]
    assert "/secret" not in answer.text


async def test_a_language_is_detected(make_app, serve, wav, engine):
    """By the first window in which somebody speaks: code, name and probabilities, the likeliest first."""
    answer = engine._result
    engine._result = lambda window: replace(
        answer(window),
        language="it",
        language_probability=0.7,
        language_probabilities={"en": 0.2, "it": 0.7, "ru": 0.1},
    )
    audio = np.concatenate([np.zeros(40 * SAMPLE_RATE), np.full(60 * SAMPLE_RATE, 0.3)]).astype(np.float32)
    async with serve(make_app()) as client:
        warm = len(engine.batches)
        response = await post(client, wav(audio), "/detect-language", model="")
    body = response.json()
    assert list(body["probabilities"].items()) == [("it", 0.7), ("en", 0.2), ("ru", 0.1)]
    del body["probabilities"]
    assert body == {"language": "it", "name": "italian", "probability": 0.7, "no_speech": False, "model": "echo@1"}
    assert len(engine.batches) == warm + 1
    assert response.headers["x-whisperloop-model"] == "echo@1"


async def test_a_language_is_not_detected_in_a_syllable(make_app, make_engine, serve, wav):
    """What is short or nobody's speech does not decide; what comes after is listened to, too, and paid for."""
    engine = make_engine(elastic=True)
    answer = engine._result
    said = iter([("", "ru", 0.9), ("da", "ru", 0.9), ("buongiorno", "it", 0.8), ("arrivederci", "en", 0.9)])

    def result(window):
        text, language, probability = next(said)
        among = {language: probability}
        return replace(answer(window), text=text, language=language, language_probabilities=among)

    audio = np.full(30 * SAMPLE_RATE, 0.3, np.float32)
    for begin, end in ((1, 4), (5, 8), (14, 17)):
        audio[begin * SAMPLE_RATE : end * SAMPLE_RATE] = 0
    async with serve(make_app(engine)) as client:
        warm, engine._result = len(engine.batches), result
        body = (await post(client, wav(audio), "/detect-language")).json()
    assert (body["language"], len(engine.batches) - warm, next(said)[0]) == ("it", 3, "arrivederci")
    assert body["probability"] > body["probabilities"]["ru"]


async def test_languages_to_choose_from_reach_the_engine(make_app, serve, wav, engine):
    """In the model's codes."""
    async with serve(make_app()) as client:
        await client.post("/detect-language", files={"file": wav(1)}, data={"languages[]": ["it-IT", "EN"]})
    (window,) = engine.batches[-1]
    assert (window.language, window.languages) == (None, ("it", "en"))


async def test_silence_has_no_language(make_app, serve, wav, engine):
    """That is an answer, and no error; the engine is not asked."""
    async with serve(make_app()) as client:
        warm = len(engine.batches)
        body = (await post(client, wav(35, 0.0), "/detect-language")).json()
    assert body == {
        "language": None,
        "name": None,
        "probability": None,
        "probabilities": {},
        "no_speech": True,
        "model": "echo@1",
    }
    assert len(engine.batches) == warm


@pytest.mark.parametrize(
    ("content", "form", "status", "code"),
    [
        (b"", {}, 400, "empty_audio"),
        (b"no audio", {}, 415, "unsupported_audio"),
        (None, {"languages": "klingon"}, 400, "unknown_language"),
        (None, {"model": "whisper-9"}, 404, "model_not_found"),
        (None, {"task": "translate"}, 400, "unknown_parameter"),
    ],
)
async def test_a_detection_fails_as_a_transcription_does(make_app, serve, wav, content, form, status, code):
    """With the same codes."""
    async with serve(make_app()) as client:
        answer = await post(client, wav(1) if content is None else content, "/detect-language", **form)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize("model", ["", "whisper-1", "echo@1", "whisper@production"])
async def test_the_served_model_has_several_names(make_app, serve, wav, model):
    """Or none: whatever is served answers."""
    async with serve(make_app()) as client:
        assert (await post(client, wav(1), model=model)).status_code == 200


async def test_noise_is_no_speech(make_app, serve, wav, noise, engine):
    """The real voice detector, as the service uses it unless it is switched off for all or for one request."""
    async with serve(make_app(vad=True)) as client:
        warm = len(engine.batches)
        body = (await post(client, wav(noise(5)))).json()
        assert (body["text"], body["no_speech"], len(engine.batches)) == ("", True, warm)
        assert (await post(client, wav(noise(5)), vad="false")).json()["text"]
    async with serve(make_app(vad=False)) as client:
        body = (await post(client, wav(noise(5)), vad="true")).json()
        assert body["text"]
        assert "switched off" in body["warnings"][0]
        detected = await post(client, wav(noise(5)), "/detect-language", vad="true")
        assert "switched off" in detected.headers["x-whisperloop-warnings"]


@pytest.mark.parametrize(
    ("installed", "wanted", "why"), [(False, True, "not installed"), (True, False, "switched off")]
)
async def test_a_voice_detector_that_is_not_here_is_missed(
    make_app, serve, wav, monkeypatch, caplog, installed, wanted, why
):
    """Who asks for it is told so; who runs the service, if it was never switched off. Not every machine has a wheel."""
    monkeypatch.setattr("speech.vad.is_available", lambda: installed)
    async with serve(make_app(vad=wanted)) as client:
        asked = (await post(client, wav(1), vad="true")).json()
        silent = (await post(client, wav(1))).json()
    assert [warning for warning in asked["warnings"] if why in warning]
    assert silent["warnings"] == []
    assert ("not installed" in caplog.text) == (not installed)
