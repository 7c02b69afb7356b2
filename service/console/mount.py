"""Where the console is in the service: at `/`, made once the model is ready; until then, a page that reloads itself.

Gradio is imported on a thread, once there is a model, so neither readiness nor the first request waits for it. Only
the paths that Gradio's page needs are its own: every other path stays the API's, with the API's errors. What is in the
page is `service.console.page`'s.
"""

import asyncio
import html
import importlib.util
import logging
import os
import re
import shutil
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.console import bounds
from service.errors import ApiError, envelope
from service.loading import step_back
from service.request import is_of_another_site, read_small_body
from service.settings import Settings
from service.upload import MAX_TEXT_BYTES, Body
from speech.machine import how_to_install

logger = logging.getLogger("whisperloop.service")

COOKIE = "whisperloop_key"
ENTER = "/console/enter"
PATHS = frozenset({"/", ENTER, "/config", "/config/", "/theme.css", "/favicon.ico", "/manifest.json"})
PREFIXES = ("/assets/", "/static/", "/svelte/", "/gradio_api/heartbeat/", "/gradio_api/file=/")
PARTS = frozenset(
    f"/gradio_api/{part}"
    for part in (
        *("info", "startup-events", "app_id", "theme.css", "queue/join", "queue/data", "cancel", "reset"),
        *("upload", "upload_progress"),
    )
)
"""What the page asks of Gradio, and all that is answered of its interface: the rest fetches from other hosts, runs
programs on uploads, or writes what nobody asked it to."""

UPLOAD = "/gradio_api/upload"
MAX_EVENT_BYTES = 1_000_000  # texts, and which uploads are meant

CONTENT_SECURITY_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; base-uri 'self'; form-action 'self'"
)
"""The browser asks no other host, whatever is in the page."""

ELSEWHERE = re.compile(
    rb"<(?:link|meta)\b[^>]*\bhttps://[^>]*>|<script\b[^>]*\bsrc=\"https://[^>]*>\s*</script>", re.IGNORECASE
)
"""Tags of Gradio's page that name other hosts: some are looked up before any policy is asked."""

MAX_KEY_FORM_BYTES = 2_000

_MAKING = threading.Lock()
"""Gradio keeps the page that is being made in a global: two at once would end in each other."""


def is_console_path(path: str) -> bool:
    """Say whether a path is the console's, and not the API's."""
    return path in PATHS or path.removesuffix("/") in PARTS or path.startswith(PREFIXES)


def key_in_cookie(headers: Headers) -> str | None:
    """Return the API key that the browser keeps for this session."""
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return None
    return found.value if found else None


def is_installed() -> bool:
    """Say whether Gradio is there, without importing it."""
    return importlib.util.find_spec("gradio") is not None


