"""A stored upload, asked again: a job is answered by the very function that answers POST /transcribe.

So whatever that takes and gives, jobs do. The form is written anew as multipart/form-data, a piece at a time.
"""

import asyncio
import io
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, cast

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel
from starlette.types import Message

from service.errors import answer_to, detail_of
from service.jobs.store import Result
from service.terms import Terms
from service.turns import Job

Route = Callable[[Request, Terms], Awaitable[Any]]

BUSY = 503
"""The one status after which the same upload may well be answered."""

SCRATCH_HEADERS = ("content-length", "content-type")  # of the response, and kept or made elsewhere


@dataclass(frozen=True)
class Answered:
    """What answers a job."""

    result: Result
    audio_s: float  # that was heard, whatever the file's header says


@dataclass(frozen=True)
class Failed:
    """Why a job could not be answered."""

    error: dict[str, Any]  # code, message, param, type
    retry_after_s: float | None  # None if it would fail again


async def replay(
    app: FastAPI,
    route: Route,
    request_id: str,
    audio: bytes,
    fields: Sequence[Sequence[str]],
    on_admit: Callable[[Job], None],
) -> Answered | Failed:
    """Answer a stored upload, in the batch lane.

    Args:
        app: whose model and settings to use.
        route: answers the request.
        request_id: names it in the log.
        audio: the file.
        fields: the form beside it.
        on_admit: told of the request's place in the scheduler's queue.
    """
    request = make_request(app, request_id, audio, fields)
    try:
        with request.state.answered:
            answer = await route(request, Terms("batch", None, on_admit))
    except Exception as error:  # noqa: BLE001 - whatever it was is the job's answer
        foreseen = answer_to(request, error)
        detail = detail_of(request, foreseen).model_dump(exclude={"request_id"})
        if foreseen.status != BUSY:
            return Failed(detail, None)
        return Failed(detail, float((foreseen.headers or {}).get("Retry-After", 5)))
    audio_s = request.state.facts["audio_s"]
    if isinstance(answer, BaseModel):
        return Answered(Result(answer.model_dump_json().encode(), "application/json"), audio_s)
    if not isinstance(answer, Response) or isinstance(answer, StreamingResponse):
        raise TypeError(f"a job's answer is a whole one, not {type(answer).__name__}")
    headers = {name: value for name, value in answer.headers.items() if name not in SCRATCH_HEADERS}
    headers["X-Whisperloop-Model"] = request.state.facts["model"]
    return Answered(Result(bytes(answer.body), answer.headers.get("content-type"), headers), audio_s)


def make_request(app: FastAPI, request_id: str, audio: bytes, fields: Sequence[Sequence[str]]) -> Request:
    """Return the request that an upload once was."""
    data: dict[str, list[str]] = {}
    for name, value in fields:
        data.setdefault(name, []).append(value)
    written = httpx.Request("POST", "http://job/transcribe", data=data, files={"file": ("audio", io.BytesIO(audio))})
    messages = _messages(cast("Iterable[bytes]", written.stream))

    async def receive() -> Message:
        if (message := next(messages, None)) is None:
            await asyncio.Event().wait()  # nobody ever leaves
        return message or {}

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/transcribe",
        "query_string": b"",
        "headers": [(name.lower(), value) for name, value in written.headers.raw],
        "app": app,
        "state": {"facts": {"request_id": request_id}, "answered": ExitStack()},
    }
    return Request(scope, receive)


def _messages(body: Iterable[bytes]) -> Iterator[Message]:
    for part in body:
        yield {"type": "http.request", "body": part, "more_body": True}
    yield {"type": "http.request", "body": b"", "more_body": False}
