"""What every request that transcribes needs: a model, the means, and an end when its client leaves."""

import asyncio
import io
from collections.abc import Coroutine
from ipaddress import ip_address
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect

from service.errors import RETRY_SOON, ApiError
from service.models import Models
from service.settings import Settings
from service.shadow import Copy, Shadow
from service.state import Loaded, NotReady
from service.terms import USUAL, Terms
from service.transcribe import Means
from speech.transcribe import Options, Transcription

T = TypeVar("T")

BODY_TIMEOUT_S = 10.0


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


def is_cross_site(request: Request) -> bool:
    """Say whether a browser sent this for a page of another site, which is not among those that may use the service.

    Such a page needs no leave to send a form; without API keys, whoever looks at it would speak for themselves. It may
    even be of this very origin, if it has its name point to this machine meanwhile: names that anybody can have are not
    the service's, unless they are named, wherever it listens; a container's port is open to all inside it.
    """
    settings: Settings = request.app.state.settings
    host = request.headers.get("host", "")
    is_named = "*" in settings.cors_origins or host in {urlsplit(one).netloc for one in settings.cors_origins}
    if not is_named and _is_public(urlsplit(f"//{host}").hostname or ""):
        return True
    return is_of_another_site(request.headers, host, settings)


def is_of_another_site(headers: Headers, host: str, settings: Settings) -> bool:
    """Say whether a browser says that a page of another site asks, which is not among those that may."""
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if origin in settings.cors_origins or "*" in settings.cors_origins:
        return False
    if site is not None:
        return site not in {"none", "same-origin"}
    return origin is not None and urlsplit(origin).netloc != host  # of an old browser


def _is_public(name: str) -> bool:
    """Say whether a name may be anybody's: one with a dot, that is no address."""
    try:
        ip_address(name)
    except ValueError:
        return "." in name and not name.endswith((".localhost", ".local"))
    return False


async def read_small_body(request: Request, most: int) -> bytes:
    """Return a body that is no upload, however much is sent and however slowly.

    Raises:
        ApiError: it has more than `most` bytes, or takes longer than `BODY_TIMEOUT_S`.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise ApiError(413, "body_too_large", f"The body has more than {most} bytes.")
    except TimeoutError:
        message = "The body did not come."
        raise ApiError(408, "body_timeout", message, headers={"Connection": "close"}) from None
    return bytes(body)


def usable(model: Loaded | NotReady) -> Loaded:
    """Return a model that can answer.

    Raises:
        ApiError: it cannot.
    """
    if not isinstance(model, Loaded):
        raise ApiError(503, "model_not_ready", model.reason, headers=RETRY_SOON)
    if not model.scheduler.is_running:
        message = "The engine has stopped, or hangs; restart the service."
        raise ApiError(503, "engine_stopped", message, headers=RETRY_SOON)
    return model


def copy_to_shadow(request: Request, model: Loaded, file: BinaryIO, options: Options, text: str) -> None:
    """Have an answered request transcribed by the shadow, too, if it is of its share: once the answer is out.

    Args:
        request: that is being answered.
        model: that answered it.
        file: still open.
        options: as it was asked for.
        text: of the answer.
    """
    shadow: Shadow = request.app.state.shadow
    if shadow.wants(_key(request), model, file.seek(0, io.SEEK_END)):
        file.seek(0)
        request.state.answered.callback(shadow.offer, Copy(file.read(), options, text))


def _key(request: Request) -> str:
    given: str = request.headers.get("x-whisperloop-route") or request.state.facts["request_id"]
    return given


def means(app: FastAPI, model: Loaded, terms: Terms = USUAL) -> Means:
    """Return what a request is served with, on its terms."""
    settings = app.state.settings
    return Means(
        model.scheduler,
        app.state.decode_limiter,
        app.state.metrics,
        settings.max_audio_seconds,
        vad=settings.vad,
        lane=terms.lane,
        deadline=terms.deadline,
        on_admit=terms.on_admit,
        open_files=app.state.open_files,
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
