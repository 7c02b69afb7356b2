"""What an answer looks like in each format, and which files are understood."""

import re

import httpx
from openai.types.audio import Transcription, TranscriptionVerbose

from tests.conformance.sound import CONTAINERS, SAME_FORMAT, read_wav
from tests.conformance.suite import (
    Server,
    Skip,
    body_of,
    check,
    error_of,
    names,
    number,
    plain_of,
    refused,
    same_words,
    succeeded,
    words,
)

SPEC = "openai-openapi: CreateTranscriptionRequest"
SRT_TIME = r"\d{2,}:\d\d:\d\d,\d{3}"
VTT_TIME = r"(?:\d{2,}:)?\d\d:\d\d\.\d{3}"
SEGMENT = {"id", "seek", "start", "end", "text", "tokens", "temperature", "avg_logprob", "compression_ratio"}


@check("formats", f"{SPEC}.response_format; LocalAI answers verbose by default")
def json_is_the_default(server: Server) -> None:
    """Without response_format, the answer is a JSON object with the text, and no segments."""
    body = body_of(server.post())
    same_words(server.clip.text, body["text"])
    assert "segments" not in body, "verbose_json, unasked"


@check("formats", SPEC)
def json_has_the_words(server: Server) -> None:
    """response_format=json has what was said, in `text`."""
    same_words(server.clip.text, body_of(server.post(fields={"response_format": "json"}))["text"])


@check("formats", "openai-python: resources/audio/transcriptions.py returns str; vLLM sends JSON")
def text_is_plain(server: Server) -> None:
    """response_format=text is the bare words as text/plain."""
    response = server.post(fields={"response_format": "text"})
    same_words(server.clip.text, plain_of(response))
    assert response.headers["content-type"].startswith("text/plain"), response.headers["content-type"]


@check("formats", SPEC)
def srt_is_subrip(server: Server) -> None:
    """response_format=srt is numbered cues with times in milliseconds after a comma, and the words."""
    cues = plain_of(server.post(fields={"response_format": "srt"})).strip().split("\n\n")
    for i, cue in enumerate(cues, 1):
        assert re.fullmatch(rf"{i}\n{SRT_TIME} --> {SRT_TIME}\n.+", cue, re.DOTALL), f"cue {i} is {cue[:80]!r}"
    same_words(server.clip.text, " ".join(cue.split("\n", 2)[2] for cue in cues))


@check("formats", f"{SPEC}; WhisperLive leaves out the WEBVTT header")
def vtt_is_webvtt(server: Server) -> None:
    """response_format=vtt begins with WEBVTT and has cues with times in milliseconds after a point."""
    response = server.post(fields={"response_format": "vtt"})
    header, *cues = plain_of(response).strip().split("\n\n")
    assert response.headers["content-type"].startswith("text/"), response.headers["content-type"]
    assert header.startswith("WEBVTT"), f"begins with {header[:30]!r}"
    for cue in cues:
        assert re.match(rf"(?:[^\n]+\n)?{VTT_TIME} --> {VTT_TIME}[^\n]*\n.+", cue), f"a cue is {cue[:80]!r}"
    same_words(server.clip.text, " ".join(cue.split("-->")[1].split("\n", 1)[1] for cue in cues))


@check("formats", "openai-openapi: CreateTranscriptionResponseVerboseJson; vLLM sends duration as a text")
def verbose_json_is_complete(server: Server) -> None:
    """verbose_json has task, language, duration as a number, text, and segments with all of Whisper's scores."""
    body = body_of(server.post(fields={"response_format": "verbose_json"}))
    assert body["task"] == "transcribe", f"task {body['task']!r}"
    same_words(server.clip.text, body["text"])
    assert body["segments"], "no segments"
    for segment in body["segments"]:
        missing = (SEGMENT | {"no_speech_prob"}) - set(segment)
        assert not missing, f"a segment lacks {sorted(missing)}"
        for name in SEGMENT - {"text", "tokens"} | {"no_speech_prob"}:
            number(segment[name])
    assert words(" ".join(segment["text"] for segment in body["segments"])) == words(body["text"]), "other words"
    seconds = read_wav(server.clip.content).seconds
    # OpenAI's own example is rounded up to a second.
    assert abs(number(body["duration"]) - seconds) <= 1.0, f"duration {body['duration']} of {seconds:.2f} s"


@check("formats", "openai-openapi: the example of verbose_json; speaches sends a code")
def language_is_an_english_name(server: Server) -> None:
    """verbose_json names the language in English, as whisper-1 does ("italian", not "it")."""
    language = body_of(server.post(fields={"response_format": "verbose_json"}))["language"]
    assert re.fullmatch(r"[a-z][a-z -]{3,}", language), f"language {language!r}"
    known = {"it": "italian", "en": "english", "ru": "russian", "de": "german", "fr": "french", "es": "spanish"}
    assert language == known.get(server.clip.language, language), f"language {language!r}"


