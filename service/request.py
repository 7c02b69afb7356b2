"""What every request that transcribes needs: a model, the means, and an end when its client leaves."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from starlette.requests import ClientDisconnect

from service.errors import ApiError
from service.state import Loaded
from service.transcribe import Means
from speech.transcribe import Transcription

WHISPER_1 = "whisper-1"
"""OpenAI's name for Whisper; here it is whatever is served."""

T = TypeVar("T")


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


def model_names(request: Request, model: Loaded) -> list[str]:
    """Return the names under which the model that is served can be asked for."""
    served = request.app.state.settings.model
    name, _, alias = served.partition("@")
    return list(dict.fromkeys((WHISPER_1, served, alias, name, model.version.ref, model.version.version)))


def check_model(request: Request, model: Loaded, name: str) -> None:
    """Refuse another model than the one that is served.

    Raises:
        ApiError: there is none of this name.
    """
    names = model_names(request, model)
    if name not in names:
        message = f"There is no model {name!r} here; there are: {', '.join(names)}."
        raise ApiError(404, "model_not_found", message, "model")


def means(app: FastAPI, model: Loaded) -> Means:
    """Return what a request is served with."""
    settings = app.state.settings
    return Means(
        model.scheduler, app.state.decode_limiter, app.state.metrics, settings.max_audio_seconds, vad=settings.vad
    )


def facts(result: Transcription) -> dict[str, Any]:
    """Return what the request's log line tells of an answer."""
    return {"audio_s": round(result.duration, 2), "segments": len(result.segments)}


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
