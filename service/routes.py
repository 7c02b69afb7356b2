"""The HTTP interface: what is asked, checked and answered. It knows the scheduler, and neither engine nor registry."""

import asyncio
import importlib.metadata
import io
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import asdict
from typing import Any, BinaryIO, TypeVar

import anyio.to_thread
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import PlainTextResponse, Response
from starlette.requests import ClientDisconnect

from service import schemas
from service.errors import ApiError
from service.metrics import CONTENT_TYPE
from service.models import Models
from service.shadow import Copy, Shadow
from service.state import Loaded, NotReady
from service.transcribe import Means, Wanted, transcribe
from service.upload import OPENAPI, read_upload
from speech.transcribe import Transcription

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.Error} for status in (400, 404, 413, 415, 422, 500, 503)
}
NOT_READY: dict[int | str, dict[str, Any]] = {503: {"model": schemas.Error}}

T = TypeVar("T")

router = APIRouter()


@router.post("/transcribe", responses=ERRORS, openapi_extra=OPENAPI)
async def transcribe_file(request: Request) -> schemas.Transcription:
    """Transcribe one file of any length; silence is an empty text, not an error."""
    model = loaded(request)
    state = request.app.state
    async with AsyncExitStack() as opened:
        with state.metrics.stage("upload"):
            upload = await opened.enter_async_context(read_upload(request, state.settings.max_upload_bytes))
        if upload.model is not None:
            model = loaded(request, upload.model)
        language = None if upload.language is None else model.language_code(upload.language)
        wanted = Wanted(language, upload.task)
        result = await unless_disconnected(request, transcribe(upload.file, wanted, means(request.app, model)))
        await copy_to_shadow(request, model, upload.file, wanted, result.text)
    request.state.facts |= facts(result)
    return schemas.Transcription(**asdict(result), model=model.version.ref)


@router.get("/health/live")
async def live() -> schemas.Health:
    """Answer as long as the process does: restart it if not."""
    return schemas.Health(status="live")


@router.get("/health/ready", responses=NOT_READY)
async def ready(request: Request) -> schemas.Health:
    """Answer 200 if there is a model to transcribe with, else what to do about it."""
    usable(request.app.state.models.main)
    return schemas.Health(status="ready")


@router.get("/version")
async def version(request: Request) -> schemas.About:
    """Say which software and which models answer here, and which versions were refused."""
    models: Models = request.app.state.models
    seen = request.app.state.shadow.seen
    return schemas.About(
        whisperloop=_package_version(),
        model=models.main.version if isinstance(models.main, Loaded) else None,
        beside=[
            schemas.Beside(place=place.ref, role=place.role, model=model.version)
            for place, model in models.serving
            if place.role != "main"
        ],
        refused=[schemas.Refused(**asdict(refused)) for refused in models.refused],
        shadow=seen and schemas.Disagreement(**asdict(seen), rate=round(seen.rate, 4)),
    )


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Tell operators how it goes, in Prometheus' text format."""
    schedulers = {model.scheduler for place, model in request.app.state.models.serving if place.role != "shadow"}
    return Response(request.app.state.metrics.render(schedulers), media_type=CONTENT_TYPE)


def _package_version() -> str:
    try:
        return importlib.metadata.version("whisperloop")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"  # run from a checkout


def means(app: FastAPI, model: Loaded) -> Means:
    """Return what a request is served with."""
    return Means(model.scheduler, app.state.decode_limiter, app.state.metrics, app.state.settings.max_audio_seconds)


def facts(result: Transcription) -> dict[str, Any]:
    """Return what the request's log line tells of an answer."""
    return {"audio_s": round(result.duration, 2), "segments": len(result.segments)}


def loaded(request: Request, name: str | None = None) -> Loaded:
    """Return the model that answers a request; it is held, and named in the answer's headers, until that is out.

    Args:
        request: whose `X-Whisperloop-Route` header, or else its id, decides between the model and the canary.
        name: as `Models.named` knows it; None picks one.

    Raises:
        ApiError: there is none, yet or for good, or none of that name.
    """
    models: Models = request.app.state.models
    key = _key(request)
    found = models.pick(key) if name is None else models.named(name, key)
    if found is None:
        raise ApiError(404, "model_not_found", models.why_not(str(name)), "model")
    model = usable(found)
    request.state.answered.enter_context(model.holds.hold())
    request.state.facts["model"] = model.version.ref
    return model


async def copy_to_shadow(request: Request, model: Loaded, file: BinaryIO, wanted: Wanted, text: str) -> None:
    """Have an answered request transcribed by the shadow, too, if it is of its share: once the answer is out.

    Args:
        request: that is being answered.
        model: that answered it.
        file: still open.
        wanted: as it was asked for.
        text: of the answer.
    """
    shadow: Shadow = request.app.state.shadow
    if shadow.wants(_key(request), model, file.seek(0, io.SEEK_END)):
        file.seek(0)
        content = await anyio.to_thread.run_sync(file.read)  # a large one lies on the disk
        request.state.answered.callback(shadow.offer, Copy(content, wanted, text))


def _key(request: Request) -> str:
    given: str = request.headers.get("x-whisperloop-route") or request.state.facts["request_id"]
    return given


def usable(model: Loaded | NotReady) -> Loaded:
    """Return a model that can answer.

    Raises:
        ApiError: it cannot.
    """
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
