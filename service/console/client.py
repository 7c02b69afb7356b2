"""How the console asks the service: by the HTTP interface that everybody has, in this process, with the caller's key.

It opens no connection. Keys, limits and errors are therefore those of any other caller.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from starlette.types import ASGIApp, Message

PASSED_ON = ("forwarded", "x-forwarded-for", "x-real-ip", "sec-fetch-site", "origin", "host")
"""What tells where a caller really is, and by which name it asks: see `service.request.is_cross_site`."""

TIMEOUT_S = 3600
"""Of one answer; the service has limits of its own, and says which."""


class ServiceError(Exception):
    """The service refused; the message is for people."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message

    def __str__(self) -> str:
        return KINDLY.get(self.code, self.message)


KINDLY = {
    "corrections_off": "Corrections are not kept here yet. Whoever runs this service can switch them on by setting "
    "WHISPERLOOP_CORRECTIONS (docs/corrections.md). Nothing was sent.",
    "consent_required": "Please tick the consent box first: a clip is kept only if whoever speaks in it agreed.",
    "invalid_api_key": "Your API key is not valid any more. Reload the page and enter another.",
    "model_not_ready": "The model is still being loaded. Try again in a moment.",
    "admin_required": "You may look, but moving aliases needs an admin's key, which is entered at /console/enter, or, "
    "where no keys are wanted, a browser on the service's own machine; of a container, that is nobody's "
    "(docs/console.md).",
    "audio_too_long": "A correction is of 30 s at most: choose a part below the transcript, and correct that.",
}
"""Codes that a person meets in the console, said as to a person."""


class InProcess(httpx.AsyncBaseTransport):
    """Calls an ASGI application; unlike httpx's own transport, it hands on what is streamed as it comes."""

    def __init__(self, app: ASGIApp, client: tuple[str, int]) -> None:
        self._app, self._client = app, client

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request, and return when its answer begins."""
        body = await request.aread()
        answers: asyncio.Queue[Message | None] = asyncio.Queue()
        asked, left = False, asyncio.Event()

        async def receive() -> Message:
            nonlocal asked
            if asked:
                await left.wait()
                return {"type": "http.disconnect"}
            asked = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            answers.put_nowait(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": request.url.scheme,
            "path": request.url.path,
            "raw_path": request.url.raw_path.split(b"?")[0],
            "query_string": request.url.query,
            "root_path": "",
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "server": (request.url.host, request.url.port or 80),
            "client": self._client,
        }
        working = asyncio.ensure_future(self._app(scope, receive, send))
        working.add_done_callback(lambda _: answers.put_nowait(None))
        start = await answers.get()
        if start is None:
            await working  # says why
            raise httpx.RemoteProtocolError("the service did not answer", request=request)
        return httpx.Response(start["status"], headers=start["headers"], stream=_Body(answers, working, left))


class _Body(httpx.AsyncByteStream):
    def __init__(self, answers: "asyncio.Queue[Message | None]", working: "asyncio.Future[None]", left: Any) -> None:
        self._answers, self._working, self._left = answers, working, left

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (message := await self._answers.get()) is not None:
            if message["type"] == "http.response.body":
                yield message.get("body", b"")
                if not message.get("more_body", False):
                    break

    async def aclose(self) -> None:
        self._left.set()  # the service sees a caller that leaves, and stops working for it
        await asyncio.wait([self._working], timeout=5)


class Caller:
    """One visitor's way to the service.

    Attributes:
        key: the visitor's API key, if keys are wanted.
    """

    def __init__(
        self, app: ASGIApp, key: str | None, client: tuple[str, int], headers: dict[str, str] | None = None
    ) -> None:
        self.key = key
        self._transport = InProcess(app, client)
        self._headers = {**(headers or {}), **({"Authorization": f"Bearer {key}"} if key else {})}

    async def get(self, path: str, **query: Any) -> Any:
        """GET some JSON."""
        return (await self._ask("GET", path, params=query)).json()

    async def get_bytes(self, path: str) -> bytes:
        """GET a file."""
        return (await self._ask("GET", path)).content

    async def post(self, path: str, **what: Any) -> Any:
        """POST a form (`data`, `files`) or JSON (`json`); return the answer's JSON."""
        return (await self._ask("POST", path, **what)).json()

    async def transcribe(self, name: str, content: bytes, fields: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Yield the events of a transcription: deltas, and at last the whole of it."""
        data = {**fields, "stream": "true", "timestamp_granularities[]": ["word", "segment"]}
        async with (
            self._open() as http,
            http.stream("POST", "/transcribe", data=data, files={"file": (name, content)}) as answer,
        ):
            if answer.is_error:
                await answer.aread()
                raise refused(answer)
            async for line in answer.aiter_lines():
                if line.startswith("data: ") and line != "data: [DONE]":
                    event = json.loads(line.removeprefix("data: "))
                    if "error" in event:
                        detail = event["error"]
                        raise ServiceError(500, detail["code"], detail["message"])
                    yield event

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[httpx.AsyncClient]:
        async with httpx.AsyncClient(
            transport=self._transport, base_url="http://localhost", headers=self._headers, timeout=TIMEOUT_S
        ) as http:
            yield http

    async def _ask(self, method: str, path: str, **what: Any) -> httpx.Response:
        async with self._open() as http:
            answer = await http.request(method, path, **what)
        if answer.is_error:
            raise refused(answer)
        return answer


def refused(answer: httpx.Response) -> ServiceError:
    """Read an error out of the house's envelope."""
    try:
        detail = answer.json()["error"]
        return ServiceError(answer.status_code, detail["code"], detail["message"])
    except (ValueError, KeyError, TypeError):
        return ServiceError(answer.status_code, "unknown", f"The service answered {answer.status_code}.")
