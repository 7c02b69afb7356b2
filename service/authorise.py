"""Who is let in: with a file of keys, nobody without one of them, except to ask how the service is."""

import re
from functools import partial

from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.console.mount import ENTER, is_console_path, key_in_cookie
from service.errors import ApiError, envelope
from service.keys import Keyring
from service.limits import Limits, paid_by

OPEN_PATHS = frozenset({"/health/live", "/health/ready"})
"""What orchestrators ask, who have no key; everything else needs one, paths that do not exist among it."""

BEARER = re.compile(rb"bearer +(\S+)", re.IGNORECASE)


class Authorise:
    """ASGI middleware: who has no key gets no further, and who has one no further than its limits.

    It judges the path as it came, before anybody routes or rewrites it: what is not exactly an open path needs a key.
    """

    def __init__(self, app: ASGIApp, keyring: Keyring, limits: Limits, *, console: bool = False) -> None:
        self._app, self._keyring, self._limits, self._console = app, keyring, limits, console

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request in, or refuse it before its body is read."""
        if scope["type"] == "lifespan" or (scope["type"] == "http" and scope["path"] in OPEN_PATHS):
            await self._app(scope, receive, send)
            return
        if scope["type"] == "http" and self._console and is_console_path(scope["path"]):
            await self._let_into_console(scope, receive, send)
            return
        presented = _presented(scope)
        key = None if presented is None else self._keyring.find(presented)
        if scope["type"] != "http":
            if key is None:
                await send({"type": "websocket.close", "code": 1008})
            else:
                await self._app(scope, receive, send)
            return
        if key is None:
            await envelope(Request(scope), _unauthorised(presented))(scope, receive, send)
            return
        facts = scope["state"]["facts"]
        facts["key"] = key.name
        scope["state"]["is_admin"] = key.admin
        verdict = self._limits.enter(
            key.name, key.requests_per_minute, key.audio_seconds_per_day, sends=scope["method"] == "POST"
        )

        async def send_with_limits(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(name.encode(), value.encode()) for name, value in verdict.headers.items()]
                message = {**message, "headers": [*message.get("headers", []), *added]}
            await send(message)

        if verdict.error is not None:
            await envelope(Request(scope), verdict.error)(scope, receive, send_with_limits)
            return
        with paid_by(partial(self._limits.charge, key.name)):
            await self._app(scope, receive, send_with_limits)

    async def _let_into_console(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a browser in by its cookie; without a valid key it gets the page that asks for one, and nothing else.

        The page's own parts cost nothing: what it asks of the service comes by here again, with the key, and counts.
        """
        presented = key_in_cookie(Headers(scope=scope))
        key = None if presented is None else self._keyring.find(presented.encode())
        if key is None and scope["path"] not in {"/", ENTER}:
            await envelope(Request(scope), _unauthorised(None))(scope, receive, send)
            return
        scope["state"]["has_key"] = key is not None
        if key is not None:
            scope["state"]["facts"]["key"] = key.name
        await self._app(scope, receive, send)


def _presented(scope: Scope) -> bytes | None:
    """Return the key in the Authorization header; None if there is none, or more than one."""
    given = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
    matched = BEARER.fullmatch(given[0].strip()) if len(given) == 1 else None
    return matched and matched[1]


def _unauthorised(presented: bytes | None) -> ApiError:
    message = (
        "This server wants an API key: send the header 'Authorization: Bearer KEY'."
        if presented is None
        else "This API key is not valid here: it was never made, or was revoked."
    )
    return ApiError(401, "invalid_api_key", message, headers={"WWW-Authenticate": "Bearer"})
