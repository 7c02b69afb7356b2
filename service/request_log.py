"""Around every request: its id, the version that answers, the answer to what nobody caught, and one line in the log.

The line is JSON and tells of the request, never of what was said: no transcript, no file name, no client's address.
"""

import asyncio
import json
import logging
import re
import time
import uuid
from contextlib import ExitStack
from typing import Any

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import RETRY_SOON, ApiError, envelope, internal_error

logger = logging.getLogger("whisperloop.service")

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""Ids that callers may choose: safe in a header, in a log and in a file name."""

STOPPED = "This service was stopped before it was done; send it to another one."


class RequestLog:
    """ASGI middleware; inner parts add to the log line through `request.state.facts`.

    What they leave on the stack `request.state.answered` is undone or done once the answer is out, however it ended.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        facts: dict[str, Any] = {"request_id": request_id}
        answered = ExitStack()
        scope.setdefault("state", {}).update(facts=facts, answered=answered)
        started = time.perf_counter()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                if "model" in facts:
                    headers["X-Whisperloop-Model"] = facts["model"]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            if status:
                raise  # half an answer is out: only the server can still cut the connection
            await internal_error(Request(scope), error)(scope, receive, send_with_id)
        except asyncio.CancelledError:
            if status or not scope["app"].state.draining:
                raise
            stopped = ApiError(503, "draining", STOPPED, headers=RETRY_SOON)
            await envelope(Request(scope), stopped)(scope, receive, send_with_id)
        finally:
            answered.close()
            path = scope["path"]
            route = getattr(scope.get("route"), "path", "unknown")  # callers choose paths, not labels
            shown = _without_secrets(path, route)
            facts |= {"method": scope["method"], "path": shown, "status": status or 499}
            seconds = time.perf_counter() - started
            facts["ms"] = round(seconds * 1000)
            _count(scope, route, seconds)
            # Probes come every few seconds, and would bury the rest.
            level = logging.DEBUG if path.startswith("/health/") and status < 400 else logging.INFO
            logger.log(level, "%s", json.dumps(facts))


def _count(scope: Scope, route: str, seconds: float) -> None:
    """Tell the metrics of a request that was answered."""
    metrics, facts = scope["app"].state.metrics, scope["state"]["facts"]
    version = facts.get("model", "")
    metrics.request(route, facts["status"], version, seconds)
    if facts.get("audio_s"):
        metrics.real_time_factor(version, (seconds - scope["state"].get("upload_s", 0.0)) / facts["audio_s"])
    if "key" in facts:
        metrics.key_request(facts["key"])
        metrics.key_audio(facts["key"], facts.get("audio_s", 0.0))
    if "error" in facts:
        metrics.error(facts["error"])


def _without_secrets(path: str, route: str) -> str:
    """Return a path that may be logged."""
    if path.startswith(("/v1/jobs/", "/v1/feedback/")):  # an id is all that protects them where there are no keys
        return route
    if path.startswith("/gradio_api/"):  # a file's name, and where the console keeps it
        return "/".join(path.partition("=")[0].split("/")[:3])
    return path[:200]


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
