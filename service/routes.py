"""The HTTP interface: what is asked, checked and answered. It knows the scheduler, and neither engine nor registry."""

import asyncio
import importlib.metadata
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import asdict
from typing import Any, TypeVar

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import PlainTextResponse, Response
from starlette.requests import ClientDisconnect

from service import schemas
from service.errors import ApiError
from service.metrics import CONTENT_TYPE
from service.state import Loaded
from service.terms import USUAL, OnTerms, Terms
from service.transcribe import Means, Wanted, transcribe
from service.upload import OPENAPI, read_upload
from speech.transcribe import Transcription

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.Error} for status in (400, 413, 415, 422, 500, 503, 504)
}
NOT_READY: dict[int | str, dict[str, Any]] = {503: {"model": schemas.Error}}

T = TypeVar("T")

router = APIRouter()


@router.post("/transcribe", responses=ERRORS, openapi_extra=OPENAPI)
async def transcribe_file(request: Request, terms: OnTerms) -> schemas.Transcription:
    """Transcribe one file of any length; silence is an empty text, not an error."""
    model = loaded(request)
    state = request.app.state
    async with AsyncExitStack() as opened:
        with state.metrics.stage("upload"):
            upload = await opened.enter_async_context(read_upload(request, state.settings.max_upload_bytes))
        language = None if upload.language is None else model.language_code(upload.language)
        work = transcribe(upload.file, Wanted(language, upload.task), means(request.app, model, terms))
        result = await unless_disconnected(request, work)
    request.state.facts |= facts(result)
    return schemas.Transcription(**asdict(result), model=model.version.ref)


@router.get("/health/live")
async def live() -> schemas.Health:
    """Answer as long as the process does: restart it if not."""
    return schemas.Health(status="live")


@router.get("/health/ready", responses=NOT_READY)
async def ready(request: Request) -> schemas.Health:
    """Answer 200 if there is a model to transcribe with, else what to do about it."""
    loaded(request)
    return schemas.Health(status="ready")


@router.get("/version")
async def version(request: Request) -> schemas.About:
    """Say which software and which model answer here."""
    model = request.app.state.model
    return schemas.About(
        whisperloop=_package_version(),
        model=model.version if isinstance(model, Loaded) else None,
    )


@router.get("/v1/queue", responses=NOT_READY)
async def queue(request: Request) -> schemas.Queue:
    """Say how much waits in front of a new request, and how long that will take."""
    scheduler = loaded(request).scheduler
    return schemas.Queue(
        speed=scheduler.speed,
        lanes={
            lane: schemas.Lane(**asdict(waiting), expected_wait_s=scheduler.expected_wait_s(schemas.TYPICAL_S, lane))
            for lane, waiting in scheduler.stats().lanes.items()
        },
    )


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Tell operators how it goes, in Prometheus' text format."""
    model = request.app.state.model
    scheduler = model.scheduler if isinstance(model, Loaded) else None
    return Response(request.app.state.metrics.render(scheduler), media_type=CONTENT_TYPE)


def _package_version() -> str:
    try:
        return importlib.metadata.version("whisperloop")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"  # run from a checkout


def means(app: FastAPI, model: Loaded, terms: Terms = USUAL) -> Means:
    """Return what a request is served with."""
    max_seconds = app.state.settings.max_audio_seconds
    limiter = app.state.decode_limiter
    return Means(model.scheduler, limiter, app.state.metrics, max_seconds, terms.lane, terms.deadline, terms.on_admit)


def facts(result: Transcription) -> dict[str, Any]:
    """Return what the request's log line tells of an answer."""
    return {"audio_s": round(result.duration, 2), "segments": len(result.segments)}


def loaded(request: Request) -> Loaded:
    """Return the model that is loaded.

    Raises:
        ApiError: there is none, yet or for good.
    """
    model = request.app.state.model
    if not isinstance(model, Loaded):
        raise ApiError(503, "model_not_ready", model.reason)
    if not model.scheduler.is_running:
        raise ApiError(503, "model_not_ready", "The scheduler has stopped; restart the service.")
    return model


async def unless_disconnected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Await `work`, but cancel it when the client goes away: nobody would read the answer."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        # The upload's file is closed next: nobody may still be reading it.
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