@check("formats", "openai-openapi: TranscriptionDiarized; speaches raises NotImplementedError")
def diarized_json_is_honest(server: Server) -> None:
    """diarized_json is segments with speakers, or a 400 that names response_format; never something else or a 5xx."""
    response = server.post(fields={"response_format": "diarized_json"})
    if response.status_code == 400:
        refused(response, param="response_format")
        return
    body = body_of(response)
    assert body["segments"], "no segments"
    for segment in body["segments"]:
        assert {"id", "start", "end", "text", "speaker"} <= set(segment), f"a segment has {sorted(segment)}"
    same_words(server.clip.text, " ".join(segment["text"] for segment in body["segments"]))


@check("formats", "openai-openapi: TranscriptTextUsageDuration, TranscriptTextUsageTokens; most peers leave it out")
def usage_is_counted(server: Server) -> None:
    """Both json and verbose_json say what was used: seconds, rounded up at most by one, or tokens that add up."""
    seconds = read_wav(server.clip.content).seconds
    for response_format in ("json", "verbose_json"):
        usage = body_of(server.post(fields={"response_format": response_format})).get("usage")
        assert usage, f"no usage in {response_format}"
        if usage["type"] == "duration":
            used = number(usage["seconds"])
            assert seconds - 0.1 <= used <= seconds + 1, f"{used} of {seconds:.2f} s in {response_format}"
        else:
            assert response_format == "json", f"usage of verbose_json is {usage['type']!r}, not duration"
            assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"], f"{usage}"


@check("formats", "openai-python: resources/audio/transcriptions.py")
def python_client_reads_every_format(server: Server) -> None:
    """OpenAI's Python client returns its own types for json and verbose_json, and a str for text, srt and vtt."""
    create = server.openai.audio.transcriptions.create
    file = server.clip.path
    plain = create(file=file, model=server.model)
    assert isinstance(plain, Transcription), type(plain)
    verbose = create(file=file, model=server.model, response_format="verbose_json")
    assert isinstance(verbose, TranscriptionVerbose), type(verbose)
    for said in (plain.text, verbose.text):
        same_words(server.clip.text, said)
    for response_format in ("text", "srt", "vtt"):
        said = create(file=file, model=server.model, response_format=response_format)
        assert isinstance(said, str), f"{response_format} is {type(said)}"
        assert not said.startswith(("{", '"')), f"{response_format} is JSON: {said[:60]}"


@check("formats", f"{SPEC}.response_format")
def unknown_format_is_refused(server: Server) -> None:
    """A response_format that there is not is a 400 that names the field."""
    refused(server.post(fields={"response_format": "docx"}), param="response_format")


def container_check(ending: str) -> None:
    """Add the check of one kind of file."""

    def understood(server: Server) -> None:
        path = server.clip.path.with_suffix(f".{SAME_FORMAT.get(ending, ending)}")
        if not path.exists():
            raise Skip(f"there is no {path.name}")
        body = body_of(server.post(path.read_bytes(), name=f"clip.{ending}"))
        same_words(server.clip.text, body["text"])

    understood.__name__ = f"takes_{ending}"
    understood.__doc__ = f"A .{ending} file is understood."
    check("files", f"{SPEC}.file")(understood)


for ending in CONTAINERS:
    container_check(ending)


@check("files", "openai-python: a file given as bytes is sent with the name `upload`")
def name_needs_no_ending(server: Server) -> None:
    """A file is known by its content: with no ending, or the wrong one, it is understood all the same."""
    for name in ("upload", "clip.mp3", "запись 1.wav"):
        same_words(server.clip.text, body_of(server.post(name=name))["text"])


@check("translations", "openai-openapi: CreateTranslationRequest")
def translation_has_every_format(server: Server) -> None:
    """/audio/translations answers json, text, srt, verbose_json and vtt."""
    said = body_of(server.post(path="audio/translations"))["text"]
    assert words(said), "an empty translation"
    assert words(plain_of(server.post(path="audio/translations", fields={"response_format": "text"})))
    srt = plain_of(server.post(path="audio/translations", fields={"response_format": "srt"}))
    assert re.match(rf"1\n{SRT_TIME} --> {SRT_TIME}\n", srt), f"srt begins with {srt[:60]!r}"
    vtt = plain_of(server.post(path="audio/translations", fields={"response_format": "vtt"}))
    assert vtt.startswith("WEBVTT"), f"vtt begins with {vtt[:30]!r}"


