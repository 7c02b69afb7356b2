"""What is wrong with a request is said in OpenAI's error object, and nothing that is sent is a 5xx."""

import httpx
import openai

from tests.conformance.sound import mutated, noise, read_wav, silence
from tests.conformance.suite import Server, Skip, body_of, check, error_of, refused, said_without_effect, same_words

SPEC = "openai-openapi: ErrorResponse: message, type, param and code are required"
N_MUTATED = 200


@check("errors", SPEC)
def missing_file_is_400(server: Server) -> None:
    """A form without a file, or with a text in its place, is a 400 that names file."""
    refused(server.http.post("audio/transcriptions", files={"model": (None, server.model)}), param="file")
    parts = {"model": (None, server.model), "file": (None, "clip.wav")}
    refused(server.http.post("audio/transcriptions", files=parts), param="file")


@check("errors", SPEC)
def missing_model_is_400(server: Server) -> None:
    """A form without a model is a 400 that names model."""
    response = server.http.post("audio/transcriptions", files={"file": ("clip.wav", server.clip.content)})
    refused(response, param="model")


@check("errors", f"{SPEC}; FastAPI answers 422 with detail")
def other_bodies_are_400(server: Server) -> None:
    """JSON, a form that is not multipart, a boundary that is missing and no body at all are 400."""
    for body in (
        {"json": {"model": server.model, "file": "clip.wav"}},
        {"data": {"model": server.model}},
        {"content": b"--XX", "headers": {"Content-Type": "multipart/form-data"}},
        {"content": b"\0" * 100, "headers": {"Content-Type": "multipart/form-data; boundary=XX"}},
        {},
    ):
        refused(server.http.post("audio/transcriptions", **body))


@check("errors", f"{SPEC}; peers: 500")
def empty_file_is_400(server: Server) -> None:
    """A file of no bytes, and a WAV file of no samples, is a 400 that names file and has a code."""
    for content in (b"", silence(0).wav()):
        response = server.post(content)
        refused(response, param="file")
        assert error_of(response)["code"], "no code"


@check("errors", "OpenAI answers 400 audio_too_short below 0.1 s (UpstreetAI/usdk#637)")
def tiny_file_is_400(server: Server) -> None:
    """10 ms of sound is a 400 that names file and says how short is too short; 0.2 s is long enough."""
    response = server.post(noise(0.01).wav())
    refused(response, param="file", code="audio_too_short")
    assert "0.1" in error_of(response)["message"], f"no limit in {error_of(response)['message']!r}"
    body_of(server.post(noise(0.2).wav()))


@check("errors", f"{SPEC}; whisper-asr-webservice: RuntimeError, so 500")
def rubbish_is_400(server: Server) -> None:
    """What is no audio (text, a picture, random bytes, a container without sound) is a 400 that names file."""
    picture = bytes.fromhex("89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489")
    for content in (b"hello", b"<html></html>" * 100, picture, noise(0.5).samples.tobytes(), b"\0" * 5000):
        response = server.post(content)
        refused(response, param="file")
        assert error_of(response)["code"], "no code"


