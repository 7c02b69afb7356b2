"""`stream=true`: server-sent events in OpenAI's shapes."""

import json
from contextlib import suppress

import httpx
import openai

from tests.conformance.sound import silence
from tests.conformance.suite import Fields, Server, body_of, check, plain_of, refused, same_words, succeeded, words

SPEC = "openai-openapi: CreateTranscriptionResponseStreamEvent"
DELTA, DONE = "transcript.text.delta", "transcript.text.done"


def _events(server: Server, content: bytes | None = None, fields: Fields | None = None) -> list[dict]:
    """Return the events of a stream, its framing checked."""
    with server.stream(content, fields) as response:
        body = response.read().decode("utf-8")
    succeeded(response)
    kind = response.headers.get("content-type", "")
    assert kind.startswith("text/event-stream"), f"content type {kind!r}"
    events = []
    for block in body.replace("\r\n", "\n").strip("\n").split("\n\n"):
        lines = [line for line in block.split("\n") if not line.startswith((":", "event:", "id:"))]
        assert all(line.startswith("data:") for line in lines), f"not an event: {block[:80]!r}"
        data = "\n".join(line.removeprefix("data:").removeprefix(" ") for line in lines)
        if data and not data.startswith("[DONE]"):
            events.append(json.loads(data))
    return events


@check("streaming", f"{SPEC}; transformers serve sends bare text, vLLM chat chunks")
def events_are_openais(server: Server) -> None:
    """stream=true is text/event-stream of `data: {json}`: deltas, then one done."""
    *deltas, done = _events(server)
    assert deltas, "no deltas"
    assert {event.get("type") for event in deltas} == {DELTA}, f"events {[event.get('type') for event in deltas]}"
    assert done.get("type") == DONE, f"the last event is {done.get('type')!r}"
    assert all(isinstance(event["delta"], str) for event in deltas)


@check("streaming", f"{SPEC}; speaches's done.text is always empty")
def done_has_the_whole_text(server: Server) -> None:
    """The done event has the whole text: what was said, and the deltas joined."""
    *deltas, done = _events(server)
    same_words(server.clip.text, done["text"])
    joined = "".join(event["delta"] for event in deltas)
    assert joined.strip() == done["text"].strip(), f"deltas {joined!r}, done {done['text']!r}"


@check("streaming", f"{SPEC}; OpenAI's guide: deltas as they are transcribed")
def long_files_come_in_pieces(server: Server) -> None:
    """A file of more than 30 s comes in more than one delta; joined, they are the text that comes without stream."""
    content = server.stitched(65, pause=0.7).sound.wav()
    *deltas, done = _events(server, content)
    assert len(deltas) > 1, "one delta for more than a minute"
    assert "".join(event["delta"] for event in deltas).strip() == done["text"].strip(), "the deltas are not the text"
    whole = body_of(server.post(content))["text"]
    assert words(whole) == words(done["text"]), f"{done['text'][:100]!r} streamed, {whole[:100]!r} whole"


@check("streaming", f"{SPEC}.logprobs")
def logprobs_are_streamed(server: Server) -> None:
    """With include[]=logprobs, the done event has the tokens of its text."""
    *_, done = _events(server, fields={"include[]": "logprobs"})
    assert done.get("logprobs"), "no logprobs"
    joined = bytes(byte for one in done["logprobs"] for byte in one["bytes"]).decode("utf-8")
    assert joined.strip() == done["text"].strip(), f"the tokens are {joined!r}"


@check("streaming", "speaches #608")
def silence_is_streamed(server: Server) -> None:
    """A stream of silence is a done event with an empty text."""
    *deltas, done = _events(server, silence(31).wav())
    assert done["type"] == DONE
    assert not words(done["text"]), f"{done['text']!r} of silence"
    assert not words("".join(event.get("delta", "") for event in deltas))


@check("streaming", "openai-python: _streaming.py")
def python_client_reads_the_stream(server: Server) -> None:
    """OpenAI's Python client yields the events as its own types, and comes to an end."""
    create = server.openai.audio.transcriptions.create
    *deltas, done = list(create(file=server.clip.path, model=server.model, stream=True))
    assert done.type == DONE, done.type
    assert "".join(event.delta for event in deltas).strip() == done.text.strip()
    same_words(server.clip.text, done.text)


@check("streaming", "openai-python: _streaming.py; a status is worth more than an event")
def what_is_wrong_at_once_has_a_status(server: Server) -> None:
    """A request for a stream that is wrong from the start gets its 4xx, not a 200 with an error inside."""
    for content, fields, status, param in (
        (b"rubbish", {}, 400, "file"),
        (None, {"model": "no-such-model"}, 404, "model"),
        (None, {"temperature": "3"}, 400, "temperature"),
    ):
        with server.stream(content, fields) as response:
            response.read()
        refused(response, status=status, param=param)
    try:
        list(server.openai.audio.transcriptions.create(file=b"rubbish", model=server.model, stream=True))
    except openai.BadRequestError:
        return
    raise AssertionError("OpenAI's client raises nothing")


@check("streaming", f"{SPEC}; whisper-1 ignores stream")
def formats_without_events_are_honest(server: Server) -> None:
    """stream=true with srt is refused by a field's name, or answered whole, as srt: never half of each."""
    with server.stream(fields={"response_format": "srt"}) as response:
        response.read()
    if response.status_code == 400:
        param = response.json()["error"]["param"]
        refused(response, param=param)
        assert param in {"stream", "response_format"}, f"param {param!r}"
    else:
        assert "-->" in plain_of(response), "not srt"


@check("streaming", "whisper.cpp #3595; WhisperLive: a session waits for its batch")
def who_leaves_takes_nothing_along(server: Server) -> None:
    """A client that goes away in mid-stream or in mid-request leaves a server that answers the next as ever."""
    content = server.stitched(120, pause=0.7).sound.wav()
    with server.stream(content) as response:
        next(response.iter_bytes(1), None)
    files, data = {"file": ("long.wav", content)}, server.form()
    for _ in range(3):
        with suppress(httpx.TimeoutException):
            server.http.post("audio/transcriptions", files=files, data=data, timeout=0.5)
    same_words(server.clip.text, body_of(server.post())["text"])