@check("translations", "openai-openapi: CreateTranslationResponseVerboseJson: always english")
def translation_is_english(server: Server) -> None:
    """verbose_json of a translation says that its language is english; its words are not the ones that were said."""
    fields = {"response_format": "verbose_json"}
    body = body_of(server.post(path="audio/translations", fields=fields))
    assert body["language"] == "english", f"language {body['language']!r}"
    assert number(body["duration"]) > 0
    if server.clip.language != "en":
        assert words(body["text"]) != words(body_of(server.post(fields=fields))["text"]), "not translated"


@check("translations", "openai-openapi: CreateTranslationRequest has no language")
def translation_errors_are_the_same(server: Server) -> None:
    """A translation of rubbish is a 400 that names file, of an unknown model a 404 that names model."""
    refused(server.post(b"rubbish", path="audio/translations"), param="file")
    refused(server.post(path="audio/translations", fields={"model": "no-such-model"}), status=404, param="model")


@check("models", "openai-openapi: ListModelsResponse, Model")
def models_are_listed(server: Server) -> None:
    """GET /models lists objects with id, object, created and owned_by, the model that is asked for among them."""
    body = body_of(server.http.get("models"))
    assert body["object"] == "list", f"object {body['object']!r}"
    for model in body["data"]:
        assert {"id", "object", "created", "owned_by"} <= set(model), f"a model has {sorted(model)}"
        assert model["object"] == "model", f"object {model['object']!r}"
        assert isinstance(model["created"], int), f"created {model['created']!r}"
    assert server.model in [model["id"] for model in body["data"]], f"{server.model!r} is not listed"
    assert server.model in [model.id for model in server.openai.models.list()], "not by OpenAI's client"


@check("models", "openai-openapi: /models/{model}")
def every_model_can_be_retrieved(server: Server) -> None:
    """GET /models/{id} tells of each model that is listed, and the model can be asked for under that name."""
    for model in body_of(server.http.get("models"))["data"][:10]:
        assert server.openai.models.retrieve(model["id"]).id == model["id"]
    assert server.openai.models.retrieve(server.model).id == server.model


@check("models", "openai-openapi: ErrorResponse")
def unknown_model_is_404(server: Server) -> None:
    """A model that there is not is a 404 in the error object, at /models/{id} and in a form, which names model."""
    response = server.http.get("models/no-such-model")
    error_of(response)
    assert response.status_code == 404, f"status {response.status_code}"
    refused(server.post(fields={"model": "no-such-model"}), status=404, param="model", code="model_not_found")


@check("headers", "openai-python: _legacy_response.py reads x-request-id")
def requests_have_ids(server: Server) -> None:
    """Every answer has an x-request-id of its own, successes, streams and errors alike."""
    with server.stream() as streamed:
        streamed.read()
    answers = [server.post(), server.post(), server.post(b"rubbish"), server.http.get("models"), streamed]
    ids = [answer.headers.get("x-request-id") for answer in answers]
    assert all(ids), f"ids {ids}"
    assert len(set(ids)) == len(ids), f"ids {ids}"


@check("headers", "OpenAI's API reference: debugging requests")
def processing_time_is_told(server: Server) -> None:
    """An answer's openai-processing-ms is a whole number of milliseconds."""
    told = succeeded(server.post()).headers.get("openai-processing-ms", "")
    assert told.isdecimal(), f"openai-processing-ms {told!r}"


@check("headers", "openai-openapi: ErrorResponse; RFC 9110, 15.5.6")
def other_methods_are_405(server: Server) -> None:
    """GET, HEAD, PUT and DELETE on a path that takes POST are 405 (OPTIONS may be 2xx, for CORS); never a 5xx."""
    for path in ("audio/transcriptions", "audio/translations"):
        for method in ("GET", "PUT", "DELETE", "PATCH"):
            refused(server.http.request(method, path), status=405)
        assert server.http.head(path).status_code == 405, f"HEAD {path}"
        options = server.http.options(path).status_code
        assert options in {200, 204, 405}, f"OPTIONS {path} is {options}"


@check("headers", "openai-openapi: security ApiKeyAuth; speaches answers 403")
def wrong_key_is_401(server: Server) -> None:
    """Where keys are asked for, a wrong one and none are 401 in the error object, before the file is read."""
    for path in ("models", "audio/transcriptions"):
        method = "GET" if path == "models" else "POST"
        response = server.http.request(method, path, headers={"Authorization": "Bearer sk-wrong"})
        if response.status_code == 200:
            raise Skip("this server asks for no key")
        if response.status_code == 400 and names(error_of(response)["param"], "file"):
            raise Skip("this server asks for no key")
        refused(response, status=401)
    refused(httpx.get(f"{server.http.base_url}models", timeout=server.timeout), status=401)