@check("errors", "A transcript that silently lacks its end is worse than an error")
def cut_off_file_is_not_passed_off_as_whole(server: Server) -> None:
    """A WAV file that was cut off is a 400 that names file, or its answer says that something is missing."""
    content = server.clip.content
    response = server.post(content[: len(content) * 2 // 3])
    is_marked = response.status_code == 200 and bool(response.json().get("partial"))
    assert is_marked or said_without_effect(response, "file"), f"passed off as whole: {response.text[:150]}"


@check("errors", f"{SPEC}; OpenAI: Maximum content size limit exceeded")
def too_large_file_is_413(server: Server) -> None:
    """A file above the limit is 413 in the error object, which names the limit; the next request is answered."""
    if server.upload_limit is None:
        raise Skip("the server's limit is not known (--upload-limit BYTES)")
    response = server.post(bytes(server.upload_limit + 1))
    refused(response, status=413)
    assert any(letter.isdigit() for letter in error_of(response)["message"]), "no limit in the message"
    try:
        server.openai.audio.transcriptions.create(file=bytes(server.upload_limit + 1), model=server.model)
    except openai.APIStatusError as error:
        assert error.status_code == 413, error.status_code  # noqa: PT017 - several kinds are right
    same_words(server.clip.text, body_of(server.post())["text"])


@check("errors", "openai-python: _client.py _make_status_error")
def python_client_raises_its_exceptions(server: Server) -> None:
    """OpenAI's Python client raises BadRequestError and NotFoundError, with param, code, type and request id."""
    for wrong, kind, param in (
        ({"file": b"rubbish"}, openai.BadRequestError, "file"),
        ({"file": b""}, openai.BadRequestError, "file"),
        ({"language": "klingon"}, openai.BadRequestError, "language"),
        ({"temperature": 3}, openai.BadRequestError, "temperature"),
        ({"response_format": "docx"}, openai.BadRequestError, "response_format"),
        ({"model": "no-such-model"}, openai.NotFoundError, "model"),
    ):
        try:
            server.openai.audio.transcriptions.create(**{"file": server.clip.path, "model": server.model} | wrong)
        except kind as error:
            assert error.param == param, f"param {error.param!r} for {wrong}"  # noqa: PT017 - as in the docstring
            assert error.code, f"no code for {wrong}"  # noqa: PT017
            assert error.type, f"no type for {wrong}"  # noqa: PT017
            assert error.request_id, f"no request id for {wrong}"  # noqa: PT017
        except openai.OpenAIError as error:
            raise AssertionError(f"{type(error).__name__} for {wrong}") from error
        else:
            raise AssertionError(f"nothing is raised for {wrong}")


@check("errors", SPEC)
def unknown_paths_are_404(server: Server) -> None:
    """A path that there is not is a 404 in the error object: OpenAI's clients raise NotFoundError."""
    refused(server.http.get("no/such/path"), status=404)
    refused(server.http.post("audio/no-such-path"), status=404)


@check("errors", "OpenAI's clients send one of each")
def repeated_fields_are_not_guessed(server: Server) -> None:
    """Two files or two models are a 400, not one of the two."""
    file = ("file", ("clip.wav", server.clip.content))
    model = ("model", (None, server.model))
    refused(server.http.post("audio/transcriptions", files=[file, file, model]))
    refused(server.http.post("audio/transcriptions", files=[file, model, model]), param="model")


@check("errors", "Damage found by fuzzing kills decoders: never a 5xx")
def damaged_files_are_no_server_errors(server: Server) -> None:
    """200 damaged copies of the clip, in every container that lies beside it, are each a 200 or a 4xx, never a 5xx."""
    originals = [server.clip.content] + [
        path.read_bytes() for path in sorted(server.clip.path.parent.glob(f"{server.clip.path.stem}.*"))
    ]
    for seed in range(N_MUTATED):
        content = mutated(originals[seed % len(originals)], seed)
        try:
            response = server.post(content)
        except httpx.TransportError as error:
            raise AssertionError(f"the connection broke at seed {seed}: {type(error).__name__}") from error
        assert response.status_code < 500, f"status {response.status_code} at seed {seed}: {response.text[:150]}"
        if response.status_code != 200:
            refused(response, status=400, param="file")
    same_words(server.clip.text, body_of(server.post())["text"])


@check("errors", "Declared lengths are claims: nobody allocates what a header says")
def lying_headers_are_no_server_errors(server: Server) -> None:
    """A WAV header that claims four gigabytes, no channels or no sample rate is a 200 or a 400, never a 5xx."""
    content = server.clip.content
    assert read_wav(content).seconds > 0
    for at, lie in ((4, b"\xff" * 4), (40, b"\xff\xff\xff\x7f"), (22, b"\0\0"), (24, b"\0" * 4), (34, b"\0\0")):
        response = server.post(content[:at] + lie + content[at + len(lie) :])
        assert response.status_code in {200, 400}, f"status {response.status_code} for {lie!r} at {at}"
    same_words(server.clip.text, body_of(server.post())["text"])