class ConsoleRoute(BaseRoute):
    """Takes the console's paths, and no other."""

    path = "/console"  # its name in the metrics

    def __init__(self, console: "Console") -> None:
        self.console = console

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Say whether a request is for the console."""
        if scope["type"] == "http" and is_console_path(scope["path"]):
            return Match.FULL, {"endpoint": self.console}
        return Match.NONE, {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        await self.console(scope, receive, send)


class Console:
    """The page, or what stands in for it."""

    def __init__(self, service: FastAPI) -> None:
        self._service = service
        self._page: ASGIApp | None = None
        self._folder: Path | None = None  # of what is uploaded
        self._why_not: str | None = None if is_installed() else NOT_INSTALLED

    async def run(self) -> None:
        """Make the page and keep it until cancelled; what fails is told where the page would be."""
        if self._why_not is not None:
            logger.info("no console: gradio is not installed (the extra is console)")
            return
        folder = Path(tempfile.mkdtemp(prefix="whisperloop-console-"))  # of this user only
        executor = ThreadPoolExecutor(1, initializer=step_back, thread_name_prefix="console")
        try:
            async with AsyncExitStack() as stack:
                loop = asyncio.get_running_loop()
                page = await loop.run_in_executor(executor, _make, self._service, folder)
                await stack.enter_async_context(page.router.lifespan_context(page))
                self._page, self._folder = page, folder
                logger.info("the console is at /")
                await bounds.sweep_for_ever(folder)
        except Exception:
            logger.exception("there is no console")
            self._why_not = FAILED
        finally:
            self._page = None
            executor.shutdown(wait=False, cancel_futures=True)
            shutil.rmtree(folder, ignore_errors=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        settings: Settings = self._service.state.settings
        wants_key = settings.keys is not None
        # Its forms would be sent by whoever looks at it; that one may come here from there is another matter.
        if (scope["method"], scope["path"]) != ("GET", "/") and is_of_another_site(
            request.headers, request.headers.get("host", ""), settings
        ):
            response: Response = _small(OTHER_SITE, status=403)
        elif scope["path"] == ENTER:
            response = await _enter(request) if scope["method"] == "POST" else _small(KEY_FORM)
        elif wants_key and not scope["state"].get("has_key"):
            response = _small(KEY_FORM.replace("<!-- said -->", _refused(request)))
        elif self._page is None:
            response = _small(self._why_not or WAIT, refresh=self._why_not is None)
        else:
            await self._answer_bounded(self._page, request, send)
            return
        await response(scope, receive, send)

    async def _answer_bounded(self, page: ASGIApp, request: Request, send: Send) -> None:
        """Let Gradio answer, and read no more of a body than it may have, and no slower."""
        if request.method in {"GET", "HEAD"}:
            await self._answer(page, request.scope, request.receive, send)
            return
        try:
            most, beside = MAX_EVENT_BYTES, 0
            if request.scope["path"].startswith(UPLOAD):
                most, beside = self._service.state.settings.max_upload_bytes, MAX_TEXT_BYTES
                await self._check_room(most)
            body = Body(request, most, max_text_bytes=beside)
        except ApiError as error:
            await envelope(request, error)(request.scope, request.receive, send)
            return

        async def receive() -> Message:
            try:
                return await body.receive()
            except ApiError as error:  # as Gradio's own errors are
                raise HTTPException(error.status, error.message, error.headers) from error

        try:
            await self._answer(page, request.scope, receive, send)
        finally:
            body.let_go()

    async def _check_room(self, largest: int) -> None:
        if self._folder is None or await asyncio.to_thread(bounds.kept_bytes, self._folder) < bounds.FILES * largest:
            return
        message = "Too much was uploaded to the console in the last hours; try again later, or by POST /transcribe."
        raise ApiError(503, "overloaded", message, headers={"Retry-After": "600", "Connection": "close"})

    async def _answer(self, page: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        start: Message | None = None
        whole = bytearray()

        async def send_closed(message: Message) -> None:
            """Add what keeps the browser here; the page itself is sent without the tags that name other hosts."""
            nonlocal start
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
                headers["Referrer-Policy"] = "no-referrer"
                headers["X-Content-Type-Options"] = "nosniff"
                # Gradio lets pages of any site read; which may is said by WHISPERLOOP_CORS_ORIGINS, outside of it.
                for name in [name for name in headers if name.startswith("access-control-")]:
                    del headers[name]
                if scope["path"] == "/" and headers.get("content-type", "").startswith("text/html"):
                    start = message
                    return
            elif start is not None:
                whole.extend(message.get("body", b""))
                if message.get("more_body"):
                    return
                body = ELSEWHERE.sub(b"", bytes(whole))
                headers = MutableHeaders(scope=start)
                headers["Content-Length"] = str(len(body))
                headers["Cache-Control"] = "no-store"
                await send(start)
                message = {"type": "http.response.body", "body": body}
            await send(message)

        # Gradio is an application of its own: with this one's state it would look for its own in vain.
        inner = {**scope, "headers": [one for one in scope["headers"] if one[0] != b"accept-encoding"]}
        for ours in (
            "app",
            "router",
            "endpoint",
            "route",
            "path_params",
            "fastapi_inner_astack",
            "fastapi_function_astack",
        ):
            inner.pop(ours, None)
        await page(inner, receive, send_closed)


def _make(service: FastAPI, folder: Path) -> FastAPI:
    """Import Gradio and make the page; runs on a thread."""
    with _MAKING:
        # Where no loop runs, Gradio makes one for each of its locks, and closes none.
        return asyncio.run(_make_alone(service, folder))


async def _make_alone(service: FastAPI, folder: Path) -> FastAPI:
    # Read when Gradio is imported, and when a page is made.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import gradio

    from service.console.page import CSS, HEAD, make_page, make_theme

    gradio.processing_utils.async_ssrf_protected_get = bounds.fetch_nothing
    page = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    made: Any = gradio.mount_gradio_app(
        page,
        make_page(service),
        path="/",
        allowed_paths=[],
        max_file_size=service.state.settings.max_upload_bytes,
        run_history=False,
        footer_links=[],
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        pwa=False,
        show_error=True,
        theme=make_theme(),
        css=CSS,
        head=HEAD,
    )
    return made  # type: ignore[no-any-return]


async def _enter(request: Request) -> Response:
    """Keep a key in a cookie of the browser's session; whether it is valid is asked at every request."""
    try:
        body = await read_small_body(request, MAX_KEY_FORM_BYTES)
    except ApiError as error:
        return _small(KEY_FORM, status=error.status)
    key = parse_qs(body.decode("latin-1")).get("key", [""])[0].strip()
    response = RedirectResponse("/", 303)
    if re.fullmatch(r"[\w.~+/=-]{1,500}", key):
        is_tls = request.url.scheme == "https"
        response.set_cookie(COOKIE, key, httponly=True, samesite="strict", secure=is_tls, path="/")
    else:
        response.delete_cookie(COOKIE)
    return response


def _refused(request: Request) -> str:
    said = "This key is not valid here: it was never made, or was revoked."
    return f'<p role="alert">{html.escape(said)}</p>' if key_in_cookie(request.headers) else ""


def _small(body: str, *, refresh: bool = False, status: int = 200) -> HTMLResponse:
    again = '<meta http-equiv="refresh" content="2">' if refresh else ""
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Whisperloop</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">{again}<style>{SMALL_CSS}</style></head>'
        f"<body><main><h1>Whisperloop</h1>{body}</main></body></html>"
    )
    headers = {"Cache-Control": "no-store", "Content-Security-Policy": CONTENT_SECURITY_POLICY}
    return HTMLResponse(page, status, headers)


SMALL_CSS = (
    "body{font:1.1rem/1.5 system-ui,sans-serif;margin:0;color:#111;background:#fff}main{max-width:36rem;margin:auto;"
    "padding:2rem 1rem}input,button{font:inherit;padding:.5rem;width:100%;box-sizing:border-box;margin:.25rem 0 1rem}"
    "@media(prefers-color-scheme:dark){body{color:#eee;background:#111}a{color:#9cf}}"
)
WAIT = (
    '<p role="status">The console is being loaded; this page reloads itself. The API does not wait for it: '
    '<a href="/docs">/docs</a>.</p>'
)
NOT_INSTALLED = (
    "<p>The console needs Gradio, which is not installed here. Install the extra and start again:</p>"
    f"<pre>{how_to_install('service,console')}</pre>"
    '<p>The API works without: <a href="/docs">/docs</a>.</p>'
)
FAILED = '<p>The console could not be made; the service\'s log says why. The API works: <a href="/docs">/docs</a>.</p>'
OTHER_SITE = (
    "<p>A page of another site asked for this, or a proxy does not say by which name you asked. Behind a proxy, let it "
    "pass on the header Host, or name your site in WHISPERLOOP_CORS_ORIGINS.</p>"
)
KEY_FORM = (
    f'<form method="post" action="{ENTER}"><!-- said --><label for="key">Your API key</label>'
    '<input id="key" name="key" type="password" autocomplete="off" required autofocus>'
    "<button>Enter</button></form><p>It stays in this browser until you close it, and nowhere else.</p>"
)
